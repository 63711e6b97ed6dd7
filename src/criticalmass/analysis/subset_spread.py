"""How much random subsets of one size differ: the size at which most of them pass.

At the critical mass the mean over subsets reaches the threshold, so about half of the subsets do
not. The functions here find the size at which a larger share of them does.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from criticalmass.analysis.curves import ValueCurve
from criticalmass.analysis.estimators import MeanCurves
from criticalmass.analysis.predicted_curves import PredictedCurve
from criticalmass.core.moments import FloatArray
from criticalmass.core.quantiles import student_quantile
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import is_similarity
from criticalmass.selectors.registry import SELECTORS

#: Sources of the spread, in the column ``spread_source``.
LAW, SEEDS = "law", "seeds"
_FEWEST_SEEDS = 3

Curves = Mapping[tuple[str, str], PredictedCurve]


def check_pass_share(pass_share: float) -> None:
    """Refuse a share of subsets outside [0.5, 1)."""
    if not 0.5 <= pass_share < 1.0:
        raise CriticalMassError(
            f"pass_share={pass_share} is outside [0.5, 1); 0.95 means that 95 % of the random "
            "subsets pass"
        )


def passing_size(
    curve: ValueCurve, bars: list[float], pass_share: float, estimator: str, predicted: Curves
) -> tuple[str, list[int]]:
    """Find the sizes at which a share of the random subsets reaches each threshold.

    Values of subsets of one size are taken as normal: the size is where the mean less z standard
    deviations crosses the threshold. The standard deviation is that of the law where the run has
    one for this measure (CKA, ridge), and for CKA the mean is as well. Elsewhere both are those
    of the measured seeds: the standard deviation is pooled over neighbouring sizes, and z becomes
    the bound of Student's distribution on one further subset.

    Parameters
    ----------
    curve: of a selector.
    bars: values to reach.
    pass_share: share of the subsets that are to pass, in [0.5, 1).
    estimator: how the size is read off the curve, see `diffused_redundancy`; the paper's
        "nearest" does not ask whether a size passes, so "monotone" is used in its place.
    predicted: curves by layer and measure, for the spread of the law.

    Returns
    -------
    The source of the spread, and one size in neurons per bar. No source and no sizes for a
    selector without randomness, for fewer than 3 seeds without a law, and for a layer without a
    value.
    """
    info = SELECTORS.get(curve.key.selector)
    if info is None or not info.is_random or not curve.full or not curve.sizes.size:
        return "", []
    law = predicted.get((curve.key.layer, curve.key.measure))
    sizes, mean = curve.sizes, curve.mean
    margin: FloatArray | None
    if law is not None and law.n_neurons == curve.n_neurons and curve.key.selector == "random":
        if is_similarity(law.measure):
            # The law of CKA is exact for these features; five measured subsets are a sample.
            sizes, mean = law.sizes, law.mean
        source, margin = LAW, NormalDist().inv_cdf(pass_share) * law.interpolate(sizes)[1]
    else:
        source, margin = SEEDS, _measured_margin(curve, pass_share)
    if margin is None:
        return "", []
    means = np.where(sizes >= curve.n_neurons, mean, mean - margin)[None]
    rule = "monotone" if estimator == "nearest" else estimator
    nodes, width = sizes.astype(np.float64), float(curve.n_neurons)
    curves, heights = MeanCurves(nodes, means, width), np.array(bars)[:, None]
    masses = curves.critical_sizes(heights, curves.first_passing(heights), rule)[:, 0]
    return source, np.ceil(masses - 1e-9).astype(int).tolist()


def _measured_margin(curve: ValueCurve, pass_share: float) -> FloatArray | None:
    """(n_sizes,) bound on how far below the mean a further subset lies; None for few seeds."""
    values = curve.used.groupby("n_kept")["value"]
    counts = values.size().to_numpy(np.float64)
    if counts[curve.sizes < curve.n_neurons].min(initial=np.inf) < _FEWEST_SEEDS:
        return None
    variances = values.var(ddof=1).fillna(0.0).to_numpy(np.float64)
    margin = np.zeros(curve.sizes.size)
    below = curve.sizes < curve.n_neurons
    for i in np.flatnonzero(below):
        window = slice(max(0, i - 1), i + 2)
        weights = (counts - 1.0)[window] * below[window]
        freedom = int(weights.sum())
        pooled = float(weights @ variances[window]) / freedom
        quantile = student_quantile(freedom, pass_share)
        margin[i] = quantile * np.sqrt(pooled * (1.0 + 1.0 / counts[i]))
    return margin


def worst_selector(
    curve: ValueCurve, rivals: list[ValueCurve], size: int
) -> tuple[str, float] | None:
    """Return the selector of neurons that keeps the least at a size, and the share it keeps.

    Parameters
    ----------
    curve: of a random selector of the registry.
    rivals: the curves of the same layer, dataset and measure.
    size: in neurons; values between tested sizes are interpolated in log k.

    Returns
    -------
    (selector, mean / value of the whole layer), or None if no rival keeps less than ``curve``,
    and for a projection.
    """
    if SELECTORS[curve.key.selector].is_projection:
        return None  # its size is a number of dimensions, not of neurons
    shares = {}
    for rival in (curve, *rivals):
        info = SELECTORS.get(rival.key.selector)
        is_inside = rival.sizes.size > 0 and rival.sizes[0] <= size <= rival.sizes[-1]
        if info is None or info.is_projection or not rival.full or not is_inside:
            continue
        value = np.interp(np.log(size), np.log(rival.sizes), rival.mean)
        shares[rival.key.selector] = float(value / rival.full)
    if not shares:
        return None
    name = min(shares, key=lambda selector: shares[selector])
    return None if name == curve.key.selector else (name, shares[name])
