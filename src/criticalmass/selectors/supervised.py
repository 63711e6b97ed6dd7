"""Selectors that need labels: separation of the classes, weights of a probe, discriminant axes."""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.measures.scaling import column_scales
from criticalmass.selectors.inputs import SelectorInput

# Singular values below this share of the largest are rounding: the classes do not differ there.
_NO_SEPARATION = 1e-9


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


def lda_top(layer: SelectorInput, rng: np.random.Generator) -> FloatArray:
    """Return discriminant axes as columns, most separation first, then principal axes of the rest.

    The axes of linear discriminant analysis maximise the variance between the classes over that
    within them (Fisher 1936; Hastie, Tibshirani and Friedman 2009, section 4.3.3). There are at
    most n_classes - 1. The covariance within the classes is shrunk towards a multiple of the
    identity (`shrunk_covariance`), because with few samples per neuron its inverse is mostly
    noise. The other columns are the principal axes, most variance first, of the part of the
    layer that is orthogonal to the discriminant axes. All of it is for standardised neurons; the
    rows are divided by the standard deviations, so that the result applies to raw features.
    """
    from scipy.linalg import cholesky, eigh, qr, solve_triangular, svd

    m, (counts, offsets) = layer.moments, layer.class_offsets
    scales = column_scales(m.mean, np.diagonal(m.scatter) / m.n, m.n)
    total = m.covariance / np.outer(scales, scales)
    means = np.sqrt(counts / m.n)[:, None] * offsets / scales
    within = total - means.T @ means
    factor = cholesky(shrunk_covariance(within, m.n, floor=np.trace(total)), lower=True)
    whitened = solve_triangular(factor, means.T, lower=True)
    directions, separation, _ = svd(whitened, full_matrices=False)
    largest = min(np.count_nonzero(counts) - 1, m.n_neurons)
    n_axes = min(largest, int((separation > _NO_SEPARATION * separation[0]).sum()))
    axes = solve_triangular(factor, directions[:, :n_axes], lower=True, trans="T")
    axes /= np.linalg.norm(axes, axis=0)
    basis, _ = qr(axes) if n_axes else (np.eye(m.n_neurons), None)
    rest = basis[:, n_axes:]
    _, principal = eigh(rest.T @ total @ rest)
    columns = np.hstack([axes, rest @ principal[:, ::-1]])
    largest_entry = columns[np.argmax(np.abs(columns), axis=0), np.arange(m.n_neurons)]
    # The sign of an axis is arbitrary; its entry of largest magnitude is made positive.
    return np.asarray(columns * np.where(largest_entry < 0.0, -1.0, 1.0) / scales[:, None])


def shrunk_covariance(covariance: FloatArray, n: int, *, floor: float) -> FloatArray:
    """Shrink a covariance towards a multiple of the identity, as much as its noise asks for.

    The share is that of the oracle approximating shrinkage estimator (Chen, Wiesel, Eldar and
    Hero 2010, equation 23), as in `sklearn.covariance.OAS`.

    Parameters
    ----------
    covariance: (d, d) covariance of ``n`` samples.
    n: number of samples.
    floor: variance of which a negligible share is added, so that the result can be inverted even
        where no sample differs from the mean of its class.
    """
    d = covariance.shape[0]
    variance = np.trace(covariance) / d
    square = float(np.mean(covariance**2))
    excess = (n + 1.0) * (square - variance**2 / d)
    share = min(1.0, (square + variance**2) / excess) if excess > 0.0 else 1.0
    shrunk = (1.0 - share) * covariance
    shrunk[np.diag_indices(d)] += share * variance + 1e-9 * floor / d + np.finfo(np.float64).tiny
    return np.asarray(shrunk)
