"""The speed table: ``python -m benchmarks.probes [--only NAME] [--repeats 3] [--quick]``.

Prints Markdown for docs/performance.md on stdout, and progress on stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.cores import CoreTimes, measure_cores
from benchmarks.peers import SKLEARN, TORCH, Peer
from benchmarks.problems import (
    LayerArrays,
    LayerRecipe,
    easy_layer,
    layer_from_store,
    synthetic_layer,
)
from benchmarks.search import ComparisonRow, SearchGrid, compare
from benchmarks.similarity import compare_cka
from benchmarks.timing import add_load_option, core_count, describe_machine, log, measure_row

QUICK = SearchGrid(fractions=(0.1, 0.5, 1.0), l2s=(1e-1, 1e-2), n_seeds=2)


@dataclass(frozen=True)
class SyntheticCase:
    """A search on synthetic data."""

    recipe: LayerRecipe
    targets: tuple[tuple[Peer, float], ...]
    grid: SearchGrid = field(default_factory=SearchGrid)
    draw: Callable[[LayerRecipe], LayerArrays] = synthetic_layer


CASES: Mapping[str, SyntheticCase] = {
    "large": SyntheticCase(LayerRecipe(20_000, 10_000, 2048, 10), ((SKLEARN, 20.0),)),
    "small": SyntheticCase(LayerRecipe(5_000, 10_000, 1280, 10), ((SKLEARN, 20.0), (TORCH, 40.0))),
    "classes": SyntheticCase(LayerRecipe(20_000, 10_000, 512, 100), ((SKLEARN, 8.0),)),
    "easy": SyntheticCase(
        LayerRecipe(5_000, 10_000, 1280, 10),
        ((SKLEARN, 8.0),),
        SearchGrid(l2s=(1e-1, 1e-2, 1e-3), n_seeds=1),
        easy_layer,
    ),
}
NAMES = (*CASES, "real", "cka", "cores")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen cases and print the tables."""
    options = _parse(arguments)
    rows: list[ComparisonRow] = []
    core_times: CoreTimes | None = None
    loads = []
    for name in options.only or NAMES:
        log(f"{name}: started")
        measured, load = measure_row(
            partial(_measure, name, options), even_if_busy=options.even_if_busy or options.quick
        )
        loads.append(f"{name}: {load}.")
        if measured is not None:
            rows += measured[0]
            core_times = measured[1] or core_times
    print(render(rows, core_times, options.repeats))
    print("\n".join(loads))


def _measure(
    name: str, options: argparse.Namespace
) -> tuple[list[ComparisonRow], CoreTimes | None]:
    """Measure one case: its rows, or the times on one core and on all."""
    if name in CASES:
        return _synthetic(name, options), None
    if name == "real":
        return _real(options), None
    if name == "cka":
        recipe = LayerRecipe(120, 1, 32, 3) if options.quick else LayerRecipe(5_000, 1, 2048, 10)
        return compare_cka(recipe, 3 if options.quick else 20, options.repeats, 1000.0), None
    recipe = LayerRecipe(300, 1, 32, 4) if options.quick else CASES["large"].recipe
    grid = QUICK if options.quick else SearchGrid()
    return [], measure_cores(recipe, grid, options.repeats)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved runs (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    parser.add_argument("--store", type=Path, help="feature store for 'real'")
    parser.add_argument(
        "--store-rows",
        type=int,
        default=20_000,
        help="most training rows of the store (default 20000)",
    )
    add_load_option(parser)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give at least 1")
    if options.only and "real" in options.only and options.store is None:
        parser.error("--only real needs --store PATH, a feature store (make demo makes some)")
    return options


def _synthetic(name: str, options: argparse.Namespace) -> list[ComparisonRow]:
    case = CASES[name]
    recipe, grid = case.recipe, case.grid
    if options.quick:
        recipe, grid = LayerRecipe(300, 200, 32, 4), QUICK
    kind = "" if case.draw is synthetic_layer else f"{name} "
    description = f"{kind}n={recipe.n_train} d={recipe.n_neurons} C={recipe.n_classes}"
    return compare(case.draw(recipe), description, grid, case.targets, options.repeats)


def _real(options: argparse.Namespace) -> list[ComparisonRow]:
    if options.store is None:
        log("real: skipped, because there is no --store")
        return []
    layer = layer_from_store(options.store, options.store_rows)
    n, d = layer.x_train.shape
    description = f"real features, n={n} d={d} C={layer.n_classes}"
    grid = QUICK if options.quick else SearchGrid()
    return compare(layer, description, grid, ((SKLEARN, 10.0),), options.repeats)


def render(rows: Sequence[ComparisonRow], core_times: CoreTimes | None, repeats: int) -> str:
    """Return the Markdown: machine, tables and notes."""
    runs = "one run" if repeats == 1 else f"medians of {repeats} interleaved runs"
    text = [f"Machine: {describe_machine()}. {runs[0].upper()}{runs[1:]}.", ""]
    if rows:
        text += [
            "| | work | against | ours CPU s | peer CPU s | CPU ratio | target | ours wall s "
            "| wall ratio | test accuracy ours / peer |",
            "| - | - | - | -: | -: | -: | -: | -: | -: | - |",
            *(_table_row(i, row) for i, row in enumerate(rows, 1)),
            "",
            *(f"{i}. {row.note or 'As above.'}" for i, row in enumerate(rows, 1)),
            "",
        ]
    if core_times is not None:
        text += _core_table(core_times)
    return "\n".join(text)


def _table_row(number: int, row: ComparisonRow) -> str:
    cpu = row.peer.cpu / max(row.ours.cpu, 1e-9)
    # Lower bound of the peer's wall time on all cores: its problems distributed without overhead.
    wall = row.peer.wall / core_count() / max(row.ours.wall, 1e-9)
    target = "none" if row.target is None else f">= {row.target:g}"
    cells = (
        str(number),
        row.work,
        row.against,
        f"{row.ours.cpu:.3g}",
        f"{row.peer.cpu:.4g}",
        f"**{cpu:.3g} x**",
        target,
        f"{row.ours.wall:.3g}",
        f"{wall:.3g} x",
        row.accuracy or "same problems",
    )
    return f"| {' | '.join(cells)} |"


def _core_table(times: CoreTimes) -> list[str]:
    gain = times.one.wall / max(times.all.wall, 1e-9)
    walls = f"{times.one.wall:.3g} s, {times.all.wall:.3g} s"
    return [
        "| cores and matrix products | |",
        "| - | - |",
        f"| work | {times.work} |",
        f"| wall on 1 thread, on {times.n_cores} | {walls} |",
        f"| gain of {times.n_cores} cores | **{gain:.3g} x** |",
        f"| one thread's sgemm, 2000 x 2048 x 500 | {times.limit:.3g} GFLOP/s |",
        f"| solver, useful GFLOP per CPU second (4 n k C per pass and problem) "
        f"| {times.solver:.3g} |",
        f"| share of the limit | **{100 * times.solver / times.limit:.3g} %** |",
        "",
    ]


if __name__ == "__main__":
    main()
