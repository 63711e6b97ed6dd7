"""From what was decided to the `SlimModel`: indices, codec, head and record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticalmass.measures.probes.task import LinearHead
from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.candidates import Candidate, Goal
from criticalmass.shrinking.certify import Certificate
from criticalmass.shrinking.codec import Codec, bytes_per_vector
from criticalmass.shrinking.data_parts import Parts
from criticalmass.shrinking.order_effect import does_order_matter
from criticalmass.shrinking.probe_evaluator import Findings, Hits, IndexArray, Judge, QueryScores
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.features import FeatureStore

_LIBRARIES = ("criticalmass", "numpy", "scikit-learn")


@dataclass(frozen=True, eq=False)
class Decision:
    """What was asked, what competed, and what the held-out data said of the winner."""

    store: FeatureStore
    parts: Parts
    measure: str
    goal: Goal
    candidates: list[Candidate]
    certificate: Certificate

    @property
    def safe(self) -> bool:
        """Whether a smaller subset passed."""
        return self.certificate.place is not None


@dataclass(frozen=True, eq=False)
class _Kept:
    """What is kept: the certified subset, or the whole layer if nothing smaller is safe."""

    findings: Findings
    place: int
    order: IndexArray
    selector: str
    seed: int
    precision: str

    @property
    def size(self) -> int:
        return self.findings.sizes[self.place]


def make_slim(decision: Decision, judge: Judge) -> SlimModel:
    """Put the slim model of a decision together.

    Parameters
    ----------
    decision: with the certificate.
    judge: on the held-out part; asked again for the verdict on the order of neurons.
    """
    kept = _kept(decision, judge)
    subset = kept.order[: kept.size]
    ranks = np.argsort(subset, kind="stable")
    indices = subset[ranks]
    codec = Codec.learn(kept.precision, decision.parts.train.rows).kept(indices)
    record = _record(decision, kept)
    if decision.safe:
        record["verdict"] = does_order_matter(judge, kept.order, kept.size, kept.precision)
    return SlimModel(indices, codec, _head(kept, ranks), record, _table(decision))


def _kept(decision: Decision, judge: Judge) -> _Kept:
    place, winner = decision.certificate.place, decision.certificate.candidate
    if place is None:
        d = decision.parts.n_neurons
        everything = np.arange(d, dtype=np.intp)
        findings = judge.judge(everything, (d,), "float32")
        return _Kept(findings, 0, everything, "full", 0, "float32")
    return _Kept(
        decision.certificate.findings,
        place,
        winner.order,
        winner.selector,
        winner.seed,
        winner.precision,
    )


def _head(kept: _Kept, ranks: NDArray[np.intp]) -> LinearHead | None:
    """Return the certified head, its columns in ascending order of neurons."""
    if not isinstance(kept.findings, Hits) or not kept.findings.heads:
        return None
    head = kept.findings.heads[kept.place]
    return LinearHead(np.ascontiguousarray(head.coef[:, ranks]), head.intercept, head.classes)


def _record(decision: Decision, kept: _Kept) -> dict[str, Any]:
    """Note what was asked, kept, promised and measured, and on what; JSON-able."""
    store, parts, goal = decision.store, decision.parts, decision.goal
    d = parts.n_neurons
    return {
        "model": store.model,
        "model_spec": store.manifest["model"].get("spec"),
        "weights_digest": store.manifest["model"].get("weights_digest"),
        "preprocessing": store.manifest["model"].get("preprocessing"),
        "dataset": store.dataset,
        "dataset_spec": store.manifest["dataset"].get("spec"),
        "layer": parts.layer,
        "measure": decision.measure,
        "value_name": _value_name(decision.measure),
        "n_judged": _n_judged(kept.findings, parts),
        "n_neurons": d,
        "n_kept": kept.size,
        "selector": kept.selector,
        "seed": kept.seed,
        "precision": kept.precision,
        "bytes_per_vector": bytes_per_vector(kept.size, kept.precision),
        "bytes_full": bytes_per_vector(d, "float32"),
        "safe": decision.safe,
        "has_head": isinstance(kept.findings, Hits) and bool(kept.findings.heads),
        "class_names": list(parts.class_names),
        "n_classes": len(parts.class_names),
        "promise": _promise(goal, kept),
        "measured": _measured(parts.class_names, goal, kept),
        "parts": parts.sizes(),
        "n_candidates": len(decision.candidates),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _value_name(measure: str) -> str:
    """Name what is kept, as the sentence says it."""
    if MEASURES[measure].is_probe:
        return f"accuracy ({measure})"
    names = {"retrieval": "nDCG@10 of retrieval", "retrieval-recall": "recall@10 of retrieval"}
    return names.get(measure, measure)


def _n_judged(findings: Findings, parts: Parts) -> int:
    """Count the held-out samples that were scored: of queries, those that asked."""
    if isinstance(findings, QueryScores):
        return int(findings.scores_full.size)
    return parts.sizes()["certified"]


def _promise(goal: Goal, kept: _Kept) -> dict[str, Any]:
    return {
        "keep": goal.keep,
        "level": goal.level,
        "worst_class_drop": goal.worst_class_drop,
        "budget_bytes": goal.budget_bytes,
        "max_dims": goal.max_dims,
        "ratio_bound": kept.findings.bound(kept.place, goal.level),
    }


def _measured(class_names: Sequence[str], goal: Goal, kept: _Kept) -> dict[str, Any]:
    findings, place = kept.findings, kept.place
    value, full = float(findings.values[place]), findings.value_full
    found: dict[str, Any] = {"value": value, "value_full": full, "ratio": value / full}
    if isinstance(findings, Hits):
        bounds = findings.class_bounds(place, goal.level)
        found["classes"] = [
            {
                "name": name,
                "n_test": pairs.n,
                "accuracy": (pairs.both + pairs.gained) / pairs.n,
                "accuracy_full": (pairs.both + pairs.lost) / pairs.n,
                "drop": pairs.drop,
                "drop_bound": float(bound),
            }
            for name, pairs, bound in zip(
                class_names, findings.class_pairs(place), bounds, strict=True
            )
            if pairs.n
        ]
    return found


def _table(decision: Decision) -> pd.DataFrame:
    """All that competed; ``on_front``: nothing of the same value takes fewer bytes."""
    rows = [row for one in decision.candidates for row in one.rows()]
    frame = pd.DataFrame(rows).sort_values(["bytes", "value"], ascending=[True, False])
    best = frame["value"].cummax()
    frame["on_front"] = (frame["value"] >= best) & ~frame.duplicated(["bytes"])
    frame["on_front"] &= frame["value"] > best.shift(fill_value=-np.inf)
    return frame.reset_index(drop=True)
