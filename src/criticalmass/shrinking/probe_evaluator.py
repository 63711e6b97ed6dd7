"""What the subsets of one order keep of the whole layer, on samples no probe was trained on.

A judge scores every asked prefix of an order, stored in a precision, beside the whole layer in
float32. What it returns knows its own uncertainty: hits of probes are paired counts, scores of
queries are means, similarities have a jackknife.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from criticalmass.core.rows import Rows
from criticalmass.measures.probes.task import LinearHead, ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import get_probe
from criticalmass.shrinking.codec import Codec, stored
from criticalmass.shrinking.paired_tests import (
    Paired,
    drop_bound,
    drop_p_value,
    ratio_bound,
    score_ratio_bound,
)

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples: (n_samples, n_neurons) rows and their (n_samples,) class ids."""

    rows: Rows
    labels: NDArray[np.int64]


class Findings(Protocol):
    """What was seen of some sizes of one order."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons kept, ascending."""
        ...

    @property
    def values(self) -> FloatArray:
        """(n_sizes,) the measure on the subsets."""
        ...

    @property
    def value_full(self) -> float:
        """The measure on the whole layer."""
        ...

    def bound(self, place: int, level: float) -> float:
        """Lower confidence bound of value over value_full at a size."""
        ...


@dataclass(frozen=True, eq=False)
class Hits:
    """Right and wrong answers of probes.

    Attributes
    ----------
    sizes: neurons kept, ascending.
    right: (n_sizes, n_samples) whether the subset's probe was right.
    right_full: (n_samples,) whether the whole layer's was.
    labels: (n_samples,) class ids.
    n_classes: number of classes.
    heads: the probes themselves, one per size; empty where the measure keeps none.
    """

    sizes: tuple[int, ...]
    right: NDArray[np.bool_]
    right_full: NDArray[np.bool_]
    labels: NDArray[np.int64]
    n_classes: int
    heads: tuple[LinearHead, ...] = ()

    @property
    def values(self) -> FloatArray:
        """(n_sizes,) accuracy of the subsets."""
        return np.asarray(self.right.mean(axis=1, dtype=np.float64))

    @property
    def value_full(self) -> float:
        """Accuracy of the whole layer."""
        return float(self.right_full.mean())

    def pairs(self, place: int) -> Paired:
        """Paired counts over all samples at a size."""
        return Paired.count(self.right[place], self.right_full)

    def class_pairs(self, place: int) -> tuple[Paired, ...]:
        """(n_classes,) paired counts of every class at a size."""
        code = 2 * self.right[place].astype(np.int64) + self.right_full
        table = np.bincount(4 * self.labels + code, minlength=4 * self.n_classes)
        return tuple(
            Paired(both=int(both), lost=int(lost), gained=int(gained), neither=int(neither))
            for neither, lost, gained, both in table.reshape(self.n_classes, 4)
        )

    def bound(self, place: int, level: float) -> float:
        """Lower confidence bound of the share of accuracy kept, by the paired score test."""
        return ratio_bound(self.pairs(place), level)

    def worst_drop(self, place: int) -> float:
        """Largest accuracy that a class with samples loses at a size; negative if all gain."""
        return max(pairs.drop for pairs in self.class_pairs(place) if pairs.n)

    def spares_classes(self, place: int, drop: float, level: float) -> bool:
        """Whether no class with test samples loses ``drop`` or more, each at the level."""
        seen = [pairs for pairs in self.class_pairs(place) if pairs.n]
        return all(drop_p_value(pairs, drop) <= 1.0 - level for pairs in seen)

    def class_bounds(self, place: int, level: float) -> FloatArray:
        """(n_classes,) upper confidence bound of each class's loss; nan without samples."""
        found = [drop_bound(p, level) if p.n else np.nan for p in self.class_pairs(place)]
        return np.array(found)


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Scores in [0, 1] of queries.

    Attributes
    ----------
    sizes: neurons kept, ascending.
    scores: (n_sizes, n_queries) of the subsets.
    scores_full: (n_queries,) of the whole layer; all 1 where its own neighbours are what is right.
    """

    sizes: tuple[int, ...]
    scores: NDArray[np.floating]
    scores_full: FloatArray

    @property
    def value_full(self) -> float:
        """Mean score of the whole layer."""
        return float(self.scores_full.mean())

    @property
    def values(self) -> FloatArray:
        """(n_sizes,) mean score."""
        return np.asarray(self.scores.mean(axis=1, dtype=np.float64))

    def bound(self, place: int, level: float) -> float:
        """Lower confidence bound of the ratio of mean scores."""
        return score_ratio_bound(self.scores[place], self.scores_full, level)


@dataclass(frozen=True, eq=False)
class Similarities:
    """A similarity with the whole layer, and its values with one block of samples left out.

    Attributes
    ----------
    sizes: neurons kept, ascending.
    values: (n_sizes,).
    replicates: (n_sizes, n_blocks) without block b.
    """

    sizes: tuple[int, ...]
    values: FloatArray
    replicates: FloatArray
    value_full: float = 1.0

    def bound(self, place: int, level: float) -> float:
        """Lower confidence bound by the delete-a-block jackknife and Student's law."""
        left_out = self.replicates[place]
        n = left_out.size
        error = np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2))
        return float(self.values[place] - t.ppf(level, n - 1) * error)


class Judge(Protocol):
    """Scores prefixes of an order that are stored in a precision."""

    def judge(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> Findings:
        """Score the prefixes of (n_neurons,) ``order`` of the given lengths."""
        ...


@dataclass(frozen=True, eq=False)
class ProbeJudge:
    """Judges by the accuracy of a probe that is trained on one part and scored on another."""

    measure: str
    train: Part
    judged: Part
    n_classes: int

    @cached_property
    def right_full(self) -> NDArray[np.bool_]:
        """(n_samples,) hits of the whole layer in float32."""
        return np.asarray(self.whole.right[0], dtype=np.bool_)

    @cached_property
    def whole(self) -> Hits:
        """The whole layer in float32, beside itself."""
        d = int(self.train.rows.shape[1])
        right, heads = self._right(np.arange(d), (d,), self.train.rows, self.judged.rows)
        return Hits((d,), right, right[0], self.judged.labels, self.n_classes, heads)

    def judge(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> Hits:
        """Score the prefixes of (n_neurons,) ``order`` of the given lengths."""
        train, judged = self.train.rows, self.judged.rows
        if precision != "float32":
            codec = Codec.learn(precision, train)
            train, judged = stored(train, codec), stored(judged, codec)
        right, heads = self._right(order, sizes, train, judged)
        return Hits(sizes, right, self.right_full, self.judged.labels, self.n_classes, heads)

    def _right(
        self, order: IndexArray, sizes: tuple[int, ...], train: Rows, judged: Rows
    ) -> tuple[NDArray[np.bool_], tuple[LinearHead, ...]]:
        """(n_sizes, n_samples) hits, and the heads that made them."""
        task = ProbeTask(
            x_train=train,
            y_train=self.train.labels,
            x_test=judged,
            n_classes=self.n_classes,
            orders=order[None],
            sizes=sizes,
            validation=validation_rows(self.train.labels),
        )
        scores = get_probe(self.measure)(task)
        right = np.equal(scores.predictions[0], self.judged.labels)
        return np.asarray(right, dtype=np.bool_), scores.heads[0] if scores.heads else ()
