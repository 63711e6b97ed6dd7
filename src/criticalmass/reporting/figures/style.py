"""Shared style of the matplotlib figures: colours, markers, bands, legends and curve names.

A drawing function takes a table and an ``ax``, draws on it and returns it. It computes no result,
shows no window and changes no matplotlib setting; the owner of the figure sets its size. The
colours are those of Okabe and Ito, which colour-blind readers can distinguish. Every line also
has its own marker and dash pattern, so that a figure can be read in grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.analysis.columns import CurveKey

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import FillBetweenPolyCollection
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

INK = "#1d1c1a"
FAINT = "#8c8a85"
GRID = "#e3e1dc"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (2, 1)), (0, (5, 1, 1, 1)), ":", "--")

#: Width in inches of one column of a paper.
COLUMN_WIDTH = 3.35

#: A figure with more lines than this colours them by order and draws no bands.
MAX_DISTINCT_LINES = 8

#: Deltas of the figure of DR against delta.
DELTAS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))


def split_curves(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split a table into its curves, in order of appearance.

    Yields
    ------
    The name of each curve, made of the key columns whose values differ between curves, and its
    rows.
    """
    varying = [name for name in CurveKey._fields if rows[name].nunique(dropna=False) > 1]
    if not varying:
        yield str(rows["selector"].iloc[0]), rows
        return
    for key, curve in rows.groupby(varying, sort=False, dropna=False):
        yield ", ".join(str(part) for part in key), curve


def style_axes(ax: Axes) -> None:
    """Remove the frame, add a faint horizontal grid and colour the text."""
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
    """Make a figure with one ``ax``, without pyplot; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def escape_math(name: object) -> str:
    r"""Return a name as matplotlib shows it literally.

    ``$`` becomes ``\$``, so that no formula is set. A name with a leading underscore gets a space
    before it; matplotlib would leave it out of the legend.
    """
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def line_style(number: int, n_lines: int = 1) -> dict[str, Any]:
    """Return the keyword arguments of line ``number``: colour, marker, dash pattern, width.

    More than `MAX_DISTINCT_LINES` lines get the colours of a colour map, from dark to light.
    """
    if n_lines > MAX_DISTINCT_LINES:
        from matplotlib import colormaps

        return {
            "color": colormaps["cividis"](0.9 * number / (n_lines - 1)),
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


def draw_band(
    ax: Axes,
    x: NDArray[np.float64],
    low: ArrayLike,
    high: ArrayLike,
    colour: str,
    alpha: float = 0.18,
) -> FillBetweenPolyCollection | None:
    """Shade an interval where both of its ends are known.

    Parameters
    ----------
    ax: where to draw.
    x, low, high: (n,) positions and ends.
    colour: of the band.
    alpha: opacity.

    Returns
    -------
    The shaded area, or None if no interval is known.
    """
    lows, highs = _floats(low), _floats(high)
    known = np.isfinite(lows) & np.isfinite(highs)
    if not known.any():
        return None
    return ax.fill_between(
        x[known], lows[known], highs[known], color=colour, alpha=alpha, linewidth=0
    )


def error_lengths(rows: pd.DataFrame, value: str, low: str, high: str) -> NDArray[np.float64]:
    """Return the (2, n) lengths of error bars down and up; 0 where an end is missing.

    Parameters
    ----------
    rows: the table.
    value, low, high: names of the columns.
    """
    centre = _floats(rows[value])
    lengths = np.stack([centre - _floats(rows[low]), _floats(rows[high]) - centre])
    return np.nan_to_num(np.maximum(0.0, lengths))


def annotate_whole_layer(ax: Axes, value: float) -> None:
    """Write ``whole layer 0.860`` above the line at a value, at the left end of the axes."""
    ax.annotate(
        f"whole layer {value:.3f}",
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color=INK,
        fontsize="small",
    )


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    """Return an array of floats; missing values of pandas become NaN."""
    import pandas as pd

    floats: NDArray[np.float64] = pd.Series(values).to_numpy(float, na_value=np.nan)
    return floats
