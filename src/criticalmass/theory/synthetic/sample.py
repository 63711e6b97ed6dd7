"""Samples of a population, and feature stores of them, which a sweep can read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import SplitInfo, StoreWriter
from criticalmass.theory.synthetic.population import Population

LAYER = "penultimate"


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A sample of a population, with the population.

    Attributes
    ----------
    x_train: (n_train, n_neurons) float32; y_train: (n_train,) int64, 0 or 1.
    x_test: (n_test, n_neurons) float32; y_test: (n_test,) int64.
    population: the population from which the sample was drawn.
    """

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]
    population: Population


def draw(
    population: Population, *, n_train: int = 2000, n_test: int = 2000, seed: int = 0
) -> Synthetic:
    """Draw a training and a test set, with balanced classes in random order.

    Raises
    ------
    CriticalMassError: for fewer than 2 samples.
    """
    for name, n in (("n_train", n_train), ("n_test", n_test)):
        if n < 2:
            raise CriticalMassError(f"{name}={n} but there are 2 classes; give 2 or more")
    rng = np.random.default_rng(seed)
    (x_train, y_train), (x_test, y_test) = (_sample(population, n, rng) for n in (n_train, n_test))
    return Synthetic(x_train, y_train, x_test, y_test, population)


def to_store(data: Synthetic, out: str | os.PathLike[str]) -> FeatureStore:
    """Write a sample as a feature store, which a sweep can read.

    Raises
    ------
    StoreError: if ``out`` contains another store.
    """
    parts = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    splits = {
        split: SplitInfo(y, [f"{split}-{row}" for row in range(y.size)])
        for split, (_, y) in parts.items()
    }
    writer = StoreWriter.begin(Path(out), _header(parts), splits)
    for plan in writer.missing():
        writer.put(plan, {LAYER: parts[plan.split][0][plan.start : plan.stop]})
    return writer.finish()


def _header(
    parts: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
) -> dict[str, Any]:
    """Return the manifest entries that `import_features` writes for arrays of this content."""
    digest = hashlib.sha256()
    for split, (x, y) in parts.items():
        digest.update(f"{split}{x.dtype.str}{x.shape}".encode())
        digest.update(np.ascontiguousarray(x).tobytes() + y.tobytes())
    class_names = ("0", "1")
    digest.update(repr(class_names).encode())
    width = int(parts["train"][0].shape[1])
    layer = {"place": "imported", "pooling": "none", "dtype": "float32", "shape": [width]}
    return {
        "model": {"spec": "imported", "name": "imported", "modality": "vector"},
        "dataset": {
            "spec": "arrays",
            "name": "arrays",
            "modality": "vector",
            "digest": digest.hexdigest(),
            "class_names": list(class_names),
            "notes": {"split": "as given", "labels": "as given"},
        },
        "layers": {LAYER: layer},
        "engine": {"name": "imported"},
        "versions": {name: version(name) for name in ("criticalmass", "numpy")},
    }


def _sample(
    population: Population, n: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    labels = rng.permutation(np.arange(n, dtype=np.int64) % 2)
    z = rng.standard_normal((n, population.loadings.shape[1]))
    x = population.means[labels] + z @ population.loadings.T
    return x.astype(np.float32), labels
