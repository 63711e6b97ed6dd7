"""Nearest neighbours in subsets compared with those in the whole layer.

`ndcg` and `recall` take any relevance. The retrieval measures take the whole layer's own
neighbours as relevant: they need no labels, and the whole layer scores 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.core.rows import Rows, check_finite
from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import CandidateRows, ExactMatrix, Matrix, Metric, scale_rows
from criticalmass.measures.relevance import drop_own

#: Neighbours of a sample that are compared; with fewer samples, all other samples.
N_NEIGHBOURS = 10
#: Most samples that are queries; neighbours are searched among all samples.
MOST_QUERIES = 4096
QUERY_SEED = 0
# Pairs of ranked and relevant ids compared at a time; bounds memory.
_MOST_PAIRS = 1 << 22
IdMatrix = npt.NDArray[np.integer]
RowTransform = Callable[[npt.NDArray[Any]], npt.NDArray[np.floating]]


@validate_arguments
def ndcg(
    ranked: npt.ArrayLike, relevant: npt.ArrayLike, gains: npt.ArrayLike | None = None
) -> FloatArray:
    """Normalised discounted cumulative gain of ranked lists (Jarvelin and Kekalainen 2002).

    The gain at rank r is divided by log2(1 + r) and summed; the sum is divided by that of the
    best list of the same length. For nDCG@k, give lists of length k.

    Parameters
    ----------
    ranked: (n_queries, k) integer ids of the retrieved items, best first; distinct within a row,
        and -1 fills rows with fewer items.
    relevant: (n_queries, m) ids of the items relevant to each query, filled in the same way.
    gains: (n_queries, m) or (m,) positive gains of the relevant items; 1 each by default.

    Returns
    -------
    (n_queries,) in [0, 1]; 0 for a query without relevant items.

    Raises
    ------
    CriticalMassError: if the shapes do not match or a gain is not positive and finite.
    """
    retrieved, targets = _check_lists(ranked, relevant)
    weights = np.ones(targets.shape) if gains is None else np.asarray(gains, dtype=np.float64)
    if weights.shape not in (targets.shape, targets.shape[1:]):
        raise CriticalMassError(
            f"gains have shape {weights.shape}; relevant has shape {targets.shape}"
        )
    if not (np.isfinite(weights).all() and (weights > 0.0).all()):
        raise CriticalMassError(
            "gains must be positive and finite; leave out items that are not relevant"
        )
    weights = np.where(targets >= 0, np.broadcast_to(weights, targets.shape), 0.0)
    discounts = 1.0 / np.log2(np.arange(2.0, max(retrieved.shape[1], targets.shape[1]) + 2.0))
    k = retrieved.shape[1]
    best = -np.sort(-weights, axis=1)[:, :k]
    ideal = (best * discounts[: best.shape[1]]).sum(axis=1)
    gained = _discounted_gains(retrieved, targets, weights, discounts[:k])
    return np.asarray(np.divide(gained, ideal, out=np.zeros(len(retrieved)), where=ideal > 0.0))


@validate_arguments
def recall(ranked: npt.ArrayLike, relevant: npt.ArrayLike) -> FloatArray:
    """Share of the relevant items that were retrieved. For recall@k, give lists of length k.

    Parameters
    ----------
    ranked, relevant: as in `ndcg`.

    Returns
    -------
    (n_queries,) in [0, 1]; 0 for a query without relevant items.

    Raises
    ------
    CriticalMassError: if the shapes do not match.
    """
    retrieved, targets = _check_lists(ranked, relevant)
    hits = np.zeros(len(retrieved))
    for rows, is_match in _matches(retrieved, targets):
        hits[rows] = is_match.any(axis=1).sum(axis=1)
    n_relevant = (targets >= 0).sum(axis=1)
    out = np.zeros(len(retrieved))
    return np.asarray(np.divide(hits, n_relevant, out=out, where=n_relevant > 0))


def graded_gains(n_neighbours: int) -> FloatArray:
    """Return gains of neighbours: n for the nearest down to 1 for the last, (n,)."""
    return np.arange(n_neighbours, 0.0, -1.0)


def choose_queries(n_samples: int, most: int = MOST_QUERIES) -> IndexArray:
    """Return the rows that are queries, ascending: all, or ``most`` of them by a fixed seed.

    Raises
    ------
    CriticalMassError: for fewer than 2 samples, which have no neighbours.
    """
    if n_samples < 2:
        raise CriticalMassError(f"{n_samples} sample has no neighbours; give at least 2")
    if n_samples <= most:
        return np.arange(n_samples)
    rows = np.random.default_rng(QUERY_SEED).choice(n_samples, most, replace=False)
    return np.sort(rows)


@dataclass(frozen=True, eq=False)
class QueryRows:
    """Queries that are not the samples that are searched.

    Attributes
    ----------
    rows: (n, n_neurons) raw features.
    numbers: (n_queries,) row numbers of the queries in ``rows``.
    own_rows: (n_queries,) row number of each query among the searched samples, -1 for none.
    """

    rows: Rows
    numbers: IndexArray
    own_rows: IndexArray


@dataclass(frozen=True, eq=False)
class NeighbourFinder:
    """Finds the nearest samples of the queries in every prefix of an order of a layer's neurons.

    Attributes
    ----------
    candidates: the samples that are searched; their ids are their row numbers.
    own_rows: (n_queries,) row number of each query among them, which is no neighbour of itself;
        -1 for a query that is not among them.
    queries: (n_queries, n_neurons) features of the queries.
    most_neighbours: neighbours to find; with fewer samples, all other samples.
    exact_queries: the queries in float64, for cosines; None for distances.
    """

    candidates: CandidateRows
    own_rows: IndexArray
    queries: Matrix
    most_neighbours: int = N_NEIGHBOURS
    exact_queries: ExactMatrix | None = None

    @classmethod
    def of(
        cls,
        rows: Rows,
        metric: Metric,
        *,
        query_rows: IndexArray | QueryRows,
        most_neighbours: int = N_NEIGHBOURS,
        transform: RowTransform | None = None,
        exact_transform: RowTransform | None = None,
    ) -> NeighbourFinder:
        """Make a finder for the samples of a layer.

        Parameters
        ----------
        rows: (n_samples, n_neurons) raw features of the samples that are searched.
        metric: "cosine" or "euclidean".
        query_rows: (n_queries,) row numbers of the queries in ``rows``, or other queries.
        most_neighbours: neighbours to find; with fewer samples, all other samples.
        transform: applied to raw rows before they are compared, e.g. centring or a projection;
            none by default. The result is rounded to float32.
        exact_transform: the same in float64, for cosines that float32 cannot tell apart; by
            default ``transform``.

        Raises
        ------
        CriticalMassError: if a feature is NaN or infinite.
        """
        is_cosine = metric == "cosine"

        def apply(block: npt.NDArray[Any]) -> Matrix:
            values = block if transform is None else transform(block)
            if is_cosine and values.dtype == np.float64:
                values = scale_rows(values)
            return np.ascontiguousarray(values, dtype=np.float32)

        def apply_exactly(block: npt.NDArray[Any]) -> ExactMatrix:
            function = exact_transform or transform
            return np.asarray(block if function is None else function(block), dtype=np.float64)

        def read(source: Rows, start: int, stop: int) -> Matrix:
            block = source[start:stop]
            check_finite(block, start, "x_test")
            return apply(block)

        def read_exact(source: Rows, start: int, stop: int) -> ExactMatrix:
            return apply_exactly(source[start:stop])

        ids = np.arange(int(rows.shape[0]), dtype=np.int32)
        candidates = CandidateRows(rows, ids, read, metric, read_exact=read_exact)
        if not isinstance(query_rows, QueryRows):
            query_rows = QueryRows(rows, query_rows, query_rows)
        queries = query_rows.rows[query_rows.numbers]
        exact_queries = apply_exactly(queries) if is_cosine else None
        own_rows = query_rows.own_rows
        return cls(candidates, own_rows, apply(queries), most_neighbours, exact_queries)

    @property
    def n_neighbours(self) -> int:
        """Number of neighbours of each query."""
        return min(self.most_neighbours, int(self.candidates.rows.shape[0]) - self._n_own)

    @property
    def _n_own(self) -> int:
        """1 if a query is among the samples that are searched, else 0."""
        return int((self.own_rows >= 0).any())

    def __call__(self, order: IndexArray, sizes: tuple[int, ...]) -> npt.NDArray[np.int32]:
        """Return the nearest other samples, (n_sizes, n_queries, n_neighbours), nearest first."""
        # One more than needed where the sample itself is removed.
        count = self.n_neighbours + self._n_own
        nearest = self.candidates.nearest(self.queries, order, sizes, count, self.exact_queries)
        return drop_own(nearest, self.own_rows) if self._n_own else nearest


def _check_lists(ranked: npt.ArrayLike, relevant: npt.ArrayLike) -> tuple[IdMatrix, IdMatrix]:
    """Return both as integer matrices with one row per query."""
    retrieved, targets = np.asarray(ranked), np.asarray(relevant)
    has_shape = retrieved.ndim == targets.ndim == 2 and len(retrieved) == len(targets)
    if not (has_shape and retrieved.dtype.kind in "iu" and targets.dtype.kind in "iu"):
        raise CriticalMassError(
            f"ranked has shape {retrieved.shape} of {retrieved.dtype}, relevant {targets.shape} of "
            f"{targets.dtype}; give whole numbers, one row per query in both"
        )
    return retrieved, targets


def _discounted_gains(
    retrieved: IdMatrix,
    targets: IdMatrix,
    weights: FloatArray,
    discounts: FloatArray,
    most_pairs: int = _MOST_PAIRS,
) -> FloatArray:
    """Return the discounted cumulative gain of every query, (n_queries,)."""
    gained = np.zeros(len(retrieved))
    for rows, is_match in _matches(retrieved, targets, most_pairs):
        # Summed rank by rank in the same order as the ideal, so a perfect list scores exactly 1.
        per_rank = np.einsum("qkm,qm->qk", is_match, weights[rows])
        gained[rows] = (per_rank * discounts).sum(axis=1)
    return gained


def _matches(
    retrieved: IdMatrix, targets: IdMatrix, most_pairs: int = _MOST_PAIRS
) -> Iterator[tuple[slice, npt.NDArray[np.bool_]]]:
    """Yield slices of queries and which retrieved item is which relevant one, (n_rows, k, m).

    A slice has at most ``most_pairs`` pairs of items, but at least one query.
    """
    step = max(1, most_pairs // max(1, retrieved.shape[1] * targets.shape[1]))
    for start in range(0, len(retrieved), step):
        rows = slice(start, start + step)
        is_match = retrieved[rows, :, None] == targets[rows, None, :]
        yield rows, is_match & (targets[rows, None, :] >= 0)
