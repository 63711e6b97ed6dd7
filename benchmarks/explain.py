"""Time of ``criticalmass explain``: ``python -m benchmarks.explain [--store DIR] [--dir DIR]``.

Runs the command in a child process, several times, so that imports, compiled kernels read from
their cache and the check of the store's digests are on the clock, as they are for a user. Without
a store it makes a synthetic float16 one in DIR (of 4,096 neurons by default; taken up again if it
is there).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.memory import make_store
from benchmarks.problems import Recipe
from benchmarks.timing import Seconds, cores, machine, median
from criticalmass.storage.features import FeatureStore

#: Seconds on two cores that the command is to stay under, by width of the layer.
_TARGETS = {1_280: 5.0, 4_096: 60.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the command on every store and print a table."""
    asked = _parse(arguments)
    stores = [*asked.store]
    if asked.dir is not None:
        rows, width, test = (600, 32, 200) if asked.quick else (asked.rows, asked.neurons, 10_000)
        path = asked.dir / f"store-{rows}x{width}"
        make_store(Recipe(rows, test, width, 10), path)
        stores.append(path)
    lines = [_line(path, _runs(path, asked.repeats)) for path in stores]
    print(_table(lines, asked.repeats))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain", description=__doc__)
    parser.add_argument("--store", type=Path, action="append", default=[], help="a feature store")
    parser.add_argument("--dir", type=Path, help="folder for a synthetic store")
    parser.add_argument("--rows", type=int, default=60_000, help="its training samples")
    parser.add_argument("--neurons", type=int, default=4_096, help="its width")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny store, to see that it runs")
    asked = parser.parse_args(arguments)
    if not asked.store and asked.dir is None:
        parser.error("give --store, or --dir for a synthetic one")
    return asked


def _runs(store: Path, repeats: int) -> list[Seconds]:
    code = "from criticalmass.cli.main import main; main()"
    command = [sys.executable, "-c", code, "explain", str(store)]
    return [_run(command) for _ in range(repeats)]


def _run(command: Sequence[str]) -> Seconds:
    """Time a child process; what it prints is thrown away.

    Raises
    ------
    subprocess.CalledProcessError: if it fails; its words are on stderr.
    """
    began, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system
    return Seconds(used - before.children_user - before.children_system, wall)


def _line(path: Path, runs: Sequence[Seconds]) -> str:
    """One row: the store, then medians over the runs and their range on the clock."""
    store = FeatureStore.open(path, verify=False)
    rows = store.features("train", store.layers[0])
    width, middle = int(rows.shape[1]), median(runs)
    wall = [run.wall for run in runs]
    target = f"< {_TARGETS[width]:g}" if width in _TARGETS else "none"
    name = f"{store.model} on {store.dataset}, {int(rows.shape[0]):,} x {width:,} {rows.dtype}"
    return (
        f"| {name}, {len(store.class_names)} classes | {middle.wall:.3g} "
        f"({min(wall):.3g} to {max(wall):.3g}) | {middle.cpu:.3g} | {target} |"
    )


def _table(lines: Sequence[str], repeats: int) -> str:
    head = ["| features | wall s, median (range) | CPU s | target, wall s |"]
    head.append("| - | -: | -: | -: |")
    said = f"Machine: {machine()}. {repeats} runs of the command, {cores()} cores."
    return "\n".join([said, "", *head, *lines])


if __name__ == "__main__":
    main()
