"""Compiled loops that resize an 8-bit image bit for bit as Pillow does."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from criticalmass.core.compilation import njit

# Binary places of the integer weights. With 8-bit values and two bits for overshoot they need
# 32 bits.
WEIGHT_BITS = 22
_HALF = 1 << (WEIGHT_BITS - 1)
_ROWS_PER_BLOCK = 32

_IMAGE = types.Array(types.uint8, 3, "C", readonly=True)
_FIRST = types.Array(types.int64, 1, "C", readonly=True)
_WEIGHTS = types.Array(types.int32, 2, "C", readonly=True)


# The explicit signature compiles the function once, on import: for read-only and writable arrays,
# and before several threads call it.
@njit(
    types.Array(types.uint8, 3, "C")(_IMAGE, _FIRST, _WEIGHTS, _FIRST, _WEIGHTS),
    nogil=True,
    boundscheck=False,
)
def resize_planes(
    image: NDArray[np.uint8],
    first_column: NDArray[np.int64],
    column_weights: NDArray[np.int32],
    first_row: NDArray[np.int64],
    row_weights: NDArray[np.int32],
) -> NDArray[np.uint8]:
    """Resize the columns, round to 8 bits, then resize the rows.

    Parameters
    ----------
    image: (height, width, channels).
    first_column, first_row: (n_out,) ascending; first source pixel of each output pixel.
    column_weights, row_weights: (n_out, n_weights), in units of 2**-22.

    Returns
    -------
    (channels, n_out rows, n_out columns).
    """
    width, channels = image.shape[1], image.shape[2]
    top = first_row[0]
    n_rows = first_row[-1] + row_weights.shape[1] - top
    n_columns = len(first_column)
    resized = np.empty((channels, n_rows, n_columns), np.uint8)
    # A block of rows is transposed, so that the innermost loop runs along memory.
    block = np.empty((width, channels * _ROWS_PER_BLOCK), np.uint8)
    sums = np.empty(channels * _ROWS_PER_BLOCK, np.int32)
    for start in range(0, n_rows, _ROWS_PER_BLOCK):
        n = min(_ROWS_PER_BLOCK, n_rows - start)
        for y in range(n):
            line = image[top + start + y]
            for x in range(width):
                for c in range(channels):
                    block[x, c * _ROWS_PER_BLOCK + y] = line[x, c]
        for x in range(n_columns):
            sums[:] = _HALF
            for k in range(column_weights.shape[1]):
                weight, column = column_weights[x, k], block[first_column[x] + k]
                for i in range(len(sums)):
                    sums[i] += weight * np.int32(column[i])
            for c in range(channels):
                for y in range(n):
                    value = sums[c * _ROWS_PER_BLOCK + y] >> WEIGHT_BITS
                    resized[c, start + y, x] = min(max(value, 0), 255)
    out = np.empty((channels, len(first_row), n_columns), np.uint8)
    totals = np.empty(n_columns, np.int32)
    for c in range(channels):
        for y in range(len(first_row)):
            totals[:] = _HALF
            for k in range(row_weights.shape[1]):
                weight, row = row_weights[y, k], resized[c, first_row[y] - top + k]
                for x in range(n_columns):
                    totals[x] += weight * np.int32(row[x])
            for x in range(n_columns):
                out[c, y, x] = min(max(totals[x] >> WEIGHT_BITS, 0), 255)
    return out
