"""Judges by what a vector store would still find, and by similarity: no probe is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.core.moments import FloatArray
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import Candidates, Matrix
from criticalmass.measures.registry import get_similarity
from criticalmass.measures.similarity.retrieval import N_NEIGHBOURS, graded, ndcg, recall
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.shrinking.codec import Codec, stored
from criticalmass.shrinking.probe_evaluator import IndexArray, Part, QueryScores, Similarities

#: What a query should find: the whole vectors' own neighbours, or vectors of its own class.
Relevance = Literal["neighbours", "labels"]
RELEVANCES: tuple[Relevance, ...] = ("neighbours", "labels")
QUERY_MEASURES = ("retrieval", "retrieval-recall")
_Score = Callable[[NDArray[np.int32]], FloatArray]


@dataclass(frozen=True, eq=False)
class NeighbourJudge:
    """Judges by the 10 nearest vectors of a corpus, by cosine, that new queries find.

    Attributes
    ----------
    measure: "retrieval" (nDCG@10) or "retrieval-recall" (recall@10).
    corpus: the vectors that are stored.
    asking: the queries; none of them is in the corpus.
    relevance: "neighbours": relevant are the 10 that whole float32 vectors find, the nearest
        most; "labels": relevant are vectors of the query's class, all equally.
    """

    measure: str
    corpus: Part
    asking: Part
    relevance: Relevance = "neighbours"

    @cached_property
    def scores_full(self) -> FloatArray:
        """(n_queries,) scores of whole float32 vectors."""
        if self.relevance == "neighbours":
            return np.ones(self.asking.labels.size)
        return self._score(self._found_by_whole)

    def judge(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> QueryScores:
        """Score the prefixes of (n_neurons,) ``order`` of the given lengths."""
        corpus, asking = self.corpus.rows, self.asking.rows
        if precision != "float32":
            codec = Codec.learn(precision, corpus)
            corpus, asking = stored(corpus, codec), stored(asking, codec)
        found = self._find(corpus, asking, order, sizes)
        scores = np.stack([self._score(one) for one in found])
        return QueryScores(sizes, scores, self.scores_full)

    @property
    def _n_found(self) -> int:
        return min(N_NEIGHBOURS, int(self.corpus.rows.shape[0]))

    @cached_property
    def _found_by_whole(self) -> NDArray[np.int32]:
        d = int(self.corpus.rows.shape[1])
        found = self._find(self.corpus.rows, self.asking.rows, np.arange(d), (d,))
        return np.asarray(found[0])

    def _find(
        self, corpus: Rows, asking: Rows, order: IndexArray, sizes: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """(n_sizes, n_queries, 10) numbers of the vectors found, nearest first."""
        names = np.arange(int(corpus.shape[0]), dtype=np.int32)
        pool = Candidates(corpus, names, _read, "cosine")
        queries = _read(asking, 0, int(asking.shape[0]))
        # The products are small: a second thread spends its time waiting in a spin.
        with threadpool_limits(1, user_api="blas"):
            return pool.nearest(queries, order, sizes, self._n_found)

    def _score(self, found: NDArray[np.int32]) -> FloatArray:
        """(n_queries,) score of what each query found."""
        if self.relevance == "labels":
            hits = self.corpus.labels[found] == self.asking.labels[:, None]
            per_class = np.bincount(self.corpus.labels, minlength=int(self.asking.labels.max()) + 1)
            return _label_scores(hits, per_class[self.asking.labels], self.measure)
        if self.measure == "retrieval":
            return ndcg(found, self._found_by_whole, graded(self._n_found))
        return recall(found, self._found_by_whole)


@dataclass(frozen=True, eq=False)
class SimilarityJudge:
    """Judges by a similarity of subset and whole layer on the judged part, e.g. ``cka``."""

    measure: str
    judged: Part

    def judge(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> Similarities:
        """Score the prefixes of (n_neurons,) ``order`` of the given lengths.

        Raises
        ------
        CriticalMassError: for another precision than float32.
        """
        if precision != "float32":
            raise CriticalMassError(
                f"measure={self.measure!r} compares float32 values, precision {precision!r} was "
                "asked for; shrink by measure='retrieval' or a probe to judge it"
            )
        task = SimilarityTask(self._whole, order[None], sizes)
        found = get_similarity(self.measure)(task)
        return Similarities(sizes, found.values[0], found.kept[0].astype(np.float64))

    @cached_property
    def _whole(self) -> WholeLayer:
        return WholeLayer(self.judged.rows)


def _label_scores(hits: NDArray[np.bool_], relevant: IndexArray, measure: str) -> FloatArray:
    """Score hits (n_queries, k) where so many (n_queries,) vectors are relevant.

    Recall@10 counts what could be found in 10; a class with no stored vector scores 0.
    """
    k = hits.shape[1]
    possible = np.minimum(relevant, k)
    if measure == "retrieval":
        discounts = 1.0 / np.log2(np.arange(2.0, k + 2.0))
        ideal = np.concatenate([[0.0], np.cumsum(discounts)])[possible]
        gained = hits @ discounts
    else:
        ideal, gained = possible.astype(np.float64), hits.sum(axis=1).astype(np.float64)
    return np.asarray(np.divide(gained, ideal, out=np.zeros(len(hits)), where=ideal > 0.0))


def _read(rows: Rows, start: int, stop: int) -> Matrix:
    return np.ascontiguousarray(rows[start:stop], dtype=np.float32)
