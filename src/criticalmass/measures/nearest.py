"""The nearest rows in every prefix of an order, computed incrementally.

Squared distances and inner products are sums over neurons, so those of a prefix are those of the
shorter prefix plus the block of neurons in between. Nothing is computed twice within an order.

Cosines are computed in float32 first. Where those of a query's neighbours differ by little more
than rounding errors (the mean of the layer, or a few massive neurons, dwarf what tells samples
apart), its neighbours are searched again in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.measures.columns import take_columns
from criticalmass.measures.nearest_kernels import update_nearest
from criticalmass.measures.prefix_heads import block_ranges

Metric = Literal["euclidean", "cosine"]
Matrix = NDArray[np.float32]
ExactMatrix = NDArray[np.float64]
_LARGEST = float(np.finfo(np.float32).max)
# Cosines of the nearest and the last neighbour that differ by less than this are not distinguished
# reliably by float32, whose errors are of some 10 units of rounding in a long sum.
_DOUBTFUL_SPREAD = 1024.0 * float(np.finfo(np.float32).eps)
# If more queries than this share are doubtful, all of that size are searched again.
_DOUBTFUL_SHARE = 1.0 / 16.0
# Cosines in float64 are rounded to multiples of 2**-50, so that equal ones stay equal.
_COSINE_STEPS = 2.0**50
# Squares of numbers between these, and sums of them, are ordinary float32 numbers.
_SMALLEST_PEAK, _LARGEST_PEAK = 2.0**-30, 2.0**40


@dataclass(frozen=True)
class TileRows:
    """Rows in one tile of the distance matrix; they change time and memory, not the result."""

    queries: int = 256
    candidates: int = 2048


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """Rows among which the nearest are searched.

    Attributes
    ----------
    rows: (n_candidates, n_neurons) raw features.
    ids: (n_candidates,) what the lists of neighbours hold for each row, e.g. its number or class.
    read: (rows, start, stop) -> those rows as float32, transformed as the metric needs them.
    metric: "euclidean", or "cosine" (a row of zeros has a cosine of 0 with every row).
    tiles: rows per tile.
    read_exact: like ``read``, but as float64; by default what ``read`` returns is widened.
    """

    rows: Rows
    ids: NDArray[np.int32]
    read: Callable[[Rows, int, int], Matrix]
    metric: Metric = "euclidean"
    tiles: TileRows = TileRows()
    read_exact: Callable[[Rows, int, int], ExactMatrix] | None = None

    def nearest(
        self,
        queries: Matrix,
        order: NDArray[np.intp],
        sizes: Sequence[int],
        n_neighbours: int,
        exact_queries: ExactMatrix | None = None,
    ) -> NDArray[np.int32]:
        """Return the ids of the nearest candidates of every query in every prefix of an order.

        The distance matrix is computed in tiles of queries and candidates. The inner products of
        a tile grow block of neurons by block of neurons, and every size has its own list of
        neighbours, so the full (n_queries, n_candidates) matrix never exists. Distances are
        float32; of two candidates at the same distance the earlier one is nearer. Cosines are
        float32 too, except for queries that need float64.

        Parameters
        ----------
        queries: (n_queries, n_neurons) as ``read`` would return them.
        order: (n_neurons,) permutation.
        sizes: prefix lengths, ascending.
        n_neighbours: at most n_candidates.
        exact_queries: the queries as ``read_exact`` would return them; by default the queries.

        Returns
        -------
        (n_sizes, n_queries, n_neighbours) ids, nearest first.
        """
        raw_queries: NDArray[np.floating] = queries if exact_queries is None else exact_queries
        if self.metric == "cosine":
            queries = scale_rows(queries)
        shape = (len(sizes), queries.shape[0], n_neighbours)
        best = np.full(shape, _LARGEST, dtype=np.float32)
        best_ids = np.zeros(shape, dtype=np.int32)
        query_blocks = _column_blocks(queries, order, sizes)
        n_rows, n_columns = self.tiles.queries, self.tiles.candidates
        buffer = np.empty((n_rows, n_columns), dtype=np.float32)
        n = int(self.rows.shape[0])
        for start in range(0, n, n_columns):
            stop = min(start + n_columns, n)
            tile = self.read(self.rows, start, stop)
            tile = scale_rows(tile) if self.metric == "cosine" else tile
            tile_blocks = _column_blocks(tile, order, sizes)
            offsets, factors = self._terms(tile_blocks)
            ids = self.ids[start:stop]
            for a in range(0, queries.shape[0], n_rows):
                b = min(a + n_rows, queries.shape[0])
                dots = buffer[: b - a, : stop - start]
                if dots.shape[1] < n_columns:
                    dots = np.ascontiguousarray(dots)
                for j, (query_block, block) in enumerate(
                    zip(query_blocks, tile_blocks, strict=True)
                ):
                    _add_products(dots, query_block[a:b], block, first=j == 0)
                    update_nearest(
                        dots, offsets[j], factors[j], ids, best[j, a:b], best_ids[j, a:b]
                    )
        if self.metric == "cosine":
            doubtful = _doubtful_lists(best, query_blocks)
            if doubtful.any():
                self._search_exactly(raw_queries, order, sizes, doubtful, best_ids)
        return best_ids

    def _search_exactly(
        self,
        queries: NDArray[np.floating],
        order: NDArray[np.intp],
        sizes: Sequence[int],
        doubtful: NDArray[np.bool_],
        best_ids: NDArray[np.int32],
    ) -> None:
        """Replace the doubtful lists of neighbours by cosine by those that float64 gives.

        Parameters
        ----------
        doubtful: (n_sizes, n_queries) lists to replace.
        best_ids: (n_sizes, n_queries, n_neighbours), changed in place.
        """
        sizes = sizes[: int(np.flatnonzero(doubtful.any(axis=1))[-1]) + 1]
        chosen = np.flatnonzero(doubtful.any(axis=0))
        query_blocks = _exact_blocks(queries[chosen], order, sizes)
        query_factors = _inverse_norms(query_blocks) * _COSINE_STEPS
        shape = (len(sizes), chosen.size, best_ids.shape[2])
        best, exact_ids = np.full(shape, _LARGEST), np.zeros(shape, dtype=np.int32)
        n, n_columns = int(self.rows.shape[0]), self.tiles.candidates
        for start in range(0, n, n_columns):
            stop = min(start + n_columns, n)
            tile = (self.read_exact or self.read)(self.rows, start, stop)
            tile_blocks = _exact_blocks(tile, order, sizes)
            factors = _inverse_norms(tile_blocks)
            zeros, minus_ones = np.zeros(stop - start), np.full(stop - start, -1.0)
            for a in range(0, chosen.size, self.tiles.queries):
                part = slice(a, a + self.tiles.queries)
                dots: Any = 0.0
                for j, block in enumerate(tile_blocks):
                    dots = dots + query_blocks[j][part] @ block.T
                    if doubtful[j, chosen[part]].any():
                        cosines = np.rint(dots * query_factors[j, part, None] * factors[j])
                        update_nearest(
                            cosines,
                            zeros,
                            minus_ones,
                            self.ids[start:stop],
                            best[j, part],
                            exact_ids[j, part],
                        )
        for j in range(len(sizes)):
            is_doubtful = doubtful[j, chosen]
            best_ids[j, chosen[is_doubtful]] = exact_ids[j, is_doubtful]

    def _terms(self, blocks: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
        """Offsets and factors (n_sizes, n_tile) that turn inner products into dissimilarities."""
        norms = np.cumsum([np.einsum("ij,ij->i", b, b) for b in blocks], axis=0, dtype=np.float32)
        if self.metric == "euclidean":
            return norms, np.full_like(norms, -2.0)
        lengths = np.sqrt(norms)
        factors = np.zeros_like(norms)
        np.divide(-1.0, lengths, out=factors, where=lengths > 0.0)
        return np.zeros_like(norms), factors


def scaling_exponent(peak: float) -> int:
    """Return the exponent of the power of two that brings a peak to 0.5 to 1.

    It is 0 for a peak of 0 and for ordinary ones: from 2**-30 to 2**40, whose squares are far
    from the limits of float32. Multiplying by a power of two rounds nothing.
    """
    if peak == 0.0 or not np.isfinite(peak) or _SMALLEST_PEAK <= peak <= _LARGEST_PEAK:
        return 0
    return -math.frexp(peak)[1]


def scale_rows(x: NDArray[Any]) -> NDArray[Any]:
    """Multiply rows of extreme size by powers of two, which changes no cosine.

    The largest absolute value of such a row becomes 0.5 to 1, so that its squares neither
    overflow nor underflow. Other rows stay as they are; if there are no such rows, ``x`` itself
    is returned.
    """
    peaks = np.maximum(x.max(axis=1), -x.min(axis=1)).astype(np.float64)
    is_extreme = (peaks > 0.0) & ((peaks < _SMALLEST_PEAK) | (peaks > _LARGEST_PEAK))
    if not is_extreme.any():
        return x
    scaled = x.copy()
    exponents = np.frexp(peaks[is_extreme])[1]
    scaled[is_extreme] = np.ldexp(x[is_extreme].astype(np.float64), -exponents[:, None])
    return scaled


def _doubtful_lists(best: Matrix, query_blocks: Sequence[Matrix]) -> NDArray[np.bool_]:
    """Return which lists of neighbours by cosine float32 may have got wrong.

    Parameters
    ----------
    best: (n_sizes, n_queries, n_neighbours) minus cosine times the norm of the query, ascending.
    query_blocks: of the queries.

    Returns
    -------
    (n_sizes, n_queries); False for a query of zeros, whose cosines are all exactly 0.
    """
    blocks = [block.astype(np.float64) for block in query_blocks]
    norms = np.sqrt(np.cumsum([np.einsum("ij,ij->i", b, b) for b in blocks], axis=0))
    # The nearest one is often the query itself.
    first = 1 if best.shape[2] > 2 else 0
    spread = best[:, :, -1].astype(np.float64) - best[:, :, first]
    doubtful = (norms > 0.0) & (spread <= _DOUBTFUL_SPREAD * norms)
    for j in range(len(doubtful)):
        if doubtful[j].mean() > _DOUBTFUL_SHARE:
            doubtful[j] = norms[j] > 0.0
    return np.asarray(doubtful)


def _exact_blocks(
    x: NDArray[np.floating], order: NDArray[np.intp], sizes: Sequence[int]
) -> list[ExactMatrix]:
    """Gather the columns of every block in float64, with rows of ordinary size."""
    x = scale_rows(x.astype(np.float64))
    return [np.take(x, order[a:b], axis=1) for a, b in block_ranges(sizes)]


def _inverse_norms(blocks: Sequence[ExactMatrix]) -> ExactMatrix:
    """Return one over the norm of every prefix of every row, (n_sizes, n_rows); 0 for zeros."""
    norms = np.sqrt(np.cumsum([np.einsum("ij,ij->i", b, b) for b in blocks], axis=0))
    return np.asarray(np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0.0))


def _column_blocks(x: Matrix, order: NDArray[np.intp], sizes: Sequence[int]) -> list[Matrix]:
    """Gather the columns of every block; each block is contiguous, as the products need it."""
    return [take_columns(x, order[a:b]) for a, b in block_ranges(sizes)]


def _add_products(dots: Matrix, queries: Matrix, block: Matrix, *, first: bool) -> None:
    """Add ``queries @ block.T`` to ``dots`` in place; the first block overwrites it."""
    from scipy.linalg.blas import sgemm

    # Column-major: dots.T = block @ queries.T, where both arguments are transposed views.
    sgemm(
        1.0,
        block.T,
        queries.T,
        beta=0.0 if first else 1.0,
        c=dots.T,
        trans_a=True,
        overwrite_c=1,
    )
