"""Columns, arguments and intervals that the tables of this package share."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

RunLike = Run | str | os.PathLike[str]

#: pandas types of the columns; all of them can hold missing values.
TEXT, COUNT, FLOAT, FLAG = "string", "Int64", "Float64", "boolean"


class CurveKey(NamedTuple):
    """Identifies one curve of a run."""

    model: str
    layer: str
    dataset: str
    selector: str
    measure: str


class LayerKey(NamedTuple):
    """Identifies one measure on one layer of a run."""

    model: str
    layer: str
    dataset: str
    measure: str


CURVE_KEY_COLUMNS = dict.fromkeys(CurveKey._fields, TEXT)
LAYER_KEY_COLUMNS = dict.fromkeys(LayerKey._fields, TEXT)
SIZE_COLUMNS = {"fraction": FLOAT, "n_kept": COUNT, "n_neurons": COUNT}
#: Numbers of test and training samples, and of cells without a converged value.
SAMPLE_COLUMNS = dict.fromkeys(("n_test", "n_train"), COUNT)
STATUS_COLUMNS = dict.fromkeys(("n_failed", "n_not_converged"), COUNT)
#: Confidence level of the intervals and number of seeds of the means.
SEED_COLUMNS = {"level": FLOAT, "n_seeds": COUNT}
#: Random subsets of fewer seeds have no interval.
FEWEST_SEEDS = 3
#: Why the intervals of a row are missing; empty where they are not.
NOTE_COLUMN = {"interval_note": TEXT}
_INTERVAL_SUFFIXES = ("", "_low", "_high")


def interval_columns(*names: str) -> dict[str, str]:
    """Return the columns of values with their intervals: ``name``, ``name_low``, ``name_high``."""
    return {f"{name}{suffix}": FLOAT for name in names for suffix in _INTERVAL_SUFFIXES}


def seed_note(n_seeds: int) -> str:
    """Say that there are too few seeds of a random selector for an interval; empty if not."""
    if n_seeds >= FEWEST_SEEDS:
        return ""
    return f"{n_seeds} {'seed' if n_seeds == 1 else 'seeds'}, at least {FEWEST_SEEDS} needed"


def with_note(row: Mapping[str, Any], note: str) -> dict[str, Any]:
    """Return a row with the column ``interval_note``, and without intervals if there is a note."""
    hidden = dict.fromkeys(
        name
        for name in row
        if note and (name in {"low", "high"} or name.endswith(_INTERVAL_SUFFIXES[1:]))
    )
    return {**row, **hidden, "interval_note": note}


@dataclass(frozen=True)
class SharedSeeds:
    """Draws of the deviations of random subsets that the runs of several tasks share.

    Attributes
    ----------
    layer, measure: the curve.
    dataset: of the first run; with the seeds and the sizes it decides the shared draws.
    sizes, seeds: of both runs, ascending.
    correlation: of the deviations of this run with the shared draws.
    """

    layer: str
    measure: str
    dataset: str
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    correlation: float


@dataclass(frozen=True)
class Draws:
    """Settings of a bootstrap.

    Attributes
    ----------
    level: confidence level of the percentile intervals, in (0, 1).
    resamples: number of bootstrap draws, at least 1.
    seed: seed of the random draws.
    shared: what the random subsets share with those of another run, by curve.

    Raises
    ------
    CriticalMassError: if level or resamples is out of range.
    """

    level: float
    resamples: int
    seed: int
    shared: tuple[SharedSeeds, ...] = ()

    def __post_init__(self) -> None:
        check_interval(self.level, self.resamples)


def check_interval(level: float, resamples: int) -> None:
    """Refuse a level outside (0, 1) and fewer than 1 bootstrap draw."""
    if not 0.0 < level < 1.0:
        raise CriticalMassError(f"level={level} is outside (0, 1); use e.g. 0.95")
    if resamples < 1:
        raise CriticalMassError(f"resamples={resamples} must be at least 1; use e.g. 2000")


def open_runs(run: RunLike | Sequence[RunLike]) -> list[Run]:
    """Open one run or several."""
    if isinstance(run, (Run, str, os.PathLike)):
        return [Run.open(run)]
    return [Run.open(one) for one in run]


def percentile_interval(draws: FloatArray, level: float) -> tuple[float, float]:
    """Return the percentile interval of (resamples,) draws; NaN if any draw is NaN."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)


def outward_interval(
    draws: npt.NDArray[Any], level: float
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the percentile interval over the first axis, each end rounded outward to a draw.

    The ends equal those of ``numpy.quantile`` with the methods "lower" and "higher". One
    partition finds both, because a report needs thousands of intervals.
    """
    tail = (1.0 - level) / 2.0
    last = len(draws) - 1
    low, high = math.floor(tail * last), math.ceil((1.0 - tail) * last)
    ordered = np.partition(draws, [low, high], axis=0)
    return ordered[low], ordered[high]


def typed_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Make a table with typed columns; without rows it has all columns too, NaN is missing."""
    return pd.DataFrame(
        {
            name: pd.array([_nan_to_none(row[name]) for row in rows], dtype=dtype)
            for name, dtype in columns.items()
        }
    )


def _nan_to_none(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value
