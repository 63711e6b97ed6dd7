"""Solve with the ridged second moment of every prefix, from one triangular factor per order.

With G = L L' for the permuted second moment plus a ridge, the inverse of L restricted to a prefix
is the leading block of the inverse of L. So one factorisation per order and ridge serves every
subset of that order, and a solve costs two triangular products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

    def solve(self, rhs: FloatArray, exponent: int) -> FloatArray:
        """Return ``(G[:k, :k] + 4**exponent I)^-1`` applied to every row of rhs, (r, k)."""
        out = np.empty_like(rhs)
        _solve(self.factor(exponent), rhs, np.empty_like(rhs), out, gemm_arguments())
        return out


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
def _solve(inverse: Any, rhs: Any, half: Any, out: Any, arguments: Any) -> None:
    """Two triangular products in blocks; the zero half of the factor is not multiplied."""
    r, k = rhs.shape
    ld = inverse.strides[0] // 4
    base = inverse.ctypes.data
    for a in range(0, k, _BLOCK):
        b = min(a + _BLOCK, k)
        gemm(
            arguments,
            (TRANSPOSED, NOT_TRANSPOSED),
            (b - a, r, b),
            (1.0, 0.0),
            (base + 4 * a * ld, ld, rhs.ctypes.data, k, half.ctypes.data + 4 * a, k),
        )
    for a in range(0, k, _BLOCK):
        b = min(a + _BLOCK, k)
        gemm(
            arguments,
            (NOT_TRANSPOSED, NOT_TRANSPOSED),
            (b - a, r, k - a),
            (1.0, 0.0),
            (base + 4 * (a * ld + a), ld, half.ctypes.data + 4 * a, k, out.ctypes.data + 4 * a, k),
        )
