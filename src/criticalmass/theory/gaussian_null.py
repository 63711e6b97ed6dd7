"""The Gaussian twin of a feature store: the same labels, class means and covariance, else normal.

Measured like the layer itself, it says how much of a curve follows from first and second moments
alone. Where probes on the twin have the same curve, the diffused redundancy of the layer is that of
its spectrum and its class means; a difference is due to the shape of the classes.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray, Moments, moments
from criticalmass.core.progress import Progress, warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import SplitInfo, StoreWriter

# With fewer samples per neuron, the covariance is far from that of the population.
_FEWEST_PER_NEURON = 5
_SUFFIX = "-gaussian"


@validate_arguments
def gaussian_null(
    store: FeatureStore | str | os.PathLike[str], *, out: str | os.PathLike[str], seed: int = 0
) -> FeatureStore:
    """Write a store whose features are Gaussian within classes, with the moments of another store.

    A sample of class c is ``mean_c + z`` with z ~ N(0, W): mean_c is the mean of that class and W
    the pooled covariance within classes (divided by the number of samples), both over all splits.
    Every sample has its class, split and position in the original store. Layers are drawn
    independently of each other.

    Parameters
    ----------
    store: a feature store with labels, or its folder.
    out: the folder of the new store. An interrupted call continues.
    seed: of the draws.

    Returns
    -------
    The new store; its model is called ``<model>-gaussian``.

    Raises
    ------
    CriticalMassError: if the store has no labels of at least two classes, or the seed is negative.
    StoreError: if there is no store, or ``out`` contains something else.
    """
    source = FeatureStore.open(store)  # type: ignore[arg-type]
    if len(source.class_names) < 2:
        raise CriticalMassError(
            f"{str(source.path)!r} has no labels of two or more classes; extract or import with "
            "labels"
        )
    if seed < 0:
        raise CriticalMassError(f"seed={seed} but a seed must be 0 or more")
    splits = {
        name: SplitInfo(source.labels(name), source.sample_ids(name)) for name in source.splits
    }
    writer = StoreWriter.begin(Path(out), _header(source, seed), splits)
    plans = list(writer.missing())
    if plans:
        twins = {name: _Twin.of(source, name) for name in source.layers}
        with Progress("Gaussian null", total=len(plans), unit="shards") as bar:
            for plan in plans:
                labels = splits[plan.split].labels[plan.start : plan.stop]
                # A generator per shard and layer, so that an interrupted call gives the same store.
                name = f"{plan.split}-{plan.index}"
                writer.put(
                    plan,
                    {
                        layer: twin.draw(labels, _generator(seed, f"{layer}-{name}"))
                        for layer, twin in twins.items()
                    },
                )
                bar.advance()
    return writer.finish()


class _Twin:
    """The distribution of one layer: class means (C, d), and factor (d, r) of the covariance."""

    def __init__(self, means: FloatArray, factor: FloatArray) -> None:
        self.means = means
        self.factor = factor

    @classmethod
    def of(cls, store: FeatureStore, layer: str) -> _Twin:
        """Compute class means and the factor of the pooled covariance, over all splits."""
        n_classes = len(store.class_names)
        parts = [
            moments(store.features(split, layer), store.labels(split), n_classes=n_classes)
            for split in store.splits
        ]
        total = reduce(Moments.merge, parts)
        if total.n < _FEWEST_PER_NEURON * total.n_neurons:
            warn_user(
                f"layer {layer!r} has {total.n_neurons} neurons and only {total.n} samples: the "
                "twin's training and test samples share directions that the sample happens to "
                f"have, so its accuracy is too high; {_FEWEST_PER_NEURON * total.n_neurons} "
                "samples or more are advisable"
            )
        assert total.class_means is not None
        assert total.class_counts is not None
        offset = total.class_means - total.mean
        within = total.scatter - offset.T @ (offset * total.class_counts[:, None])
        values, vectors = np.linalg.eigh(within / total.n)
        kept = values > 1e-12 * max(float(values[-1]), 0.0)
        return cls(total.class_means, vectors[:, kept] * np.sqrt(values[kept]))

    def draw(self, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> FloatArray:
        """Draw one sample per label, (n, d)."""
        noise = rng.standard_normal((labels.size, self.factor.shape[1]))
        return self.means[labels] + noise @ self.factor.T


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _header(store: FeatureStore, seed: int) -> dict[str, Any]:
    """Return the manifest entries: those of the store, with another model and samples."""
    digests = {layer: store.digest(layer) for layer in store.layers}
    dataset = dict(store.manifest["dataset"])
    # Same labels but other samples: comparisons must not pair the two stores' test samples.
    content = json.dumps([dataset["digest"], digests, seed])
    dataset["digest"] = hashlib.sha256(f"gaussian null {content}".encode()).hexdigest()
    model = {
        "spec": "imported",
        "name": store.model + _SUFFIX,
        "modality": "vector",
        "null": {"kind": "gaussian", "of": digests, "seed": seed},
    }
    layers = {
        layer: {
            "place": "gaussian null",
            "pooling": "none",
            "dtype": "float32",
            "shape": store.manifest["layers"][layer]["shape"],
        }
        for layer in store.layers
    }
    versions = {name: version(name) for name in ("criticalmass", "numpy")}
    return {
        "model": model,
        "dataset": dataset,
        "layers": layers,
        "engine": {"name": "imported"},
        "versions": versions,
    }
