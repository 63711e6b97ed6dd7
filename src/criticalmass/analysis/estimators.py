"""Where a curve of values reaches a share of the whole layer's value: three estimators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, unknown_name

# A bar of 0.9 * 0.8 is 0.7200000000000001: a value of 0.72 must pass it all the same.
_SLACK = 1e-12


@checked
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
    fractions: (n_fractions,) tested fractions in (0, 1], in any order; 1 need not be there.
    values: (n_fractions,) or (n_fractions, n_seeds) value of the measure.
    value_full: value of the whole layer, scalar or (n_seeds,); its mean is used.
    delta: share of ``value_full`` to reach, in (0, 1].
    estimator: "strict", the smallest tested fraction whose mean reaches the bar;
        "interpolated", where the piecewise-linear mean curve first crosses it;
        "nearest", the tested fraction whose ratio is nearest to delta, as in the authors'
        analysis code, even if it misses the bar.

    Returns
    -------
    DR in [0, 1). A lower bound if the smallest tested fraction passes; 0 if none below 1
    does, except with "nearest", which picks a tested fraction whatever happens.

    Raises
    ------
    CriticalMassError: for values that are missing or do not fit, or an unknown estimator.
    """
    x = np.asarray(fractions, dtype=np.float64)
    y = np.asarray(values, dtype=np.float64)
    whole = np.asarray(value_full, dtype=np.float64)
    if whole.size == 0:
        raise CriticalMassError(f"value_full={value_full!r} holds no value of the whole layer")
    full = float(np.mean(whole))
    check_delta(delta)
    check_estimator(estimator)
    _check_curve(x, y, full)
    mean = y if y.ndim == 1 else y.mean(axis=1)
    order = np.argsort(x)
    found = critical_size(x[order], mean[order][None], np.array([full]), delta, estimator, 1.0)
    return float(1.0 - found[0])


def check_delta(delta: float) -> None:
    """Refuse a delta outside (0, 1]."""
    if not 0.0 < delta <= 1.0:
        raise CriticalMassError(
            f"delta={delta} is outside (0, 1]; 0.9 asks for 90 % of the whole layer's value"
        )


def check_estimator(estimator: str) -> None:
    """Refuse an unknown estimator, with a did-you-mean."""
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, ESTIMATORS)


def reaches(means: FloatArray, full: FloatArray, delta: float) -> npt.NDArray[np.bool_]:
    """(..., n_sizes) whether means reach the share ``delta`` of ``full`` (...)."""
    bar = delta * full[..., None]
    return np.asarray(means >= bar - _SLACK * np.abs(bar))


def critical_size(
    sizes: FloatArray,
    means: FloatArray,
    full: FloatArray,
    delta: float,
    estimator: str,
    whole: float,
) -> FloatArray:
    """Critical size of many curves at once.

    Parameters
    ----------
    sizes: (n_sizes,) ascending, as fractions or as numbers of neurons.
    means: (n_curves, n_sizes) mean value at every size.
    full: (n_curves,) value of the whole layer.
    delta: share of ``full`` to reach.
    estimator: a key of `ESTIMATORS`.
    whole: size of the whole layer, 1 or its number of neurons.

    Returns
    -------
    (n_curves,) sizes, at most ``whole``.
    """
    return ESTIMATORS[estimator](sizes, means, full, delta, whole)


def _strict(
    sizes: FloatArray, means: FloatArray, full: FloatArray, delta: float, whole: float
) -> FloatArray:
    passed = reaches(means, full, delta)
    first = sizes[np.argmax(passed, axis=1)]
    return np.where(passed.any(axis=1), first, whole)


def _interpolated(
    sizes: FloatArray, means: FloatArray, full: FloatArray, delta: float, whole: float
) -> FloatArray:
    passed = reaches(means, full, delta)
    at = np.argmax(passed, axis=1)
    before = np.maximum(at - 1, 0)
    row = np.arange(len(means))
    rise = means[row, at] - means[row, before]
    missing = delta * full - means[row, before]
    share = np.clip(np.divide(missing, rise, out=np.ones(len(means)), where=rise > 0.0), 0.0, 1.0)
    crossing = sizes[before] + share * (sizes[at] - sizes[before])
    # The whole layer is no subset: if nothing smaller passes, all of it is needed.
    some = (passed & (sizes < whole)).any(axis=1)
    return np.where(some, crossing, whole)


def _nearest(
    sizes: FloatArray, means: FloatArray, full: FloatArray, delta: float, whole: float
) -> FloatArray:
    # Rounding makes ties ties: the smaller size stands.
    distance = np.round(np.abs(means - delta * full[:, None]), 12)
    return np.asarray(sizes[np.argmin(distance, axis=1)])


_Estimator = Callable[[FloatArray, FloatArray, FloatArray, float, float], FloatArray]
ESTIMATORS: Mapping[str, _Estimator] = MappingProxyType(
    {"strict": _strict, "interpolated": _interpolated, "nearest": _nearest}
)


def _check_curve(x: FloatArray, y: FloatArray, full: float) -> None:
    """Refuse a curve on which no critical size is defined."""
    if x.ndim != 1 or x.size == 0 or y.ndim not in (1, 2) or y.shape[0] != x.size or y.size == 0:
        raise CriticalMassError(
            f"fractions have shape {x.shape} and values {y.shape}; values are (n_fractions,) "
            "or (n_fractions, n_seeds)"
        )
    if not (np.all(x > 0.0) and np.all(x <= 1.0)) or np.unique(x).size < x.size:
        raise CriticalMassError(f"fractions {x.tolist()} must be distinct and lie in (0, 1]")
    if not np.isfinite(y).all():
        raise CriticalMassError("values hold NaN or infinity; leave failed cells out")
    if not (np.isfinite(full) and full > 0.0):
        raise CriticalMassError(
            f"value_full={full} but a share of it is only defined if it is above 0"
        )
