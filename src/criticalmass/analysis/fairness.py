"""Inequality of class accuracies on smaller subsets, and the classes that lose most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from criticalmass.analysis.class_curves import ClassCurve, class_curves
from criticalmass.analysis.columns import (
    COUNT,
    CURVE_KEY_COLUMNS,
    FLAG,
    FLOAT,
    NOTE_COLUMN,
    SEED_COLUMNS,
    SIZE_COLUMNS,
    STATUS_COLUMNS,
    TEXT,
    Draws,
    RunLike,
    interval_columns,
    open_runs,
    outward_interval,
    percentile_interval,
    typed_table,
    with_note,
)
from criticalmass.analysis.estimators import checked_deltas
from criticalmass.analysis.inequality import gini, shrunken_worst
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray

__all__ = ["CLASS_COLUMNS", "FAIRNESS_COLUMNS", "LOSS_COLUMNS"]
__all__ += ["class_accuracy", "class_losses", "fairness"]

#: With fewer test samples of a class, its accuracy is too coarse for an interval of inequality.
FEWEST_CLASS_SAMPLES = 10
_SUPPORT_COLUMNS = NOTE_COLUMN | SEED_COLUMNS | STATUS_COLUMNS
FAIRNESS_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | SIZE_COLUMNS
    | interval_columns("accuracy")
    | {"gini": FLOAT}
    | interval_columns("gini_corrected")
    | dict.fromkeys(("gini_noise", "gini_of_means", "gini_full", "gini_corrected_full"), FLOAT)
    | {"gini_neutral": FLOAT}
    | interval_columns("gini_excess", "cv", "gap")
    | {"worst_class": TEXT}
    | interval_columns("worst_accuracy")
    | {
        "worst_observed": FLOAT,
        "worst_share": FLOAT,
        "accuracy_full": FLOAT,
        "cv_full": FLOAT,
        "gap_full": FLOAT,
    }
    | {"n_classes": COUNT, "n_test": COUNT, "smallest_class": COUNT}
    | _SUPPORT_COLUMNS
)
_CLASS_ID_COLUMNS = {"class_id": COUNT, "class_name": TEXT, "class_n_test": COUNT}
CLASS_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | SIZE_COLUMNS
    | _CLASS_ID_COLUMNS
    | interval_columns("accuracy")
    | {"accuracy_full": FLOAT}
    | interval_columns("loss", "relative_loss")
    | {"accuracy_neutral": FLOAT}
    | interval_columns("loss_beyond")
    | _SUPPORT_COLUMNS
)
LOSS_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | {"delta": FLOAT}
    | SIZE_COLUMNS
    | {"rank": COUNT, "rank_low": COUNT, "rank_high": COUNT}
    | _CLASS_ID_COLUMNS
    | interval_columns("relative_loss")
    | {"first_share": FLOAT, "accuracy": FLOAT, "accuracy_full": FLOAT}
    | interval_columns("loss_beyond")
    | {"singled_out": FLAG}
    | _SUPPORT_COLUMNS
)


@validate_arguments
def fairness(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the inequality of class accuracies of subsets, also at equal accuracy.

    Every value is that of one subset, averaged over seeds. Intervals come from the hierarchical
    bootstrap over seeds and over test samples within their class, with the whole layer on the
    same samples. The draws are shifted so that their mean is the value.

    Parameters
    ----------
    run: a run, its path, or several of them. Measures without predictions are left out.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws.
    seed: seed of the draws.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x n_kept, `FAIRNESS_COLUMNS`:

    - ``accuracy``; ``gini``, ``cv``, ``gap`` of the class accuracies (`criticalmass.gini`,
      ...), each also for the whole layer (``_full``);
    - ``gini_corrected``: ``gini`` without the part that is sampling noise, ``gini_noise``
      (`analysis.inequality.gini_without_noise`). With few test samples per class, equal classes
      look unequal; only the corrected coefficient has an interval;
    - ``gini_of_means``: Gini coefficient of class accuracies that were averaged over seeds first,
      as in Nanda et al. (2023). If seeds lose different classes, it hides their inequality;
    - ``gini_excess``: Gini coefficient minus that of the proportional-odds baseline, both
      corrected for sampling noise. The baseline is the whole layer, brought to the same accuracy
      by one factor on the odds of all classes (see `analysis.inequality`). Above 0, the subset is
      less fair than its accuracy explains. ``gini_neutral`` is ``gini_corrected - gini_excess``;
    - ``worst_class``: the class with the lowest accuracy (mean over seeds), ``worst_observed``.
      The lowest of several estimates is low by chance as well: ``worst_accuracy`` is the estimate
      of its true accuracy, with an interval (`analysis.inequality.shrunken_worst`).
      ``worst_share``: share of draws in which this class has the lowest accuracy;
    - ``interval_note``: why the intervals are not reliable; they are then missing.

    Raises
    ------
    CriticalMassError: if level or resamples is out of range, or a run has no predictions.
    """
    draws = Draws(level, resamples, seed)
    rows = [
        row
        for one in open_runs(run)
        for curve in class_curves(one, draws)
        for row in _fairness_rows(curve, level)
    ]
    return typed_table(rows, FAIRNESS_COLUMNS)


@validate_arguments
def class_accuracy(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute the accuracy of every class at every size, and its loss against the whole layer.

    Parameters
    ----------
    run, level, resamples, seed: as in `fairness`.

    Returns
    -------
    One row per class and row of `fairness`, `CLASS_COLUMNS`. ``loss`` is
    ``accuracy_full - accuracy``, ``relative_loss`` is ``loss / accuracy_full`` (missing if the
    whole layer gets no sample of the class right), ``loss_beyond`` is the loss beyond the
    proportional-odds baseline at the same accuracy, ``accuracy_neutral - accuracy``. Each
    interval holds for one class; `class_losses` gives intervals that hold for all classes at
    once.

    Raises
    ------
    CriticalMassError: as in `fairness`.
    """
    draws = Draws(level, resamples, seed)
    rows = [
        row
        for one in open_runs(run)
        for curve in class_curves(one, draws)
        for size in range(curve.subsets.sizes.size)
        for row in _class_rows(curve, size, level)
    ]
    return typed_table(rows, CLASS_COLUMNS)


@validate_arguments
def class_losses(
    run: RunLike | Sequence[RunLike],
    deltas: float | Sequence[float] = (0.9,),
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank the classes by loss at the smallest size that keeps ``delta`` of the accuracy.

    The size is the smallest tested one whose mean accuracy is at least ``delta`` times the whole
    layer's; classes are ranked by relative loss at this size. The intervals treat the size as
    fixed; `criticalmass.redundancy` gives its own uncertainty.

    The largest of many losses is large by chance too. ``rank_low`` and ``rank_high`` contain the
    rank in ``level`` of the draws, and ``first_share`` is the share of draws in which the class
    ranks first. The interval of ``loss_beyond`` is simultaneous: it covers all classes at once
    with probability ``level`` (quantile, over draws, of the largest deviation over classes in
    standard errors). ``singled_out`` tells whether it lies above 0.

    Parameters
    ----------
    run: a run, its path, or several of them.
    deltas: shares of the whole layer's accuracy, each in (0, 1].
    level, resamples, seed: as in `fairness`.

    Returns
    -------
    One row per class, curve and delta, ranked, `LOSS_COLUMNS`. There are no rows if the whole
    layer was not measured or no size keeps ``delta``.

    Raises
    ------
    CriticalMassError: as in `fairness`, or if a delta is outside (0, 1].
    """
    draws = Draws(level, resamples, seed)
    delta_list = checked_deltas(deltas)
    rows = [
        row
        for one in open_runs(run)
        for curve in class_curves(one, draws)
        for delta in delta_list
        for row in _loss_rows(curve, delta, level)
    ]
    return typed_table(rows, LOSS_COLUMNS)


def _fairness_rows(curve: ClassCurve, level: float) -> list[dict[str, Any]]:
    table = []
    for i, size in enumerate(curve.subsets.sizes):
        row: dict[str, Any] = dict.fromkeys(FAIRNESS_COLUMNS)
        row |= _size_columns(curve, int(size), level)
        for name, draws in curve.statistic_draws.items():
            minimum = -1.0 if name == "excess" else 0.0
            maximum = np.inf if name == "cv" else 1.0
            low, high = np.clip(percentile_interval(draws[:, i], level), minimum, maximum)
            column = "gini_excess" if name == "excess" else name
            if name != "gini":
                row |= {f"{column}_low": low, f"{column}_high": high}
        for name in ("accuracy", "gini", "gini_corrected", "cv", "gap"):
            row |= {
                name: curve.statistics[name][i],
                f"{name}_full": curve.full_statistics.get(name),
            }
        if "excess" in curve.statistics:
            excess = curve.statistics["excess"][i]
            corrected = curve.statistics["gini_corrected"][i]
            row |= {"gini_excess": excess, "gini_neutral": corrected - excess}
        draws = curve.accuracy_draws[:, i]
        worst, value, low, high = shrunken_worst(curve.accuracy[i], draws, level)
        row |= {
            "gini_noise": curve.statistics["noise"][i],
            "gini_of_means": gini(curve.accuracy[i]),
            "worst_class": curve.class_names[worst],
            "worst_observed": curve.accuracy[i, worst],
            "worst_accuracy": value,
            "worst_accuracy_low": low,
            "worst_accuracy_high": high,
            "worst_share": float(np.mean(draws.argmin(axis=1) == worst)),
            "n_classes": curve.counts.size,
            "n_test": int(curve.counts.sum()),
            "smallest_class": int(curve.counts.min()),
        }
        is_subset = int(size) < row["n_neurons"]
        row = with_note(row, curve.interval_note if is_subset else "")
        smallest = int(curve.counts.min())
        if smallest < FEWEST_CLASS_SAMPLES and not row["interval_note"]:
            row["interval_note"] = (
                f"a class has {smallest} test samples: no interval of gini and worst class"
            )
            few = ("gini_corrected", "gini_excess", "cv", "gap", "worst_accuracy")
            row |= {f"{name}{end}": None for name in few for end in ("_low", "_high")}
        table.append(row)
    return table


def _size_columns(curve: ClassCurve, size: int, level: float) -> dict[str, Any]:
    """Return the columns that identify the curve and describe one size."""
    subsets = curve.subsets
    return curve.source.key_columns(subsets.selector) | subsets.size_columns(size, level)


@dataclass(frozen=True, eq=False)
class _ClassValues:
    """A value of every class, (C,), and its bootstrap draws, (resamples, C)."""

    value: FloatArray
    draws: FloatArray


def _class_rows(curve: ClassCurve, size: int, level: float) -> list[dict[str, Any]]:
    """Rows of one size, in the order of the classes."""
    common = dict.fromkeys(CLASS_COLUMNS)
    common |= _size_columns(curve, int(curve.subsets.sizes[size]), level)
    losses = _losses(curve, size)
    accuracy = _ClassValues(curve.accuracy[size], curve.accuracy_draws[:, size])
    table = []
    for c, class_name in enumerate(curve.class_names):
        row: dict[str, Any] = common | {
            "class_id": int(curve.present[c]),
            "class_name": class_name,
            "class_n_test": int(curve.counts[c]),
            "accuracy_full": None if curve.full_accuracy is None else curve.full_accuracy[c],
        }
        for name, values in ({"accuracy": accuracy} | losses).items():
            if np.isfinite(values.value[c]):
                low, high = percentile_interval(values.draws[:, c], level)
                row |= {name: values.value[c], f"{name}_low": low, f"{name}_high": high}
        if "loss_beyond" in losses:
            clipped = curve.clip(curve.accuracy[size])[c]
            row["accuracy_neutral"] = clipped + losses["loss_beyond"].value[c]
        note = curve.interval_note if row["n_kept"] < row["n_neurons"] else ""
        table.append(with_note(row, note))
    return table


def _losses(curve: ClassCurve, size: int) -> dict[str, _ClassValues]:
    """Losses of every class at one size; empty without a whole layer."""
    baseline = curve.proportional_odds_baseline(size)
    full, full_draws = curve.full_accuracy, curve.full_accuracy_draws
    if full is None or full_draws is None or baseline is None:
        return {}
    value, draws = curve.accuracy[size], curve.accuracy_draws[:, size]
    return {
        "loss": _ClassValues(full - value, full_draws - draws),
        "relative_loss": _ClassValues(
            _relative_loss(value, full), _relative_loss(draws, full_draws)
        ),
        "loss_beyond": _ClassValues(
            baseline[0] - curve.clip(value), baseline[1] - curve.clip(draws)
        ),
    }


def _relative_loss(accuracy: FloatArray, full: FloatArray) -> FloatArray:
    """1 - accuracy / full; NaN if the whole layer gets nothing right."""
    return np.where(full > 0.0, 1.0 - accuracy / np.where(full > 0.0, full, 1.0), np.nan)


def _loss_rows(curve: ClassCurve, delta: float, level: float) -> list[dict[str, Any]]:
    """Rows of one curve and delta, the largest relative loss first."""
    if curve.full_accuracy is None:
        return []
    threshold = delta * curve.full_statistics["accuracy"]
    passes = curve.statistics["accuracy"] >= threshold - 1e-12
    if not passes.any():
        return []
    size = int(np.argmax(passes))
    losses = _losses(curve, size)
    # A class of which the whole layer gets nothing right cannot lose anything.
    relative = np.nan_to_num(losses["relative_loss"].value, nan=0.0)
    relative_draws = np.nan_to_num(losses["relative_loss"].draws, nan=0.0)
    order = np.argsort(-relative, kind="stable")
    ranks = 1 + np.argsort(np.argsort(-relative_draws, axis=1, kind="stable"), axis=1)
    rank_low, rank_high = outward_interval(ranks, level)
    beyond_low, beyond_high = _simultaneous_band(losses["loss_beyond"], level)
    class_rows = _class_rows(curve, size, level)
    rows = [
        {name: class_rows[c].get(name) for name in LOSS_COLUMNS}
        | {
            "delta": delta,
            "rank": rank,
            "rank_low": int(rank_low[c]),
            "rank_high": int(rank_high[c]),
            "first_share": float(np.mean(ranks[:, c] == 1)),
            "loss_beyond_low": beyond_low[c],
            "loss_beyond_high": beyond_high[c],
            "singled_out": bool(beyond_low[c] > 0.0) and not class_rows[c]["interval_note"],
        }
        for rank, c in enumerate(order, start=1)
    ]
    return [with_note(row, row["interval_note"]) for row in rows]


def _simultaneous_band(values: _ClassValues, level: float) -> tuple[FloatArray, FloatArray]:
    """Both ends of a band (C,) that covers all classes at once."""
    draws = values.draws
    error = draws.std(axis=0)
    deviation = np.abs(draws - draws.mean(axis=0)) / np.where(error > 0.0, error, 1.0)
    half_width = float(np.quantile(deviation.max(axis=1), level)) * error
    return values.value - half_width, values.value + half_width
