"""Linear CKA, plain and debiased: of two representations, and of every prefix of an order.

Linear CKA (Kornblith et al. 2019, eq. 3 and section 3) of a subset S against its own layer
needs no sample-by-sample matrix: with X centred and C = X'X,
CKA(X_S, X) = ||C[S, :]||_F^2 / (||C[S, S]||_F ||C||_F).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray, IndexArray, as_index
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.cka_kernels import prefix_terms
from criticalmass.measures.similarity.hsic import FEWEST_DEBIASED, Hsic, ratio


@checked
def linear_cka(x: Any, y: Any, *, debiased: bool = False) -> float:
    """Linear CKA between two representations of the same samples.

    Parameters
    ----------
    x: (n_samples, n_neurons_x) array or ``Features``.
    y: (n_samples, n_neurons_y) array or ``Features``.
    debiased: use the unbiased HSIC of Song et al. (2012, eq. 5), as Nguyen et al. (2021) do,
        so that unrelated representations score about 0 however few the samples. It can be
        slightly negative, and is 0 where one of the two has no unbiased HSIC with itself.

    Returns
    -------
    The similarity, 1 for representations that are equal up to rotation, shift and scale;
    0 if one of the two is constant.

    Raises
    ------
    CriticalMassError: if the samples do not match, are too few, or both are constant.
    """
    a, b = _centred(x, "x"), _centred(y, "y")
    if a.shape[0] != b.shape[0]:
        raise CriticalMassError(
            f"x has {a.shape[0]} samples and y has {b.shape[0]}; CKA compares the same samples"
        )
    fewest = FEWEST_DEBIASED if debiased else 2
    if a.shape[0] < fewest:
        raise CriticalMassError(f"CKA needs at least {fewest} samples, got {a.shape[0]}")
    dead = (not a.any(), not b.any())
    if all(dead):
        raise CriticalMassError("x and y are both constant; their CKA is not defined")
    if any(dead):
        return 0.0
    # CKA ignores scale; without it the fourth powers below could leave the range of float64.
    a /= np.abs(a).max()
    b /= np.abs(b).max()
    plain = Hsic(np.array(_hsic(a, b)), np.array(_hsic(a, a)), _hsic(b, b))
    if not debiased:
        return float(ratio(plain, plain))
    p, q = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    norms = Hsic(np.array(p @ q), np.array(p @ p), float(q @ q))
    traces = (np.array(p.sum()), float(q.sum()))
    return float(ratio(plain.debiased(norms, traces, a.shape[0]), plain))


@checked
def prefix_cka(second_moment: npt.ArrayLike, order: npt.ArrayLike) -> FloatArray:
    """Linear CKA of every prefix of an order against the whole layer.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    order: (m,) distinct neurons, m <= n_neurons.

    Returns
    -------
    (m,) CKA(X[:, order[:k]], X) for k = 1..m; exactly 0 while all neurons are constant.

    Raises
    ------
    CriticalMassError: if the matrix is not square, not finite or all zero, or the order
        repeats a neuron or leaves the layer.
    """
    c, scale = check_second_moment(second_moment)
    index = check_order(order, c.shape[0])
    sums = _prefix_sums(c, scale, ranks_of([index], c.shape[0]), index)
    return ratio(sums, sums)


@checked
def prefix_cka_debiased(
    second_moment: npt.ArrayLike,
    moment_of_squares: npt.ArrayLike,
    n_samples: int,
    order: npt.ArrayLike,
) -> FloatArray:
    """Debiased linear CKA of every prefix of an order against the whole layer.

    With C = X'X and D = (X*X)'(X*X) of the centred X, the unbiased HSIC of neurons S and T
    (Song et al. 2012, eq. 5) is, up to the factor 1/(n(n-3)), the sum over S x T of
    C_ij^2 - n/(n-2) D_ij + C_ii C_jj / ((n-1)(n-2)): row sums of a centred X'X vanish but for
    the diagonal that was taken off. Nguyen et al. (2021) divide it as CKA divides HSIC.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) C.
    moment_of_squares: (n_neurons, n_neurons) D, at the scale of C squared; see
        `criticalmass.core.moments.moment_of_squares`.
    n_samples: number of samples behind both, at least 4.
    order: (m,) distinct neurons, m <= n_neurons.

    Returns
    -------
    (m,) what ``linear_cka(X[:, order[:k]], X, debiased=True)`` is for k = 1..m. It lies in
    [-1, 1] (the unbiased HSIC is an inner product, Szekely and Rizzo 2014) and is 0 where the
    prefix has none with itself, as with neurons that differ from a constant in one sample.

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
            "both are of the same neurons, and sums of squares are finite and not negative"
        )
    if n_samples < FEWEST_DEBIASED:
        raise CriticalMassError(f"debiased CKA needs at least 4 samples, got {n_samples}")
    ranks = ranks_of([index], c.shape[0])
    # All entries of D are sums of squares: their roots, squared, give the sums of D itself.
    sums = [_prefix_sums(matrix, scale, ranks, index) for matrix in (c, np.sqrt(squares))]
    variances = np.diagonal(c) * scale
    traces = (np.cumsum(variances[index]), float(variances.sum()))
    return ratio(sums[0].debiased(sums[1], traces, n_samples), sums[0])


def prefix_cka_of_projection(second_moment: npt.ArrayLike, projection: npt.ArrayLike) -> FloatArray:
    """Linear CKA of every prefix of a projection's columns against the whole layer.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    projection: (n_neurons, m) matrix P.

    Returns
    -------
    (m,) CKA(X P[:, :k], X) for k = 1..m.

    Raises
    ------
    CriticalMassError: as `prefix_cka`, or if P does not have one row per neuron.
    """
    c, scale = check_second_moment(second_moment)
    p = check_projection(projection, c.shape[0])
    cross = p.T @ (c * scale)
    within = np.ascontiguousarray(cross @ p)
    m = within.shape[0]
    _, inner = prefix_terms(within, np.arange(m, dtype=np.float64)[None], 1.0)
    outer = np.cumsum(np.einsum("ij,ij->i", cross, cross))
    sums = Hsic(outer, np.cumsum(inner[0]), float(np.sum((c * scale) ** 2)))
    return ratio(sums, sums)


def _centred(x: Any, name: str) -> FloatArray:
    """Return (n, d) float64 rows minus their mean; exactly 0 for a constant column."""
    if not hasattr(x, "shape"):
        x = np.asarray(x)
    if len(x.shape) != 2 or 0 in x.shape:
        raise CriticalMassError(
            f"{name} has shape {tuple(x.shape)}; a representation is (n_samples, n_neurons)"
        )
    values = np.array(x[0 : x.shape[0]], dtype=np.float64)
    if not np.isfinite(values).all():
        raise CriticalMassError(f"{name} holds NaN or infinity; drop those samples")
    values -= values[:1].copy()
    values -= values.mean(axis=0)
    return values


def _hsic(a: FloatArray, b: FloatArray) -> float:
    """||A'B||_F^2 of centred features; through the Gram matrices where those are smaller."""
    n = a.shape[0]
    if n < min(a.shape[1], b.shape[1]):
        return float(np.vdot(a @ a.T, b @ b.T))
    cross = a.T @ b
    return float(np.vdot(cross, cross))


def check_second_moment(second_moment: npt.ArrayLike) -> tuple[FloatArray, float]:
    """Return the matrix, row-contiguous float64, and the scale that makes its diagonal <= 1."""
    c = np.ascontiguousarray(second_moment, dtype=np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or c.size == 0:
        raise CriticalMassError(
            f"a second moment is square, (n_neurons, n_neurons); got shape {c.shape}"
        )
    # The largest entry of a positive semi-definite matrix lies on its diagonal.
    largest = float(np.max(np.diagonal(c)))
    if not np.isfinite(largest):
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    if largest <= 0.0:
        raise CriticalMassError(
            "the second moment is zero: every neuron is constant, so CKA is not defined"
        )
    return c, 1.0 / largest


def check_order(order: npt.ArrayLike, n_neurons: int) -> IndexArray:
    """Return an order of distinct neurons."""
    index = as_index(order, n_neurons)
    if index.size == 0:
        raise CriticalMassError("the order is empty; give at least one neuron")
    counts = np.bincount(index, minlength=n_neurons)
    if counts.max() > 1:
        raise CriticalMassError(
            f"the order names neuron {int(np.argmax(counts))} more than once; name each once"
        )
    return index


def check_projection(projection: npt.ArrayLike, n_neurons: int) -> FloatArray:
    """Return a projection that has one row per neuron, float64."""
    p = np.asarray(projection, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != n_neurons or p.shape[1] < 1:
        raise CriticalMassError(
            f"projection has shape {p.shape}; it needs one row for each of {n_neurons} neurons"
        )
    return p


def check_sizes(sizes: Sequence[int], longest: int) -> IndexArray:
    """Return the positions (size - 1) of prefix lengths."""
    at = np.asarray(sizes, dtype=np.intp) - 1
    if at.ndim != 1 or at.size == 0 or at.min() < 0 or at.max() >= longest:
        raise CriticalMassError(
            f"sizes {list(sizes)} must be prefix lengths from 1 to {longest}, at least one"
        )
    return at


def ranks_of(indices: Sequence[IndexArray], n_neurons: int) -> FloatArray:
    """(n_orders, n_neurons) position of every neuron in every order, infinity if absent."""
    ranks = np.full((len(indices), n_neurons), np.inf)
    for row, index in zip(ranks, indices, strict=True):
        row[index] = np.arange(index.size)
    return ranks


def _prefix_sums(matrix: FloatArray, scale: float, ranks: FloatArray, index: IndexArray) -> Hsic:
    """Sum squared entries as the prefixes of one order need them, each (m,)."""
    outer, inner = prefix_terms(matrix, ranks, scale)
    return Hsic(np.cumsum(outer[index]), np.cumsum(inner[0][index]), float(outer.sum()))
