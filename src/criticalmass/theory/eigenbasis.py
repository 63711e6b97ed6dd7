"""A standardised layer in its own eigenbasis: what every law about probes starts from.

With standardised features X (n, d) and centred one-hot labels Y, ``A = X'X/n = U diag(e) U'`` and
``b = X'Y/n``. In that basis the whole layer's ridge probe at any penalty is a division, and so
are degrees of freedom and all traces of the laws: one eigendecomposition serves every size,
penalty and ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.moments import Moments, moments
from criticalmass.core.rows import Rows, chunks, rows_as_float32
from criticalmass.core.threads import map_side_by_side
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.closed_form import System, ridge_system
from criticalmass.measures.scaling import Scaling, column_scaling

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Rows per neuron above which sums are taken in float32 blocks: the matrix is then far from
#: singular for lack of rows, and rounding of 1e-7 is below what its entries are known to.
TALL = 4
_CHUNK = 2048


@dataclass(frozen=True, eq=False)
class Eigenbasis:
    """One training set, standardised and turned into its own eigenbasis.

    Attributes
    ----------
    n: number of training samples.
    scaling: means and scales that standardise raw features; 1 for a neuron that is constant.
    share: (n_classes,) share of every class; the bias of a probe on centred one-hot labels.
    second_moment: (n_neurons, n_neurons), X'X/n itself, in the order of the neurons.
    eigenvalues: (n_neurons,) of X'X/n, descending, never negative.
    vectors: (n_neurons, n_neurons), one eigenvector per column, in the same order.
    targets: (n_neurons, n_classes) cross moment X'Y/n turned into the basis, ``U'b``.
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

    @property
    def between_classes(self) -> FloatArray:
        """(n_neurons,) variance of the class means along every eigendirection, by class shares.

        With b = X'Y/n in the basis, the mean of class c is b_c / p_c, so the variance between
        classes along direction i is sum_c b_ic^2 / p_c.
        """
        live = self.share > 0
        return np.asarray((self.targets[:, live] ** 2 / self.share[live]).sum(axis=1))

    def rotate(self, rows: Rows) -> NDArray[np.float32]:
        """Standardise raw rows (n_rows, n_neurons) and turn them into the basis, in float32.

        Raises
        ------
        CriticalMassError: if the rows have another number of neurons.
        """
        if len(rows.shape) != 2 or rows.shape[1] != self.n_neurons:
            raise CriticalMassError(
                f"rows have shape {tuple(rows.shape)} but the basis has {self.n_neurons} neurons; "
                "take both from the same layer"
            )
        turn = self.vectors.astype(np.float32)
        out = np.empty((int(rows.shape[0]), self.n_neurons), dtype=np.float32)
        for start, block in chunks(rows, _CHUNK):
            stop = start + block.shape[0]
            np.matmul(self.scaling.apply(block), turn, out=out[start:stop])
        return out


def eigenbasis(rows: Rows, labels: npt.ArrayLike, *, n_classes: int | None = None) -> Eigenbasis:
    """Return the eigenbasis of a training set.

    Sums are taken in float64 unless there are more than ``TALL`` rows per neuron; then products
    are in float32, block by block, and the blocks are added up in float64.

    Parameters
    ----------
    rows: (n_samples, n_neurons) raw features, read as ``rows[a:b]``.
    labels: (n_samples,) classes 0..n_classes-1.
    n_classes: number of classes; by default the largest label plus one.

    Raises
    ------
    CriticalMassError: for no rows, features that are not finite, or labels that do not fit.
    """
    return decompose(normal_equations(rows, labels, n_classes=n_classes), int(rows.shape[0]))


def eigenbasis_of(m: Moments) -> Eigenbasis:
    """Return the eigenbasis of a training set whose moments, with classes, are known.

    Raises
    ------
    CriticalMassError: if the moments carry no classes.
    """
    return decompose(ridge_system(m), m.n)


def normal_equations(rows: Rows, labels: npt.ArrayLike, *, n_classes: int | None = None) -> System:
    """Return what `decompose` starts from: the pass over the data of `eigenbasis`.

    Raises
    ------
    CriticalMassError: as `eigenbasis`.
    """
    y = np.asarray(labels)
    if len(rows.shape) == 2 and int(rows.shape[0]) > TALL * int(rows.shape[1]):
        return _tall_system(rows, y, n_classes)
    return ridge_system(moments(rows, y, n_classes=n_classes))


def decompose(system: System, n: int) -> Eigenbasis:
    """Return the eigenbasis of normal equations of ``n`` training samples."""
    # numpy's, which lets other threads run meanwhile; divide and conquer like scipy's "evd".
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


def _tall_system(rows: Rows, labels: NDArray[np.int64], n_classes: int | None) -> System:
    """Return normal equations as `ridge_system` does, from float32 products.

    Blocks are multiplied on all cores, each on one thread, and added up in their order.
    """
    n, d = int(rows.shape[0]), int(rows.shape[1])
    y, count = _checked(labels, n, n_classes)
    scaling = column_scaling(rows)
    matrix, sums = np.zeros((d, d)), np.zeros((count, d))

    def products(start: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        stop = min(start + _CHUNK, n)
        block = scaling.apply(rows_as_float32(rows, start, stop))
        member = np.zeros((count, stop - start), dtype=np.float32)
        member[y[start:stop], np.arange(stop - start)] = 1.0
        # A matrix times its own transpose: half the work, and exactly symmetric.
        return member @ block, block.T @ block

    for by_class, squares in map_side_by_side(products, range(0, n, _CHUNK)):
        sums += by_class
        matrix += squares
    share = np.bincount(y, minlength=count) / n
    # Labels are centred too, so that what rounding leaves of the mean of X stays out.
    targets = (sums - share[:, None] * sums.sum(axis=0)) / n
    return System(matrix / n, np.ascontiguousarray(targets.T), share, False, scaling)


def _checked(labels: NDArray[np.int64], n: int, n_classes: int | None) -> tuple[IntArray, int]:
    """Return labels and the number of classes, refused where they do not fit the rows."""
    fits = labels.shape == (n,) and labels.dtype.kind in "iu"
    count = (int(labels.max()) + 1 if fits else 0) if n_classes is None else n_classes
    if not fits or labels.min() < 0 or labels.max() >= count:
        raise CriticalMassError(
            f"labels of shape {labels.shape} and dtype {labels.dtype} do not fit {n} rows and "
            f"{count} classes; give one class id 0..{count - 1} per row"
        )
    return labels.astype(np.int64), count
