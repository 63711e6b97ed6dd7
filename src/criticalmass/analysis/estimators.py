"""Critical size of a curve: where its values reach a share of the whole layer's value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, unknown_name

# Rounding makes 0.9 * 0.8 equal 0.7200000000000001; a value of 0.72 must still reach it.
_RELATIVE_TOLERANCE = 1e-12
# After a step of Halley's method of this size, the error is that of rounding where a cubic is not
# flat.
_SMALL_STEP, _MAX_STEPS = 1e-4, 60

_Indices = npt.NDArray[np.intp]


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
    """Compute the critical sizes of many curves for one value to reach each.

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
    curves, bars = MeanCurves(sizes, means, full_size), delta * full[None]
    return np.asarray(curves.critical_sizes(bars, curves.first_passing(bars), estimator)[0])


@dataclass(frozen=True, eq=False)
class MeanCurves:
    """Curves of mean values at the same sizes, off which critical sizes are read.

    Attributes
    ----------
    sizes: (n_sizes,) ascending, as fractions or as numbers of neurons.
    means: (n_curves, n_sizes) mean value at every size.
    full_size: size of the whole layer, 1 or its number of neurons.
    """

    sizes: FloatArray
    means: FloatArray
    full_size: float

    def first_passing(self, bars: FloatArray) -> _Indices:
        """(n_bars, n_curves) first size whose mean reaches the bar; n_sizes where none does.

        ``bars`` (n_bars, n_curves) are the values to reach; they may be broadcast.
        """
        thresholds = bars - _RELATIVE_TOLERANCE * np.abs(bars)
        shape = np.broadcast_shapes(bars.shape, (1, len(self.means)))
        n_passing = np.zeros(shape, dtype=np.min_scalar_type(self.sizes.size))
        for highest in self._highest:
            n_passing += (highest >= thresholds).view(np.uint8)
        return self.sizes.size - n_passing.astype(np.intp)

    def critical_sizes(self, bars: FloatArray, first: _Indices, estimator: str) -> FloatArray:
        """(n_bars, n_curves) sizes at which the curves reach the bars, at most ``full_size``.

        Parameters
        ----------
        bars: as in `first_passing`.
        first: what `first_passing` returns for them.
        estimator: a key of `ESTIMATORS`.
        """
        return ESTIMATORS[estimator](self, np.broadcast_to(bars, first.shape), first)

    def sizes_at(self, index: _Indices) -> FloatArray:
        """Sizes at some indices; the whole layer where an index is n_sizes."""
        return np.asarray(np.append(self.sizes, self.full_size)[index])

    @cached_property
    def _highest(self) -> FloatArray:
        """(n_sizes, n_curves) largest mean up to each size."""
        return np.asarray(np.fmax.accumulate(np.ascontiguousarray(self.means.T)))


def _strict(curves: MeanCurves, bars: FloatArray, first: _Indices) -> FloatArray:
    return curves.sizes_at(first)


def _interpolated(curves: MeanCurves, bars: FloatArray, first: _Indices) -> FloatArray:
    # If no size below the whole layer passes, the critical size is the whole layer.
    critical = curves.sizes_at(first)
    bar, curve = np.nonzero((critical < curves.full_size) & (first > 0))
    right = first[bar, curve]
    start, end = curves.means[curve, right - 1], curves.means[curve, right]
    share = np.clip((bars[bar, curve] - start) / (end - start), 0.0, 1.0)
    left = curves.sizes[right - 1]
    critical[bar, curve] = left + share * (curves.sizes[right] - left)
    return critical


def _monotone(curves: MeanCurves, bars: FloatArray, first: _Indices) -> FloatArray:
    # Values against size are concave in k and nearly straight in log k, so a chord in k crosses
    # too late. The monotone cubic stays between its nodes: it crosses inside the first pair of
    # sizes of which the smaller fails and the larger passes.
    critical = curves.sizes_at(first)
    bar, curve = np.nonzero((critical < curves.full_size) & (first > 0))
    if bar.size:
        left = first[bar, curve] - 1
        nodes = np.log(curves.sizes)
        # The slope at a node depends on its two neighbours.
        low, end = max(0, int(left.min()) - 1), int(left.max()) + 3
        cubics = _cubics(nodes[low:end], curves.means.T[low:end])
        share = _crossing(cubics[left - low, curve], bars[bar, curve])
        at = np.exp(nodes[left] + share * np.diff(nodes)[left])
        critical[bar, curve] = np.minimum(at, curves.sizes[left + 1])
    return critical


def _crossing(cubics: FloatArray, heights: FloatArray) -> FloatArray:
    """(n,) share of its piece at which each rising cubic, a row of (n, 4), reaches a height.

    Three steps of Halley's method from the chord; where the last of them was large, Newton's.
    """
    start, c, b, a = np.ascontiguousarray(cubics.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = heights - start
        t = change = rise / (a + b + c)
        for _ in range(3):
            value, slope = ((a * t + b) * t + c) * t - rise, (3.0 * a * t + 2.0 * b) * t + c
            bend = 3.0 * a * t + b
            change = value * slope / (slope * slope - value * bend)
            t = np.clip(t - change, 0.0, 1.0)
        # The share of the last step that is left after it, as far as the slope is not too small.
        error = (bend * bend + np.abs(a) * slope) * (change / slope) ** 2
        rest = np.flatnonzero(~((np.abs(change) < _SMALL_STEP) & (error < _SMALL_STEP**2)))
        if rest.size:
            t[rest] = _newton(a[rest], b[rest], c[rest], rise[rest])
    return np.asarray(t)


def _newton(a: FloatArray, b: FloatArray, c: FloatArray, rise: FloatArray) -> FloatArray:
    """(n,) where a t^3 + b t^2 + c t, which rises from 0 to 1, equals ``rise``.

    The start is the inflection: beyond it the cubic is convex or concave, so that the steps
    approach the crossing from one side. At a flat end they only halve the distance.
    """
    t = np.nan_to_num(np.clip(b / (-3.0 * a), 0.0, 1.0), nan=0.5)
    for _ in range(_MAX_STEPS):
        value, slope = ((a * t + b) * t + c) * t - rise, (3.0 * a * t + 2.0 * b) * t + c
        # At the crossing there is no step, even where the cubic is flat.
        t_next = np.where(value == 0.0, t, np.clip(t - value / slope, 0.0, 1.0))
        if np.array_equal(t, t_next):
            break
        t = t_next
    return np.asarray(t)


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
    t = ((at - nodes[left]) / np.diff(nodes)[left])[:, None]
    start, c, b, a = np.moveaxis(_cubics(nodes, values.T)[left], 2, 0)
    return np.asarray((((a * t + b) * t + c) * t + start).T)


def _cubics(nodes: FloatArray, values: FloatArray) -> FloatArray:
    """(n_nodes - 1, n_curves, 4) monotone cubics through ``values`` (n_nodes, n_curves).

    A piece is c0 + c1 t + c2 t^2 + c3 t^3, where t goes from 0 to 1 between its nodes.
    """
    rise, width = np.diff(values, axis=0), np.diff(nodes)[:, None]
    slopes = _pchip_slopes(rise / width, width)
    start, end = slopes[:-1] * width, slopes[1:] * width
    parts = values[:-1], start, 3.0 * rise - 2.0 * start - end, start + end - 2.0 * rise
    return np.stack(parts, axis=2)


def _pchip_slopes(secants: FloatArray, steps: FloatArray) -> FloatArray:
    """(n_nodes, n_curves) slopes of the monotone cubics at their nodes.

    ``secants`` (n_nodes - 1, n_curves) are the slopes of the chords, ``steps`` (n_nodes - 1, 1)
    the distances between the nodes.
    """
    if len(secants) == 1:
        return np.repeat(secants, 2, axis=0)
    before, after = secants[:-1], secants[1:]
    weights = 2.0 * steps[1:] + steps[:-1], steps[1:] + 2.0 * steps[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (weights[0] + weights[1]) / (weights[0] / before + weights[1] / after)
    inner = np.where(before * after > 0.0, mean, 0.0)
    first = _edge_slope(secants[:1], secants[1:2], steps[0], steps[1])
    last = _edge_slope(secants[-1:], secants[-2:-1], steps[-1], steps[-2])
    return np.concatenate([first, inner, last])


def _edge_slope(
    near: FloatArray, far: FloatArray, step: FloatArray, next_step: FloatArray
) -> FloatArray:
    """Slope at an end: the three-point formula, cut so that the cubic stays monotone."""
    slope = ((2.0 * step + next_step) * near - step * far) / (step + next_step)
    slope = np.where(slope * near <= 0.0, 0.0, slope)
    is_steep = (near * far < 0.0) & (np.abs(slope) > 3.0 * np.abs(near))
    return np.where(is_steep, 3.0 * near, slope)


def _nearest(curves: MeanCurves, bars: FloatArray, first: _Indices) -> FloatArray:
    # Rounded, so that equal distances are equal; of two, argmin takes the smaller size.
    nearest = [np.argmin(np.round(np.abs(curves.means - row[:, None]), 12), axis=1) for row in bars]
    return np.asarray(curves.sizes[np.stack(nearest)])


#: The estimator of tables and figures.
DEFAULT_ESTIMATOR = "monotone"
_Estimator = Callable[[MeanCurves, FloatArray, _Indices], FloatArray]
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
