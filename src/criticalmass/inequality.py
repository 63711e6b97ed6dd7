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
