"""Selectors without labels: random, position, norm and variance, and projections."""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.measures.scaling import column_scales
from criticalmass.selectors.inputs import SelectorInput


def random(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Return a random permutation."""
    return rng.permutation(layer.n_neurons)


def first(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Return the layer's own order."""
    return np.arange(layer.n_neurons)


def norm_low(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Ascending L2 norm of the uncentred column; ties keep the layer's order."""
    return np.argsort(_squared_norms(layer), kind="stable")


def norm_high(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Descending L2 norm of the uncentred column; ties keep the layer's order."""
    return np.argsort(-_squared_norms(layer), kind="stable")


def variance_high(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """Descending variance; ties keep the layer's order."""
    return np.argsort(-np.diagonal(layer.moments.scatter), kind="stable")


def pca_top(layer: SelectorInput, rng: np.random.Generator) -> FloatArray:
    """Return principal axes as columns, most variance first."""
    return _principal_axes(layer)[:, ::-1]


def pca_bottom(layer: SelectorInput, rng: np.random.Generator) -> FloatArray:
    """Return principal axes as columns, least variance first."""
    return _principal_axes(layer)


def projection_gaussian(layer: SelectorInput, rng: np.random.Generator) -> FloatArray:
    """Return columns with entries N(0, 1)/sqrt(n_neurons)."""
    d = layer.n_neurons
    # Drawn column by column, so that a column does not depend on the number of columns after it.
    return np.asarray(rng.standard_normal((d, d)).T / np.sqrt(d))


def projection_uniform(layer: SelectorInput, rng: np.random.Generator) -> FloatArray:
    """Return columns uniform on [0, 1), L2-normalised, as in the paper."""
    d = layer.n_neurons
    columns = rng.random((d, d)).T
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


def rotation(layer: SelectorInput, rng: np.random.Generator) -> FloatArray:
    """Return a random orthonormal basis of the standardised layer as columns.

    The basis is uniform (Haar): the Q of a Gaussian matrix, with signs that make the diagonal of R
    positive (Mezzadri 2007, sec. 5). Its rows are divided by the neurons' standard deviations, so
    that it applies to raw features; a constant neuron is divided by 1.
    """
    m = layer.moments
    basis = projection_orthonormal(layer, rng)
    scales = column_scales(m.mean, np.diagonal(m.scatter) / m.n, m.n)
    return np.asarray(basis / scales[:, None], dtype=np.float64)


def projection_orthonormal(layer: SelectorInput, rng: np.random.Generator) -> FloatArray:
    """Return a random orthonormal basis of the raw layer as columns, uniform as in `rotation`.

    All columns together keep every distance and cosine.
    """
    from scipy.linalg import qr

    d = layer.n_neurons
    # Drawn column by column, so that a column does not depend on the number of columns after it.
    basis, triangle = qr(rng.standard_normal((d, d)).T, overwrite_a=True, check_finite=False)
    basis *= np.where(np.diagonal(triangle) < 0.0, -1.0, 1.0)
    return np.asarray(basis)


def _squared_norms(layer: SelectorInput) -> FloatArray:
    m = layer.moments
    return np.asarray(np.diagonal(m.scatter) + m.n * m.mean**2)


def _principal_axes(layer: SelectorInput) -> FloatArray:
    """Eigenvectors of the covariance as columns, by ascending eigenvalue.

    The sign of an eigenvector is arbitrary; its entry of largest magnitude is made positive.
    """
    from scipy.linalg import eigh

    _, axes = eigh(layer.moments.covariance, overwrite_a=True, check_finite=False)
    columns = np.arange(axes.shape[1])
    largest = axes[np.argmax(np.abs(axes), axis=0), columns]
    return np.asarray(axes * np.where(largest < 0.0, -1.0, 1.0), dtype=np.float64)
