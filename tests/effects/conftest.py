"""Runs made of given predictions, for what is computed from predictions alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Make a run from what its probes predicted.

    ``make_run(labels, {(n_kept, seed): predictions}, whole=predictions, names=...)``; the layer
    has as many neurons as the largest subset unless ``n_neurons`` says more.
    """

    def make(
        labels: NDArray[np.int64],
        subsets: Mapping[tuple[int, int], NDArray[np.int64]],
        *,
        whole: NDArray[np.int64] | None = None,
        names: tuple[str, ...] | None = None,
        name: str = "run",
        selector: str = "random",
        n_neurons: int | None = None,
    ) -> Run:
        d = n_neurons or max(size for size, _ in subsets)
        run = Run.create(tmp_path / name, {})
        cells = [(selector, size, seed, found) for (size, seed), found in subsets.items()]
        if whole is not None:
            cells.insert(0, ("full", d, 0, whole))
        rows = [
            {
                "model": "m", "layer": "penultimate", "dataset": "d", "split": "test",
                "selector": which, "measure": "logistic", "fraction": size / d, "n_kept": size,
                "n_neurons": d, "seed": seed, "value": float(np.mean(found == labels)),
                "value_full": None, "n_train": 100, "n_test": labels.size, "l2": 0.1, "gap": 0.0,
                "passes": 3, "seconds": 0.1, "status": "ok", "error": None,
                "cell": f"{which}-{size}-{seed}", "artifact": i,
            }
            for i, (which, size, seed, found) in enumerate(cells)
        ]  # fmt: skip
        top = int(max(labels.max(), max(found.max() for *_, found in cells))) + 1
        with run.writer() as writer:
            writer.put_labels(labels, names or tuple(f"class {c}" for c in range(top)))
            stacked = np.stack([found for *_, found in cells])
            writer.append(rows, Artifact("predictions", stacked))
        return run

    return make
