"""Compiled loops over nearest neighbours."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_GROUP = 32


@numba.njit(cache=True, fastmath={"reassoc", "nnan", "ninf", "nsz"}, boundscheck=False)
def keep_nearest(
    dots: NDArray[np.float32],
    terms: tuple[NDArray[np.float32], NDArray[np.float32]],
    names: NDArray[np.int32],
    best: NDArray[np.float32],
    best_names: NDArray[np.int32],
) -> None:
    """Let a tile of candidates compete for every query's list of nearest neighbours.

    How far a candidate is, is linear in its inner product with the query: offset plus factor
    times product. For the squared distance that is its squared norm minus twice the product
    (what depends on the query alone orders nothing), for the cosine the product over its norm,
    with a minus sign. Candidates are looked at in groups: most groups hold nothing near enough
    and are passed by their minimum. Of two candidates equally far the one met first stays ahead.

    Parameters
    ----------
    dots: (n_queries, n_tile) inner products of queries and candidates.
    terms: offsets and factors of the candidates, each (n_tile,).
    names: (n_tile,) numbers or class ids of the candidates.
    best: (n_queries, n_neighbours) ascending, changed in place.
    best_names: (n_queries, n_neighbours) names that belong to ``best``, changed in place.
    """
    n_queries, n_tile = dots.shape
    last = best.shape[1] - 1
    offsets, factors = terms
    near = np.empty(_GROUP, dtype=np.float32)
    for q in range(n_queries):
        row, heap, heap_names = dots[q], best[q], best_names[q]
        for start in range(0, n_tile, _GROUP):
            size = min(_GROUP, n_tile - start)
            nearest = np.float32(np.finfo(np.float32).max)
            for i in range(size):
                near[i] = offsets[start + i] + factors[start + i] * row[start + i]
                nearest = min(nearest, near[i])
            if nearest >= heap[last]:
                continue
            for i in range(size):
                if near[i] < heap[last]:
                    slot = last
                    while slot > 0 and heap[slot - 1] > near[i]:
                        heap[slot] = heap[slot - 1]
                        heap_names[slot] = heap_names[slot - 1]
                        slot -= 1
                    heap[slot] = near[i]
                    heap_names[slot] = names[start + i]


@numba.njit(cache=True)
def majority(
    neighbours: NDArray[np.int32], n_classes: int, out: NDArray[np.unsignedinteger]
) -> None:
    """Vote; a tie goes to the tied class that owns the nearest neighbour.

    Parameters
    ----------
    neighbours: (n_queries, n_neighbours) class ids, nearest first.
    n_classes: number of classes.
    out: (n_queries,) the winners, written in place.
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
