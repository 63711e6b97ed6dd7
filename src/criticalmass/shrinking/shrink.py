"""``shrink``: find the smallest subset of a layer that passes its tests on held-out data.

The data have three parts. Probes are fitted on most of the training split. Selectors and
precisions are compared on the rest of it, the selection part. The promise is made on the test
split, which takes no part in any choice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import MEASURES, measure_value_name
from criticalmass.measures.relevance import missing_qrels
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import select, selector_info
from criticalmass.shrinking.assemble import (
    Decision,
    assemble_slim_model,
    assemble_stored_model,
)
from criticalmass.shrinking.candidates import Goal, predict_size, rank_candidates
from criticalmass.shrinking.certify import certify, tabulate_tests
from criticalmass.shrinking.codec import BITS, check_precision
from criticalmass.shrinking.data_parts import DataParts, check_parts, split_data
from criticalmass.shrinking.evaluators import (
    check_measure,
    check_relevance,
    make_evaluator,
    make_stored_evaluator,
)
from criticalmass.shrinking.model_card import (
    format_model_card,
    is_useless,
    largest_failed,
    summarise,
)
from criticalmass.shrinking.probe_evaluator import IndexArray
from criticalmass.shrinking.retrieval_evaluator import Relevance
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_candidates import (
    RERANKS,
    StoredTests,
    forms_of_front,
    forms_to_test,
    rank_stored,
    tabulate_stored,
)
from criticalmass.shrinking.stored_search import MANY_ROWS
from criticalmass.shrinking.stored_vectors import PCA, make_families
from criticalmass.storage.features import FeatureStore

if TYPE_CHECKING:
    from criticalmass.probing.blind_spots import BlindSpotSearch

StoreLike = FeatureStore | str | Path
_FLOAT32 = ("float32",)
_LABELLED_SELECTORS = ("random", "leverage", "greedy-cka", "greedy-lda", "probe-weight", "first")
# A classifier of as many classes as there are labels serves no search, and may take most of the
# time and memory.
_STORED_LABELLED_SELECTORS = tuple(n for n in _LABELLED_SELECTORS if n != "probe-weight")
# Precisions in which all dimensions are tested before the best candidate.
_PLAIN = ("float16", "int8")
_UNLABELLED_SELECTORS = ("random", "leverage", "greedy-cka", "variance-high", "first")


@dataclass(frozen=True, eq=False, repr=False)
class ShrinkPlan(Shown):
    """The result of `shrink`.

    Attributes
    ----------
    slim: the kept subset with its head, promise and record.
    safe: whether a smaller subset passed its tests; if not, ``slim`` keeps the whole layer.
    sentence: the result in plain words.
    tried: one row per size that was tested on the test split.
    path: the folder that was written, or None.
    """

    slim: SlimModel
    safe: bool
    sentence: str
    tried: pd.DataFrame
    path: Path | None

    def _card(self) -> Card:
        facts = {**self.slim._card().facts, "folder": self.path or "none (out= writes one)"}
        tables = {"tested on the test split": self.tried}
        if len(self.front):
            tables["forms of stored vectors"] = self.front
        return Card("Plan", facts, self.sentence, tables)

    @property
    def front(self) -> pd.DataFrame:
        """Forms of stored vectors by bytes, with recall and bounds; empty for other measures."""
        return pd.DataFrame(self.slim.record.get("front", []))

    @property
    def verdict(self) -> dict[str, Any]:
        """The answer for programs: what is kept, in how many bytes, and the promise."""
        record = self.slim.record
        names = ("n_kept", "n_neurons", "selector", "precision", "bytes_per_vector", "bytes_full")
        promise = {name: record["promise"][name] for name in ("keep", "level", "ratio_bound")}
        stored = record.get("stored", {})
        return {
            "safe": self.safe,
            **{name: record[name] for name in names},
            "rerank": stored.get("rerank", 0),
            "measure": record["measure"],
            **promise,
            "ratio": record["measured"]["ratio"],
            "sentence": self.sentence,
            "advice": stored.get("advice", []),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict, the tested sizes, the front and all candidates; JSON-able."""
        tables = {"tested": self.tried, "front": self.front, "candidates": self.candidates}
        rows = {
            name: frame.astype(object).where(frame.notna(), None).to_dict("records")
            for name, frame in tables.items()
        }
        return {**self.verdict, **rows}

    @property
    def n_kept(self) -> int:
        """Number of kept neurons."""
        return self.slim.n_kept

    @property
    def candidates(self) -> pd.DataFrame:
        """All candidates, one row per selector x precision x size; the front is marked."""
        return self.slim.candidates

    def cost(self, price_per_gb: float, n_vectors: int) -> str:
        """Return a sentence on the monthly cost of stored vectors before and after.

        Parameters
        ----------
        price_per_gb: price of 10^9 bytes per month, in any currency.
        n_vectors: number of stored vectors.

        Raises
        ------
        CriticalMassError: if the price or the number is below 0.
        """
        if not (price_per_gb >= 0 and n_vectors >= 0):
            raise CriticalMassError(
                f"price_per_gb={price_per_gb} and n_vectors={n_vectors} must be 0 or more"
            )
        full, slim = (
            price_per_gb * n_vectors * size / 1e9
            for size in (self.slim.record["bytes_full"], self.slim.bytes_per_vector)
        )
        return (
            f"{n_vectors:,} vectors cost {slim:,.2f} instead of {full:,.2f} a month, "
            f"without the overhead of an index."
        )


@validate_arguments
def shrink(
    store: StoreLike,
    *,
    keep: float = 0.95,
    out: str | os.PathLike[str] | None = None,
    level: float = 0.95,
    worst_class_drop: float | None = None,
    measure: str = "logistic",
    layer: str | None = None,
    selectors: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    reranks: Sequence[int] | None = None,
    budget_bytes: int | None = None,
    max_dims: int | None = None,
    relevance: str = "neighbours",
    seed: int = 0,
    blind_spots: bool = False,
) -> ShrinkPlan:
    """Find the smallest subset of a layer that keeps enough, tested on held-out data.

    Parameters
    ----------
    store: features with a train and a test split, or the path of their folder.
    keep: share of the whole layer's value to keep, in (0, 1].
    out: folder of the `SlimModel` to write, or None.
    level: confidence of the promise, in [0.5, 1).
    worst_class_drop: accuracy that no class may lose, absolute, in (0, 1); probes only.
    measure: ``logistic`` or another probe; ``retrieval``, ``cka`` or another similarity needs no
        labels; ``ndcg``, ``recall`` and ``mrr`` need a retrieval collection with qrels.
    layer: layer to shrink; needed if the store has several layers and none is ``penultimate``.
    selectors: selectors to compare. Default: random, leverage, greedy-cka and first; with labels
        also greedy-lda and probe-weight, without labels also variance-high. For retrieval
        measures: those without labels, and pca-top.
    precisions: precisions to compare: float32, float16, int8, binary. Default: all of them for
        retrieval measures, else float32.
    reranks: for retrieval measures: sort the best 10 times this many by whole vectors; 0 for no
        re-ranking. Default: 0 and 4.
    budget_bytes: largest number of bytes of one stored vector.
    max_dims: largest number of kept neurons, e.g. 2000 for a common index limit.
    relevance: for ``retrieval``: "neighbours", the vectors that whole vectors find, or "labels",
        vectors of the query's class.
    seed: seed of the random selector.
    blind_spots: search for changes of test images that the kept neurons do not see; the model card
        gets a warning with numbers. The features must be those of a network of images.

    Returns
    -------
    The plan. ``plan.safe`` says whether a smaller subset passed; if not, the whole layer is kept.

    Raises
    ------
    CriticalMassError: if a share, level, budget or name is invalid, labels are missing, a split
        has too few samples, or the whole layer has the value 0.
    StoreError: if the store lacks a split or is damaged.

    Notes
    -----
    A subset passes if, on the test split, the lower confidence bound of
    value(subset) / value(whole layer) at ``level`` is at least ``keep``, and no class loses
    ``worst_class_drop``. `shrinking.paired_tests` has the tests and the reason why several sizes
    and classes need no correction.
    """
    goal = check_goal(keep, level, worst_class_drop, budget_bytes, max_dims)
    _check_names(measure, selectors, precisions, worst_class_drop)
    stores_vectors = MEASURES[measure].query_score is not None
    _check_reranks(reranks, measure, stores_vectors=stores_vectors)
    relevant = check_relevance(relevance, measure)
    features = FeatureStore.open(store)
    if relevant == "qrels" and not features.is_collection:
        raise missing_qrels(measure, repr(str(features.path)))
    parts = split_data(features, layer)
    uses_labels = MEASURES[measure].needs_labels or relevant == "labels"
    check_parts(parts, measure, uses_labels=uses_labels)
    compute = Compute()
    search = _prepare_blind_spots(features, parts.layer, seed) if blind_spots else None
    if stores_vectors:
        return _shrink_stored(
            _Task(features, parts, measure, goal, relevant, seed, compute, search),
            selectors,
            tuple(BITS) if precisions is None else precisions,
            RERANKS if reranks is None else reranks,
            out,
        )
    precisions = _FLOAT32 if precisions is None else precisions
    orders = make_orders(parts, selectors, seed, compute)
    on_selection = make_evaluator(
        measure, parts, certifying=False, relevance=relevant, compute=compute
    )
    expected = predict_size(measure, parts, keep)
    candidates = rank_candidates(on_selection, orders, precisions, goal, expected=expected)
    on_test = make_evaluator(measure, parts, certifying=True, relevance=relevant, compute=compute)
    certificate = certify(on_test, candidates[0], goal)
    _check_value(certificate.scores.value_full, parts, measure)
    decision = Decision(features, parts, measure, goal, candidates, certificate)
    slim = assemble_slim_model(decision, on_test)
    tests = pd.DataFrame(tabulate_tests(certificate, goal))
    return _finish(slim, tests, out, parts.path, search)


def _prepare_blind_spots(features: FeatureStore, layer: str, seed: int) -> BlindSpotSearch:
    """Load what the search for blind spots needs, before anything is shrunk."""
    from criticalmass.probing.blind_spots import BlindSpotSearch

    return BlindSpotSearch.prepare(features.manifest, layer, seed)


@dataclass(frozen=True, eq=False)
class _Task:
    """What `shrink` was asked for, after the checks."""

    store: FeatureStore
    parts: DataParts
    measure: str
    goal: Goal
    relevance: Relevance
    seed: int
    compute: Compute
    blind_spots: BlindSpotSearch | None = None


def _shrink_stored(
    task: _Task,
    selectors: Sequence[str] | None,
    precisions: Sequence[str],
    reranks: Sequence[int],
    out: str | os.PathLike[str] | None,
) -> ShrinkPlan:
    """Find the form of stored vectors that takes the fewest bytes; `shrink` has the parameters."""
    parts, goal = task.parts, task.goal
    names = selectors or (
        _STORED_LABELLED_SELECTORS if task.relevance == "labels" else _UNLABELLED_SELECTORS
    )
    with_pca = selectors is None or PCA in selectors
    subsets = [name for name in names if name != PCA]
    orders = make_orders(parts, subsets, task.seed, task.compute) if subsets else {}
    families = make_families(parts.fit.rows, orders, seed=task.seed, with_pca=with_pca)
    on_selection = make_stored_evaluator(task.measure, parts, False, task.relevance)
    ordered = dict.fromkeys(reranks)
    # Each rotation takes an exact product with all stored vectors. It gains next to nothing in
    # int8, where every direction has its own range.
    rotated = ("binary",) if parts.sizes()["train"] > MANY_ROWS else ("int8", "binary")
    candidates = rank_stored(
        on_selection, families, precisions, tuple(ordered), goal, rotated=rotated
    )
    # Fixed before the test split is read: the sequence of tests and the rows of the front.
    forms = forms_of_front(candidates, goal.keep)
    on_test = make_stored_evaluator(task.measure, parts, True, task.relevance)
    _check_value(float(on_test.reference.scores_full.mean()), parts, task.measure)
    tests = StoredTests(on_test, goal)
    d = parts.n_neurons
    plain = [p for p in _PLAIN if p in precisions and goal.max_neurons(d, p) == d]
    # All in one pass over the stored vectors.
    tests.run([*forms_to_test(candidates[0], plain), *forms])
    tested = tests.certify(candidates[0], plain)
    passed = [test for test in tested if test.passed]
    decision = Decision(
        task.store,
        parts,
        task.measure,
        goal,
        candidates,
        # Of equal ones the last, which is the best candidate's.
        stored=min(reversed(passed), key=lambda test: test.form.total_bytes, default=None),
        relevance=task.relevance,
    )
    front = tests.tabulate(forms, decision.stored)
    slim = assemble_stored_model(decision, on_test, front)
    return _finish(slim, tabulate_stored(tested), out, parts.path, task.blind_spots)


def _finish(
    slim: SlimModel,
    tests: pd.DataFrame,
    out: str | os.PathLike[str] | None,
    store: str,
    blind_spots: BlindSpotSearch | None,
) -> ShrinkPlan:
    """Refuse limits that cannot be met, write the folder, and warn of what was found."""
    record = slim.record
    promise = record["promise"]
    limits = {name: promise[name] for name in ("max_dims", "budget_bytes") if promise[name]}
    if limits and not record["safe"]:
        given = " and ".join(f"{name}={limit}" for name, limit in limits.items())
        best = tests["bound"].max()
        classes = " without a class that loses too much" if promise["worst_class_drop"] else ""
        raise CriticalMassError(
            f"{given}: nothing within the limits keeps {promise['keep']:.4g} of the "
            f"{record['value_name']}{classes} with {promise['level']:.0%} confidence; the best "
            f"lower bound there is {best:.4f}: allow more, or lower keep"
        )
    if 2 * record["n_kept"] > record["n_neurons"]:
        record["failed"] = largest_failed(tests, record)
    if blind_spots is not None:
        record["blind_spots"] = blind_spots.find(slim)
        warn_user(f"{store}: {record['blind_spots']['sentence']}")
    path = None if out is None else slim.save(out, format_model_card(slim, tests))
    if is_useless(record):
        warn_user(
            f"{store}: the whole layer is not significantly more accurate by "
            f"{record['measure']} than always answering the largest class of the test split"
        )
    return ShrinkPlan(slim, record["safe"], summarise(record), tests, path)


def _check_value(value_full: float, parts: DataParts, measure: str) -> None:
    """Check that the whole layer has a value of which a share can be kept."""
    if not value_full > 0.0:
        cure = "labels of both splits mean the same, or use measure='cka', which needs no labels"
        if MEASURES[measure].needs_qrels:
            cure = "qrels belong to these documents and queries, and that one model embedded both"
        raise CriticalMassError(
            f"the {measure_value_name(measure)} of the whole layer is 0 on the test samples of "
            f"{parts.path!r}, so no share of it can be kept; check that the {cure}"
        )


def _check_reranks(reranks: Sequence[int] | None, measure: str, *, stores_vectors: bool) -> None:
    if reranks is None:
        return
    if not stores_vectors:
        raise CriticalMassError(
            f"reranks={list(reranks)} applies to retrieval measures only; got measure={measure!r}"
        )
    if not reranks or min(reranks) < 0:
        raise CriticalMassError(
            f"reranks={list(reranks)} must be 0 (no re-ranking) or more, e.g. 4 re-ranks the best "
            "40 by whole vectors"
        )


def check_goal(
    keep: float,
    level: float,
    worst_class_drop: float | None,
    budget_bytes: int | None,
    max_dims: int | None,
) -> Goal:
    """Check the numbers and return them as a goal."""
    if not 0.0 < keep <= 1.0:
        raise CriticalMassError(
            f"keep={keep} is outside (0, 1]; 0.95 keeps 95 % of the whole layer's value"
        )
    if not 0.5 <= level < 1.0:
        raise CriticalMassError(f"level={level} is outside [0.5, 1); 0.95 is usual")
    if worst_class_drop is not None and not 0.0 < worst_class_drop < 1.0:
        raise CriticalMassError(
            f"worst_class_drop={worst_class_drop} is outside (0, 1); 0.05 allows 5 points"
        )
    for name, limit in (("budget_bytes", budget_bytes), ("max_dims", max_dims)):
        if limit is not None and limit < 1:
            raise CriticalMassError(f"{name}={limit} has no room for a neuron; give at least 1")
    return Goal(keep, level, worst_class_drop, budget_bytes, max_dims)


def _check_names(
    measure: str,
    selectors: Sequence[str] | None,
    precisions: Sequence[str] | None,
    worst_class_drop: float | None,
) -> None:
    """Check the names before anything is read."""
    check_measure(measure)
    if worst_class_drop is not None and not MEASURES[measure].is_probe:
        raise CriticalMassError(
            f"worst_class_drop={worst_class_drop} applies to probes only; got "
            f"measure={measure!r}, leave it out or use a probe, e.g. measure='logistic'"
        )
    for precision in precisions or ():
        check_precision(precision)
    stores_vectors = MEASURES[measure].query_score is not None
    for selector in selectors or ():
        if not selector_info(selector).is_projection or (stores_vectors and selector == PCA):
            continue
        if stores_vectors:
            raise CriticalMassError(
                f"selector {selector!r} is a projection that shrink does not try; the one for "
                f"stored vectors is {PCA!r}"
            )
        raise CriticalMassError(
            f"selector {selector!r} is a projection: it needs every neuron, so it makes no layer "
            "smaller; choose one that orders neurons, e.g. 'leverage', or shrink stored vectors "
            f"by measure='retrieval', where {PCA!r} competes"
        )
    if (precisions is not None and not precisions) or (selectors is not None and not selectors):
        raise CriticalMassError("no selector or no precision given; name at least one of each")


def make_orders(
    parts: DataParts,
    selectors: Sequence[str] | None,
    seed: int,
    compute: Compute = DEFAULT_COMPUTE,
) -> dict[tuple[str, int], IndexArray]:
    """Apply selectors to the rows that candidates are fitted on.

    Parameters
    ----------
    parts: the parts of the data.
    selectors: names, or None for the default ones.
    seed: seed of random selectors.
    compute: threads, device and memory of the moments and the probe.

    Returns
    -------
    (selector, seed) -> (n_neurons,) order. Projections have no order and are left out.
    """
    is_labelled = np.unique(parts.fit.labels).size >= 2
    names = selectors or (_LABELLED_SELECTORS if is_labelled else _UNLABELLED_SELECTORS)
    labels = parts.fit.labels if is_labelled else None
    inputs = SelectorInput(
        parts.n_neurons,
        rows=parts.fit.rows,
        labels=labels,
        n_classes=len(parts.class_names),
        validation=None if labels is None else validation_rows(labels),
        compute=compute,
    )
    orders = {}
    for name in dict.fromkeys(names):
        selection = select(name, inputs, seed=seed)
        if selection.order is not None:
            orders[name, selection.seed] = selection.order
    return orders
