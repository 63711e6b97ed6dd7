"""The compiled loop of greedy CKA: two passes over d numbers per added neuron."""

from __future__ import annotations

import numpy as np

from criticalmass.core.compilation import njit
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.selectors.pivoting import TIE


@njit(nogil=True)
def greedy(matrix: FloatArray, scale: float, worst: bool) -> IndexArray:
    """Order neurons greedily by CKA(X_S, X) = ||C[S,:]||^2 / (||C[S,S]|| ||C||).

    Adding j increases ||C[S,:]||^2 by the sum of C_ij^2 over the row, and ||C[S,S]||^2 by
    C_jj^2 + 2 sum over i in S of C_ij^2, which is updated for all j at every step.

    Parameters
    ----------
    matrix: (d, d) symmetric C.
    scale: factor applied to C first, against overflow.
    worst: take the lowest CKA instead of the highest.

    Returns
    -------
    (d,) permutation.
    """
    d = matrix.shape[0]
    row_sums = np.zeros(d)
    increments = np.empty(d)
    for i in range(d):
        for j in range(d):
            value = matrix[i, j] * scale
            row_sums[i] += value * value
        diagonal = matrix[i, i] * scale
        increments[i] = diagonal * diagonal
    remaining = np.arange(d)
    scores = np.empty(d)
    order = np.empty(d, np.intp)
    outer = 0.0
    inner = 0.0
    for step in range(d):
        n_remaining = d - step
        best = -np.inf
        for position in range(n_remaining):
            j = remaining[position]
            within = inner + increments[j]
            ratio = (outer + row_sums[j]) ** 2 / within if within > 0.0 else 0.0
            scores[position] = -ratio if worst else ratio
            best = max(best, scores[position])
        threshold = best - TIE * abs(best)
        position = 0
        while scores[position] < threshold:
            position += 1
        chosen = remaining[position]
        # The remaining neurons stay in ascending order, so the first tie has the lowest position.
        remaining[position : n_remaining - 1] = remaining[position + 1 : n_remaining]
        order[step] = chosen
        outer += row_sums[chosen]
        inner += increments[chosen]
        for j in range(d):
            value = matrix[chosen, j] * scale
            increments[j] += 2.0 * value * value
    return order
