"""Compiled loops of the nearest-neighbour probe."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_GROUP = 32


@numba.njit(cache=True, fastmath={"reassoc", "nnan", "ninf", "nsz"}, boundscheck=False)
def keep_nearest(
    dots: NDArray[np.float32],
    norms: NDArray[np.float32],
    labels: NDArray[np.int32],
    best: NDArray[np.float32],
    best_labels: NDArray[np.int32],
) -> None:
    """Let a tile of training rows compete for every query's list of nearest neighbours.

    Only the part of the squared distance that depends on the training row is used. Candidates
    are looked at in groups: most groups hold nothing near enough and are passed by their minimum.
    Of two candidates at the same distance the one met first stays ahead.

    Parameters
    ----------
    dots: (n_queries, n_tile) inner products of queries and training rows.
    norms: (n_tile,) squared norms of the training rows.
    labels: (n_tile,) class ids of the training rows.
    best: (n_queries, n_neighbours) ascending, changed in place.
    best_labels: (n_queries, n_neighbours) class ids that belong to ``best``, changed in place.
    """
    n_queries, n_tile = dots.shape
    last = best.shape[1] - 1
    two = np.float32(2.0)
    near = np.empty(_GROUP, dtype=np.float32)
    for q in range(n_queries):
        row, heap, heap_labels = dots[q], best[q], best_labels[q]
        for start in range(0, n_tile, _GROUP):
            size = min(_GROUP, n_tile - start)
            nearest = np.float32(np.finfo(np.float32).max)
            for i in range(size):
                near[i] = norms[start + i] - two * row[start + i]
                nearest = min(nearest, near[i])
            if nearest >= heap[last]:
                continue
            for i in range(size):
                if near[i] < heap[last]:
                    slot = last
                    while slot > 0 and heap[slot - 1] > near[i]:
                        heap[slot] = heap[slot - 1]
                        heap_labels[slot] = heap_labels[slot - 1]
                        slot -= 1
                    heap[slot] = near[i]
                    heap_labels[slot] = labels[start + i]


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
