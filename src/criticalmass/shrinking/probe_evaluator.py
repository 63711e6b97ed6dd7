"""Scores of the subsets of one order, and the evaluator that trains probes to get them.

An evaluator scores prefixes of an order in a precision and compares them with the whole layer in
float32. Probes are scored on samples that they were not trained on. Every kind of scores has its
own confidence bound: probes by paired counts, queries by a mean, similarities by a jackknife.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.rows import Rows
from criticalmass.measures.probes.task import LinearHead, ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import get_probe
from criticalmass.shrinking.codec import Codec, round_trip
from criticalmass.shrinking.paired_tests import (
    PairedCounts,
    drop_bound,
    drop_p_value,
    ratio_bound,
    score_ratio_bound,
)

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Samples: (n_samples, n_neurons) rows and their (n_samples,) class ids."""

    rows: Rows
    labels: NDArray[np.int64]


class SubsetScores(Protocol):
    """Scores of several sizes of one order."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of kept neurons, ascending."""
        ...

    @property
    def values(self) -> FloatArray:
        """(n_sizes,) value of the measure on the subsets."""
        ...

    @property
    def value_full(self) -> float:
        """Value of the measure on the whole layer."""
        ...

    def bound(self, index: int, level: float) -> float:
        """Lower confidence bound of value / value_full for ``sizes[index]``."""
        ...


@dataclass(frozen=True, eq=False)
class PairedCorrect:
    """Correct answers of probes on the subsets and on the whole layer, for the same samples.

    Attributes
    ----------
    sizes: numbers of kept neurons, ascending.
    correct: (n_sizes, n_samples) whether the subset's probe was right.
    correct_full: (n_samples,) whether the whole layer's probe was right.
    labels: (n_samples,) class ids.
    n_classes: number of classes.
    heads: the trained probes, one per size; empty if the measure returns none.
    """

    sizes: tuple[int, ...]
    correct: NDArray[np.bool_]
    correct_full: NDArray[np.bool_]
    labels: NDArray[np.int64]
    n_classes: int
    heads: tuple[LinearHead, ...] = ()

    @property
    def values(self) -> FloatArray:
        """(n_sizes,) accuracy of the subsets."""
        return np.asarray(self.correct.mean(axis=1, dtype=np.float64))

    @property
    def value_full(self) -> float:
        """Accuracy of the whole layer."""
        return float(self.correct_full.mean())

    def pairs(self, index: int) -> PairedCounts:
        """Paired counts over all samples for ``sizes[index]``."""
        return PairedCounts.count(self.correct[index], self.correct_full)

    def class_pairs(self, index: int) -> tuple[PairedCounts, ...]:
        """(n_classes,) paired counts of every class for ``sizes[index]``."""
        code = 2 * self.correct[index].astype(np.int64) + self.correct_full
        table = np.bincount(4 * self.labels + code, minlength=4 * self.n_classes)
        return tuple(
            PairedCounts(both=int(both), lost=int(lost), gained=int(gained), neither=int(neither))
            for neither, lost, gained, both in table.reshape(self.n_classes, 4)
        )

    def bound(self, index: int, level: float) -> float:
        """Lower confidence bound of the share of accuracy kept, by the paired score test."""
        return ratio_bound(self.pairs(index), level)

    def worst_drop(self, index: int) -> float:
        """Largest accuracy that a class with samples loses; negative if all classes gain."""
        return max(pairs.drop for pairs in self.class_pairs(index) if pairs.n)

    def passes_class_tests(self, index: int, drop: float, level: float) -> bool:
        """Whether every class with samples passes the test of losing less than ``drop``.

        Each class is tested at ``level``.
        """
        present = [pairs for pairs in self.class_pairs(index) if pairs.n]
        return all(drop_p_value(pairs, drop) <= 1.0 - level for pairs in present)

    def class_bounds(self, index: int, level: float) -> FloatArray:
        """(n_classes,) upper confidence bound of each class's loss; nan without samples."""
        bounds = [drop_bound(p, level) if p.n else np.nan for p in self.class_pairs(index)]
        return np.array(bounds)


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Scores of queries, in [0, 1].

    Attributes
    ----------
    sizes: numbers of kept neurons, ascending.
    scores: (n_sizes, n_queries) of the subsets.
    scores_full: (n_queries,) of the whole layer; all 1 if its own neighbours define relevance.
    """

    sizes: tuple[int, ...]
    scores: NDArray[np.floating]
    scores_full: FloatArray

    @property
    def values(self) -> FloatArray:
        """(n_sizes,) mean score."""
        return np.asarray(self.scores.mean(axis=1, dtype=np.float64))

    @property
    def value_full(self) -> float:
        """Mean score of the whole layer."""
        return float(self.scores_full.mean())

    def bound(self, index: int, level: float) -> float:
        """Lower confidence bound of the ratio of mean scores."""
        return score_ratio_bound(self.scores[index], self.scores_full, level)


@dataclass(frozen=True, eq=False)
class Similarities:
    """Similarities of subsets and whole layer, with their jackknife replicates.

    Attributes
    ----------
    sizes: numbers of kept neurons, ascending.
    values: (n_sizes,) similarities.
    replicates: (n_sizes, n_blocks) similarities without the samples of one block.
    value_full: similarity of the whole layer with itself.
    """

    sizes: tuple[int, ...]
    values: FloatArray
    replicates: FloatArray
    value_full: float = 1.0

    def bound(self, index: int, level: float) -> float:
        """Lower confidence bound by the delete-a-block jackknife and Student's t distribution."""
        replicates = self.replicates[index]
        n = replicates.size
        error = np.sqrt((n - 1) / n * np.sum((replicates - replicates.mean()) ** 2))
        return float(self.values[index] - stdtrit(n - 1, level) * error)


class Evaluator(Protocol):
    """Scores prefixes of an order that are stored in a precision."""

    def evaluate(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> SubsetScores:
        """Score the first ``sizes`` neurons of (n_neurons,) ``order``."""
        ...


@dataclass(frozen=True, eq=False)
class ProbeEvaluator:
    """Scores subsets by the accuracy of a probe.

    Attributes
    ----------
    measure: name of the probe.
    train: samples that the probe is trained on.
    held_out: samples that it is scored on.
    n_classes: number of classes.
    compute: threads, device and memory of the fits.
    """

    measure: str
    train: LabelledRows
    held_out: LabelledRows
    n_classes: int
    compute: Compute = DEFAULT_COMPUTE

    @cached_property
    def correct_full(self) -> NDArray[np.bool_]:
        """(n_samples,) whether the probe on the whole layer in float32 is right."""
        d = int(self.train.rows.shape[1])
        correct, _ = self._correct(np.arange(d), (d,), self.train.rows, self.held_out.rows)
        return np.asarray(correct[0], dtype=np.bool_)

    def evaluate(self, order: IndexArray, sizes: tuple[int, ...], precision: str) -> PairedCorrect:
        """Score the first ``sizes`` neurons of (n_neurons,) ``order``."""
        train, held_out = self.train.rows, self.held_out.rows
        if precision != "float32":
            codec = Codec.learn(precision, train)
            train, held_out = round_trip(train, codec), round_trip(held_out, codec)
        correct, heads = self._correct(order, sizes, train, held_out)
        return PairedCorrect(
            sizes, correct, self.correct_full, self.held_out.labels, self.n_classes, heads
        )

    def _correct(
        self, order: IndexArray, sizes: tuple[int, ...], train: Rows, held_out: Rows
    ) -> tuple[NDArray[np.bool_], tuple[LinearHead, ...]]:
        """Train probes; -> (n_sizes, n_samples) whether they are right, and their heads."""
        task = ProbeTask(
            x_train=train,
            y_train=self.train.labels,
            x_test=held_out,
            n_classes=self.n_classes,
            orders=order[None],
            sizes=sizes,
            validation=validation_rows(self.train.labels),
            compute=self.compute,
        )
        scores = get_probe(self.measure)(task)
        correct = np.equal(scores.predictions[0], self.held_out.labels)
        return np.asarray(correct, dtype=np.bool_), scores.heads[0] if scores.heads else ()
