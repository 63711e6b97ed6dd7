"""Critical size of a curve: where its values reach a share of the whole layer's value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, unknown_name

# Rounding makes 0.9 * 0.8 equal 0.7200000000000001; a value of 0.72 must still reach it.
_RELATIVE_TOLERANCE = 1e-12


@validate_arguments
def diffused_redundancy(
    fractions: npt.ArrayLike,
    values: npt.ArrayLike,
    value_full: npt.ArrayLike,
    delta: float,
    *,
    estimator: str = "strict",
) -> float:
    """Diffused redundancy DR(delta) = 1 - (critical fraction), Nanda et al. 2023, eq. 1.

    Parameters
    ----------
    fractions: (n_fractions,) tested fractions in (0, 1], in any order, with or without 1.
    values: (n_fractions,) or (n_fractions, n_seeds) value of the measure.
    value_full: value of the whole layer, scalar or (n_seeds,); its mean is used.
    delta: share of ``value_full`` to reach, in (0, 1].
    estimator: "strict": the smallest tested fraction whose mean is at least
        ``delta * value_full``; "monotone": where a monotone cubic through the means, in the
        logarithm of the fraction, first crosses ``delta * value_full``; "interpolated": where the
        piecewise-linear mean curve does; "nearest": the tested fraction whose ratio to
        ``value_full`` is nearest to delta, even if it is below delta, as in the authors' analysis
        code. "monotone" is the default of `criticalmass.redundancy`; here the default is the
        definition on tested fractions.

    Returns
    -------
    DR in [0, 1). It is a lower bound if the smallest tested fraction passes, and 0 if no fraction
    below 1 passes; "nearest" always picks a tested fraction.

    Raises
    ------
    CriticalMassError: if values are missing or have the wrong shape, delta is out of range, or
        the estimator is unknown.
    """
    x = np.asarray(fractions, dtype=np.float64)
    y = np.asarray(values, dtype=np.float64)
    full_values = np.asarray(value_full, dtype=np.float64)
    if full_values.size == 0:
        raise CriticalMassError(f"value_full={value_full!r} is empty; give the whole layer's value")
    full = float(np.mean(full_values))
    check_delta(delta)
    check_estimator(estimator)
    _check_curve(x, y, full)
    mean = y if y.ndim == 1 else y.mean(axis=1)
    order = np.argsort(x)
    critical = critical_size(x[order], mean[order][None], np.array([full]), delta, estimator, 1.0)
    return float(1.0 - critical[0])


def check_delta(delta: float) -> None:
    """Refuse a delta outside (0, 1]."""
    if not 0.0 < delta <= 1.0:
        raise CriticalMassError(
            f"delta={delta} is outside (0, 1]; 0.9 means 90 % of the whole layer's value"
        )


def checked_deltas(deltas: float | Sequence[float]) -> list[float]:
    """Return one delta or several as a list; refuse any outside (0, 1]."""
    numbers = [float(d) for d in np.atleast_1d(np.asarray(deltas, dtype=np.float64))]
    for delta in numbers:
        check_delta(delta)
    return numbers


def check_estimator(estimator: str) -> None:
    """Refuse an unknown estimator, with a did-you-mean."""
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, ESTIMATORS)


def reaches(means: FloatArray, full: FloatArray, delta: float) -> npt.NDArray[np.bool_]:
    """(..., n_sizes) whether means reach the share ``delta`` of ``full`` (...)."""
    threshold = delta * full[..., None]
    return np.asarray(means >= threshold - _RELATIVE_TOLERANCE * np.abs(threshold))


def critical_size(
    sizes: FloatArray,
    means: FloatArray,
    full: FloatArray,
    delta: float,
    estimator: str,
    full_size: float,
) -> FloatArray:
    """Compute the critical sizes of many curves.

    Parameters
    ----------
    sizes: (n_sizes,) ascending, as fractions or as numbers of neurons.
    means: (n_curves, n_sizes) mean value at every size.
    full: (n_curves,) value of the whole layer.
    delta: share of ``full`` to reach.
    estimator: a key of `ESTIMATORS`.
    full_size: size of the whole layer, 1 or its number of neurons.

    Returns
    -------
    (n_curves,) sizes, at most ``full_size``.
    """
    return ESTIMATORS[estimator](sizes, means, full, delta, full_size)


def _strict(
    sizes: FloatArray, means: FloatArray, full: FloatArray, delta: float, full_size: float
) -> FloatArray:
    passes = reaches(means, full, delta)
    first = sizes[np.argmax(passes, axis=1)]
    return np.where(passes.any(axis=1), first, full_size)


def _interpolated(
    sizes: FloatArray, means: FloatArray, full: FloatArray, delta: float, full_size: float
) -> FloatArray:
    passes = reaches(means, full, delta)
    first = np.argmax(passes, axis=1)
    before = np.maximum(first - 1, 0)
    row = np.arange(len(means))
    rise = means[row, first] - means[row, before]
    missing = delta * full - means[row, before]
    share = np.clip(np.divide(missing, rise, out=np.ones(len(means)), where=rise > 0.0), 0.0, 1.0)
    crossing = sizes[before] + share * (sizes[first] - sizes[before])
    # If no size below the whole layer passes, the critical size is the whole layer.
    subset_passes = (passes & (sizes < full_size)).any(axis=1)
    return np.where(subset_passes, crossing, full_size)


def _monotone(
    sizes: FloatArray, means: FloatArray, full: FloatArray, delta: float, full_size: float
) -> FloatArray:
    # Values against size are concave in k and nearly straight in log k, so a chord in k crosses
    # too late. The monotone cubic stays between its nodes: it crosses inside the first pair of
    # sizes of which the smaller fails and the larger passes.
    passes = reaches(means, full, delta)
    first = np.argmax(passes, axis=1)
    subset_passes = (passes & (sizes < full_size)).any(axis=1)
    critical = np.where(subset_passes, sizes[first], full_size).astype(np.float64)
    inside = np.flatnonzero(subset_passes & (first > 0))
    if inside.size:
        nodes, left = np.log(sizes), first[inside] - 1
        at = _crossing(nodes, means[inside], left, delta * full[inside])
        critical[inside] = np.minimum(np.exp(nodes[left] + at), sizes[left + 1])
    return critical


def _crossing(
    nodes: FloatArray, values: FloatArray, left: npt.NDArray[np.intp], heights: FloatArray
) -> FloatArray:
    """(n,) distance from node ``left`` at which the monotone cubic reaches a height.

    The cubic is that of `scipy.interpolate.PchipInterpolator` (Fritsch and Butland 1984), of
    which only the piece between the nodes ``left`` and ``left + 1`` is needed. The gap is halved
    30 times, to a billionth: far below one neuron.
    """
    row = np.arange(left.size)
    width = np.diff(nodes)[left]
    start, end = values[row, left], values[row, left + 1]
    slopes = [_pchip_slope(nodes, values, at) * width for at in (left, left + 1)]
    low, high = np.zeros(left.size), np.ones(left.size)
    for _ in range(30):
        t = 0.5 * (low + high)
        from_end = t * t * (3.0 - 2.0 * t)
        bend = t * (1.0 - t) * ((1.0 - t) * slopes[0] - t * slopes[1])
        is_above = start + (end - start) * from_end + bend >= heights
        high, low = np.where(is_above, t, high), np.where(is_above, low, t)
    return np.asarray(high * width)


def monotone_cubic(nodes: FloatArray, values: FloatArray, at: FloatArray) -> FloatArray:
    """Interpolate curves by the monotone cubic of Fritsch and Butland (1984).

    It is `scipy.interpolate.PchipInterpolator`, whose import takes a third of a second.

    Parameters
    ----------
    nodes: (n_nodes,) ascending, at least two.
    values: (n_curves, n_nodes).
    at: (n,) positions; beyond the nodes the outer pieces continue.

    Returns
    -------
    (n_curves, n).
    """
    left = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, nodes.size - 2)
    width = np.diff(nodes)[left]
    t = (at - nodes[left]) / width
    from_end, curves = t * t * (3.0 - 2.0 * t), []
    for row in values:
        repeated = np.broadcast_to(row, (left.size, row.size))
        slopes = [_pchip_slope(nodes, repeated, end) * width for end in (left, left + 1)]
        bend = t * (1.0 - t) * ((1.0 - t) * slopes[0] - t * slopes[1])
        curves.append(row[left] + (row[left + 1] - row[left]) * from_end + bend)
    return np.stack(curves)


def _pchip_slope(nodes: FloatArray, values: FloatArray, at: npt.NDArray[np.intp]) -> FloatArray:
    """(n,) slope of the monotone cubic through each row of ``values`` at one node of that row."""
    row, last = np.arange(at.size), nodes.size - 1
    steps = np.diff(nodes)
    if last == 1:
        return np.asarray((values[:, 1] - values[:, 0]) / steps[0])

    def secant(i: npt.NDArray[np.intp]) -> FloatArray:
        return np.asarray((values[row, i + 1] - values[row, i]) / steps[i])

    inner = np.clip(at, 1, last - 1)
    before, after = secant(inner - 1), secant(inner)
    weight = 2.0 * steps[inner] + steps[inner - 1], steps[inner] + 2.0 * steps[inner - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (weight[0] + weight[1]) / (weight[0] / before + weight[1] / after)
    slope = np.where(before * after > 0.0, mean, 0.0)
    # At an end of the curve: the three-point formula, cut so that the cubic stays monotone.
    is_first = at == 0
    near, far = np.where(is_first, before, after), np.where(is_first, after, before)
    step = np.where(is_first, steps[0], steps[last - 1])
    next_step = np.where(is_first, steps[1], steps[last - 2])
    edge = ((2.0 * step + next_step) * near - step * far) / (step + next_step)
    edge = np.where(edge * near <= 0.0, 0.0, edge)
    is_steep = (near * far < 0.0) & (np.abs(edge) > 3.0 * np.abs(near))
    edge = np.where(is_steep, 3.0 * near, edge)
    return np.where((at == 0) | (at == last), edge, slope)


def _nearest(
    sizes: FloatArray, means: FloatArray, full: FloatArray, delta: float, full_size: float
) -> FloatArray:
    # Rounded, so that equal distances are equal; of two, argmin takes the smaller size.
    distance = np.round(np.abs(means - delta * full[:, None]), 12)
    return np.asarray(sizes[np.argmin(distance, axis=1)])


#: The estimator of tables and figures.
DEFAULT_ESTIMATOR = "monotone"
_Estimator = Callable[[FloatArray, FloatArray, FloatArray, float, float], FloatArray]
ESTIMATORS: Mapping[str, _Estimator] = MappingProxyType(
    {
        "monotone": _monotone,
        "strict": _strict,
        "interpolated": _interpolated,
        "nearest": _nearest,
    }
)


def _check_curve(x: FloatArray, y: FloatArray, full: float) -> None:
    """Refuse a curve that has no critical size."""
    if x.ndim != 1 or x.size == 0 or y.ndim not in (1, 2) or y.shape[0] != x.size or y.size == 0:
        raise CriticalMassError(
            f"fractions have shape {x.shape} and values {y.shape}; values must be (n_fractions,) "
            "or (n_fractions, n_seeds)"
        )
    if not (np.all(x > 0.0) and np.all(x <= 1.0)) or np.unique(x).size < x.size:
        raise CriticalMassError(f"fractions {x.tolist()} must be distinct and in (0, 1]")
    if not np.isfinite(y).all():
        raise CriticalMassError("values contain NaN or infinity; leave failed cells out")
    if not (np.isfinite(full) and full > 0.0):
        raise CriticalMassError(
            f"value_full={full} must be above 0: a share of it is not defined otherwise"
        )
