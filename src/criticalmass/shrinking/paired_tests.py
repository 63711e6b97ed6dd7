"""Tests and confidence bounds for what a subset keeps, on samples that took no part in choosing.

A promise is made if its tests pass. The null hypotheses are "the subset keeps less than a share r
of the whole layer's accuracy" and "this class loses more than D". Both heads answer the same
samples, so only four counts of who was right matter. The tests are paired score tests, with the
variance computed under the null hypothesis (Tango 1998 for differences, Tang, Tang and Chan 2003
for ratios). Unlike tests of a studentised mean they do not pass on a few samples without a
disagreement. Scores of queries are tested by betting (`score_ratio_bound`), which holds for any
distribution in [0, 1] and any number of samples.

All parts of a promise must hold. Each part is tested at the full level, so the promise has that
level as a whole (intersection-union test, Berger 1982). Sizes are tested from the largest down
and the first failure ends the sequence. The sequence is fixed beforehand, so no correction is
needed (Marcus, Peritz and Gabriel 1976; "Learn then Test", Angelopoulos et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from criticalmass.errors import CriticalMassError

# Ratios of mean scores are tested at all multiples of 1/5,000.
_RATIOS_PER_UNIT = 5_000


@dataclass(frozen=True)
class PairedCounts:
    """Counts of samples by whether the subset and the whole layer are right on them.

    Attributes
    ----------
    both: both are right.
    lost: only the whole layer is right.
    gained: only the subset is right.
    neither: both are wrong.
    """

    both: int
    lost: int
    gained: int
    neither: int

    @classmethod
    def count(cls, subset_right: ArrayLike, full_right: ArrayLike) -> PairedCounts:
        """Count from two (n_samples,) arrays of booleans.

        Raises
        ------
        CriticalMassError: if their shapes differ or are not one-dimensional.
        """
        subset = np.asarray(subset_right, dtype=np.bool_)
        full = np.asarray(full_right, dtype=np.bool_)
        if subset.ndim != 1 or subset.shape != full.shape:
            raise CriticalMassError(
                f"subset_right has shape {subset.shape} and full_right has shape {full.shape}; "
                "give one bool per sample, for the same samples"
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
        """Accuracy of the subset / accuracy of the whole layer; nan if the latter is 0."""
        full = self.both + self.lost
        return (self.both + self.gained) / full if full else math.nan

    @property
    def drop(self) -> float:
        """Accuracy of the whole layer - accuracy of the subset; nan without samples."""
        return (self.lost - self.gained) / self.n if self.n else math.nan

    @property
    def counts(self) -> NDArray[np.float64]:
        """(4,) both, lost, gained, neither."""
        return np.array([self.both, self.lost, self.gained, self.neither], dtype=np.float64)


def ratio_p_value(pairs: PairedCounts, keep: float) -> float:
    """Return the p-value of "the subset keeps at most the share ``keep`` of the accuracy".

    Parameters
    ----------
    pairs: counts on samples that took no part in any choice.
    keep: share of the whole layer's accuracy, > 0.

    Returns
    -------
    In [0, 1]; 1 without samples.
    """
    return _score_test(pairs.counts, np.array([1.0 - keep, -keep, 1.0, 0.0]))


def drop_p_value(pairs: PairedCounts, drop: float) -> float:
    """Return the p-value of "the subset loses at least ``drop`` of accuracy" (absolute).

    Parameters
    ----------
    pairs: counts, e.g. on the samples of one class.
    drop: accuracy that may be lost, in (0, 1].

    Returns
    -------
    In [0, 1]; 1 without samples.
    """
    return _score_test(pairs.counts, np.array([drop, drop - 1.0, 1.0 + drop, drop]))


def ratio_bound(pairs: PairedCounts, level: float = 0.95) -> float:
    """Return the lower confidence bound of the share of accuracy kept: the inverted test.

    Parameters
    ----------
    pairs: counts on samples that took no part in any choice.
    level: confidence, in (0, 1).

    Returns
    -------
    At least 0.

    Raises
    ------
    CriticalMassError: if the level is outside (0, 1).
    """
    _check_level(level)
    return _largest_true(lambda keep: ratio_p_value(pairs, keep) <= 1.0 - level, 0.0, 2.0)


def drop_bound(pairs: PairedCounts, level: float = 0.95) -> float:
    """Return the upper confidence bound of the accuracy that is lost: the inverted test.

    Parameters
    ----------
    pairs: counts, e.g. on the samples of one class.
    level: confidence, in (0, 1).

    Returns
    -------
    In [-1, 1].

    Raises
    ------
    CriticalMassError: if the level is outside (0, 1).
    """
    _check_level(level)
    return -_largest_true(lambda gain: drop_p_value(pairs, -gain) <= 1.0 - level, -1.0, 1.0)


def score_ratio_bound(subset: ArrayLike, full: ArrayLike, level: float = 0.95) -> float:
    """Return the lower confidence bound of the ratio of two mean scores of the same samples.

    The hypothesis "the mean of subset - r full is at most 0" is tested by betting (Waudby-Smith
    and Ramdas 2024). Each sample multiplies a wealth of 1 by 1 + bet (subset - r full), where the
    bet depends on earlier samples only. By Ville's inequality the wealth reaches 1/(1 - level)
    with probability at most 1 - level under the hypothesis, whatever the distribution and the
    number of samples. The bets are those that, for Gaussian differences, lead to exactly this
    wealth or to nothing after the last sample: they are recalculated from the wealth and the
    samples that are left, as those of Voracek and Orabona (2025).

    Parameters
    ----------
    subset, full: (n_samples,) paired scores in [0, 1], of independent samples. They are taken in
        a fixed pseudo-random order. With a ``full`` of ones it is the bound of a mean score.
    level: confidence, in (0, 1).

    Returns
    -------
    The largest multiple of 0.0002, up to 2, such that it and all smaller ones are rejected; 0 if
    none is.

    Raises
    ------
    CriticalMassError: if the shapes differ, the level is outside (0, 1), or a score is outside
        [0, 1].
    """
    from criticalmass.shrinking.betting import count_rejected

    _check_level(level)
    scores, scores_full = _checked_scores(subset), _checked_scores(full)
    if scores.shape != scores_full.shape:
        raise CriticalMassError(
            f"scores of the subset have shape {scores.shape}, of the whole layer "
            f"{scores_full.shape}; give one per sample, the same samples for both"
        )
    if not scores_full.any():
        return 0.0
    # A ratio above that of the sample is not tested, which can only lower the bound.
    highest = min(scores.sum() / scores_full.sum(), 2.0)
    ratios = np.arange(1, int(highest * _RATIOS_PER_UNIT) + 1) / _RATIOS_PER_UNIT
    order = np.random.default_rng(0).permutation(scores.size)
    n_rejected = count_rejected(ratios, scores[order], scores_full[order], 1.0 - level)
    return float(ratios[n_rejected - 1]) if n_rejected else 0.0


def count_passes(passes: Sequence[bool]) -> int:
    """Count the tests of a fixed sequence that pass before the first failure."""
    for index, is_pass in enumerate(passes):
        if not is_pass:
            return index
    return len(passes)


def _checked_scores(values: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all() or np.any((scores < 0) | (scores > 1)):
        raise CriticalMassError(f"scores of shape {scores.shape} must be one number in [0, 1] each")
    return scores


def _score_test(counts: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the p-value of E(weight) <= 0, with the variance under the null hypothesis.

    ``counts`` are the (4,) paired counts and ``weights`` the (4,) weights of the four kinds of
    samples. Without a positive mean the p-value is 1, without a negative weight it is 0.
    """
    n = float(counts.sum())
    mean = float(counts @ weights)
    if n == 0.0 or mean <= 0.0:
        return 1.0
    if not (weights < 0.0).any():
        return 0.0
    shares = _null_shares(counts, weights)
    variance = n * float(shares @ weights**2)
    return float(ndtr(-mean / math.sqrt(variance)))


def _null_shares(counts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (4,) maximum-likelihood shares of the four kinds, given E(weight) = 0.

    The likelihood is largest at n_j / (n (1 + s w_j)), with s chosen so that the mean weight is 0.
    A kind that does not occur may have a positive share if 1 + s w_j = 0: it then takes the share
    that the others leave.
    """
    n = float(counts.sum())
    lowest = float(weights.min())
    # The sample's mean is above 0, so mass moves to negative weights: s is in (0, 1/|lowest|].
    end = -1.0 / lowest
    occurs = counts > 0.0

    # Of four numbers, Python's own sum is faster than numpy's.
    terms = [(float(n * w), float(w)) for n, w in zip(counts, weights, strict=True) if n * w]

    def excess(s: float) -> float:
        return math.fsum(product / (1.0 + s * weight) for product, weight in terms)

    shares = np.zeros_like(counts)
    at_end = 1.0 + end * weights
    if not np.any(occurs & (weights == lowest)) and excess(end) >= 0.0:
        shares[occurs] = counts[occurs] / (n * at_end[occurs])
        shares[int(np.argmin(weights))] = 1.0 - float(shares.sum())
        return shares
    # If the kind of lowest weight occurs, the excess goes to minus infinity towards the end.
    s = float(brentq(excess, 0.0, end * (1.0 - 1e-13), xtol=1e-14))
    shares[occurs] = counts[occurs] / (n * (1.0 + s * weights[occurs]))
    return shares / float(shares.sum())


def _largest_true(is_true: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest value in [low, high], to 1e-6, at which a monotone predicate is true."""
    if is_true(high):
        return high
    while high - low > 1e-6:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_true(middle) else (low, middle)
    return low


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise CriticalMassError(f"level={level} is outside (0, 1); 0.95 is usual")
