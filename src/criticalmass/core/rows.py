"""Rows of features: chunks, subsets and projections, read without holding the whole matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError


@dataclass(frozen=True, eq=False)
class Projected:
    """Rows times a projection, multiplied as they are read.

    Attributes
    ----------
    rows: (n_samples, n_neurons).
    projection: (n_neurons, n_kept) float32.
    """

    rows: Rows
    projection: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_samples, n_kept)."""
        return int(self.rows.shape[0]), int(self.projection.shape[1])

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Read the rows of a slice or an index array, projected."""
        return np.asarray(self.rows[key], dtype=np.float32) @ self.projection


@dataclass(frozen=True, eq=False)
class Span:
    """Rows ``start`` to ``stop`` of a matrix, read by slices like the whole."""

    rows: Rows
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_rows, n_neurons)."""
        return self.stop - self.start, int(self.rows.shape[1])

    @property
    def dtype(self) -> Any:
        """The stored dtype."""
        return self.rows.dtype

    def __getitem__(self, key: slice, /) -> NDArray[Any]:
        """Read the slice ``key`` of the span."""
        a, b, _ = key.indices(self.stop - self.start)
        block: NDArray[Any] = self.rows[self.start + a : self.start + max(a, b)]
        return block


CHUNK = 1024

_MEBIBYTE = 1 << 20


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


class Rows(Protocol):
    """A matrix that can be read by row slices: an ndarray or a sharded feature matrix."""

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
    """Read rows ``start..stop-1`` as a C-contiguous float32 block, copied only where needed."""
    return np.ascontiguousarray(rows[start:stop], dtype=np.float32)
