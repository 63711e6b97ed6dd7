"""What a held-out part of the data allows to promise of a subset, and with what confidence.

A promise is a test passed. Against "the subset keeps less than a share r of the whole layer's
accuracy" and "this class loses more than D" stand paired score tests: both heads answer the same
samples, so only the four counts of who was right matter, and the variance is taken where the null
hypothesis holds (Tango 1998 for differences, Tang, Tang and Chan 2003 for ratios). Unlike a
studentised mean they promise nothing on a handful of samples without a disagreement.

All the parts of one promise must hold, so each is tested at the full level and the whole has that
level too (intersection-union test, Berger 1982). Sizes are tried from the largest downwards and
the first that fails ends the descent: in a sequence fixed beforehand no correction is needed
(Marcus, Peritz and Gabriel 1976; "Learn then Test", Angelopoulos et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

from criticalmass.errors import CriticalMassError

# Below so few samples Student's law says nothing of a mean of scores in [0, 1].
_FEWEST_SCORES = 30


@dataclass(frozen=True)
class Paired:
    """How often two heads were right on the same samples.

    Attributes
    ----------
    both, lost, gained, neither: samples on which both are right, only the whole layer is,
        only the subset is, none is.
    """

    both: int
    lost: int
    gained: int
    neither: int

    @classmethod
    def count(cls, subset_right: ArrayLike, full_right: ArrayLike) -> Paired:
        """Count from two (n_samples,) arrays of booleans.

        Raises
        ------
        CriticalMassError: if they differ in length.
        """
        subset = np.asarray(subset_right, dtype=np.bool_)
        full = np.asarray(full_right, dtype=np.bool_)
        if subset.ndim != 1 or subset.shape != full.shape:
            raise CriticalMassError(
                f"hits of the subset have shape {subset.shape}, of the whole layer {full.shape}; "
                "give one bool per sample, the same samples for both"
            )
        return cls(
            both=int(np.sum(subset & full)),
            lost=int(np.sum(~subset & full)),
            gained=int(np.sum(subset & ~full)),
            neither=int(np.sum(~subset & ~full)),
        )

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.both + self.lost + self.gained + self.neither

    @property
    def ratio(self) -> float:
        """Accuracy of the subset over that of the whole layer; nan if that is 0."""
        full = self.both + self.lost
        return (self.both + self.gained) / full if full else math.nan

    @property
    def drop(self) -> float:
        """Accuracy of the whole layer less that of the subset; nan without samples."""
        return (self.lost - self.gained) / self.n if self.n else math.nan

    @property
    def counts(self) -> NDArray[np.float64]:
        """(4,) both, lost, gained, neither."""
        return np.array([self.both, self.lost, self.gained, self.neither], dtype=np.float64)


def ratio_p_value(pairs: Paired, keep: float) -> float:
    """p-value against "the subset keeps at most the share ``keep`` of the accuracy".

    Parameters
    ----------
    pairs: counts on samples that took no part in any choice.
    keep: share of the whole layer's accuracy, > 0.

    Returns
    -------
    In [0, 1]; 1 without samples.
    """
    return _score_test(pairs.counts, np.array([1.0 - keep, -keep, 1.0, 0.0]))


def drop_p_value(pairs: Paired, drop: float) -> float:
    """p-value against "the subset loses at least ``drop`` of accuracy" (absolute).

    Parameters
    ----------
    pairs: counts, e.g. on the samples of one class.
    drop: accuracy that may be lost, in (0, 1].

    Returns
    -------
    In [0, 1]; 1 without samples.
    """
    return _score_test(pairs.counts, np.array([drop, drop - 1.0, 1.0 + drop, drop]))


def ratio_bound(pairs: Paired, level: float = 0.95) -> float:
    """Lower confidence bound of the share of accuracy that is kept: the test, inverted.

    Parameters
    ----------
    pairs: counts on samples that took no part in any choice.
    level: confidence, in (0, 1).

    Returns
    -------
    At least 0.
    """
    _check_level(level)
    return _largest(lambda keep: ratio_p_value(pairs, keep) <= 1.0 - level, 0.0, 2.0)


def drop_bound(pairs: Paired, level: float = 0.95) -> float:
    """Upper confidence bound of the accuracy that is lost: the test, inverted.

    Parameters
    ----------
    pairs: counts, e.g. on the samples of one class.
    level: confidence, in (0, 1).

    Returns
    -------
    In [-1, 1].
    """
    _check_level(level)
    return -_largest(lambda gain: drop_p_value(pairs, -gain) <= 1.0 - level, -1.0, 1.0)


def mean_bound(values: ArrayLike, level: float = 0.95) -> float:
    """Lower confidence bound of a mean of scores, by Student's law.

    Parameters
    ----------
    values: (n_samples,) scores in [0, 1], e.g. nDCG of each query.
    level: confidence, in (0, 1).

    Returns
    -------
    At least 0; 0 on fewer than 30 samples, of which nothing can be promised. Where all scores
    are equal the bound of Clopper and Pearson for that many successes in a row is used: no
    scatter on n samples is no proof of none.
    """
    _check_level(level)
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all() or np.any((scores < 0) | (scores > 1)):
        raise CriticalMassError(f"scores of shape {scores.shape} must be one number in [0, 1] each")
    if scores.size < _FEWEST_SCORES:
        return 0.0
    spread = float(scores.std(ddof=1))
    step = float(t.ppf(level, scores.size - 1)) * spread / math.sqrt(scores.size)
    certain = float(scores.max() * (1.0 - level) ** (1.0 / scores.size))
    return max(0.0, min(float(scores.mean()) - step, certain))


def score_ratio_bound(subset: ArrayLike, full: ArrayLike, level: float = 0.95) -> float:
    """Lower confidence bound of the ratio of two means of scores of the same samples.

    Parameters
    ----------
    subset, full: (n_samples,) scores in [0, 1]; paired.
    level: confidence, in (0, 1).

    Returns
    -------
    The largest r at which Student's law still rejects "the mean of subset - r full is at most
    0"; at least 0. Where the whole layer always scores 1 it is `mean_bound`.

    Raises
    ------
    CriticalMassError: if the two differ in length or a score is outside [0, 1].
    """
    mine, whole = np.asarray(subset, dtype=np.float64), np.asarray(full, dtype=np.float64)
    if mine.shape != whole.shape:
        raise CriticalMassError(
            f"scores of the subset have shape {mine.shape}, of the whole layer {whole.shape}; "
            "give one per sample, the same samples for both"
        )
    certain = mean_bound(mine, level)
    if np.all(whole == 1.0):
        return certain
    if mine.size < _FEWEST_SCORES:
        return 0.0
    quantile = float(t.ppf(level, mine.size - 1))

    def holds(ratio: float) -> bool:
        each = mine - ratio * whole
        error = float(each.std(ddof=1)) / math.sqrt(each.size)
        return float(each.mean()) > quantile * error

    return _largest(holds, 0.0, 2.0) if holds(0.0) else 0.0


def descend(passes: Sequence[bool]) -> int:
    """How many of a fixed sequence of tests hold before the first that fails."""
    for place, held in enumerate(passes):
        if not held:
            return place
    return len(passes)


def _score_test(counts: NDArray[np.float64], worth: NDArray[np.float64]) -> float:
    """p-value against E(worth) <= 0 for a sample of four kinds, variance as under the null.

    ``worth`` has a negative entry (else the null hypothesis is impossible) and a positive one.
    """
    n = float(counts.sum())
    mean = float(counts @ worth)
    if n == 0.0 or mean <= 0.0:
        return 1.0
    if not (worth < 0.0).any():
        return 0.0
    share = _under_null(counts, worth)
    variance = n * float(share @ worth**2)
    return float(norm.sf(mean / math.sqrt(variance)))


def _under_null(counts: NDArray[np.float64], worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4,) most likely shares of the four kinds among those with E(worth) = 0.

    The likelihood is largest at n_j / (n (1 + s w_j)), s where the mean of worth vanishes. A kind
    never seen may have mass at the boundary 1 + s w_j = 0: then it takes what the others leave.
    """
    n = float(counts.sum())
    lowest = float(worth.min())
    # The sample's mean is above 0, so mass moves to negative worth: s lies in (0, 1/|lowest|].
    end = -1.0 / lowest

    def excess(s: float) -> float:
        return float(np.sum(counts[seen] * worth[seen] / (1.0 + s * worth[seen])))

    seen = counts > 0.0
    share = np.zeros_like(counts)
    at_end = 1.0 + end * worth
    if not np.any(seen & (worth == lowest)) and excess(end) >= 0.0:
        share[seen] = counts[seen] / (n * at_end[seen])
        share[int(np.argmin(worth))] = 1.0 - float(share.sum())
        return share
    # Towards the end a seen kind of lowest worth sends the excess to minus infinity.
    s = float(brentq(excess, 0.0, end * (1.0 - 1e-13), xtol=1e-14))
    share[seen] = counts[seen] / (n * (1.0 + s * worth[seen]))
    return share / float(share.sum())


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Largest value in [low, high], to 1e-6, at which a monotone statement still holds."""
    if holds(high):
        return high
    while high - low > 1e-6:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise CriticalMassError(f"level={level} is outside (0, 1); 0.95 is usual")
