"""BLAS inside compiled loops: scipy's own ``sgemm``, called by address from numba code.

numba's ``np.dot`` can neither accumulate into its output nor take a view with a leading
dimension; the staircase of prefixes needs both. The symbol is registered by name, so that
compiled callers can be cached on disk.
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

NO, TRANSPOSED = ord("N"), ord("T")


def gemm_arguments() -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
    """Return the scratch that one thread's ``gemm`` calls keep their scalar arguments in."""
    return np.zeros(2, np.uint8), np.zeros(6, np.int32), np.zeros(2, np.float32)


@njit(nogil=True, inline="always")
def gemm(scratch: Any, kinds: Any, shape: Any, factors: Any, matrices: Any) -> None:
    """Compute C = alpha op(A) op(B) + beta C, column-major float32.

    Parameters
    ----------
    scratch: what ``gemm_arguments`` returns; one per thread.
    kinds: (op of A, op of B), each ``NO`` or ``TRANSPOSED``.
    shape: (m, n, k): C is m x n, the inner length is k.
    factors: (alpha, beta).
    matrices: (address A, leading dimension, address B, ld, address C, ld).
    """
    chars, ints, floats = scratch
    chars[0], chars[1] = kinds
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
