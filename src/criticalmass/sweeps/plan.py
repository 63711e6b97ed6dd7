"""The plan of a sweep: the request, its cells, and the jobs that compute them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from criticalmass.errors import CriticalMassError
from criticalmass.measures.memory import LayerSizes
from criticalmass.measures.registry import MEASURES, identity
from criticalmass.selectors.registry import SELECTORS, selector_version
from criticalmass.selectors.sizes import grid_for, sizes_for
from criticalmass.sweeps.layer_info import SPLIT, LayerInfo, check_names

FULL = "full"
# The order that keeps the neurons as they are; the whole layer is measured in it if the sweep
# has no other order for it.
_IDENTITY_ORDER = ("first", 0)


@dataclass(frozen=True)
class SweepRequest:
    """What a sweep measures: each name and number once, in a fixed order.

    Attributes
    ----------
    layers: in the order of the store.
    selectors, measures: existing names, in the order of the registry.
    fractions: in (0, 1], ascending.
    seeds: 0 or more, ascending.
    """

    layers: tuple[LayerInfo, ...]
    selectors: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    measures: tuple[str, ...]

    def sizes_of(self, layer: LayerInfo, n_threads: int, held_bytes: int) -> LayerSizes:
        """Return the sizes of a layer of the request, for estimates of memory and work."""
        width = layer.n_neurons
        n_random = sum(SELECTORS[name].is_random for name in self.selectors)
        return LayerSizes(
            n_train=layer.n_train,
            n_test=layer.n_test,
            n_neurons=width,
            n_classes=layer.n_classes,
            item_bytes=layer.item_bytes,
            sizes=tuple(sorted({*sizes_for(self.fractions, width), width})),
            n_orders=n_random * len(self.seeds) + len(self.selectors) - n_random,
            n_threads=n_threads,
            held_bytes=held_bytes,
            is_collection=layer.is_collection,
        )


@dataclass(frozen=True)
class SweepCell:
    """One value to compute; the fields are columns of the long table.

    The selector ``"full"`` means the whole layer, with which the subsets are compared.
    """

    model: str
    layer: str
    dataset: str
    split: str
    selector: str
    measure: str
    fraction: float
    n_kept: int
    n_neurons: int
    seed: int
    cell: str

    @property
    def key(self) -> tuple[str, str]:
        """Layer and measure; cells with the same key share one value of the whole layer."""
        return self.layer, self.measure

    @property
    def repeats_full(self) -> bool:
        """Whether this is the whole layer in another order, which is the same fit."""
        return (
            self.selector != FULL
            and self.n_kept == self.n_neurons
            and MEASURES[self.measure].full_value_is_shared
            and not SELECTORS[self.selector].is_projection
        )


@dataclass(frozen=True)
class SweepJob:
    """Cells that are computed together.

    Attributes
    ----------
    layer, measure: the same for all cells.
    orders: (selector, seed) pairs; more than one only if they are orders, not projections.
    sizes: prefix lengths, ascending.
    cells: the cells to compute, a subset of orders x sizes; the cell "full" is the last size of
        the first order.
    """

    layer: str
    measure: str
    orders: tuple[tuple[str, int], ...]
    sizes: tuple[int, ...]
    cells: tuple[SweepCell, ...]

    def grid_index(self, cell: SweepCell) -> tuple[int, int]:
        """Return the position of a cell in the (n_orders, n_sizes) grid."""
        order = 0 if cell.selector == FULL else self.orders.index((cell.selector, cell.seed))
        return order, self.sizes.index(cell.n_kept)


def make_request(
    layers: tuple[LayerInfo, ...],
    *,
    selectors: str | Sequence[str],
    fractions: float | str | Iterable[float | str],
    seeds: int | str | Iterable[int],
    measures: str | Sequence[str],
) -> SweepRequest:
    """Check the arguments of a sweep and normalise them.

    Raises
    ------
    CriticalMassError: a name, fraction or seed is invalid, or one of the lists is empty.
    """
    return SweepRequest(
        layers=layers,
        selectors=check_names("selector", selectors, SELECTORS),
        fractions=_parse_fractions(fractions),
        seeds=_parse_seeds(seeds),
        measures=check_names("measure", measures, MEASURES),
    )


def list_cells(request: SweepRequest) -> list[SweepCell]:
    """List every cell of a request, with the whole layer of each layer and measure."""
    cells = []
    for layer in request.layers:
        grid = grid_for(request.fractions, layer.n_neurons)
        subsets = [(FULL, 0, 1.0, layer.n_neurons)] + [
            (selector, seed, fraction, n_kept)
            for selector in request.selectors
            for seed in (request.seeds if SELECTORS[selector].is_random else (0,))
            for fraction, n_kept in grid
        ]
        for measure in request.measures:
            maker = CellMaker(layer, measure)
            cells += [maker.cell(*subset) for subset in subsets]
    return cells


@dataclass(frozen=True, eq=False)
class CellMaker:
    """Makes the cells of one layer and measure."""

    layer: LayerInfo
    measure: str

    @cached_property
    def _protocol(self) -> dict[str, Any]:
        return MEASURES[self.measure].protocol_on(self.layer.stored)

    def cell(self, selector: str, seed: int, fraction: float, n_kept: int) -> SweepCell:
        """Return the cell of one subset, with its identity."""
        row: dict[str, Any] = {
            "model": self.layer.model,
            "layer": self.layer.name,
            "dataset": self.layer.dataset,
            "split": SPLIT,
            "selector": selector,
            "measure": self.measure,
            "fraction": fraction,
            "n_kept": n_kept,
            "n_neurons": self.layer.n_neurons,
            "seed": seed,
        }
        version = selector_version(selector)
        name = identity(self.layer.digest, row, self._protocol, selector_version=version)
        return SweepCell(**row, cell=name)


def make_jobs(cells: Iterable[SweepCell]) -> list[SweepJob]:
    """Group cells into jobs; the job with the whole layer is the first of its measure.

    Cells that repeat the whole layer need no job and are left out.
    """
    groups: dict[tuple[str, str], list[SweepCell]] = {}
    for cell in cells:
        if not cell.repeats_full:
            groups.setdefault(cell.key, []).append(cell)
    jobs: list[SweepJob] = []
    for (_, measure), group in groups.items():
        full = [cell for cell in group if cell.selector == FULL]
        rest = [cell for cell in group if cell.selector != FULL]
        group_jobs = _joint_jobs(rest) if MEASURES[measure].every_size else _separate_jobs(rest)
        jobs += _add_full(full[0], group_jobs) if full else group_jobs
    return jobs


def _separate_jobs(cells: Sequence[SweepCell]) -> list[SweepJob]:
    """Make a job per projection, and per order or per set of orders with the same sizes."""
    bundles: dict[Any, list[SweepCell]] = {}
    for (selector, seed), group in _group_by_order(cells).items():
        alone = MEASURES[group[0].measure].one_order_per_job or SELECTORS[selector].is_projection
        sizes = tuple(cell.n_kept for cell in group)
        key = (selector, seed) if alone else (selector, sizes)
        bundles.setdefault(key, []).extend(group)
    return [_make_job(bundle) for bundle in bundles.values()]


def _joint_jobs(cells: Sequence[SweepCell]) -> list[SweepJob]:
    """Make one job of all orders, whose prefixes share the same sums, and one per projection."""
    by_order = _group_by_order(cells)
    orders = [group for (s, _), group in by_order.items() if not SELECTORS[s].is_projection]
    projections = [group for (s, _), group in by_order.items() if SELECTORS[s].is_projection]
    joint = [[cell for group in orders for cell in group]] if orders else []
    return [_make_job(group) for group in joint + projections]


def _add_full(full: SweepCell, jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """Add the whole layer to the first job on an order, or add a job for it."""
    for index, job in enumerate(jobs):
        selector, seed = job.orders[0]
        # If every seed has its own fit of the whole layer, that of seed 0 is the reference.
        suitable = MEASURES[full.measure].full_value_is_shared or seed == 0
        if suitable and not SELECTORS[selector].is_projection:
            sizes = tuple(sorted({*job.sizes, full.n_kept}))
            extended = replace(job, sizes=sizes, cells=(full, *job.cells))
            return [extended, *jobs[:index], *jobs[index + 1 :]]
    full_job = SweepJob(full.layer, full.measure, (_IDENTITY_ORDER,), (full.n_kept,), (full,))
    return [full_job, *jobs]


def _group_by_order(cells: Iterable[SweepCell]) -> dict[tuple[str, int], list[SweepCell]]:
    by_order: dict[tuple[str, int], list[SweepCell]] = {}
    for cell in cells:
        by_order.setdefault((cell.selector, cell.seed), []).append(cell)
    return by_order


def _make_job(cells: Sequence[SweepCell]) -> SweepJob:
    orders = tuple(dict.fromkeys((cell.selector, cell.seed) for cell in cells))
    sizes = tuple(sorted({cell.n_kept for cell in cells}))
    return SweepJob(cells[0].layer, cells[0].measure, orders, sizes, tuple(cells))


def _parse_fractions(fractions: float | str | Iterable[float | str]) -> tuple[float, ...]:
    try:
        is_sequence = isinstance(fractions, Iterable) and not isinstance(fractions, str)
        values: Any = fractions if is_sequence else (fractions,)
        parsed = sorted({float(value) for value in values})
    except (TypeError, ValueError) as error:
        raise CriticalMassError(
            f"fractions={fractions!r} must be numbers in (0, 1], e.g. fractions=(0.1, 0.5, 1.0)"
        ) from error
    # The width does not matter here: `grid_for` raises for values outside (0, 1].
    grid_for(parsed, 1)
    return tuple(parsed)


def _parse_seeds(seeds: Any) -> tuple[int, ...]:
    try:
        if isinstance(seeds, Iterable):
            parsed = sorted({operator.index(seed) for seed in seeds})
        else:
            parsed = list(range(operator.index(seeds)))
    except TypeError as error:
        raise CriticalMassError(
            f"seeds={seeds!r} must be a number of seeds, e.g. 5, or the seeds, e.g. (0, 1, 2)"
        ) from error
    if not parsed or parsed[0] < 0:
        raise CriticalMassError(f"seeds={seeds!r}; give at least one, and seeds of 0 or more")
    return tuple(parsed)
