"""Selectors and precisions compete for the fewest bytes, on data no promise is made on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from criticalmass.core.progress import track
from criticalmass.errors import CriticalMassError
from criticalmass.measures.protocol import EXPECTED
from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.codec import bytes_per_vector, most_neurons
from criticalmass.shrinking.data_parts import Parts
from criticalmass.shrinking.probe_evaluator import Findings, Hits, IndexArray, Judge

# Sizes of the first look, and of the second between the last that fails and the first that passes.
_FIRST, _SECOND = 10, 4
_SMALLEST_SHARE = 1 / 128


@dataclass(frozen=True)
class Goal:
    """What must be kept, and what the smaller layer may take.

    Attributes
    ----------
    keep: share of the whole layer's value, in (0, 1].
    level: confidence of the promise, in (0, 1).
    worst_class_drop: accuracy that no class may lose, in (0, 1], or None.
    budget_bytes: most bytes of one vector, or None.
    max_dims: most neurons kept, or None.
    """

    keep: float
    level: float
    worst_class_drop: float | None = None
    budget_bytes: int | None = None
    max_dims: int | None = None

    def most(self, n_neurons: int, precision: str) -> int:
        """Most neurons that budget and dimensions allow; 0 if not even one."""
        most = n_neurons
        if self.budget_bytes is not None:
            most = min(most, most_neurons(self.budget_bytes, precision))
        if self.max_dims is not None:
            most = min(most, self.max_dims)
        return most

    @property
    def is_limited(self) -> bool:
        """Whether budget or dimensions rule out some sizes."""
        return self.budget_bytes is not None or self.max_dims is not None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A selector in a precision, as the selection part saw it.

    Attributes
    ----------
    selector, seed: the rule.
    order: (n_neurons,) what it chose.
    precision: what a value is stored in.
    values: size -> value of the measure.
    value_full: that of the whole layer.
    needed: fewest tested neurons that keep enough, or None if none within the limits does.
    most: most neurons within the limits.
    """

    selector: str
    seed: int
    order: IndexArray
    precision: str
    values: Mapping[int, float]
    value_full: float
    needed: int | None
    most: int

    @property
    def cost(self) -> int:
        """Bytes of one vector at the size needed, or at the largest there is room for."""
        return bytes_per_vector(self.needed or self.most, self.precision)

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


def compete(
    judge: Judge,
    orders: Mapping[tuple[str, int], IndexArray],
    precisions: Sequence[str],
    goal: Goal,
    *,
    expected: int | None = None,
) -> list[Candidate]:
    """Find what every selector and precision needs; the cheapest comes first.

    Parameters
    ----------
    judge: scores on the selection part.
    orders: (selector, seed) -> (n_neurons,) order.
    precisions: keys of `criticalmass.shrinking.codec.BITS`.
    goal: what must be kept.
    expected: the size around which to look first; None for the whole range alike.

    Returns
    -------
    Those that keep enough by ascending bytes, then the rest by descending value.

    Raises
    ------
    CriticalMassError: if the budget has room for no neuron in any of the precisions.
    """
    n_neurons = next(iter(orders.values())).size
    entries = [
        (rule, order, precision, goal.most(n_neurons, precision))
        for precision in precisions
        for rule, order in orders.items()
    ]
    able = [entry for entry in entries if entry[3] > 0]
    if not able:
        raise CriticalMassError(
            f"budget_bytes={goal.budget_bytes} and max_dims={goal.max_dims} have no room for one "
            f"neuron in {', '.join(precisions)}; allow at least "
            f"{min(bytes_per_vector(1, p) for p in precisions)} bytes and 1 dimension"
        )
    found = []
    with track("candidates on the selection part", total=len(able), unit="candidates") as bar:
        for (selector, seed), order, precision, most in able:
            first = first_sizes(order.size, most, expected)
            values, full, needed = _search(judge, (order, precision), first, goal)
            found.append(Candidate(selector, seed, order, precision, values, full, needed, most))
            bar.advance(1)
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, float, float]:
    best = max(candidate.values.values())
    if candidate.needed is None:
        return True, -best, candidate.cost
    return False, candidate.cost, -candidate.values[candidate.needed]


def _search(
    judge: Judge, stored: tuple[IndexArray, str], sizes: tuple[int, ...], goal: Goal
) -> tuple[dict[int, float], float, int | None]:
    """Look at sizes over the range, then closer where the goal is first met."""
    order, precision = stored
    values: dict[int, float] = {}
    held: dict[int, bool] = {}
    for _ in range(2):
        findings = judge.judge(order, sizes, precision)
        values.update(zip(sizes, (float(v) for v in findings.values), strict=True))
        held.update(zip(sizes, (keeps(findings, i, goal) for i in range(len(sizes))), strict=True))
        passing = [size for size in sorted(held) if held[size]]
        if not passing:
            return values, findings.value_full, None
        below = max((size for size in held if size < passing[0]), default=0)
        inner = geometric(below + 1, passing[0] - 1, _SECOND) if passing[0] - below > 1 else ()
        sizes = tuple(size for size in inner if size not in held)
        if not sizes:
            break
    return values, findings.value_full, passing[0]


def first_sizes(n_neurons: int, most: int, expected: int | None) -> tuple[int, ...]:
    """Sizes of the first look, at most ten: around the expected one, or over the whole range."""
    smallest = max(1, round(n_neurons * _SMALLEST_SHARE))
    if expected is None:
        return geometric(smallest, most, _FIRST)
    return sizes_around(expected, smallest, most)


def keeps(findings: Findings, place: int, goal: Goal) -> bool:
    """Whether a size keeps enough as far as point estimates tell: for choosing, no promise."""
    if findings.values[place] < goal.keep * findings.value_full:
        return False
    if goal.worst_class_drop is None or not isinstance(findings, Hits):
        return True
    return findings.worst_drop(place) < goal.worst_class_drop


def geometric(low: int, high: int, n: int) -> tuple[int, ...]:
    """Return up to n distinct whole numbers from low to high, evenly spread in ratio."""
    if high <= low:
        return (high,)
    return tuple(int(size) for size in np.unique(np.round(np.geomspace(low, high, n))))


# Sizes around the predicted one: chosen subsets need fewer than random ones, rarely more.
_LOWEST, _HIGHEST, _STEP = 0.25, 2.0, 2**0.5
_SIMILAR = ("cka", "cka-debiased")


def expected_size(measure: str, parts: Parts, keep: float) -> int | None:
    """Predict how many random neurons keep a share of the whole layer's value.

    CKA by its own law, probes by that of ridge probes, from the rows of the competition. A start
    of a search, no promise: what it misses costs a look or two.

    Parameters
    ----------
    measure: by which the layer is shrunk.
    parts: of the data; the promise's samples are not looked at.
    keep: share of the whole layer's value, in (0, 1].

    Returns
    -------
    Neurons, or None where no law speaks: another measure, or data that defeat it.
    """
    from criticalmass.core.moments import moments
    from criticalmass.theory.eigenbasis import eigenbasis
    from criticalmass.theory.prediction import cka_curve, ridge_curve

    try:
        if measure in _SIMILAR:
            curve = cka_curve(moments(parts.selected.rows).scatter)
        elif MEASURES[measure].is_probe:
            fitted, judged = parts.fitted, parts.selected
            basis = eigenbasis(fitted.rows, fitted.labels, n_classes=len(parts.class_names))
            curve = ridge_curve(basis, judged.rows, judged.labels, law="exchangeable")
        else:
            return None
        return curve.critical_mass(keep, 1, 0.95)[0]
    except EXPECTED:
        return None


def sizes_around(expected: int, smallest: int, most: int) -> tuple[int, ...]:
    """Sizes of the first look: dense around the predicted one, and both ends of the range.

    Parameters
    ----------
    expected: predicted size.
    smallest, most: the range, at least 1.

    Returns
    -------
    At most nine sizes, ascending.
    """
    steps = round(np.log(_HIGHEST / _LOWEST) / np.log(_STEP))
    near = np.round(expected * _LOWEST * _STEP ** np.arange(steps + 1))
    inside = near[(near > smallest) & (near < most)].astype(int)
    return tuple(int(size) for size in np.unique([min(smallest, most), *inside, most]))
