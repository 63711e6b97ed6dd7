"""Curves, critical mass and diffused redundancy of a run, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import (
    COUNT,
    CURVE_KEY_COLUMNS,
    FLAG,
    FLOAT,
    SAMPLE_COLUMNS,
    SEED_COLUMNS,
    SIZE_COLUMNS,
    STATUS_COLUMNS,
    TEXT,
    Draws,
    RunLike,
    interval_columns,
    open_runs,
    typed_table,
)
from criticalmass.analysis.constant_answer import ConstantAnswer
from criticalmass.analysis.curves import ValueCurve, curves_of, refined_intervals
from criticalmass.analysis.estimators import (
    check_estimator,
    checked_deltas,
    critical_size,
    diffused_redundancy,
    reaches,
)
from criticalmass.analysis.predictions import is_correct
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.progress import warn_user
from criticalmass.measures.registry import is_similarity
from criticalmass.storage.run import Run

__all__ = [
    "CURVE_COLUMNS",
    "REDUNDANCY_COLUMNS",
    "curves",
    "diffused_redundancy",
    "redundancy",
    "redundancy_table",
]

_SUPPORT_COLUMNS = SEED_COLUMNS | SAMPLE_COLUMNS | STATUS_COLUMNS
CURVE_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | SIZE_COLUMNS
    | dict.fromkeys(("mean", "low", "high", "std"), FLOAT)
    | interval_columns("ratio")
    | dict.fromkeys(("value_full", "full_low", "full_high"), FLOAT)
    | _SUPPORT_COLUMNS
)
_MAX_NAMED = 5
REDUNDANCY_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | {"delta": FLOAT, "estimator": TEXT, "n_neurons": COUNT, "value_full": FLOAT}
    | {"majority_accuracy": FLOAT}
    | dict.fromkeys(("critical_mass", "critical_mass_low", "critical_mass_high"), COUNT)
    | interval_columns("dr")
    | dict.fromkeys(("at_floor", "reached", "refined"), FLAG)
    | _SUPPORT_COLUMNS
)


@validate_arguments
def curves(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute the mean value at every size, with the interval of the hierarchical bootstrap.

    Parameters
    ----------
    run: a run, its path, or several of them; each run is resampled separately.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws of seeds and test samples.
    seed: seed of the draws.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x n_kept, `CURVE_COLUMNS`;
    ``std`` is the standard deviation over seeds (missing for one seed), ``ratio`` is
    mean / value_full.

    Raises
    ------
    CriticalMassError: if level or resamples is out of range, or a run is damaged.
    """
    draws = Draws(level, resamples, seed)
    rows = [
        row
        for one in open_runs(run)
        for curve in curves_of(one, draws)
        for row in _curve_rows(curve)
    ]
    return typed_table(rows, CURVE_COLUMNS)


@validate_arguments
def redundancy(
    run: RunLike | Sequence[RunLike],
    deltas: float | Sequence[float] = (0.9,),
    estimator: str = "strict",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute critical mass and diffused redundancy, with intervals.

    Each bootstrap draw resamples the seeds of a selector and the test samples, with the whole
    layer on the same test samples, and applies the estimator to the draw. The interval is the
    percentile interval over draws. For one seed, or a selector without randomness, only the test
    samples vary.

    On a run that was refined for a delta, the size one neuron below the critical mass was tested
    too, but not all sizes further away. The critical mass of a draw then lies between two tested
    sizes: the interval is interpolated linearly between sizes, and it covers all sizes that
    refining left open.

    Parameters
    ----------
    run: a run, its path, or several of them.
    deltas: shares of the whole layer's value, each in (0, 1].
    estimator: "strict", "interpolated" or "nearest", see `diffused_redundancy`.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws.
    seed: seed of the draws.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x delta, `REDUNDANCY_COLUMNS`.
    ``majority_accuracy`` is the accuracy of always answering the largest class of the test
    samples; missing for similarities. A warning names probes that are no better than this on the
    whole layer, by an exact sign test at ``level``. ``critical_mass`` is in neurons,
    ``dr = 1 - critical_mass / n_neurons``. ``at_floor``: the smallest tested size passes and has
    more than one neuron, so DR is a lower bound.
    ``reached``: a size below the whole layer passes. ``refined``: the size one neuron below the
    first that passes was tested and does not pass, so ``strict`` is exact to one neuron on these
    subsets and test samples. These columns are missing if the whole layer or every size failed.

    Raises
    ------
    CriticalMassError: if a delta, the estimator, level or resamples is invalid, or a run is
        damaged.
    """
    draws = Draws(level, resamples, seed)
    runs = open_runs(run)
    table = redundancy_table(runs, deltas, estimator, draws)
    for one in runs:
        _warn_of_useless_probes(one, level)
    return table


def redundancy_table(
    runs: Sequence[Run], deltas: float | Sequence[float], estimator: str, draws: Draws
) -> pd.DataFrame:
    """Return the table of `redundancy` without its warning."""
    delta_list = checked_deltas(deltas)
    check_estimator(estimator)
    rows = []
    for one in runs:
        open_intervals = refined_intervals(one)
        labels = None
        for curve in curves_of(one, draws):
            support = _support(_columns(curve.rows), _columns(curve.used))
            if not is_similarity(curve.key.measure):
                labels = one.labels() if labels is None else labels
                support["majority_accuracy"] = ConstantAnswer.best(labels).accuracy
            for delta in delta_list:
                key = (curve.key.layer, curve.key.selector, curve.key.measure, delta)
                row = _redundancy_row(curve, delta, estimator, open_intervals.get(key))
                rows.append(row | support)
    return typed_table(rows, REDUNDANCY_COLUMNS)


def _warn_of_useless_probes(run: Run, level: float) -> None:
    """Warn of probes that are no better on the whole layer than a constant answer."""
    frame = run.frame()
    has_predictions = frame["artifact"].fillna("").str.startswith("predictions/")
    rows = frame[(frame["selector"] == "full") & (frame["status"] != "failed") & has_predictions]
    if not len(rows):
        return
    labels = run.labels()
    if labels.min() == labels.max():
        return  # the accuracy is the recall of this class, whose constant answer is always right
    constant = ConstantAnswer.best(labels)
    correct = is_correct(run, run.predictions(rows))
    p_values = np.array([constant.p_value(row, labels) for row in correct])
    useless = [
        f"{measure} on {layer} ({part['value'].mean():.3f})"
        for (layer, measure), part in rows.assign(p=p_values).groupby(["layer", "measure"])
        if part["p"].min() > 1.0 - level
    ]
    if not useless:
        return
    names = run.class_names
    name = names[constant.class_id] if constant.class_id < len(names) else constant.class_id
    more = f" and {len(useless) - _MAX_NAMED:,} more" if len(useless) > _MAX_NAMED else ""
    warn_user(
        f"{run.path}: always answering the largest class, {str(name)!r}, has an accuracy of "
        f"{constant.accuracy:.3f}, and the whole layer is not significantly better by "
        f"{', '.join(useless[:_MAX_NAMED])}{more}: a small critical mass means nothing there"
    )


def _curve_rows(curve: ValueCurve) -> list[dict[str, Any]]:
    """Rows of `curves` for one curve."""
    low, high = curve.interval(curve.mean_draws)
    full = curve.full if curve.full is not None and curve.full > 0.0 else None
    full_low, full_high = (None, None) if full is None else curve.interval(curve.full_draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_low, ratio_high = curve.interval(curve.mean_draws / curve.full_draws[:, None])
    table = []
    rows, used = _columns(curve.rows), _columns(curve.used)
    for i, size in enumerate(curve.sizes):
        size_rows = {n: column[rows["n_kept"] == size] for n, column in rows.items()}
        size_used = {n: column[used["n_kept"] == size] for n, column in used.items()}
        values = size_used["value"].astype(np.float64)
        table.append(
            curve.key._asdict()
            | {
                "fraction": float(size_used["fraction"].min()),
                "n_kept": int(size),
                "mean": curve.mean[i],
                "low": low[i],
                "high": high[i],
                "std": float(values.std(ddof=1)) if values.size > 1 else None,
                "ratio": None if full is None else curve.mean[i] / full,
                "ratio_low": None if full is None else ratio_low[i],
                "ratio_high": None if full is None else ratio_high[i],
                "value_full": curve.full,
                "full_low": full_low,
                "full_high": full_high,
                "level": curve.level,
            }
            | _support(size_rows, size_used)
        )
    return table


def _redundancy_row(
    curve: ValueCurve, delta: float, estimator: str, open_interval: tuple[int, int] | None
) -> dict[str, Any]:
    """Row of `redundancy` without the columns of `_support`.

    ``open_interval``: critical masses that refining left open, or None if it was not refined.
    """
    row = dict.fromkeys(REDUNDANCY_COLUMNS) | curve.key._asdict()
    row |= {"delta": delta, "estimator": estimator, "level": curve.level}
    row["value_full"] = curve.full
    if curve.full is None or curve.full <= 0.0 or not curve.sizes.size:
        return row
    d = curve.n_neurons
    full = np.concatenate([[curve.full], curve.full_draws])
    means = np.vstack([curve.mean, curve.mean_draws])
    sizes = curve.sizes.astype(np.float64)
    mass = np.ceil(critical_size(sizes, means, full, delta, estimator, float(d)) - 1e-9)
    low, high = (int(end) for end in curve.outward_interval(mass[1:]))
    passes = reaches(means[:1], full[:1], delta)[0]
    if open_interval is not None and estimator != "nearest":
        between = critical_size(sizes, means[1:], full[1:], delta, "interpolated", float(d))
        ends = curve.outward_interval(np.ceil(between - 1e-9))
        low, high = min(int(ends[0]), open_interval[0]), max(int(ends[1]), open_interval[1])
    return row | {
        "critical_mass": int(mass[0]),
        "critical_mass_low": low,
        "critical_mass_high": high,
        "dr": 1.0 - mass[0] / d,
        "dr_low": 1.0 - high / d,
        "dr_high": 1.0 - low / d,
        "at_floor": bool(passes[0]) and int(sizes[0]) > 1,
        "reached": bool(passes[curve.sizes < d].any()),
        "refined": _size_below(curve.sizes, passes, d) in {0, *curve.sizes.tolist()},
    }


def _size_below(sizes: npt.NDArray[np.int64], passes: npt.NDArray[np.bool_], n_neurons: int) -> int:
    """Return the size one neuron below the first that passes."""
    return int(sizes[np.argmax(passes)] if passes.any() else n_neurons) - 1


_Columns = dict[str, npt.NDArray[Any]]
_OBJECT_COLUMNS = ("status", "value")
_NUMBER_COLUMNS = ("n_kept", "n_neurons", "n_test", "n_train", "seed", "fraction")


def _columns(rows: pd.DataFrame) -> _Columns:
    """Convert the needed columns to NumPy, which is faster than pandas on few rows."""
    return {name: rows[name].to_numpy(dtype=object) for name in _OBJECT_COLUMNS} | {
        name: rows[name].to_numpy(dtype=np.float64) for name in _NUMBER_COLUMNS
    }


def _support(rows: _Columns, used: _Columns) -> dict[str, Any]:
    """Count the neurons, seeds, samples and failed cells behind a number."""
    return {
        "n_neurons": int(rows["n_neurons"].max()),
        "n_seeds": len(np.unique(used["seed"])),
        "n_test": int(rows["n_test"].max()),
        "n_train": int(rows["n_train"].max()),
        "n_failed": int((rows["status"] == "failed").sum()),
        "n_not_converged": int((rows["status"] == "not_converged").sum()),
    }
