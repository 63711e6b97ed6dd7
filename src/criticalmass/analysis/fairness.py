"""Who pays for a smaller subset: class accuracies, their inequality, and the first to lose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from criticalmass.analysis.class_curves import ClassCurve, class_curves
from criticalmass.analysis.columns import check_interval, percentiles, runs_of, typed
from criticalmass.analysis.estimators import check_delta
from criticalmass.analysis.inequality import gini
from criticalmass.analysis.predictions import counted
from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.storage.run import Run

__all__ = ["CLASS_COLUMNS", "FAIRNESS_COLUMNS", "LOSS_COLUMNS"]
__all__ += ["class_accuracy", "class_losses", "fairness"]

RunLike = Run | str | os.PathLike[str]
_TEXT, _COUNT, _FLOAT = "string", "Int64", "Float64"
_KEY = dict.fromkeys(("model", "layer", "dataset", "selector", "measure"), _TEXT)
_SIZE = {"fraction": _FLOAT, "n_kept": _COUNT, "n_neurons": _COUNT}
_TALLY = {"level": _FLOAT, "n_seeds": _COUNT, "n_failed": _COUNT, "n_not_converged": _COUNT}


def _interval(*names: str) -> dict[str, str]:
    return {f"{name}{end}": _FLOAT for name in names for end in ("", "_low", "_high")}


FAIRNESS_COLUMNS: dict[str, str] = (
    _KEY
    | _SIZE
    | _interval("accuracy", "gini")
    | dict.fromkeys(("gini_noise", "gini_of_means", "gini_full", "gini_neutral"), _FLOAT)
    | _interval("gini_excess", "cv", "gap")
    | {"worst_class": _TEXT}
    | _interval("worst_accuracy")
    | {"worst_share": _FLOAT, "accuracy_full": _FLOAT, "cv_full": _FLOAT, "gap_full": _FLOAT}
    | {"n_classes": _COUNT, "n_test": _COUNT, "smallest_class": _COUNT}
    | _TALLY
)
_CLASS = {"class_id": _COUNT, "class_name": _TEXT, "class_n_test": _COUNT}
CLASS_COLUMNS: dict[str, str] = (
    _KEY
    | _SIZE
    | _CLASS
    | _interval("accuracy")
    | {"accuracy_full": _FLOAT}
    | _interval("loss", "relative_loss")
    | {"accuracy_neutral": _FLOAT}
    | _interval("loss_beyond")
    | _TALLY
)
LOSS_COLUMNS: dict[str, str] = (
    _KEY
    | {"delta": _FLOAT}
    | _SIZE
    | {"rank": _COUNT, "rank_low": _COUNT, "rank_high": _COUNT}
    | _CLASS
    | _interval("relative_loss")
    | {"first_share": _FLOAT, "accuracy": _FLOAT, "accuracy_full": _FLOAT}
    | _interval("loss_beyond")
    | {"singled_out": "boolean"}
    | _TALLY
)


@checked
def fairness(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How unequal the class accuracies of subsets are, also at equal accuracy.

    Every figure is that of one subset, averaged over seeds; intervals come from the
    hierarchical bootstrap over seeds and over test samples within their class, the whole
    layer on the same samples, shifted so that the draws' mean is the figure.

    Parameters
    ----------
    run: a run, its path, or several of them. Measures without predictions are left out.
    level: of the percentile intervals.
    resamples: bootstrap draws.
    seed: fixes the draws.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x n_kept, `FAIRNESS_COLUMNS`:

    - ``accuracy``; ``gini``, ``cv``, ``gap`` of the class accuracies (`criticalmass.gini`,
      ...), each also for the whole layer (``_full``);
    - ``gini_noise``: about how much of ``gini`` is sampling noise, as few test samples a
      class make equal classes look unequal;
    - ``gini_of_means``: of class accuracies averaged over seeds first, as in Nanda et al.
      (2023); seeds that sacrifice different classes hide each other's inequality in it;
    - ``gini_excess``: Gini coefficient beyond that of the whole layer brought down to the
      same accuracy by a class-neutral loss (see `analysis.inequality`), both freed of sampling
      noise; above 0, the subset is less fair than its accuracy explains. ``gini_neutral`` =
      ``gini - gini_excess``;
    - ``worst_class``: lowest accuracy, mean over seeds, which is ``worst_accuracy``;
      ``worst_share``: share of draws in which it is the lowest.

    Raises
    ------
    CriticalMassError: for a level or number of resamples that is none, or no predictions.
    """
    check_interval(level, resamples)
    rows = [
        row
        for one in runs_of(run)
        for curve in class_curves(one, level, resamples, seed)
        for row in _fairness_rows(curve, level)
    ]
    return typed(rows, FAIRNESS_COLUMNS)


@checked
def class_accuracy(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of every class at every size, and what it loses against the whole layer.

    Parameters
    ----------
    run, level, resamples, seed: as in `fairness`.

    Returns
    -------
    One row per class besides the keys of `fairness`, `CLASS_COLUMNS`. ``loss`` is
    ``accuracy_full - accuracy``, ``relative_loss`` is ``loss / accuracy_full`` (missing where
    the whole layer gets none right), ``loss_beyond`` is what is lost beyond a class-neutral
    loss to the same accuracy, ``accuracy_neutral - accuracy``. Each interval is for one
    class by itself; `class_losses` gives intervals that hold for all classes at once.

    Raises
    ------
    CriticalMassError: as `fairness`.
    """
    check_interval(level, resamples)
    rows = [
        row
        for one in runs_of(run)
        for curve in class_curves(one, level, resamples, seed)
        for size in range(curve.line.sizes.size)
        for row in _class_rows(curve, size, level)
    ]
    return typed(rows, CLASS_COLUMNS)


@checked
def class_losses(
    run: RunLike | Sequence[RunLike],
    deltas: float | Sequence[float] = (0.9,),
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Which classes pay first at the smallest size that keeps ``delta`` of the whole layer.

    Classes are ranked by relative loss at the smallest tested size whose mean accuracy is at
    least ``delta`` times the whole layer's. The size is taken as given: its own uncertainty
    is `criticalmass.redundancy`'s.

    The largest of many losses is large by luck too. ``rank_low`` and ``rank_high`` hold the
    rank in ``level`` of the draws, ``first_share`` is the share of draws in which the class
    is the first, and the interval of ``loss_beyond`` is simultaneous: it covers all classes
    at once with probability ``level`` (the quantile of the largest deviation in standard
    errors, over classes and draws). ``singled_out`` says that it lies above 0.

    Parameters
    ----------
    run: a run, its path, or several of them.
    deltas: shares of the whole layer's accuracy, each in (0, 1].
    level, resamples, seed: as in `fairness`.

    Returns
    -------
    One row per class besides the keys of `fairness` (but one n_kept per delta), ranked,
    `LOSS_COLUMNS`. None where the whole layer was not measured or no size keeps ``delta``.

    Raises
    ------
    CriticalMassError: as `fairness`, or for a delta outside (0, 1].
    """
    check_interval(level, resamples)
    wanted = [float(d) for d in np.atleast_1d(np.asarray(deltas, dtype=np.float64))]
    for delta in wanted:
        check_delta(delta)
    rows = [
        row
        for one in runs_of(run)
        for curve in class_curves(one, level, resamples, seed)
        for delta in wanted
        for row in _loss_rows(curve, delta, level)
    ]
    return typed(rows, LOSS_COLUMNS)


def _fairness_rows(curve: ClassCurve, level: float) -> list[dict[str, Any]]:
    whole = curve.value_whole
    worst = curve.accuracy.argmin(axis=1)
    table = []
    for i, size in enumerate(curve.line.sizes):
        row: dict[str, Any] = dict.fromkeys(FAIRNESS_COLUMNS)
        row |= curve.source.row_key(curve.line) | counted(curve.line, int(size), level)
        for name, drawn in curve.value_drawn.items():
            floor = -1.0 if name == "excess" else 0.0
            top = np.inf if name == "cv" else 1.0
            low, high = np.clip(percentiles(drawn[:, i], level), floor, top)
            name = "gini_excess" if name == "excess" else name
            row |= {f"{name}_low": low, f"{name}_high": high}
        for name in ("accuracy", "gini", "cv", "gap"):
            row |= {name: curve.value[name][i], f"{name}_full": whole.get(name)}
        if "excess" in curve.value:
            excess = curve.value["excess"][i]
            row |= {"gini_excess": excess, "gini_neutral": curve.value["gini"][i] - excess}
        low, high = percentiles(curve.drawn[:, i, worst[i]], level)
        row |= {
            "gini_noise": curve.value["noise"][i],
            "gini_of_means": gini(curve.accuracy[i]),
            "worst_class": curve.class_names[worst[i]],
            "worst_accuracy": curve.accuracy[i, worst[i]],
            "worst_accuracy_low": low,
            "worst_accuracy_high": high,
            "worst_share": float(np.mean(curve.drawn[:, i].argmin(axis=1) == worst[i])),
            "n_classes": curve.counts.size,
            "n_test": int(curve.counts.sum()),
            "smallest_class": int(curve.counts.min()),
        }
        table.append(row)
    return table


def _class_rows(curve: ClassCurve, size: int, level: float) -> list[dict[str, Any]]:
    """Rows of one size, in the order of the classes."""
    head = dict.fromkeys(CLASS_COLUMNS) | curve.source.row_key(curve.line)
    head |= counted(curve.line, int(curve.line.sizes[size]), level)
    parts = {"accuracy": (curve.accuracy[size], curve.drawn[:, size])} | _losses(curve, size)
    table = []
    for c, name in enumerate(curve.class_names):
        row: dict[str, Any] = head | _about_class(curve, c, name)
        for part, (value, drawn) in parts.items():
            if np.isfinite(value[c]):
                low, high = percentiles(drawn[:, c], level)
                row |= {part: value[c], f"{part}_low": low, f"{part}_high": high}
        if "loss_beyond" in parts:
            inside = curve.inside(curve.accuracy[size])[c]
            row["accuracy_neutral"] = inside + parts["loss_beyond"][0][c]
        table.append(row)
    return table


def _about_class(curve: ClassCurve, c: int, name: str) -> dict[str, Any]:
    return {
        "class_id": int(curve.present[c]),
        "class_name": name,
        "class_n_test": int(curve.counts[c]),
        "accuracy_full": None if curve.whole is None else curve.whole[c],
    }


def _losses(curve: ClassCurve, size: int) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Name -> (value (C,), draws (resamples, C)) of a size's losses; none without the layer."""
    neutral = curve.neutral(size)
    if curve.whole is None or curve.whole_drawn is None or neutral is None:
        return {}
    value, drawn = curve.accuracy[size], curve.drawn[:, size]
    beyond = neutral[0] - curve.inside(value)
    return {
        "loss": (curve.whole - value, curve.whole_drawn - drawn),
        "relative_loss": (_relative(value, curve.whole), _relative(drawn, curve.whole_drawn)),
        "loss_beyond": (beyond, neutral[1] - curve.inside(drawn)),
    }


def _relative(value: FloatArray, whole: FloatArray) -> FloatArray:
    """1 - value / whole; NaN where the whole layer gets nothing right."""
    return np.where(whole > 0.0, 1.0 - value / np.where(whole > 0.0, whole, 1.0), np.nan)


def _loss_rows(curve: ClassCurve, delta: float, level: float) -> list[dict[str, Any]]:
    """Rows of one curve and delta, those who pay most first."""
    if curve.whole is None:
        return []
    passing = curve.value["accuracy"] >= delta * curve.value_whole["accuracy"] - 1e-12
    if not passing.any():
        return []
    size = int(np.argmax(passing))
    parts = _losses(curve, size)
    # A class of which the whole layer gets nothing right has nothing to lose.
    value, drawn = (np.nan_to_num(part, nan=0.0) for part in parts["relative_loss"])
    order = np.argsort(-value, kind="stable")
    ranks = 1 + np.argsort(np.argsort(-drawn, axis=1, kind="stable"), axis=1)
    beyond = _simultaneous(*parts["loss_beyond"], level)
    rows = _class_rows(curve, size, level)
    table = []
    for rank, c in enumerate(order, start=1):
        row = {name: rows[c].get(name) for name in LOSS_COLUMNS}
        tail = (1.0 - level) / 2.0
        row |= {
            "delta": delta,
            "rank": rank,
            "rank_low": int(np.quantile(ranks[:, c], tail, method="lower")),
            "rank_high": int(np.quantile(ranks[:, c], 1.0 - tail, method="higher")),
            "first_share": float(np.mean(ranks[:, c] == 1)),
            "loss_beyond_low": beyond[0][c],
            "loss_beyond_high": beyond[1][c],
            "singled_out": bool(beyond[0][c] > 0.0),
        }
        table.append(row)
    return table


def _simultaneous(
    value: FloatArray, drawn: FloatArray, level: float
) -> tuple[FloatArray, FloatArray]:
    """Both ends of a band (C,) that holds for all classes at once."""
    error = drawn.std(axis=0)
    off = np.abs(drawn - drawn.mean(axis=0)) / np.where(error > 0.0, error, 1.0)
    reach = float(np.quantile(off.max(axis=1), level)) * error
    return value - reach, value + reach
