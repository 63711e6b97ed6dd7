"""Evaluators that train no probe: by the neighbours that queries find, and by similarity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.moments import FloatArray, moments
from criticalmass.core.rows import CHUNK_ROWS, Rows, RowSubset, chunks
from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import CandidateRows, Matrix
from criticalmass.measures.registry import MEASURES, get_similarity
from criticalmass.measures.relevance import RelevanceScore, drop_own, score_ranked
from criticalmass.measures.similarity.retrieval import N_NEIGHBOURS, graded_gains, ndcg, recall
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.shrinking.probe_evaluator import (
    IndexArray,
    LabelledRows,
    QueryScores,
    Similarities,
)
from criticalmass.storage.qrels import Qrels

#: What is relevant to a query: the whole vectors' own neighbours, vectors of its own class, or the
#: documents that qrels name. The last follows from the measure.
Relevance = Literal["neighbours", "labels", "qrels"]
RELEVANCES: tuple[Relevance, ...] = ("neighbours", "labels")


@dataclass(frozen=True, eq=False)
class RetrievalEvaluator:
    """Scores the 10 vectors that queries find by cosine.

    Attributes
    ----------
    measure: a measure with a ``query_score``.
    corpus: the stored vectors.
    queries: the queries; none of them is in the corpus.
    relevance: "neighbours": the 10 vectors that whole float32 vectors find are relevant, the
        nearest most; "labels": vectors of the query's class are relevant, all equally; "qrels":
        the documents that ``qrels`` names.
    qrels: of a retrieval collection, by the rows of ``queries`` and ``corpus``; otherwise None.
    known_neighbours: (n_queries, 10) neighbours among whole float32 vectors; None to search them.
    """

    measure: str
    corpus: LabelledRows
    queries: LabelledRows
    relevance: Relevance = "neighbours"
    qrels: Qrels | None = None
    known_neighbours: NDArray[np.int32] | None = None

    def with_queries(self, most: int) -> RetrievalEvaluator:
        """Return the same search with ``most`` queries, evenly spaced; itself with qrels."""
        n = int(self.queries.labels.size)
        if n <= most or self.qrels is not None:
            return self
        chosen = np.arange(most) * n // most
        queries = LabelledRows(RowSubset(self.queries.rows, chosen), self.queries.labels[chosen])
        return replace(self, queries=queries, known_neighbours=self.neighbours_full[chosen])

    @property
    def _query_score(self) -> RelevanceScore | None:
        return MEASURES[self.measure].query_score

    @property
    def n_own(self) -> int:
        """1 if a query is among the documents, and must not be retrieved, else 0."""
        return 0 if self.qrels is None else int((self.qrels.own >= 0).any())

    def drop_own(self, listed: NDArray[np.int32]) -> NDArray[np.int32]:
        """Remove the query itself from (..., n_queries, n + n_own) rows."""
        return drop_own(listed, self.qrels.own) if self.qrels and self.n_own else listed

    @cached_property
    def scores_full(self) -> FloatArray:
        """(n_queries,) scores of whole float32 vectors."""
        if self.relevance == "neighbours":
            return np.ones(self.queries.labels.size)
        return self.score(self.neighbours_full)

    def rerank(self, listed: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the (n_queries, 10) best of (n_queries, n_listed) rows by whole vectors.

        For ``relevance="neighbours"`` the relevant rows that are listed come first, in the order
        of whole vectors; -1 stands for the others.
        """
        if self.relevance != "neighbours":
            return self._rerank_by_cosine(listed)
        relevant = self.neighbours_full
        is_listed = (relevant[:, :, None] == listed[:, None, :]).any(axis=2)
        kept = np.where(is_listed, relevant, -1)
        return np.take_along_axis(kept, np.argsort(~is_listed, axis=1, kind="stable"), axis=1)

    def _rerank_by_cosine(self, listed: NDArray[np.int32]) -> NDArray[np.int32]:
        """Sort listed rows by the cosine of whole vectors, in one pass over the stored ones."""
        listed = np.sort(listed, axis=1)
        n_listed = listed.shape[1]
        pairs = np.argsort(listed, axis=None, kind="stable")
        rows = listed.ravel()[pairs]
        queries = np.asarray(self.queries.rows[0 : len(listed)], dtype=np.float64)
        cosines = np.zeros(listed.size)
        for start, block in chunks(self.corpus.rows):
            first, last = np.searchsorted(rows, (start, start + len(block)))
            for a in range(first, last, CHUNK_ROWS):
                part = slice(a, min(a + CHUNK_ROWS, last))
                whole = block[rows[part] - start].astype(np.float64)
                products = np.einsum("ij,ij->i", whole, queries[pairs[part] // n_listed])
                lengths = np.linalg.norm(whole, axis=1)
                cosines[pairs[part]] = np.divide(
                    products, lengths, out=np.zeros_like(lengths), where=lengths > 0.0
                )
        ranks = np.argsort(-cosines.reshape(listed.shape), axis=1, kind="stable")
        return np.take_along_axis(listed, ranks[:, : self.n_neighbours], axis=1)

    @property
    def n_neighbours(self) -> int:
        """10, or the number of stored vectors if there are fewer."""
        return min(N_NEIGHBOURS, int(self.corpus.rows.shape[0]) - self.n_own)

    @cached_property
    def neighbours_full(self) -> NDArray[np.int32]:
        """(n_queries, 10) neighbours among whole float32 vectors."""
        if self.known_neighbours is not None:
            return self.known_neighbours
        d = int(self.corpus.rows.shape[1])
        return np.asarray(self._nearest(self.corpus.rows, self.queries.rows, np.arange(d), (d,))[0])

    def _nearest(
        self, corpus: Rows, queries: Rows, order: IndexArray, sizes: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """(n_sizes, n_queries, 10) row numbers of the nearest corpus vectors, nearest first."""
        row_numbers = np.arange(int(corpus.shape[0]), dtype=np.int32)
        candidates = CandidateRows(corpus, row_numbers, _read_float32, "cosine")
        vectors = _read_float32(queries, 0, int(queries.shape[0]))
        n = self.n_neighbours + self.n_own
        return self.drop_own(candidates.nearest(vectors, order, sizes, n))

    def score(
        self, neighbours: NDArray[np.int32], query_score: RelevanceScore | None = None
    ) -> FloatArray:
        """(n_queries,) score of the (n_queries, 10) neighbours of each query.

        ``query_score`` is "ndcg", "recall" or, with qrels, "mrr"; by default that of the measure.
        """
        kind = query_score or self._query_score
        if self.relevance == "qrels" and self.qrels is not None and kind is not None:
            return score_ranked(neighbours, self.qrels, kind)
        if self.relevance == "labels":
            hits = self.corpus.labels[neighbours] == self.queries.labels[:, None]
            n_classes = int(self.queries.labels.max()) + 1
            per_class = np.bincount(self.corpus.labels, minlength=n_classes)
            return _label_scores(hits, per_class[self.queries.labels], kind)
        if kind == "ndcg":
            return ndcg(neighbours, self.neighbours_full, graded_gains(self.n_neighbours))
        return recall(neighbours, self.neighbours_full)


@dataclass(frozen=True, eq=False)
class SimilarityEvaluator:
    """Scores subsets by their similarity with the whole layer on held-out rows, e.g. ``cka``.

    Attributes
    ----------
    measure: name of the similarity.
    train: training samples, for a similarity that fits them.
    held_out: samples that it is scored on.
    """

    measure: str
    train: LabelledRows
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
        training = self.train.rows
        return WholeLayer(self.held_out.rows, training_moments=cache(lambda: moments(training)))


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
