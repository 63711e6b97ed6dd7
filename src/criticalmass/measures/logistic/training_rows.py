"""Training rows as the solver reads them: standardised, permuted, float32, block by block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk

from criticalmass.core.rows import Rows
from criticalmass.measures.columns import standardised_columns
from criticalmass.measures.scaling import Scaling

FloatArray = NDArray[np.float32]
# Rows kept in memory per order up to this many bytes; beyond it they are read again every pass.
IN_MEMORY_BYTES = 1 << 30
_BLOCK_BYTES = 48 << 20
_RAW_BYTES = 64 << 20
_HELD: ContextVar[int | None] = ContextVar("held", default=None)
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
    kept: (k,) columns, in order.
    """

    rows: Rows
    y: NDArray[np.int64]
    scaling: Scaling
    kept: NDArray[np.intp]

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.y.size)

    def blocks(self) -> Iterator[tuple[FloatArray, NDArray[np.int64]]]:
        """Yield standardised, permuted blocks of about 48 MiB, in the same memory each time."""
        # Few columns are cheap to keep, but the rows are read with all their columns.
        width = int(self.rows.shape[1]) * np.dtype(self.rows.dtype).itemsize
        step = max(256, min(_BLOCK_BYTES // (4 * self.kept.size), _RAW_BYTES // width))
        # Passes sum chunks of 256 rows: so they are the same chunks as those of held rows.
        step -= step % 256
        room = np.empty((min(step, self.n), self.kept.size), np.float32)
        for start in range(0, self.n, step):
            stop = min(start + step, self.n)
            block = self.rows[start:stop]
            standardised_columns(block, self.kept, self.scaling, room[: stop - start])
            yield room[: stop - start], self.y[start:stop]


def ordered_rows(
    rows: Rows,
    y: NDArray[np.int64],
    scaling: Scaling,
    kept: NDArray[np.intp],
    *,
    limit: int | None = None,
    rank: NDArray[np.intp] | None = None,
) -> HeldRows | StreamedRows:
    """Choose whether rows are held or streamed, by their size in bytes against ``limit``.

    Parameters
    ----------
    rows, y, scaling, kept: as `StreamedRows` takes them.
    limit: in bytes of standardised rows; `held_bytes` if None.
    rank: (n,) the order in which rows are held, if they are; their own by default.
    """
    n = int(y.size)
    if 4 * n * kept.size > (held_bytes() if limit is None else limit):
        return StreamedRows(rows, y, scaling, kept)
    held = np.empty((n, kept.size), np.float32)
    step = max(256, _BLOCK_BYTES // (4 * int(rows.shape[1])))
    if rank is None:
        for start in range(0, n, step):
            stop = min(start + step, n)
            standardised_columns(rows[start:stop], kept, scaling, held[start:stop])
        return HeldRows(held, y)
    # Each row goes to its place at once: the rows of a large layer fit in memory once, not twice.
    place = np.argsort(rank)
    room = np.empty((min(step, n), kept.size), np.float32)
    for start in range(0, n, step):
        stop = min(start + step, n)
        standardised_columns(rows[start:stop], kept, scaling, room[: stop - start])
        held[place[start:stop]] = room[: stop - start]
    return HeldRows(held, y[rank])


def held_bytes() -> int:
    """Return up to how many bytes of one order's rows are kept in memory."""
    told = _HELD.get()
    return IN_MEMORY_BYTES if told is None else told


@contextlib.contextmanager
def holding(limit: int | None) -> Iterator[None]:
    """Keep at most so many bytes of an order's rows until the end of the block; None: as ever."""
    token = _HELD.set(limit)
    try:
        yield
    finally:
        _HELD.reset(token)


def second_moment(rows: Rows, scaling: Scaling) -> FloatArray:
    """Return X'X / n of the standardised columns, (d, d) float32, for preconditioning only.

    Reads at most 12 rows per neuron, evenly spread: a preconditioner needs no more.
    """
    n, d = int(rows.shape[0]), int(rows.shape[1])
    n_chunks, every = -(-n // 1024), every_of(n, d)
    total = np.zeros((d, d), np.float32, order="F")
    room, everything = np.empty((min(n, 1024), d), np.float32), np.arange(d)
    used = 0
    for number in range(0, n_chunks, every):
        a, b = number * 1024, min(number * 1024 + 1024, n)
        block = room[: b - a]
        standardised_columns(rows[a:b], everything, scaling, block)
        total = ssyrk(1.0, block.T, beta=1.0, c=total, overwrite_c=1)
        used += b - a
    return mirrored(total, used)


def every_of(n: int, d: int) -> int:
    """Return which chunk of 1024 rows a second moment reads, of ``n`` rows: every so-manieth."""
    wanted = max(_MOMENT_ROWS_PER_NEURON * d, 4096)
    return max(1, -(-n // 1024) // max(1, -(-wanted // 1024)))


def mirrored(total: FloatArray, used: int) -> FloatArray:
    """Return the mean over ``used`` rows of what a rank-k update left in the upper triangle."""
    upper: Any = np.triu(total) / np.float32(used)
    full: FloatArray = upper + upper.T
    full.flat[:: total.shape[0] + 1] *= np.float32(0.5)
    return np.ascontiguousarray(full)
