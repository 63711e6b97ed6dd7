"""Scaling of sweeps over workers of Ray: ``python -m benchmarks.ray_scaling --dir DIR``.

Sweeps the same store with one worker and with two in turn, and compares the times with a cost model
whose constants come from the runs with one worker. The model is then extrapolated to 1.2 million x
2,048 features on 8 and 64 machines.
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
from benchmarks.problems import LayerRecipe
from benchmarks.timing import describe_machine, log
from criticalmass.core.ray_backend import Ray
from criticalmass.core.threads import limit_threads
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps.sweep import sweep

FRACTIONS = (0.1, 0.3, 0.5, 0.9)
# Assumptions of the extrapolation: cores, and bytes per second of network and file system.
CORES, NETWORK, DISK = 32, 1.25e9, 2.0e9
# The twelve default fractions; passes of a fit, including the search for its strength.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0)
PASSES = 40


@dataclass(frozen=True)
class SweepTiming:
    """One sweep: workers, wall seconds, seconds of its jobs, their floating-point operations."""

    workers: int
    wall: float
    jobs: tuple[float, ...]
    operations: float


@contextmanager
def workers(count: int) -> Iterator[None]:
    """Start Ray with ``count`` workers of one CPU each."""
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
    """Do nothing, to measure the overhead of a task."""
    return 0


def time_sweep(store: FeatureStore, count: int, seeds: int) -> tuple[SweepTiming, float]:
    """Sweep with ``count`` workers; return the times and the overhead of a task in seconds."""
    with (
        workers(count),
        tempfile.TemporaryDirectory(dir=store.path.parent) as out,
        limit_threads(1),
    ):
        backend = Ray()
        warm_up = sweep(store, out=Path(out) / "warm", **_sweep_options(count), backend=backend)
        started = time.perf_counter()
        list(backend.map(idle, range(100)))
        overhead = (time.perf_counter() - started) / 100
        started = time.perf_counter()
        run = sweep(store, out=Path(out) / "run", **_sweep_options(seeds), backend=backend)
        wall = time.perf_counter() - started
        timing = SweepTiming(count, wall, *_job_times(run, store))
        shutil.rmtree(warm_up.path)
    log(f"{count} workers: {wall:.1f} s, jobs {sum(timing.jobs):.1f} s")
    return timing, overhead


def _sweep_options(seeds: int) -> dict[str, Any]:
    return {"fractions": FRACTIONS, "seeds": seeds, "measures": "logistic"}


def _job_times(run: Run, store: FeatureStore) -> tuple[tuple[float, ...], float]:
    """Return the seconds of each order's job, and the operations of all passes.

    A pass has two matrix products.
    """
    rows = run.frame()
    computed = rows[rows["seconds"] > 0]
    seconds = computed.groupby("seed")["seconds"].sum()
    n = store.features("train").shape[0]
    products = (computed["passes"].astype(float) * computed["n_kept"].astype(float)).sum()
    return tuple(map(float, seconds)), float(4.0 * n * len(store.class_names) * products)


def predict_wall_time(one: SweepTiming, count: int, overhead: float) -> float:
    """Predict the wall time: that of the driver, plus jobs given to the next free worker.

    The time of the driver is the wall time with one worker minus its jobs and their overhead.
    """
    driver = max(0.0, one.wall - sum(one.jobs) - overhead * len(one.jobs))
    busy_until = np.zeros(count)
    for seconds in one.jobs:
        busy_until[np.argmin(busy_until)] += seconds + overhead
    return float(driver + busy_until.max())


def extrapolate(rate: float, machines: int, n_classes: int, seeds: int = 10) -> dict[str, float]:
    """Return the seconds of a sweep of 1.2 million x 2,048 float16 features, by component.

    Parameters
    ----------
    rate: operations per second of one core.
    """
    n, d = 1_200_000, 2_048
    total_size = sum(round(share * d) for share in SHARES)
    operations = 4.0 * n * n_classes * total_size * PASSES * seeds
    weight_bytes = 4.0 * n_classes * total_size
    return {
        "compute": operations / (rate * CORES * machines),
        # Every machine reads its own rows once per order; the file system is shared.
        "rows: read": seeds * n * d * 2.0 / DISK,
        # Weights are sent and gradients received over the driver's single link, for all machines.
        "rows: network": 2.0 * weight_bytes * machines * PASSES * seeds / NETWORK,
        # A job is a whole order and reads all rows; machines beyond the number of orders are idle.
        "tasks: compute": operations / seeds * -(-seeds // machines) / (rate * CORES),
        "tasks: read": PASSES * min(machines, seeds) * n * d * 2.0 / DISK,
    }


def render(
    ones: Sequence[SweepTiming], twos: Sequence[SweepTiming], overhead: float, what: str
) -> str:
    """Return the Markdown."""
    predictions = [predict_wall_time(one, 2, overhead) for one in ones]
    one, two, model = (
        median(t.wall for t in ones),
        median(t.wall for t in twos),
        median(predictions),
    )
    # Simultaneous jobs are slower if they share a memory bus or cores with other work.
    rate = median(t.operations / sum(t.jobs) for t in ones)
    slowdown = median(sum(t.jobs) for t in twos) / median(sum(t.jobs) for t in ones)
    lines = [
        f"Machine: {describe_machine()}. {what}; medians of {len(ones)}, runs in turn.",
        "",
        "| | measured | model |",
        "| - | -: | -: |",
        f"| 1 worker | {one:.1f} s | |",
        f"| 2 workers | {two:.1f} s | {model:.1f} s |",
        f"| speed-up | {one / two:.2f} x | {one / model:.2f} x |",
        "",
        f"Overhead of a task: {1e3 * overhead:.1f} ms. A worker: {rate / 1e9:.1f} GFLOP/s. Jobs "
        f"took {slowdown:.2f} times as long with two at once.",
        "",
        f"1.2 M x 2,048, 10 orders, 12 sizes, {PASSES} passes, extrapolated, seconds:",
        "",
        "| machines, classes | rows: compute | read | network | tasks: compute | read |",
        "| - | -: | -: | -: | -: | -: |",
    ]
    for machines in (8, 64):
        for n_classes in (10, 1000):
            cells = extrapolate(rate, machines, n_classes).values()
            numbers = " | ".join(f"{value:,.0f}" for value in cells)
            lines.append(f"| {machines}, {n_classes:,} | {numbers} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the store, time the sweeps, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_scaling", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for the store")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--neurons", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    recipe = LayerRecipe(options.rows, 2_000, options.neurons, 10)
    store = make_store(recipe, options.dir / f"store-{options.rows}x{options.neurons}")
    ones: list[SweepTiming] = []
    twos: list[SweepTiming] = []
    overheads: list[float] = []
    for _ in range(options.repeats):
        for count, timings in ((1, ones), (2, twos)):
            timing, overhead = time_sweep(store, count, options.seeds)
            timings.append(timing)
            overheads.append(overhead)
    what = (
        f"{options.rows:,} x {options.neurons}, {options.seeds} seeds, {len(FRACTIONS)} fractions"
    )
    print(render(ones, twos, median(overheads), what))


if __name__ == "__main__":
    main()
