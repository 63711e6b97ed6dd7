"""Candidates: which selector in which precision needs the fewest bytes on the selection part.

The test split takes no part in this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from criticalmass.core.progress import Progress
from criticalmass.errors import CriticalMassError
from criticalmass.measures.protocol import EXPECTED
from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.codec import bytes_per_vector, neurons_in_budget
from criticalmass.shrinking.data_parts import DataParts
from criticalmass.shrinking.probe_evaluator import (
    Evaluator,
    IndexArray,
    PairedCorrect,
    SubsetScores,
)

# Number of sizes in the coarse search, and in the fine search below the first size that passes.
_N_COARSE, _N_FINE = 10, 4
_SMALLEST_SHARE = 1 / 128


@dataclass(frozen=True)
class Goal:
    """What must be kept, and the limits of the smaller layer.

    Attributes
    ----------
    keep: share of the whole layer's value, in (0, 1].
    level: confidence of the promise, in (0, 1).
    worst_class_drop: accuracy that no class may lose, in (0, 1), or None.
    budget_bytes: largest number of bytes of one vector, or None.
    max_dims: largest number of kept neurons, or None.
    """

    keep: float
    level: float
    worst_class_drop: float | None = None
    budget_bytes: int | None = None
    max_dims: int | None = None

    def max_neurons(self, n_neurons: int, precision: str) -> int:
        """Return the largest number of neurons within the limits; 0 if not even one fits."""
        limits = [n_neurons]
        if self.budget_bytes is not None:
            limits.append(neurons_in_budget(self.budget_bytes, precision))
        if self.max_dims is not None:
            limits.append(self.max_dims)
        return min(limits)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A selector in a precision, with its scores on the selection part.

    Attributes
    ----------
    selector, seed: the selector and the seed of a random one.
    order: (n_neurons,) the selector's order of neurons.
    precision: the type that a value is stored in.
    values: size -> value of the measure.
    value_full: value of the whole layer.
    n_needed: fewest tested neurons that meet the goal; None if no tested size does.
    n_max: largest number of neurons within the limits.
    """

    selector: str
    seed: int
    order: IndexArray
    precision: str
    values: Mapping[int, float]
    value_full: float
    n_needed: int | None
    n_max: int

    @property
    def cost(self) -> int:
        """Bytes of one vector of ``n_needed`` neurons, or of ``n_max`` if none is enough."""
        return bytes_per_vector(self.n_needed or self.n_max, self.precision)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row of the table of candidates per tested size."""
        full = self.value_full
        for size, value in sorted(self.values.items()):
            yield {
                "selector": self.selector,
                "seed": self.seed,
                "precision": self.precision,
                "n_kept": size,
                "bytes": bytes_per_vector(size, self.precision),
                "value": value,
                "value_full": full,
                "ratio": value / full if full else None,
            }


def rank_candidates(
    evaluator: Evaluator,
    orders: Mapping[tuple[str, int], IndexArray],
    precisions: Sequence[str],
    goal: Goal,
    *,
    expected: int | None = None,
) -> list[Candidate]:
    """Find how many neurons every selector needs in every precision, and sort by bytes.

    Parameters
    ----------
    evaluator: scores on the selection part.
    orders: (selector, seed) -> (n_neurons,) order.
    precisions: keys of `criticalmass.shrinking.codec.BITS`.
    goal: what must be kept.
    expected: predicted size, around which the coarse search is dense; None searches the whole
        range evenly.

    Returns
    -------
    Candidates that meet the goal by ascending bytes, then the others by descending value.

    Raises
    ------
    CriticalMassError: if no precision has a neuron within the limits.
    """
    n_neurons = next(iter(orders.values())).size
    entries = [
        (rule, order, precision, goal.max_neurons(n_neurons, precision))
        for precision in precisions
        for rule, order in orders.items()
    ]
    entries = [entry for entry in entries if entry[3] > 0]
    if not entries:
        raise CriticalMassError(
            f"budget_bytes={goal.budget_bytes} and max_dims={goal.max_dims} leave no room for one "
            f"neuron in {', '.join(precisions)}; allow at least "
            f"{min(bytes_per_vector(1, p) for p in precisions)} bytes and 1 dimension"
        )
    candidates = []
    label = "candidates on the selection part"
    with Progress(label, total=len(entries), unit="candidates") as progress:
        for (selector, seed), order, precision, n_max in entries:
            sizes = initial_sizes(order.size, n_max, expected)
            values, full, n_needed = _search(evaluator, order, precision, sizes, goal)
            candidates.append(
                Candidate(selector, seed, order, precision, values, full, n_needed, n_max)
            )
            progress.advance(1)
    return sorted(candidates, key=_sort_key)


def _sort_key(candidate: Candidate) -> tuple[bool, float, float]:
    if candidate.n_needed is None:
        return True, -max(candidate.values.values()), candidate.cost
    return False, candidate.cost, -candidate.values[candidate.n_needed]


def _search(
    evaluator: Evaluator,
    order: IndexArray,
    precision: str,
    sizes: tuple[int, ...],
    goal: Goal,
) -> tuple[dict[int, float], float, int | None]:
    """Score ``sizes``, then a few sizes just below the smallest one that meets the goal.

    Returns
    -------
    Value per size, value of the whole layer, and the smallest size that meets the goal or None.
    """
    values: dict[int, float] = {}
    is_enough: dict[int, bool] = {}
    for _ in range(2):
        scores = evaluator.evaluate(order, sizes, precision)
        for index, size in enumerate(sizes):
            values[size] = float(scores.values[index])
            is_enough[size] = meets_goal(scores, index, goal)
        passing = [size for size in sorted(is_enough) if is_enough[size]]
        if not passing:
            return values, scores.value_full, None
        smallest = passing[0]
        below = max((size for size in is_enough if size < smallest), default=0)
        between = geometric_sizes(below + 1, smallest - 1, _N_FINE) if smallest - below > 1 else ()
        sizes = tuple(size for size in between if size not in is_enough)
        if not sizes:
            break
    return values, scores.value_full, passing[0]


def initial_sizes(n_neurons: int, n_max: int, expected: int | None) -> tuple[int, ...]:
    """Return at most ten sizes: dense around the expected one, or over the whole range."""
    smallest = max(1, round(n_neurons * _SMALLEST_SHARE))
    if expected is None:
        return geometric_sizes(smallest, n_max, _N_COARSE)
    return sizes_around(expected, smallest, n_max)


def meets_goal(scores: SubsetScores, index: int, goal: Goal) -> bool:
    """Return whether the point estimates of ``sizes[index]`` meet the goal, without confidence."""
    if scores.values[index] < goal.keep * scores.value_full:
        return False
    if goal.worst_class_drop is None or not isinstance(scores, PairedCorrect):
        return True
    return scores.worst_drop(index) < goal.worst_class_drop


def geometric_sizes(low: int, high: int, n: int) -> tuple[int, ...]:
    """Return at most n distinct whole numbers from low to high with a constant ratio."""
    if high <= low:
        return (high,)
    return tuple(int(size) for size in np.unique(np.round(np.geomspace(low, high, n))))


# Factors on the predicted size: chosen subsets need fewer neurons than random ones, rarely more.
_LOWEST, _HIGHEST, _STEP = 0.25, 2.0, 2**0.5


def predict_size(measure: str, parts: DataParts, keep: float) -> int | None:
    """Predict how many random neurons keep a share of the whole layer's value.

    The measure's registry entry names the law; it is evaluated on the fit and selection parts.
    The prediction only sets where the search starts: a wrong one costs extra sizes.

    Parameters
    ----------
    measure: measure by which the layer is shrunk.
    parts: parts of the data; the test split is not read.
    keep: share of the whole layer's value, in (0, 1].

    Returns
    -------
    Number of neurons; None for a measure without a law, or if the law fails on the data.
    """
    from criticalmass.core.moments import moments
    from criticalmass.theory.eigenbasis import eigenbasis
    from criticalmass.theory.prediction import cka_curve, ridge_curve

    law, fit, selection = MEASURES[measure].law, parts.fit, parts.selection
    try:
        if law == "cka":
            curve = cka_curve(moments(selection.rows).scatter)
        elif law == "ridge":
            basis = eigenbasis(fit.rows, fit.labels, n_classes=len(parts.class_names))
            curve = ridge_curve(basis, selection.rows, selection.labels, law="exchangeable")
        else:
            return None
        return curve.critical_mass(keep, 1, 0.95)[0]
    except EXPECTED:
        return None


def sizes_around(expected: int, smallest: int, n_max: int) -> tuple[int, ...]:
    """Return sizes that are dense around the expected one, with both ends of the range.

    Parameters
    ----------
    expected: predicted size.
    smallest, n_max: ends of the range, at least 1.

    Returns
    -------
    At most nine sizes, ascending.
    """
    steps = round(np.log(_HIGHEST / _LOWEST) / np.log(_STEP))
    near = np.round(expected * _LOWEST * _STEP ** np.arange(steps + 1))
    inside = near[(near > smallest) & (near < n_max)].astype(int)
    return tuple(int(size) for size in np.unique([min(smallest, n_max), *inside, n_max]))
