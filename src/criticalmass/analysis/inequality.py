"""Inequality of class accuracies: Gini coefficient, coefficient of variation, largest gap.

The proportional-odds baseline tells how unequal the classes would be at a lower accuracy if no
class were treated differently: the odds of an error grow by one factor in all classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError

_MAX_NEWTON_STEPS = 60
_ACCURACY_TOLERANCE = 1e-10


@validate_arguments
def gini(x: npt.ArrayLike) -> float:
    """Compute the Gini coefficient, sum_ij |x_i - x_j| / (2 n^2 mean(x)).

    This is the population form, in [0, (n - 1)/n]. The other common form divides by n (n - 1) and
    is n/(n - 1) times larger. The analysis code of Nanda et al. (2023) also uses the population
    form, on class accuracies averaged over seeds, after adding 1e-7 to each.

    Parameters
    ----------
    x: (n,) numbers, 0 or more, such as class accuracies. If all are 0, the result is 0.

    Raises
    ------
    CriticalMassError: if x is empty, or a number is negative or not finite.
    """
    return float(gini_of_rows(_checked_numbers(x, "gini", minimum=0.0)))


@validate_arguments
def coefficient_of_variation(x: npt.ArrayLike) -> float:
    """Divide the population standard deviation by the mean; 0 if all numbers are 0.

    Parameters
    ----------
    x: (n,) numbers, 0 or more.

    Raises
    ------
    CriticalMassError: if x is empty, or a number is negative or not finite.
    """
    return float(variation_of_rows(_checked_numbers(x, "coefficient_of_variation", minimum=0.0)))


@validate_arguments
def max_min_gap(x: npt.ArrayLike) -> float:
    """Subtract the smallest number from the largest.

    Parameters
    ----------
    x: (n,) numbers of any sign.

    Raises
    ------
    CriticalMassError: if x is empty, or a number is not finite.
    """
    return float(np.ptp(_checked_numbers(x, "max_min_gap", minimum=-np.inf)))


def gini_of_rows(x: FloatArray) -> FloatArray:
    """Compute the Gini coefficient over the last axis of (..., n), without checks."""
    n = x.shape[-1]
    ranked = np.sort(x, axis=-1)
    weights = 2.0 * np.arange(1, n + 1) - n - 1.0
    return _ratio(ranked @ weights, n * ranked.sum(axis=-1))


def variation_of_rows(x: FloatArray) -> FloatArray:
    """Compute the coefficient of variation over the last axis of (..., n), without checks."""
    return _ratio(x.std(axis=-1), x.mean(axis=-1))


def gini_without_noise(x: FloatArray, noise: FloatArray) -> FloatArray:
    """Estimate the Gini coefficient of the true values behind noisy numbers.

    Noise makes equal numbers differ, so the Gini coefficient of estimates is too large on
    average. The correction moves the estimates toward their mean until their variance is that of
    the true values, s^2 - mean(noise). With a fixed mean the Gini coefficient is proportional to
    the deviations, so it is multiplied by sqrt(1 - mean(noise) / s^2), or by 0 if the noise
    exceeds s^2. The corrected variance is unbiased; the coefficient is exact for normal true
    values and noise.

    Parameters
    ----------
    x: (..., n) estimates, 0 or more.
    noise: (..., n) variance of each estimate.

    Returns
    -------
    (...) corrected coefficients.
    """
    if x.shape[-1] < 2:
        return gini_of_rows(x)
    variance = x.var(axis=-1, ddof=1)
    signal_share = 1.0 - _ratio(noise.mean(axis=-1), variance)
    return gini_of_rows(x) * np.sqrt(np.clip(signal_share, 0.0, 1.0))


def proportional_odds_accuracy(
    accuracy: FloatArray, shares: FloatArray, target: FloatArray
) -> FloatArray:
    """Change class accuracies to a target mean by one factor on the odds of all classes.

    This is the proportional-odds baseline. With p a class accuracy and t the factor on the odds
    of an error, the result is p / (p + (1 - p) t); t is found by a safeguarded Newton method.

    Parameters
    ----------
    accuracy: (..., C) class accuracies, inside (0, 1); broadcasts against ``target``.
    shares: (C,) share of each class among the test samples.
    target: (...) mean accuracy of the result, inside (0, 1).

    Returns
    -------
    (..., C) class accuracies with ``result @ shares == target``.
    """
    target = np.asarray(target, dtype=np.float64)
    shape = np.broadcast_shapes(accuracy.shape[:-1], target.shape)
    goal = np.broadcast_to(target, shape)
    wrong = 1.0 - accuracy
    low, high = np.full(shape, -60.0), np.full(shape, 60.0)
    # The unknown is log t. There is one exponential per target and none per class.
    log_factor = np.asarray(_logit(accuracy @ shares) - _logit(goal))
    for _ in range(_MAX_NEWTON_STEPS):
        q = accuracy / (accuracy + wrong * np.exp(log_factor)[..., None])
        mean = q @ shares
        if not q.size or np.abs(mean - goal).max() <= _ACCURACY_TOLERANCE:
            break
        is_above = mean > goal
        low, high = np.where(is_above, log_factor, low), np.where(is_above, high, log_factor)
        # Newton on the logit of the mean, which is nearly linear in log t.
        slope = (q * (1.0 - q)) @ shares / (mean * (1.0 - mean))
        newton = log_factor + (_logit(mean) - _logit(goal)) / np.maximum(slope, 1e-3)
        is_inside = (newton > low) & (newton < high)
        log_factor = np.where(is_inside, newton, 0.5 * (low + high))
    return np.asarray(accuracy / (accuracy + wrong * np.exp(log_factor)[..., None]))


def clip_half_sample(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Move class accuracies of 0 and 1 inward by half a test sample, so that odds are finite.

    Parameters
    ----------
    accuracy: (..., C) class accuracies.
    counts: (C,) number of test samples of each class.
    """
    edge = 0.5 / (counts + 1.0)
    return np.clip(accuracy, edge, 1.0 - edge)


def excess_inequality(
    accuracy: FloatArray, baseline: FloatArray, full_accuracy: FloatArray, counts: FloatArray
) -> FloatArray:
    """Subtract the Gini coefficient of the proportional-odds baseline from that of a subset.

    Both coefficients are corrected for sampling noise (`gini_without_noise`). The noise of the
    subset's accuracies is binomial; the noise of the baseline is the binomial noise of the whole
    layer, propagated through the change of the odds. The two differ, so uncorrected coefficients
    would show an excess (mostly a negative one) where there is none.

    Parameters
    ----------
    accuracy: (..., C) class accuracies of the subset, inside (0, 1).
    baseline: (..., C) class accuracies from `proportional_odds_accuracy`.
    full_accuracy: (..., C) class accuracies of the whole layer, inside (0, 1); broadcasts.
    counts: (C,) number of test samples of each class.

    Returns
    -------
    (...) differences; above 0 the classes of the subset are more unequal than the baseline.
    """
    slope = baseline * (1.0 - baseline) / (full_accuracy * (1.0 - full_accuracy))
    subset_gini = gini_without_noise(accuracy, binomial_noise(accuracy, counts))
    baseline_gini = gini_without_noise(baseline, slope**2 * binomial_noise(full_accuracy, counts))
    return subset_gini - baseline_gini


def binomial_noise(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Unbiased variance of class accuracies over test samples; 0 for a class of one sample."""
    return accuracy * (1.0 - accuracy) / np.maximum(counts - 1.0, 1.0)


def shrunken_worst(
    accuracy: FloatArray, draws: FloatArray, level: float
) -> tuple[int, float, float, float]:
    """Estimate the true accuracy of the class with the lowest estimate, by empirical Bayes.

    The lowest of several noisy accuracies is low by chance as well, so an interval around it
    misses too often. The class accuracies get a beta prior with their own mean and the variance
    that the noise leaves over (Efron and Morris 1975); the posterior of the class is not
    affected by its being picked (Dawid 1994). Few classes say little about that variance, so the
    interval covers the posterior of two priors: one with the estimate of the variance, one with
    its upper bound (one-sided, 90 %). It reaches 0 or 1 if no sample, or every
    sample, of the class is right. What all classes share of the noise is not shrunk: its variance
    is added to the interval.

    Parameters
    ----------
    accuracy: (C,) estimated class accuracies.
    draws: (resamples, C) bootstrap draws of them.
    level: confidence level of the interval.

    Returns
    -------
    The position of the class, its shrunken accuracy, and both ends of the interval.
    """
    from scipy.special import betaincinv, chdtri, ndtri

    worst = int(accuracy.argmin())
    variance = draws.var(axis=0)
    n_pairs = max(1, accuracy.size * (accuracy.size - 1))
    # The mean covariance of two classes.
    shared = max(0.0, float(draws.sum(axis=1).var() - variance.sum()) / n_pairs)
    variance = np.maximum(variance - shared, 0.1 * variance + 1e-12)
    value, noise = float(accuracy[worst]), float(variance[worst])
    centre = float(np.clip(accuracy.mean(), 1e-6, 1.0 - 1e-6))
    # The number of samples that have this noise; draws of no or only right answers have that of
    # a share of half a sample more.
    share = float(np.clip(value, noise**0.5 / 2.0, 1.0 - noise**0.5 / 2.0))
    n = max(1.0, share * (1.0 - share) / noise)
    spread = float(accuracy.var(ddof=1)) if accuracy.size > 1 else 1.0
    signal = max(0.0, spread - float(variance.mean()))
    freedom = max(1, accuracy.size - 1)
    noisy = max(spread, float(variance.mean()))
    most = noisy * freedom / float(chdtri(freedom, 0.9)) - float(variance.mean())
    tail = (1.0 - level) / 2.0
    ends, means = [], []
    for prior_variance in (max(signal, 1e-4), max(most, 1e-4)):
        strength = max(centre * (1.0 - centre) / prior_variance - 1.0, 0.5)
        right = value * n + centre * strength
        wrong = (1.0 - value) * n + (1.0 - centre) * strength
        ends.append([betaincinv(right, wrong, p) for p in (tail, 1.0 - tail)])
        means.append(right / (right + wrong))
    estimate = means[1]
    of_shared = float(ndtri(1.0 - tail)) ** 2 * shared
    low = estimate - np.sqrt((estimate - np.min(ends)) ** 2 + of_shared)
    high = estimate + np.sqrt((np.max(ends) - estimate) ** 2 + of_shared)
    low, high = max(0.0, float(low)), min(1.0, float(high))
    return worst, float(estimate), 0.0 if value == 0.0 else low, 1.0 if value == 1.0 else high


def toward_mean(accuracy: FloatArray, noise: FloatArray) -> FloatArray:
    """Move class accuracies (..., C) to their mean until their variance is that of the truth.

    As in `gini_without_noise`; ``noise`` (..., C) is the variance of each estimate.
    """
    if accuracy.shape[-1] < 2:
        return accuracy
    mean = accuracy.mean(axis=-1, keepdims=True)
    share = 1.0 - _ratio(noise.mean(axis=-1), accuracy.var(axis=-1, ddof=1))
    return np.asarray(mean + np.sqrt(np.clip(share, 0.0, 1.0))[..., None] * (accuracy - mean))


def noise_in_gini(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Part of the Gini coefficient of (..., C) class accuracies that sampling noise adds."""
    return gini_of_rows(accuracy) - gini_without_noise(accuracy, binomial_noise(accuracy, counts))


def _ratio(numerator: Any, denominator: Any) -> FloatArray:
    """Divide; 0 if the denominator is 0."""
    denominator = np.asarray(denominator, dtype=np.float64)
    safe = np.where(denominator > 0.0, denominator, 1.0)
    return np.where(denominator > 0.0, np.asarray(numerator, dtype=np.float64) / safe, 0.0)


def _checked_numbers(x: npt.ArrayLike, name: str, *, minimum: float) -> FloatArray:
    numbers = np.asarray(x, dtype=np.float64).ravel()
    if not numbers.size:
        raise CriticalMassError(f"{name} needs at least one number, got none")
    if not np.isfinite(numbers).all():
        raise CriticalMassError(
            f"{name} is not defined for {numbers[~np.isfinite(numbers)][0]}; remove it first"
        )
    if numbers.min() < minimum:
        raise CriticalMassError(
            f"{name} is not defined for {numbers.min():g}; all numbers must be 0 or more"
        )
    return numbers


def _logit(p: FloatArray) -> FloatArray:
    return np.asarray(np.log(p / (1.0 - p)))
