"""Compiled loops over nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compilation import njit

_GROUP = 32
_LARGEST = np.finfo(np.float32).max


@njit(fastmath={"reassoc", "nnan", "ninf", "nsz"}, boundscheck=False)
def update_nearest(
    dots: NDArray[np.floating],
    offsets: NDArray[np.floating],
    factors: NDArray[np.floating],
    ids: NDArray[np.int32],
    best: NDArray[np.floating],
    best_ids: NDArray[np.int32],
) -> None:
    """Insert the nearest candidates of a tile into every query's list of nearest neighbours.

    The dissimilarity of a candidate is linear in its inner product with the query: offset plus
    factor times product. For the squared distance the offset is the candidate's squared norm and
    the factor -2 (a term of the query alone does not change the order); for the cosine the factor
    is minus one over the candidate's norm. Candidates are compared in groups of 32: most groups
    hold no new neighbour and are skipped after a look at their minimum. Of two candidates at the
    same dissimilarity the earlier one stays ahead.

    Parameters
    ----------
    dots: (n_queries, n_tile) inner products of queries and candidates, float32 or float64;
        the other floats have the same precision.
    offsets, factors: (n_tile,) of the candidates.
    ids: (n_tile,) numbers or class ids of the candidates.
    best: (n_queries, n_neighbours) dissimilarities, ascending, changed in place.
    best_ids: (n_queries, n_neighbours) ids that belong to ``best``, changed in place.
    """
    n_queries, n_tile = dots.shape
    last = best.shape[1] - 1
    values = np.empty(_GROUP, dtype=dots.dtype)
    for q in range(n_queries):
        row, row_best, row_ids = dots[q], best[q], best_ids[q]
        for start in range(0, n_tile, _GROUP):
            size = min(_GROUP, n_tile - start)
            smallest = dots.dtype.type(_LARGEST)
            for i in range(size):
                values[i] = offsets[start + i] + factors[start + i] * row[start + i]
                smallest = min(smallest, values[i])
            if smallest >= row_best[last]:
                continue
            for i in range(size):
                if values[i] < row_best[last]:
                    slot = last
                    while slot > 0 and row_best[slot - 1] > values[i]:
                        row_best[slot] = row_best[slot - 1]
                        row_ids[slot] = row_ids[slot - 1]
                        slot -= 1
                    row_best[slot] = values[i]
                    row_ids[slot] = ids[start + i]


@njit()
def majority_vote(
    neighbours: NDArray[np.int32], n_classes: int, out: NDArray[np.unsignedinteger]
) -> None:
    """Vote by majority; a tie goes to the tied class of the nearest neighbour.

    Parameters
    ----------
    neighbours: (n_queries, n_neighbours) class ids, nearest first.
    n_classes: number of classes.
    out: (n_queries,) the winning classes, written in place.
    """
    votes = np.zeros(n_classes, dtype=np.int32)
    for q in range(neighbours.shape[0]):
        most = 0
        for label in neighbours[q]:
            votes[label] += 1
            most = max(most, votes[label])
        for label in neighbours[q]:
            if votes[label] == most:
                out[q] = label
                break
        for label in neighbours[q]:
            votes[label] = 0
