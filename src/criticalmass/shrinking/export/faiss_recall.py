"""Recall of an index before and after its vectors are shortened, apart from what dimensions lose.

Queries are searched in the existing index, exactly among short vectors, and in the exported index.
A result is right if its whole vector is at least as near to the query as the tenth nearest one.
So equal vectors are equally right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.shrinking.export.faiss_build import FloatRows, IndexPlan, blocks
from criticalmass.shrinking.paired_tests import score_ratio_bound
from criticalmass.shrinking.stored_vectors import unit_rows

#: Results that are counted per query, and the most queries.
N_RESULTS, MOST_QUERIES = 10, 1000
LEVEL = 0.95
_SEED = 0
_TOLERANCE = 1e-6
_QUERIES_AT_ONCE = 64

RowNumbers = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class QuerySample:
    """Queries of a measurement.

    Attributes
    ----------
    vectors: (n_queries, n_neurons) whole queries.
    own_rows: (n_queries,) row of each query among the stored vectors, which is no result of its
        own search; None if queries are not stored.
    source: where they are from, in words.
    """

    vectors: FloatRows
    own_rows: RowNumbers | None
    source: str

    @property
    def n_searched(self) -> int:
        """Results to search for, so that 10 are left."""
        return N_RESULTS + (self.own_rows is not None)

    def drop_own(self, results: RowNumbers) -> RowNumbers:
        """Return the first 10 of (n_queries, n_searched) results, without the query itself."""
        if self.own_rows is not None:
            is_own = results == self.own_rows[:, None]
            results = np.take_along_axis(results, np.argsort(is_own, axis=1, kind="stable"), axis=1)
        return results[:, :N_RESULTS]


@dataclass(frozen=True)
class Recall:
    """Recall@10 of one way to search, with its interval over queries.

    Attributes
    ----------
    search: the way, in words.
    recall, low, high: mean over queries, and its interval.
    bytes_per_vector: bytes of the index file divided by its vectors; None for an exact search.
    """

    search: str
    recall: float
    low: float
    high: float
    bytes_per_vector: float | None


@dataclass(frozen=True)
class RecallReport:
    """What dimensions and index lose.

    Attributes
    ----------
    recalls: the ways to search.
    n_queries, queries: number of queries, and where they are from.
    reference: what the nearest vectors are counted among, in words.
    lost_by_dimensions: recall that the short vectors lose in an exact search.
    lost_by_index: recall that the exported index loses beside that.
    lost_before: recall that the existing index loses on whole vectors; None without one.
    """

    recalls: tuple[Recall, ...]
    n_queries: int
    queries: str
    reference: str
    lost_by_dimensions: float
    lost_by_index: float
    lost_before: float | None

    @property
    def sentence(self) -> str:
        """The losses in words."""
        before = ""
        if self.lost_before is not None:
            before = f"; the existing one loses {self.lost_before:.4f} of them"
        return (
            f"Of the {N_RESULTS} nearest {self.reference}, short vectors lose a share of "
            f"{self.lost_by_dimensions:.4f}. The exported index loses {self.lost_by_index:.4f} "
            f"beside that{before}. Means of {self.n_queries:,} queries ({self.queries})."
        )


@dataclass(frozen=True, eq=False)
class IndexQueries:
    """Queries, and what an exact search of whole vectors finds.

    Attributes
    ----------
    plan: of the exported index.
    rows: (n, n_neurons) whole vectors.
    ids: (n,) their ids, or None.
    sample: the queries.
    metric: FAISS's number of the metric of whole vectors; None for the cosine.
    """

    plan: IndexPlan
    rows: Rows
    ids: NDArray[np.int64] | None
    sample: QuerySample
    metric: int | None

    @cached_property
    def _thresholds(self) -> tuple[FloatArray, FloatArray]:
        """(n_queries, 1) nearness of the tenth nearest vector, and its rounding error."""
        inner = self.plan.faiss.METRIC_INNER_PRODUCT
        scale = unit_rows if self.metric is None else np.ascontiguousarray
        metric = inner if self.metric is None else self.metric
        results = self._search_exactly(
            scale(self.sample.vectors), scale, self.sample.n_searched, metric
        )
        nearness = self._nearness(self.sample.drop_own(results))
        worst = nearness.min(axis=1, keepdims=True)
        size = np.abs(nearness).max(axis=1, keepdims=True)
        if metric != inner:
            wide = self.sample.vectors.astype(np.float64)
            size += np.einsum("ij,ij->i", wide, wide)[:, None]
        return worst, _TOLERANCE * size

    def score(self, results: RowNumbers) -> FloatArray:
        """(n_queries,) share of the first 10 results that are right."""
        worst, error = self._thresholds
        hits = self._nearness(self.sample.drop_own(results)) >= worst - error
        return np.asarray(hits.sum(axis=1) / min(N_RESULTS, self._n_others))

    def search(self, index: Any, queries: FloatRows) -> RowNumbers:
        """Search an index; return (n_queries, n_searched) row numbers, -1 for no result."""
        labels = index.search(np.ascontiguousarray(queries), self.sample.n_searched)[1]
        if self.ids is None:
            return np.asarray(labels)
        order = np.argsort(self.ids, kind="stable")
        places = np.minimum(np.searchsorted(self.ids[order], labels), order.size - 1)
        return np.where(labels < 0, -1, order[places])

    def search_short(self, n_results: int) -> RowNumbers:
        """Search short vectors exactly, in the precision that was certified."""
        plan = self.plan
        queries = plan.queries(self.sample.vectors)
        return self._search_exactly(queries, plan.stored, n_results, plan.metric)

    def rerank(self, results: RowNumbers) -> RowNumbers:
        """Sort results by the nearness of whole vectors."""
        order = np.argsort(-self._nearness(results), axis=1, kind="stable")
        return np.take_along_axis(results, order, axis=1)

    @property
    def _n_others(self) -> int:
        """Number of vectors that a query can find."""
        return int(self.rows.shape[0]) - (self.sample.own_rows is not None)

    def _search_exactly(
        self,
        queries: FloatRows,
        read: Callable[[FloatRows], FloatRows],
        n_results: int,
        metric: int,
    ) -> RowNumbers:
        """Compare queries with all vectors, as ``read`` returns them, block by block."""
        faiss, inner = self.plan.faiss, self.plan.faiss.METRIC_INNER_PRODUCT
        best = np.empty((len(queries), 0), np.float32)
        numbers = np.empty((len(queries), 0), np.int64)
        for start, block in blocks(self.rows):
            near, places = faiss.knn(
                np.ascontiguousarray(queries), np.ascontiguousarray(read(block)),
                min(n_results, len(block)), metric=metric,
            )  # fmt: skip
            best = np.concatenate([best, -near if metric == inner else near], axis=1)
            numbers = np.concatenate([numbers, places + start], axis=1)
            order = np.argsort(best, axis=1, kind="stable")[:, :n_results]
            best = np.take_along_axis(best, order, axis=1)
            numbers = np.take_along_axis(numbers, order, axis=1)
        return numbers

    def _nearness(self, results: RowNumbers) -> FloatArray:
        """Nearness of (n_queries, n) results to their queries; minus infinity for none."""
        nearness = np.full(results.shape, -np.inf)
        scale = unit_rows if self.metric is None else np.asarray
        is_distance = self.metric == self.plan.faiss.METRIC_L2
        for start in range(0, len(results), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            numbers, places = np.unique(np.maximum(results[part], 0), return_inverse=True)
            whole = scale(np.asarray(self.rows[numbers], dtype=np.float32)).astype(np.float64)
            pairs = whole[places.reshape(results[part].shape)]
            queries = scale(self.sample.vectors[part]).astype(np.float64)[:, None]
            if is_distance:
                nearness[part] = -((pairs - queries) ** 2).sum(axis=2)
            else:
                nearness[part] = (pairs * queries).sum(axis=2)
        return np.where(results < 0, -np.inf, nearness)


def sample_queries(rows: Rows, numbers: RowNumbers | None = None) -> QuerySample:
    """Draw stored vectors as queries, each of which is no result of its own search.

    Parameters
    ----------
    rows: (n, d) stored vectors.
    numbers: rows to draw from; all of them by default.
    """
    source = "stored vectors, each without itself"
    if numbers is None:
        numbers = np.arange(int(rows.shape[0]), dtype=np.int64)
    else:
        source = "vectors of the test split, each without itself"
    drawn = np.sort(_draw(numbers))
    return QuerySample(np.ascontiguousarray(rows[drawn], dtype=np.float32), drawn, source)


def sample_new_queries(rows: Rows, source: str) -> QuerySample:
    """Draw queries from vectors that are not stored."""
    drawn = np.sort(_draw(np.arange(int(rows.shape[0]), dtype=np.int64)))
    return QuerySample(np.ascontiguousarray(rows[drawn], dtype=np.float32), None, source)


def _draw(numbers: RowNumbers) -> RowNumbers:
    n = min(numbers.size, MOST_QUERIES)
    return np.random.default_rng(_SEED).choice(numbers, n, replace=False)


def summarise_scores(search: str, scores: FloatArray, bytes_per_vector: float | None) -> Recall:
    """Return the mean of (n_queries,) scores and the interval of it, by betting on both sides."""
    ones, level = np.ones(scores.size), 1.0 - (1.0 - LEVEL) / 2
    low = score_ratio_bound(scores, ones, level)
    high = 1.0 - score_ratio_bound(1.0 - scores, ones, level)
    return Recall(search, float(scores.mean()), low, high, bytes_per_vector)


def report_recall(
    measurement: IndexQueries, before: Recall | None, index: Any, n_bytes: int, reference: str
) -> RecallReport:
    """Compare the exported index with exact searches of short and of whole vectors.

    Parameters
    ----------
    measurement: by the ranking that short vectors keep.
    before: recall of the existing index, if there is one.
    index: the exported index.
    n_bytes: size of its file.
    reference: what the whole vectors are, in words.
    """
    plan, sample = measurement.plan, measurement.sample
    kind, is_stored = plan.kind, plan.slim.short_map is not None
    n = int(measurement.rows.shape[0])
    precision = plan.slim.precision if is_stored else "float32"
    name = f"exact, {plan.slim.n_kept:,} dimensions, {precision}"
    listed = measurement.search_short(min(n, sample.n_searched * max(1, kind.rerank)))
    short = measurement.score(listed[:, : sample.n_searched])
    recalls = [Recall(f"exact, {reference}", 1.0, 1.0, 1.0, None)]
    recalls += [] if before is None else [before]
    recalls.append(summarise_scores(name, short, None))
    if kind.rerank and is_stored:
        short = measurement.score(measurement.rerank(listed)[:, : sample.n_searched])
        recalls.append(summarise_scores(f"{name}, {kind.rerank} x 10 re-ranked", short, None))
    queries = sample.vectors if is_stored else plan.queries(sample.vectors)
    after = measurement.score(measurement.search(index, queries))
    recalls.append(summarise_scores(f"exported index: {kind}", after, n_bytes / n))
    return RecallReport(
        tuple(recalls),
        len(sample.vectors),
        sample.source,
        reference,
        lost_by_dimensions=float(1.0 - short.mean()),
        lost_by_index=float(short.mean() - after.mean()),
        lost_before=None if before is None else 1.0 - before.recall,
    )
