"""Refinement of a run: search every critical mass to one neuron and record the results."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, islice, pairwise
from typing import Any

import numpy as np

from criticalmass.analysis.estimators import check_delta
from criticalmass.core.progress import warn_user, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES, has_critical_mass
from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import grid_for
from criticalmass.sweeps.bisection import (
    SearchProblem,
    SearchResult,
    SizeRequest,
    SizeStats,
    next_requests,
    search_result,
    seed_schedule,
)
from criticalmass.sweeps.cell_cache import CellCache, CellRequest
from criticalmass.sweeps.plan import CellMaker, SweepCell, SweepRequest
from criticalmass.sweeps.predict import sweep_flops

_KEY = ("layer", "selector", "measure", "delta")
#: Values of ``refine`` beside deltas, and the deltas and share of the grid's work of "auto".
AUTO, NO_REFINEMENT = "auto", "none"
AUTO_DELTAS, AUTO_SHARE = (0.8, 0.9, 0.95), 0.1


@dataclass(frozen=True)
class Refinement:
    """The critical masses to search for after the grid, and the budget of the search.

    Attributes
    ----------
    deltas: shares of the whole layer's value, each once, ascending.
    level: level at which the mean of a size is decided to be above or below the threshold.
    seeds: most seeds of a size.
    cells: most cells beyond the grid for each layer, selector, measure and delta.
    work_share: largest share of the grid's work that the searches may cost together; measures
        beyond it are not searched. None searches all.
    """

    deltas: tuple[float, ...]
    level: float
    seeds: int
    cells: int
    work_share: float | None = None

    @classmethod
    def from_arguments(
        cls, deltas: float | str | Sequence[float] | None, level: float, seeds: int, cells: int
    ) -> Refinement | None:
        """Check the arguments of `criticalmass.sweep` and normalise them; None refines nothing.

        Raises
        ------
        CriticalMassError: a delta, the level or a budget is invalid.
        """
        if not 0.0 < level < 1.0:
            raise CriticalMassError(f"refine_level={level} is outside (0, 1); 0.95 is usual")
        budgets = _check_budget("refine_seeds", seeds), _check_budget("refine_cells", cells)
        if isinstance(deltas, Sequence) and len(deltas) == 1:
            deltas = deltas[0]  # the command line repeats its option
        if deltas is None or deltas == NO_REFINEMENT:
            return None
        if isinstance(deltas, str) and deltas.partition(":")[0] == AUTO:
            words = deltas.partition(":")[2]
            chosen = words.split(",") if words else AUTO_DELTAS
            return cls(_parse_deltas(chosen), level, *budgets, AUTO_SHARE)
        return cls(_parse_deltas(deltas), level, *budgets)


def auto_refinement(deltas: float | Sequence[float]) -> str:
    """Return the value of ``refine`` that refines to some deltas where that costs little."""
    return f"{AUTO}:{','.join(f'{delta!r}' for delta in _parse_deltas(deltas))}"


class _Search:
    """The search on one curve for one threshold.

    Parameters
    ----------
    maker: makes the cells of the layer and measure.
    selector: the selector.
    delta: share of the whole layer's value.
    problem: the curve, threshold and budget.
    seeds: seeds in the order in which every size takes them.
    fractions: size -> fraction, for the sizes of the grid.
    stats: size -> what is measured, for the sizes of the grid that have values.
    """

    def __init__(
        self,
        maker: CellMaker,
        selector: str,
        delta: float,
        problem: SearchProblem,
        *,
        seeds: tuple[int, ...],
        fractions: Mapping[int, float],
        stats: Mapping[int, SizeStats],
    ) -> None:
        self.maker = maker
        self.selector = selector
        self.delta = delta
        self.problem = problem
        self._seeds = seeds
        self._fractions = fractions
        self._stats = dict(stats)

    def cells(self, size: int, n_seeds: int) -> list[SweepCell]:
        """Return the cells of a size; a size of the grid keeps the fraction of the grid."""
        fraction = self._fractions.get(size, size / self.maker.layer.n_neurons)
        seeds = self._seeds[:n_seeds]
        return [self.maker.cell(self.selector, seed, fraction, size) for seed in seeds]

    def possible_cells(self, size: int) -> list[SweepCell]:
        """Return every cell that the search may request in the grid gap that contains a size."""
        ends = sorted({0, *self.problem.grid, self.maker.layer.n_neurons})
        low, high = next((a, b) for a, b in pairwise(ends) if a < size <= b)
        return [c for k in range(low + 1, high + 1) for c in self.cells(k, len(self._seeds))]

    def bracket(self) -> tuple[int, int]:
        """Return the tested sizes around the threshold, 0 and the whole layer included."""
        means = {size: float(np.mean(one.values)) for size, one in self._stats.items()}
        passing = [k for k in sorted(means) if means[k] >= self.problem.threshold]
        high = passing[0] if passing else self.problem.n_neurons
        return max((k for k in means if k < high), default=0), high

    def next_requests(self) -> tuple[SizeRequest, ...]:
        """Return the sizes to measure next."""
        return next_requests(self.problem, self._stats)

    def add_values(self, requests: Iterable[SizeRequest], values: Mapping[str, float]) -> None:
        """Add the values of requested sizes; failed cells have none."""
        for size, n_seeds in requests:
            names = [cell.cell for cell in self.cells(size, n_seeds)]
            measured = [values[name] for name in names if name in values]
            self._stats[size] = SizeStats(n_seeds, np.array(measured))

    def result(self) -> SearchResult:
        """Return the critical mass and its interval so far."""
        return search_result(self.problem, self._stats)

    @property
    def title(self) -> str:
        """Layer, selector, measure and delta, for messages."""
        layer, measure = self.maker.layer.name, self.maker.measure
        return f"{layer}, {self.selector}, {measure}, delta {self.delta:g}"


def refine_run(cache: CellCache, request: SweepRequest, refinement: Refinement) -> list[SweepCell]:
    """Search every critical mass of a request whose grid is in the run.

    All searches advance together, one step at a time, so that their cells on one order form one
    job. A step depends only on the grid and the steps before it: a search continued after an
    interruption takes the same steps and computes what is missing.

    Parameters
    ----------
    cache: the run, and the source of missing cells.
    request: the request of the grid.
    refinement: deltas and budget.

    Returns
    -------
    The requested cells.
    """
    searches = _affordable_searches(
        list(_start_searches(cache, request, refinement)), request, refinement
    )
    requested: dict[str, SweepCell] = {}
    for step in count(1):
        requests = [(search, search.next_requests()) for search in searches]
        cell_requests = {
            cell.cell: CellRequest(cell, search.possible_cells)
            for search, size_requests in requests
            for size_request in size_requests
            for cell in search.cells(*size_request)
        }
        if not cell_requests:
            break
        requested |= {name: one.cell for name, one in cell_requests.items()}
        sizes = {size for _, size_requests in requests for size, _ in size_requests}
        cache.ensure(cell_requests.values(), f"refine, step {step} ({_list_sizes(sizes)})")
        values = cache.values()
        for search, size_requests in requests:
            search.add_values(size_requests, values)
    _record_results(cache, searches, refinement)
    return list(requested.values())


def _affordable_searches(
    searches: list[_Search], request: SweepRequest, refinement: Refinement
) -> list[_Search]:
    """Return the searches within the budget of work, and say what is searched and left out.

    Measures of one layer are taken in order of their cost, which is deterministic: it is counted
    in operations (`measures.flops`), not in seconds.
    """
    if refinement.work_share is None:
        return searches
    total, spent = sweep_flops(request), 0.0
    by_part: dict[tuple[str, str], list[_Search]] = {}
    for search in searches:
        by_part.setdefault((search.maker.layer.name, search.maker.measure), []).append(search)
    costs = {part: search_flops(group, request) / total for part, group in by_part.items()}
    affordable: list[_Search] = []
    for part in sorted(costs, key=lambda part: (costs[part], part)):
        name = f"refine: {part[1]} on {part[0]}"
        if spent + costs[part] <= refinement.work_share:
            spent += costs[part]
            affordable += by_part[part]
            write_line(f"{name}: searched, at up to {_percent(costs[part])} of the sweep's work")
        else:
            write_line(
                f"{name}: left out, because it may cost up to {_percent(costs[part])} of the "
                f"sweep's work; ask for it with refine={refinement.deltas[-1]:g}"
            )
    return affordable


def search_flops(searches: Sequence[_Search], request: SweepRequest) -> float:
    """Return a bound on the operations of the searches on one layer and measure.

    A measure that computes all sizes of an order at once makes one pass per order. The others
    halve the gap between the tested sizes around each threshold, with every seed of the schedule
    at the size above it.
    """
    first = searches[0]
    measure = MEASURES[first.maker.measure]
    sizes = request.sizes_of(first.maker.layer, n_threads=1, held_bytes=0)
    selectors = {search.selector: search.problem.seed_counts[-1] for search in searches}
    if measure.every_size:
        return measure.flops(replace(sizes, n_orders=sum(selectors.values())))
    total = 0.0
    for search in searches:
        low, high = search.bracket()
        steps = math.ceil(math.log2(max(1, high - low)))
        if steps:
            n_orders = search.problem.seed_counts[-1]
            total += measure.flops(replace(sizes, sizes=(high,) * steps, n_orders=n_orders))
    return total


def _percent(share: float) -> str:
    return f"{math.ceil(100 * share):,} %"


def _start_searches(
    cache: CellCache, request: SweepRequest, refinement: Refinement
) -> Iterator[_Search]:
    """Make the searches of layers and measures with critical masses and a value above 0."""
    full_rows = cache.recorder.full_rows()
    values = cache.values()
    for layer in request.layers:
        for measure in filter(has_critical_mass, request.measures):
            value_full = full_rows[layer.name, measure].get("value")
            if value_full is None or value_full <= 0.0:
                warn_user(
                    f"refine: {layer.name}, {measure}: the whole layer has no value above 0, so no "
                    "critical mass is searched"
                )
                continue
            maker = CellMaker(layer, measure)
            for selector in request.selectors:
                for delta in refinement.deltas:
                    yield _start_search(
                        cache, maker, selector, delta, float(value_full), refinement, values
                    )


def _start_search(
    cache: CellCache,
    maker: CellMaker,
    selector: str,
    delta: float,
    value_full: float,
    refinement: Refinement,
    values: Mapping[str, float],
) -> _Search:
    """Start one search from the grid sizes that are in the run."""
    manifest, info = cache.recorder.run.manifest, SELECTORS[selector]
    fractions = {size: f for f, size in grid_for(manifest["fractions"], maker.layer.n_neurons)}
    # All seeds of the run, so that the means are those that `redundancy` computes.
    base_seeds = tuple(manifest["seeds"]) if info.is_random else (0,)
    stats = {}
    for size, fraction in fractions.items():
        names = [maker.cell(selector, seed, fraction, size).cell for seed in base_seeds]
        measured = [values[name] for name in names if name in values]
        if measured:
            stats[size] = SizeStats(0, np.array(measured))
    n_base = len(base_seeds)
    counts = seed_schedule(n_base, refinement.seeds) if info.is_random else (1,)
    problem = SearchProblem(
        grid=tuple(stats),
        n_neurons=maker.layer.n_neurons,
        threshold=delta * value_full,
        seed_counts=counts[-1:] if MEASURES[maker.measure].every_size else counts,
        n_base_seeds=n_base,
        level=refinement.level,
        full_layer_passes=MEASURES[maker.measure].full_value_is_shared and not info.is_projection,
        max_cells=refinement.cells,
        is_random=info.is_random,
    )
    n_extra = max(0, counts[-1] - n_base)
    extra_seeds = islice((seed for seed in count() if seed not in base_seeds), n_extra)
    return _Search(
        maker,
        selector,
        delta,
        problem,
        seeds=(*base_seeds, *extra_seeds),
        fractions=fractions,
        stats=stats,
    )


def _record_results(cache: CellCache, searches: Sequence[_Search], refinement: Refinement) -> None:
    """Write the results into the manifest and show them."""
    full_rows = cache.recorder.full_rows()
    recorded = cache.recorder.run.manifest.get("refined", ())
    entries = {tuple(entry[name] for name in _KEY): entry for entry in recorded}
    for search in searches:
        result = search.result()
        key = (search.maker.layer.name, search.selector, search.maker.measure, search.delta)
        entries[key] = {
            **dict(zip(_KEY, key, strict=True)),
            **asdict(result),
            "level": refinement.level,
            "most_seeds": refinement.seeds,
            "most_cells": refinement.cells,
            "whole": full_rows[search.maker.layer.name, search.maker.measure]["cell"],
        }
        show = warn_user if result.short_of == "cells" else write_line
        show(f"refine: {search.title}: {_describe_result(result, refinement)}")
    cache.recorder.writer.update_manifest(refined=list(entries.values()))


def _describe_result(result: SearchResult, refinement: Refinement) -> str:
    if result.critical_mass is None:
        return "not reached, not even by all neurons"
    if result.low == result.high:
        return f"critical mass {result.critical_mass} neurons, exact to one neuron"
    reason = {
        "seeds": f"more than {result.n_seeds} seeds would be needed to narrow it down",
        "cells": f"the budget of {refinement.cells} cells is spent",
    }[str(result.short_of)]
    interval = f"between {result.low} and {result.high}"
    return f"critical mass {result.critical_mass} neurons, {interval}; {reason}"


def _list_sizes(sizes: Iterable[int]) -> str:
    """Return the first sizes as text."""
    ascending = sorted(sizes)
    rest = ", ..." if len(ascending) > 6 else ""
    return f"{', '.join(map(str, ascending[:6]))}{rest} neurons"


def _parse_deltas(refine: Any) -> tuple[float, ...]:
    """Return the deltas, each once, ascending."""
    try:
        is_sequence = isinstance(refine, Iterable) and not isinstance(refine, str)
        deltas = tuple(sorted({float(delta) for delta in (refine if is_sequence else (refine,))}))
    except (TypeError, ValueError) as error:
        raise CriticalMassError(
            f"refine={refine!r} must be one or several shares in (0, 1], e.g. refine=0.9, or "
            "'auto' or 'none'"
        ) from error
    for delta in deltas:
        check_delta(delta)
    if not deltas:
        raise CriticalMassError(f"refine={refine!r} has no delta; give at least one, e.g. 0.9")
    return deltas


def _check_budget(name: str, budget: Any) -> int:
    try:
        number = operator.index(budget)
    except TypeError:
        number = 0
    if number < 1:
        raise CriticalMassError(f"{name}={budget!r}; give a whole number of 1 or more")
    return number
