"""The nearest rows in every prefix of an order, computed incrementally.

Squared distances and inner products are sums over neurons, so those of a prefix are those of the
shorter prefix plus the block of neurons in between. Nothing is computed twice within an order.

Both are computed in float32 first. Where those of a query's neighbours differ by little more than
rounding errors (copies of a row, or a mean of the layer or a few massive neurons that dwarf what
tells samples apart), its neighbours are searched again in float64. Copies of a row do not have
equal float32 products everywhere: OpenBLAS without AVX-512 adds up in an order that depends on the
row's place in the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.blas import gemm_arguments
from criticalmass.core.progress import Progress
from criticalmass.core.rows import Rows
from criticalmass.core.threads import MAX_THREADS, map_in_threads, thread_count
from criticalmass.measures.columns import take_columns
from criticalmass.measures.nearest_kernels import search_tile, update_nearest
from criticalmass.measures.prefix_heads import block_ranges

Metric = Literal["euclidean", "cosine"]
Matrix = NDArray[np.float32]
# Candidates that are searched together, as `nearest_kernels.search_tile` takes them.
_Tile = tuple[Matrix, Matrix, Matrix, NDArray[np.int32]]
ExactMatrix = NDArray[np.float64]
_LARGEST = float(np.finfo(np.float32).max)
# Cosines of the nearest and the last neighbour that differ by less than this are not distinguished
# reliably by float32, whose errors are of some 10 units of rounding in a long sum.
_DOUBTFUL_SPREAD = 1024.0 * float(np.finfo(np.float32).eps)
# A search of more pairs takes some seconds and shows its progress.
_MANY_PAIRS = 1 << 30
# If more queries than this share are doubtful, all of that size are searched again.
_DOUBTFUL_SHARE = 1.0 / 16.0
# Squared distances that differ by less than this share of the squared lengths that they come from
# are not distinguished reliably by float32.
_TIED_SHARE = 16.0 * float(np.finfo(np.float32).eps)
# Cosines in float64 are rounded to multiples of 2**-50, so that equal ones stay equal, and squared
# distances to multiples of 2**-40 times the squared length of the query, up to a factor of 2.
_COSINE_STEPS = 2.0**50
_DISTANCE_STEPS = 2.0**40
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

        All candidates are compared: the search is exhaustive. The distance matrix is computed in
        tiles of candidates, each read once, and threads share the queries. The inner products of
        a tile grow block of neurons by block of neurons, and every size has its own list of
        neighbours, so the full (n_queries, n_candidates) matrix never exists. Distances and
        cosines are float32, except for queries that need float64; of two candidates at the same
        distance the earlier one is nearer.

        Memory beyond ``queries`` and ``exact_queries``: one float32 copy of the queries, the
        lists, at most two tiles of candidates with three copies of each, and (rows of queries) x
        (rows of candidates) products of a tile per thread.

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
        columns = order[: sizes[-1]]
        queries = take_columns(queries, columns)
        n_queries = queries.shape[0]
        # One more than asked for shows whether the last one has an equal that is left out.
        is_euclidean = self.metric == "euclidean"
        n_listed = min(n_neighbours + is_euclidean, int(self.rows.shape[0]))
        shape = (len(sizes), n_queries, n_listed)
        best = np.full(shape, _LARGEST, dtype=np.float32)
        best_ids = np.zeros(shape, dtype=np.int32)
        lengths = np.array(sizes, dtype=np.int64)

        def search(task: tuple[_Tile, slice]) -> None:
            tile, part = task
            search_tile(
                queries[part],
                tile,
                lengths,
                (best[:, part], best_ids[:, part]),
                self.tiles.queries,
                gemm_arguments(),
            )

        # A task starts when the one as many places before it as there are threads is done. With
        # one part of the queries per thread, that is the part's search of the tile before.
        n_parts = min(MAX_THREADS, thread_count())
        parts = [
            slice(i * n_queries // n_parts, (i + 1) * n_queries // n_parts) for i in range(n_parts)
        ]
        tiles = self._tiles(columns, sizes)
        if n_queries * int(self.rows.shape[0]) > _MANY_PAIRS:
            tiles = _report(tiles, int(self.rows.shape[0]))
        tasks = ((tile, part) for tile in tiles for part in parts)
        for _ in map_in_threads(search, tasks):
            pass
        doubtful = (_tied_lists if is_euclidean else _doubtful_lists)(best, queries, sizes)
        best_ids = np.ascontiguousarray(best_ids[:, :, :n_neighbours])
        if doubtful.any():
            self._search_exactly(raw_queries, order, sizes, doubtful, best_ids)
        return best_ids

    def _tiles(self, columns: NDArray[np.intp], sizes: Sequence[int]) -> Iterator[_Tile]:
        """Read the candidates tile by tile, with their columns in the order."""
        n = int(self.rows.shape[0])
        for start in range(0, n, self.tiles.candidates):
            stop = min(start + self.tiles.candidates, n)
            rows = self.read(self.rows, start, stop)
            rows = scale_rows(rows) if self.metric == "cosine" else rows
            rows = take_columns(rows, columns)
            yield rows, *self._terms(rows, sizes), self.ids[start:stop]

    def _search_exactly(
        self,
        queries: NDArray[np.floating],
        order: NDArray[np.intp],
        sizes: Sequence[int],
        doubtful: NDArray[np.bool_],
        best_ids: NDArray[np.int32],
    ) -> None:
        """Replace the doubtful lists of neighbours by those that float64 gives.

        Parameters
        ----------
        doubtful: (n_sizes, n_queries) lists to replace.
        best_ids: (n_sizes, n_queries, n_neighbours), changed in place.
        """
        sizes = sizes[: int(np.flatnonzero(doubtful.any(axis=1))[-1]) + 1]
        chosen, columns = np.flatnonzero(doubtful.any(axis=0)), order[: sizes[-1]]
        is_cosine = self.metric == "cosine"
        as_exact = _exact_columns if is_cosine else _float64_columns
        queries = as_exact(queries[chosen], columns)
        query_factors = _exact_factors(queries, sizes, self.metric)
        shape = (len(sizes), chosen.size, best_ids.shape[2])
        best, exact_ids = np.full(shape, _LARGEST), np.zeros(shape, dtype=np.int32)
        n, n_columns = int(self.rows.shape[0]), self.tiles.candidates
        zeros, ones = np.zeros(n_columns), np.ones(n_columns)

        def search(part: slice) -> None:
            dots = np.zeros((queries[part].shape[0], stop - start))
            far = np.empty_like(dots)
            for j, (first, last) in enumerate(block_ranges(sizes)):
                np.matmul(queries[part, first:last], tile[:, first:last].T, out=far)
                dots += far
                if doubtful[j, chosen[part]].any():
                    np.multiply(dots, factors[j], out=far)
                    far += offsets[j]
                    far *= query_factors[j, part, None]
                    np.rint(far, out=far)
                    terms = zeros[: stop - start], ones[: stop - start]
                    ids = self.ids[start:stop]
                    update_nearest(far, *terms, ids, best[j, part], exact_ids[j, part])

        parts = [
            slice(a, a + self.tiles.queries) for a in range(0, chosen.size, self.tiles.queries)
        ]
        for start in range(0, n, n_columns):
            stop = min(start + n_columns, n)
            tile = as_exact((self.read_exact or self.read)(self.rows, start, stop), columns)
            offsets, factors = _exact_terms(tile, sizes, self.metric)
            for _ in map_in_threads(search, parts):
                pass
        for j in range(len(sizes)):
            is_doubtful = doubtful[j, chosen]
            best_ids[j, chosen[is_doubtful]] = exact_ids[j, is_doubtful]

    def _terms(self, rows: Matrix, sizes: Sequence[int]) -> tuple[Matrix, Matrix]:
        """Offsets and factors (n_sizes, n_tile) that turn inner products into dissimilarities."""
        norms = _squared_norms(rows, sizes).astype(np.float32)
        if self.metric == "euclidean":
            return norms, np.full_like(norms, -2.0)
        lengths = np.sqrt(norms)
        factors = np.zeros_like(norms)
        np.divide(-1.0, lengths, out=factors, where=lengths > 0.0)
        return np.zeros_like(norms), factors


def _report(tiles: Iterator[_Tile], n: int) -> Iterator[_Tile]:
    """Yield tiles of ``n`` candidates and show their progress."""
    with Progress("search of whole vectors", total=n, unit="vectors") as bar:
        for tile in tiles:
            yield tile
            bar.advance(len(tile[0]))


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


def _doubtful_lists(best: Matrix, queries: Matrix, sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Return which lists of neighbours by cosine float32 may have got wrong.

    Parameters
    ----------
    best: (n_sizes, n_queries, n_neighbours) minus cosine times the norm of the query, ascending.
    queries: (n_queries, n_columns), columns in the order.
    sizes: prefix lengths, ascending.

    Returns
    -------
    (n_sizes, n_queries); False for a query of zeros, whose cosines are all exactly 0.
    """
    norms = np.sqrt(_squared_norms(queries, sizes, np.float64))
    # The nearest one is often the query itself.
    first = 1 if best.shape[2] > 2 else 0
    spread = best[:, :, -1].astype(np.float64) - best[:, :, first]
    doubtful = (norms > 0.0) & (spread <= _DOUBTFUL_SPREAD * norms)
    for j in range(len(doubtful)):
        if doubtful[j].mean() > _DOUBTFUL_SHARE:
            doubtful[j] = norms[j] > 0.0
    return np.asarray(doubtful)


def _tied_lists(best: Matrix, queries: Matrix, sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Return which lists of neighbours by distance float32 may have got wrong.

    Parameters
    ----------
    best: (n_sizes, n_queries, n_listed) squared distance less the squared length of the query,
        ascending, with the nearest candidate that is left out if there is one.
    queries: (n_queries, n_columns), columns in the order.
    sizes: prefix lengths, ascending.

    Returns
    -------
    (n_sizes, n_queries).
    """
    squares = _squared_norms(queries, sizes, np.float64)
    tied = np.empty(best.shape[:2], dtype=np.bool_)
    # One size at a time: the numbers of all sizes would take many times the memory of the lists.
    for j, of_size in enumerate(best):
        values = of_size.astype(np.float64)
        # A candidate is no longer than the query and its distance from it.
        distances = np.sqrt(np.maximum(values[:, 1:] + squares[j, :, None], 0.0))
        lengths = 2.0 * np.sqrt(squares[j])[:, None] + distances
        tied[j] = (np.diff(values, axis=1) <= _TIED_SHARE * lengths**2).any(axis=1)
    return tied


def _exact_factors(queries: ExactMatrix, sizes: Sequence[int], metric: Metric) -> ExactMatrix:
    """Return what dissimilarities are multiplied with before they are rounded, by query."""
    if metric == "cosine":
        return np.asarray(_inverse_norms(queries, sizes) * _COSINE_STEPS)
    exponents = np.frexp(_squared_norms(queries, sizes))[1]
    return np.asarray(np.ldexp(_DISTANCE_STEPS, -exponents))


def _exact_terms(
    rows: ExactMatrix, sizes: Sequence[int], metric: Metric
) -> tuple[ExactMatrix, ExactMatrix]:
    """Offsets and factors (n_sizes, n_rows) as of `CandidateRows._terms`, in float64."""
    if metric == "cosine":
        factors = -_inverse_norms(rows, sizes)
        return np.zeros_like(factors), factors
    norms = _squared_norms(rows, sizes)
    return norms, np.full_like(norms, -2.0)


def _float64_columns(x: NDArray[np.floating], columns: NDArray[np.intp]) -> ExactMatrix:
    return np.take(x.astype(np.float64), columns, axis=1)


def _exact_columns(x: NDArray[np.floating], columns: NDArray[np.intp]) -> ExactMatrix:
    """Gather columns in float64, with rows of ordinary size."""
    return np.take(scale_rows(x.astype(np.float64)), columns, axis=1)


def _inverse_norms(x: ExactMatrix, sizes: Sequence[int]) -> ExactMatrix:
    """Return one over the norm of every prefix of every row, (n_sizes, n_rows); 0 for zeros."""
    norms = np.sqrt(_squared_norms(x, sizes))
    return np.asarray(np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0.0))


def _squared_norms(
    x: NDArray[Any], sizes: Sequence[int], dtype: type[np.floating] | None = None
) -> NDArray[Any]:
    """Return the squared norm of every prefix of every row, (n_sizes, n_rows)."""
    blocks = (x[:, a:b] for a, b in block_ranges(sizes))
    return np.cumsum([np.einsum("ij,ij->i", b, b, dtype=dtype) for b in blocks], axis=0)
