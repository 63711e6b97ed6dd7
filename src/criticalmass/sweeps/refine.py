"""Refinement of a run: search every critical mass to one neuron and record the results."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice, pairwise
from typing import Any

import numpy as np

from criticalmass.analysis.estimators import check_delta
from criticalmass.core.progress import warn_user, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES
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

_KEY = ("layer", "selector", "measure", "delta")


@dataclass(frozen=True)
class Refinement:
    """The critical masses to search for after the grid, and the budget of the search.

    Attributes
    ----------
    deltas: shares of the whole layer's value, each once, ascending.
    level: level at which the mean of a size is decided to be above or below the threshold.
    seeds: most seeds of a size.
    cells: most cells beyond the grid for each layer, selector, measure and delta.
    """

    deltas: tuple[float, ...]
    level: float
    seeds: int
    cells: int

    @classmethod
    def from_arguments(
        cls, deltas: float | Sequence[float], level: float, seeds: int, cells: int
    ) -> Refinement:
        """Check the arguments of `criticalmass.sweep` and normalise them.

        Raises
        ------
        CriticalMassError: a delta, the level or a budget is invalid.
        """
        if not 0.0 < level < 1.0:
            raise CriticalMassError(f"refine_level={level} is outside (0, 1); 0.95 is usual")
        return cls(
            _parse_deltas(deltas),
            level,
            _check_budget("refine_seeds", seeds),
            _check_budget("refine_cells", cells),
        )


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
    searches = list(_start_searches(cache, request, refinement))
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


def _start_searches(
    cache: CellCache, request: SweepRequest, refinement: Refinement
) -> Iterator[_Search]:
    """Make the searches of all layers and measures whose whole layer has a value above 0."""
    full_rows = cache.recorder.full_rows()
    values = cache.values()
    for layer in request.layers:
        for measure in request.measures:
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
            f"refine={refine!r} must be one or several shares in (0, 1], e.g. refine=0.9"
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
