"""A standardised layer in its own eigenbasis, from which the laws of ridge probes start.

With standardised features X (n, d) and centred one-hot labels Y, ``A = X'X/n = U diag(e) U'`` and
``b = X'Y/n``. In that basis the whole layer's ridge probe at any penalty is a division, and so
are degrees of freedom and all traces of the laws. One eigendecomposition serves every size,
penalty and ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.moments import moments
from criticalmass.core.rows import Rows, rows_as_float32
from criticalmass.core.threads import map_in_threads
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.closed_form import LinearSystem, ridge_system
from criticalmass.measures.scaling import Scaling, column_scaling
from criticalmass.theory.degrees_of_freedom import full_penalty

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Rows per neuron above which products are computed in float32: with so many rows the matrix is
#: far from singular, and rounding of 1e-7 is smaller than the sampling error of its entries.
FLOAT32_ROWS_PER_NEURON = 4
_CHUNK_ROWS = 2048


@dataclass(frozen=True, eq=False)
class Eigenbasis:
    """One training set, standardised, with the eigenbasis of its second moment.

    Attributes
    ----------
    n: number of training samples.
    scaling: means and scales that standardise raw features; the scale of a constant neuron is 1.
    share: (n_classes,) share of every class; the bias of a probe on centred one-hot labels.
    second_moment: (n_neurons, n_neurons), X'X/n, in the order of the neurons.
    eigenvalues: (n_neurons,) of X'X/n, descending, never negative.
    vectors: (n_neurons, n_neurons), one eigenvector per column, in the order of the eigenvalues.
    targets: (n_neurons, n_classes) cross moment X'Y/n in the eigenbasis, ``U'b``.
    """

    n: int
    scaling: Scaling
    share: FloatArray
    second_moment: FloatArray
    eigenvalues: FloatArray
    vectors: FloatArray
    targets: FloatArray

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return int(self.eigenvalues.size)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.share.size)

    @property
    def cross_moment(self) -> FloatArray:
        """(n_neurons, n_classes), X'Y/n in the order of the neurons."""
        return np.asarray(self.vectors @ self.targets, dtype=np.float64)

    def full_penalty(self, size: int, l2: float) -> float:
        """Return the whole-layer penalty mu equivalent to ``size`` random neurons with ``l2``."""
        return float(full_penalty(self.eigenvalues, [size], l2)[0])

    @property
    def between_classes(self) -> FloatArray:
        """(n_neurons,) variance of the class means along every eigendirection, by class shares.

        With b = X'Y/n in the basis, the mean of class c is b_c / p_c, so the variance between
        classes along direction i is sum_c b_ic^2 / p_c.
        """
        is_present = self.share > 0
        squares = self.targets[:, is_present] ** 2
        return np.asarray((squares / self.share[is_present]).sum(axis=1))

    def with_class_axes(self) -> tuple[Eigenbasis, NDArray[np.float32] | None]:
        """Return the basis with targets along at most ``n_neurons`` axes instead of all classes.

        Targets have at most ``n_neurons`` independent columns, and heads are linear in them. With
        more classes than neurons, a law that works along orthonormal axes instead of classes
        needs d^3 instead of C^3 operations and gives the same heads.

        Returns
        -------
        The basis, and the (n_axes, n_classes) float32 orthonormal axes; the basis itself and None
        if there are no more classes than neurons.
        """
        if self.n_classes <= self.n_neurons:
            return self, None
        axes, coordinates = np.linalg.qr(self.targets.T)
        targets = np.ascontiguousarray(coordinates.T)
        return replace(self, targets=targets), np.ascontiguousarray(axes.T, dtype=np.float32)


def eigenbasis(rows: Rows, labels: npt.ArrayLike, *, n_classes: int | None = None) -> Eigenbasis:
    """Return the eigenbasis of a training set.

    Parameters are those of `normal_equations`.

    Raises
    ------
    CriticalMassError: for no rows, features that are not finite, or labels that do not fit.
    """
    return decompose(normal_equations(rows, labels, n_classes=n_classes), int(rows.shape[0]))


def normal_equations(
    rows: Rows,
    labels: npt.ArrayLike,
    *,
    n_classes: int | None = None,
    float32_rows_per_neuron: int = FLOAT32_ROWS_PER_NEURON,
    chunk_rows: int = _CHUNK_ROWS,
) -> LinearSystem:
    """Return the ridge equations of a training set, the input of `decompose`.

    Sums are computed in float64 unless there are more than ``float32_rows_per_neuron`` rows per
    neuron; then products are computed in float32, chunk by chunk, and added in float64.

    Parameters
    ----------
    rows: (n_samples, n_neurons) raw features, read as ``rows[a:b]``.
    labels: (n_samples,) classes 0..n_classes-1.
    n_classes: number of classes; by default the largest label plus one.
    float32_rows_per_neuron: rows per neuron above which products are computed in float32.
    chunk_rows: rows per float32 product.

    Raises
    ------
    CriticalMassError: as `eigenbasis`.
    """
    y = np.asarray(labels)
    is_matrix = len(rows.shape) == 2
    if is_matrix and int(rows.shape[0]) > float32_rows_per_neuron * int(rows.shape[1]):
        return _float32_system(rows, y, n_classes, chunk_rows)
    return ridge_system(moments(rows, y, n_classes=n_classes))


def decompose(system: LinearSystem, n: int) -> Eigenbasis:
    """Return the eigenbasis of the ridge equations of ``n`` training samples."""
    # NumPy's eigh releases the GIL; it is divide and conquer like scipy's "evd".
    values, vectors = np.linalg.eigh(system.matrix)
    vectors = np.ascontiguousarray(vectors[:, ::-1])
    return Eigenbasis(
        n=n,
        scaling=system.scaling,
        share=system.bias,
        second_moment=system.matrix,
        eigenvalues=np.maximum(values[::-1], 0.0),
        vectors=vectors,
        targets=vectors.T @ system.targets,
    )


def _float32_system(
    rows: Rows, labels: NDArray[np.int64], n_classes: int | None, chunk_rows: int
) -> LinearSystem:
    """Return the equations of `ridge_system`, from float32 products.

    Chunks are multiplied on all cores, each on one thread, and added in their order.
    """
    n, d = int(rows.shape[0]), int(rows.shape[1])
    y, n_classes = _check_labels(labels, n, n_classes)
    scaling = column_scaling(rows)
    matrix, sums = np.zeros((d, d)), np.zeros((n_classes, d))

    def products(start: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        stop = min(start + chunk_rows, n)
        block = scaling.apply(rows_as_float32(rows, start, stop))
        member = np.zeros((n_classes, stop - start), dtype=np.float32)
        member[y[start:stop], np.arange(stop - start)] = 1.0
        # BLAS computes a matrix times its own transpose in half the time, exactly symmetric.
        return member @ block, block.T @ block

    for by_class, squares in map_in_threads(products, range(0, n, chunk_rows)):
        sums += by_class
        matrix += squares
    share = np.bincount(y, minlength=n_classes) / n
    # Labels are centred as well, so that rounding errors in the mean of X have no effect.
    targets = (sums - share[:, None] * sums.sum(axis=0)) / n
    return LinearSystem(matrix / n, np.ascontiguousarray(targets.T), share, False, scaling)


def _check_labels(labels: NDArray[np.int64], n: int, n_classes: int | None) -> tuple[IntArray, int]:
    """Return labels and the number of classes after checking that they fit the rows."""
    is_vector = labels.shape == (n,) and labels.dtype.kind in "iu"
    count = (int(labels.max()) + 1 if is_vector else 0) if n_classes is None else n_classes
    if not is_vector or labels.min() < 0 or labels.max() >= count:
        raise CriticalMassError(
            f"labels of shape {labels.shape} and dtype {labels.dtype} do not fit {n} rows and "
            f"{count} classes; give one class id 0..{count - 1} per row"
        )
    return labels.astype(np.int64), count
