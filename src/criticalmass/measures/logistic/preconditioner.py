"""Solve with the ridged second moment of every prefix, from one triangular factor per order.

With G = L L' for the permuted second moment plus a ridge, the inverse of L restricted to a prefix
is the leading block of the inverse of L. So one factorisation per order and ridge serves every
subset of that order, and a solve costs two triangular products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from criticalmass.core.blas import (
    NOT_TRANSPOSED,
    TRANSPOSED,
    gemm,
    gemm_arguments,
)
from criticalmass.core.compilation import njit

FloatArray = NDArray[np.float32]
Factor = TypeVar("Factor")
_BLOCK = 128
# Ridges are rounded to powers of four, by at most a factor of two: that costs under one pass in
# thirty.
BASE = 4.0
_MAX_RIDGE_RAISES = 12


class Preconditioner:
    """Inverse factors of one order's ridged second moment, computed on demand and cached.

    Parameters
    ----------
    moment: (k, k) float32, X'X / n of the standardised features in the order's columns.
    """

    def __init__(self, moment: FloatArray) -> None:
        self._moment = moment
        self._factors: dict[int, FloatArray] = {}
        # float32 loses a ridge far below the largest eigenvalue. The Frobenius norm bounds that
        # eigenvalue from above.
        largest = float(np.sqrt((moment * moment).sum(dtype=np.float64)))
        self._least = int(np.ceil(np.log(max(4e-6 * largest, 1e-30)) / np.log(BASE)))

    def exponent(self, ridge: float) -> int:
        """Return the exponent of the power of ``BASE`` that stands for a ridge."""
        return max(self._least, round(math.log(max(ridge, 1e-30), BASE)))

    def factor(self, exponent: int) -> FloatArray:
        """Return the inverse of the lower factor of ``moment + 4**exponent I``, (k, k)."""
        if exponent not in self._factors:
            self._factors[exponent] = first_factor(self._invert, exponent)
        return self._factors[exponent]

    def _invert(self, ridge: float) -> FloatArray | None:
        """Return the inverse of the lower factor, or None if it does not exist in float32."""
        ridged = self._moment.copy()
        ridged.flat[:: ridged.shape[0] + 1] += np.float32(ridge)
        # A symmetric C-ordered matrix is its own transpose: LAPACK's upper is our lower.
        lower, error = lapack.spotrf(ridged.T, lower=0, clean=1, overwrite_a=1)
        if error:
            return None
        inverse, error = lapack.strtri(lower, lower=0, overwrite_c=1)
        return None if error else np.ascontiguousarray(inverse.T)

    def solve(self, blocks: Sequence[FloatArray], exponent: int) -> list[FloatArray]:
        """Return ``(G[:k, :k] + 4**exponent I)^-1`` applied to every row of several blocks.

        Parameters
        ----------
        blocks: arrays (r, k), each with its own number of rows and columns.
        exponent: as `exponent` returns it.
        """
        stacked = StackedRows.of(blocks)
        out = np.zeros_like(stacked.rows)
        half = np.empty((len(out), _BLOCK), np.float32)
        inverse = self.factor(exponent)
        _solve(inverse, stacked.rows, stacked.lengths, half, out, gemm_arguments())
        return stacked.split(out)


@dataclass(frozen=True, eq=False)
class StackedRows:
    """Rows of several blocks in one array, the longest first.

    Parameters
    ----------
    rows: (R, longest) float32, zero beyond a row's own length.
    lengths: (R,) own length of each row, descending.
    places: for each block, its first row in the stack and its shape (r, k).
    """

    rows: FloatArray
    lengths: NDArray[np.intp]
    places: tuple[tuple[int, tuple[int, int]], ...]

    @classmethod
    def of(cls, blocks: Sequence[FloatArray]) -> StackedRows:
        """Stack blocks (r, k)."""
        order = sorted(range(len(blocks)), key=lambda i: -blocks[i].shape[1])
        counts, sizes = zip(*(blocks[i].shape for i in order), strict=True)
        starts = np.cumsum([0, *counts])
        rows = np.zeros((int(starts[-1]), sizes[0]), np.float32)
        places = {}
        for i, start in zip(order, starts.tolist(), strict=False):
            r, k = blocks[i].shape
            rows[start : start + r, :k] = blocks[i]
            places[i] = (start, (r, k))
        lengths = np.repeat(np.array(sizes, np.intp), counts)
        return cls(rows, lengths, tuple(places[i] for i in range(len(blocks))))

    def split(self, stacked: FloatArray) -> list[FloatArray]:
        """Return the blocks of an array of the stack's shape."""
        return [stacked[start : start + r, :k] for start, (r, k) in self.places]


def first_factor(invert: Callable[[float], Factor | None], exponent: int) -> Factor:
    """Return the factor for the smallest ridge, from ``BASE ** exponent`` up, that has one.

    Parameters
    ----------
    invert: returns the inverse factor for a ridge, or None if the factorisation fails.
    exponent: of the first ridge that is tried.

    Raises
    ------
    ArithmeticError
        If the factorisation fails for 12 ridges in a row.
    """
    for extra in range(_MAX_RIDGE_RAISES):
        inverse = invert(BASE ** (exponent + extra))
        if inverse is not None:
            return inverse
    raise ArithmeticError("the second moment of the features is not positive semidefinite")


@njit(nogil=True)
def _solve(inverse: Any, rows: Any, lengths: Any, half: Any, out: Any, arguments: Any) -> None:
    """Add two triangular products of rows (R, k) to out, one block of the factor at a time.

    The zero half of the factor is not multiplied, nor is a row beyond its own length.
    """
    n, k = lengths.shape[0], rows.shape[1]
    ld, ld_rows, ld_out = inverse.strides[0] // 4, rows.strides[0] // 4, out.strides[0] // 4
    base = inverse.ctypes.data
    for a in range(0, k, _BLOCK):
        b = min(a + _BLOCK, k)
        while lengths[n - 1] <= a:
            n -= 1
        gemm(
            arguments,
            (TRANSPOSED, NOT_TRANSPOSED),
            (b - a, n, b),
            (1.0, 0.0),
            (base + 4 * a * ld, ld, rows.ctypes.data, ld_rows, half.ctypes.data, _BLOCK),
        )
        for i in range(n - 1, -1, -1):
            if lengths[i] >= b:
                break
            half[i, lengths[i] - a : b - a] = 0.0
        gemm(
            arguments,
            (NOT_TRANSPOSED, NOT_TRANSPOSED),
            (b, n, b - a),
            (1.0, 1.0),
            (base + 4 * a * ld, ld, half.ctypes.data, _BLOCK, out.ctypes.data, ld_out),
        )
