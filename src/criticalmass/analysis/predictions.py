"""The predictions of a run's probes, by selector, size and seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import LayerKey
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, RunError
from criticalmass.storage.run import Run

# A value in the table may differ this much from the mean of its scores, by rounding.
_VALUE_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class SelectorPredictions:
    """The predictions on the subsets of one selector.

    Attributes
    ----------
    selector: name of the selector.
    rows: all its rows in the run's table, failed ones included.
    used: the rows with predictions.
    sizes: (n_sizes,) neurons kept, ascending.
    seeds: (n_seeds,) ascending.
    row_index: (n_sizes, n_seeds) row of `Predictions.classes`; -1 if there is none.
    """

    selector: str
    rows: pd.DataFrame
    used: pd.DataFrame
    sizes: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    row_index: npt.NDArray[np.intp]

    def size_columns(self, size: int, level: float) -> dict[str, Any]:
        """Return the columns that describe one size: its fraction, seeds and failed cells."""
        rows = self.rows[self.rows["n_kept"] == size]
        used = self.used[self.used["n_kept"] == size]
        return {
            "fraction": float(used["fraction"].min()),
            "n_kept": int(size),
            "n_neurons": int(rows["n_neurons"].max()),
            "level": level,
            "n_seeds": int(used["seed"].nunique()),
            "n_failed": int((rows["status"] == "failed").sum()),
            "n_not_converged": int((rows["status"] == "not_converged").sum()),
        }


@dataclass(frozen=True, eq=False)
class Predictions:
    """All predictions of one measure on one layer.

    Attributes
    ----------
    key: model, layer, dataset and measure.
    classes: (n_distinct, n_test) predicted class ids; equal predictions share a row.
    labels: (n_test,) class ids.
    class_names: names of the classes, by id.
    full_row: row of ``classes`` with the predictions of the whole layer, or None.
    selectors: the predictions of each selector.
    """

    key: LayerKey
    classes: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    full_row: int | None
    selectors: tuple[SelectorPredictions, ...]

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(n_distinct, n_test) whether a prediction is correct."""
        return np.asarray(self.classes == self.labels)

    def key_columns(self, selector: str) -> dict[str, str]:
        """Return the columns that identify the curve of a selector."""
        return self.key._asdict() | {"selector": selector}


def predictions_of(run: Run) -> Iterator[Predictions]:
    """Yield the predictions of a run, one layer and measure after the other.

    Raises
    ------
    CriticalMassError: if no measure of the run predicts classes.
    RunError: if predictions are missing, damaged, or contradict the labels or the table.
    """
    frame = run.frame()
    references = frame["artifact"].fillna("").astype(str)
    has_predictions = references.str.startswith("predictions/") & (frame["status"] != "failed")
    if not has_predictions.any():
        measures = ", ".join(dict.fromkeys(frame["measure"])) or "none"
        raise CriticalMassError(
            f"{run.path} has no predictions (its measures: {measures}); sweep it with a probe, "
            "e.g. measures=('logistic',)"
        )
    for key, part in frame.groupby(list(LayerKey._fields), sort=True):
        used = part[has_predictions[part.index]]
        if len(used):
            yield _layer_predictions(run, LayerKey(*key), part, used)


def is_correct(run: Run, predictions: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Compare (n_rows, n_test) predicted class ids with the labels of the run.

    Raises
    ------
    RunError: if the run has labels of another number of test samples.
    """
    labels = run.labels()
    if predictions.shape[1:] != labels.shape:
        raise RunError(
            f"{run.path} has {labels.size} labels but predictions of {predictions.shape[1]} "
            "test samples; sweep again"
        )
    return np.asarray(predictions == labels)


def check_values(run: Run, rows: pd.DataFrame, means: FloatArray) -> None:
    """Refuse rows whose value differs from the mean of their stored scores.

    Parameters
    ----------
    run: the run, for the error text.
    rows: rows of the run's table.
    means: (len(rows),) mean of the stored scores of each row.

    Raises
    ------
    RunError: if a value differs.
    """
    difference = np.abs(rows["value"].to_numpy(dtype=np.float64) - means)
    if np.any(difference > _VALUE_TOLERANCE):
        worst = int(np.argmax(difference))
        row = rows.iloc[worst]
        raise RunError(
            f"cell {row['cell']!r} of {run.path} has value {row['value']:.6g} but its stored "
            f"scores have mean {means[worst]:.6g}; sweep again with rerun='all'"
        )


def _layer_predictions(
    run: Run, key: LayerKey, part: pd.DataFrame, used: pd.DataFrame
) -> Predictions:
    distinct, class_rows = np.unique(used["artifact"].to_numpy(dtype=str), return_inverse=True)
    classes = run.artifacts(distinct.tolist())
    check_values(run, used, is_correct(run, classes).mean(axis=1)[class_rows])
    labels = run.labels()
    n_classes = int(max(classes.max(initial=0), labels.max(initial=0))) + 1
    class_names = run.class_names
    unnamed = range(len(class_names), n_classes)
    full = class_rows[(used["selector"] == "full").to_numpy(dtype=bool)]
    selectors = tuple(
        _selector_predictions(str(selector), rows, used, class_rows)
        for selector, rows in part.groupby("selector", sort=True)
        if selector != "full" and (used["selector"] == selector).any()
    )
    return Predictions(
        key=key,
        classes=classes,
        labels=labels,
        class_names=(*class_names, *(str(i) for i in unnamed)),
        full_row=int(full[0]) if full.size else None,
        selectors=selectors,
    )


def _selector_predictions(
    selector: str, rows: pd.DataFrame, used: pd.DataFrame, class_rows: npt.NDArray[np.intp]
) -> SelectorPredictions:
    is_selector = (used["selector"] == selector).to_numpy(dtype=bool)
    own = used.loc[is_selector]
    sizes, size_index = np.unique(own["n_kept"].to_numpy(dtype=np.int64), return_inverse=True)
    seeds, seed_index = np.unique(own["seed"].to_numpy(dtype=np.int64), return_inverse=True)
    row_index = np.full((sizes.size, seeds.size), -1, dtype=np.intp)
    row_index[size_index, seed_index] = class_rows[is_selector]
    return SelectorPredictions(selector, rows, own, sizes, seeds, row_index)
