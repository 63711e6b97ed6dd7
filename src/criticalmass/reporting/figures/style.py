"""Figures: each takes a table and an ``ax``, draws on it and hands it back.

Nothing here computes a result, shows a window or changes matplotlib's settings; whoever owns the
figure decides its size and where it goes. Colours are those of Okabe and Ito, told apart by the
colour-blind, and every line has its own marker and dash, so that a figure also reads in grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1d1c1a"

FAINT = "#8c8a85"

GRID = "#e3e1dc"

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

MARKERS = ("o", "s", "^", "D", "v", "P")

DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (2, 1)), (0, (5, 1, 1, 1)), ":", "--")

#: Columns that tell one curve from another, and how a reader knows each measure.
SERIES = ("model", "layer", "dataset", "selector", "measure")

COLUMN_WIDTH = 3.35

#: From more lines than this on, a figure tells them apart by order, without bands.
MANY = 8

#: The range of delta that the DR-against-delta figure covers.
DELTAS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))


def series(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split a table into its lines, in order of appearance, each named by what varies."""
    varying = [name for name in SERIES if rows[name].nunique(dropna=False) > 1]
    if not varying:
        yield _plain(rows["selector"].iloc[0]), rows
        return
    for key, line in rows.groupby(varying, sort=False, dropna=False):
        yield _plain(", ".join(str(part) for part in key)), line


def dress(ax: Axes) -> None:
    """Take the frame away, leave a faint horizontal grid and ink-coloured words."""
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(FAINT)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=INK, length=0, labelsize="small")
    ax.tick_params(axis="x", length=3, color=FAINT)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_color(INK)
        label.set_fontsize("small")


def new_axes(width: float = 3.8, height: float = 3.0) -> tuple[Figure, Axes]:
    """Make a figure with one ``ax`` that no window system knows of; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _plain(name: object) -> str:
    """Keep a name from data a name: no formula between dollars, not hidden by an underscore."""
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _style(number: int, of: int = 1) -> dict[str, Any]:
    """Give line ``number`` a colour, a marker and a dash of its own; many go from dark to light."""
    if of > MANY:
        from matplotlib import colormaps

        return {
            "color": colormaps["cividis"](0.9 * number / (of - 1)),
            "linewidth": 0.9,
            "zorder": 3,
        }
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[(number // len(COLOURS) + number) % len(DASHES)],
        "linewidth": 1.6,
        "markersize": 4,
        "zorder": 3,
    }


def _band(ax: Axes, x: Any, low: pd.Series, high: pd.Series, colour: str) -> None:
    """Shade the interval where there is one."""
    known = (low.notna() & high.notna()).to_numpy(bool)
    if known.any():
        ax.fill_between(
            x[known],
            low[known].to_numpy(float),
            high[known].to_numpy(float),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
