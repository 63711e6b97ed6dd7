"""Linear CKA, plain and debiased: of two representations, and of every prefix of an order.

Linear CKA (Kornblith et al. 2019, eq. 3 and section 3) of a subset S against its own layer
needs no sample-by-sample matrix. With X centred and C = X'X,
CKA(X_S, X) = ||C[S, :]||_F^2 / (||C[S, S]||_F ||C||_F).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.checks import check_order, check_second_moment, ranks_of
from criticalmass.measures.similarity.cka_kernels import prefix_terms
from criticalmass.measures.similarity.hsic import FEWEST_DEBIASED, Hsic, ratio

# A share of a neuron's variance that is rounding error.
_ROUNDING = 1e-10


@validate_arguments
def linear_cka(x: Any, y: Any, *, debiased: bool = False) -> float:
    """Linear CKA between two representations of the same samples.

    Parameters
    ----------
    x: (n_samples, n_neurons_x) array or ``Features``.
    y: (n_samples, n_neurons_y) array or ``Features``.
    debiased: use the unbiased HSIC of Song et al. (2012, eq. 5), as Nguyen et al. (2021) do,
        so that unrelated representations score about 0 for any number of samples. The result
        can be slightly negative, and is 0 if the unbiased HSIC of x or of y with itself is 0.

    Returns
    -------
    The similarity, 1 for representations that are equal up to rotation, shift and scale;
    0 if one of the two is constant.

    Raises
    ------
    CriticalMassError: if the numbers of samples differ, there are too few samples, or both
        representations are constant.
    """
    a, b = _centred(x, "x"), _centred(y, "y")
    if a.shape[0] != b.shape[0]:
        raise CriticalMassError(
            f"x has {a.shape[0]} samples and y has {b.shape[0]}; give the same samples for both"
        )
    fewest = FEWEST_DEBIASED if debiased else 2
    if a.shape[0] < fewest:
        raise CriticalMassError(f"CKA needs at least {fewest} samples, got {a.shape[0]}")
    is_constant = (not a.any(), not b.any())
    if all(is_constant):
        raise CriticalMassError("x and y are both constant, so their CKA is not defined")
    if any(is_constant):
        return 0.0
    # CKA does not depend on scale; unscaled, the fourth powers below could overflow float64.
    a /= np.abs(a).max()
    b /= np.abs(b).max()
    plain = Hsic(np.array(_hsic(a, b)), np.array(_hsic(a, a)), _hsic(b, b))
    if not debiased:
        return float(ratio(plain, plain))
    p, q = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    norms = Hsic(np.array(p @ q), np.array(p @ p), float(q @ q))
    unbiased = plain.debiased(norms, np.array(p.sum()), float(q.sum()), a.shape[0])
    return float(ratio(unbiased, plain))


@validate_arguments
def prefix_cka(
    second_moment: npt.ArrayLike, order: npt.ArrayLike, *, without_top: int = 0
) -> FloatArray:
    """Linear CKA of every prefix of an order against the whole layer.

    A few principal axes with large variances can determine CKA. ``without_top`` removes the layer's
    first principal components from every neuron, from the subset's and from the whole layer's
    alike; see `without_top_axes`.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    order: (m,) distinct neurons, m <= n_neurons.
    without_top: number of principal components of the layer to remove.

    Returns
    -------
    (m,) CKA(X[:, order[:k]], X) for k = 1..m; exactly 0 while all neurons are constant.

    Raises
    ------
    CriticalMassError: if the matrix is not square, not finite or all zero, or the order
        repeats a neuron or has one that is outside the layer, or nothing is left without the
        top axes.
    """
    c, scale = check_second_moment(second_moment)
    index = check_order(order, c.shape[0])
    c = without_top_axes(c, without_top)
    sums = _prefix_sums(c, scale, ranks_of([index], c.shape[0]), index)
    return ratio(sums, sums)


@validate_arguments
def prefix_cka_debiased(
    second_moment: npt.ArrayLike,
    moment_of_squares: npt.ArrayLike,
    n_samples: int,
    order: npt.ArrayLike,
) -> FloatArray:
    """Debiased linear CKA of every prefix of an order against the whole layer.

    With C = X'X and D = (X*X)'(X*X) of the centred X, the unbiased HSIC of neurons S and T
    (Song et al. 2012, eq. 5) is, up to the factor 1/(n(n-3)), the sum over S x T of
    C_ij^2 - n/(n-2) D_ij + C_ii C_jj / ((n-1)(n-2)): the row sums of the Gram matrix of centred
    rows are 0, so removing its diagonal leaves minus the diagonal. Nguyen et al. (2021) take the
    ratio of CKA with this HSIC.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) C.
    moment_of_squares: (n_neurons, n_neurons) D, at the scale of C squared; see
        `criticalmass.core.moments.moment_of_squares`.
    n_samples: number of samples behind both, at least 4.
    order: (m,) distinct neurons, m <= n_neurons.

    Returns
    -------
    (m,) ``linear_cka(X[:, order[:k]], X, debiased=True)`` for k = 1..m. It lies in [-1, 1] (the
    unbiased HSIC is an inner product, Szekely and Rizzo 2014) and is 0 if the unbiased HSIC of
    the prefix with itself is 0, e.g. for a neuron that differs from a constant in one sample.

    Raises
    ------
    CriticalMassError: as `prefix_cka`, for fewer than 4 samples, or if D does not fit C.
    """
    c, scale = check_second_moment(second_moment)
    squares = np.ascontiguousarray(moment_of_squares, dtype=np.float64)
    index = check_order(order, c.shape[0])
    if squares.shape != c.shape or not (np.isfinite(squares).all() and squares.min() >= 0.0):
        raise CriticalMassError(
            f"the moment of squares has shape {squares.shape}, the second moment {c.shape}; "
            "give both for the same neurons, with sums of squares that are finite and not negative"
        )
    if n_samples < FEWEST_DEBIASED:
        raise CriticalMassError(f"debiased CKA needs at least 4 samples, got {n_samples}")
    ranks = ranks_of([index], c.shape[0])
    plain = _prefix_sums(c, scale, ranks, index)
    # The function sums squared entries; the entries of D are not negative, so it gets their roots.
    norms = _prefix_sums(np.sqrt(squares), scale, ranks, index)
    variances = np.diagonal(c) * scale
    prefix_traces = np.cumsum(variances[index])
    return ratio(plain.debiased(norms, prefix_traces, float(variances.sum()), n_samples), plain)


def without_top_axes(c: FloatArray, n_axes: int) -> FloatArray:
    """Return the second moment of a layer without its first principal components.

    With X = U S V' and V_r its first r axes, X - X V_r V_r' = (I - U_r U_r') X: removing the axes
    from the layer and removing the component scores from every neuron (regressing them out) are
    the same. So the columns S of the result are what is left of the subset S, and
    C - V_r S_r^2 V_r' is the second moment of both.

    Parameters
    ----------
    c: (n_neurons, n_neurons) second moment of the centred layer.
    n_axes: number of axes; 0 returns ``c``.

    Raises
    ------
    CriticalMassError: if the layer has no variance outside these axes.
    """
    if n_axes < 0:
        raise CriticalMassError(f"without_top={n_axes} axes; give 0 or more")
    if n_axes == 0:
        return c
    d = c.shape[0]
    if n_axes < d:
        values, vectors = eigh(c, subset_by_index=(d - n_axes, d - 1))
        rest = c - (vectors * values) @ vectors.T
        left = np.diagonal(rest) > _ROUNDING * np.diagonal(c)
        # What is left of a neuron that lies in the axes is rounding error.
        rest[~left] = 0.0
        rest[:, ~left] = 0.0
        if left.any():
            return np.ascontiguousarray(rest)
    raise CriticalMassError(
        f"the layer of {d} neurons has no variance without its {n_axes} top principal axes; "
        "remove fewer, or measure 'cka'"
    )


def _centred(x: Any, name: str) -> FloatArray:
    """Return (n, d) float64 rows minus their mean; a constant column becomes exactly 0."""
    if not hasattr(x, "shape"):
        x = np.asarray(x)
    if len(x.shape) != 2 or 0 in x.shape:
        raise CriticalMassError(
            f"{name} has shape {tuple(x.shape)}; give a representation (n_samples, n_neurons)"
        )
    values = np.array(x[0 : x.shape[0]], dtype=np.float64)
    if not np.isfinite(values).all():
        raise CriticalMassError(f"{name} holds NaN or infinity; drop those samples")
    values -= values[:1].copy()
    values -= values.mean(axis=0)
    return values


def _hsic(a: FloatArray, b: FloatArray) -> float:
    """||A'B||_F^2 of centred features; computed from the Gram matrices if those are smaller."""
    n = a.shape[0]
    if n < min(a.shape[1], b.shape[1]):
        return float(np.vdot(a @ a.T, b @ b.T))
    cross = a.T @ b
    return float(np.vdot(cross, cross))


def _prefix_sums(matrix: FloatArray, scale: float, ranks: FloatArray, index: IndexArray) -> Hsic:
    """Sum the squared entries of a matrix over every prefix of one order."""
    outer, inner = prefix_terms(matrix, ranks, scale)
    return Hsic(np.cumsum(outer[index]), np.cumsum(inner[0][index]), float(outer.sum()))
