"""Assembly of the `SlimModel` from the decision: indices, codec, head and record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticalmass.analysis.constant_answer import ConstantAnswer
from criticalmass.measures.probes.task import LinearHead
from criticalmass.measures.registry import measure_value_name
from criticalmass.shrinking.candidates import Candidate, Goal
from criticalmass.shrinking.certify import SubsetCertificate
from criticalmass.shrinking.codec import Codec, bytes_per_vector
from criticalmass.shrinking.data_parts import DataParts
from criticalmass.shrinking.order_effect import measure_order_effect
from criticalmass.shrinking.probe_evaluator import (
    Evaluator,
    IndexArray,
    PairedCorrect,
    QueryScores,
    SubsetScores,
)
from criticalmass.shrinking.retrieval_evaluator import Relevance
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_candidates import (
    StoredCandidate,
    StoredTest,
    advise,
    on_front,
)
from criticalmass.shrinking.stored_search import StoredEvaluator
from criticalmass.storage.features import FeatureStore

_LIBRARIES = ("criticalmass", "numpy", "scikit-learn")


@dataclass(frozen=True, eq=False)
class Decision:
    """The inputs of `shrink`, its candidates, and the test results of the best one.

    For stored vectors ``stored`` is the test of the form that is kept, if one passed, and
    ``relevance`` says what is relevant to a query.
    """

    store: FeatureStore
    parts: DataParts
    measure: str
    goal: Goal
    candidates: Sequence[Candidate] | Sequence[StoredCandidate]
    certificate: SubsetCertificate | None = None
    stored: StoredTest | None = None
    relevance: Relevance | None = None

    @property
    def is_safe(self) -> bool:
        """Whether a subset smaller than the layer, or a smaller form of its vectors, passed."""
        is_subset = self.certificate is not None and self.certificate.index is not None
        return is_subset or self.stored is not None


@dataclass(frozen=True, eq=False)
class _KeptSubset:
    """The certified subset, or the whole layer if no smaller subset passed.

    Attributes
    ----------
    scores: scores on the test split; those of ``index`` belong to this subset.
    order: (n_neurons,) order whose first neurons are kept.
    """

    scores: SubsetScores
    index: int
    order: IndexArray
    selector: str
    seed: int
    precision: str

    @property
    def size(self) -> int:
        return self.scores.sizes[self.index]


def assemble_slim_model(decision: Decision, evaluator: Evaluator) -> SlimModel:
    """Build the slim model of a decision.

    Parameters
    ----------
    decision: with the certificate.
    evaluator: scores on the test split; also measures the effect of the order of neurons.
    """
    subset = _kept_subset(decision, evaluator)
    neurons = subset.order[: subset.size]
    ascending = np.argsort(neurons, kind="stable")
    indices = neurons[ascending]
    codec = Codec.learn(subset.precision, decision.parts.train.rows).subset(indices)
    record = _record(decision, subset)
    if decision.is_safe:
        record["verdict"] = measure_order_effect(
            evaluator,
            subset.order,
            subset.size,
            subset.precision,
            decision.goal,
        )
    return SlimModel(indices, codec, _head(subset, ascending), record, _candidate_table(decision))


def assemble_stored_model(
    decision: Decision, evaluator: StoredEvaluator, front: pd.DataFrame
) -> SlimModel:
    """Build the slim model of stored vectors, or of the whole layer if nothing smaller passed.

    Parameters
    ----------
    decision: with the test of the form that is kept.
    evaluator: scores on the test split; also measures the effect of the order of dimensions.
    front: forms with their values on the test split.
    """
    test = decision.stored
    if test is None:
        slim = assemble_slim_model(decision, evaluator)
        slim.record["front"] = front.to_dict("records")
        return slim
    form, short_map = test.form, test.short_map
    everything = np.arange(form.family.n_neurons, dtype=np.intp)
    subset = _KeptSubset(
        test.scores, 0, everything, form.family.name, form.family.seed, form.precision
    )
    record = _record(decision, subset)
    row = front[front["chosen"]].iloc[0].to_dict()
    names = ("rerank", "bytes_total", "bytes_once", "cost", "ndcg", "recall")
    record["stored"] = {
        **{name: row[name] for name in names},
        "n_stored": int(evaluator.stored.rows.shape[0]),
        "n_neighbours": evaluator.reference.n_neighbours,
        "advice": advise(front, decision.goal.keep),
    }
    record["front"] = front.to_dict("records")
    families = [form.family]
    families += [c.family for c in decision.candidates if isinstance(c, StoredCandidate)]
    ordered = next((family for family in families if family.order is not None), None)
    if ordered is not None and ordered.order is not None and form.n_kept < ordered.order.size:
        record["verdict"] = measure_order_effect(
            evaluator,
            ordered.order,
            form.n_kept,
            form.precision,
            decision.goal,
            None if ordered is form.family else ordered.selector,
        )
    indices = everything if short_map.indices is None else short_map.indices
    table = _candidate_table(decision)
    return SlimModel(indices, test.codec, None, record, table, short_map.matrix)


def _kept_subset(decision: Decision, evaluator: Evaluator) -> _KeptSubset:
    certificate = decision.certificate
    if certificate is None or certificate.index is None:
        d = decision.parts.n_neurons
        order = np.arange(d, dtype=np.intp)
        scores = evaluator.evaluate(order, (d,), "float32")
        return _KeptSubset(scores, 0, order, "full", 0, "float32")
    winner = certificate.candidate
    return _KeptSubset(
        certificate.scores,
        certificate.index,
        winner.order,
        winner.selector,
        winner.seed,
        winner.precision,
    )


def _head(subset: _KeptSubset, ascending: NDArray[np.intp]) -> LinearHead | None:
    """Return the certified head, its columns in ascending order of neurons."""
    if not isinstance(subset.scores, PairedCorrect) or not subset.scores.heads:
        return None
    head = subset.scores.heads[subset.index]
    return LinearHead(np.ascontiguousarray(head.coef[:, ascending]), head.intercept, head.classes)


def _record(decision: Decision, subset: _KeptSubset) -> dict[str, Any]:
    """Return the JSON-able record: inputs, kept neurons, promise, measurements and data."""
    store, parts, goal = decision.store, decision.parts, decision.goal
    scores, d = subset.scores, parts.n_neurons
    return {
        "model": store.model,
        "model_spec": store.manifest["model"].get("spec"),
        "weights_digest": store.manifest["model"].get("weights_digest"),
        "preprocessing": store.manifest["model"].get("preprocessing"),
        "dataset": store.dataset,
        "dataset_spec": store.manifest["dataset"].get("spec"),
        "layer": parts.layer,
        "measure": decision.measure,
        "relevance": decision.relevance,
        "value_name": _value_name(decision),
        "qrels": None if parts.test_qrels is None else parts.test_qrels.name,
        "n_judged": _n_scored(scores, parts),
        "n_neurons": d,
        "n_kept": subset.size,
        "selector": subset.selector,
        "seed": subset.seed,
        "precision": subset.precision,
        "bytes_per_vector": bytes_per_vector(subset.size, subset.precision),
        "bytes_full": bytes_per_vector(d, "float32"),
        "safe": decision.is_safe,
        "has_head": isinstance(scores, PairedCorrect) and bool(scores.heads),
        "class_names": list(parts.class_names),
        "n_classes": len(parts.class_names),
        "promise": _promise(goal, subset),
        "measured": _measured(parts, goal, subset),
        "parts": parts.sizes(),
        "n_candidates": len(decision.candidates),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _value_name(decision: Decision) -> str:
    """Name the value; in a retrieval collection documents are searched, not training vectors."""
    name = measure_value_name(decision.measure, decision.relevance)
    is_collection = decision.parts.test_qrels is not None
    return name.replace("training vectors", "documents") if is_collection else name


def _n_scored(scores: SubsetScores, parts: DataParts) -> int:
    """Return the number of scored test samples: for retrieval, that of the queries."""
    if isinstance(scores, QueryScores):
        return int(scores.scores_full.size)
    return int(parts.test.rows.shape[0])


def _promise(goal: Goal, subset: _KeptSubset) -> dict[str, Any]:
    return {
        "keep": goal.keep,
        "level": goal.level,
        "worst_class_drop": goal.worst_class_drop,
        "budget_bytes": goal.budget_bytes,
        "max_dims": goal.max_dims,
        "ratio_bound": subset.scores.bound(subset.index, goal.level),
    }


def _measured(parts: DataParts, goal: Goal, subset: _KeptSubset) -> dict[str, Any]:
    scores, index = subset.scores, subset.index
    value, full = float(scores.values[index]), scores.value_full
    measured: dict[str, Any] = {"value": value, "value_full": full, "ratio": value / full}
    if isinstance(scores, PairedCorrect):
        bounds = scores.class_bounds(index, goal.level)
        constant = ConstantAnswer.best(scores.labels)
        measured["majority"] = {
            "class": parts.class_names[constant.class_id],
            "accuracy": constant.accuracy,
            "p_value": constant.p_value(scores.correct_full, scores.labels),
        }
        measured["classes"] = [
            {
                "name": name,
                "n_test": pairs.n,
                "accuracy": (pairs.both + pairs.gained) / pairs.n,
                "accuracy_full": (pairs.both + pairs.lost) / pairs.n,
                "drop": pairs.drop,
                "drop_bound": float(bound),
            }
            for name, pairs, bound in zip(
                parts.class_names, scores.class_pairs(index), bounds, strict=True
            )
            if pairs.n
        ]
    return measured


def _candidate_table(decision: Decision) -> pd.DataFrame:
    """Return all tested sizes of all candidates, by bytes.

    ``on_front`` marks rows for which no row of the same or a higher value takes fewer bytes; with
    re-ranking, neither in the index nor in total.
    """
    rows = [row for candidate in decision.candidates for row in candidate.rows()]
    frame = pd.DataFrame(rows).sort_values(["bytes", "value"], ascending=[True, False])
    if "bytes_total" in frame:
        frame["on_front"] = on_front(frame)
        return frame.reset_index(drop=True)
    best = frame["value"].cummax()
    frame["on_front"] = (frame["value"] >= best) & ~frame.duplicated(["bytes"])
    frame["on_front"] &= frame["value"] > best.shift(fill_value=-np.inf)
    return frame.reset_index(drop=True)
