"""Figures of value against kept share, and of diffused redundancy against delta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import measure_label
from criticalmass.reporting.figures.axes import set_fraction_axis
from criticalmass.reporting.figures.style import (
    FAINT,
    INK,
    MAX_DISTINCT_LINES,
    annotate_whole_layer,
    draw_band,
    escape_math,
    line_style,
    split_curves,
    style_axes,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def value_against_fraction(
    curves: pd.DataFrame, ax: Axes, *, measure: str | None = None, whole_layer: bool = True
) -> Axes:
    """Draw value against the fraction of neurons kept, with intervals and the whole layer's value.

    Parameters
    ----------
    curves: rows of `criticalmass.curves`; one line per model, layer, dataset, selector and
        measure.
    ax: where to draw.
    measure: draw only the rows of this measure; all by default.
    whole_layer: draw the whole layer's value as a horizontal line.

    Raises
    ------
    CriticalMassError: if no row has a value.
    """
    rows = curves if measure is None else curves[curves["measure"] == measure]
    rows = rows[rows["mean"].notna()]
    if rows.empty:
        raise CriticalMassError(f"no curve to draw for measure {measure!r}; run a sweep with it")
    lines = list(split_curves(rows))
    for number, (name, line) in enumerate(lines):
        line = line.sort_values("n_kept")
        style = line_style(number, len(lines))
        fraction = (line["n_kept"] / line["n_neurons"]).to_numpy(float)
        if len(lines) <= MAX_DISTINCT_LINES:
            draw_band(ax, fraction, line["low"], line["high"], style["color"])
        ax.plot(fraction, line["mean"].to_numpy(float), label=escape_math(name), **style)
    if whole_layer and len(lines) <= MAX_DISTINCT_LINES:
        _draw_whole_layer_lines(rows, ax)
    set_fraction_axis(ax, float((rows["n_kept"] / rows["n_neurons"]).min()))
    ax.set_ylabel(measure_label(str(rows["measure"].iloc[0])))
    style_axes(ax)
    _add_legend(ax, "lower right")
    return ax


def cka_against_fraction(curves: pd.DataFrame, ax: Axes, *, measure: str = "cka") -> Axes:
    """Draw the similarity of subsets to their whole layer, which is 1 at the fraction 1.

    Parameters as in `value_against_fraction`.
    """
    value_against_fraction(curves, ax, measure=measure, whole_layer=False)
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), 1.02)
    ax.axhline(1.0, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    return ax


def dr_against_delta(table: pd.DataFrame, ax: Axes, *, measure: str | None = None) -> Axes:
    """Draw diffused redundancy against delta, the share of the whole layer's value to keep.

    Open triangles mark lower bounds: there the smallest tested subset already reaches delta.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy`, one per delta of the line.
    ax: where to draw.
    measure: draw only the rows of this measure; all by default.

    Raises
    ------
    CriticalMassError: if no row has a DR.
    """
    rows = table if measure is None else table[table["measure"] == measure]
    rows = rows[rows["dr"].notna()]
    if rows.empty:
        raise CriticalMassError(f"no DR to draw for measure {measure!r}; run a sweep with it")
    lines = list(split_curves(rows))
    for number, (name, line) in enumerate(lines):
        line = line.sort_values("delta")
        style = line_style(number, len(lines))
        delta, dr = line["delta"].to_numpy(float), line["dr"].to_numpy(float)
        if len(lines) <= MAX_DISTINCT_LINES:
            draw_band(ax, delta, line["dr_low"], line["dr_high"], style["color"])
        every = max(1, len(delta) // 8)
        ax.plot(delta, dr, label=escape_math(name), markevery=every, **style)
        at_floor = line["at_floor"].to_numpy(bool)
        ax.plot(
            delta[at_floor][::every],
            dr[at_floor][::every],
            linestyle="none",
            marker="^",
            markersize=6,
            markerfacecolor="white",
            markeredgecolor=style["color"],
            zorder=4,
        )
    ax.set_xlabel("share of the whole layer's value to keep (delta)")
    ax.set_ylabel("diffused redundancy DR")
    ax.set_ylim(-0.02, 1.02)
    _set_percent_ticks(ax)
    style_axes(ax)
    _add_legend(ax, "lower left")
    return ax


def mark_critical_mass(table: pd.DataFrame, ax: Axes) -> Axes:
    """Mark each critical mass and its interval on a figure of value against fraction.

    A thin line runs from the vertical axis, at delta times the whole layer's value, to the size
    that reaches this value.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy` for the curves already on ``ax``.
    ax: the axes of `value_against_fraction`.
    """
    start = ax.get_xlim()[0]
    for row in table[table["critical_mass"].notna()].itertuples():
        height = row.delta * row.value_full
        low, mass, high = (
            float(number) / row.n_neurons
            for number in (row.critical_mass_low, row.critical_mass, row.critical_mass_high)
        )
        ax.plot([low, high], [height, height], color=INK, linewidth=2.2, zorder=5)
        ax.plot([mass], [height], "D", color=INK, markersize=4.5, markerfacecolor="white", zorder=6)
        ax.plot([start, min(low, mass)], [height, height], color=FAINT, linewidth=0.8, zorder=2)
        ax.annotate(
            f"{row.delta * 100:g} %",
            (mass, height),
            xytext=(4, -3),
            textcoords="offset points",
            va="top",
            color=INK,
            fontsize="small",
        )
    return ax


def _draw_whole_layer_lines(rows: pd.DataFrame, ax: Axes) -> None:
    """Draw the whole layer's value and interval once per layer and measure."""
    layers = rows.dropna(subset=["value_full"])
    layers = layers.drop_duplicates(["model", "layer", "dataset", "measure"])
    for row in layers.itertuples():
        ax.axhline(row.value_full, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    for row in layers.dropna(subset=["full_low", "full_high"]).itertuples():
        ax.axhspan(row.full_low, row.full_high, color=FAINT, alpha=0.15, linewidth=0)
    if len(layers) == 1:
        annotate_whole_layer(ax, layers["value_full"].iloc[0])


def _set_percent_ticks(ax: Axes) -> None:
    """Label the horizontal axis in per cent."""
    from matplotlib.ticker import PercentFormatter

    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _add_legend(ax: Axes, location: Literal["lower left", "lower right"]) -> None:
    """Name the lines if there are several."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > MAX_DISTINCT_LINES:
        # The colours of many lines only show their order: the first, middle and last are named.
        named = [0, len(handles) // 2, len(handles) - 1]
        handles, labels = [handles[i] for i in named], [labels[i] for i in named]
    if len(handles) > 1:
        ax.legend(handles, labels, loc=location, frameon=False, fontsize="small", labelcolor=INK)
