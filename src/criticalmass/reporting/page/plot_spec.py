"""Interactive figures of the page as data: axes, series, cells and the table behind them.

The page's script (`charts.js`) draws these data and computes no value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.reporting.figures.axes import Axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Series:
    """One line or set of points.

    Attributes
    ----------
    name: legend entry.
    x, y, low, high: (n,) numbers; ``low`` and ``high`` are empty without intervals.
    style: index into the colours, markers and dash patterns; None draws a grey line.
    shape: "line", "bare" (a line without markers), "steps", "points" or "stars".
    curve: number of the curve of the slider; None if it is none of them.
    hollow: whether markers are open.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[Any]
    low: Sequence[Any] = ()
    high: Sequence[Any] = ()
    style: int | None = 0
    shape: str = "line"
    curve: int | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Rule:
    """A line across the figure at a position of the axis "x" or "y"."""

    axis: str
    position: float
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Cells:
    """A heat map: names of rows and columns, values in [0, 1] with None for missing ones."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Plot:
    """One figure of the page.

    Attributes
    ----------
    name: short name, used in ids and file names.
    title, caption: text above and below the figure.
    summary: description for screen readers.
    table: data of the CSV file.
    drawing: the figure drawn by matplotlib, for the PDF file and for pages without a script.
    x, y, series, rules: of a figure with axes.
    cells: of a heat map.
    follows: mark that moves with the slider: "value" (critical mass with its interval), "delta"
        or "mass" (a vertical line at delta or at the critical mass), or "" (none).
    """

    name: str
    title: str
    caption: str
    summary: str
    table: pd.DataFrame
    drawing: Figure
    x: Axis | None = None
    y: Axis | None = None
    series: tuple[Series, ...] = ()
    rules: tuple[Rule, ...] = ()
    cells: Cells | None = None
    follows: str = ""

    def spec(self) -> dict[str, Any]:
        """Return the data that the script draws, ready for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "x": None if self.x is None else asdict(self.x),
            "y": None if self.y is None else asdict(self.y),
            "series": [_series_spec(series) for series in self.series],
            "rules": [asdict(rule) for rule in self.rules],
            "cells": _cells_spec(self.cells),
            "follows": self.follows,
            "table": {
                "columns": list(self.table.columns),
                "rows": [
                    [_json_value(value, 7) for value in row]
                    for row in self.table.itertuples(index=False)
                ],
            },
        }


def _series_spec(series: Series) -> dict[str, Any]:
    coordinates = {"x": series.x, "y": series.y, "low": series.low, "high": series.high}
    return {
        "name": series.name,
        **{name: [_json_value(v, 5) for v in values] for name, values in coordinates.items()},
        "style": series.style,
        "shape": series.shape,
        "curve": series.curve,
        "hollow": series.hollow,
    }


def _cells_spec(cells: Cells | None) -> dict[str, Any] | None:
    if cells is None:
        return None
    values = [[_json_value(value, 4) for value in row] for row in cells.values]
    return {"rows": list(cells.rows), "columns": list(cells.columns), "values": values}


def _json_value(value: Any, digits: int) -> Any:
    """Convert a value to a type of JSON: floats rounded to significant digits, missing as null."""
    import pandas as pd

    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return str(value)
