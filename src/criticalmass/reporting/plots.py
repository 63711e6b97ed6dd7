"""The description of a figure: axes, series, rules, marks and cells, with their words and colours.

Two renderers draw it and add nothing of their own: `criticalmass.reporting.figures.draw` with
matplotlib, and the page's script ``charts.js`` from `Plot.spec`. A renderer may leave out tick
texts that would overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.reporting.formatting import is_missing, with_minus_sign

if TYPE_CHECKING:
    import pandas as pd

INK = "#1d1c1a"
FAINT = "#8c8a85"
GRID = "#e3e1dc"
#: The colours of Okabe and Ito, which colour-blind readers can distinguish; the last three are
#: darker than theirs, so that all have a contrast of 3 to a white page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b9588f", "#b87d00", "#3a97cf")
#: Name of a colour, which is its variable in the page's style sheet -> its value on white paper.
PALETTE: Mapping[str, str] = {
    "ink": INK,
    "faint": FAINT,
    "line": GRID,
    "grey": "#bab7b0",
    **{f"series-{number}": colour for number, colour in enumerate(COLOURS)},
}
#: Opacity of the colour of a cell whose value is 1; its text stays readable on it.
CELL_OPACITY = 0.78
#: Markers of series, by their names in matplotlib.
MARKERS = ("o", "s", "^", "D", "v", "P")
#: Dash patterns of series: lengths of strokes and gaps in multiples of the width of the line.
DASH_PATTERNS: tuple[tuple[float, ...], ...] = (
    (),
    (6, 1.5),
    (2, 1),
    (5, 1, 1, 1),
    (1, 1.65),
    (3.7, 1.6),
)
#: A figure with more lines than this colours them by their order and names three of them.
MAX_DISTINCT_LINES = 8
#: Ticks from 0 to 1 in steps of 0.2.
FIFTHS = tuple((n / 5, f"{n / 5:.1f}") for n in range(6))

# 1, 2 and 5 times the powers of ten from 0.0001 to 1.
_FRACTION_TICKS = (*(m / 10**e for e in (4, 3, 2, 1) for m in (1, 2, 5)), 1.0)
# Maps of more columns than this show no values in their cells.
_MAX_TEXT_COLUMNS = 8


@dataclass(frozen=True)
class Axis:
    """One axis of a figure.

    Attributes
    ----------
    label: title of the axis.
    low, high: its ends.
    ticks: (position, text) pairs, in ascending order.
    log: whether it is logarithmic.
    form: how the page writes a value that is read: "percent", "count" or "number"; "name" if its
        ticks name rows, at one of which each value lies.
    neurons: number of neurons at the fraction 1, for the readout of an axis of fractions; 0 for
        other axes and where layers differ.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    form: str = "number"
    neurons: int = 0


@dataclass(frozen=True)
class Series:
    """One line or set of points.

    Attributes
    ----------
    name: name in the readout of the page and, by default, in the legend; a series without a name
        is not read.
    x, y: (n,) numbers; points with a missing number are left out.
    low, high: (n,) ends of intervals of ``y``, or empty. Lines show them as a band, points as bars.
    x_low, x_high: (n,) ends of intervals of ``x``, or empty; only of points.
    style: number of the series' colour, marker and dash pattern.
    colour: name in `PALETTE` or ``#rrggbb``; by default that of the style.
    shape: "line", "bare" (a line without markers), "steps" (each value holds until the next x),
        "band" (an interval alone), "points" or "stars".
    legend: text in the legend; "" for none. Series of equal text share one entry.
    hollow: whether markers are open.
    bounds: indices of points that are lower bounds, marked by open triangles.
    texts: (n,) texts beside the points, or empty.
    curve: number of the curve of the page's slider; None if it is none of them.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[Any]
    low: Sequence[Any] = ()
    high: Sequence[Any] = ()
    x_low: Sequence[Any] = ()
    x_high: Sequence[Any] = ()
    style: int = 0
    colour: str = ""
    shape: str = "line"
    legend: str | None = None
    hollow: bool = False
    bounds: Sequence[int] = ()
    texts: Sequence[str] = ()
    curve: int | None = None

    @property
    def tone(self) -> str:
        """Name in `PALETTE` of the colour, or its ``#rrggbb``."""
        return self.colour or f"series-{self.style % len(COLOURS)}"

    @property
    def marker(self) -> str:
        """Name of the marker; "" for lines without markers."""
        if self.shape == "stars":
            return "*"
        return MARKERS[self._variant % len(MARKERS)] if self.shape in ("line", "points") else ""

    @property
    def dashes(self) -> tuple[float, ...]:
        """Dash pattern of the line, in multiples of its width; empty for a solid one."""
        return DASH_PATTERNS[self._variant % len(DASH_PATTERNS)]

    @property
    def _variant(self) -> int:
        """Number of the marker and the dash pattern; they differ where colours are repeated."""
        return self.style // len(COLOURS) + self.style

    @property
    def is_secondary(self) -> bool:
        """Whether it is drawn thin, without a band, and below the others."""
        return self.tone not in PALETTE or self.tone in ("grey", "faint")


@dataclass(frozen=True)
class Rule:
    """A line across the figure at a position of the axis "x" or "y", and its interval."""

    axis: str
    position: float
    label: str = ""
    dashed: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Mark:
    """A critical mass: a diamond at (x, y), and its interval from ``low`` to ``high`` along x."""

    x: float
    y: float
    low: float
    high: float
    label: str = ""


@dataclass(frozen=True)
class Cells:
    """A heat map.

    Attributes
    ----------
    rows, columns: names (n,) and (m,).
    values: (n, m) values in [0, 1]; None or NaN for missing ones.
    label: what a value is; title of the scale of shades.
    column_label: title of the columns.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    label: str
    column_label: str
    ticks: tuple[tuple[float, str], ...] = FIFTHS

    @property
    def texts(self) -> list[list[str]]:
        """(n, m) texts in the cells; all empty if there are too many columns for texts."""
        shown = len(self.columns) <= _MAX_TEXT_COLUMNS
        return [
            ["" if is_missing(v) or not shown else f"{v:.2f}" for v in row] for row in self.values
        ]


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes
    ----------
    name: short name, used in ids and file names.
    title, caption: text above and below the figure of the page.
    summary: description for screen readers.
    table: data of the CSV file.
    x, y, series, rules, marks: of a figure with axes.
    cells: of a heat map.
    follows: mark of the page that moves with its slider: "value" (critical mass with its
        interval), "delta" or "mass" (a vertical line at delta or at the critical mass), or ""
        (none).
    free_corner: corner of the axes without data, such as "lower right", for a legend on paper;
        "" if there is none.
    """

    name: str
    title: str
    caption: str
    summary: str
    table: pd.DataFrame
    x: Axis | None = None
    y: Axis | None = None
    series: tuple[Series, ...] = ()
    rules: tuple[Rule, ...] = ()
    marks: tuple[Mark, ...] = ()
    cells: Cells | None = None
    follows: str = ""
    free_corner: str = ""

    @property
    def legend(self) -> list[tuple[str, list[int]]]:
        """Entries of the legend: text and numbers of the series; empty for a single entry."""
        entries: dict[str, list[int]] = {}
        for number, series in enumerate(self.series):
            text = series.name if series.legend is None else series.legend
            if text:
                entries.setdefault(text, []).append(number)
        return list(entries.items()) if len(entries) > 1 else []

    def spec(self) -> dict[str, Any]:
        """Return the data that the page's script draws, ready for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "x": None if self.x is None else asdict(self.x),
            "y": None if self.y is None else asdict(self.y),
            "series": [_series_spec(series) for series in self.series],
            "rules": [asdict(rule) for rule in self.rules],
            "marks": [asdict(mark) for mark in self.marks],
            "cells": _cells_spec(self.cells),
            "legend": self.legend,
            "follows": self.follows,
            "table": {
                "rows": len(self.table),
                "columns": [_column_spec(name, column) for name, column in self.table.items()],
            },
        }


def share_axis(smallest: float, neurons: int, label: str = "neurons kept") -> Axis:
    """Return the logarithmic axis of fractions, from the smallest one to the whole layer.

    Parameters
    ----------
    smallest: smallest fraction drawn, in (0, 1].
    neurons: of the whole layer, 0 where layers differ.
    label: title of the axis.
    """
    low = smallest * 0.88
    ticks = tuple((tick, f"{tick * 100:g} %") for tick in _FRACTION_TICKS if tick >= low)
    return Axis(label, low, 1.13, ticks, log=True, form="percent", neurons=neurons)


def count_axis(low: float, high: float, label: str) -> Axis:
    """Return a logarithmic axis of counts from ``low`` to ``high``."""
    candidates = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    ticks = tuple((tick, f"{tick:,}") for tick in candidates if low * 0.88 <= tick <= high * 1.13)
    return Axis(label, low * 0.88, high * 1.13, ticks, log=True, form="count")


def plain_axis(
    values: Iterable[Any], label: str, *, form: str = "number", top: float | None = None
) -> Axis:
    """Return a linear axis around values, with about five round ticks.

    Parameters
    ----------
    values: numbers that the axis covers; missing ones are ignored.
    label: title of the axis.
    form: as in `Axis`.
    top: largest upper end.
    """
    present = (float(value) for value in values if not is_missing(value))
    known = [value for value in present if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    spread = (high - low) or 0.1
    low, high = low - 0.05 * spread, high + 0.05 * spread
    if top is not None:
        high = min(high, top)
    if min(known) >= 0.0:
        low = max(low, 0.0 if low < 0.02 else low)
    step = _round_step((high - low) / 5)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) - (2 if form == "percent" else 0))
    positions = [round(n * step, 10) for n in range(first, last + 1)]
    factor, unit = (100, " %") if form == "percent" else (1, "")
    texts = [with_minus_sign(f"{v * factor:.{digits}f}{unit}") for v in positions]
    return Axis(label, low, high, tuple(zip(positions, texts, strict=True)), form=form)


def unit_axis(values: Iterable[Any], label: str) -> Axis:
    """Return the linear axis from 0, or the smallest of the values below it, to 1."""
    lowest = min((float(v) for v in values if not is_missing(v)), default=0.0)
    return Axis(label, min(0.0, lowest) - 0.02, 1.02, FIFTHS)


def look(number: int, n_lines: int) -> dict[str, Any]:
    """Return the style, the colour and the legend of a series that is one of several lines.

    More lines than `MAX_DISTINCT_LINES` have colours that only show their order, from the first
    colour to the fifth; the first, the middle and the last are in the legend.
    """
    if n_lines <= MAX_DISTINCT_LINES:
        return {"style": number}
    legend = None if number in {0, n_lines // 2, n_lines - 1} else ""
    return {"colour": _order_colour(number / (n_lines - 1)), "legend": legend}


def _order_colour(share: float) -> str:
    first, last = (bytes.fromhex(COLOURS[i][1:]) for i in (0, 4))
    return "#" + bytes(round(a + share * (b - a)) for a, b in zip(first, last, strict=True)).hex()


def _round_step(rough: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough - 1e-12)


def _column_spec(name: Any, column: pd.Series) -> dict[str, Any]:
    """Return a column of a table for JSON.

    Its values are by row (``index`` is null), or distinct with the index of each row, or one for
    all rows (``index`` is empty). Columns of no fixed type are by row.
    """
    import pandas as pd

    if column.dtype == object:
        values = [_json_value(value, 7) for value in column]
        return {"name": str(name), "values": values, "index": None}
    codes, distinct = pd.factorize(column, use_na_sentinel=False)
    values = [_json_value(value, 7) for value in distinct]
    if len(values) == 1:
        return {"name": str(name), "values": values, "index": []}
    if 2 * len(values) < len(column):
        return {"name": str(name), "values": values, "index": codes.tolist()}
    return {"name": str(name), "values": [values[code] for code in codes], "index": None}


def _series_spec(series: Series) -> dict[str, Any]:
    numbers = {name: getattr(series, name) for name in ("x", "y", "low", "high", "x_low", "x_high")}
    tone = series.tone
    return {
        "name": series.name,
        **{name: [_json_value(v, 5) for v in values] for name, values in numbers.items()},
        "colour": f"var(--{tone})" if tone in PALETTE else tone,
        "marker": series.marker,
        "dashes": series.dashes,
        "secondary": series.is_secondary,
        "shape": series.shape,
        "hollow": series.hollow,
        "bounds": list(series.bounds),
        "texts": list(series.texts),
        "curve": series.curve,
    }


def _cells_spec(cells: Cells | None) -> dict[str, Any] | None:
    if cells is None:
        return None
    values = [[_json_value(value, 4) for value in row] for row in cells.values]
    return {**asdict(cells), "values": values, "texts": cells.texts}


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
