"""Training rows as the solver reads them: standardised, permuted, float32, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk

from criticalmass.core.compute import HELD_BYTES
from criticalmass.core.rows import Rows
from criticalmass.measures.columns import standardised_columns
from criticalmass.measures.scaling import Scaling

FloatArray = NDArray[np.float32]
_BLOCK_BYTES = 48 << 20
_RAW_BYTES = 64 << 20
#: Rows that a second moment adds at once.
MOMENT_CHUNK = 1024
_MOMENT_ROWS_PER_NEURON = 12


class OrderedRows(Protocol):
    """Standardised rows in the columns of one order."""

    @property
    def n(self) -> int:
        """Number of rows."""
        ...

    @property
    def y(self) -> NDArray[np.int64]:
        """Class ids, (n,)."""
        ...

    def blocks(self) -> Iterator[tuple[FloatArray, NDArray[np.int64]]]:
        """Yield (rows, k) float32 blocks with their class ids."""
        ...


@dataclass(frozen=True, eq=False)
class HeldRows:
    """Rows of one order, held in memory."""

    x: FloatArray
    y: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.y.size)

    def blocks(self) -> Iterator[tuple[FloatArray, NDArray[np.int64]]]:
        """Yield all rows at once."""
        yield self.x, self.y


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """Rows of one order, read from their store in blocks on every pass.

    Parameters
    ----------
    rows: (n, d) raw features.
    y: (n,) class ids.
    scaling: of the d columns.
    columns: (k,) column indices, in order.

    Attributes
    ----------
    block_bytes: largest size of a block of standardised rows.
    """

    block_bytes: ClassVar[int] = _BLOCK_BYTES

    rows: Rows
    y: NDArray[np.int64]
    scaling: Scaling
    columns: NDArray[np.intp]

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.y.size)

    def blocks(self) -> Iterator[tuple[FloatArray, NDArray[np.int64]]]:
        """Yield standardised, permuted blocks of about 48 MiB, in the same memory each time."""
        # A block of few columns is small, but its rows are read with all their columns.
        row_bytes = int(self.rows.shape[1]) * np.dtype(self.rows.dtype).itemsize
        step = max(256, min(self.block_bytes // (4 * self.columns.size), _RAW_BYTES // row_bytes))
        # Passes sum chunks of 256 rows. A multiple of 256 gives the same chunks as held rows.
        step -= step % 256
        buffer = np.empty((min(step, self.n), self.columns.size), np.float32)
        for start in range(0, self.n, step):
            stop = min(start + step, self.n)
            block = self.rows[start:stop]
            standardised_columns(block, self.columns, self.scaling, buffer[: stop - start])
            yield buffer[: stop - start], self.y[start:stop]


def ordered_rows(
    rows: Rows,
    y: NDArray[np.int64],
    scaling: Scaling,
    columns: NDArray[np.intp],
    *,
    limit: int = HELD_BYTES,
    rank: NDArray[np.intp] | None = None,
) -> HeldRows | StreamedRows:
    """Return the rows of one order: held in memory up to ``limit`` bytes, streamed beyond it.

    Parameters
    ----------
    rows, y, scaling, columns: as `StreamedRows` takes them.
    limit: in bytes of standardised rows.
    rank: (n,) row numbers in the sequence in which held rows are stored; by default their own
        sequence. Streamed rows ignore it.
    """
    n = int(y.size)
    if 4 * n * columns.size > limit:
        return StreamedRows(rows, y, scaling, columns)
    held = np.empty((n, columns.size), np.float32)
    step = max(256, _BLOCK_BYTES // (4 * int(rows.shape[1])))
    if rank is None:
        for start in range(0, n, step):
            stop = min(start + step, n)
            standardised_columns(rows[start:stop], columns, scaling, held[start:stop])
        return HeldRows(held, y)
    # Rows are written to their final position at once, so a large layer is in memory only once.
    position = np.argsort(rank)
    buffer = np.empty((min(step, n), columns.size), np.float32)
    for start in range(0, n, step):
        stop = min(start + step, n)
        standardised_columns(rows[start:stop], columns, scaling, buffer[: stop - start])
        held[position[start:stop]] = buffer[: stop - start]
    return HeldRows(held, y[rank])


def sampled_rows(rows: OrderedRows, m: int, k: int) -> FloatArray:
    """Return the first ``k`` columns of ``m`` rows in a fixed random sequence, (m, k)."""
    index = np.random.default_rng(0).permutation(rows.n)[:m]
    if isinstance(rows, HeldRows):
        return np.ascontiguousarray(rows.x[index, :k])
    assert isinstance(rows, StreamedRows)
    # Rows are read in their own sequence, because jumping to and fro in a file is slow.
    ascending, position = np.unique(index, return_inverse=True)
    out = np.empty((index.size, k), np.float32)
    standardised_columns(rows.rows[ascending], rows.columns[:k], rows.scaling, out)
    return out[position]


def class_shares(y: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Return the share of every class among class ids, (n_classes,)."""
    shares: NDArray[np.float64] = np.bincount(y, minlength=n_classes) / int(y.size)
    return shares


def second_moment(rows: Rows, scaling: Scaling) -> FloatArray:
    """Return X'X / n of the standardised columns, (d, d) float32, for preconditioning only.

    Reads about 12 rows per neuron, evenly spread. That is enough for a preconditioner.
    """
    return symmetric_mean(*second_moment_sum(rows, scaling, 0, int(rows.shape[0])))


def second_moment_sum(
    rows: Rows, scaling: Scaling, start: int, stop: int
) -> tuple[FloatArray, int]:
    """Sum x x' of standardised columns over the chunks that `chunk_stride` selects.

    Parameters
    ----------
    rows: (n, d) raw features.
    scaling: of the d columns.
    start, stop: row range; ``start`` is a multiple of 1024.

    Returns
    -------
    The upper triangle of the sum, (d, d), and the number of rows in it.
    """
    n, d = int(rows.shape[0]), int(rows.shape[1])
    stride = chunk_stride(n, d)
    total = np.zeros((d, d), np.float32, order="F")
    buffer, columns = np.empty((min(n, MOMENT_CHUNK), d), np.float32), np.arange(d)
    n_used = 0
    for a in range(start, stop, MOMENT_CHUNK):
        if a // MOMENT_CHUNK % stride == 0:
            b = min(a + MOMENT_CHUNK, stop)
            block = buffer[: b - a]
            standardised_columns(rows[a:b], columns, scaling, block)
            total = ssyrk(1.0, block.T, beta=1.0, c=total, overwrite_c=1)
            n_used += b - a
    return total, n_used


def chunk_stride(n: int, d: int) -> int:
    """Return the stride at which the 1024-row chunks of ``n`` rows of ``d`` columns are read."""
    n_rows = max(_MOMENT_ROWS_PER_NEURON * d, 4096)
    return max(1, -(-n // MOMENT_CHUNK) // max(1, -(-n_rows // MOMENT_CHUNK)))


def symmetric_mean(total: FloatArray, n_rows: int) -> FloatArray:
    """Divide the upper triangle of a sum by ``n_rows`` and return the full symmetric matrix."""
    upper: Any = np.triu(total) / np.float32(n_rows)
    full: FloatArray = upper + upper.T
    full.flat[:: total.shape[0] + 1] *= np.float32(0.5)
    return np.ascontiguousarray(full)
