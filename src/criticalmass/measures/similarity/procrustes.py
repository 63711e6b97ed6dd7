"""Orthogonal Procrustes similarity of subsets with their whole layer.

With A and B centred, min over orthogonal Q of ||A/||A|| - B Q/||B||||^2 is 2 - 2 s, where
s = ||A'B||_* / (||A|| ||B||) (Schonemann 1966; Ding et al. 2021 use the distance of A and B
normalised in this way, Williams et al. 2021 the angle arccos s). The similarity is s, in [0, 1].
A subset is padded with zeros to the width of the layer, which changes neither norm nor nuclear
norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.measures.nearest import scaling_exponent
from criticalmass.measures.similarity.checks import check_order, check_projection, check_sizes
from criticalmass.measures.similarity.cka_jackknife import N_BLOCKS, JackknifeBlocks

# Squared singular values below this share of the largest are rounding errors.
_NEGLIGIBLE = 16.0 * np.finfo(np.float64).eps


def prefix_procrustes_replicates(
    rows: Any,
    orders: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    layer_moments: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Procrustes similarity of prefixes of orders, on all samples and without each block.

    The squares of the singular values are the eigenvalues of C[S, :] C[:, S], so a singular value
    below about 1e-8 of the largest counts as 0. Without a block of samples, the norms are exact
    and the rotation is the one that is best for all samples. The result is right to first order
    in the change, which is the order that the bootstrap over blocks uses.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples.
    orders: (n_orders, n_neurons) orders of neurons.
    sizes: (n_sizes,) prefix lengths, ascending.
    n_blocks: blocks of samples; at most half as many as there are samples.
    layer_moments: moments of the rows, if they are known already.

    Returns
    -------
    values: (n_orders, n_sizes); 0 where all neurons of a prefix are constant.
    replicates: (n_orders, n_sizes, n_blocks) without block b.

    Raises
    ------
    CriticalMassError: for too few samples or blocks, or a size that no prefix has.
    """
    d = int(rows.shape[1])
    indices = [check_order(order, d) for order in np.atleast_2d(np.asarray(orders))]
    last = check_sizes(sizes, min(index.size for index in indices))
    jackknife = JackknifeBlocks.split(rows, n_blocks, layer_moments)
    factor, scatter = _scale(jackknife)
    layer = _Layer(jackknife, scatter, factor)
    results = [_compare(layer, _Columns(scatter[:, i], i), last) for i in indices]
    values, replicates = zip(*results, strict=True)
    return np.stack(values), np.stack(replicates)


def projection_procrustes_replicates(
    rows: Any,
    projection: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    layer_moments: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Procrustes similarity of prefixes of a projection, with and without each block.

    Parameters
    ----------
    projection: (n_neurons, m) matrix; the other parameters as in `prefix_procrustes_replicates`.

    Returns
    -------
    values: (1, n_sizes).
    replicates: (1, n_sizes, n_blocks) without block b.

    Raises
    ------
    CriticalMassError: as `prefix_procrustes_replicates`, or if the projection does not fit the
        layer.
    """
    p = check_projection(projection, int(rows.shape[1]))
    last = check_sizes(sizes, p.shape[1])
    jackknife = JackknifeBlocks.split(rows, n_blocks, layer_moments)
    factor, scatter = _scale(jackknife)
    columns = _Columns(scatter @ p, p)
    values, replicates = _compare(_Layer(jackknife, scatter, factor), columns, last)
    return values[None], replicates[None]


@dataclass(frozen=True, eq=False)
class _Layer:
    """The whole layer, scaled by a power of two.

    Attributes
    ----------
    jackknife: rows, moments and blocks, not scaled.
    scatter: (n_neurons, n_neurons) centred second moment of scaled rows.
    factor: the power of two; 1 unless the features are of extreme size.
    """

    jackknife: JackknifeBlocks
    scatter: FloatArray
    factor: float


@dataclass(frozen=True, eq=False)
class _Columns:
    """The columns of an order or a projection; every prefix of them is compared.

    Attributes
    ----------
    cross: (n_neurons, m) second moment of all neurons with the columns.
    transform: the order, (m,), or the projection, (n_neurons, m).
    """

    cross: FloatArray
    transform: npt.NDArray[Any]

    def of(self, rows: FloatArray) -> FloatArray:
        """Return the columns of (n_samples, n_neurons) centred rows."""
        if self.transform.ndim == 1:
            return rows[:, self.transform]
        return np.asarray(rows @ self.transform)

    def is_whole_layer(self, size: int) -> bool:
        """Whether a prefix is the whole layer, in another order."""
        return self.transform.ndim == 1 and size == self.cross.shape[0]

    def inverse_order(self) -> npt.NDArray[np.float32]:
        """Return the permutation matrix that undoes the order, (n_neurons, n_neurons)."""
        return np.eye(self.transform.size, dtype=np.float32)[:, self.transform]

    @property
    def variances(self) -> FloatArray:
        """(m,) sum of squares of every column."""
        if self.transform.ndim == 1:
            return np.asarray(self.cross[self.transform, np.arange(self.transform.size)])
        return np.asarray(np.einsum("ij,ij->j", self.transform, self.cross))


def _scale(jackknife: JackknifeBlocks) -> tuple[float, FloatArray]:
    """Return a power of two, and the second moment of rows that are multiplied by it.

    The similarity does not depend on it, but float32 overlaps of extreme features overflow.
    """
    scatter = jackknife.moments.scatter
    exponent = scaling_exponent(float(np.sqrt(np.diagonal(scatter).max())))
    if exponent == 0:
        return 1.0, scatter
    return math.ldexp(1.0, exponent), np.ldexp(scatter, 2 * exponent)


def _compare(layer: _Layer, columns: _Columns, last: IndexArray) -> tuple[FloatArray, FloatArray]:
    """Return (n_sizes,) similarities, and (n_sizes, n_blocks) without each block."""
    overlaps, rotations = np.zeros(last.size), []
    gram = columns.cross.T @ columns.cross
    variances, layer_variance = columns.variances, np.diagonal(layer.scatter).sum()
    for j, k in enumerate(last + 1):
        if columns.is_whole_layer(k):
            overlaps[j], rotation = layer_variance, columns.inverse_order()
        else:
            overlaps[j], rotation = _best_rotation(columns.cross[:, :k], gram[:k, :k])
        rotations.append(rotation)
    totals = np.cumsum(variances)
    values = np.minimum(_normalise(overlaps, totals[last], layer_variance), 1.0)
    replicates = np.empty((last.size, len(layer.jackknife.blocks)))
    for b, loss in enumerate(_block_losses(layer, columns, rotations)):
        reduced = np.cumsum(variances - loss.variances)
        reduced = np.where(reduced > 1e-13 * totals, reduced, 0.0)
        replicates[:, b] = _normalise(
            overlaps - loss.overlaps, reduced[last], layer_variance - loss.layer_variance
        )
    return values, replicates


@dataclass(frozen=True, eq=False)
class _BlockLoss:
    """The contribution of one block to overlaps (n_sizes,), variances (m,), layer variance."""

    overlaps: FloatArray
    variances: FloatArray
    layer_variance: float


def _block_losses(
    layer: _Layer, columns: _Columns, rotations: Sequence[npt.NDArray[np.float32]]
) -> Iterator[_BlockLoss]:
    """Yield the loss of every block.

    Overlaps are computed in float32: they are small against the sums they are subtracted from.
    """
    for members in layer.jackknife.blocks:
        block = layer.jackknife.update_rows(members) * layer.factor
        block_columns = columns.of(block)
        cross = block.T.astype(np.float32) @ block_columns.astype(np.float32)
        overlaps = np.zeros(len(rotations))
        for j, rotation in enumerate(rotations):
            # Column by column, so that no float32 sum is long.
            by_column = np.einsum("ij,ij->j", cross[:, : rotation.shape[1]], rotation)
            overlaps[j] = by_column.sum(dtype=np.float64)
        variances = np.einsum("ij,ij->j", block_columns, block_columns)
        yield _BlockLoss(overlaps, variances, float(np.vdot(block, block)))


def _best_rotation(cross: FloatArray, gram: FloatArray) -> tuple[float, npt.NDArray[np.float32]]:
    """Return the nuclear norm of A'B and the orthonormal columns that attain it, (n_neurons, k).

    With A'B = U s V', they are U V' = A'B (V s^-1 V'); directions without overlap are left out.
    """
    from scipy.linalg import eigh

    squares, vectors = eigh(gram, driver="evd", check_finite=False)
    is_nonzero = squares > _NEGLIGIBLE * max(squares[-1], 0.0)
    roots, vectors = np.sqrt(squares[is_nonzero]), vectors[:, is_nonzero]
    rotation = cross @ ((vectors / roots) @ vectors.T)
    return float(roots.sum()), rotation.astype(np.float32)


def _normalise(overlaps: FloatArray, variances: FloatArray, layer_variance: float) -> FloatArray:
    """Divide overlaps by the norms of subset and layer; 0 for a constant subset."""
    norms = np.sqrt(variances) * np.sqrt(layer_variance)
    return np.asarray(np.divide(overlaps, norms, out=np.zeros(norms.shape), where=norms > 0.0))
