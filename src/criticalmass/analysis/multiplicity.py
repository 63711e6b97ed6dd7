"""Tests of several differences at once: p-values of bootstrap draws, and Holm's correction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray


def two_sided_p(low: FloatArray, high: FloatArray) -> float | None:
    """Return the p-value of "the difference is 0", from bootstrap draws of the difference.

    Twice the smaller share of draws on one side of 0, with 1 added to the number of draws on that
    side and to the number of all draws (Davison and Hinkley 1997, section 4.2), so that it is
    never 0.

    Parameters
    ----------
    low, high: (resamples,) smallest and largest difference that each draw allows.

    Returns
    -------
    In (0, 1]; None if a draw has no value.
    """
    if np.isnan(low).any() or np.isnan(high).any():
        return None
    on_other_side = min(int((low <= 0.0).sum()), int((high >= 0.0).sum()))
    return min(1.0, 2.0 * (1 + on_other_side) / (len(low) + 1))


def smallest_p(resamples: int) -> float:
    """Return the smallest p-value that `two_sided_p` gives for this number of draws."""
    return 2.0 / (resamples + 1)


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Correct p-values for their number (Holm 1979).

    Rejecting those that are at most alpha rejects a true hypothesis with a probability of at most
    alpha, however the tests depend on each other.

    Parameters
    ----------
    p_values: (n,) p-values of one family.

    Returns
    -------
    (n,) corrected p-values, at most 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return np.minimum(corrected, 1.0)
