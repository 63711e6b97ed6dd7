"""``shrink``: the smallest subset of a layer that is safe, with a promise made on held-out data.

Three parts of the data have three tasks. On most of the training split probes are fitted; on the
rest of it, the selection part, selectors and precisions compete; on the test split, which took no
part in any choice, the promise is made. Nothing chosen is trusted before that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from criticalmass.core.arguments import checked
from criticalmass.errors import CriticalMassError
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.inputs import Evidence
from criticalmass.selectors.registry import select, selector_info
from criticalmass.shrinking.assemble import Decision, make_slim
from criticalmass.shrinking.candidates import Goal, compete, expected_size
from criticalmass.shrinking.certify import certify, tried
from criticalmass.shrinking.codec import check_precision
from criticalmass.shrinking.data_parts import Parts, parts_of
from criticalmass.shrinking.evaluators import check_measure, check_relevance, judge_for
from criticalmass.shrinking.model_card import model_card, sentence
from criticalmass.shrinking.probe_evaluator import IndexArray
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.features import FeatureStore

StoreLike = FeatureStore | str | Path
_WITH_LABELS = ("random", "leverage", "greedy-cka", "greedy-lda", "probe-weight", "first")
_WITHOUT = ("random", "leverage", "greedy-cka", "variance-high", "first")


@dataclass(frozen=True, eq=False)
class ShrinkPlan:
    """What `shrink` found.

    Attributes
    ----------
    slim: the subset with its head, promise and record.
    safe: whether the promise was made; if not, ``slim`` keeps the whole layer.
    sentence: the answer in plain words.
    tried: one row per size of the winning order that was tested on held-out data.
    path: the folder that was written, or None.
    """

    slim: SlimModel
    safe: bool
    sentence: str
    tried: pd.DataFrame
    path: Path | None

    @property
    def n_kept(self) -> int:
        """Neurons kept."""
        return self.slim.n_kept

    @property
    def candidates(self) -> pd.DataFrame:
        """All that competed, one row per selector x precision x size; the front is marked."""
        return self.slim.candidates

    def cost(self, price_per_gb: float, n_vectors: int) -> str:
        """Say what storing vectors costs a month before and after.

        Parameters
        ----------
        price_per_gb: of 10^9 bytes a month, in any currency.
        n_vectors: how many are stored.

        Raises
        ------
        CriticalMassError: for a price or number below 0.
        """
        if not (price_per_gb >= 0 and n_vectors >= 0):
            raise CriticalMassError(
                f"price_per_gb={price_per_gb} and n_vectors={n_vectors} must be 0 or more"
            )
        whole, kept = (
            price_per_gb * n_vectors * size / 1e9
            for size in (self.slim.record["bytes_full"], self.slim.bytes_per_vector)
        )
        return (
            f"{n_vectors:,} vectors cost {kept:,.2f} instead of {whole:,.2f} a month, "
            f"index overhead not counted."
        )


@checked
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
    """Find the smallest subset of a layer that keeps enough, and promise it on held-out data.

    Parameters
    ----------
    store: features with a train and a test split, or the path of their folder.
    keep: share of the whole layer's value that must stay, in (0, 1].
    out: folder of the `SlimModel` to write, or None.
    level: confidence of the promise, in (0, 1).
    worst_class_drop: accuracy that no class may lose, absolute, in (0, 1); probes only.
    measure: ``logistic`` or another probe; ``retrieval``, ``cka`` or another similarity needs no
        labels.
    layer: which, if the store has several and none is ``penultimate``.
    selectors: that compete; by default random, leverage, greedy-cka, first, and with labels
        greedy-lda and probe-weight; without, variance-high.
    precisions: that compete: float32, float16, int8, binary.
    budget_bytes: most bytes of one stored vector.
    max_dims: most neurons kept, e.g. 2000 for a common index limit.
    relevance: for ``retrieval``: "neighbours", what whole vectors find, or "labels", vectors of
        the query's class.
    seed: of the random selector.

    Returns
    -------
    The plan; ``plan.safe`` says whether the promise was made. If nothing smaller is safe, the
    whole layer is kept.

    Raises
    ------
    CriticalMassError: for a share, level, budget or name that is none, or labels that are missing.
    StoreError: if the store lacks a split or is damaged.

    Notes
    -----
    The promise holds if, on the test split, the lower bound of value(subset)/value(whole) at
    ``level`` is at least ``keep``, and no class loses ``worst_class_drop``; see
    `shrinking.paired_tests` for the tests and for why several sizes and classes need no correction.
    """
    goal = _goal(keep, level, worst_class_drop, budget_bytes, max_dims)
    _check_names(measure, selectors, precisions, worst_class_drop)
    relevant = check_relevance(relevance, measure)
    features = FeatureStore.open(store)
    parts = parts_of(features, layer)
    orders = orders_of(parts, selectors, seed)
    chooser = judge_for(measure, parts, certifying=False, relevance=relevant)
    expected = expected_size(measure, parts, keep)
    candidates = compete(chooser, orders, precisions, goal, expected=expected)
    judge = judge_for(measure, parts, certifying=True, relevance=relevant)
    certificate = certify(judge, candidates[0], goal)
    slim = make_slim(Decision(features, parts, measure, goal, candidates, certificate), judge)
    trials = pd.DataFrame(tried(certificate, goal))
    path = None if out is None else slim.save(out, model_card(slim, trials))
    return ShrinkPlan(slim, certificate.place is not None, sentence(slim.record), trials, path)


def _goal(
    keep: float,
    level: float,
    worst_class_drop: float | None,
    budget_bytes: int | None,
    max_dims: int | None,
) -> Goal:
    """Check what is asked for."""
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
            raise CriticalMassError(f"{name}={limit} but at least 1 is needed for one neuron")
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
            f"worst_class_drop={worst_class_drop} speaks of classes, measure={measure!r} knows "
            "none; leave it out or shrink by a probe, e.g. measure='logistic'"
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


def orders_of(
    parts: Parts, selectors: Sequence[str] | None, seed: int
) -> dict[tuple[str, int], IndexArray]:
    """Apply selectors to the rows that the competition's probes see.

    Parameters
    ----------
    parts: of the data.
    selectors: names, or None for the default ones.
    seed: of random selectors.

    Returns
    -------
    (selector, seed) -> (n_neurons,) order; projections have none and are left out.
    """
    labelled = len(parts.class_names) >= 2
    names = selectors or (_WITH_LABELS if labelled else _WITHOUT)
    labels = parts.fitted.labels if labelled else None
    seen = Evidence(
        parts.n_neurons,
        rows=parts.fitted.rows,
        labels=labels,
        n_classes=len(parts.class_names),
        validation=None if labels is None else validation_rows(labels),
    )
    orders = {}
    for name in dict.fromkeys(names):
        chosen = select(name, seen, seed=seed)
        if chosen.order is not None:
            orders[name, chosen.seed] = chosen.order
    return orders
