"""How unequal numbers are: Gini coefficient, coefficient of variation, largest gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError


@checked
def gini(x: npt.ArrayLike) -> float:
    """Gini coefficient, sum_ij |x_i - x_j| / (2 n^2 mean(x)).

    The population form, in [0, (n - 1)/n]; the other common form, which divides by n (n - 1),
    is n/(n - 1) times it. The analysis code of Nanda et al. (2023) uses the population form
    too, on class accuracies averaged over seeds, after adding 1e-7 to each.

    Parameters
    ----------
    x: (n,) numbers, 0 or more, such as class accuracies. All zero: 0, all are equal.

    Raises
    ------
    CriticalMassError: for no number, a negative one, or one that is not finite.
    """
    return float(gini_of_rows(_checked(x, "gini", floor=0.0)))


@checked
def coefficient_of_variation(x: npt.ArrayLike) -> float:
    """Divide the population standard deviation by the mean; 0 if all numbers are zero.

    Parameters
    ----------
    x: (n,) numbers, 0 or more.

    Raises
    ------
    CriticalMassError: for no number, a negative one, or one that is not finite.
    """
    return float(variation_of_rows(_checked(x, "coefficient_of_variation", floor=0.0)))


@checked
def max_min_gap(x: npt.ArrayLike) -> float:
    """Largest number minus smallest.

    Parameters
    ----------
    x: (n,) numbers of any sign.

    Raises
    ------
    CriticalMassError: for no number, or one that is not finite.
    """
    return float(np.ptp(_checked(x, "max_min_gap", floor=-np.inf)))


def gini_of_rows(x: FloatArray) -> FloatArray:
    """Gini coefficient over the last axis of (..., n), unchecked."""
    n = x.shape[-1]
    ranked = np.sort(x, axis=-1)
    weights = 2.0 * np.arange(1, n + 1) - n - 1.0
    return _ratio(ranked @ weights, n * ranked.sum(axis=-1))


def variation_of_rows(x: FloatArray) -> FloatArray:
    """Coefficient of variation over the last axis of (..., n), unchecked."""
    return _ratio(x.std(axis=-1), x.mean(axis=-1))


def gini_without_noise(x: FloatArray, noise: FloatArray) -> FloatArray:
    """Gini coefficient of the truths behind noisy numbers, approximately.

    Noise makes equal numbers differ, so the Gini coefficient of estimates is too large on
    average. Here the estimates are drawn towards their mean until their variance is that of
    the truths, s^2 - mean(noise); with a fixed mean the Gini coefficient is proportional to
    the deviations, so it is multiplied by sqrt(1 - mean(noise) / s^2), or 0 if the noise
    explains all of s^2. Exact in expectation of s^2, and for normal truths and noise.

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
    spread = x.var(axis=-1, ddof=1)
    left = 1.0 - _ratio(noise.mean(axis=-1), spread)
    return gini_of_rows(x) * np.sqrt(np.clip(left, 0.0, 1.0))


def _ratio(top: Any, bottom: Any) -> FloatArray:
    """Divide; 0 where the bottom is 0."""
    bottom = np.asarray(bottom, dtype=np.float64)
    safe = np.where(bottom > 0.0, bottom, 1.0)
    return np.where(bottom > 0.0, np.asarray(top, dtype=np.float64) / safe, 0.0)


def _checked(x: npt.ArrayLike, name: str, *, floor: float) -> FloatArray:
    numbers = np.asarray(x, dtype=np.float64).ravel()
    if not numbers.size:
        raise CriticalMassError(f"{name} of no numbers; give at least one")
    if not np.isfinite(numbers).all():
        raise CriticalMassError(f"{name} of {numbers[~np.isfinite(numbers)][0]}; drop it first")
    if numbers.min() < floor:
        raise CriticalMassError(f"{name} of {numbers.min():g}; it is defined for 0 or more")
    return numbers


_MOST_STEPS = 60
_EXACT = 1e-10


def neutral_accuracy(whole: FloatArray, shares: FloatArray, accuracy: FloatArray) -> FloatArray:
    """Class accuracies if the whole layer lost accuracy with the same odds factor everywhere.

    Parameters
    ----------
    whole: (..., C) the whole layer's class accuracies, inside (0, 1); broadcasts.
    shares: (C,) share of each class among the test samples.
    accuracy: (...) overall accuracy to come down (or up) to, inside (0, 1).

    Returns
    -------
    (..., C) class accuracies with ``result @ shares == accuracy``.
    """
    target = np.asarray(accuracy, dtype=np.float64)
    shape = np.broadcast_shapes(whole.shape[:-1], target.shape)
    goal = np.broadcast_to(target, shape)
    # With t the factor on the odds of an error, q = p / (p + (1 - p) t): no exponential per class.
    wrong = 1.0 - whole
    low, high = np.full(shape, -60.0), np.full(shape, 60.0)
    step = np.asarray(_logit(whole @ shares) - _logit(goal))
    for _ in range(_MOST_STEPS):
        q = whole / (whole + wrong * np.exp(step)[..., None])
        mean = q @ shares
        if not q.size or np.abs(mean - goal).max() <= _EXACT:
            break
        above = mean > goal
        low, high = np.where(above, step, low), np.where(above, high, step)
        # Newton on the logit of the mean, which is nearly linear in the step.
        slope = (q * (1.0 - q)) @ shares / (mean * (1.0 - mean))
        tried = step + (_logit(mean) - _logit(goal)) / np.maximum(slope, 1e-3)
        step = np.where((tried > low) & (tried < high), tried, 0.5 * (low + high))
    return np.asarray(whole / (whole + wrong * np.exp(step)[..., None]))


def half_a_sample_inside(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Move class accuracies of 0 and 1 inside by half a sample, where odds exist.

    Parameters
    ----------
    accuracy: (..., C).
    counts: (C,) test samples of each class.
    """
    edge = 0.5 / (counts + 1.0)
    return np.clip(accuracy, edge, 1.0 - edge)


def excess_inequality(
    accuracy: FloatArray, neutral: FloatArray, whole: FloatArray, counts: FloatArray
) -> FloatArray:
    """Gini coefficient of class accuracies beyond that of a class-neutral loss.

    Both coefficients are freed of what sampling noise adds (`gini_without_noise`): the noise
    of the subset's accuracies is binomial, that of the neutral ones is the whole layer's
    binomial noise, carried through the change of the odds. They differ, so that plain
    coefficients would show an excess (mostly a negative one) where there is none.

    Parameters
    ----------
    accuracy: (..., C) the subset's class accuracies, inside (0, 1).
    neutral: (..., C) from `neutral_accuracy`.
    whole: (..., C) the whole layer's, inside (0, 1); broadcasts.
    counts: (C,) test samples of each class.
    """
    carried = neutral * (1.0 - neutral) / (whole * (1.0 - whole))
    there = gini_without_noise(accuracy, binomial_noise(accuracy, counts))
    expected = gini_without_noise(neutral, carried**2 * binomial_noise(whole, counts))
    return there - expected


def binomial_noise(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Unbiased variance of class accuracies over test samples; 0 for a class of one sample."""
    return accuracy * (1.0 - accuracy) / np.maximum(counts - 1.0, 1.0)


def noise_in_gini(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """How much of the Gini coefficient of (..., C) class accuracies is sampling noise."""
    return gini_of_rows(accuracy) - gini_without_noise(accuracy, binomial_noise(accuracy, counts))


def _logit(p: FloatArray) -> FloatArray:
    return np.asarray(np.log(p / (1.0 - p)))
