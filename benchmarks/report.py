"""Time of a report of a synthetic run with many layers and the predictions of every cell.

    python -m benchmarks.report --layers 40 --seeds 20

prints the time to write the run, the time to write its report, and the size of the report.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.timing import add_load_option, measure_row, time_call
from criticalmass.reporting.page.report import report
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0)
N_NEURONS, N_CLASSES, N_BLOCKS = 1280, 10, 100


def synthetic_run(folder: Path, *, layers: int, seeds: int, n_test: int) -> Run:
    """Write a run like that of a sweep of logistic probes and CKA.

    Parameters
    ----------
    folder: folder of the run.
    layers, seeds: numbers of layers and seeds; each layer has `FRACTIONS` and the whole layer.
    n_test: number of test samples; their difficulty is the same for all subsets.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_CLASSES, n_test)
    run = Run.create(
        folder,
        {"model": "synthetic", "dataset": "synthetic", "created": "2026-11-23T00:00:00+00:00"},
    )
    hardness = rng.standard_normal(n_test)
    with run.writer() as writer:
        writer.put_labels(labels, [f"class {c}" for c in range(N_CLASSES)])
        for layer in range(layers):
            accuracy_full = 0.6 + 0.3 * layer / max(1, layers - 1)
            cells = [("full", 0, N_NEURONS)] + [
                ("random", seed, max(1, round(f * N_NEURONS)))
                for seed in range(seeds)
                for f in FRACTIONS
            ]
            for measure in ("logistic", "cka"):
                name = f"layer{layer}"
                rows, values = _make_cells(
                    cells, name, measure, accuracy_full, labels, hardness, rng
                )
                kind = "predictions" if measure == "logistic" else "replicates"
                writer.append(rows, Artifact(kind, values))
    return run


def _make_cells(
    cells: list[tuple[str, int, int]],
    layer: str,
    measure: str,
    accuracy_full: float,
    labels: npt.NDArray[np.int64],
    hardness: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[list[dict[str, Any]], npt.NDArray[Any]]:
    """Return the rows of one layer and measure, and their predictions or replicates."""
    rows, values = [], []
    for selector, seed, size in cells:
        share = 1.0 - 0.6 * np.exp(-3.5 * (size / N_NEURONS) ** 0.5) * (size < N_NEURONS)
        if measure == "logistic":
            difficulty = hardness + 0.5 * rng.standard_normal(labels.size)
            is_wrong = difficulty > np.quantile(difficulty, accuracy_full * share)
            predicted = np.where(is_wrong, (labels + 1 + (hardness > 1.5)) % N_CLASSES, labels)
            values.append(predicted.astype(np.uint8))
            value = float(np.mean(predicted == labels))
        else:
            value = 1.0 if size == N_NEURONS else float(share - 0.01 * rng.random())
            values.append(np.clip(value + 1e-4 * rng.standard_normal(N_BLOCKS), 0.0, 1.0))
        rows.append(
            {
                "model": "synthetic",
                "layer": layer,
                "dataset": "synthetic",
                "split": "test",
                "selector": selector,
                "measure": measure,
                "fraction": size / N_NEURONS,
                "n_kept": size,
                "n_neurons": N_NEURONS,
                "seed": seed,
                "value": value,
                "value_full": accuracy_full if measure == "logistic" else 1.0,
                "n_train": 50_000 if measure == "logistic" else 0,
                "n_test": labels.size,
                "seconds": 1.0,
                "status": "ok",
                "cell": f"{layer}-{measure}-{selector}-{seed}-{size}",
            }
        )
    return rows, np.array(values)


def main() -> None:
    """Measure and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--n-test", type=int, default=10_000)
    parser.add_argument(
        "--folder", type=Path, help="folder of the run and the page; a temporary one by default"
    )
    add_load_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        start = time.perf_counter()
        exists = Run.exists(folder / "run")
        shape = {"layers": options.layers, "seeds": options.seeds, "n_test": options.n_test}
        run = Run.open(folder / "run") if exists else synthetic_run(folder / "run", **shape)
        print(f"run of {len(run.frame()):,} cells: {time.perf_counter() - start:.1f} s")
        row, load = measure_row(
            lambda: time_call(lambda: report(run, folder / "report.html")),
            even_if_busy=options.even_if_busy,
        )
        if row is None:
            print(load)
            return
        page, used = row
        size = page.stat().st_size / 1e6
        print(f"report: {used.wall:.1f} s wall, {used.cpu:.1f} s CPU, {size:.2f} MB; {load}")


if __name__ == "__main__":
    main()
