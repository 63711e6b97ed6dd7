"""Selectors that need labels: separation of the classes, weights of a probe."""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.selectors.inputs import SelectorInput


def anova(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Descending F statistic of the classes, neuron by neuron; ties keep the layer's order."""
    return np.argsort(-eta_squared(layer), kind="stable")


def anova_low(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Ascending F statistic of the classes, neuron by neuron; ties keep the layer's order."""
    return np.argsort(eta_squared(layer), kind="stable")


def probe_weight(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Descending L2 norm, over classes, of the whole layer's logistic weights."""
    return np.argsort(-np.linalg.norm(layer.probe_weights, axis=0), kind="stable")


def eta_squared(layer: SelectorInput) -> FloatArray:
    """(n_neurons,) share of each neuron's variance that lies between the classes.

    F = eta^2/(1 - eta^2) (n - C)/(C - 1) rises with it, so both give the same order. Eta squared
    is finite for a neuron that separates the classes perfectly, and 0 for a constant one.
    """
    counts, offsets = layer.class_offsets
    total = np.diagonal(layer.moments.scatter)
    share = np.zeros(total.size)
    np.divide(counts @ offsets**2, total, out=share, where=total > 0.0)
    return np.minimum(share, 1.0)
