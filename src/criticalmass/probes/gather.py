"""Compiled gather of columns: a permutation is read once per seed and block of rows."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


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


@numba.njit(cache=True, boundscheck=False)
def _take_columns(
    block: NDArray[np.float32], kept: NDArray[np.intp], out: NDArray[np.float32]
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            # An unsigned index spares the test for negative ones, so the loop vectorises.
            out[i, j] = block[i, np.uint64(kept[j])]
