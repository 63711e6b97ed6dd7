"""Samples of a population, and the feature store that a sweep reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError
from criticalmass.store import FeatureStore
from criticalmass.synthetic.population import Population


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A sample of a population, and the population itself: the truth.

    Attributes
    ----------
    x_train: (n_train, n_neurons) float32; y_train: (n_train,) int64, 0 or 1.
    x_test: (n_test, n_neurons) float32; y_test: (n_test,) int64.
    population: what they were drawn from.
    """

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]
    population: Population


def draw(
    population: Population, *, n_train: int = 2000, n_test: int = 2000, seed: int = 0
) -> Synthetic:
    """Draw a training and a test set, the classes as even as can be and in random order.

    Raises
    ------
    CriticalMassError: for fewer than 2 samples.
    """
    for name, n in (("n_train", n_train), ("n_test", n_test)):
        if n < 2:
            raise CriticalMassError(f"{name}={n} but each of 2 classes needs a sample")
    rng = np.random.default_rng(seed)
    (x_train, y_train), (x_test, y_test) = (_sample(population, n, rng) for n in (n_train, n_test))
    return Synthetic(x_train, y_train, x_test, y_test, population)


def to_store(data: Synthetic, out: str | os.PathLike[str]) -> FeatureStore:
    """Write a sample as a feature store, which a sweep can read.

    Raises
    ------
    StoreError: if ``out`` holds another store.
    """
    from criticalmass.importing import import_features

    return import_features(
        {"train": data.x_train, "test": data.x_test},
        out=Path(out),
        labels={"train": data.y_train, "test": data.y_test},
    )


def _sample(
    population: Population, n: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    labels = rng.permutation(np.arange(n, dtype=np.int64) % 2)
    z = rng.standard_normal((n, population.loadings.shape[1]))
    x = population.means[labels] + z @ population.loadings.T
    return x.astype(np.float32), labels
