"""Bisection for the critical mass: which sizes and seeds to measure next.

The functions are pure decisions on numbers; the cells are computed elsewhere. The grid shows
where the mean over seeds first reaches the threshold. The gap between the largest size below it
and the smallest size at or above it is halved until the two sizes are neighbours.

A size is *decided* when Student's interval of its mean over seeds, on the test samples as they
are, excludes the threshold. An undecided size gets more seeds: their number doubles at every
step until the seed budget ends. Every interval has the level ``1 - (1 - level) / n_steps``, so
that all steps at one size together keep ``level`` (Bonferroni). The subsets of one seed are
nested and every size takes the seeds in the same order, so sizes are compared on the same seeds.
The two neighbours at the end always have equally many seeds.

If the seeds do not decide the crossing, the result is an interval: from the largest size below
the crossing that is decided to fail to the smallest size above it that is decided to pass. Both
ends are found by halving too. A deterministic selector has one value per size, which decides it
at once. The uncertainty due to the test samples is added by the bootstrap of `redundancy`.

A curve need not be monotone. The result is then a crossing at the smallest tested size that
passes: its mean reaches the threshold and the mean of the size below does not. A smaller size
that was not tested may pass too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from criticalmass.analysis.estimators import reaches
from criticalmass.core.moments import FloatArray

# Fewer values may agree by accident, and Student's interval then has no width.
FEWEST_SEEDS = 5


class SizeRequest(NamedTuple):
    """A size to measure, and the number of seeds to measure it with."""

    size: int
    n_seeds: int


@dataclass(frozen=True)
class SearchProblem:
    """One curve, one threshold and the budget of the search.

    Attributes
    ----------
    grid: sizes that are measured before the search, ascending.
    n_neurons: width of the layer.
    threshold: value to reach.
    seed_counts: number of seeds at each step on one size, ascending; (1,) for a deterministic
        selector.
    n_base_seeds: seeds that every grid size has before the search; they are not counted as spent.
    level: level at which a size is decided.
    full_layer_passes: whether the whole layer reaches the threshold by definition.
    max_cells: most cells to request beyond the grid.
    is_random: whether values depend on the seed.
    """

    grid: tuple[int, ...]
    n_neurons: int
    threshold: float
    seed_counts: tuple[int, ...]
    n_base_seeds: int
    level: float
    full_layer_passes: bool
    max_cells: int
    is_random: bool


@dataclass(frozen=True, eq=False)
class SizeStats:
    """The values measured at one size.

    Attributes
    ----------
    n_seeds: seeds that the search requested; 0 for a grid size that it did not request.
    values: (n_values,) values of the seeds whose cell did not fail.
    """

    n_seeds: int
    values: FloatArray


@dataclass(frozen=True)
class SearchResult:
    """The critical mass that a search found.

    Attributes
    ----------
    critical_mass: smallest tested size whose mean reaches the threshold; None if there is none.
    low, high: smallest and largest critical mass compatible with the decided sizes; equal if it
        is known to one neuron. None if ``critical_mass`` is None.
    n_seeds: largest number of seeds of a size.
    n_cells: cells requested beyond the grid.
    short_of: "seeds" or "cells", the budget that ended before the result was decided, or None.
    """

    critical_mass: int | None
    low: int | None
    high: int | None
    n_seeds: int
    n_cells: int
    short_of: str | None


@dataclass(frozen=True)
class _SizeStatus:
    """Whether a size reaches the threshold, and how certain that is.

    Attributes
    ----------
    passes: whether its mean reaches the threshold.
    is_decided: whether Student's interval of the mean excludes the threshold.
    is_final: whether more seeds would change nothing: it is decided, or has all its seeds.
    """

    passes: bool
    is_decided: bool
    is_final: bool


def seed_schedule(n_base_seeds: int, max_seeds: int) -> tuple[int, ...]:
    """Return the numbers of seeds to try: the base (at least 5), doubled up to ``max_seeds``."""
    counts = [min(max(n_base_seeds, FEWEST_SEEDS), max(n_base_seeds, max_seeds))]
    while counts[-1] < max_seeds:
        counts.append(min(2 * counts[-1], max_seeds))
    return tuple(counts)


def next_requests(
    problem: SearchProblem, stats: Mapping[int, SizeStats]
) -> tuple[SizeRequest, ...]:
    """Return the sizes and seeds to measure next; they may be computed together.

    Parameters
    ----------
    problem: the curve, the threshold and the budget.
    stats: size -> what is measured so far.

    Returns
    -------
    Requests, empty when the search has ended because it is decided or a budget is spent.
    """
    remaining = problem.max_cells - _n_spent(problem, stats)
    affordable = []
    for request in _unlimited_requests(problem, stats):
        cost = _cost(problem, stats, request)
        if cost <= remaining:
            affordable.append(request)
            remaining -= cost
    return tuple(affordable)


def search_result(problem: SearchProblem, stats: Mapping[int, SizeStats]) -> SearchResult:
    """Compute the critical mass and its interval from what is measured so far."""
    statuses = _statuses(problem, stats)
    n_seeds = max((one.n_seeds for one in stats.values()), default=0)
    n_cells = _n_spent(problem, stats)
    short_of = "cells" if _unlimited_requests(problem, stats) else None
    passing = _smallest_passing(statuses)
    if passing is None:
        return SearchResult(None, None, None, n_seeds, n_cells, short_of)
    fails = [k for k, status in statuses.items() if k < passing and _decided(status, False)]
    passes = [k for k, status in statuses.items() if k >= passing and _decided(status, True)]
    low, high = max(fails) + 1, min(passes, default=problem.n_neurons)
    short_of = short_of or ("seeds" if low < high else None)
    return SearchResult(passing, low, high, n_seeds, n_cells, short_of)


def _statuses(problem: SearchProblem, stats: Mapping[int, SizeStats]) -> dict[int, _SizeStatus]:
    """Return size -> status, ascending by size.

    0 neurons always fail; the whole layer always passes if the problem says so.
    """
    statuses = {size: _status(problem, one) for size, one in sorted(stats.items())}
    if problem.full_layer_passes:
        statuses.pop(problem.n_neurons, None)
        statuses[problem.n_neurons] = _SizeStatus(True, True, True)
    return {0: _SizeStatus(False, True, True), **statuses}


def _status(problem: SearchProblem, stats: SizeStats) -> _SizeStatus:
    values = stats.values
    if not values.size:
        # Every seed failed: no value reaches the threshold, and a second try would not help.
        return _SizeStatus(False, False, True)
    mean = np.array([float(values.mean())])
    passes = bool(reaches(mean, np.array(problem.threshold), 1.0)[0])
    if stats.n_seeds == 0:
        return _SizeStatus(passes, False, False)
    decided = not problem.is_random or _interval_excludes_threshold(values, problem)
    return _SizeStatus(passes, decided, decided or stats.n_seeds >= problem.seed_counts[-1])


def _interval_excludes_threshold(values: FloatArray, problem: SearchProblem) -> bool:
    """Return whether Student's interval of the mean excludes the threshold."""
    from scipy.special import stdtrit

    n = values.size
    if n < min(FEWEST_SEEDS, problem.seed_counts[-1]) or n < 2:
        return False
    tail = (1.0 - problem.level) / len(problem.seed_counts) / 2.0
    half = float(stdtrit(n - 1, 1.0 - tail)) * float(values.std(ddof=1)) / np.sqrt(n)
    return bool(abs(float(values.mean()) - problem.threshold) > half)


def _unlimited_requests(
    problem: SearchProblem, stats: Mapping[int, SizeStats]
) -> list[SizeRequest]:
    """Return what the search would measure next if there were no limit on cells."""
    statuses = _statuses(problem, stats)
    passing = _smallest_passing(statuses)
    if passing is None:
        width = problem.n_neurons
        is_final = width in statuses and statuses[width].is_final
        return [] if is_final else [_next_step(problem, stats, width)]
    below = max(size for size in statuses if size < passing)
    open_ends = [size for size in (below, passing) if not statuses[size].is_final]
    if open_ends:
        return [_next_step(problem, stats, size) for size in open_ends]
    if passing - below > 1:
        return [_next_step(problem, stats, (below + passing) // 2)]
    return _equal_seeds(stats, below, passing) or [
        *_next_edge(problem, stats, [size for size in statuses if size <= passing][::-1], False),
        *_next_edge(problem, stats, [size for size in statuses if size >= below], True),
    ]


def _equal_seeds(stats: Mapping[int, SizeStats], below: int, passing: int) -> list[SizeRequest]:
    """Give both neighbours equally many seeds: means over different seeds are not comparable."""
    n_seeds = {size: stats[size].n_seeds for size in (below, passing) if size in stats}
    most = max(n_seeds.values(), default=0)
    if len(n_seeds) < 2:
        return []
    return [SizeRequest(size, most) for size, n in n_seeds.items() if n < most]


def _next_edge(
    problem: SearchProblem, stats: Mapping[int, SizeStats], sizes: list[int], passes: bool
) -> list[SizeRequest]:
    """Search for the decided size nearest to the crossing, in one direction.

    Parameters
    ----------
    sizes: measured sizes in this direction; the first is on the other side of the crossing.
    passes: whether the size searched for passes or fails.
    """
    statuses = _statuses(problem, stats)
    for previous, size in pairwise(sizes):
        if not statuses[size].is_final:
            return [_next_step(problem, stats, size)]
        if _decided(statuses[size], passes):
            if abs(size - previous) <= 1:
                return []
            return [_next_step(problem, stats, (size + previous) // 2)]
    return []


def _next_step(problem: SearchProblem, stats: Mapping[int, SizeStats], size: int) -> SizeRequest:
    """Request a size with the next larger number of seeds."""
    current = stats[size].n_seeds if size in stats else 0
    larger = (n for n in problem.seed_counts if n > current)
    return SizeRequest(size, next(larger, problem.seed_counts[-1]))


def _smallest_passing(statuses: Mapping[int, _SizeStatus]) -> int | None:
    return min((size for size, status in statuses.items() if status.passes), default=None)


def _decided(status: _SizeStatus, passes: bool) -> bool:
    return status.is_decided and status.passes == passes


def _n_spent(problem: SearchProblem, stats: Mapping[int, SizeStats]) -> int:
    return sum(_n_extra_cells(problem, size, one.n_seeds) for size, one in stats.items())


def _cost(problem: SearchProblem, stats: Mapping[int, SizeStats], request: SizeRequest) -> int:
    size, n_seeds = request
    current = stats[size].n_seeds if size in stats else 0
    return _n_extra_cells(problem, size, n_seeds) - _n_extra_cells(problem, size, current)


def _n_extra_cells(problem: SearchProblem, size: int, n_seeds: int) -> int:
    """Count the cells of a size beyond those of the grid."""
    n_free = problem.n_base_seeds if size in problem.grid else 0
    return max(0, n_seeds - n_free)
