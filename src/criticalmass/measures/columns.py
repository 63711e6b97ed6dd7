"""Compiled gather of columns: a permutation is read once per seed and block of rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from criticalmass.core.threads import thread_count
from criticalmass.measures.scaling import Scaling

FloatArray = NDArray[np.float32]
# 2**112: float16's exponent bias is 15, float32's 127.
_REBIAS = np.float32(5.192296858534828e33)


def take_columns(
    block: NDArray[np.float32],
    kept: NDArray[np.intp],
    room: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return ``block[:, kept]``, C-contiguous.

    Parameters
    ----------
    block: (n_rows, n_neurons) float32.
    kept: (n_kept,) columns within the block, not checked.
    room: (>= n_rows, n_kept) float32 to write into and return a part of. Fresh memory costs
        several times more than the gather, so a loop should bring its own.
    """
    out = np.empty((block.shape[0], kept.size), dtype=np.float32) if room is None else room
    out = out[: block.shape[0]]
    _take_columns(block, kept, out)
    return out


def standardised_columns(
    block: NDArray[Any], kept: NDArray[np.intp], scaling: Scaling, room: FloatArray
) -> None:
    """Write the standardised columns ``kept`` of raw rows into ``room``, on all cores.

    Parameters
    ----------
    block: (n_rows, n_neurons) raw features, finite; float16 is widened on the way.
    kept: (n_kept,) columns, not checked.
    scaling: of the block's columns.
    room: (n_rows, n_kept) float32.
    """
    mean = scaling.mean[kept].astype(np.float32)
    factor = (1.0 / scaling.scale[kept]).astype(np.float32)
    if block.dtype == np.float64:
        # Centred before it is rounded: float32 would lose a small spread far from zero.
        room[:] = (block[:, kept] - scaling.mean[kept]) / scaling.scale[kept]
        return
    half = block.dtype == np.float16
    raw: Any = np.ascontiguousarray(block, dtype=np.float16 if half else np.float32)

    def work(a: int, b: int) -> None:
        if half:
            _widen_columns(raw[a:b].view(np.uint16), kept, room[a:b].view(np.uint32))
            _shift_and_scale(room[a:b], mean, factor, _REBIAS)
        else:
            _take_columns(raw[a:b], kept, room[a:b])
            _shift_and_scale(room[a:b], mean, factor, np.float32(1.0))

    n, n_threads = raw.shape[0], thread_count()
    share = max(256, -(-n // n_threads))
    with ThreadPoolExecutor(n_threads) as pool:
        jobs = [pool.submit(work, a, min(a + share, n)) for a in range(0, n, share)]
        for job in jobs:
            job.result()


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _take_columns(
    block: NDArray[np.float32], kept: NDArray[np.intp], out: NDArray[np.float32]
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            # An unsigned index spares the test for negative ones, so the loop vectorises.
            out[i, j] = block[i, np.uint64(kept[j])]


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _widen_columns(
    block: NDArray[np.uint16], kept: NDArray[np.intp], out: NDArray[np.uint32]
) -> None:
    """Move float16 bits to where float32 keeps them; the exponent's bias is left to mend."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            bits = np.uint32(block[i, np.uint64(kept[j])])
            sign = (bits & np.uint32(0x8000)) << np.uint32(16)
            out[i, j] = sign | ((bits & np.uint32(0x7FFF)) << np.uint32(13))


@numba.njit(nogil=True, cache=True)
def _shift_and_scale(out: Any, mean: Any, factor: Any, rebias: Any) -> None:
    # The mean leaves before the scale comes in, so a column far from zero keeps its digits.
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = (out[i, j] * rebias - mean[j]) * factor[j]
