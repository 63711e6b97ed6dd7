"""How alike a subset is to its whole layer: what every such measure is handed and hands back.

None of these measures trains on anything. They compare the raw features of the test split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.moments import FloatArray, IndexArray, Moments, moments
from criticalmass.core.rows import Rows
from criticalmass.measures.nearest import Metric
from criticalmass.measures.scaling import column_scaling
from criticalmass.measures.similarity.cka_jackknife import (
    prefix_cka_replicates,
    projection_cka_replicates,
)
from criticalmass.measures.similarity.procrustes import (
    prefix_procrustes_replicates,
    projection_procrustes_replicates,
)
from criticalmass.measures.similarity.retrieval import Neighbours, graded, ndcg, queries_of, recall

__all__ = ["SimilarityScores", "SimilarityTask", "WholeLayer"]


@dataclass(frozen=True, eq=False)
class WholeLayer:
    """The layer that subsets are compared with, and what every comparison needs of it.

    Attributes
    ----------
    rows: (n_samples, n_neurons) raw features.
    """

    rows: Rows

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.rows.shape[1])

    @cached_property
    def moments(self) -> Moments:
        """Mean and centred second moment of the rows."""
        return moments(self.rows)

    @cached_property
    def mean(self) -> FloatArray:
        """(n_neurons,) mean of the rows, without the cost of their second moment."""
        return column_scaling(self.rows).mean

    @cached_property
    def asking(self) -> IndexArray:
        """(n_queries,) samples whose neighbours are looked at."""
        return queries_of(int(self.rows.shape[0]))

    @cached_property
    def by_distance(self) -> NDArray[np.int32]:
        """(n_queries, n_neighbours) nearest samples in the whole layer by Euclidean distance."""
        return self._nearest("euclidean")

    @cached_property
    def by_cosine(self) -> NDArray[np.int32]:
        """(n_queries, n_neighbours) nearest samples in the whole layer by cosine."""
        return self._nearest("cosine")

    def _nearest(self, metric: Metric) -> NDArray[np.int32]:
        width = self.n_neurons
        return np.asarray(self.finder(metric)(np.arange(width), (width,))[0])

    def finder(self, metric: Metric, projection: FloatArray | None = None) -> Neighbours:
        """Return what finds neighbours in the layer's neurons, or in a projection of them.

        Distances are those of centred rows, which changes none but saves the digits of features
        that lie far from zero. Cosines are those of rows as they are, as a vector store has them.
        """
        turn = None if projection is None else projection.astype(np.float32)

        def view(block: NDArray[Any]) -> NDArray[np.floating]:
            seen = block if metric == "cosine" else block - self.mean
            return seen if turn is None else np.asarray(seen, dtype=np.float32) @ turn

        return Neighbours.of(self.rows, metric, asking=self.asking, view=view)


@dataclass(frozen=True, eq=False)
class SimilarityTask:
    """Subsets of one layer.

    Attributes
    ----------
    whole: the layer.
    subsets: (n_orders, n_neurons) permutations of the neurons, whose prefixes are the subsets;
        or one projection, (n_neurons, >= sizes[-1]), whose leading columns are.
    sizes: prefix lengths, ascending.
    is_projection: which of the two.
    """

    whole: WholeLayer
    subsets: NDArray[Any]
    sizes: tuple[int, ...]
    is_projection: bool = False

    @property
    def n_orders(self) -> int:
        """Orders; a projection counts as one."""
        return 1 if self.is_projection else len(self.subsets)


@dataclass(frozen=True, eq=False)
class SimilarityScores:
    """What a similarity found.

    Attributes
    ----------
    values: (n_orders, n_sizes); a projection counts as one order.
    kind: "scores" (of each query; their mean is the value) or "replicates" (the value without
        a block of samples).
    kept: (n_orders, n_sizes, n_queries or n_blocks) what the bootstrap needs.
    """

    values: FloatArray
    kind: str
    kept: NDArray[np.floating]


def cka(task: SimilarityTask, *, debiased: bool = False) -> SimilarityScores:
    """Linear CKA of every subset with the whole layer."""
    replicated = projection_cka_replicates if task.is_projection else prefix_cka_replicates
    values, replicates = replicated(
        task.whole.rows, task.subsets, task.sizes, debiased=debiased, whole=task.whole.moments
    )
    return SimilarityScores(values, "replicates", replicates)


def cka_debiased(task: SimilarityTask) -> SimilarityScores:
    """Debiased linear CKA of every subset with the whole layer."""
    return cka(task, debiased=True)


def procrustes(task: SimilarityTask) -> SimilarityScores:
    """Procrustes similarity of every subset with the whole layer."""
    compare = (
        projection_procrustes_replicates if task.is_projection else prefix_procrustes_replicates
    )
    values, replicates = compare(
        task.whole.rows, task.subsets, task.sizes, whole=task.whole.moments
    )
    return SimilarityScores(values, "replicates", replicates)


def retrieval(task: SimilarityTask) -> SimilarityScores:
    """nDCG@10 of the whole layer's neighbours by cosine, in every subset."""
    relevant = task.whole.by_cosine
    gains = graded(relevant.shape[1])
    return _asked(task, "cosine", lambda found: ndcg(found, relevant, gains))


def retrieval_recall(task: SimilarityTask) -> SimilarityScores:
    """Share of the whole layer's ten neighbours by cosine, in every subset."""
    return _asked(task, "cosine", lambda found: recall(found, task.whole.by_cosine))


def mutual_knn(task: SimilarityTask) -> SimilarityScores:
    """Share of the whole layer's ten neighbours by distance, in every subset."""
    return _asked(task, "euclidean", lambda found: recall(found, task.whole.by_distance))


def _asked(
    task: SimilarityTask, metric: Metric, score: Callable[[NDArray[np.int32]], FloatArray]
) -> SimilarityScores:
    """Score the neighbours that every query has in every subset.

    All neurons in another order are the whole layer, whose neighbours are what is right: their
    score is 1 by definition, not up to the rounding of sums in another order.
    """
    finder = task.whole.finder(metric, task.subsets if task.is_projection else None)
    width = int(task.subsets.shape[1])
    orders = np.arange(width)[None] if task.is_projection else task.subsets
    sizes = tuple(k for k in task.sizes if task.is_projection or k < width)
    kept = np.ones((len(orders), len(task.sizes), task.whole.asking.size), dtype=np.float32)
    if sizes:
        for mine, order in zip(kept, orders, strict=True):
            for j, found in enumerate(finder(order, sizes)):
                mine[j] = score(found)
    return SimilarityScores(kept.mean(axis=-1, dtype=np.float64), "scores", kept)
