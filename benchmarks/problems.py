"""Data for the benchmarks: synthetic layers, and the features of a store.

A synthetic layer has the properties that make probes on real features slow. The variances of the
latent directions fall as a power law, so the second moment is badly conditioned. A random rotation
distributes every direction over all neurons, so that neurons are correlated and any subset contains
a part of every direction. Each neuron has some independent noise. Class means are drawn in the
latent space; their coordinates, in standard deviations of the samples, fall by the same law:
strong directions separate the classes best, weak ones less. They are scaled so that the classes
overlap: no linear probe separates them, and the whole layer scores about .75 to .9 on test samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.datasets.splits import stratified_sample
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.scaling import column_scaling
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.features import FeatureStore

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]

_DECAY = 1.0
_NEURON_NOISE = 0.05
# Distance of a class mean from the centre, in standard deviations of the samples around it.
_SEPARATION = {10: 3.2, 100: 5.0}
_CHUNK = 4096
_EASY_LATENT = 40


@dataclass(frozen=True)
class LayerRecipe:
    """A synthetic layer.

    Attributes
    ----------
    n_train, n_test: numbers of samples.
    n_neurons: width of the layer.
    n_classes: number of equally likely classes.
    seed: seed of all random numbers.
    """

    n_train: int
    n_test: int
    n_neurons: int
    n_classes: int
    seed: int = 0

    @property
    def separation(self) -> float:
        """Distance of a class mean from the centre, interpolated in log C."""
        return float(
            np.interp(np.log(self.n_classes), np.log(list(_SEPARATION)), list(_SEPARATION.values()))
        )


@dataclass(frozen=True, eq=False)
class LayerArrays:
    """Raw features and labels of both splits."""

    x_train: Matrix
    y_train: Labels
    x_test: Matrix
    y_test: Labels
    n_classes: int


@dataclass(frozen=True, eq=False)
class SampleGenerator:
    """Draws the samples of a recipe, block by block."""

    recipe: LayerRecipe
    _mix: Matrix
    _means: Matrix

    @classmethod
    def from_recipe(cls, recipe: LayerRecipe) -> SampleGenerator:
        """Draw the rotation and the class means."""
        rng = np.random.default_rng(recipe.seed)
        d = recipe.n_neurons
        deviations = np.arange(1, d + 1) ** (-_DECAY / 2)
        rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
        mix = (deviations[:, None] * rotation.T) * np.sqrt(d / (deviations**2).sum())
        profile = recipe.separation * deviations / np.sqrt((deviations**2).sum())
        means = rng.standard_normal((recipe.n_classes, d)) * profile
        return cls(recipe, mix.astype(np.float32), means.astype(np.float32))

    def blocks(self, n: int, stream: int) -> Iterator[tuple[Matrix, Labels]]:
        """Yield ``n`` samples in blocks; every ``stream`` gives different samples."""
        rng = np.random.default_rng((self.recipe.seed, stream))
        d = self.recipe.n_neurons
        for start in range(0, n, _CHUNK):
            rows = min(_CHUNK, n - start)
            y = rng.integers(self.recipe.n_classes, size=rows)
            latent = rng.standard_normal((rows, d), dtype=np.float32) + self._means[y]
            noise = rng.standard_normal((rows, d), dtype=np.float32)
            yield latent @ self._mix + np.float32(np.sqrt(_NEURON_NOISE)) * noise, y

    def draw(self, n: int, stream: int) -> tuple[Matrix, Labels]:
        """Draw (n, n_neurons) features and (n,) labels."""
        x, y = zip(*self.blocks(n, stream), strict=True)
        return np.concatenate(x), np.concatenate(y)


def synthetic_layer(recipe: LayerRecipe) -> LayerArrays:
    """Draw a synthetic layer."""
    generator = SampleGenerator.from_recipe(recipe)
    x_train, y_train = generator.draw(recipe.n_train, 1)
    x_test, y_test = generator.draw(recipe.n_test, 2)
    return LayerArrays(x_train, y_train, x_test, y_test, recipe.n_classes)


def easy_layer(recipe: LayerRecipe) -> LayerArrays:
    """Draw an easy layer: few latent directions and strong classes, so that fits end soon.

    40 latent directions with class centres of standard deviation .55 in each, and unit noise around
    them. Neuron j is the ReLU of a random direction, scaled by j^-.15, plus unit noise.
    """
    rng = np.random.default_rng(recipe.seed)
    centres = 0.55 * rng.standard_normal((recipe.n_classes, _EASY_LATENT))
    scales = np.arange(1, recipe.n_neurons + 1) ** -0.15
    mix = rng.standard_normal((_EASY_LATENT, recipe.n_neurons)) * scales

    def draw(n: int) -> tuple[Matrix, Labels]:
        y = rng.integers(recipe.n_classes, size=n)
        latent = centres[y] + rng.standard_normal((n, _EASY_LATENT))
        noise = rng.standard_normal((n, recipe.n_neurons), dtype=np.float32)
        return np.maximum(latent @ mix, 0.0).astype(np.float32) + noise, y

    x_train, y_train = draw(recipe.n_train)
    x_test, y_test = draw(recipe.n_test)
    return LayerArrays(x_train, y_train, x_test, y_test, recipe.n_classes)


def layer_from_store(path: str | Path, most_rows: int) -> LayerArrays:
    """Read the first layer of a store.

    Parameters
    ----------
    most_rows: most training rows; a larger store gives a stratified sample.
    """
    store = FeatureStore.open(path)
    layer = store.layers[0]
    y = store.labels("train")
    rows = np.arange(y.size)
    if y.size > most_rows:
        rows = stratified_sample(y, most_rows, 0)
    return LayerArrays(
        np.asarray(store.features("train", layer)[rows], dtype=np.float32),
        y[rows],
        np.asarray(store.features("test", layer)[:], dtype=np.float32),
        store.labels("test"),
        len(store.class_names),
    )


@dataclass(frozen=True, eq=False)
class SearchTask:
    """All subsets and strengths on a layer; the strength is chosen on validation rows.

    Attributes
    ----------
    layer: raw features, for the solver.
    orders: (n_seeds, n_neurons) permutations.
    sizes: prefix lengths, the whole layer last.
    l2s: strengths, strongest first.
    validation: (n_train,) bool.
    x_fit, x_validation: standardised rows for fitting and for choosing strengths, with the
        statistics of the former, as in a scikit-learn pipeline.
    x_train, x_test: standardised training and test rows, with the statistics of all training
        rows.
    """

    layer: LayerArrays
    orders: NDArray[np.intp]
    sizes: tuple[int, ...]
    l2s: tuple[float, ...]
    validation: NDArray[np.bool_]
    x_fit: Matrix
    x_validation: Matrix
    x_train: Matrix
    x_test: Matrix

    @property
    def y_fit(self) -> Labels:
        """Labels of the rows for fitting."""
        return self.layer.y_train[~self.validation]

    @property
    def y_validation(self) -> Labels:
        """Labels of the validation rows."""
        return self.layer.y_train[self.validation]

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.layer.x_train.shape[1])

    @property
    def n_seeds(self) -> int:
        """Number of orders."""
        return int(self.orders.shape[0])

    @property
    def n_probes(self) -> int:
        """Number of subsets; the whole layer counts once for all seeds."""
        return sum(self.n_subsets(k) for k in self.sizes)

    def n_subsets(self, size: int) -> int:
        """Return the number of different subsets of a size; 1 for the whole layer."""
        return 1 if size == self.n_neurons else self.n_seeds


def make_task(
    layer: LayerArrays, fractions: tuple[float, ...], l2s: tuple[float, ...], n_seeds: int
) -> SearchTask:
    """Draw the orders and standardise the rows of a layer."""
    d = int(layer.x_train.shape[1])
    validation = validation_rows(layer.y_train)
    fit_scaling, train_scaling = (
        column_scaling(layer.x_train[~validation]),
        column_scaling(layer.x_train),
    )
    return SearchTask(
        layer,
        np.stack([np.random.default_rng(seed).permutation(d) for seed in range(n_seeds)]),
        sizes_for(fractions, d),
        tuple(sorted(l2s, reverse=True)),
        validation,
        fit_scaling.apply(layer.x_train[~validation]),
        fit_scaling.apply(layer.x_train[validation]),
        train_scaling.apply(layer.x_train),
        train_scaling.apply(layer.x_test),
    )
