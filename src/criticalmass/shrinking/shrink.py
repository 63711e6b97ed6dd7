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

import numpy as np
import pandas as pd

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import MEASURES, measure_value_name
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import select, selector_info
from criticalmass.shrinking.assemble import Decision, assemble_slim_model
from criticalmass.shrinking.candidates import Goal, predict_size, rank_candidates
from criticalmass.shrinking.certify import certify, tabulate_tests
from criticalmass.shrinking.codec import check_precision
from criticalmass.shrinking.data_parts import DataParts, check_parts, split_data
from criticalmass.shrinking.evaluators import check_measure, check_relevance, make_evaluator
from criticalmass.shrinking.model_card import format_model_card, is_useless, summarise
from criticalmass.shrinking.probe_evaluator import IndexArray
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.features import FeatureStore

StoreLike = FeatureStore | str | Path
_LABELLED_SELECTORS = ("random", "leverage", "greedy-cka", "greedy-lda", "probe-weight", "first")
_UNLABELLED_SELECTORS = ("random", "leverage", "greedy-cka", "variance-high", "first")


@dataclass(frozen=True, eq=False)
class ShrinkPlan:
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
    precisions: Sequence[str] = ("float32",),
    budget_bytes: int | None = None,
    max_dims: int | None = None,
    relevance: str = "neighbours",
    seed: int = 0,
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
        labels.
    layer: layer to shrink; needed if the store has several layers and none is ``penultimate``.
    selectors: selectors to compare. Default: random, leverage, greedy-cka and first; with labels
        also greedy-lda and probe-weight, without labels also variance-high.
    precisions: precisions to compare: float32, float16, int8, binary.
    budget_bytes: largest number of bytes of one stored vector.
    max_dims: largest number of kept neurons, e.g. 2000 for a common index limit.
    relevance: for ``retrieval``: "neighbours", the vectors that whole vectors find, or "labels",
        vectors of the query's class.
    seed: seed of the random selector.

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
    goal = _check_goal(keep, level, worst_class_drop, budget_bytes, max_dims)
    _check_names(measure, selectors, precisions, worst_class_drop)
    relevant = check_relevance(relevance, measure)
    features = FeatureStore.open(store)
    parts = split_data(features, layer)
    uses_labels = MEASURES[measure].needs_labels or relevant == "labels"
    check_parts(parts, measure, uses_labels=uses_labels)
    compute = Compute()
    orders = make_orders(parts, selectors, seed, compute)
    on_selection = make_evaluator(
        measure, parts, certifying=False, relevance=relevant, compute=compute
    )
    expected = predict_size(measure, parts, keep)
    candidates = rank_candidates(on_selection, orders, precisions, goal, expected=expected)
    on_test = make_evaluator(measure, parts, certifying=True, relevance=relevant, compute=compute)
    certificate = certify(on_test, candidates[0], goal)
    if not certificate.scores.value_full > 0.0:
        raise CriticalMassError(
            f"the {measure_value_name(measure)} of the whole layer is 0 on the test samples of "
            f"{parts.path!r}, so no share of it can be kept; check that the labels of both splits "
            "mean the same, or use measure='cka', which needs no labels"
        )
    decision = Decision(features, parts, measure, goal, candidates, certificate)
    slim = assemble_slim_model(decision, on_test)
    tests = pd.DataFrame(tabulate_tests(certificate, goal))
    path = None if out is None else slim.save(out, format_model_card(slim, tests))
    if is_useless(slim.record):
        warn_user(
            f"{parts.path}: the whole layer is not significantly more accurate by {measure} than "
            "always answering the largest class of the test split"
        )
    return ShrinkPlan(slim, decision.is_safe, summarise(slim.record), tests, path)


def _check_goal(
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
    precisions: Sequence[str],
    worst_class_drop: float | None,
) -> None:
    """Check the names before anything is read."""
    check_measure(measure)
    if worst_class_drop is not None and not MEASURES[measure].is_probe:
        raise CriticalMassError(
            f"worst_class_drop={worst_class_drop} applies to probes only; got "
            f"measure={measure!r}, leave it out or use a probe, e.g. measure='logistic'"
        )
    for precision in precisions:
        check_precision(precision)
    for selector in selectors or ():
        if selector_info(selector).is_projection:
            raise CriticalMassError(
                f"selector {selector!r} is a projection: it needs every neuron, so it makes no "
                "layer smaller; choose one that orders neurons, e.g. 'leverage'"
            )
    if not precisions or (selectors is not None and not selectors):
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
