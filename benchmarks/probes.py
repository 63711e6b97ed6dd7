"""The speed table: ``python -m benchmarks.probes [--only NAME] [--repeats 3] [--quick]``.

Prints Markdown for docs/performance.md on stdout, and what it is doing on stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cores import Cores, measure_cores
from benchmarks.peers import SKLEARN, TORCH, Peer
from benchmarks.problems import Recipe, from_store, synthetic
from benchmarks.search import Grid, Line, compare
from benchmarks.similarity import compare_cka
from benchmarks.timing import cores, machine, tell

QUICK = Grid(fractions=(0.1, 0.5, 1.0), l2s=(1e-1, 1e-2), n_seeds=2)


@dataclass(frozen=True)
class Case:
    """A search on synthetic data."""

    recipe: Recipe
    targets: tuple[tuple[Peer, float], ...]


CASES: Mapping[str, Case] = {
    "large": Case(Recipe(20_000, 10_000, 2048, 10), ((SKLEARN, 20.0),)),
    "small": Case(Recipe(5_000, 10_000, 1280, 10), ((SKLEARN, 20.0), (TORCH, 40.0))),
    "classes": Case(Recipe(20_000, 10_000, 512, 100), ((SKLEARN, 8.0),)),
}
NAMES = (*CASES, "real", "cka", "cores")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for and print it."""
    asked = _parse(arguments)
    lines: list[Line] = []
    found: Cores | None = None
    for name in asked.only or NAMES:
        tell(f"{name}: begins")
        if name in CASES:
            lines += _synthetic(name, asked)
        elif name == "real":
            lines += _real(asked)
        elif name == "cka":
            recipe = Recipe(120, 1, 32, 3) if asked.quick else Recipe(5_000, 1, 2048, 10)
            lines += compare_cka(recipe, 3 if asked.quick else 20, asked.repeats, 1000.0)
        else:
            recipe = Recipe(300, 1, 32, 4) if asked.quick else CASES["large"].recipe
            found = measure_cores(recipe, QUICK if asked.quick else Grid(), asked.repeats)
    print(render(lines, found, asked.repeats))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved runs (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--store", type=Path, help="feature store for 'real'")
    parser.add_argument(
        "--store-rows", type=int, default=20_000, help="training rows used of it (default 20000)"
    )
    asked = parser.parse_args(arguments)
    if asked.repeats < 1:
        parser.error(f"--repeats {asked.repeats}: give at least 1")
    if asked.only and "real" in asked.only and asked.store is None:
        parser.error("--only real needs --store PATH, a feature store (make demo makes some)")
    return asked


def _synthetic(name: str, asked: argparse.Namespace) -> list[Line]:
    case = CASES[name]
    recipe, grid = case.recipe, Grid()
    if asked.quick:
        recipe, grid = Recipe(300, 200, 32, 4), QUICK
    words = f"n={recipe.n_train} d={recipe.n_neurons} C={recipe.n_classes}"
    return compare(synthetic(recipe), words, grid, case.targets, asked.repeats)


def _real(asked: argparse.Namespace) -> list[Line]:
    if asked.store is None:
        tell("real: left out, no --store")
        return []
    layer = from_store(asked.store, asked.store_rows)
    n, d = layer.x_train.shape
    words = f"real features, n={n} d={d} C={layer.n_classes}"
    grid = QUICK if asked.quick else Grid()
    return compare(layer, words, grid, ((SKLEARN, 10.0),), asked.repeats)


def render(lines: Sequence[Line], found: Cores | None, repeats: int) -> str:
    """Write the Markdown: machine, table, notes."""
    runs = "one run" if repeats == 1 else f"medians of {repeats} interleaved runs"
    text = [f"Machine: {machine()}. {runs[0].upper()}{runs[1:]}.", ""]
    if lines:
        text += [
            "| | work | against | ours CPU s | peer CPU s | CPU ratio | target | ours wall s "
            "| wall ratio | test accuracy ours / peer |",
            "| - | - | - | -: | -: | -: | -: | -: | -: | - |",
            *(_row(i, line) for i, line in enumerate(lines, 1)),
            "",
            *(f"{i}. {line.note or 'As above.'}" for i, line in enumerate(lines, 1)),
            "",
        ]
    if found is not None:
        text += _cores(found)
    return "\n".join(text)


def _row(number: int, line: Line) -> str:
    cpu = line.peer.cpu / max(line.ours.cpu, 1e-9)
    # The most that the peer could gain from the cores: its problems spread over them at no cost.
    wall = line.peer.wall / cores() / max(line.ours.wall, 1e-9)
    target = "none" if line.target is None else f">= {line.target:g}"
    cells = (
        str(number),
        line.work,
        line.against,
        f"{line.ours.cpu:.3g}",
        f"{line.peer.cpu:.4g}",
        f"**{cpu:.3g} x**",
        target,
        f"{line.ours.wall:.3g}",
        f"{wall:.3g} x",
        line.accuracy or "same problems",
    )
    return f"| {' | '.join(cells)} |"


def _cores(found: Cores) -> list[str]:
    gain = found.one.wall / max(found.all.wall, 1e-9)
    walls = f"{found.one.wall:.3g} s, {found.all.wall:.3g} s"
    return [
        "| cores and matrix products | |",
        "| - | - |",
        f"| work | {found.work} |",
        f"| wall on 1 thread, on {found.n_cores} | {walls} |",
        f"| gain of {found.n_cores} cores | **{gain:.3g} x** |",
        f"| one thread's sgemm, 2000 x 2048 x 500 | {found.limit:.3g} GFLOP/s |",
        f"| solver, useful GFLOP per CPU second (4 n k C per pass and problem) "
        f"| {found.solver:.3g} |",
        f"| share of the limit | **{100 * found.solver / found.limit:.3g} %** |",
        "",
    ]


if __name__ == "__main__":
    main()
