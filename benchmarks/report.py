"""How long a report takes: a synthetic run of many layers, with the predictions of every cell.

    python -m benchmarks.report --layers 40 --seeds 20

prints the time to write the run (not part of the figure), to write its report, and its size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.reporting.page.report import report
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0)
N_NEURONS, N_CLASSES, N_BLOCKS = 1280, 10, 100


def synthetic_run(folder: Path, *, layers: int, seeds: int, n_test: int) -> Run:
    """Write a run as a sweep of logistic probes and CKA would.

    Parameters
    ----------
    folder: where.
    layers, seeds: how many; each layer has `FRACTIONS` and a whole layer of its own.
    n_test: test samples; some are harder than others, for all subsets alike.
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
            top = 0.6 + 0.3 * layer / max(1, layers - 1)
            cells = [("full", 0, N_NEURONS)] + [
                ("random", seed, max(1, round(f * N_NEURONS)))
                for seed in range(seeds)
                for f in FRACTIONS
            ]
            for measure in ("logistic", "cka"):
                rows, kept = _cells(cells, f"layer{layer}", measure, (top, labels, hardness, rng))
                kind = "predictions" if measure == "logistic" else "replicates"
                writer.append(rows, Artifact(kind, kept))
    return run


def _cells(
    cells: list[tuple[str, int, int]], layer: str, measure: str, about: tuple[Any, ...]
) -> tuple[list[dict[str, Any]], npt.NDArray[Any]]:
    """Rows of one layer and measure, and what they keep."""
    top, labels, hardness, rng = about
    rows, kept = [], []
    for selector, seed, size in cells:
        share = 1.0 - 0.6 * np.exp(-3.5 * (size / N_NEURONS) ** 0.5) * (size < N_NEURONS)
        if measure == "logistic":
            luck = hardness + 0.5 * rng.standard_normal(labels.size)
            wrong = luck > np.quantile(luck, top * share)
            said = np.where(wrong, (labels + 1 + (hardness > 1.5)) % N_CLASSES, labels)
            kept.append(said.astype(np.uint8))
            value = float(np.mean(said == labels))
        else:
            value = 1.0 if size == N_NEURONS else float(share - 0.01 * rng.random())
            kept.append(np.clip(value + 1e-4 * rng.standard_normal(N_BLOCKS), 0.0, 1.0))
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
                "value_full": top if measure == "logistic" else 1.0,
                "n_train": 50_000 if measure == "logistic" else 0,
                "n_test": labels.size,
                "seconds": 1.0,
                "status": "ok",
                "cell": f"{layer}-{measure}-{selector}-{seed}-{size}",
            }
        )
    return rows, np.array(kept)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--layers", type=int, default=40)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--n-test", type=int, default=10_000)
    options.add_argument("--folder", type=Path, help="keep the run and the page here")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        start = time.perf_counter()
        there = Run.exists(folder / "run")
        shape = {"layers": given.layers, "seeds": given.seeds, "n_test": given.n_test}
        run = Run.open(folder / "run") if there else synthetic_run(folder / "run", **shape)
        print(f"run of {len(run.frame()):,} cells: {time.perf_counter() - start:.1f} s")
        start, cpu = time.perf_counter(), time.process_time()
        page = report(run, folder / "report.html")
        wall, used = time.perf_counter() - start, time.process_time() - cpu
        print(f"report: {wall:.1f} s wall, {used:.1f} s CPU, {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
