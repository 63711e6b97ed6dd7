"""Orthogonal Procrustes similarity of subsets with their whole layer.

With A and B centred, min over orthogonal Q of ||A/||A|| - B Q/||B||||^2 is 2 - 2 s, where
s = ||A'B||_* / (||A|| ||B||) (Schonemann 1966; Ding et al. 2021 take the distance of A and B so
normalised, and Williams et al. 2021 the angle arccos s). The similarity is s, in [0, 1]. A subset
is padded with zeros to the width of the layer, which changes neither norm nor nuclear norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.measures.similarity.cka import check_order, check_projection, check_sizes
from criticalmass.measures.similarity.cka_jackknife import N_BLOCKS, Deal

# Squared singular values below this share of the largest are rounding.
_NEGLIGIBLE = 16.0 * np.finfo(np.float64).eps


def prefix_procrustes_replicates(
    rows: Any,
    orders: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    whole: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Procrustes similarity of some prefixes of some orders, with and without each block.

    Squares of singular values come from the eigenvalues of C[S, :] C[:, S], so a singular value
    below about 1e-8 of the largest counts as none. Without a block of samples, the norms are
    exact and the rotation is the one that is best for all samples: right to first order in
    what the block changes, which is what the bootstrap over blocks uses.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples.
    orders: (n_orders, n_neurons) orders of neurons.
    sizes: (n_sizes,) prefix lengths, ascending.
    n_blocks: blocks of samples; with fewer than twice as many samples, half the samples.
    whole: moments of the rows, if they are at hand.

    Returns
    -------
    values: (n_orders, n_sizes); 0 where all neurons of a prefix are constant.
    replicates: (n_orders, n_sizes, n_blocks) with block b left out.

    Raises
    ------
    CriticalMassError: for too few samples or blocks, or sizes that no prefix has.
    """
    d = int(rows.shape[1])
    indices = [check_order(order, d) for order in np.atleast_2d(np.asarray(orders))]
    at = check_sizes(sizes, min(index.size for index in indices))
    deal = Deal.of(rows, n_blocks, whole)
    found = [_compare(deal, _Subset(deal.whole.scatter[:, i], i), at) for i in indices]
    values, replicates = zip(*found, strict=True)
    return np.stack(values), np.stack(replicates)


def projection_procrustes_replicates(
    rows: Any,
    projection: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
    whole: Moments | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Procrustes similarity of some prefixes of a projection, with and without each block.

    Parameters
    ----------
    projection: (n_neurons, m) matrix; the rest as in `prefix_procrustes_replicates`.

    Returns
    -------
    values: (1, n_sizes).
    replicates: (1, n_sizes, n_blocks) with block b left out.

    Raises
    ------
    CriticalMassError: as `prefix_procrustes_replicates`, or if the projection fits no layer.
    """
    p = check_projection(projection, int(rows.shape[1]))
    at = check_sizes(sizes, p.shape[1])
    deal = Deal.of(rows, n_blocks, whole)
    values, replicates = _compare(deal, _Subset(deal.whole.scatter @ p, p), at)
    return values[None], replicates[None]


@dataclass(frozen=True, eq=False)
class _Subset:
    """Columns of an order or a projection; every prefix of them is compared.

    ``cross``: (n_neurons, m) second moment of all neurons with the columns. ``turn``: the order,
    (m,), or the projection, (n_neurons, m).
    """

    cross: FloatArray
    turn: npt.NDArray[Any]

    def of(self, rows: FloatArray) -> FloatArray:
        """Bring (n_samples, n_neurons) centred rows into the columns."""
        return np.asarray(rows[:, self.turn] if self.turn.ndim == 1 else rows @ self.turn)

    def is_layer(self, size: int) -> bool:
        """Whether a prefix is the whole layer, in another order."""
        return self.turn.ndim == 1 and size == self.cross.shape[0]

    def back(self) -> npt.NDArray[np.float32]:
        """Return the permutation that undoes the order, (n_neurons, n_neurons)."""
        return np.eye(self.turn.size, dtype=np.float32)[:, self.turn]

    @property
    def variances(self) -> FloatArray:
        """(m,) sum of squares of every column."""
        if self.turn.ndim == 1:
            return np.asarray(self.cross[self.turn, np.arange(self.turn.size)])
        return np.asarray(np.einsum("ij,ij->j", self.turn, self.cross))


def _compare(deal: Deal, subset: _Subset, at: IndexArray) -> tuple[FloatArray, FloatArray]:
    """(n_sizes,) similarities, and (n_sizes, n_blocks) without each block."""
    nuclear, rotations = np.zeros(at.size), []
    gram = subset.cross.T @ subset.cross
    part, layer = subset.variances, np.diagonal(deal.whole.scatter)
    for j, k in enumerate(at + 1):
        if subset.is_layer(k):
            nuclear[j], rotation = layer.sum(), subset.back()
        else:
            nuclear[j], rotation = _best_rotation(subset.cross[:, :k], gram[:k, :k])
        rotations.append(rotation)
    values = np.minimum(_share(nuclear, np.cumsum(part)[at], layer.sum()), 1.0)
    replicates = np.empty((at.size, len(deal.blocks)))
    for b, (lost, gone, gone_whole) in enumerate(_losses(deal, subset, rotations)):
        left = np.cumsum(part - gone)
        left = np.where(left > 1e-13 * np.cumsum(part), left, 0.0)
        replicates[:, b] = _share(nuclear - lost, left[at], layer.sum() - gone_whole)
    return values, replicates


def _losses(
    deal: Deal, subset: _Subset, rotations: Sequence[npt.NDArray[np.float32]]
) -> Iterator[tuple[FloatArray, FloatArray, float]]:
    """Yield what leaves with each block: overlap (n_sizes,), variances (m,), total variance.

    The overlap in float32: it is a small part of what it is taken from.
    """
    for members in deal.blocks:
        block = deal.block(members)
        columns = subset.of(block)
        cross = block.T.astype(np.float32) @ columns.astype(np.float32)
        lost = np.zeros(len(rotations))
        for j, rotation in enumerate(rotations):
            # Column by column, so that no float32 sum is long.
            shared = np.einsum("ij,ij->j", cross[:, : rotation.shape[1]], rotation)
            lost[j] = shared.sum(dtype=np.float64)
        variances = np.einsum("ij,ij->j", columns, columns)
        yield lost, variances, float(np.vdot(block, block))


def _best_rotation(cross: FloatArray, gram: FloatArray) -> tuple[float, npt.NDArray[np.float32]]:
    """Nuclear norm of A'B and the orthonormal columns that attain it, (n_neurons, k).

    With A'B = U s V', they are U V' = A'B (V s^-1 V'); directions without overlap are left out.
    """
    from scipy.linalg import eigh

    squares, vectors = eigh(gram, driver="evd", check_finite=False)
    there = squares > _NEGLIGIBLE * max(squares[-1], 0.0)
    roots, vectors = np.sqrt(squares[there]), vectors[:, there]
    rotation = cross @ ((vectors / roots) @ vectors.T)
    return float(roots.sum()), rotation.astype(np.float32)


def _share(nuclear: FloatArray, part: FloatArray, whole: float) -> FloatArray:
    """Divide overlaps by the norms of subset and layer; 0 for a subset that is constant."""
    norms = np.sqrt(part) * np.sqrt(whole)
    return np.asarray(np.divide(nuclear, norms, out=np.zeros(norms.shape), where=norms > 0.0))
