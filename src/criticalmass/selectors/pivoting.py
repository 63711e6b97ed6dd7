"""Forward selection of neurons by a pivoted Cholesky factorisation.

The residual of the factorisation (the Schur complement) is the part that the selected neurons do
not explain. Choosing the next pivot by residual variance is column-pivoted QR of the centred
features (Businger and Golub 1965; Higham 2002, section 10.3); choosing it by residual class
separation is stepwise discriminant analysis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.selectors.inputs import SelectorInput

# A residual variance below this share of the variance is rounding error: the selected neurons
# determine the neuron.
_DEPENDENT = 1e-12
# Scores within this relative difference are ties: it is rounding and depends on the library.
TIE = 1e-12
_PANEL = 64
BoolArray = npt.NDArray[np.bool_]


def leverage(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """At each step take the neuron with most variance that the selected ones do not explain.

    On centred raw features, these are the pivots of column-pivoted QR. Features are not
    standardised: with equal variances neurons of pure noise, which no others explain, would come
    first.
    """
    scatter = layer.moments.scatter
    return _append_dependent(pivots(scatter), np.diagonal(scatter))


def greedy_lda(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """At each step take the neuron that adds most class separation to the selected ones.

    Separation of a subset S is Pillai's trace tr(T_SS^-1 B_S), with T the total and B the
    between-class scatter. For one neuron it is eta squared, which orders as the F statistic does.
    """
    counts, offsets = layer.class_offsets
    scatter = layer.moments.scatter
    order = pivots(scatter, np.sqrt(counts)[:, None] * offsets)
    return _append_dependent(order, np.diagonal(scatter))


def pivots(matrix: FloatArray, targets: FloatArray | None = None) -> IndexArray:
    """Return the pivots of a pivoted Cholesky factorisation, as many as the matrix has rank.

    Parameters
    ----------
    matrix: (d, d) positive semi-definite.
    targets: (m, d) cross products with the targets; the next pivot is the one that explains most
        of the targets, |residual cross product|^2 / residual diagonal. Without targets it is the
        one with the largest residual diagonal.

    Returns
    -------
    (rank,) distinct positions in the order of selection; ties go to the lowest position.
    """
    d = matrix.shape[0]
    residual, variance = np.array(matrix), np.diagonal(matrix).copy()
    cross = None if targets is None else np.array(targets)
    floor = _DEPENDENT * variance
    is_candidate = variance > floor
    selected: list[int] = []
    panel = np.empty((min(_PANEL, d), d))
    while is_candidate.any():
        n_rows = 0
        while n_rows < len(panel) and is_candidate.any():
            scores = variance if cross is None else _explained_gains(cross, variance, is_candidate)
            p = first_best(scores, is_candidate)
            row = residual[p] - panel[:n_rows, p] @ panel[:n_rows]
            row /= np.sqrt(row[p])
            panel[n_rows] = row
            n_rows += 1
            variance = variance - row * row
            if cross is not None:
                cross -= np.outer(cross[:, p] / row[p], row)
            selected.append(p)
            is_candidate[p] = False
            is_candidate &= variance > floor
        # The residual matrix is updated once per panel, as one matrix product.
        residual -= panel[:n_rows].T @ panel[:n_rows]
    return np.array(selected, dtype=np.intp)


def first_best(scores: FloatArray, is_candidate: BoolArray) -> int:
    """Return the lowest position, among candidates, whose score is the best up to rounding."""
    best = float(scores[is_candidate].max())
    return int(np.flatnonzero(is_candidate & (scores >= best - TIE * abs(best)))[0])


def _explained_gains(
    cross: FloatArray, variance: FloatArray, is_candidate: BoolArray
) -> FloatArray:
    """(d,) part of the targets that each candidate explains; 0 for other positions."""
    gains = np.zeros(variance.size)
    squares = np.einsum("md,md->d", cross, cross)
    np.divide(squares, variance, out=gains, where=is_candidate)
    return gains


def _append_dependent(order: IndexArray, variance: FloatArray) -> IndexArray:
    """Append the neurons that the others determine, by descending variance, constant ones last."""
    dependent = np.setdiff1d(np.arange(variance.size), order)
    descending = np.argsort(-variance[dependent], kind="stable")
    return np.concatenate([order, dependent[descending]])
