"""Time of the intervals of one run: `python -m benchmarks.bootstrap`.

Writes a run of 14 fractions and 20 seeds on 10,000 test samples with simulated predictions, and
times `curves` and `redundancy` with 2,000 resamples, including reading the run. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import criticalmass as cm
from benchmarks.timing import core_count, describe_machine, log, median, time_call
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

TARGET = 5.0
N_CLASSES = 10


@dataclass(frozen=True)
class RunShape:
    """Size of a run and number of resamples."""

    n_fractions: int = 14
    n_seeds: int = 20
    n_test: int = 10_000
    resamples: int = 2000


QUICK = RunShape(4, 3, 200, 100)


def write_simulated_run(folder: Path, shape: RunShape) -> Run:
    """Write a run whose accuracy rises with the size and varies slightly between seeds."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_CLASSES, shape.n_test)
    run = Run.create(folder, {"model": "planted", "dataset": "planted"})
    # A sample is equally hard for every subset, so predictions are correlated as real ones are.
    hardness = rng.random(shape.n_test)
    values = [_predicted(labels, hardness, 0.9, rng)]
    rows = [_row("full", 1000, 0, values[0], labels)]
    sizes = np.linspace(10, 990, shape.n_fractions).astype(int)
    for size in sizes:
        for seed in range(shape.n_seeds):
            level = 0.9 * (1.0 - np.exp(-size / 150)) + 0.005 * rng.standard_normal()
            values.append(_predicted(labels, hardness, level, rng))
            rows.append(_row("random", int(size), seed, values[-1], labels))
    with run.writer() as writer:
        writer.put_labels(labels, [str(c) for c in range(N_CLASSES)])
        writer.append(rows, Artifact("predictions", np.stack(values)))
    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small run, for the tests")
    arguments = parser.parse_args()
    shape = QUICK if arguments.quick else RunShape()
    with tempfile.TemporaryDirectory() as folder:
        run = write_simulated_run(Path(folder) / "run", shape)
        log("run written")
        lines = [
            _time_line(
                "curves", lambda: cm.curves(run, resamples=shape.resamples), arguments.repeats
            )
        ]
        lines += [
            _time_line(
                f"redundancy at {len(deltas)} delta{'s' * (len(deltas) > 1)}",
                partial(cm.redundancy, run, deltas, resamples=shape.resamples),
                arguments.repeats,
            )
            for deltas in ((0.9,), (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99))
        ]
    print(
        f"{shape.n_fractions} fractions x {shape.n_seeds} seeds x {shape.n_test:,} test samples, "
        f"{shape.resamples:,} resamples, {core_count()} cores; median of {arguments.repeats}.\n\n"
        f"| intervals of | wall s | CPU s | target |\n| --- | --- | --- | --- |\n"
        + "\n".join(lines)
        + f"\n\n{describe_machine()}"
    )


def _time_line(name: str, work: Callable[[], Any], repeats: int) -> str:
    """Time one table; return its row of Markdown."""
    times = [time_call(work)[1] for _ in range(repeats)]
    middle = median(times)
    log(f"{name}: wall {', '.join(f'{one.wall:.2f}' for one in times)} s")
    return f"| {name} | **{middle.wall:.2f}** | {middle.cpu:.2f} | under {TARGET:g} s |"


def _predicted(
    labels: NDArray[Any], hardness: NDArray[Any], level: float, rng: np.random.Generator
) -> NDArray[Any]:
    """Return (n_test,) class ids whose accuracy is about ``level``."""
    is_correct = 0.7 * hardness + 0.3 * rng.random(labels.size) < level
    return np.where(is_correct, labels, (labels + 1) % N_CLASSES)


def _row(
    selector: str, size: int, seed: int, predicted: NDArray[Any], labels: NDArray[Any]
) -> dict[str, Any]:
    return {
        "model": "planted",
        "layer": "penultimate",
        "dataset": "planted",
        "split": "test",
        "selector": selector,
        "measure": "logistic",
        "fraction": size / 1000,
        "n_kept": size,
        "n_neurons": 1000,
        "seed": seed,
        "value": float(np.mean(predicted == labels)),
        "value_full": None,
        "n_train": 1000,
        "n_test": labels.size,
        "status": "ok",
        "cell": f"{selector}-{size}-{seed}",
    }


if __name__ == "__main__":
    main()
