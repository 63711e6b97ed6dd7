"""Column means and scales, and views of rows, that several probes share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.probes.task import Rows, rows_as_float32

FloatArray = NDArray[np.float64]
CHUNK = 1024
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, eq=False)
class Scaling:
    """What turns raw columns into standardised ones.

    Parameters
    ----------
    mean: (n_neurons,) float64.
    scale: (n_neurons,) float64, the population standard deviation; 1 for a dead neuron.
    """

    mean: FloatArray
    scale: FloatArray

    def apply(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Standardise (rows, n_neurons) raw features to float32.

        The mean leaves before the scale comes in, so a column far from zero keeps its digits.
        """
        out = np.empty(block.shape, dtype=np.float32)
        np.subtract(block, self.mean.astype(np.float32), out=out, casting="same_kind")
        out *= (1.0 / self.scale).astype(np.float32)
        return out


def scale_of(mean: FloatArray, variance: FloatArray, n: int) -> FloatArray:
    """Return standard deviations, with 1 where a column does not vary beyond its rounding.

    Parameters
    ----------
    mean: (n_neurons,) column means.
    variance: (n_neurons,) population variances as summed in float64 over ``n`` rows.
    n: number of rows.
    """
    rounding = (n * np.finfo(np.float64).eps * np.abs(mean)) ** 2
    dead = ~(variance > rounding)
    return np.where(dead, 1.0, np.sqrt(np.where(dead, 1.0, variance)))


def column_scaling(rows: Rows) -> Scaling:
    """Stream the column means and scales of rows, in float64.

    Parameters
    ----------
    rows: (n_samples, n_neurons) raw features.

    Raises
    ------
    CriticalMassError
        If a feature is NaN or infinite; names the first such row and neuron.
    """
    n = int(rows.shape[0])
    shift = np.asarray(rows[0:1], dtype=np.float64)[0]
    total, square = np.zeros_like(shift), np.zeros_like(shift)
    for start in range(0, n, CHUNK):
        # Not through float32: float64 columns may lie far from zero for their spread.
        block = np.asarray(rows[start : start + CHUNK])
        refuse_nonfinite(block, start)
        centred = block - shift
        total += centred.sum(axis=0)
        square += np.einsum("ij,ij->j", centred, centred)
    offset = total / n
    variance = np.maximum(square / n - offset**2, 0.0)
    return Scaling(shift + offset, scale_of(shift + offset, variance, n))


def chunks(rows: Rows, size: int = CHUNK) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (start, float32 block) over all rows, ``size`` rows at a time."""
    n = int(rows.shape[0])
    for start in range(0, n, size):
        yield start, rows_as_float32(rows, start, min(start + size, n))


def rows_within(width: int, mebibytes: int, *, most: int = CHUNK) -> int:
    """Return how many float32 rows of ``width`` fit the budget, at least 1, at most ``most``."""
    return int(min(most, max(1, mebibytes * _MEBIBYTE // (4 * max(1, width)))))


def refuse_nonfinite(block: NDArray[Any], start: int, name: str = "x_train") -> None:
    """Refuse NaN and infinite features.

    Parameters
    ----------
    block: (rows, n_neurons) features.
    start: row number of the block's first row.
    name: what the block is part of, for the message.

    Raises
    ------
    CriticalMassError
        If a feature is not finite; names the first such row and neuron.
    """
    if np.isfinite(block).all():
        return
    row, neuron = np.argwhere(~np.isfinite(block))[0]
    raise CriticalMassError(
        f"{name} row {start + int(row)} neuron {int(neuron)} is {block[row, neuron]}; "
        "extract the features again or drop that sample"
    )


@dataclass(frozen=True, eq=False)
class RowSubset:
    """Some rows of a matrix, in their own order, read by slices like the whole.

    Parameters
    ----------
    rows: (n_samples, n_neurons) the whole.
    index: (n_kept,) strictly ascending row numbers.
    """

    rows: Rows
    index: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n_kept, n_neurons)."""
        return self.index.size, int(self.rows.shape[1])

    @property
    def dtype(self) -> Any:
        """Return the stored dtype."""
        return self.rows.dtype

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Read the slice ``key`` of the subset; refuses features that are not finite."""
        kept = self.index[key]
        if kept.size == 0:
            return np.empty((0, self.shape[1]), dtype=self.dtype)
        first, last = int(kept[0]), int(kept[-1]) + 1
        block = np.asarray(self.rows[first:last])
        if kept.size < block.shape[0]:
            block = block[kept - first]
        if not np.isfinite(block).all():
            row = int(np.argwhere(~np.isfinite(block))[0, 0])
            refuse_nonfinite(block[row : row + 1], int(kept[row]))
        return block
