"""Scores of sampled heads on held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.rows import Rows, RowSubset, check_finite, chunks
from criticalmass.errors import CriticalMassError
from criticalmass.theory.eigenbasis import Eigenbasis

FloatArray = NDArray[np.float64]
_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class Sampling:
    """Numbers of heads drawn from a law, and of rows on which they are scored.

    Attributes
    ----------
    draws: heads drawn per size; each is used with both signs.
    rows: test samples on which drawn heads are scored; the mean head is scored on all.
    seed: of the draws and of the choice of rows.

    Raises
    ------
    CriticalMassError: if a number is too small.
    """

    draws: int = 24
    rows: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.draws < 1 or self.rows < 2 or self.seed < 0:
            raise CriticalMassError(
                f"draws={self.draws}, rows={self.rows}, seed={self.seed}; give at least 1 draw, "
                "2 rows and a seed of 0 or more"
            )


class HeadLaw(Protocol):
    """A distribution of heads: their mean, and samples of their deviation from it."""

    @property
    def mean(self) -> FloatArray:
        """(n_neurons, n_columns) mean head on standardised neurons, per class or class axis."""
        ...

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Draw (count, n_neurons, n_columns) deviations."""
        ...


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Accuracy and squared error of the heads of one law, for every ensemble size.

    Attributes
    ----------
    accuracy, error: (n_members,) mean over subsets.
    accuracy_std, error_std: (n_members,) standard deviation over subsets.
    """

    accuracy: FloatArray
    accuracy_std: FloatArray
    error: FloatArray
    error_std: FloatArray


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Labelled test rows, and a sample of them in memory, standardised as the training set.

    Attributes
    ----------
    basis: the training set.
    rows: (n_rows, n_neurons) raw features.
    labels: (n_rows,) classes of the training set.
    sample_rows: (n_sample,) row numbers of the sample, ascending.
    sample: (n_sample, n_neurons) the sample, standardised.
    class_axes: (n_axes, n_classes) orthonormal rows; heads have a column per axis instead of per
        class. None: heads have a column per class.
    product_columns: columns of heads that are multiplied with the sample at a time.
    """

    basis: Eigenbasis
    rows: Rows
    labels: NDArray[np.int64]
    sample_rows: NDArray[np.intp]
    sample: NDArray[np.float32]
    class_axes: NDArray[np.float32] | None = None
    product_columns: int = 256

    def scores(self, heads: HeadLaw, members: NDArray[np.int64], sampling: Sampling) -> HeadScores:
        """Score heads drawn from a law on the sample.

        The deviation of an ensemble of M subsets is that of one subset over sqrt(M). Each draw is
        used with both signs, so that terms linear in the deviation cancel and means need few
        draws.
        """
        rng = np.random.default_rng(sampling.seed)
        truth = self.labels[self.sample_rows]
        mean_responses = self.responses(self.sample, heads.mean)
        n_draws = 2 * sampling.draws
        accuracies = np.empty((members.size, n_draws))
        errors = np.empty_like(accuracies)
        row_correct = np.zeros((members.size, truth.size))
        row_errors = np.zeros((2, members.size, truth.size))
        deviations = self._deviations(heads.draw(rng, sampling.draws))
        for draw, deviation in enumerate(deviations):
            for sign in (0, 1):
                for i, size in enumerate(members.tolist()):
                    factor = np.float32((1 - 2 * sign) / np.sqrt(size))
                    correct, squared = _compare(mean_responses + factor * deviation, truth)
                    accuracies[i, 2 * draw + sign] = correct.mean()
                    errors[i, 2 * draw + sign] = squared.mean()
                    row_correct[i] += correct
                    row_errors[0, i] += squared
                    row_errors[1, i] += squared**2
        rate, moment = row_correct / n_draws, row_errors / n_draws
        error_variance = np.maximum(moment[1] - moment[0] ** 2, 0.0)
        return HeadScores(
            accuracies.mean(axis=1),
            self._spread(accuracies, (rate - rate**2).mean(axis=1)),
            errors.mean(axis=1),
            self._spread(errors, error_variance.mean(axis=1)),
        )

    def _deviations(self, heads: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Yield the responses (n_sample, n_classes) to each of (count, n_neurons, n_columns) heads.

        Several heads are multiplied in one product, because a product with few columns is slow.
        """
        n_columns = heads.shape[2]
        n_heads = max(1, self.product_columns // n_columns)
        for start in range(0, heads.shape[0], n_heads):
            part = heads[start : start + n_heads].transpose(1, 0, 2)
            wide = self.sample @ np.ascontiguousarray(part).reshape(part.shape[0], -1)
            for i in range(part.shape[1]):
                yield self._by_class(wide[:, i * n_columns : (i + 1) * n_columns])

    def _by_class(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n_rows, n_columns) products of rows and a head as (n_rows, n_classes)."""
        return np.ascontiguousarray(
            products if self.class_axes is None else products @ self.class_axes
        )

    def responses(self, block: NDArray[np.float32], head: FloatArray) -> NDArray[np.float32]:
        """Return (n_rows, n_classes) responses of a head to standardised rows."""
        products = self._by_class(block @ head.astype(np.float32))
        return np.asarray(products + self.basis.share.astype(np.float32))

    def score_means(
        self, heads: list[FloatArray], *, all_rows: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Score heads without deviation, on the sample or on all rows.

        Returns
        -------
        Accuracy (n_heads,) and squared error (n_heads,).
        """
        if not all_rows or self.sample_rows.size == self.labels.size:
            blocks = iter([(self.sample, self.labels[self.sample_rows])])
        else:
            blocks = self._blocks()
        n_rows, n_correct, errors = 0, np.zeros(len(heads)), np.zeros(len(heads))
        for block, truth in blocks:
            n_rows += truth.size
            for i, head in enumerate(heads):
                correct, squared = _compare(self.responses(block, head), truth)
                n_correct[i] += correct.sum()
                errors[i] += squared.sum()
        return n_correct / n_rows, errors / n_rows

    def correct_to_all_rows(
        self, scores: list[HeadScores], heads: list[FloatArray]
    ) -> list[HeadScores]:
        """Add to each mean the difference of its mean head between all rows and the sample."""
        on_sample = self.score_means(heads, all_rows=False)
        on_all = self.score_means(heads, all_rows=True)
        return [
            HeadScores(
                np.clip(score.accuracy + on_all[0][i] - on_sample[0][i], 0.0, 1.0),
                score.accuracy_std,
                np.maximum(score.error + on_all[1][i] - on_sample[1][i], 0.0),
                score.error_std,
            )
            for i, score in enumerate(scores)
        ]

    def _blocks(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        for start, raw in chunks(self.rows, _CHUNK_ROWS):
            yield self.basis.scaling.apply(raw), self.labels[start : start + raw.shape[0]]

    def _spread(self, values: FloatArray, row_variance: FloatArray) -> FloatArray:
        """Return the standard deviation over subsets of a score on all rows.

        The variance of a mean over m rows is c (1 - 1/m) + v/m, where v is the mean variance of a
        row and c the mean covariance of two rows. c is estimated from the sample and used for all
        rows.
        """
        m, n, n_draws = self.sample_rows.size, self.labels.size, values.shape[1]
        variance = values.var(axis=1) * n_draws / (n_draws - 1)
        covariance = (variance - row_variance / m) / (1.0 - 1.0 / m)
        total = covariance * (1.0 - 1.0 / n) + row_variance / n
        return np.asarray(np.sqrt(np.maximum(total, 0.0)))


def held_out(
    basis: Eigenbasis,
    rows: Rows,
    labels: npt.ArrayLike,
    sampling: Sampling,
    class_axes: NDArray[np.float32] | None = None,
) -> HeldOut:
    """Return labelled rows for scoring, with a sample of at most ``sampling.rows`` of them.

    Raises
    ------
    CriticalMassError: if rows and labels do not fit each other or the training set.
    """
    y = np.asarray(labels)
    n = int(rows.shape[0])
    if len(rows.shape) != 2 or rows.shape[1] != basis.n_neurons or n < 2:
        raise CriticalMassError(
            f"held-out rows have shape {tuple(rows.shape)}; give two or more rows of "
            f"{basis.n_neurons} neurons, as in the training set"
        )
    is_vector = y.shape == (n,) and y.dtype.kind in "iu"
    if not is_vector or y.min() < 0 or y.max() >= basis.n_classes:
        raise CriticalMassError(
            f"labels of shape {y.shape} and dtype {y.dtype} do not fit {n} rows and the "
            f"{basis.n_classes} classes of the training set"
        )
    sample_rows = np.arange(n)
    if n > sampling.rows:
        rng = np.random.default_rng(sampling.seed)
        sample_rows = np.sort(rng.permutation(n)[: sampling.rows])
    sample = np.empty((sample_rows.size, basis.n_neurons), dtype=np.float32)
    for start, raw in chunks(RowSubset(rows, sample_rows)):
        check_finite(raw, start, "held-out")
        sample[start : start + raw.shape[0]] = basis.scaling.apply(raw)
    return HeldOut(basis, rows, y.astype(np.int64), sample_rows, sample, class_axes)


def _compare(
    responses: NDArray[np.float32], truth: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Return whether the largest response is that of the true class, and the squared error.

    Both are (n_rows,).
    """
    true_response = responses[np.arange(truth.size), truth]
    squared = np.einsum("tc,tc->t", responses, responses)
    # sum_c (r_c - [c = y])^2 = sum_c r_c^2 - 2 r_y + 1
    error = (squared - 2.0 * true_response + 1.0).astype(np.float64)
    return responses.argmax(axis=1) == truth, error
