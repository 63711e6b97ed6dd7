"""The search for a critical mass to one neuron: which sizes and seeds to look at next.

Pure decisions on numbers; what it asks for is computed elsewhere. The grid says where the mean
over seeds first reaches the bar; from there the gap between the last size that misses it and
the first that reaches it is halved until the two are neighbours.

A size's side of the bar is *settled* when Student's interval of its mean over seeds, on the
test samples as they are, excludes the bar. A size that is not settled gets more seeds, the
number doubling at every look until the budget ends; each look is held to
``1 - (1 - level) / n_looks``, so that all looks at a size together keep the level (Bonferroni).
The subsets of one seed are nested, and every size takes seeds in the same order, so sizes are
compared on the same seeds; the two neighbours at the end always have equally many.

Where seeds do not settle the crossing, the answer is an interval: from the largest settled
failure below it to the smallest settled pass above, both edges found by halving too. A rule
without chance has one value per size, which is settled at once; what test samples add to the
interval is the bootstrap's matter.

A curve need not be monotone. Then what is found is a crossing next to the smallest tested size
that passes: its mean reaches the bar and that of the size below does not. A smaller size that
was never tested may pass too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from criticalmass.analysis.estimators import reaches
from criticalmass.core.moments import FloatArray

# Fewer values may agree by accident, and Student's interval then has no width.
FEWEST_SEEDS = 5
Ask = tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """One curve and one bar.

    Attributes
    ----------
    grid: sizes tested already, ascending.
    n_neurons: width of the layer.
    bar: the value to reach.
    looks: how many seeds at each look, ascending; (1,) for a rule without chance.
    base: seeds that every grid size has already; not counted as spent.
    level: at which a side is settled.
    whole_passes: whether the whole layer reaches the bar by definition.
    cells: most cells to ask for beyond the grid.
    by_chance: whether seeds matter.
    """

    grid: tuple[int, ...]
    n_neurons: int
    bar: float
    looks: tuple[int, ...]
    base: int
    level: float
    whole_passes: bool
    cells: int
    by_chance: bool


@dataclass(frozen=True, eq=False)
class Look:
    """What is known of one size.

    Attributes
    ----------
    n_seeds: seeds asked for; 0 for a size of the grid that was not looked at for itself.
    values: (n_values,) of the seeds that have one.
    """

    n_seeds: int
    values: FloatArray


@dataclass(frozen=True)
class Found:
    """The answer.

    Attributes
    ----------
    critical_mass: smallest tested size whose mean reaches the bar; None if there is none.
    low, high: the smallest and largest critical mass that the settled sizes leave open; equal
        where it is known to one neuron. None with critical_mass.
    n_seeds: most seeds that a size was given.
    n_cells: cells asked for beyond the grid.
    short_of: "seeds" or "cells", the budget that ended before the answer was settled; else None.
    """

    critical_mass: int | None
    low: int | None
    high: int | None
    n_seeds: int
    n_cells: int
    short_of: str | None


@dataclass(frozen=True)
class _Side:
    """Where a size stands: above the bar or not, for sure or not, and whether to look again."""

    passes: bool
    settled: bool
    done: bool


def looks_for(n_base: int, most: int) -> tuple[int, ...]:
    """Return how many seeds to look at: the base (at least 5), doubled up to ``most``."""
    looks = [min(max(n_base, FEWEST_SEEDS), max(n_base, most))]
    while looks[-1] < most:
        looks.append(min(2 * looks[-1], most))
    return tuple(looks)


def next_asks(problem: Problem, known: Mapping[int, Look]) -> tuple[Ask, ...]:
    """Return the (size, n_seeds) to look at next, all of which may be computed together.

    Parameters
    ----------
    problem: the curve and the bar.
    known: size -> what is known of it.

    Returns
    -------
    Nothing once the search has ended, for it is settled or a budget is spent.
    """
    left = problem.cells - _spent(problem, known)
    affordable = []
    for ask in _wanted(problem, known):
        cost = _cost(problem, known, ask)
        if cost <= left:
            affordable.append(ask)
            left -= cost
    return tuple(affordable)


def answer(problem: Problem, known: Mapping[int, Look]) -> Found:
    """Read the critical mass and its interval off what is known now."""
    sides = _sides(problem, known)
    n_seeds = max((look.n_seeds for look in known.values()), default=0)
    cells = _spent(problem, known)
    unpaid = "cells" if _wanted(problem, known) else None
    passing = _first_pass(sides)
    if passing is None:
        return Found(None, None, None, n_seeds, cells, unpaid)
    fails = [size for size, side in sides.items() if size < passing and _surely(side, False)]
    passes = [size for size, side in sides.items() if size >= passing and _surely(side, True)]
    low, high = max(fails) + 1, min(passes, default=problem.n_neurons)
    short = unpaid or ("seeds" if low < high else None)
    return Found(passing, low, high, n_seeds, cells, short)


def _sides(problem: Problem, known: Mapping[int, Look]) -> dict[int, _Side]:
    """Judge every known size, ascending; no neurons miss the bar, the whole layer may pass."""
    sides = {size: _judge(problem, look) for size, look in sorted(known.items())}
    if problem.whole_passes:
        sides.pop(problem.n_neurons, None)
        sides[problem.n_neurons] = _Side(True, True, True)
    return {0: _Side(False, True, True), **sides}


def _judge(problem: Problem, look: Look) -> _Side:
    values = look.values
    if not values.size:
        # Every seed failed: no value reaches the bar, and asking again would not help.
        return _Side(False, False, True)
    mean = np.array([float(values.mean())])
    passes = bool(reaches(mean, np.array(problem.bar), 1.0)[0])
    if look.n_seeds == 0:
        return _Side(passes, False, False)
    settled = not problem.by_chance or _excludes(values, problem)
    return _Side(passes, settled, settled or look.n_seeds >= problem.looks[-1])


def _excludes(values: FloatArray, problem: Problem) -> bool:
    """Whether Student's interval of the mean leaves the bar out."""
    from scipy.special import stdtrit

    n = values.size
    if n < min(FEWEST_SEEDS, problem.looks[-1]) or n < 2:
        return False
    tail = (1.0 - problem.level) / len(problem.looks) / 2.0
    half = float(stdtrit(n - 1, 1.0 - tail)) * float(values.std(ddof=1)) / np.sqrt(n)
    return bool(abs(float(values.mean()) - problem.bar) > half)


def _wanted(problem: Problem, known: Mapping[int, Look]) -> list[Ask]:
    """Return what the search would look at next if nothing were counted."""
    sides = _sides(problem, known)
    passing = _first_pass(sides)
    if passing is None:
        whole = problem.n_neurons
        settled = whole in sides and sides[whole].done
        return [] if settled else [_again(problem, known, whole)]
    below = max(size for size in sides if size < passing)
    open_ends = [size for size in (below, passing) if not sides[size].done]
    if open_ends:
        return [_again(problem, known, size) for size in open_ends]
    if passing - below > 1:
        return [_again(problem, known, (below + passing) // 2)]
    return _even(known, below, passing) or [
        *_edge(problem, known, [size for size in sides if size <= passing][::-1], False),
        *_edge(problem, known, [size for size in sides if size >= below], True),
    ]


def _even(known: Mapping[int, Look], below: int, passing: int) -> list[Ask]:
    """Give both neighbours the same seeds: means over different ones are not comparable."""
    looks = {size: known[size].n_seeds for size in (below, passing) if size in known}
    most = max(looks.values(), default=0)
    return [(size, most) for size, n in looks.items() if n < most] if len(looks) == 2 else []


def _edge(problem: Problem, known: Mapping[int, Look], way: list[int], passes: bool) -> list[Ask]:
    """Look for the settled size nearest to the crossing, going one way from it.

    ``way``: known sizes, the first on the other side of the crossing.
    """
    sides = _sides(problem, known)
    for before, size in pairwise(way):
        if not sides[size].done:
            return [_again(problem, known, size)]
        if _surely(sides[size], passes):
            return [_again(problem, known, (size + before) // 2)] if abs(size - before) > 1 else []
    return []


def _again(problem: Problem, known: Mapping[int, Look], size: int) -> Ask:
    """Ask for the next look at a size."""
    have = known[size].n_seeds if size in known else 0
    return size, next((n for n in problem.looks if n > have), problem.looks[-1])


def _first_pass(sides: Mapping[int, _Side]) -> int | None:
    return min((size for size, side in sides.items() if side.passes), default=None)


def _surely(side: _Side, passes: bool) -> bool:
    return side.settled and side.passes == passes


def _spent(problem: Problem, known: Mapping[int, Look]) -> int:
    return sum(_paid(problem, size, look.n_seeds) for size, look in known.items())


def _cost(problem: Problem, known: Mapping[int, Look], ask: Ask) -> int:
    size, n_seeds = ask
    have = known[size].n_seeds if size in known else 0
    return _paid(problem, size, n_seeds) - _paid(problem, size, have)


def _paid(problem: Problem, size: int, n_seeds: int) -> int:
    """Cells of a size beyond those that the grid has anyway."""
    free = problem.base if size in problem.grid else 0
    return max(0, n_seeds - free)
