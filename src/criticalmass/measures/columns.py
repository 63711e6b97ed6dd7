"""Compiled gather of columns: a permutation is read once per seed and block of rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compilation import njit
from criticalmass.core.threads import thread_count
from criticalmass.measures.scaling import Scaling

FloatArray = NDArray[np.float32]
# 2**112: the exponent bias of float16 is 15, that of float32 is 127.
_REBIAS = np.float32(5.192296858534828e33)


def take_columns(
    block: NDArray[np.float32],
    columns: NDArray[np.intp],
    buffer: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return ``block[:, columns]``, C-contiguous.

    Parameters
    ----------
    block: (n_rows, n_neurons) float32.
    columns: (n_kept,) columns of the block, not checked.
    buffer: (>= n_rows, n_kept) float32 to write into; the result is its first n_rows rows.
        Allocating memory costs several times more than the gather, so loops should pass one.
    """
    out = np.empty((block.shape[0], columns.size), dtype=np.float32) if buffer is None else buffer
    out = out[: block.shape[0]]
    _take_columns(block, columns, out)
    return out


def standardised_columns(
    block: NDArray[Any], columns: NDArray[np.intp], scaling: Scaling, out: FloatArray
) -> None:
    """Write the standardised ``columns`` of raw rows into ``out``, on all cores.

    Parameters
    ----------
    block: (n_rows, n_neurons) raw features, finite; float16 is converted to float32.
    columns: (n_kept,) columns, not checked.
    scaling: of the block's columns.
    out: (n_rows, n_kept) float32, overwritten.
    """
    mean = scaling.mean[columns].astype(np.float32)
    factor = scaling.float32_factors()[columns]
    if block.dtype == np.float64:
        # Centred before it is rounded: float32 would lose a small spread far from zero.
        out[:] = (block[:, columns] - scaling.mean[columns]) / scaling.scale[columns]
        return
    is_half = block.dtype == np.float16
    raw: Any = np.ascontiguousarray(block, dtype=np.float16 if is_half else np.float32)

    def standardise(a: int, b: int) -> None:
        if is_half:
            _widen_columns(raw[a:b].view(np.uint16), columns, out[a:b].view(np.uint32))
            _shift_and_scale(out[a:b], mean, factor, _REBIAS)
        else:
            _take_columns(raw[a:b], columns, out[a:b])
            _shift_and_scale(out[a:b], mean, factor, np.float32(1.0))

    n, n_threads = raw.shape[0], thread_count()
    n_rows = max(256, -(-n // n_threads))
    with ThreadPoolExecutor(n_threads) as pool:
        jobs = [pool.submit(standardise, a, min(a + n_rows, n)) for a in range(0, n, n_rows)]
        for job in jobs:
            job.result()


@njit(nogil=True, boundscheck=False)
def _take_columns(
    block: NDArray[np.float32], columns: NDArray[np.intp], out: NDArray[np.float32]
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            # An unsigned index needs no test for negative values, so the loop vectorises.
            out[i, j] = block[i, np.uint64(columns[j])]


@njit(nogil=True, boundscheck=False)
def _widen_columns(
    block: NDArray[np.uint16], columns: NDArray[np.intp], out: NDArray[np.uint32]
) -> None:
    """Move float16 bits to their float32 positions; the exponent still has float16's bias."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            bits = np.uint32(block[i, np.uint64(columns[j])])
            sign = (bits & np.uint32(0x8000)) << np.uint32(16)
            out[i, j] = sign | ((bits & np.uint32(0x7FFF)) << np.uint32(13))


@njit(nogil=True)
def _shift_and_scale(out: Any, mean: Any, factor: Any, rebias: Any) -> None:
    # The mean is subtracted before scaling, so a column far from zero keeps its digits.
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = (out[i, j] * rebias - mean[j]) * factor[j]
