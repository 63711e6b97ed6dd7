"""Similarity of subsets with their whole layer: `SimilarityTask`, `SimilarityScores`, measures.

These measures train no probe. They score the raw features of the test split. In a retrieval
collection the test split has the queries, which search the documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.moments import FloatArray, IndexArray, Moments, moments
from criticalmass.core.rows import CHUNK_ROWS, Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import Metric, scale_rows, scaling_exponent
from criticalmass.measures.relevance import RelevanceScore, missing_qrels, score_ranked
from criticalmass.measures.scaling import column_scaling
from criticalmass.measures.similarity.cka_jackknife import (
    PLAIN,
    CkaVariant,
    prefix_cka_replicates,
    projection_cka_replicates,
)
from criticalmass.measures.similarity.procrustes import (
    prefix_procrustes_replicates,
    projection_procrustes_replicates,
)
from criticalmass.measures.similarity.reconstruction import prefix_reconstruction
from criticalmass.measures.similarity.retrieval import (
    MOST_QUERIES,
    N_NEIGHBOURS,
    NeighbourFinder,
    QueryRows,
    choose_queries,
    graded_gains,
    ndcg,
    recall,
)
from criticalmass.measures.similarity.separation import prefix_separation
from criticalmass.storage.qrels import Qrels

#: Principal axes that the measure ``cka-without-top5`` removes.
N_TOP_AXES = 5

# Queries that search the documents together; bounds memory.
_QUERY_BLOCK = 4096

__all__ = ["Gallery", "SimilarityScores", "SimilarityTask", "WholeLayer"]


@dataclass(frozen=True, eq=False)
class Gallery:
    """The documents of a retrieval collection, and which of them are relevant to its queries.

    Attributes
    ----------
    documents: (n_documents, n_neurons) raw features.
    qrels: of all queries of the collection.
    """

    documents: Rows
    qrels: Qrels


@dataclass(frozen=True, eq=False)
class WholeLayer:
    """The layer that subsets are compared with; what comparisons share is computed once.

    Attributes
    ----------
    rows: (n_samples, n_neurons) raw features.
    most_neighbours: neighbours of a sample that are compared; at most all other samples.
    most_queries: most samples whose neighbours are compared.
    compute: its workers, if there are any, compute the moments.
    gallery: the documents that the rows, which are queries, search; None: rows search each other.
    labels: (n_samples,) class ids of the rows; None: they have none.
    training_moments: returns the moments of the training rows, for measures that fit them.
    """

    rows: Rows
    most_neighbours: int = N_NEIGHBOURS
    most_queries: int = MOST_QUERIES
    compute: Compute = DEFAULT_COMPUTE
    gallery: Gallery | None = None
    labels: NDArray[np.int64] | None = None
    training_moments: Callable[[], Moments] | None = None

    @property
    def searched(self) -> Rows:
        """The rows that queries search."""
        return self.rows if self.gallery is None else self.gallery.documents

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.rows.shape[1])

    @cached_property
    def moments(self) -> Moments:
        """Mean and centred second moment of the rows."""
        return moments(self.rows, executor=self.compute.executor)

    @cached_property
    def mean(self) -> FloatArray:
        """(n_neurons,) mean of the searched rows, computed without their second moment."""
        return column_scaling(self.searched).mean

    @cached_property
    def distance_exponent(self) -> int:
        """Power of two that centred rows are multiplied by before they become float32.

        It is 0 unless squares of the largest centred value leave the range of float32.
        """
        peak = 0.0
        for rows in (self.rows,) if self.gallery is None else (self.searched, self.rows):
            for start in range(0, int(rows.shape[0]), CHUNK_ROWS):
                block = np.asarray(rows[start : start + CHUNK_ROWS])
                peak = max(peak, float(np.abs(block - self.mean).max()))
        return scaling_exponent(peak)

    @cached_property
    def query_rows(self) -> IndexArray:
        """(n_queries,) row numbers of the samples whose neighbours are compared."""
        n = int(self.rows.shape[0])
        if self.gallery is not None and n <= self.most_queries:
            return np.arange(n)
        return choose_queries(n, self.most_queries)

    @cached_property
    def neighbours_by_distance(self) -> NDArray[np.int32]:
        """(n_queries, n_neighbours) nearest samples in the whole layer by Euclidean distance."""
        return self._nearest("euclidean")

    @cached_property
    def neighbours_by_cosine(self) -> NDArray[np.int32]:
        """(n_queries, n_neighbours) nearest samples in the whole layer by cosine."""
        return self._nearest("cosine")

    @cached_property
    def ranked_documents(self) -> NDArray[np.int32]:
        """(n_rows, 10) documents that every query finds by cosine in the whole layer."""
        width = self.n_neurons
        lists = self.search_documents(None, np.arange(width), (width,))
        return np.concatenate([ranked[0] for ranked in lists])

    def search_documents(
        self, projection: FloatArray | None, order: IndexArray, sizes: tuple[int, ...]
    ) -> Iterator[NDArray[np.int32]]:
        """Yield the (n_sizes, n_block, 10) documents of blocks of all queries, nearest first.

        Parameters
        ----------
        projection: (n_neurons, n) whose columns are compared, or None for neurons.
        order: permutation of the columns.
        sizes: prefix lengths, ascending.
        """
        n = int(self.rows.shape[0])
        for start in range(0, n, _QUERY_BLOCK):
            block = np.arange(start, min(start + _QUERY_BLOCK, n))
            yield self.finder("cosine", projection, block)(order, sizes)

    def _nearest(self, metric: Metric) -> NDArray[np.int32]:
        width = self.n_neurons
        return np.asarray(self.finder(metric)(np.arange(width), (width,))[0])

    def finder(
        self,
        metric: Metric,
        projection: FloatArray | None = None,
        query_rows: IndexArray | None = None,
    ) -> NeighbourFinder:
        """Return a finder of neighbours in the layer's neurons, or in a projection of them.

        ``query_rows`` are the rows that are queries, by default those of the attribute.

        Distances are those of centred rows: centring does not change them, but preserves the
        digits of features far from zero. Cosines are those of raw rows, as in a vector store;
        where float32 cannot tell them apart they are computed in float64. Features of extreme
        size are scaled by a power of two, which changes neither.
        """
        matrix = None if projection is None else projection.astype(np.float32)
        exponent = 0 if metric == "cosine" else self.distance_exponent

        def transform(block: NDArray[Any]) -> NDArray[np.floating]:
            rows = block if metric == "cosine" else block - self.mean
            rows = np.ldexp(rows, exponent) if exponent else rows
            if matrix is None:
                return rows
            rows = scale_rows(rows) if metric == "cosine" else rows
            return np.asarray(rows, dtype=np.float32) @ matrix

        def exact_transform(block: NDArray[Any]) -> NDArray[np.floating]:
            rows = np.asarray(block, dtype=np.float64)
            return rows if projection is None else rows @ projection

        query_rows = self.query_rows if query_rows is None else query_rows
        asked: IndexArray | QueryRows = query_rows
        if self.gallery is not None:
            asked = QueryRows(self.rows, query_rows, self.gallery.qrels.own[query_rows])
        return NeighbourFinder.of(
            self.searched,
            metric,
            query_rows=asked,
            most_neighbours=self.most_neighbours,
            transform=transform,
            exact_transform=exact_transform if metric == "cosine" else None,
        )


@dataclass(frozen=True, eq=False)
class SimilarityTask:
    """Subsets of one layer.

    Attributes
    ----------
    whole_layer: the layer.
    subsets: (n_orders, n_neurons) permutations of the neurons, whose prefixes are the subsets;
        or one projection, (n_neurons, >= sizes[-1]), whose leading columns are.
    sizes: prefix lengths, ascending.
    is_projection: whether ``subsets`` is a projection.
    """

    whole_layer: WholeLayer
    subsets: NDArray[Any]
    sizes: tuple[int, ...]
    is_projection: bool = False

    @property
    def n_orders(self) -> int:
        """Number of orders; a projection counts as one."""
        return 1 if self.is_projection else len(self.subsets)


@dataclass(frozen=True, eq=False)
class SimilarityScores:
    """The result of a similarity measure.

    Attributes
    ----------
    values: (n_orders, n_sizes); a projection counts as one order.
    kind: "scores" (one per query; their mean is the value) or "replicates" (the value without
        each block of samples).
    bootstrap_values: (n_orders, n_sizes, n_queries or n_blocks) of that kind, for the bootstrap.
    """

    values: FloatArray
    kind: str
    bootstrap_values: NDArray[np.floating]


def cka(task: SimilarityTask, *, variant: CkaVariant = PLAIN) -> SimilarityScores:
    """Linear CKA of every subset with the whole layer."""
    compute = projection_cka_replicates if task.is_projection else prefix_cka_replicates
    layer = task.whole_layer
    values, replicates = compute(
        layer.rows, task.subsets, task.sizes, variant=variant, layer_moments=layer.moments
    )
    return SimilarityScores(values, "replicates", replicates)


def cka_debiased(task: SimilarityTask) -> SimilarityScores:
    """Debiased linear CKA of every subset with the whole layer."""
    return cka(task, variant=CkaVariant(debiased=True))


def cka_without_top(task: SimilarityTask) -> SimilarityScores:
    """Linear CKA of every subset with the whole layer, both without the top principal axes."""
    return cka(task, variant=CkaVariant(without_top=N_TOP_AXES))


def procrustes(task: SimilarityTask) -> SimilarityScores:
    """Procrustes similarity of every subset with the whole layer."""
    compute = (
        projection_procrustes_replicates if task.is_projection else prefix_procrustes_replicates
    )
    layer = task.whole_layer
    values, replicates = compute(layer.rows, task.subsets, task.sizes, layer_moments=layer.moments)
    return SimilarityScores(values, "replicates", replicates)


def reconstruction(task: SimilarityTask) -> SimilarityScores:
    """R^2 of the neurons that every subset drops, given those that it keeps.

    Raises
    ------
    CriticalMassError: the subsets are projections, or there are no training rows.
    """
    if task.is_projection:
        raise CriticalMassError(
            "reconstruction predicts the dropped neurons from the kept ones, and a projection "
            "drops none; choose selectors of neurons, e.g. random"
        )
    layer = task.whole_layer
    if layer.training_moments is None:
        raise CriticalMassError(
            "reconstruction fits training rows, and the layer has none; give training_moments"
        )
    values, replicates = prefix_reconstruction(
        layer.rows, layer.training_moments(), task.subsets, task.sizes
    )
    return SimilarityScores(values, "replicates", replicates)


def class_separation(task: SimilarityTask) -> SimilarityScores:
    """Share of the cosine distance of samples that lies between classes, in every subset.

    Raises
    ------
    CriticalMassError: there are no labels, or those of one class.
    """
    layer = task.whole_layer
    if layer.labels is None:
        raise CriticalMassError("class-separation needs labels, and the layer has none")
    values, replicates = prefix_separation(
        layer.rows, layer.labels, task.subsets, task.sizes, is_projection=task.is_projection
    )
    return SimilarityScores(values, "replicates", replicates)


def retrieval(task: SimilarityTask) -> SimilarityScores:
    """nDCG@10 of the whole layer's neighbours by cosine, in every subset."""
    relevant = _require_samples(task.whole_layer).neighbours_by_cosine
    gains = graded_gains(relevant.shape[1])
    return _score_neighbours(task, "cosine", lambda nearest: ndcg(nearest, relevant, gains))


def retrieval_recall(task: SimilarityTask) -> SimilarityScores:
    """Recall@10 of the whole layer's neighbours by cosine, in every subset."""
    relevant = _require_samples(task.whole_layer).neighbours_by_cosine
    return _score_neighbours(task, "cosine", lambda nearest: recall(nearest, relevant))


def mutual_knn(task: SimilarityTask) -> SimilarityScores:
    """Share of the whole layer's 10 nearest neighbours by distance, in every subset."""
    relevant = _require_samples(task.whole_layer).neighbours_by_distance
    return _score_neighbours(task, "euclidean", lambda nearest: recall(nearest, relevant))


def relevance(task: SimilarityTask, *, score: RelevanceScore) -> SimilarityScores:
    """Score of all documents that the queries of a collection find by cosine, by its qrels.

    Raises
    ------
    CriticalMassError: the layer is not that of a retrieval collection.
    """
    layer = task.whole_layer
    if layer.gallery is None:
        raise missing_qrels(score, "the feature store")
    qrels, width = layer.gallery.qrels, int(task.subsets.shape[1])
    projection = task.subsets if task.is_projection else None
    orders = np.arange(width)[None] if task.is_projection else task.subsets
    sizes = tuple(k for k in task.sizes if task.is_projection or k < width)
    scores = np.zeros((len(orders), len(task.sizes), qrels.n_queries), dtype=np.float32)
    if len(sizes) < len(task.sizes):
        # All neurons, in any order, are the whole layer.
        scores[:, -1] = score_ranked(layer.ranked_documents, qrels, score)
    for order_scores, order in zip(scores, orders, strict=True):
        blocks = layer.search_documents(projection, order, sizes) if sizes else ()
        start = 0
        for lists in blocks:
            stop = start + lists.shape[1]
            of_block = qrels.of_queries(np.arange(start, stop))
            for j, ranked in enumerate(lists):
                order_scores[j, start:stop] = score_ranked(ranked, of_block, score)
            start = stop
    return SimilarityScores(scores.mean(axis=-1, dtype=np.float64), "scores", scores)


def ndcg_on_qrels(task: SimilarityTask) -> SimilarityScores:
    """nDCG@10 of the documents found in every subset, by qrels."""
    return relevance(task, score="ndcg")


def recall_on_qrels(task: SimilarityTask) -> SimilarityScores:
    """Recall@10 of the documents found in every subset, by qrels."""
    return relevance(task, score="recall")


def mrr_on_qrels(task: SimilarityTask) -> SimilarityScores:
    """MRR@10 of the documents found in every subset, by qrels."""
    return relevance(task, score="mrr")


def _require_samples(layer: WholeLayer) -> WholeLayer:
    """Return the layer after checking that a sample has others that are no neighbours.

    Raises
    ------
    CriticalMassError: for so few samples that all others are neighbours in every subset.
    """
    n, fewest = int(layer.searched.shape[0]), layer.most_neighbours + 2
    if n < fewest:
        kind = "test samples" if layer.gallery is None else "documents"
        raise CriticalMassError(
            f"{n} {kind} are too few to compare the {layer.most_neighbours} nearest "
            f"neighbours of each: all {n - 1} others are neighbours in every subset; give at least "
            f"{fewest} {kind}, or measure 'cka'"
        )
    return layer


def _score_neighbours(
    task: SimilarityTask, metric: Metric, score: Callable[[NDArray[np.int32]], FloatArray]
) -> SimilarityScores:
    """Score the neighbours of every query in every subset.

    All neurons, in any order, are the whole layer, whose score is 1 by definition. It is not
    computed, because sums in another order could round to other neighbours.
    """
    finder = task.whole_layer.finder(metric, task.subsets if task.is_projection else None)
    width = int(task.subsets.shape[1])
    orders = np.arange(width)[None] if task.is_projection else task.subsets
    sizes = tuple(k for k in task.sizes if task.is_projection or k < width)
    n_queries = task.whole_layer.query_rows.size
    scores = np.ones((len(orders), len(task.sizes), n_queries), dtype=np.float32)
    if sizes:
        for order_scores, order in zip(scores, orders, strict=True):
            for j, nearest in enumerate(finder(order, sizes)):
                order_scores[j] = score(nearest)
    return SimilarityScores(scores.mean(axis=-1, dtype=np.float64), "scores", scores)
