"""Rows of a feature matrix: chunks, slices, subsets and projections, read from disk as needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError


@dataclass(frozen=True, eq=False)
class ProjectedRows:
    """The product of rows and a projection, computed as rows are read.

    Attributes
    ----------
    rows: (n_samples, n_neurons).
    projection: (n_neurons, n_kept) float32.
    """

    rows: Rows
    projection: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n_samples, n_kept)."""
        return int(self.rows.shape[0]), int(self.projection.shape[1])

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Return float32."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Return the projected rows of a slice or an index array."""
        return np.asarray(self.rows[key], dtype=np.float32) @ self.projection


@dataclass(frozen=True, eq=False)
class RowSlice:
    """Rows ``start`` to ``stop`` (exclusive) of a matrix; read by slices."""

    rows: Rows
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n_rows, n_neurons)."""
        return self.stop - self.start, int(self.rows.shape[1])

    @property
    def dtype(self) -> Any:
        """Return the stored dtype."""
        return self.rows.dtype

    def __getitem__(self, key: slice, /) -> NDArray[Any]:
        """Return the rows of a slice, counted from ``start``."""
        first, last, _ = key.indices(self.stop - self.start)
        block: NDArray[Any] = self.rows[self.start + first : self.start + max(first, last)]
        return block


CHUNK_ROWS = 1024

_MEBIBYTE = 1 << 20


def chunks(rows: Rows, size: int = CHUNK_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (start, float32 block) over all rows, ``size`` rows at a time."""
    n = int(rows.shape[0])
    for start in range(0, n, size):
        yield start, rows_as_float32(rows, start, min(start + size, n))


def rows_per_chunk(width: int, mebibytes: int, *, max_rows: int = CHUNK_ROWS) -> int:
    """Return the number of float32 rows of ``width`` that fit ``mebibytes``: 1 to ``max_rows``."""
    return int(min(max_rows, max(1, mebibytes * _MEBIBYTE // (4 * max(1, width)))))


def check_finite(block: NDArray[Any], start: int, name: str = "x_train") -> None:
    """Raise if features are NaN or infinite.

    Parameters
    ----------
    block: (rows, n_neurons) features.
    start: row number of the block's first row.
    name: name of the matrix, for the message.

    Raises
    ------
    CriticalMassError: a feature is not finite; the message names the first such row and neuron.
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
    """Some rows of a matrix, in ascending order; read by slices.

    Parameters
    ----------
    rows: (n_samples, n_neurons) matrix.
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
        """Return the rows of a slice of the subset; raise if a feature is not finite."""
        selected = self.index[key]
        if selected.size == 0:
            return np.empty((0, self.shape[1]), dtype=self.dtype)
        first, last = int(selected[0]), int(selected[-1]) + 1
        block = np.asarray(self.rows[first:last])
        if selected.size < block.shape[0]:
            block = block[selected - first]
        if not np.isfinite(block).all():
            row = int(np.argwhere(~np.isfinite(block))[0, 0])
            check_finite(block[row : row + 1], int(selected[row]))
        return block


class Rows(Protocol):
    """A matrix that is read by row slices: an ndarray or a sharded feature matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n_samples, n_neurons)."""
        ...

    @property
    def dtype(self) -> Any:
        """Return the stored dtype."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Return the rows of a slice as an ndarray."""
        ...


def rows_as_float32(rows: Rows, start: int, stop: int) -> NDArray[np.float32]:
    """Read rows ``start`` to ``stop`` (exclusive) as C-contiguous float32; copy only if needed."""
    return np.ascontiguousarray(rows[start:stop], dtype=np.float32)
