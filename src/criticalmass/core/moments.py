"""Second moments of a representation: computed in chunks, merged, restricted to subsets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
IndexArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, centred second moment and class means of one representation.

    Attributes
    ----------
    n: number of samples.
    mean: (n_neurons,) mean of every neuron.
    scatter: (n_neurons, n_neurons) centred sum X'X, symmetric; not divided by ``n``.
    class_counts: (n_classes,) samples per class, or None without labels.
    class_means: (n_classes, n_neurons) class means, 0 for an empty class, or None.
    """

    n: int
    mean: FloatArray
    scatter: FloatArray
    class_counts: IntArray | None = None
    class_means: FloatArray | None = None

    @property
    def n_neurons(self) -> int:
        """Return the number of neurons."""
        return int(self.mean.shape[0])

    @property
    def covariance(self) -> FloatArray:
        """Return the (n_neurons, n_neurons) population covariance, ``scatter / n``."""
        return self.scatter / self.n

    @property
    def std(self) -> FloatArray:
        """Return the (n_neurons,) population standard deviation; exactly 0 if constant."""
        return np.asarray(np.sqrt(np.diagonal(self.scatter) / self.n), dtype=np.float64)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the union of both sets of samples (Chan, Golub, LeVeque 1979).

        Raises
        ------
        CriticalMassError: the numbers of neurons or classes differ.
        """
        if other.n_neurons != self.n_neurons:
            raise CriticalMassError(
                f"cannot merge moments of {self.n_neurons} and {other.n_neurons} neurons; "
                "merge parts of one layer"
            )
        n = self.n + other.n
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(step, step * (self.n * other.n / n))
        counts, means = _merge_classes(self, other)
        return Moments(n, self.mean + step * (other.n / n), scatter, counts, means)

    def restrict(self, index: npt.ArrayLike) -> Moments:
        """Return the moments of the neurons in ``index``, in that order, on the same samples.

        Parameters
        ----------
        index: (n_kept,) integer positions of neurons.

        Raises
        ------
        CriticalMassError: a position lies outside the layer.
        """
        columns = as_index(index, self.n_neurons)
        means = None if self.class_means is None else self.class_means[:, columns]
        scatter = self.scatter[np.ix_(columns, columns)]
        return Moments(self.n, self.mean[columns], scatter, self.class_counts, means)


class MomentsExecutor(Protocol):
    """Computes moments, e.g. on the workers of a cluster that hold the rows."""

    def moments(self, rows: Any, labels: IntArray | None, n_classes: int | None) -> Moments:
        """Compute the moments of rows with checked labels."""
        ...


def as_index(index: npt.ArrayLike, n_neurons: int) -> IndexArray:
    """Check positions of neurons and return them as a contiguous integer array.

    Raises
    ------
    CriticalMassError: they are not integers, not one-dimensional, or outside the layer.
    """
    positions = np.asarray(index)
    if positions.ndim != 1 or (positions.size and not np.issubdtype(positions.dtype, np.integer)):
        raise CriticalMassError(
            f"neurons must be a vector of integers, got shape {positions.shape} of "
            f"{positions.dtype}"
        )
    if positions.size and (positions.min() < 0 or positions.max() >= n_neurons):
        worst = int(positions.min() if positions.min() < 0 else positions.max())
        raise CriticalMassError(
            f"neuron {worst} is outside a layer of {n_neurons} neurons; "
            f"give positions from 0 to {n_neurons - 1}"
        )
    return np.ascontiguousarray(positions, dtype=np.intp)


def moments(
    rows: Any,
    labels: npt.ArrayLike | None = None,
    *,
    n_classes: int | None = None,
    chunk: int = 2048,
    executor: MomentsExecutor | None = None,
) -> Moments:
    """Compute the moments of a representation in float64, ``chunk`` rows at a time.

    Every chunk is centred on its own mean and merged with the earlier ones by the pairwise
    update of Chan, Golub and LeVeque (1979). That update is one more row of the symmetric rank-k
    update, so nothing cancels, however far the data lie from zero or drift between chunks.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``; read as ``rows[a:b]``.
    labels: (n_samples,) classes 0..n_classes-1, for class counts and means.
    n_classes: number of classes; by default the largest label plus one.
    chunk: rows held in float64 at a time.
    executor: computes them; None computes them in this process.

    Raises
    ------
    CriticalMassError: there are no rows, values that are not finite, or labels that do not fit.
    """
    n, d = _shape(rows, chunk)
    classes = None if labels is None else _check_labels(labels, n, n_classes)
    if executor is not None:
        return executor.moments(rows, *(classes or (None, None)))
    # A constant neuron minus its first value is exactly 0, so its variance is exactly 0.
    shift = np.asarray(rows[0:1], dtype=np.float64).reshape(d)
    mean = np.zeros(d)
    scatter = np.zeros((d, d), order="F")
    sums = None if classes is None else np.zeros((classes[1], d))
    for start, block in _blocks(rows, shift, chunk):
        if sums is not None and classes is not None:
            _add_class_sums(sums, block[:-1], classes[0][start : start + chunk])
        mean, scatter = _accumulate(mean, scatter, block, start)
    _symmetrise(scatter)
    if sums is None or classes is None:
        return Moments(n, mean + shift, scatter.T)
    counts = np.bincount(classes[0], minlength=classes[1]).astype(np.int64)
    means = sums / np.maximum(counts, 1)[:, None] + np.where(counts[:, None] > 0, shift, 0.0)
    return Moments(n, mean + shift, scatter.T, counts, means)


def moment_of_squares(rows: Any, mean: FloatArray, *, chunk: int = 2048) -> FloatArray:
    """Compute D = (X*X)'(X*X) of the centred X; the unbiased HSIC needs it together with X'X.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``; read as ``rows[a:b]``.
    mean: (n_neurons,) mean of every neuron, from `moments`.
    chunk: rows held in float64 at a time.

    Returns
    -------
    (n_neurons, n_neurons) sum over samples of x_i^2 x_j^2, symmetric.

    Raises
    ------
    CriticalMassError: there are no rows, or the mean has another length.
    """
    from scipy.linalg.blas import dsyrk

    n, d = _shape(rows, chunk)
    if mean.shape != (d,):
        raise CriticalMassError(f"the mean has shape {mean.shape}, but the rows have {d} neurons")
    total = np.zeros((d, d), order="F")
    for start in range(0, n, chunk):
        block = np.subtract(rows[start : min(start + chunk, n)], mean, dtype=np.float64)
        block *= block
        total = dsyrk(1.0, block.T, beta=1.0, c=total, overwrite_c=1)
    _symmetrise(total)
    return np.asarray(total.T)


def _merge_classes(first: Moments, second: Moments) -> tuple[IntArray | None, FloatArray | None]:
    """Merge class counts and means; both have the same classes, or neither has any."""
    a, b = first.class_counts, second.class_counts
    if (a is None) != (b is None) or (a is not None and b is not None and a.shape != b.shape):
        sizes = " and ".join("no" if c is None else str(c.size) for c in (a, b))
        raise CriticalMassError(
            f"cannot merge moments with {sizes} classes; give the same n_classes for both"
        )
    if a is None or b is None or first.class_means is None or second.class_means is None:
        return None, None
    counts = a + b
    share = (b / np.maximum(counts, 1))[:, None]
    return counts, first.class_means * (1.0 - share) + second.class_means * share


def _shape(rows: Any, chunk: int) -> tuple[int, int]:
    """Check rows and chunk size; return (n_samples, n_neurons)."""
    if len(rows.shape) != 2 or rows.shape[0] < 1 or rows.shape[1] < 1:
        raise CriticalMassError(
            f"a representation must have shape (n_samples, n_neurons), got {tuple(rows.shape)}"
        )
    if chunk < 1:
        raise CriticalMassError(f"chunk={chunk} must be at least 1 row")
    return int(rows.shape[0]), int(rows.shape[1])


def _check_labels(labels: npt.ArrayLike, n: int, n_classes: int | None) -> tuple[IntArray, int]:
    """Check labels; return them as int64, with the number of classes."""
    y = np.asarray(labels)
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer):
        raise CriticalMassError(
            f"labels must be {n} integers, one per sample; got shape {y.shape} of {y.dtype}"
        )
    top = int(y.max()) + 1
    if y.min() < 0 or (n_classes is not None and top > n_classes):
        raise CriticalMassError(
            f"labels run from {int(y.min())} to {top - 1}; "
            f"they must lie in 0..{(n_classes or top) - 1}"
        )
    return y.astype(np.int64), top if n_classes is None else n_classes


def _blocks(rows: Any, shift: FloatArray, chunk: int) -> Iterator[tuple[int, FloatArray]]:
    """Yield (start, rows - shift) with one extra row at the end, which `_accumulate` fills."""
    n, d = rows.shape
    for start in range(0, n, chunk):
        stop = min(start + chunk, n)
        block = np.empty((stop - start + 1, d))
        np.subtract(rows[start:stop], shift, out=block[:-1])
        yield start, block


def _accumulate(
    mean: FloatArray, scatter: FloatArray, block: FloatArray, n_before: int
) -> tuple[FloatArray, FloatArray]:
    """Add one block to the running mean and to one triangle of the scatter.

    Centres ``block`` in place. Its last row is set to the weighted step between the two means,
    so that the rank-k update over all rows is the pairwise update.
    """
    from scipy.linalg.blas import dsyrk

    size = block.shape[0] - 1
    centre = block[:-1].mean(axis=0)
    if not np.isfinite(centre).all():
        neuron = int(np.flatnonzero(~np.isfinite(centre))[0])
        raise CriticalMassError(
            f"rows {n_before} to {n_before + size - 1} of neuron {neuron} hold NaN or infinity; "
            "extract the features again or drop those samples"
        )
    block[:-1] -= centre
    step = centre - mean
    total = n_before + size
    block[-1] = step * np.sqrt(n_before * size / total)
    scatter = dsyrk(1.0, block.T, beta=1.0, c=scatter, overwrite_c=1)
    return mean + step * (size / total), scatter


def _symmetrise(scatter: FloatArray) -> None:
    """Copy the upper triangle to the lower one in place, 256 columns at a time."""
    d = scatter.shape[0]
    for a in range(0, d, 256):
        b = min(a + 256, d)
        scatter[b:, a:b] = scatter[a:b, b:].T
        corner = np.triu(scatter[a:b, a:b])
        scatter[a:b, a:b] = corner + np.triu(corner, 1).T


def _add_class_sums(sums: FloatArray, block: FloatArray, labels: IntArray) -> None:
    """Add the rows of ``block`` to the sums of their classes."""
    from scipy.sparse import csr_array

    m = labels.size
    member = csr_array((np.ones(m), labels, np.arange(m + 1)), shape=(m, sums.shape[0]))
    sums += member.T @ block
