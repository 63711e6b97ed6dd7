"""Held-out rows on which drawn heads are scored, and what that says of all test samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.rows import Rows, RowSubset, chunks, refuse_nonfinite
from criticalmass.errors import CriticalMassError
from criticalmass.theory.eigenbasis import Eigenbasis

FloatArray = NDArray[np.float64]
_CHUNK = 2048
# Columns of heads that are multiplied with the sample at a time.
_COLUMNS = 256


@dataclass(frozen=True)
class Sampling:
    """How finely a law of heads is sampled.

    Attributes
    ----------
    draws: heads drawn per size; each is used with both signs.
    rows: test samples on which drawn heads are scored; the mean head is scored on all.
    seed: of the draws and of the choice of rows.

    Raises
    ------
    CriticalMassError: if nothing would be drawn.
    """

    draws: int = 24
    rows: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that there is something to draw."""
        if self.draws < 1 or self.rows < 2 or self.seed < 0:
            raise CriticalMassError(
                f"draws={self.draws}, rows={self.rows}, seed={self.seed}; give at least 1 draw, "
                "2 rows and a seed of 0 or more"
            )


class HeadLaw(Protocol):
    """A mean head, and draws of how heads deviate from it."""

    @property
    def mean(self) -> FloatArray:
        """(n_neurons, n_classes) mean head on standardised neurons."""
        ...

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Draw (count, n_neurons, n_classes) deviations."""
        ...


@dataclass(frozen=True, eq=False)
class Scores:
    """Accuracy and squared error of the heads of one law, per ensemble size.

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
    """Labelled rows, standardised as the training set was; a sample of them in memory.

    Attributes
    ----------
    basis: the training set.
    rows: (n_rows, n_neurons) raw features.
    labels: (n_rows,) classes of the training set.
    picked: (n_picked,) rows of the sample, ascending.
    sample: (n_picked, n_neurons) the sample, standardised.
    """

    basis: Eigenbasis
    rows: Rows
    labels: NDArray[np.int64]
    picked: NDArray[np.intp]
    sample: NDArray[np.float32]

    def scores(self, heads: HeadLaw, members: NDArray[np.int64], how: Sampling) -> Scores:
        """Score heads drawn from a law on the sample.

        The deviation of an ensemble of M is that of one subset over sqrt(M). Opposite draws
        cancel what is linear in the deviation, so that means need few of them.
        """
        rng = np.random.default_rng(how.seed)
        truth = self.labels[self.picked]
        plain = self.responses(self.sample, heads.mean)
        hits = np.empty((members.size, 2 * how.draws))
        errors, own_hit = np.empty_like(hits), np.zeros((members.size, truth.size))
        own_error = np.zeros((2, members.size, truth.size))
        for draw, noise in enumerate(self._noises(heads.draw(rng, how.draws))):
            for sign in (0, 1):
                for i, size in enumerate(members.tolist()):
                    step = np.float32((1 - 2 * sign) / np.sqrt(size))
                    correct, wrong = _compare(plain + step * noise, truth)
                    hits[i, 2 * draw + sign] = correct.mean()
                    errors[i, 2 * draw + sign] = wrong.mean()
                    own_hit[i] += correct
                    own_error[0, i] += wrong
                    own_error[1, i] += wrong**2
        n_draws = 2 * how.draws
        rate, level = own_hit / n_draws, own_error / n_draws
        return Scores(
            hits.mean(axis=1),
            self._spread(hits, (rate - rate**2).mean(axis=1)),
            errors.mean(axis=1),
            self._spread(errors, np.maximum(level[1] - level[0] ** 2, 0.0).mean(axis=1)),
        )

    def _noises(self, deviations: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Yield the responses (n_picked, n_classes) to every deviation.

        Several deviations share a product: one of a few columns does not fill the processor.
        """
        classes = deviations.shape[2]
        together = max(1, _COLUMNS // classes)
        for start in range(0, deviations.shape[0], together):
            part = deviations[start : start + together].transpose(1, 0, 2)
            wide = self.sample @ np.ascontiguousarray(part).reshape(part.shape[0], -1)
            for at in range(part.shape[1]):
                yield np.ascontiguousarray(wide[:, at * classes : (at + 1) * classes])

    def responses(self, block: NDArray[np.float32], head: FloatArray) -> NDArray[np.float32]:
        """Return (n_rows, n_classes) responses of a head to standardised rows."""
        return np.asarray(block @ head.astype(np.float32) + self.basis.share.astype(np.float32))

    def score_means(self, heads: list[FloatArray], *, whole: bool) -> tuple[FloatArray, FloatArray]:
        """Score heads without deviation on the sample, or on the whole of the rows.

        Returns
        -------
        Accuracy (n_heads,) and squared error (n_heads,).
        """
        if not whole or self.picked.size == self.labels.size:
            blocks = iter([(self.sample, self.labels[self.picked])])
        else:
            blocks = self._blocks()
        total, hits, errors = 0, np.zeros(len(heads)), np.zeros(len(heads))
        for block, truth in blocks:
            total += truth.size
            for i, head in enumerate(heads):
                correct, wrong = _compare(self.responses(block, head), truth)
                hits[i] += correct.sum()
                errors[i] += wrong.sum()
        return hits / total, errors / total

    def on_all_rows(self, found: list[Scores], heads: list[FloatArray]) -> list[Scores]:
        """Move means from the sample to all rows by what the mean heads do on either."""
        part, every = self.score_means(heads, whole=False), self.score_means(heads, whole=True)
        return [
            Scores(
                np.clip(one.accuracy + every[0][i] - part[0][i], 0.0, 1.0),
                one.accuracy_std,
                np.maximum(one.error + every[1][i] - part[1][i], 0.0),
                one.error_std,
            )
            for i, one in enumerate(found)
        ]

    def _blocks(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        for start, raw in chunks(self.rows, _CHUNK):
            yield self.basis.scaling.apply(raw), self.labels[start : start + raw.shape[0]]

    def _spread(self, values: FloatArray, own: FloatArray) -> FloatArray:
        """Return the deviation over subsets that a score on all rows has.

        The variance of a mean over m rows is c (1 - 1/m) + own/m with c the mean covariance of
        two rows; c is what a sample of rows tells of the whole.
        """
        m, n, draws = self.picked.size, self.labels.size, values.shape[1]
        seen = values.var(axis=1) * draws / (draws - 1)
        common = (seen - own / m) / (1.0 - 1.0 / m)
        return np.asarray(np.sqrt(np.maximum(common * (1.0 - 1.0 / n) + own / n, 0.0)))


def held_out(basis: Eigenbasis, rows: Rows, labels: npt.ArrayLike, how: Sampling) -> HeldOut:
    """Take labelled rows for scoring, and a sample of at most ``how.rows`` of them.

    Raises
    ------
    CriticalMassError: if rows and labels do not fit each other or the training set.
    """
    y = np.asarray(labels)
    n = int(rows.shape[0])
    if len(rows.shape) != 2 or rows.shape[1] != basis.n_neurons or n < 2:
        raise CriticalMassError(
            f"held-out rows have shape {tuple(rows.shape)}; give two or more rows of "
            f"{basis.n_neurons} neurons, as the training set has"
        )
    fits = y.shape == (n,) and y.dtype.kind in "iu"
    if not fits or y.min() < 0 or y.max() >= basis.n_classes:
        raise CriticalMassError(
            f"labels of shape {y.shape} and dtype {y.dtype} do not fit {n} rows and the "
            f"{basis.n_classes} classes of the training set"
        )
    picked = np.arange(n)
    if n > how.rows:
        picked = np.sort(np.random.default_rng(how.seed).permutation(n)[: how.rows])
    sample = np.empty((picked.size, basis.n_neurons), dtype=np.float32)
    for start, raw in chunks(RowSubset(rows, picked)):
        refuse_nonfinite(raw, start, "held-out")
        sample[start : start + raw.shape[0]] = basis.scaling.apply(raw)
    return HeldOut(basis, rows, y.astype(np.int64), picked, sample)


def _compare(
    responses: NDArray[np.float32], truth: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Return whether the largest response is the truth, and the squared error, per row."""
    at = responses[np.arange(truth.size), truth]
    squared = np.einsum("tc,tc->t", responses, responses)
    # sum_c (r_c - [c = y])^2 = sum_c r_c^2 - 2 r_y + 1
    return responses.argmax(axis=1) == truth, (squared - 2.0 * at + 1.0).astype(np.float64)
