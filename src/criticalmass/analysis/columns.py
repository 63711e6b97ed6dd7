"""Columns, arguments and intervals that the tables of this package share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

RunLike = Run | str | os.PathLike[str]


def runs_of(run: RunLike | Sequence[RunLike]) -> list[Run]:
    """Open one run or several."""
    if isinstance(run, (Run, str, os.PathLike)):
        return [Run.open(run)]
    return [Run.open(one) for one in run]


def check_interval(level: float, resamples: int) -> None:
    """Refuse a level or a number of draws that is none."""
    if not 0.0 < level < 1.0:
        raise CriticalMassError(f"level={level} is outside (0, 1); 0.95 is usual")
    if resamples < 1:
        raise CriticalMassError(f"resamples={resamples} but at least 1 is drawn; 2000 is usual")


def percentiles(drawn: FloatArray, level: float) -> tuple[float, float]:
    """Both ends of the percentile interval of (resamples,) draws; NaN if they are."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def typed(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Make a typed table, with all columns even if there are no rows; NaN is missing."""
    return pd.DataFrame(
        {
            name: pd.array([_known(row[name]) for row in rows], dtype=dtype)
            for name, dtype in columns.items()
        }
    )


def _known(value: Any) -> Any:
    """Turn NaN into what a table shows as missing."""
    return None if isinstance(value, float) and np.isnan(value) else value
