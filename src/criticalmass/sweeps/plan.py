"""What a sweep shall compute: the request, its cells, and the jobs that fill them."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import MEASURES, identity
from criticalmass.selectors.registry import SELECTORS, selector_version
from criticalmass.selectors.sizes import grid_for
from criticalmass.storage.features import FeatureStore

FULL = "full"
SPLIT = "test"
# Whose order is the layer's own; the whole layer is measured in it if no other order is at hand.
_IDENTITY_ORDER = ("first", 0)


@dataclass(frozen=True)
class Request:
    """What was asked for, each thing once and in one order, whatever order it was asked in.

    Attributes
    ----------
    layers, selectors, measures: names that exist.
    fractions: in (0, 1], ascending.
    seeds: 0 or more, ascending.
    """

    layers: tuple[str, ...]
    selectors: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    measures: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One number to be had; the fields are columns of the long table.

    The selector "full" stands for the whole layer as such: what others are compared with.
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
        """Layer and measure: what shares one value of the whole layer."""
        return self.layer, self.measure

    @property
    def repeats_full(self) -> bool:
        """Whether it is the whole layer again, in another order: the same fit, never redone."""
        return (
            self.selector != FULL
            and self.n_kept == self.n_neurons
            and MEASURES[self.measure].shares_whole
            and not SELECTORS[self.selector].is_projection
        )


@dataclass(frozen=True)
class Job:
    """Cells that are computed together.

    Attributes
    ----------
    layer, measure: the same for all.
    orders: (selector, seed) pairs; several only if they are orders, not projections.
    sizes: prefix lengths, ascending.
    cells: those that are wanted of orders x sizes; "full" is the first order's last size.
    """

    layer: str
    measure: str
    orders: tuple[tuple[str, int], ...]
    sizes: tuple[int, ...]
    cells: tuple[Cell, ...]

    def place(self, cell: Cell) -> tuple[int, int]:
        """Position of a cell in the (n_orders, n_sizes) grid."""
        size = self.sizes.index(cell.n_kept)
        return (0 if cell.selector == FULL else self.orders.index((cell.selector, cell.seed))), size


def make_request(
    store: FeatureStore,
    *,
    layers: str | Sequence[str] | None,
    selectors: str | Sequence[str],
    fractions: float | str | Iterable[float | str],
    seeds: int | str | Iterable[int],
    measures: str | Sequence[str],
) -> Request:
    """Check what the caller of a sweep wrote and bring it into one form.

    Raises
    ------
    CriticalMassError: for a name, fraction or seed that is none, or nothing to do.
    """
    return Request(
        layers=_chosen("layer", store.layers if layers is None else layers, store.layers),
        selectors=_chosen("selector", selectors, SELECTORS),
        fractions=_fractions(fractions),
        seeds=_seeds(seeds),
        measures=_chosen("measure", measures, MEASURES),
    )


def cells_of(store: FeatureStore, request: Request) -> list[Cell]:
    """List every cell of a request, the whole layer of each layer and measure among them."""
    cells = []
    for layer in request.layers:
        n_neurons = store.features(SPLIT, layer).shape[1]
        grid = grid_for(request.fractions, n_neurons)
        subsets = [(FULL, 0, 1.0, n_neurons)] + [
            (selector, seed, fraction, n_kept)
            for selector in request.selectors
            for seed in (request.seeds if SELECTORS[selector].is_random else (0,))
            for fraction, n_kept in grid
        ]
        for measure in request.measures:
            maker = CellMaker(store, layer, measure)
            cells += [maker.cell(*subset) for subset in subsets]
    return cells


@dataclass(frozen=True, eq=False)
class CellMaker:
    """Makes the cells of one layer and measure."""

    store: FeatureStore
    layer: str
    measure: str

    @cached_property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.store.features(SPLIT, self.layer).shape[1])

    @cached_property
    def _content(self) -> tuple[str, dict[str, Any]]:
        return self.store.digest(self.layer), MEASURES[self.measure].protocol

    def cell(self, selector: str, seed: int, fraction: float, n_kept: int) -> Cell:
        """Name one subset's cell by what it would compute on."""
        row: dict[str, Any] = {
            "model": self.store.model,
            "layer": self.layer,
            "dataset": self.store.dataset,
            "split": SPLIT,
            "selector": selector,
            "measure": self.measure,
            "fraction": fraction,
            "n_kept": n_kept,
            "n_neurons": self.n_neurons,
            "seed": seed,
        }
        version = selector_version(selector)
        digest, protocol = self._content
        return Cell(**row, cell=identity(digest, row, protocol, selector_version=version))


def jobs_of(cells: Iterable[Cell]) -> list[Job]:
    """Bundle cells into jobs; the job with the whole layer is the first of its measure.

    Cells that repeat the whole layer need no job and are left out.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if not cell.repeats_full:
            groups.setdefault(cell.key, []).append(cell)
    jobs: list[Job] = []
    for (_, measure), mine in groups.items():
        full = [cell for cell in mine if cell.selector == FULL]
        rest = [cell for cell in mine if cell.selector != FULL]
        bundles = _joint_jobs(rest) if MEASURES[measure].every_size else _jobs(rest)
        jobs += _with_full(full[0], bundles) if full else bundles
    return jobs


def _jobs(cells: Sequence[Cell]) -> list[Job]:
    """Make a job per projection, and per order or per set of orders that lack the same sizes."""
    by_order = _by_order(cells)
    bundles: dict[Any, list[Cell]] = {}
    for (selector, seed), mine in by_order.items():
        alone = MEASURES[mine[0].measure].one_order_per_job or SELECTORS[selector].is_projection
        sizes = tuple(cell.n_kept for cell in mine)
        key = (selector, seed) if alone else (selector, sizes)
        bundles.setdefault(key, []).extend(mine)
    return [_job(mine) for mine in bundles.values()]


def _joint_jobs(cells: Sequence[Cell]) -> list[Job]:
    """Bundle all orders, whose prefixes come from the same sums; projections stay apart."""
    by_order = _by_order(cells)
    orders = [mine for (s, _), mine in by_order.items() if not SELECTORS[s].is_projection]
    projections = [mine for (s, _), mine in by_order.items() if SELECTORS[s].is_projection]
    together = [[cell for mine in orders for cell in mine]] if orders else []
    return [_job(mine) for mine in together + projections]


def _with_full(full: Cell, jobs: Sequence[Job]) -> list[Job]:
    """Let the first job on an order fit the whole layer too; without one, add a job for it."""
    for at, job in enumerate(jobs):
        selector, seed = job.orders[0]
        # Where every seed has a whole layer of its own, that of seed 0 stands for all.
        fits = MEASURES[full.measure].shares_whole or seed == 0
        if fits and not SELECTORS[selector].is_projection:
            sizes = tuple(sorted({*job.sizes, full.n_kept}))
            carrier = replace(job, sizes=sizes, cells=(full, *job.cells))
            return [carrier, *jobs[:at], *jobs[at + 1 :]]
    alone = Job(full.layer, full.measure, (_IDENTITY_ORDER,), (full.n_kept,), (full,))
    return [alone, *jobs]


def _by_order(cells: Iterable[Cell]) -> dict[tuple[str, int], list[Cell]]:
    by_order: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        by_order.setdefault((cell.selector, cell.seed), []).append(cell)
    return by_order


def _job(cells: Sequence[Cell]) -> Job:
    orders = tuple(dict.fromkeys((cell.selector, cell.seed) for cell in cells))
    sizes = tuple(sorted({cell.n_kept for cell in cells}))
    return Job(cells[0].layer, cells[0].measure, orders, sizes, tuple(cells))


def _chosen(kind: str, given: str | Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the names given, each once, in the order of those known."""
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
    if not names:
        raise CriticalMassError(f"no {kind} given; name at least one of: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _fractions(given: float | str | Iterable[float | str]) -> tuple[float, ...]:
    try:
        several = isinstance(given, Iterable) and not isinstance(given, str)
        values: Any = given if several else (given,)
        wanted = sorted({float(value) for value in values})
    except (TypeError, ValueError) as error:
        raise CriticalMassError(
            f"fractions={given!r} must be numbers in (0, 1], e.g. fractions=(0.1, 0.5, 1.0)"
        ) from error
    # Any width shows whether they are fractions.
    grid_for(wanted, 1)
    return tuple(wanted)


def _seeds(given: Any) -> tuple[int, ...]:
    try:
        if isinstance(given, Iterable):
            wanted = sorted({operator.index(seed) for seed in given})
        else:
            wanted = list(range(operator.index(given)))
    except TypeError as error:
        raise CriticalMassError(
            f"seeds={given!r} must be how many, e.g. 5, or which, e.g. (0, 1, 2)"
        ) from error
    if not wanted or wanted[0] < 0:
        raise CriticalMassError(f"seeds={given!r}; give at least one, and seeds of 0 or more")
    return tuple(wanted)
