"""Refining a run: feed the search for every critical mass with cells, and record what it found."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice, pairwise
from typing import Any

import numpy as np

from criticalmass.analysis.estimators import check_delta
from criticalmass.core.progress import notice, say
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import grid_for
from criticalmass.sweeps.bisection import Ask, Found, Look, Problem, answer, looks_for, next_asks
from criticalmass.sweeps.cell_cache import Supply
from criticalmass.sweeps.plan import Cell, CellMaker, Request

_KEY = ("layer", "selector", "measure", "delta")


@dataclass(frozen=True)
class Refinement:
    """What to search for after the grid, and what it may cost.

    Attributes
    ----------
    deltas: shares of the whole layer's value, each once, ascending.
    level: at which a size's mean over seeds is held to be above or below the bar.
    seeds: most seeds a size is given.
    cells: most cells beyond the grid for each layer, selector, measure and delta.
    """

    deltas: tuple[float, ...]
    level: float
    seeds: int
    cells: int

    @classmethod
    def of(
        cls, deltas: float | Sequence[float], level: float, seeds: int, cells: int
    ) -> Refinement:
        """Check what the caller of a sweep wrote and bring it into one form.

        Raises
        ------
        CriticalMassError: for a delta, level or budget that is none.
        """
        if not 0.0 < level < 1.0:
            raise CriticalMassError(f"refine_level={level} is outside (0, 1); 0.95 is usual")
        return cls(_deltas(deltas), level, _budget("seeds", seeds), _budget("cells", cells))


@dataclass(frozen=True, eq=False)
class _Quest:
    """One search: a curve, a bar, and what is known of the curve so far.

    ``seeds`` in the order in which sizes take them; ``fractions`` of the sizes of the grid.
    """

    maker: CellMaker
    selector: str
    delta: float
    problem: Problem
    seeds: tuple[int, ...]
    fractions: Mapping[int, float]
    known: dict[int, Look] = field(default_factory=dict)

    def cells(self, size: int, n_seeds: int) -> list[Cell]:
        """Return the cells of a size; one of the grid keeps the grid's fraction."""
        fraction = self.fractions.get(size, size / self.maker.n_neurons)
        seeds = self.seeds[:n_seeds]
        return [self.maker.cell(self.selector, seed, fraction, size) for seed in seeds]

    def around(self, size: int) -> list[Cell]:
        """Return every cell that the search may want between two sizes of the grid."""
        ends = sorted({0, *self.problem.grid, self.maker.n_neurons})
        low, high = next((a, b) for a, b in pairwise(ends) if a < size <= b)
        return [c for k in range(low + 1, high + 1) for c in self.cells(k, len(self.seeds))]

    def learn(self, asks: Iterable[Ask], values: Mapping[str, float]) -> None:
        """Take the values that were asked for; a failed cell has none."""
        for size, n_seeds in asks:
            found = [values[c.cell] for c in self.cells(size, n_seeds) if c.cell in values]
            self.known[size] = Look(n_seeds, np.array(found))

    @property
    def name(self) -> str:
        """What is searched for, in words."""
        return f"{self.maker.layer}, {self.selector}, {self.maker.measure}, delta {self.delta:g}"


def refine_run(supply: Supply, request: Request, refinement: Refinement) -> list[Cell]:
    """Search for every critical mass of a request whose grid is in the run.

    All searches go on side by side, a step at a time, so that what they ask of one order is one
    job. A step depends on the grid and on the steps before alone: an interrupted search takes
    the same steps again and computes what is missing.

    Parameters
    ----------
    supply: the run, and where missing cells come from.
    request: of the grid.
    refinement: deltas and budget.

    Returns
    -------
    The cells that were asked for.
    """
    quests = list(_quests(supply, request, refinement))
    asked: dict[str, Cell] = {}
    for step in count(1):
        asks = [(quest, next_asks(quest.problem, quest.known)) for quest in quests]
        wanted = {
            cell.cell: (cell, quest.around)
            for quest, mine in asks
            for a in mine
            for cell in quest.cells(*a)
        }
        if not wanted:
            break
        asked |= {name: cell for name, (cell, _) in wanted.items()}
        supply.get(wanted.values(), f"refine, step {step} ({_sizes(asks)})")
        values = supply.values()
        for quest, mine in asks:
            quest.learn(mine, values)
    _conclude(supply, quests, refinement)
    return list(asked.values())


def _quests(supply: Supply, request: Request, refinement: Refinement) -> Iterator[_Quest]:
    """Make the searches whose whole layer has a value above 0."""
    full = supply.ledger.full_rows()
    values = supply.values()
    for layer in request.layers:
        for measure in request.measures:
            whole = full[layer, measure].get("value")
            if whole is None or whole <= 0.0:
                notice(f"refine: {layer}, {measure} has no value of the whole layer to come near")
                continue
            maker = CellMaker(supply.bench.store, layer, measure)
            for selector in request.selectors:
                for delta in refinement.deltas:
                    bar = delta * float(whole)
                    yield _quest(supply, maker, selector, (delta, bar), refinement, values)


def _quest(
    supply: Supply,
    maker: CellMaker,
    selector: str,
    goal: tuple[float, float],
    refinement: Refinement,
    values: Mapping[str, float],
) -> _Quest:
    """Start one search from the sizes of the grid that the run has; ``goal``: delta and bar."""
    manifest, info = supply.ledger.run.manifest, SELECTORS[selector]
    grid = {size: f for f, size in grid_for(manifest["fractions"], maker.n_neurons)}
    # All seeds that were ever asked for, so that means are those that `redundancy` sees.
    base = tuple(manifest["seeds"]) if info.is_random else (0,)
    known = {}
    for size, fraction in grid.items():
        cells = [maker.cell(selector, seed, fraction, size).cell for seed in base]
        found = [values[name] for name in cells if name in values]
        if found:
            known[size] = Look(0, np.array(found))
    looks = looks_for(len(base), refinement.seeds) if info.is_random else (1,)
    every_size = MEASURES[maker.measure].every_size
    problem = Problem(
        grid=tuple(known),
        n_neurons=maker.n_neurons,
        bar=goal[1],
        looks=looks[-1:] if every_size else looks,
        base=len(base),
        level=refinement.level,
        whole_passes=MEASURES[maker.measure].shares_whole and not info.is_projection,
        cells=refinement.cells,
        by_chance=info.is_random,
    )
    extra = islice((seed for seed in count() if seed not in base), max(0, looks[-1] - len(base)))
    return _Quest(maker, selector, goal[0], problem, (*base, *extra), grid, known)


def _conclude(supply: Supply, quests: Sequence[_Quest], refinement: Refinement) -> None:
    """Write what was found into the manifest, and tell it."""
    full = supply.ledger.full_rows()
    entries = {tuple(e[k] for k in _KEY): e for e in supply.ledger.run.manifest.get("refined", ())}
    for quest in quests:
        found = answer(quest.problem, quest.known)
        key = (quest.maker.layer, quest.selector, quest.maker.measure, quest.delta)
        entries[key] = {
            **dict(zip(_KEY, key, strict=True)),
            **asdict(found),
            "level": refinement.level,
            "most_seeds": refinement.seeds,
            "most_cells": refinement.cells,
            "whole": full[quest.maker.layer, quest.maker.measure]["cell"],
        }
        tell = notice if found.short_of == "cells" else say
        tell(f"refine: {quest.name}: {_words(found, refinement)}")
    supply.ledger.writer.update_manifest(refined=list(entries.values()))


def _words(found: Found, refinement: Refinement) -> str:
    """Say what was found in a sentence."""
    if found.critical_mass is None:
        return "not reached, not even by all neurons"
    if found.low == found.high:
        return f"critical mass {found.critical_mass} neurons, settled to one neuron"
    ended = {
        "seeds": f"more than {found.n_seeds} seeds would be needed to settle it",
        "cells": f"the budget of {refinement.cells} cells is spent",
    }[str(found.short_of)]
    between = f"between {found.low} and {found.high}"
    return f"critical mass {found.critical_mass} neurons, {between}; {ended}"


def _sizes(asks: Iterable[tuple[_Quest, Sequence[Ask]]]) -> str:
    """Name the sizes of a step."""
    sizes = sorted({size for _, mine in asks for size, _ in mine})
    return f"{', '.join(map(str, sizes[:6]))}{', ...' if len(sizes) > 6 else ''} neurons"


def _deltas(given: Any) -> tuple[float, ...]:
    """Return the deltas, each once, ascending."""
    try:
        several = given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
        deltas = tuple(sorted({float(delta) for delta in several}))
    except (TypeError, ValueError) as error:
        raise CriticalMassError(
            f"refine={given!r} must be one or several shares in (0, 1], e.g. refine=0.9"
        ) from error
    for delta in deltas:
        check_delta(delta)
    if not deltas:
        raise CriticalMassError(f"refine={given!r} names no delta, e.g. refine=0.9")
    return deltas


def _budget(name: str, given: Any) -> int:
    try:
        number = operator.index(given)
    except TypeError:
        number = 0
    if number < 1:
        raise CriticalMassError(f"refine_{name}={given!r}; give a whole number of 1 or more")
    return number
