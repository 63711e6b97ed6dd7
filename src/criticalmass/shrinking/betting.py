"""Compiled test of ratios of mean scores by betting; see `paired_tests.score_ratio_bound`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from criticalmass.core.compilation import njit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Before the first sample, the largest variance of a score in [0, 1] is assumed.
_LARGEST_VARIANCE = 0.25
# Largest share of the wealth that one sample can lose, and the chance at which a test is lost.
_LARGEST_STAKE, _LEAST_CHANCE = 0.95, 1e-200


@njit()
def count_rejected(
    ratios: NDArray[np.float64],
    subset: NDArray[np.float64],
    full: NDArray[np.float64],
    alpha: float,
) -> int:
    """Count the ratios that are rejected at ``alpha``, up to the first that is not.

    The ratios do not depend on the samples. If the count is too high, the smallest of them that
    is at least the true ratio was rejected, so no correction for their number is needed.

    Parameters
    ----------
    ratios: (n_ratios,) above 0, ascending.
    subset, full: (n_samples,) scores in [0, 1], in the order of the bets.
    alpha: size of each test, in (0, 1).
    """
    n = subset.size
    for count in range(ratios.size):
        ratio = ratios[count]
        # alpha times the wealth: in a fair game, the chance of reaching the goal of 1/alpha.
        chance, squares = alpha, _LARGEST_VARIANCE
        for i in range(n):
            difference = subset[i] - ratio * full[i]
            # For a Gaussian sum of the samples left, chance = Phi(z); the bet is its derivative.
            # Near the goal it would get so small that the test ends with the last sample only.
            z = min(_normal_quantile(chance), 1.0)
            density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
            bet = density / chance / math.sqrt((n - i) * squares / (i + 1))
            # A difference is at least -ratio, so the wealth stays positive.
            chance *= 1.0 + min(bet, _LARGEST_STAKE / ratio) * difference
            squares += difference * difference
            if chance >= 1.0 or chance < _LEAST_CHANCE:
                break
        if chance < 1.0:
            return count
    return int(ratios.size)


@njit()
def _normal_quantile(p: float) -> float:
    """Return the quantile of the normal distribution, to 5e-4 (Abramowitz and Stegun 26.2.23).

    A bet may be any function of the earlier samples, so the error does not weaken the test.
    """
    t = math.sqrt(-2.0 * math.log(min(p, 1.0 - p)))
    above = 2.515517 + t * (0.802853 + t * 0.010328)
    below = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))
    z = t - above / below
    return -z if p < 0.5 else z
