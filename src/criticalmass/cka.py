"""Linear CKA: two representations, every prefix of an order, and its uncertainty.

Linear CKA (Kornblith et al. 2019, eq. 3 and section 3) of a subset S against its own layer
needs no sample-by-sample matrix: with X centred and C = X'X,
CKA(X_S, X) = ||C[S, :]||_F^2 / (||C[S, S]||_F ||C||_F).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.cka_kernels import prefix_terms
from criticalmass.errors import CriticalMassError
from criticalmass.statistics import FloatArray, IndexArray, as_index, moments


def linear_cka(x: Any, y: Any, *, debiased: bool = False) -> float:
    """Linear CKA between two representations of the same samples.

    Parameters
    ----------
    x: (n_samples, n_neurons_x) array or ``Features``.
    y: (n_samples, n_neurons_y) array or ``Features``.
    debiased: use the unbiased HSIC of Song et al. (2012, eq. 5), as Nguyen et al. (2021) do,
        so that unrelated representations score about 0 however few the samples. It can be
        slightly negative.

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
    fewest = 4 if debiased else 2
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
    hsic = _hsic_unbiased if debiased else _hsic
    return float(hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b)))


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
    c, scale = _check_second_moment(second_moment)
    index = _check_order(order, c.shape[0])
    outer, inner = prefix_terms(c, _ranks([index], c.shape[0]), scale)
    return _assemble(outer[index], inner[0][index], float(outer.sum()))


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
    c, scale = _check_second_moment(second_moment)
    p = np.asarray(projection, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != c.shape[0]:
        raise CriticalMassError(
            f"projection has shape {p.shape}; it needs one row for each of {c.shape[0]} neurons"
        )
    cross = p.T @ (c * scale)
    within = np.ascontiguousarray(cross @ p)
    m = within.shape[0]
    _, inner = prefix_terms(within, np.arange(m, dtype=np.float64)[None], 1.0)
    outer = np.einsum("ij,ij->i", cross, cross)
    full = float(np.sum((c * scale) ** 2))
    return _assemble(outer, inner[0], full)


def prefix_cka_replicates(
    rows: Any, orders: npt.ArrayLike, sizes: Sequence[int], *, n_blocks: int = 32
) -> tuple[FloatArray, FloatArray]:
    """CKA at some prefixes of some orders, and again with each block of samples left out.

    Samples are dealt into blocks by a fixed permutation (seed 0), so that sorted data give
    blocks of the same make-up. With Z centred on the mean of all samples, Z_b a block and
    s_b its column sums, leaving it out leaves the centred second moment
    Z'Z - Z_b'Z_b - s_b s_b'/(n - n_b): the change of the mean is one more row of the update.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples.
    orders: (n_orders, n_neurons) orders of neurons.
    sizes: (n_sizes,) prefix lengths.
    n_blocks: blocks of samples; with fewer than twice as many samples, half the samples.

    Returns
    -------
    values: (n_orders, n_sizes) CKA on all samples.
    replicates: (n_orders, n_sizes, n_blocks) CKA with block b left out.

    Raises
    ------
    CriticalMassError: for too few samples or blocks, or sizes that no prefix has.
    """
    n, d = int(rows.shape[0]), int(rows.shape[1])
    indices = [_check_order(order, d) for order in np.atleast_2d(np.asarray(orders))]
    at = _check_sizes(sizes, min(index.size for index in indices))
    if n < 4 or n_blocks < 2:
        raise CriticalMassError(
            f"{n} samples in {n_blocks} blocks; CKA needs at least 4 samples and 2 blocks"
        )
    whole = moments(rows)
    ranks = _ranks(indices, d)
    values = _at_sizes(whole.scatter, indices, ranks, at)
    blocks = np.array_split(np.random.default_rng(0).permutation(n), min(n_blocks, n // 2))
    replicates = np.empty((*values.shape, len(blocks)))
    for b, members in enumerate(blocks):
        left = _without_block(rows, np.sort(members), whole.mean, whole.scatter)
        replicates[:, :, b] = _at_sizes(left, indices, ranks, at)
    return values, replicates


def _centred(x: Any, name: str) -> FloatArray:
    """Return (n, d) float64 rows minus their mean; exactly 0 for a constant column."""
    if len(x.shape) != 2:
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


def _hsic_unbiased(a: FloatArray, b: FloatArray) -> float:
    """Unbiased HSIC (Song et al. 2012, eq. 5) up to the factor 1/(n(n-3)), on centred features.

    With K = AA' and L = BB', K1 = L1 = 0; taking the diagonals p and q off leaves
    tr = ||A'B||^2 - p'q, row sums -p and -q, and hence the three terms below.
    """
    n = a.shape[0]
    p = np.einsum("ij,ij->i", a, a)
    q = np.einsum("ij,ij->i", b, b)
    shared = float(p @ q)
    totals = float(p.sum()) * float(q.sum())
    return float(_hsic(a, b) - shared + totals / ((n - 1) * (n - 2)) - 2.0 * shared / (n - 2))


def _check_second_moment(second_moment: npt.ArrayLike) -> tuple[FloatArray, float]:
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


def _check_order(order: npt.ArrayLike, n_neurons: int) -> IndexArray:
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


def _check_sizes(sizes: Sequence[int], longest: int) -> IndexArray:
    """Return the positions (size - 1) of prefix lengths."""
    at = np.asarray(sizes, dtype=np.intp) - 1
    if at.ndim != 1 or at.size == 0 or at.min() < 0 or at.max() >= longest:
        raise CriticalMassError(
            f"sizes {list(sizes)} must be prefix lengths from 1 to {longest}, at least one"
        )
    return at


def _ranks(indices: Sequence[IndexArray], n_neurons: int) -> FloatArray:
    """(n_orders, n_neurons) position of every neuron in every order, infinity if absent."""
    ranks = np.full((len(indices), n_neurons), np.inf)
    for row, index in zip(ranks, indices, strict=True):
        row[index] = np.arange(index.size)
    return ranks


def _assemble(outer: FloatArray, inner: FloatArray, full: float) -> FloatArray:
    """CKA of all prefixes from the added terms, in the order in which neurons are added."""
    within = np.sqrt(np.cumsum(inner))
    result = np.zeros(within.size)
    np.divide(np.cumsum(outer), within * np.sqrt(full), out=result, where=within > 0.0)
    if not np.isfinite(result).all():
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    return result


def _at_sizes(
    matrix: FloatArray, indices: Sequence[IndexArray], ranks: FloatArray, at: IndexArray
) -> FloatArray:
    """(n_orders, n_sizes) CKA of the prefixes of several orders, one pass over the matrix."""
    c, scale = _check_second_moment(matrix)
    outer, inner = prefix_terms(c, ranks, scale)
    full = float(outer.sum())
    return np.stack(
        [_assemble(outer[i], row[i], full)[at] for i, row in zip(indices, inner, strict=True)]
    )


def _without_block(
    rows: Any, members: IndexArray, mean: FloatArray, scatter: FloatArray
) -> FloatArray:
    """Centred second moment of all samples but ``members``."""
    block = np.empty((members.size + 1, mean.size))
    np.subtract(rows[members], mean, out=block[:-1])
    block[-1] = block[:-1].sum(axis=0) / np.sqrt(rows.shape[0] - members.size)
    left = scatter - block.T @ block
    # A neuron that varies only inside the block is constant without it: rounding must not
    # leave it a variance.
    still = np.diagonal(left) <= 1e-13 * np.diagonal(scatter)
    left[still] = 0.0
    left[:, still] = 0.0
    return left
