"""Orders that take the neuron which adds most to those taken: a Cholesky factor with a choice.

The factor's residual is what the neurons taken so far leave unexplained (the Schur complement),
so that choosing the next pivot by it is forward selection: by residual variance it is
column-pivoted QR of the centred features (Businger and Golub 1965; Higham 2002, section 10.3),
by residual class separation it is stepwise discriminant analysis.
"""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.selectors.inputs import Evidence

# What is left of a neuron's variance when the kept ones determine it is rounding.
_DEPENDENT = 1e-12
# Scores that differ by rounding are ties, whichever library summed them.
TIE = 1e-12
_PANEL = 64


def leverage(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Take the neuron with most variance that the kept ones do not explain linearly.

    On centred raw features: the pivots of column-pivoted QR. Not standardised: there all
    neurons start level, and those that are noise come first, for nothing explains noise.
    """
    scatter = seen.moments.scatter
    return _completed(pivots(scatter), np.diagonal(scatter))


def greedy_lda(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Take the neuron that adds most class separation to what the kept ones have.

    Separation of a subset S is Pillai's trace tr(T_SS^-1 B_S), with T the total and B the
    between-class scatter; for one neuron it is eta squared, the order of the F statistic.
    """
    counts, means = seen.between
    scatter = seen.moments.scatter
    found = pivots(scatter, np.sqrt(counts)[:, None] * means)
    return _completed(found, np.diagonal(scatter))


def pivots(matrix: FloatArray, targets: FloatArray | None = None) -> IndexArray:
    """Pivots of a pivoted Cholesky factorisation, as many as the matrix has rank.

    Parameters
    ----------
    matrix: (d, d) positive semi-definite.
    targets: (m, d) cross products with what is to be explained; the next pivot is the one that
        explains most of it, |residual cross product|^2 / residual diagonal. Without: the one
        with the largest residual diagonal.

    Returns
    -------
    (rank,) distinct positions, in the order in which they were taken; ties go to the lowest.
    """
    d = matrix.shape[0]
    residual, left = np.array(matrix), np.diagonal(matrix).copy()
    cross = None if targets is None else np.array(targets)
    floor = _DEPENDENT * left
    live = left > floor
    taken: list[int] = []
    panel = np.empty((min(_PANEL, d), d))
    while live.any():
        filled = 0
        while filled < len(panel) and live.any():
            scores = left if cross is None else _explained(cross, left, live)
            p = first_of_best(scores, live)
            row = residual[p] - panel[:filled, p] @ panel[:filled]
            row /= np.sqrt(row[p])
            panel[filled] = row
            filled += 1
            left = left - row * row
            if cross is not None:
                cross -= np.outer(cross[:, p] / row[p], row)
            taken.append(p)
            live[p] = False
            live &= left > floor
        # The rest of the matrix follows a panel at a time, as one product.
        residual -= panel[:filled].T @ panel[:filled]
    return np.array(taken, dtype=np.intp)


def first_of_best(scores: FloatArray, live: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """Lowest position, among the live ones, whose score is the best up to rounding."""
    best = float(scores[live].max())
    return int(np.flatnonzero(live & (scores >= best - TIE * abs(best)))[0])


def _explained(
    cross: FloatArray, left: FloatArray, live: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> FloatArray:
    gains = np.zeros(left.size)
    np.divide(np.einsum("md,md->d", cross, cross), left, out=gains, where=live)
    return gains


def _completed(found: IndexArray, variance: FloatArray) -> IndexArray:
    """Add the neurons that the others determine, most variance first, constant ones last."""
    rest = np.setdiff1d(np.arange(variance.size), found)
    return np.concatenate([found, rest[np.argsort(-variance[rest], kind="stable")]])
