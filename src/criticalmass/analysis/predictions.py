"""What the probes of a Run predicted, arranged by selector, size and seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.errors import CriticalMassError, RunError
from criticalmass.storage.run import Run


@dataclass(frozen=True, eq=False)
class Line:
    """The subsets of one selector.

    Attributes
    ----------
    selector: its name.
    rows: of the run's table, failed ones too.
    used: those with predictions.
    sizes: (n_sizes,) neurons kept, ascending.
    seeds: (n_seeds,) ascending.
    columns: (n_sizes, n_seeds) row of `Predictions.classes`; -1 where there is none.
    """

    selector: str
    rows: pd.DataFrame
    used: pd.DataFrame
    sizes: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    columns: npt.NDArray[np.intp]

    def at(self, size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows and used rows of one size."""
        return self.rows[self.rows["n_kept"] == size], self.used[self.used["n_kept"] == size]


@dataclass(frozen=True, eq=False)
class Predictions:
    """All that was predicted with one measure from one layer.

    Attributes
    ----------
    key: model, layer, dataset and measure.
    classes: (n_distinct, n_test) predicted class ids; rows that share predictions share one.
    labels: (n_test,) class ids.
    names: of the classes, by id.
    whole: row of ``classes`` that the whole layer predicted, or None.
    lines: one per selector.
    """

    key: tuple[str, str, str, str]
    classes: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    whole: int | None
    lines: tuple[Line, ...]

    @cached_property
    def hits(self) -> npt.NDArray[np.bool_]:
        """(n_distinct, n_test) whether a prediction is right."""
        return np.asarray(self.classes == self.labels)

    def row_key(self, line: Line) -> dict[str, Any]:
        """Return the columns that say which line a row of a table is about."""
        model, layer, dataset, measure = self.key
        return {
            "model": model,
            "layer": layer,
            "dataset": dataset,
            "selector": line.selector,
            "measure": measure,
        }


def predictions_of(run: Run) -> Iterator[Predictions]:
    """Yield what a run's probes predicted, one layer and measure after the other.

    Raises
    ------
    CriticalMassError: if no measure of the run predicts classes.
    RunError: if predictions are missing, damaged, or do not fit labels or values.
    """
    frame = run.frame()
    references = frame["artifact"].fillna("").astype(str)
    predicted = references.str.startswith("predictions/") & (frame["status"] != "failed")
    if not predicted.any():
        known = ", ".join(dict.fromkeys(frame["measure"])) or "nothing"
        raise CriticalMassError(
            f"{run.path} holds no predictions, but {known}; sweep it with a probe, e.g. "
            "measures=('logistic',)"
        )
    for key, part in frame.groupby(["model", "layer", "dataset", "measure"], sort=True):
        used = part[predicted[part.index]]
        if len(used):
            yield _arranged(run, key, part, used)


def _arranged(run: Run, key: Any, part: pd.DataFrame, used: pd.DataFrame) -> Predictions:
    distinct, at = np.unique(used["artifact"].to_numpy(dtype=str), return_inverse=True)
    classes = run.artifacts(distinct.tolist())
    labels = run.labels()
    _check(run, used, classes, at, labels)
    top = int(max(classes.max(initial=0), labels.max(initial=0))) + 1
    given = run.class_names
    names = tuple(given) + tuple(str(i) for i in range(len(given), top))
    full = at[(used["selector"] == "full").to_numpy(dtype=bool)]
    lines = tuple(
        _line(str(selector), rows, used.loc[used["selector"] == selector], at, used)
        for selector, rows in part.groupby("selector", sort=True)
        if selector != "full" and (used["selector"] == selector).any()
    )
    whole = int(full[0]) if full.size else None
    return Predictions(tuple(key), classes, labels, names, whole, lines)


def _line(
    selector: str, rows: pd.DataFrame, mine: pd.DataFrame, at: Any, used: pd.DataFrame
) -> Line:
    place = at[(used["selector"] == selector).to_numpy(dtype=bool)]
    sizes, size_at = np.unique(mine["n_kept"].to_numpy(dtype=np.int64), return_inverse=True)
    seeds, seed_at = np.unique(mine["seed"].to_numpy(dtype=np.int64), return_inverse=True)
    columns = np.full((sizes.size, seeds.size), -1, dtype=np.intp)
    columns[size_at, seed_at] = place
    return Line(selector, rows, mine, sizes, seeds, columns)


def _check(run: Run, used: pd.DataFrame, classes: npt.NDArray[Any], at: Any, labels: Any) -> None:
    """Refuse predictions of other samples than the labels', or of another value than the row's."""
    if classes.shape[1:] != labels.shape:
        raise RunError(
            f"{run.path} has {labels.size} labels but predictions of {classes.shape[1]} test "
            "samples; sweep again"
        )
    found = (classes == labels).mean(axis=1)[at]
    off = np.abs(used["value"].to_numpy(dtype=np.float64) - found)
    if np.any(off > 1e-5):
        worst = int(np.argmax(off))
        raise RunError(
            f"cell {used['cell'].iloc[worst]!r} of {run.path} has value "
            f"{used['value'].iloc[worst]:.6g} but its predictions say {found[worst]:.6g}; "
            "sweep again with rerun='all'"
        )


def counted(line: Line, size: int, level: float) -> dict[str, Any]:
    """Return the columns that say what stands behind the numbers of one size."""
    rows, used = line.at(size)
    return {
        "fraction": float(used["fraction"].min()),
        "n_kept": int(size),
        "n_neurons": int(rows["n_neurons"].max()),
        "level": level,
        "n_seeds": int(used["seed"].nunique()),
        "n_failed": int((rows["status"] == "failed").sum()),
        "n_not_converged": int((rows["status"] == "not_converged").sum()),
    }
