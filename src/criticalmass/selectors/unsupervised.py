"""Rules by chance, by position, by size, and projections."""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.selectors.inputs import Evidence


def random(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Return a random permutation."""
    return rng.permutation(seen.n_neurons)


def first(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Return the layer's own order."""
    return np.arange(seen.n_neurons)


def norm_low(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Ascending L2 norm of the uncentred column; ties keep the layer's order."""
    return np.argsort(_squared_norms(seen), kind="stable")


def norm_high(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Descending L2 norm of the uncentred column; ties keep the layer's order."""
    return np.argsort(-_squared_norms(seen), kind="stable")


def variance_high(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Descending variance; ties keep the layer's order."""
    return np.argsort(-np.diagonal(seen.moments.scatter), kind="stable")


def pca_top(seen: Evidence, rng: np.random.Generator) -> FloatArray:
    """Return principal axes as columns, most variance first."""
    return _principal_axes(seen)[:, ::-1]


def pca_bottom(seen: Evidence, rng: np.random.Generator) -> FloatArray:
    """Return principal axes as columns, least variance first."""
    return _principal_axes(seen)


def projection_gaussian(seen: Evidence, rng: np.random.Generator) -> FloatArray:
    """Return columns with entries N(0, 1)/sqrt(n_neurons)."""
    d = seen.n_neurons
    # Drawn a column at a time, so that a column never depends on how many follow it.
    return np.asarray(rng.standard_normal((d, d)).T / np.sqrt(d))


def projection_uniform(seen: Evidence, rng: np.random.Generator) -> FloatArray:
    """Return columns uniform on [0, 1), L2-normalised, as in the paper."""
    d = seen.n_neurons
    columns = rng.random((d, d)).T
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


def _squared_norms(seen: Evidence) -> FloatArray:
    m = seen.moments
    return np.asarray(np.diagonal(m.scatter) + m.n * m.mean**2)


def _principal_axes(seen: Evidence) -> FloatArray:
    """Eigenvectors of the covariance as columns, ascending eigenvalue.

    An eigenvector's sign is free: its largest entry by magnitude is made positive.
    """
    from scipy.linalg import eigh

    _, axes = eigh(seen.moments.covariance, overwrite_a=True, check_finite=False)
    columns = np.arange(axes.shape[1])
    largest = axes[np.argmax(np.abs(axes), axis=0), columns]
    return np.asarray(axes * np.where(largest < 0.0, -1.0, 1.0), dtype=np.float64)
