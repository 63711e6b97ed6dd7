"""The compiled inner loop of prefix CKA."""

from __future__ import annotations

import numpy as np

from criticalmass.core.compilation import njit
from criticalmass.core.moments import FloatArray


# Only with reassociated sums can the compiler vectorise the loops. All terms are non-negative,
# so the order of additions costs no accuracy.
@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def prefix_terms(
    matrix: FloatArray, ranks: FloatArray, scale: float
) -> tuple[FloatArray, FloatArray]:
    """Sum C*C for all prefixes of all orders, in one pass over the rows of C.

    Parameters
    ----------
    matrix: (d, d) symmetric C.
    ranks: (n_orders, d) position of every neuron in every order, infinity where it is absent.
        Floats of the width of the data, so that comparisons vectorise.
    scale: factor applied to C first, against overflow.

    Returns
    -------
    outer: (d,) sum_j C_ij^2.
    inner: (n_orders, d) C_ii^2 + 2 sum of C_ij^2 over the neurons j before i in the order;
        0 where i is absent.
    """
    d = matrix.shape[0]
    n_orders = ranks.shape[0]
    outer = np.zeros(d)
    inner = np.zeros((n_orders, d))
    squares = np.empty(d)
    for i in range(d):
        total = 0.0
        for j in range(d):
            value = matrix[i, j] * scale
            squares[j] = value * value
            total += squares[j]
        outer[i] = total
        for o in range(n_orders):
            rank = ranks[o, i]
            if rank == np.inf:
                continue
            before = 0.0
            for j in range(d):
                before += squares[j] if ranks[o, j] < rank else 0.0
            inner[o, i] = squares[i] + 2.0 * before
    return outer, inner
