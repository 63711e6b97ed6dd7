"""Accuracy of logistic probes on k random neurons, for every k, from whole-layer fits alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.arguments import checked
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.fit_probes import check_strengths
from criticalmass.measures.logistic.probe import LogisticProtocol
from criticalmass.measures.protocol import validation_rows
from criticalmass.theory.degrees_of_freedom import checked_sizes
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
from criticalmass.theory.logistic_heads import Cell, Consistent, LogisticHeads, consistent_heads
from criticalmass.theory.shifted_logistic import Layer, Single

FloatArray = NDArray[np.float64]
Labelled = tuple[Rows, npt.ArrayLike]
_CHUNK = 2048
# Streams of random numbers: of the fits that race, of the final ones, of the drawn subsets.
_RACED, _FITTED, _DRAWN = range(3)
# Fits made at once may hold this many weights (a step of theirs is 16 times as many bytes * 4).
_WEIGHTS = 1 << 23


@dataclass(frozen=True)
class LogisticSampling:
    """How finely the law is sampled.

    Parameters
    ----------
    subsets: drawn per size to average over; their scatter is the spread.
    voters: of them, how many choose their strength; the others take over a voter's.
    pairs: of whole-layer fits with opposite shocks, per size and strength.
    tol: of every whole-layer fit, as in `fit_pulled`.
    seed: fixes the subsets.
    """

    subsets: int = 40
    voters: int = 20
    pairs: int = 4
    tol: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse fewer than can be averaged over."""
        if not 2 <= self.voters <= self.subsets or self.pairs < 2 or not 0 < self.tol < 1:
            raise CriticalMassError(
                f"subsets={self.subsets}, voters={self.voters}, pairs={self.pairs}, "
                f"tol={self.tol}; give 2 <= voters <= subsets, pairs >= 2 and tol in (0, 1)"
            )


@dataclass(frozen=True, eq=False)
class LogisticPrediction:
    """Predicted logistic probes, one entry per size.

    Attributes
    ----------
    sizes: numbers of neurons.
    accuracy: (n_sizes,) mean over random subsets.
    std: (n_sizes,) standard deviation over random subsets; 0 for the whole layer.
    sampling_error: (n_sizes,) standard error of ``accuracy`` for having drawn few subsets and
        made few rounds of fits; not an error of the law.
    l2: (n_sizes,) the strength that most subsets choose.
    chosen: (n_sizes, n_strengths) share of subsets that choose each of ``strengths``.
    strengths: those that competed, strongest first.
    penalty: (n_sizes,) the whole layer's penalty at ``l2``, averaged over class directions.
    passes: over the training rows, of all whole-layer fits; each serves many sizes.
    """

    sizes: tuple[int, ...]
    accuracy: FloatArray
    std: FloatArray
    sampling_error: FloatArray
    l2: FloatArray
    chosen: FloatArray
    strengths: tuple[float, ...]
    penalty: FloatArray
    passes: int


@checked
def predict_logistic(
    train: Labelled,
    test: Labelled,
    sizes: Sequence[int],
    *,
    l2: float | Sequence[float] = LogisticProtocol().l2s,
    sampling: LogisticSampling | None = None,
) -> LogisticPrediction:
    """Predict the measure ``logistic`` on random subsets of neurons, of every size.

    No probe is fitted on a subset. Each size and strength takes fits of the whole layer that are
    pulled towards random vectors (docs/theory.md, law 3). The strength is chosen as a sweep
    chooses it: on the sweep's validation rows, by each drawn subset for itself.

    Measured on four feature sets that it was not developed on, against 20 fitted subsets: of 20
    sizes k >= 20, 17 within .01 of the mean accuracy, 8 within its standard error. It is too
    high, by up to .075, where k is so small that a subset may miss the few neurons that carry
    correlated mass. It costs about as much as a sweep of some seeds.

    Parameters
    ----------
    train: rows (n_train, n_neurons), raw, and labels (n_train,).
    test: rows (n_test, n_neurons) and labels (n_test,); a class that no training row has is
        never predicted.
    sizes: numbers of neurons, each in 1..n_neurons, ascending.
    l2: strengths that compete, or the one that is used.
    sampling: how finely the law is sampled.

    Raises
    ------
    CriticalMassError: for a size or strength that does not exist, a single class, or rows and
        labels that do not fit.
    """
    how = sampling or LogisticSampling()
    strengths = tuple(sorted({float(v) for v in np.atleast_1d(np.asarray(l2))}, reverse=True))
    check_strengths(strengths)
    bench = _Bench.of(train, test, how)
    ks = tuple(int(k) for k in checked_sizes(sizes, bench.basis.n_neurons))
    step = max(1, _WEIGHTS // (bench.basis.n_neurons * bench.n_classes))
    parts = [_predict(bench, ks[i : i + step], strengths, how) for i in range(0, len(ks), step)]

    def joined(name: str) -> FloatArray:
        return np.concatenate([getattr(part, name) for part in parts])

    return LogisticPrediction(
        sizes=ks,
        accuracy=joined("accuracy"),
        std=joined("std"),
        sampling_error=joined("sampling_error"),
        l2=joined("l2"),
        chosen=joined("chosen"),
        strengths=strengths,
        penalty=joined("penalty"),
        passes=sum(part.passes for part in parts),
    )


@dataclass(frozen=True, eq=False)
class _Bench:
    """Training, validation and test rows in the eigenbasis, and the subsets to be drawn."""

    basis: Eigenbasis
    whole: Layer
    fitted: Layer
    judged: tuple[Single, NDArray[np.int64]]
    test: tuple[Single, NDArray[np.int64]]
    seed: int

    @property
    def n_classes(self) -> int:
        """Number of classes that training rows have."""
        return self.basis.n_classes

    @classmethod
    def of(cls, train: Labelled, test: Labelled, how: LogisticSampling) -> _Bench:
        labels, truth = np.asarray(train[1]), np.asarray(test[1])
        if labels.shape != (train[0].shape[0],) or truth.shape != (test[0].shape[0],):
            raise CriticalMassError(
                f"{labels.shape} and {truth.shape} labels for {train[0].shape[0]} training and "
                f"{test[0].shape[0]} test rows; give one class per row"
            )
        present, ids = np.unique(labels, return_inverse=True)
        if present.size < 2:
            raise CriticalMassError(f"the training rows have {present.size} class; give 2 or more")
        basis = eigenbasis(train[0], ids.astype(np.int64), n_classes=present.size)
        x, held = _rotated(basis, train[0]), validation_rows(labels)
        # Validation rows last: the fits that race read the rows before them.
        rank = np.concatenate([np.flatnonzero(~held), np.flatnonzero(held)])
        x, y, cut = x[rank], ids[rank].astype(np.int64), int((~held).sum())
        place = np.minimum(np.searchsorted(present, truth), present.size - 1)
        known = np.where(present[place] == truth, place, -1).astype(np.int64)
        return cls(
            basis=basis,
            whole=Layer(x, y, basis.eigenvalues),
            fitted=Layer(x[:cut], y[:cut], basis.eigenvalues),
            judged=(x[cut:], y[cut:]),
            test=(_rotated(basis, test[0]), known),
            seed=how.seed,
        )

    def normals(self, stream: int, count: int) -> Iterator[Single]:
        """Yield ``count`` arrays (d, C) of standard normals, the same for the same stream."""
        for m in range(count):
            rng = np.random.default_rng([self.seed, stream, m])
            yield rng.standard_normal((self.basis.n_neurons, self.n_classes), dtype=np.float32)

    def score(self, heads: LogisticHeads, count: int, *, judged: bool) -> tuple[FloatArray, float]:
        """Return the accuracy (count,) of drawn subsets on validation or test rows.

        The second is the variance of what they all were corrected by.
        """
        x, y = self.judged if judged else self.test
        drawn, (true, linear) = heads.draw(list(self.normals(_DRAWN, count)))
        right = _accuracy(np.concatenate([drawn, true, linear]), x, y)
        rounds = len(true)
        beyond = right[count : count + rounds] - right[count + rounds :]
        doubt = float(beyond.var(ddof=1)) / rounds if rounds > 1 else 0.0
        return np.clip(right[:count] + beyond.mean(), 0.0, 1.0), doubt


def _accuracy(heads: Single, x: Single, y: NDArray[np.int64]) -> FloatArray:
    """Return the accuracy of every head (M, d + 1, C)."""
    flat = np.ascontiguousarray(heads.transpose(1, 0, 2)).reshape(heads.shape[1], -1)
    right = np.zeros(len(heads))
    for start in range(0, len(y), _CHUNK):
        block = x[start : start + _CHUNK] @ flat
        found = block.reshape(len(block), len(heads), -1).argmax(axis=2)
        right += (found == y[start : start + _CHUNK, None]).sum(axis=0)
    return right / len(y)


def _rotated(basis: Eigenbasis, rows: Rows) -> Single:
    """Return rows in the eigenbasis with a column of ones, (n, d + 1)."""
    n = int(rows.shape[0])
    out = np.ones((n, basis.n_neurons + 1), np.float32)
    for start in range(0, n, _CHUNK):
        block = np.asarray(rows[start : start + _CHUNK])
        out[start : start + len(block), :-1] = basis.rotate(block)
    return out


@dataclass(frozen=True, eq=False)
class _Part:
    """The prediction of some sizes, as in `LogisticPrediction`."""

    accuracy: FloatArray
    std: FloatArray
    sampling_error: FloatArray
    l2: FloatArray
    chosen: FloatArray
    penalty: FloatArray
    passes: int


def _predict(
    bench: _Bench, sizes: tuple[int, ...], strengths: tuple[float, ...], how: LogisticSampling
) -> _Part:
    """Let drawn subsets choose strengths, fit all rows at those, and score the same subsets."""
    votes, raced, passes = _race(bench, sizes, strengths, how)
    cells, law = _refit(bench, sizes, strengths, (votes, raced), how)
    accuracy = np.zeros((len(sizes), how.subsets))
    doubts = np.zeros(len(sizes))
    mine = votes[:, np.arange(how.subsets) % how.voters]
    penalty = np.zeros((len(sizes), len(strengths)))
    for (j, i, _), heads in zip(cells, law.heads, strict=True):
        found, doubt = bench.score(heads, how.subsets, judged=False)
        accuracy[j] = np.where(mine[j] == i, found, accuracy[j])
        doubts[j] += (mine[j] == i).mean() ** 2 * doubt
        penalty[j, i] = heads.penalty[1:].mean()
    chosen = (votes[:, :, None] == np.arange(len(strengths))).mean(axis=1)
    most = chosen.argmax(axis=1)
    return _Part(
        accuracy=accuracy.mean(axis=1),
        std=accuracy.std(axis=1, ddof=1),
        sampling_error=np.sqrt(accuracy.var(axis=1, ddof=1) / how.subsets + doubts),
        l2=np.asarray(strengths)[most],
        chosen=chosen,
        penalty=penalty[np.arange(len(sizes)), most],
        passes=law.passes + passes,
    )


def _refit(
    bench: _Bench,
    sizes: tuple[int, ...],
    strengths: tuple[float, ...],
    race: tuple[NDArray[np.intp], list[dict[int, Consistent]]],
    how: LogisticSampling,
) -> tuple[list[tuple[int, int, Cell]], Consistent]:
    """Fit every strength that won at a size on all training rows, from where the race left it."""
    votes, raced = race
    cells = [
        (j, int(i), Cell(k, strengths[i])) for j, k in enumerate(sizes) for i in np.unique(votes[j])
    ]
    start = _stacked([raced[i][j] for j, i, _ in cells]) if raced else None
    asked = [cell for _, _, cell in cells]
    normals = list(bench.normals(_FITTED, how.pairs))
    return cells, consistent_heads(bench.whole, asked, normals, start=start, tol=how.tol)


def _stacked(parts: Sequence[Consistent]) -> Consistent:
    return Consistent(
        tuple(head for part in parts for head in part.heads),
        np.concatenate([part.curvature for part in parts]),
        0,
    )


def _race(
    bench: _Bench, sizes: tuple[int, ...], strengths: tuple[float, ...], how: LogisticSampling
) -> tuple[NDArray[np.intp], list[dict[int, Consistent]], int]:
    """Return which strength every drawn subset chooses, (n_sizes, voters), the fits, passes.

    The fits are given per strength, under the place of their size.
    """
    if len(strengths) == 1:
        return np.zeros((len(sizes), how.voters), np.intp), [], 0
    scores = np.zeros((len(sizes), how.voters, len(strengths)))
    raced: list[dict[int, Consistent]] = []
    running, passes = list(range(len(sizes))), 0
    # All strengths meet the same shocks: what is luck in them tips no choice.
    normals = list(bench.normals(_RACED, 2))
    for i, l2 in enumerate(strengths):
        start = _stacked([raced[-1][j] for j in running]) if raced else None
        cells = [Cell(sizes[j], l2) for j in running]
        law = consistent_heads(bench.fitted, cells, normals, start=start, tol=3 * how.tol)
        passes += law.passes
        raced.append({j: law.of(place) for place, j in enumerate(running)})
        for j, heads in zip(running, law.heads, strict=True):
            scores[j, :, i] = bench.score(heads, how.voters, judged=True)[0]
        n, tried = len(bench.judged[1]), i + 1
        running = [j for j in running if any(_goes_on(s[:tried], n) for s in scores[j])]
        if not running:
            break
    votes = [[race_winner(s, len(bench.judged[1])) for s in by_size] for by_size in scores]
    return np.array(votes, dtype=np.intp), raced, passes


def _goes_on(accuracy: FloatArray, n_judged: int) -> bool:
    """Whether the next weaker penalty is tried, after those of ``accuracy`` (n_tried,)."""
    if accuracy.size < 2:
        return True
    gains = np.diff(accuracy)
    expected = float(gains[-1])
    if gains.size > 1 and gains[-2] > 0:
        expected *= min(1.0, abs(expected) / float(gains[-2])) ** 2
    return expected >= _step(accuracy, n_judged)


def _step(accuracy: FloatArray, n_judged: int) -> float:
    """Return the smallest step in accuracy that counts: half a standard error of the best."""
    best = float(accuracy.max())
    return LogisticProtocol().patience * math.sqrt(best * (1 - best) / max(1, n_judged))


def race_winner(accuracy: FloatArray, n_judged: int) -> int:
    """Return which strength wins the sweep's race, given what each would score.

    The rule of `criticalmass.measures.logistic.probe`: weaken the penalty as long as the next step
    is expected to gain half a standard error, then take the strongest that ties with the best.

    Parameters
    ----------
    accuracy: (n_strengths,) on the validation rows, strongest penalty first.
    n_judged: number of validation rows.
    """
    tried = 1
    while tried < accuracy.size and _goes_on(accuracy[:tried], n_judged):
        tried += 1
    known = accuracy[:tried]
    return int(np.argmax(known >= known.max() - 0.1 * _step(known, n_judged)))
