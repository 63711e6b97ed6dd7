"""Figures of `explain`: each takes a table and an ``ax``, draws on it and hands it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.axes import fraction_axis
from criticalmass.reporting.figures.style import COLOURS, DASHES, FAINT, GRID, INK, dress
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

NAMES = {"cka": "linear CKA with the whole layer", "ridge": "accuracy of a ridge probe"}


def spectrum(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw how much of the variance, and of what sets the classes apart, the directions carry.

    Parameters
    ----------
    table: ``spectrum`` of an `Explanation`.
    ax: where to draw.

    Raises
    ------
    CriticalMassError: the table is empty.
    """
    if table.empty:
        raise CriticalMassError("no spectrum to draw: the table has no row")
    at = table["direction"].to_numpy(float)
    lines = {"variance": "variance", "between": "variance between classes"}
    for number, (column, label) in enumerate(lines.items()):
        share = table[column].to_numpy(float)
        if np.isnan(share).all():
            continue
        ax.plot(
            at, np.cumsum(share), label=label, color=COLOURS[number], linestyle=DASHES[number],
            linewidth=1.6, zorder=3,
        )  # fmt: skip
    for share in (0.5, 0.9):
        ax.axhline(share, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(0.9, float(at.max()) * 1.1)
    ticks = [10**power for power in range(int(np.log10(at.max())) + 1)]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0.0, 1.02)
    ax.set_xlabel("eigendirections of the standardised neurons, by variance")
    ax.set_ylabel("share carried by the first of them")
    dress(ax)
    ax.legend(loc="lower right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def predicted_curve(table: pd.DataFrame, ax: Axes, *, measure: str) -> Axes:
    """Draw a predicted curve with the band of the mean over seeds.

    Parameters
    ----------
    table: ``curves`` of an `Explanation`.
    ax: where to draw.
    measure: whose.

    Raises
    ------
    CriticalMassError: the measure is not predicted.
    """
    rows = table[table["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(f"no prediction to draw for measure {measure!r}")
    # Nobody ships fewer, and a sweep starts there.
    rows = rows[rows["fraction"] >= min(DEFAULT_FRACTIONS[0], float(rows["fraction"].max()))]
    kept = rows["fraction"].to_numpy(float)
    ax.fill_between(
        kept, rows["low"].to_numpy(float), rows["high"].to_numpy(float),
        color=COLOURS[0], alpha=0.18, linewidth=0, label="where means over seeds fall",
    )  # fmt: skip
    ax.plot(kept, rows["mean"].to_numpy(float), color=COLOURS[0], linewidth=1.6, label="predicted")
    ax.axhline(
        float(rows["mean"].iloc[-1]), color=INK, linewidth=0.9, linestyle=(0, (4, 3)),
        label="whole layer",
    )  # fmt: skip
    fraction_axis(ax, float(kept.min()))
    ax.set_ylabel(NAMES.get(measure, measure))
    dress(ax)
    ax.legend(loc="lower right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def predicted_over_measured(
    curve: pd.DataFrame, compared: pd.DataFrame, ax: Axes, *, measure: str
) -> Axes:
    """Draw the predicted line over the measured means and their band.

    Parameters
    ----------
    curve: columns measure, fraction, mean; the prediction at many sizes.
    compared: of `criticalmass.theory.prediction_check.residuals`.
    ax: where to draw.
    measure: whose.

    Raises
    ------
    CriticalMassError: the measure was not measured, or not predicted.
    """
    line, rows = curve[curve["measure"] == measure], compared[compared["measure"] == measure]
    if line.empty or rows.empty:
        raise CriticalMassError(f"no measured curve of {measure!r} beside a predicted one to draw")
    kept = rows["n_kept"].to_numpy(float) / rows["n_neurons"].to_numpy(float)
    smallest = float(kept.min())
    known = rows["measured_low"].notna().to_numpy(bool)
    ax.fill_between(
        kept[known],
        rows["measured_low"].to_numpy(float)[known],
        rows["measured_high"].to_numpy(float)[known],
        color=COLOURS[1], alpha=0.18, linewidth=0, label="interval of the measured",
    )  # fmt: skip
    ax.plot(
        kept, rows["measured"].to_numpy(float), color=COLOURS[1], linestyle="none", marker="s",
        markersize=3.5, label="measured", zorder=3,
    )  # fmt: skip
    shown = line[line["fraction"] >= smallest * 0.88]
    ax.plot(
        shown["fraction"].to_numpy(float), shown["mean"].to_numpy(float), color=COLOURS[0],
        linewidth=1.6, label="predicted", zorder=4,
    )  # fmt: skip
    fraction_axis(ax, smallest)
    ax.set_ylabel(NAMES.get(measure, measure))
    dress(ax)
    ax.legend(loc="lower right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def residual_against_fraction(compared: pd.DataFrame, ax: Axes, *, measure: str) -> Axes:
    """Draw measured less predicted means, over the range that chance over subsets allows.

    Parameters
    ----------
    compared: of `criticalmass.theory.prediction_check.residuals`.
    ax: where to draw.
    measure: whose.

    Raises
    ------
    CriticalMassError: the measure was not measured beside a prediction.
    """
    rows = compared[compared["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(f"no residual of {measure!r} to draw")
    kept = rows["n_kept"].to_numpy(float) / rows["n_neurons"].to_numpy(float)
    error = rows["error"].to_numpy(float)
    ax.fill_between(
        kept, -1.96 * error, 1.96 * error, color=COLOURS[0], alpha=0.18, linewidth=0,
        label="predicted 95 % range",
    )  # fmt: skip
    ax.axhline(0.0, color=COLOURS[0], linewidth=1.2, zorder=2)
    gap = rows["residual"].to_numpy(float)
    ax.plot(
        kept, gap, color=COLOURS[1], linestyle="none", marker="s", markersize=3.5,
        label="measured", zorder=3,
    )  # fmt: skip
    fraction_axis(ax, float(kept.min()))
    reach = 1.15 * max(float(np.abs(gap).max()), float((1.96 * error).max()), 1e-6)
    ax.set_ylim(-reach, reach * 1.25)
    ax.set_ylabel("measured less predicted")
    dress(ax)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.legend(loc="upper right", frameon=False, fontsize="small", labelcolor=INK)
    return ax
