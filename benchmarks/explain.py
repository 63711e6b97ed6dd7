"""Time of ``criticalmass explain``: ``python -m benchmarks.explain [--store DIR] [--dir DIR]``.

Runs the command several times in a child process, so that the time includes imports, reading the
compiled kernels from their cache and checking the digests of the store, as for a user. With --dir
it makes a synthetic float16 store (of 4,096 neurons by default; an existing one is reused).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.memory import make_store
from benchmarks.problems import LayerRecipe
from benchmarks.timing import (
    Seconds,
    add_load_option,
    core_count,
    describe_machine,
    measure_row,
    median,
)
from criticalmass.storage.features import FeatureStore

#: Width of the layer -> target of the time on two cores, in seconds.
_TARGETS = {1_280: 5.0, 4_096: 60.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the command on every store and print a table."""
    options = _parse(arguments)
    stores = [*options.store]
    if options.dir is not None:
        rows, width, test = (
            (600, 32, 200) if options.quick else (options.rows, options.neurons, 10_000)
        )
        path = options.dir / f"store-{rows}x{width}"
        make_store(LayerRecipe(rows, test, width, 10), path)
        stores.append(path)
    lines = []
    for path in stores:
        runs, load = measure_row(
            partial(_time_command, path, options.repeats),
            even_if_busy=options.even_if_busy or options.quick,
        )
        lines.append(f"| {path}: {load} |" if runs is None else _table_row(path, runs, load))
    print(_table(lines, options.repeats))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain", description=__doc__)
    parser.add_argument("--store", type=Path, action="append", default=[], help="a feature store")
    parser.add_argument("--dir", type=Path, help="folder for a synthetic store")
    parser.add_argument(
        "--rows", type=int, default=60_000, help="training samples of the synthetic store"
    )
    parser.add_argument("--neurons", type=int, default=4_096, help="neurons of the synthetic store")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny store, as a test")
    add_load_option(parser)
    options = parser.parse_args(arguments)
    if not options.store and options.dir is None:
        parser.error("give --store, or --dir for a synthetic store")
    return options


def _time_command(store: Path, repeats: int) -> list[Seconds]:
    code = "from criticalmass.cli.main import main; main()"
    command = [sys.executable, "-c", code, "explain", str(store)]
    return [_time_run(command) for _ in range(repeats)]


def _time_run(command: Sequence[str]) -> Seconds:
    """Time a child process; its output is discarded.

    Raises
    ------
    subprocess.CalledProcessError: the process failed; its errors are on stderr.
    """
    started, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    cpu_used = after.children_user + after.children_system
    return Seconds(cpu_used - before.children_user - before.children_system, wall)


def _table_row(path: Path, runs: Sequence[Seconds], load: str) -> str:
    """Return a row: the store, medians over the runs, and the range of the wall time."""
    store = FeatureStore.open(path, verify=False)
    rows = store.features("train", store.layers[0])
    width, medians = int(rows.shape[1]), median(runs)
    wall = [run.wall for run in runs]
    target = f"< {_TARGETS[width]:g}" if width in _TARGETS else "none"
    name = f"{store.model} on {store.dataset}, {int(rows.shape[0]):,} x {width:,} {rows.dtype}"
    return (
        f"| {name}, {len(store.class_names)} classes | {medians.wall:.3g} "
        f"({min(wall):.3g} to {max(wall):.3g}) | {medians.cpu:.3g} | {target} | {load} |"
    )


def _table(lines: Sequence[str], repeats: int) -> str:
    head = ["| features | wall s, median (range) | CPU s | target, wall s | load |"]
    head.append("| - | -: | -: | -: | - |")
    heading = f"Machine: {describe_machine()}. {repeats} runs of the command, {core_count()} cores."
    return "\n".join([heading, "", *head, *lines])


if __name__ == "__main__":
    main()
