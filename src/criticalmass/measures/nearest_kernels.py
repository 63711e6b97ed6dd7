"""Compiled loops over nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.blas import NOT_TRANSPOSED, TRANSPOSED, gemm
from criticalmass.core.compilation import njit

_GROUP = 128


@njit(nogil=True, fastmath={"reassoc", "nnan", "ninf", "nsz"}, boundscheck=False)
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
    is minus one over the candidate's norm. Candidates are compared in groups: most groups hold no
    new neighbour and are skipped after one vectorised comparison with the last neighbour. Of two
    candidates at the same dissimilarity the earlier one stays ahead.

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
    for q in range(n_queries):
        row_best, row_ids = best[q], best_ids[q]
        for start in range(0, n_tile, _GROUP):
            stop = min(start + _GROUP, n_tile)
            # Views that start at 0, and a count instead of a minimum: both let it vectorise.
            offset, factor, dot = offsets[start:stop], factors[start:stop], dots[q, start:stop]
            limit = row_best[last]
            n_nearer = np.int32(0)
            for i in range(dot.size):
                n_nearer += np.int32(offset[i] + factor[i] * dot[i] < limit)
            if n_nearer == 0:
                continue
            for i in range(dot.size):
                value = offset[i] + factor[i] * dot[i]
                if value < row_best[last]:
                    slot = last
                    while slot > 0 and row_best[slot - 1] > value:
                        row_best[slot] = row_best[slot - 1]
                        row_ids[slot] = row_ids[slot - 1]
                        slot -= 1
                    row_best[slot] = value
                    row_ids[slot] = ids[start + i]


@njit(nogil=True)
def search_tile(
    queries: NDArray[np.float32],
    tile: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]],
    sizes: NDArray[np.int64],
    lists: tuple[NDArray[np.float32], NDArray[np.int32]],
    query_rows: int,
    arguments: tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]],
) -> None:
    """Search a tile of candidates for neighbours of the queries in every prefix of an order.

    The products of a prefix are those of the shorter one plus those of the columns in between.

    Parameters
    ----------
    queries: (n_queries, n_columns), columns in the order.
    tile: the candidates, (n_tile, n_columns); their offsets and factors, (n_sizes, n_tile), see
        `update_nearest`; their numbers or class ids, (n_tile,).
    sizes: (n_sizes,) prefix lengths, ascending, at most n_columns.
    lists: dissimilarities, ascending, and ids, (n_sizes, n_queries, n_neighbours), changed in
        place.
    query_rows: queries whose products with the tile are computed at a time.
    arguments: buffers from ``blas.gemm_arguments``, of this call alone.
    """
    candidates, offsets, factors, ids = tile
    best, best_ids = lists
    n_queries, width = queries.shape
    n_tile = candidates.shape[0]
    buffer = np.empty((min(query_rows, n_queries), n_tile), dtype=np.float32)
    for a in range(0, n_queries, query_rows):
        b = min(a + query_rows, n_queries)
        dots, start = buffer[: b - a], 0
        for j in range(sizes.size):
            k = sizes[j] - start
            # Column-major: dots' = candidates queries', whose factors are transposed views.
            gemm(
                arguments,
                (TRANSPOSED, NOT_TRANSPOSED),
                (n_tile, b - a, k),
                (np.float32(1.0), np.float32(0.0 if j == 0 else 1.0)),
                (
                    candidates.ctypes.data + 4 * start,
                    width,
                    queries.ctypes.data + 4 * (a * width + start),
                    width,
                    dots.ctypes.data,
                    n_tile,
                ),
            )
            update_nearest(dots, offsets[j], factors[j], ids, best[j, a:b], best_ids[j, a:b])
            start = sizes[j]


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
