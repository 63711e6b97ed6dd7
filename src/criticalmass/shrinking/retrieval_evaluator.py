"""Evaluators that train no probe: by the neighbours that queries find, and by similarity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.core.moments import FloatArray
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import CandidateRows, Matrix
from criticalmass.measures.registry import MEASURES, get_similarity
from criticalmass.measures.similarity.retrieval import N_NEIGHBOURS, graded_gains, ndcg, recall
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.shrinking.codec import Codec, round_trip
from criticalmass.shrinking.probe_evaluator import (
    IndexArray,
    LabelledRows,
    QueryScores,
    Similarities,
)

#: What is relevant to a query: the whole vectors' own neighbours, or vectors of its own class.
Relevance = Literal["neighbours", "labels"]
RELEVANCES: tuple[Relevance, ...] = ("neighbours", "labels")


@dataclass(frozen=True, eq=False)
class RetrievalEvaluator:
    """Scores subsets by the 10 nearest corpus vectors, by cosine, that new queries find.

    Attributes
    ----------
    measure: "retrieval" (nDCG@10) or "retrieval-recall" (recall@10).
    corpus: the stored vectors.
    queries: the queries; none of them is in the corpus.
    relevance: "neighbours": the 10 vectors that whole float32 vectors find are relevant, the
        nearest most; "labels": vectors of the query's class are relevant, all equally.
    """

    measure: str
    corpus: LabelledRows
    queries: LabelledRows
    relevance: Relevance = "neighbours"

    @property
    def _query_score(self) -> str | None:
        return MEASURES[self.measure].query_score

    @cached_property
    def scores_full(self) -> FloatArray:
        """(n_queries,) scores of whole float32 vectors."""
        if self.relevance == "neighbours":
            return np.ones(self.queries.labels.size)
        return self._score(self._neighbours_full)

    def evaluate(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> QueryScores:
        """Score the first ``sizes`` neurons of (n_neurons,) ``order``."""
        corpus, queries = self.corpus.rows, self.queries.rows
        if precision != "float32":
            codec = Codec.learn(precision, corpus)
            corpus, queries = round_trip(corpus, codec), round_trip(queries, codec)
        neighbours = self._nearest(corpus, queries, order, sizes)
        scores = np.stack([self._score(of_size) for of_size in neighbours])
        return QueryScores(sizes, scores, self.scores_full)

    @property
    def _n_neighbours(self) -> int:
        return min(N_NEIGHBOURS, int(self.corpus.rows.shape[0]))

    @cached_property
    def _neighbours_full(self) -> NDArray[np.int32]:
        """(n_queries, 10) neighbours among whole float32 vectors."""
        d = int(self.corpus.rows.shape[1])
        return np.asarray(self._nearest(self.corpus.rows, self.queries.rows, np.arange(d), (d,))[0])

    def _nearest(
        self, corpus: Rows, queries: Rows, order: IndexArray, sizes: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """(n_sizes, n_queries, 10) row numbers of the nearest corpus vectors, nearest first."""
        row_numbers = np.arange(int(corpus.shape[0]), dtype=np.int32)
        candidates = CandidateRows(corpus, row_numbers, _read_float32, "cosine")
        vectors = _read_float32(queries, 0, int(queries.shape[0]))
        # The products are small: a second thread spends its time waiting in a spin.
        with threadpool_limits(1, user_api="blas"):
            return candidates.nearest(vectors, order, sizes, self._n_neighbours)

    def _score(self, neighbours: NDArray[np.int32]) -> FloatArray:
        """(n_queries,) score of the (n_queries, 10) neighbours of each query."""
        if self.relevance == "labels":
            hits = self.corpus.labels[neighbours] == self.queries.labels[:, None]
            n_classes = int(self.queries.labels.max()) + 1
            per_class = np.bincount(self.corpus.labels, minlength=n_classes)
            return _label_scores(hits, per_class[self.queries.labels], self._query_score)
        if self._query_score == "ndcg":
            return ndcg(neighbours, self._neighbours_full, graded_gains(self._n_neighbours))
        return recall(neighbours, self._neighbours_full)


@dataclass(frozen=True, eq=False)
class SimilarityEvaluator:
    """Scores subsets by their similarity with the whole layer on held-out rows, e.g. ``cka``."""

    measure: str
    held_out: LabelledRows

    def evaluate(
        self, order: IndexArray, sizes: tuple[int, ...], precision: str
    ) -> Similarities | QueryScores:
        """Score the first ``sizes`` neurons of (n_neurons,) ``order``.

        A measure of neighbours, such as ``mutual-knn``, gives one score per query and the others
        give replicates.

        Raises
        ------
        CriticalMassError: if the precision is not float32.
        """
        if precision != "float32":
            raise CriticalMassError(
                f"measure={self.measure!r} compares float32 values and cannot evaluate "
                f"precision={precision!r}; shrink by measure='retrieval' or by a probe"
            )
        scores = get_similarity(self.measure)(SimilarityTask(self._layer, order[None], sizes))
        values = scores.bootstrap_values[0]
        if scores.kind == "scores":
            return QueryScores(sizes, values, np.ones(values.shape[1]))
        return Similarities(sizes, scores.values[0], values.astype(np.float64))

    @cached_property
    def _layer(self) -> WholeLayer:
        return WholeLayer(self.held_out.rows)


def _label_scores(
    hits: NDArray[np.bool_], n_relevant: IndexArray, query_score: str | None
) -> FloatArray:
    """Score (n_queries, k) hits, given the (n_queries,) numbers of relevant vectors.

    Recall@10 divides by the number of relevant vectors that fit in 10. A query whose class has
    no stored vector scores 0.
    """
    k = hits.shape[1]
    possible = np.minimum(n_relevant, k)
    if query_score == "ndcg":
        discounts = 1.0 / np.log2(np.arange(2.0, k + 2.0))
        ideal = np.concatenate([[0.0], np.cumsum(discounts)])[possible]
        gained = hits @ discounts
    else:
        ideal, gained = possible.astype(np.float64), hits.sum(axis=1).astype(np.float64)
    return np.asarray(np.divide(gained, ideal, out=np.zeros(len(hits)), where=ideal > 0.0))


def _read_float32(rows: Rows, start: int, stop: int) -> Matrix:
    return np.ascontiguousarray(rows[start:stop], dtype=np.float32)
