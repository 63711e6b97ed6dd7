"""Class separation of subsets: the share of cosine distance that lies between classes.

R^2 = 1 - d_within / d_total (Kornblith et al. 2021, arXiv:2010.16402, eq. 11). d_within is the mean
cosine distance of two samples of a class, averaged over classes; d_total that of a sample of one
class and a sample of another or the same, averaged over pairs of classes. So every class counts
equally, and a sample is paired with itself too. Vectors are not centred.

With u the unit vectors, the mean of u.v over pairs of samples is the product of the means of u and
of v, so no pair is visited: d_total is the variance of u and d_total - d_within that of the means
of the classes, both with equal weights of the classes. They are summed about the first sample, so
vectors far from zero lose no digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.core.rows import CHUNK_ROWS
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.checks import check_order, check_projection, check_sizes
from criticalmass.measures.similarity.cka_jackknife import N_BLOCKS, sample_blocks

# A smaller mean cosine distance of float64 unit vectors is rounding error.
_NEGLIGIBLE = 1e-24


def prefix_separation(
    rows: Any,
    labels: npt.ArrayLike,
    subsets: npt.NDArray[Any],
    sizes: Sequence[int],
    *,
    is_projection: bool = False,
    n_blocks: int = N_BLOCKS,
) -> tuple[FloatArray, FloatArray]:
    """Class separation of prefixes, on all samples and without each block.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, not centred.
    labels: (n_samples,) class ids, at least 2 different ones.
    subsets: (n_orders, n_neurons) orders of neurons, or a projection, (n_neurons, m).
    sizes: (n_sizes,) prefix lengths, ascending.
    is_projection: whether ``subsets`` is a projection, which counts as one order.
    n_blocks: blocks of samples; at most half as many as there are samples.

    Returns
    -------
    values: (n_orders, n_sizes) in [0, 1]; 0 where all vectors have the same direction. A vector
        of zeros has the cosine 0 with every vector, with itself too.
    replicates: (n_orders, n_sizes, n_blocks) without block b.

    Raises
    ------
    CriticalMassError: the samples are of one class, or an order or size does not fit the layer.
    """
    d = int(rows.shape[1])
    classes, y = np.unique(np.asarray(labels), return_inverse=True)
    if classes.size < 2:
        raise CriticalMassError(
            "class separation compares classes, and all test samples are of one; give test "
            "samples of at least 2 classes, or take a measure without labels, e.g. cka"
        )
    if is_projection:
        projection = check_projection(subsets, d)
        check_sizes(sizes, projection.shape[1])
        transforms: list[npt.NDArray[Any]] = [projection]
    else:
        transforms = [check_order(order, d) for order in np.atleast_2d(subsets)]
        check_sizes(sizes, d)
    blocks = sample_blocks(y.size, n_blocks)
    values = np.empty((len(transforms), len(sizes)))
    replicates = np.empty((*values.shape, len(blocks)))
    for o, transform in enumerate(transforms):
        vectors = _UnitVectors(rows, y, transform, tuple(sizes))
        total = vectors.sums(np.arange(y.size))
        values[o] = [one.separation for one in total]
        for b, members in enumerate(blocks):
            pairs = zip(total, vectors.sums(members), strict=True)
            replicates[o, :, b] = [one.without(other).separation for one, other in pairs]
    return values, replicates


@dataclass(frozen=True, eq=False)
class _ClassSums:
    """Sums over samples of each class, of unit vectors less a common vector.

    Attributes
    ----------
    counts: (n_classes,) samples.
    zeros: (n_classes,) samples whose vector is zero.
    squares: (n_classes,) squared norms.
    vectors: (n_classes, k).
    """

    counts: FloatArray
    zeros: FloatArray
    squares: FloatArray
    vectors: FloatArray

    @classmethod
    def empty(cls, n_classes: int, size: int) -> _ClassSums:
        """Return the sums over no samples."""
        counts, zeros, squares = np.zeros((3, n_classes))
        return cls(counts, zeros, squares, np.zeros((n_classes, size)))

    def without(self, other: _ClassSums) -> _ClassSums:
        """Return the sums without some of the samples."""
        return _ClassSums(
            self.counts - other.counts,
            self.zeros - other.zeros,
            self.squares - other.squares,
            self.vectors - other.vectors,
        )

    @property
    def separation(self) -> float:
        """Share of the mean cosine distance that lies between classes."""
        present = self.counts > 0.0
        counts = self.counts[present]
        means = self.vectors[present] / counts[:, None]
        mean = means.mean(axis=0)
        norms = float((self.squares[present] / counts).mean() - mean @ mean)
        total = norms + float((self.zeros[present] / counts).mean())
        if total <= _NEGLIGIBLE:
            return 0.0
        between = float(np.square(means - mean).sum(axis=1).mean())
        return min(1.0, between / total)


@dataclass(frozen=True, eq=False)
class _UnitVectors:
    """The unit vectors of samples in every prefix of one order or projection.

    Attributes
    ----------
    rows: (n_samples, n_neurons).
    y: (n_samples,) class numbers from 0, all of them present.
    transform: the order, (n_neurons,), or the projection, (n_neurons, m).
    sizes: prefix lengths, ascending.
    """

    rows: Any
    y: IndexArray
    transform: npt.NDArray[Any]
    sizes: tuple[int, ...]

    def sums(self, members: IndexArray) -> list[_ClassSums]:
        """Return the sums over some samples, for every size."""
        from scipy.sparse import csr_array

        n_classes = int(self.y.max()) + 1
        first = [u[0] for u, _ in self._prefixes(np.arange(1))]
        sums = [_ClassSums.empty(n_classes, k) for k in self.sizes]
        for start in range(0, members.size, CHUNK_ROWS):
            chunk = members[start : start + CHUNK_ROWS]
            y, ones = self.y[chunk], np.ones(chunk.size)
            shape = (chunk.size, n_classes)
            is_member = csr_array((ones, y, np.arange(chunk.size + 1)), shape=shape).T
            for total, origin, (u, is_zero) in zip(sums, first, self._prefixes(chunk), strict=True):
                u -= origin
                total.counts[:] += np.bincount(y, minlength=n_classes)
                total.zeros[:] += np.bincount(y, is_zero, minlength=n_classes)
                total.squares[:] += np.bincount(y, np.einsum("ij,ij->i", u, u), minlength=n_classes)
                total.vectors[:] += is_member @ u
        return sums

    def _prefixes(self, members: IndexArray) -> Iterator[tuple[FloatArray, npt.NDArray[np.bool_]]]:
        """Yield the unit vectors (n_members, k) of every size, and which ones are zero."""
        x = np.asarray(self.rows[members], dtype=np.float64)
        x = x[:, self.transform] if self.transform.ndim == 1 else x @ self.transform
        for k in self.sizes:
            norms = np.linalg.norm(x[:, :k], axis=1)
            is_zero = norms == 0.0
            yield x[:, :k] / np.where(is_zero, 1.0, norms)[:, None], is_zero
