"""Curves, critical mass and diffused redundancy of a Run, each with its interval."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.curves import Curve, curves_of, refined_intervals
from criticalmass.analysis.estimators import (
    check_delta,
    check_estimator,
    critical_size,
    diffused_redundancy,
    reaches,
)
from criticalmass.core.arguments import checked
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

__all__ = ["CURVE_COLUMNS", "REDUNDANCY_COLUMNS", "curves", "diffused_redundancy", "redundancy"]

RunLike = Run | str | os.PathLike[str]
_KEY = ("model", "layer", "dataset", "selector", "measure")
_TEXT, _COUNT, _FLOAT = "string", "Int64", "Float64"
CURVE_COLUMNS: dict[str, str] = dict.fromkeys(_KEY, _TEXT) | {
    "fraction": _FLOAT,
    "n_kept": _COUNT,
    "n_neurons": _COUNT,
    "mean": _FLOAT,
    "low": _FLOAT,
    "high": _FLOAT,
    "std": _FLOAT,
    "ratio": _FLOAT,
    "ratio_low": _FLOAT,
    "ratio_high": _FLOAT,
    "value_full": _FLOAT,
    "full_low": _FLOAT,
    "full_high": _FLOAT,
    "level": _FLOAT,
    "n_seeds": _COUNT,
    "n_test": _COUNT,
    "n_train": _COUNT,
    "n_failed": _COUNT,
    "n_not_converged": _COUNT,
}
REDUNDANCY_COLUMNS: dict[str, str] = dict.fromkeys(_KEY, _TEXT) | {
    "delta": _FLOAT,
    "estimator": _TEXT,
    "n_neurons": _COUNT,
    "value_full": _FLOAT,
    "critical_mass": _COUNT,
    "critical_mass_low": _COUNT,
    "critical_mass_high": _COUNT,
    "dr": _FLOAT,
    "dr_low": _FLOAT,
    "dr_high": _FLOAT,
    "at_floor": "boolean",
    "reached": "boolean",
    "refined": "boolean",
    "level": _FLOAT,
    "n_seeds": _COUNT,
    "n_test": _COUNT,
    "n_train": _COUNT,
    "n_failed": _COUNT,
    "n_not_converged": _COUNT,
}


@checked
def curves(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean value at every size, with the interval of the hierarchical bootstrap.

    Parameters
    ----------
    run: a run, its path, or several of them; each run is resampled for itself.
    level: of the percentile intervals.
    resamples: bootstrap draws of seeds and test samples.
    seed: fixes the draws.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x n_kept, `CURVE_COLUMNS`;
    ``std`` is over seeds (missing for one seed), ``ratio`` is mean / value_full.

    Raises
    ------
    CriticalMassError: for a level or number of resamples that is none, or a damaged run.
    """
    _check(level, resamples)
    rows = [
        row
        for one in _runs(run)
        for curve in curves_of(one, level, resamples, seed)
        for row in _curve_rows(curve)
    ]
    return _table(rows, CURVE_COLUMNS)


@checked
def redundancy(
    run: RunLike | Sequence[RunLike],
    deltas: float | Sequence[float] = (0.9,),
    estimator: str = "strict",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Critical mass and diffused redundancy, with intervals.

    Each draw resamples the seeds of a selector and the test samples, the whole layer on the
    same test samples, and applies the estimator anew; the interval is the percentile
    interval over draws. One seed, or a selector without chance: only test samples vary.

    On a run that was refined for a delta, the size below the critical mass was tested too. The
    sizes further away were not all, so a draw's critical mass lies somewhere between two of
    them: the interval is then read between sizes (linearly), and holds all sizes that refining
    left open.

    Parameters
    ----------
    run: a run, its path, or several of them.
    deltas: shares of the whole layer's value, each in (0, 1].
    estimator: "strict", "interpolated" or "nearest", see `diffused_redundancy`.
    level: of the percentile intervals.
    resamples: bootstrap draws.
    seed: fixes the draws.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x delta, `REDUNDANCY_COLUMNS`.
    ``critical_mass`` is in neurons, ``dr = 1 - critical_mass / n_neurons``; ``at_floor``:
    the smallest tested size passes and is no single neuron, so DR is a lower bound;
    ``reached``: a size below the whole layer passes; ``refined``: the size one neuron below
    the first that passes was tested and misses the bar, so ``strict`` is exact to one neuron
    on these subsets and test samples. All missing where the layer or every size failed.

    Raises
    ------
    CriticalMassError: for a delta, estimator or level that is none, or a damaged run.
    """
    wanted = [float(d) for d in np.atleast_1d(np.asarray(deltas, dtype=np.float64))]
    for delta in wanted:
        check_delta(delta)
    check_estimator(estimator)
    _check(level, resamples)
    rows = []
    for one in _runs(run):
        left_open = refined_intervals(one)
        for curve in curves_of(one, level, resamples, seed):
            _, layer, _, selector, measure = curve.key
            tally = _tally(_columns(curve.rows), _columns(curve.used))
            rows += [
                _redundancy_row(
                    curve, delta, estimator, left_open.get((layer, selector, measure, delta))
                )
                | tally
                for delta in wanted
            ]
    return _table(rows, REDUNDANCY_COLUMNS)


def _check(level: float, resamples: int) -> None:
    if not 0.0 < level < 1.0:
        raise CriticalMassError(f"level={level} is outside (0, 1); 0.95 is usual")
    if resamples < 1:
        raise CriticalMassError(f"resamples={resamples} but at least 1 is drawn; 2000 is usual")


def _runs(run: RunLike | Sequence[RunLike]) -> list[Run]:
    """Open one run or several."""
    if isinstance(run, (Run, str, os.PathLike)):
        return [Run.open(run)]
    return [Run.open(one) for one in run]


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Make a typed table, with all columns even if there are no rows."""
    return pd.DataFrame(
        {n: pd.array([row[n] for row in rows], dtype=dtype) for n, dtype in columns.items()}
    )


def _curve_rows(curve: Curve) -> list[dict[str, Any]]:
    """Rows of `curves` for one curve."""
    low, high = curve.quantiles(curve.drawn)
    known = curve.full is not None and curve.full > 0.0
    ends = curve.quantiles(curve.full_drawn) if known else (None, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = curve.quantiles(curve.drawn / curve.full_drawn[:, None])
    table = []
    rows, used_rows = _columns(curve.rows), _columns(curve.used)
    for i, size in enumerate(curve.sizes):
        here = {n: column[rows["n_kept"] == size] for n, column in rows.items()}
        used = {n: column[used_rows["n_kept"] == size] for n, column in used_rows.items()}
        spread = used["value"].astype(np.float64)
        table.append(
            dict(zip(_KEY, curve.key, strict=True))
            | {
                "fraction": float(used["fraction"].min()),
                "n_kept": int(size),
                "mean": curve.mean[i],
                "low": low[i],
                "high": high[i],
                "std": float(spread.std(ddof=1)) if spread.size > 1 else None,
                "ratio": curve.mean[i] / curve.full if known and curve.full else None,
                "ratio_low": ratios[0][i] if known else None,
                "ratio_high": ratios[1][i] if known else None,
                "value_full": curve.full,
                "full_low": ends[0],
                "full_high": ends[1],
                "level": curve.level,
            }
            | _tally(here, used)
        )
    return table


def _redundancy_row(
    curve: Curve, delta: float, estimator: str, left_open: tuple[int, int] | None
) -> dict[str, Any]:
    """Row of `redundancy` but for its tally; ``left_open``: sizes refining did not decide."""
    row = dict.fromkeys(REDUNDANCY_COLUMNS) | dict(zip(_KEY, curve.key, strict=True))
    row |= {"delta": delta, "estimator": estimator, "level": curve.level}
    row["value_full"] = curve.full
    if curve.full is None or curve.full <= 0.0 or not curve.sizes.size:
        return row
    d = curve.n_neurons
    full = np.concatenate([[curve.full], curve.full_drawn])
    means = np.vstack([curve.mean, curve.drawn])
    sizes = curve.sizes.astype(np.float64)
    mass = np.ceil(critical_size(sizes, means, full, delta, estimator, float(d)) - 1e-9)
    low, high = (int(end) for end in curve.quantiles(mass[1:], method="outward"))
    passed = reaches(means[:1], full[:1], delta)[0]
    if left_open is not None and estimator != "nearest":
        between = critical_size(sizes, means[1:], full[1:], delta, "interpolated", float(d))
        ends = curve.quantiles(np.ceil(between - 1e-9), "outward")
        low, high = min(int(ends[0]), left_open[0]), max(int(ends[1]), left_open[1])
    return row | {
        "critical_mass": int(mass[0]),
        "critical_mass_low": low,
        "critical_mass_high": high,
        "dr": 1.0 - mass[0] / d,
        "dr_low": 1.0 - high / d,
        "dr_high": 1.0 - low / d,
        "at_floor": bool(passed[0]) and int(sizes[0]) > 1,
        "reached": bool(passed[curve.sizes < d].any()),
        "refined": _next_below(curve.sizes, passed, d) in {0, *curve.sizes.tolist()},
    }


def _next_below(sizes: npt.NDArray[np.int64], passed: npt.NDArray[np.bool_], whole: int) -> int:
    """Return the size one neuron below the first that passes."""
    return int(sizes[np.argmax(passed)] if passed.any() else whole) - 1


_Columns = dict[str, npt.NDArray[Any]]


def _columns(rows: pd.DataFrame) -> _Columns:
    """Take the columns that are counted out of pandas, which is slow on a handful of rows."""
    names = ("n_kept", "n_neurons", "n_test", "n_train", "seed", "status", "value", "fraction")
    return {name: rows[name].to_numpy(dtype=_PLAIN.get(name, np.float64)) for name in names}


_PLAIN: dict[str, Any] = {"status": object, "value": object}


def _tally(rows: _Columns, used: _Columns) -> dict[str, int]:
    """Count what stands behind a number."""
    return {
        "n_neurons": int(rows["n_neurons"].max()),
        "n_seeds": len(np.unique(used["seed"])),
        "n_test": int(rows["n_test"].max()),
        "n_train": int(rows["n_train"].max()),
        "n_failed": int((rows["status"] == "failed").sum()),
        "n_not_converged": int((rows["status"] == "not_converged").sum()),
    }
