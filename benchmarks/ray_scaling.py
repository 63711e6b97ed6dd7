"""Scaling of sweeps over workers of Ray: ``python -m benchmarks.ray_scaling --dir DIR``.

Sweeps the same store with one worker and with two, in turn, and holds the times against a cost
model whose constants come from the runs with one. Then the model is carried on, on paper, to
1.2 million x 2,048 features on 8 and 64 machines.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.memory import make_store
from benchmarks.problems import Recipe
from benchmarks.timing import machine, tell
from criticalmass.core.ray_backend import Ray
from criticalmass.core.threads import limit_threads
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps.sweep import sweep

FRACTIONS = (0.1, 0.3, 0.5, 0.9)
# Assumed of the machines on paper: cores, memory, and bytes a second of network and file system.
CORES, NETWORK, DISK = 32, 1.25e9, 2.0e9
# Twelve fractions of the whole layer, as they are by default; passes of a fit, race included.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0)
PASSES = 40


@dataclass(frozen=True)
class Timing:
    """One sweep: workers, wall seconds, seconds of its jobs, floating-point operations of them."""

    workers: int
    wall: float
    jobs: tuple[float, ...]
    operations: float


@contextmanager
def workers(count: int) -> Iterator[None]:
    """Start Ray with so many workers of one CPU."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local",
        num_cpus=count,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield
    finally:
        ray.shutdown()


def idle(_: int) -> int:
    """Do nothing, to time what a task costs by itself."""
    return 0


def timed(store: FeatureStore, count: int, seeds: int) -> tuple[Timing, float]:
    """Sweep with so many workers; also return the seconds of a task that does nothing."""
    with (
        workers(count),
        tempfile.TemporaryDirectory(dir=store.path.parent) as out,
        limit_threads(1),
    ):
        place = Ray()
        warm = sweep(store, out=Path(out) / "warm", **_asked(count), backend=place)
        began = time.perf_counter()
        list(place.map(idle, range(100)))
        overhead = (time.perf_counter() - began) / 100
        began = time.perf_counter()
        run = sweep(store, out=Path(out) / "run", **_asked(seeds), backend=place)
        wall = time.perf_counter() - began
        found = Timing(count, wall, *_jobs(run, store))
        shutil.rmtree(warm.path)
    tell(f"{count} workers: {wall:.1f} s, jobs {sum(found.jobs):.1f} s")
    return found, overhead


def _asked(seeds: int) -> dict[str, Any]:
    return {"fractions": FRACTIONS, "seeds": seeds, "measures": "logistic"}


def _jobs(run: Run, store: FeatureStore) -> tuple[tuple[float, ...], float]:
    """Seconds of every order's job, and the operations of all passes: two products each."""
    rows = run.frame()
    own = rows[rows["seconds"] > 0]
    seconds = own.groupby("seed")["seconds"].sum()
    n = store.features("train").shape[0]
    products = (own["passes"].astype(float) * own["n_kept"].astype(float)).sum()
    return tuple(map(float, seconds)), float(4.0 * n * len(store.class_names) * products)


def predicted(one: Timing, count: int, overhead: float) -> float:
    """Predict the wall time: what the driver does alone, and jobs dealt to workers in turn.

    The first part is what is left of one worker's time beyond its jobs and their overhead.
    """
    alone = max(0.0, one.wall - sum(one.jobs) - overhead * len(one.jobs))
    free = np.zeros(count)
    for seconds in one.jobs:
        free[np.argmin(free)] += seconds + overhead
    return float(alone + free.max())


def on_paper(rate: float, machines: int, n_classes: int, seeds: int = 10) -> dict[str, float]:
    """Seconds of a sweep of 1.2 million x 2,048 float16 features, by what they go into.

    Parameters
    ----------
    rate: operations a second of one core.
    """
    n, d = 1_200_000, 2_048
    kept = sum(round(share * d) for share in SHARES)
    operations = 4.0 * n * n_classes * kept * PASSES * seeds
    packed = 4.0 * n_classes * kept
    return {
        "compute": operations / (rate * CORES * machines),
        # Every machine reads its own rows, once for each order; the file system is shared.
        "rows: read": seeds * n * d * 2.0 / DISK,
        # Weights out and gradients back, for all machines over the driver's one link.
        "rows: network": 2.0 * packed * machines * PASSES * seeds / NETWORK,
        # A machine takes whole orders: more machines than orders stand idle, and each reads all.
        "tasks: compute": operations / seeds * -(-seeds // machines) / (rate * CORES),
        "tasks: read": PASSES * min(machines, seeds) * n * d * 2.0 / DISK,
    }


def render(ones: Sequence[Timing], twos: Sequence[Timing], overhead: float, what: str) -> str:
    """Write the Markdown."""
    said = [predicted(one, 2, overhead) for one in ones]
    one, two, model = (median(t.wall for t in ones), median(t.wall for t in twos), median(said))
    # Jobs slow down together where they share a memory bus or other work's cores.
    rate = median(t.operations / sum(t.jobs) for t in ones)
    busy = median(sum(t.jobs) for t in twos) / median(sum(t.jobs) for t in ones)
    lines = [
        f"Machine: {machine()}. {what}; medians of {len(ones)}, runs in turn.",
        "",
        "| | measured | model |",
        "| - | -: | -: |",
        f"| 1 worker | {one:.1f} s | |",
        f"| 2 workers | {two:.1f} s | {model:.1f} s |",
        f"| speed-up | {one / two:.2f} x | {one / model:.2f} x |",
        "",
        f"A task by itself: {1e3 * overhead:.1f} ms. A worker: {rate / 1e9:.1f} GFLOP/s. Jobs took "
        f"{busy:.2f} times as long with two at once.",
        "",
        f"1.2 M x 2,048, 10 orders, 12 sizes, {PASSES} passes, on paper, seconds:",
        "",
        "| machines, classes | rows: compute | read | network | tasks: compute | read |",
        "| - | -: | -: | -: | -: | -: |",
    ]
    for machines in (8, 64):
        for n_classes in (10, 1000):
            cells = on_paper(rate, machines, n_classes).values()
            numbers = " | ".join(f"{value:,.0f}" for value in cells)
            lines.append(f"| {machines}, {n_classes:,} | {numbers} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the store, time it, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_scaling", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for the store")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--neurons", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(arguments)
    recipe = Recipe(asked.rows, 2_000, asked.neurons, 10)
    store = make_store(recipe, asked.dir / f"store-{asked.rows}x{asked.neurons}")
    ones: list[Timing] = []
    twos: list[Timing] = []
    overheads: list[float] = []
    for _ in range(asked.repeats):
        for count, kept in ((1, ones), (2, twos)):
            found, overhead = timed(store, count, asked.seeds)
            kept.append(found)
            overheads.append(overhead)
    what = f"{asked.rows:,} x {asked.neurons}, {asked.seeds} seeds, {len(FRACTIONS)} fractions"
    print(render(ones, twos, median(overheads), what))


if __name__ == "__main__":
    main()
