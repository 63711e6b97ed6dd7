"""Figures of predictions made without a sweep.

Each function takes a table and an ``ax``, draws on it and returns it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import is_similarity, measure_label
from criticalmass.reporting.figures.axes import set_fraction_axis
from criticalmass.reporting.figures.style import (
    COLOURS,
    DASHES,
    FAINT,
    GRID,
    INK,
    draw_band,
    style_axes,
)
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import FillBetweenPolyCollection
    from numpy.typing import NDArray


def spectrum(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the cumulative shares of two variances over the eigendirections.

    One line is the variance of the standardised neurons, the other the variance between the class
    means; without labels there is no second line.

    Parameters
    ----------
    table: ``spectrum`` of an `Explanation`.
    ax: where to draw.

    Raises
    ------
    CriticalMassError: if the table is empty.
    """
    if table.empty:
        raise CriticalMassError("no spectrum to draw: the table has no row")
    direction = table["direction"].to_numpy(float)
    lines = {"variance": "variance", "between": "variance between classes"}
    for number, (column, label) in enumerate(lines.items()):
        share = table[column].to_numpy(float)
        if np.isnan(share).all():
            continue
        ax.plot(
            direction,
            np.cumsum(share),
            label=label,
            color=COLOURS[number],
            linestyle=DASHES[number],
            linewidth=1.6,
            zorder=3,
        )
    for share in (0.5, 0.9):
        ax.axhline(share, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(0.9, float(direction.max()) * 1.1)
    ticks = [10**power for power in range(int(np.log10(direction.max())) + 1)]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0.0, 1.02)
    ax.set_xlabel("eigendirections of the standardised neurons, by variance")
    ax.set_ylabel("cumulative share")
    style_axes(ax)
    ax.legend(loc="lower right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def predicted_curve(table: pd.DataFrame, ax: Axes, *, measure: str) -> Axes:
    """Draw a predicted curve with the range of the mean over seeds.

    Parameters
    ----------
    table: ``curves`` of an `Explanation`.
    ax: where to draw.
    measure: the rows to draw.

    Raises
    ------
    CriticalMassError: if there is no prediction of the measure.
    """
    rows = table[table["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(f"no prediction to draw for measure {measure!r}")
    # A sweep starts at this fraction.
    rows = rows[rows["fraction"] >= min(DEFAULT_FRACTIONS[0], float(rows["fraction"].max()))]
    fraction = rows["fraction"].to_numpy(float)
    band = draw_band(ax, fraction, rows["low"], rows["high"], COLOURS[0])
    _set_label(band, "range of means over seeds")
    ax.plot(
        fraction, rows["mean"].to_numpy(float), color=COLOURS[0], linewidth=1.6, label="predicted"
    )
    ax.axhline(
        float(rows["mean"].iloc[-1]), color=INK, linewidth=0.9, linestyle=(0, (4, 3)),
        label="whole layer",
    )  # fmt: skip
    set_fraction_axis(ax, float(fraction.min()))
    ax.set_ylabel(_curve_label(measure))
    style_axes(ax)
    ax.legend(loc="lower right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def predicted_over_measured(
    curve: pd.DataFrame, compared: pd.DataFrame, ax: Axes, *, measure: str
) -> Axes:
    """Draw the predicted line over the measured means and their intervals.

    Parameters
    ----------
    curve: the prediction at many sizes; columns measure, fraction, mean.
    compared: rows of `criticalmass.theory.prediction_check.residuals`.
    ax: where to draw.
    measure: the rows to draw.

    Raises
    ------
    CriticalMassError: if there is no measured or no predicted curve of the measure.
    """
    line, rows = curve[curve["measure"] == measure], compared[compared["measure"] == measure]
    if line.empty or rows.empty:
        raise CriticalMassError(
            f"no figure for {measure!r}: it needs a predicted and a measured curve; sweep a run "
            "with this measure"
        )
    fraction = _fractions(rows)
    smallest = float(fraction.min())
    band = draw_band(ax, fraction, rows["measured_low"], rows["measured_high"], COLOURS[1])
    _set_label(band, "interval of the measured mean")
    ax.plot(
        fraction, rows["measured"].to_numpy(float), color=COLOURS[1], linestyle="none", marker="s",
        markersize=3.5, label="measured", zorder=3,
    )  # fmt: skip
    line = line[line["fraction"] >= smallest * 0.88]
    ax.plot(
        line["fraction"].to_numpy(float),
        line["mean"].to_numpy(float),
        color=COLOURS[0],
        linewidth=1.6,
        label="predicted",
        zorder=4,
    )
    set_fraction_axis(ax, smallest)
    ax.set_ylabel(_curve_label(measure))
    style_axes(ax)
    ax.legend(loc="lower right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def residual_against_fraction(compared: pd.DataFrame, ax: Axes, *, measure: str) -> Axes:
    """Draw measured minus predicted means, with the 95 % range of the choice of subsets.

    Parameters
    ----------
    compared: rows of `criticalmass.theory.prediction_check.residuals`.
    ax: where to draw.
    measure: the rows to draw.

    Raises
    ------
    CriticalMassError: if there is no row of the measure.
    """
    rows = compared[compared["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(
            f"no residual of {measure!r} to draw; sweep a run with this measure"
        )
    fraction = _fractions(rows)
    reach = 1.96 * rows["error"].to_numpy(float)
    _set_label(draw_band(ax, fraction, -reach, reach, COLOURS[0]), "predicted 95 % range")
    ax.axhline(0.0, color=COLOURS[0], linewidth=1.2, zorder=2)
    residual = rows["residual"].to_numpy(float)
    ax.plot(
        fraction, residual, color=COLOURS[1], linestyle="none", marker="s", markersize=3.5,
        label="measured", zorder=3,
    )  # fmt: skip
    set_fraction_axis(ax, float(fraction.min()))
    limit = 1.15 * max(float(np.abs(residual).max()), float(reach.max()), 1e-6)
    ax.set_ylim(-limit, limit * 1.25)
    ax.set_ylabel("measured minus predicted")
    style_axes(ax)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.legend(loc="upper right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def _set_label(band: FillBetweenPolyCollection | None, label: str) -> None:
    """Name a band in the legend, if it was drawn."""
    if band is not None:
        band.set_label(label)


def _curve_label(measure: str) -> str:
    """Return the axis label of a predicted measure."""
    return measure_label(measure) if is_similarity(measure) else f"accuracy of a {measure} probe"


def _fractions(rows: pd.DataFrame) -> NDArray[np.float64]:
    fractions: NDArray[np.float64] = (rows["n_kept"] / rows["n_neurons"]).to_numpy(float)
    return fractions
