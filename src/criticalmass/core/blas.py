"""BLAS inside compiled loops: numba code calls scipy's ``sgemm`` by address.

numba's ``np.dot`` cannot add to its output and cannot take a view with a leading dimension. The
products of stacked heads need both. The symbol is registered by name, so that numba can cache
compiled callers on disk.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from numba import njit, types
from numba.extending import get_cython_function_address
from numpy.typing import NDArray

_SYMBOL = "criticalmass_sgemm"
llvmlite.binding.add_symbol(
    _SYMBOL, get_cython_function_address("scipy.linalg.cython_blas", "sgemm")
)
# Every Fortran argument is an address; an integer of pointer width is passed the same way.
_sgemm = types.ExternalFunction(_SYMBOL, types.void(*(types.intp,) * 13))

NOT_TRANSPOSED, TRANSPOSED = ord("N"), ord("T")


def gemm_arguments() -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
    """Return buffers for the scalar arguments of ``gemm``; every thread needs its own."""
    return np.zeros(2, np.uint8), np.zeros(6, np.int32), np.zeros(2, np.float32)


@njit(nogil=True, inline="always")
def gemm(arguments: Any, operations: Any, shape: Any, factors: Any, matrices: Any) -> None:
    """Compute C = alpha op(A) op(B) + beta C, column-major float32.

    Parameters
    ----------
    arguments: buffers from ``gemm_arguments``, one set per thread.
    operations: (op of A, op of B), each ``NOT_TRANSPOSED`` or ``TRANSPOSED``.
    shape: (m, n, k): C is m x n, the inner length is k.
    factors: (alpha, beta).
    matrices: (address A, leading dimension, address B, ld, address C, ld).
    """
    chars, ints, floats = arguments
    chars[0], chars[1] = operations
    ints[0], ints[1], ints[2] = shape
    floats[0], floats[1] = factors
    a, lda, b, ldb, c, ldc = matrices
    ints[3], ints[4], ints[5] = lda, ldb, ldc
    i = ints.ctypes.data
    f = floats.ctypes.data
    _sgemm(
        chars.ctypes.data,
        chars.ctypes.data + 1,
        i,
        i + 4,
        i + 8,
        f,
        a,
        i + 12,
        b,
        i + 16,
        f + 4,
        c,
        i + 20,
    )
