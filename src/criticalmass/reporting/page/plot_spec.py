"""What an interactive figure of the page is made of: axes, series, cells, and its own data.

These are words for the script of the page (`charts.js`), which draws and computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from criticalmass.reporting.figures.axes import Axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Series:
    """One line or set of points; all sequences have the same length.

    ``style`` is its place among the colours, markers and dashes, None for a quiet grey;
    ``shape`` "line", "points", "steps" or "stars"; ``curve`` the number of the curve that the
    slider may be about, None for none.
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
class Cells:
    """A heat map: names of rows and columns, values in [0, 1] with None for a gap."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Plot:
    """One figure of the page.

    Attributes
    ----------
    name: short, for the names of its files.
    title, caption: above and below it.
    summary: what it shows, for those who do not see it.
    table: its data, as the CSV holds them.
    drawing: the same figure for paper, as PDF and for pages without a script.
    x, y, series: of a figure with axes; ``rules``: (axis "x" or "y", place, words, dashed).
    cells: of a heat map.
    follows: what moves with the slider: "value", "delta", "mass" or "".
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
    rules: tuple[tuple[str, float, str, bool], ...] = ()
    cells: Cells | None = None
    follows: str = ""
    notes: tuple[str, ...] = field(default=())

    def spec(self) -> dict[str, Any]:
        """Return what the script draws, JSON-able."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "x": _axis(self.x),
            "y": _axis(self.y),
            "series": [_series(one) for one in self.series],
            "rules": [list(rule) for rule in self.rules],
            "cells": _cells(self.cells),
            "follows": self.follows,
            "table": {
                "columns": list(self.table.columns),
                "rows": [[_plain(v, 7) for v in row] for row in self.table.itertuples(index=False)],
            },
        }


def _axis(axis: Axis | None) -> dict[str, Any] | None:
    if axis is None:
        return None
    return {
        "label": axis.label,
        "low": axis.low,
        "high": axis.high,
        "ticks": [list(tick) for tick in axis.ticks],
        "log": axis.log,
        "form": axis.form,
        "neurons": axis.neurons,
    }


def _series(one: Series) -> dict[str, Any]:
    parts = {"x": one.x, "y": one.y, "low": one.low, "high": one.high}
    said: dict[str, Any] = {key: [_plain(v, 5) for v in part] for key, part in parts.items()}
    look = {"style": one.style, "shape": one.shape, "curve": one.curve, "hollow": one.hollow}
    return {"name": one.name, **said, **look}


def _cells(cells: Cells | None) -> dict[str, Any] | None:
    if cells is None:
        return None
    values = [[_plain(value, 4) for value in row] for row in cells.values]
    return {"rows": list(cells.rows), "columns": list(cells.columns), "values": values}


def _plain(value: Any, digits: int) -> Any:
    """Turn a value into what JSON can say: numbers rounded to so many digits, missing as null."""
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
