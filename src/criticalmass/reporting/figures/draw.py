"""The matplotlib renderer of figures, for papers and for pages without a script.

It computes no result, shows no window and changes no matplotlib setting; the owner of the figure
sets its size.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, cast

import numpy as np

from criticalmass.reporting.plots import (
    CELL_OPACITY,
    COLOURS,
    DASH_PATTERNS,
    FAINT,
    GRID,
    INK,
    PALETTE,
    Axis,
    Cells,
    Mark,
    Plot,
    Rule,
    Series,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

P = ParamSpec("P")

_DASHED = (0, (4, 3))
# Inches that a letter of a tick of an axis and of cells takes, and that a line of text takes.
_LETTER, _CELL_LETTER, _LINE = 0.065, 0.05, 0.12


def draw(plot: Plot, ax: Axes) -> Axes:
    """Draw a figure on an ``ax`` and return the ``ax``."""
    if plot.cells is not None:
        _draw_cells(plot.cells, ax)
        return ax
    assert plot.x is not None
    assert plot.y is not None
    set_axis(ax, "x", plot.x)
    set_axis(ax, "y", plot.y)
    artists = [_draw_series(series, ax) for series in plot.series]
    for rule in plot.rules:
        _draw_rule(rule, ax)
    draw_marks(plot.marks, ax)
    style_axes(ax)
    if plot.legend:
        _add_legend(plot, ax, artists)
    return ax


def on_axes(
    describe: Callable[Concatenate[pd.DataFrame, P], Plot],
) -> Callable[Concatenate[pd.DataFrame, Axes, P], Axes]:
    """Return the function that draws a described figure on an ``ax``.

    It takes the arguments of ``describe`` with the ``ax`` after the table, and returns the ``ax``.
    """

    def draw_described(
        table: pd.DataFrame, ax: Axes, *arguments: P.args, **options: P.kwargs
    ) -> Axes:
        return draw(describe(table, *arguments, **options), ax)

    draw_described.__doc__ = f"Draw the figure of `{describe.__name__}` and return the ``ax``."
    return draw_described  # type: ignore[return-value]  # table and ax may be named


def draw_alone(plot: Plot) -> Figure:
    """Draw a figure in a size that fits a page; a heat map is as high as its rows need."""
    n_rows = 0 if plot.cells is None else len(plot.cells.rows)
    figure, ax = new_axes(3.8, max(3.0, min(8.0, 1.2 + 0.16 * n_rows)))
    draw(plot, ax)
    return figure


def as_pdf(figure: Figure) -> bytes:
    """Return a figure as a PDF file with embedded fonts; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def new_axes(width: float = 3.8, height: float = 3.0) -> tuple[Figure, Axes]:
    """Make a figure with one ``ax``, without pyplot; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def set_axis(ax: Axes, which: Literal["x", "y"], axis: Axis) -> None:
    """Set an axis of an ``ax``: scale, ends, title and those ticks whose texts do not overlap."""
    setters = {name: getattr(ax, f"set_{which}{name}") for name in ("scale", "lim", "ticks")}
    if axis.log:
        setters["scale"]("log")
    setters["lim"](axis.low, axis.high)
    ticks = axis.ticks
    if which == "x":
        transform = np.log if axis.log else np.asarray
        low, high, *places = transform([axis.low, axis.high, *(at for at, _ in ticks)])
        scale = _size(ax)[0] / (high - low)
        widths = [_LETTER * (len(text) + 1) for _, text in ticks]
        ticks = tuple(ticks[i] for i in _fitting([scale * place for place in places], widths))
    setters["ticks"]([at for at, _ in ticks], [text for _, text in ticks])
    setters["ticks"]([], minor=True)
    getattr(ax, f"set_{which}label")(escape_math(axis.label))


def draw_marks(marks: Sequence[Mark], ax: Axes) -> None:
    """Draw critical masses with their intervals; a thin line runs to each from the left end."""
    start = ax.get_xlim()[0]
    for mark in marks:
        height = [mark.y, mark.y]
        ax.plot([mark.low, mark.high], height, color=INK, linewidth=2.2, zorder=5)
        ax.plot([mark.x], [mark.y], "D", color=INK, markersize=4.5, markerfacecolor="white",
                zorder=6)  # fmt: skip
        ax.plot([start, min(mark.low, mark.x)], height, color=FAINT, linewidth=0.8, zorder=2)
        if mark.label:
            _write(ax, mark.label, (mark.x, mark.y), (4, -3), va="top")


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


def escape_math(name: object) -> str:
    r"""Return a name as matplotlib shows it literally.

    ``$`` becomes ``\$``, so that no formula is set. A name with a leading underscore gets a space
    before it; matplotlib would leave it out of the legend.
    """
    text = str(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _draw_series(series: Series, ax: Axes) -> Any:
    """Draw a series and return the artist that stands for it in the legend."""
    colour = PALETTE.get(series.tone, series.tone)
    x, y = _floats(series.x), _floats(series.y)
    is_drawn = np.isfinite(x) & np.isfinite(y)
    band, order = None, 2 if series.is_secondary else 3
    low, high = _ends(series.low, y), _ends(series.high, y)
    known = is_drawn & np.isfinite(low) & np.isfinite(high)
    if series.shape in ("points", "stars"):
        ax.vlines(x[known], low[known], high[known], color=colour, linewidth=1.0, zorder=order)
        low, high = _ends(series.x_low, x), _ends(series.x_high, x)
        known = is_drawn & np.isfinite(low) & np.isfinite(high)
        ax.hlines(y[known], low[known], high[known], color=colour, linewidth=1.0, zorder=order)
    elif known.any() and not series.is_secondary:
        band = ax.fill_between(x[known], low[known], high[known], color=colour, alpha=0.18,
                               linewidth=0)  # fmt: skip
    if series.shape == "band":
        return band
    is_star = series.shape == "stars"
    (line,) = ax.plot(
        x[is_drawn],
        y[is_drawn],
        color=colour,
        label=escape_math(series.legend or series.name) or None,
        linestyle="none" if series.shape in ("points", "stars") else _linestyle(series.dashes),
        linewidth=0.9 if series.is_secondary else 1.6,
        drawstyle="steps-post" if series.shape == "steps" else "default",
        marker=("" if series.is_secondary and series.shape == "line" else series.marker) or "none",
        markersize=8 if is_star else 4,
        markerfacecolor="white" if is_star or series.hollow else colour,
        zorder=7 if is_star else order,
    )
    bounds = list(series.bounds)
    if bounds:
        ax.plot(x[bounds], y[bounds], "^", color=colour, markersize=6, markerfacecolor="white",
                zorder=4)  # fmt: skip
    for at_x, at_y, text in zip(x, y, series.texts, strict=bool(series.texts)):
        _write(ax, text, (at_x, at_y), (4, 4), fontsize="x-small")
    return line


def _linestyle(pattern: tuple[float, ...]) -> Any:
    """Return a dash pattern in the form of matplotlib."""
    return (0, pattern) if pattern else "-"


#: Dash patterns in the form of matplotlib.
DASHES = tuple(map(_linestyle, DASH_PATTERNS))


def _draw_rule(rule: Rule, ax: Axes) -> None:
    """Draw a line across the axes, its interval, and its label above it or on its right."""
    is_level = rule.axis == "y"
    style: Any = {"color": INK, "linewidth": 0.9, "linestyle": _DASHED if rule.dashed else "-"}
    (ax.axhline if is_level else ax.axvline)(rule.position, zorder=1, **style)
    if rule.low is not None and rule.high is not None:
        span = ax.axhspan if is_level else ax.axvspan
        span(rule.low, rule.high, color=FAINT, alpha=0.15, linewidth=0)
    if rule.label and is_level:
        _write(ax, rule.label, (0.01, rule.position), (0, 3), xycoords=("axes fraction", "data"))
    elif rule.label:
        coordinates = ("data", "axes fraction")
        _write(ax, rule.label, (rule.position, 0.0), (3, 3), xycoords=coordinates)


def _write(
    ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **options: Any
) -> None:
    """Write a text at an offset, in points, from a position."""
    options = {"color": INK, "fontsize": "small", **options}
    ax.annotate(escape_math(text), at, xytext=offset, textcoords="offset points", **options)


def _add_legend(plot: Plot, ax: Axes, artists: Sequence[Any]) -> None:
    """Add the legend in the free corner of the axes, or else above them."""
    entries = [(text, artists[numbers[0]]) for text, numbers in plot.legend]
    texts = [escape_math(text) for text, artist in entries if artist is not None]
    handles = [artist for _, artist in entries if artist is not None]
    style: Any = {"frameon": False, "labelcolor": INK, "handlelength": 1.8}
    if plot.free_corner:
        ax.legend(handles, texts, loc=cast("Any", plot.free_corner), fontsize="small", **style)
        return
    columns = 2 if max(map(len, texts)) <= 24 else 1
    ax.legend(handles, texts, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns,
              fontsize="x-small", columnspacing=1.2, **style)  # fmt: skip


def _draw_cells(cells: Cells, ax: Axes) -> None:
    """Draw a heat map from white (0) to the first colour (1), with its scale of shades."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    darkest = 1.0 - CELL_OPACITY * (1.0 - np.array(to_rgb(COLOURS[0])))
    # With 40 shades matplotlib draws the colour bar as vector shapes, not as a bitmap.
    shades = LinearSegmentedColormap.from_list("cells", [(1, 1, 1), tuple(darkest)], N=40)
    values = np.array([_floats(row) for row in cells.values])
    mesh = ax.pcolormesh(values, cmap=shades, vmin=0.0, vmax=1.0, edgecolors="white",
                         linewidth=0.5)  # fmt: skip
    ax.invert_yaxis()
    for i, row in enumerate(cells.texts):
        for j, text in enumerate(row):
            if text:
                # Black, not ink: on a dark page the script-less drawing keeps its light cells.
                ax.text(j + 0.5, i + 0.5, text, color="black", ha="center", va="center",
                        fontsize="x-small")  # fmt: skip
    width, height = _size(ax)
    letters = [_CELL_LETTER * (len(name) + 1) for name in cells.columns]
    lines = [_LINE] * len(cells.rows)
    for names, length, set_ticks, sizes in (
        (cells.columns, 0.85 * width, ax.set_xticks, letters),
        (cells.rows, height, ax.set_yticks, lines),
    ):
        places = [(number + 0.5) * length / len(names) for number in range(len(names))]
        shown = _fitting(places, sizes)
        set_ticks([number + 0.5 for number in shown], [escape_math(names[n]) for n in shown])
    ax.set_xlabel(cells.column_label, fontsize="small", color=INK)
    ax.tick_params(colors=INK, length=0, labelsize="x-small")
    for side in ax.spines.values():
        side.set_visible(False)
    bar = ax.get_figure(root=True).colorbar(mesh, ax=ax, pad=0.02, aspect=30)  # type: ignore[union-attr]
    bar.outline.set_visible(False)
    bar.set_ticks([at for at, _ in cells.ticks], labels=[text for _, text in cells.ticks])
    bar.set_label(cells.label, fontsize="x-small", color=INK)
    bar.ax.tick_params(colors=INK, length=0, labelsize="x-small")


def _size(ax: Axes) -> tuple[float, float]:
    """Return width and height of an ``ax`` in inches, before the figure's layout adapts them."""
    box, dpi = ax.get_window_extent(), ax.get_figure(root=True).dpi  # type: ignore[union-attr]
    return float(box.width / dpi), float(box.height / dpi)


def _fitting(places: Sequence[float], sizes: Sequence[float]) -> list[int]:
    """Return the numbers of the texts that do not overlap, chosen from the last one backwards."""
    shown: list[int] = []
    for i in reversed(range(len(places))):
        if not shown or places[shown[-1]] - places[i] >= (sizes[shown[-1]] + sizes[i]) / 2:
            shown.append(i)
    return shown[::-1]


def _ends(values: Sequence[Any], like: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ends of intervals as floats; NaN for those that a series does not have."""
    return _floats(values) if len(values) else np.full(like.shape, np.nan)


def _floats(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return an array of floats; missing values of pandas become NaN."""
    import pandas as pd

    floats: NDArray[np.float64] = pd.Series(list(values), dtype=object).to_numpy(
        float, na_value=np.nan
    )
    return floats
