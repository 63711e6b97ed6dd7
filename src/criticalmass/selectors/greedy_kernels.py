"""The compiled loop of greedy CKA: two passes over d numbers per neuron added."""

from __future__ import annotations

import numpy as np
from numba import njit

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.selectors.pivoting import TIE


@njit(cache=True, nogil=True)
def greedy(matrix: FloatArray, scale: float, worst: bool) -> IndexArray:
    """Order neurons by what each adds to CKA(X_S, X) = ||C[S,:]||^2 / (||C[S,S]|| ||C||).

    Adding j raises the numerator's sum by the row's sum of C_ij^2, and the denominator's by
    C_jj^2 + 2 sum over i in S of C_ij^2, which is kept up to date for all j.

    Parameters
    ----------
    matrix: (d, d) symmetric C.
    scale: multiplies C first, against overflow.
    worst: lowest CKA first.

    Returns
    -------
    (d,) permutation.
    """
    d = matrix.shape[0]
    rows = np.zeros(d)
    added = np.empty(d)
    for i in range(d):
        for j in range(d):
            value = matrix[i, j] * scale
            rows[i] += value * value
        own = matrix[i, i] * scale
        added[i] = own * own
    free = np.arange(d)
    scores = np.empty(d)
    order = np.empty(d, np.intp)
    outer = 0.0
    inner = 0.0
    for step in range(d):
        n_free = d - step
        best = -np.inf
        for at in range(n_free):
            j = free[at]
            within = inner + added[j]
            gain = (outer + rows[j]) ** 2 / within if within > 0.0 else 0.0
            scores[at] = -gain if worst else gain
            best = max(best, scores[at])
        bar = best - TIE * abs(best)
        at = 0
        while scores[at] < bar:
            at += 1
        pick = free[at]
        # What is free stays in ascending order, so that the first tie has the lowest position.
        free[at : n_free - 1] = free[at + 1 : n_free]
        order[step] = pick
        outer += rows[pick]
        inner += added[pick]
        for j in range(d):
            value = matrix[pick, j] * scale
            added[j] += 2.0 * value * value
    return order
