"""Figures of the CKA law: each function draws a table on an ``ax`` and returns the ``ax``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.draw import DASHES, set_axis, style_axes
from criticalmass.reporting.plots import COLOURS, FAINT, INK, MARKERS, share_axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from criticalmass.theory.cka import ExpectedSimilarity


def law_over_measured(
    measured: pd.DataFrame, expected: ExpectedSimilarity, ax: Axes, *, n_neurons: int
) -> Axes:
    """Draw the predicted CKA as a line with its spread, and the measured means on it.

    Parameters
    ----------
    measured: columns n_kept and value, one row per measured subset or mean.
    expected: the law at many sizes.
    ax: axes to draw on.
    n_neurons: width of the layer.

    Raises
    ------
    CriticalMassError: there is no measured value.
    """
    rows = measured[measured["value"].notna()]
    if rows.empty:
        raise CriticalMassError("no measured CKA to draw; sweep the measure 'cka' first")
    fractions = expected.sizes / n_neurons
    low, high = expected.mean - expected.std, expected.mean + expected.std
    ax.fill_between(fractions, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    ax.plot(
        fractions, expected.mean, color=COLOURS[0], linewidth=1.6, label="law, ± 1 sd of a subset"
    )
    ax.plot(
        rows["n_kept"].to_numpy(float) / n_neurons,
        rows["value"].to_numpy(float),
        linestyle="none", marker="o", markersize=4, color=COLOURS[1], label="measured",
    )  # fmt: skip
    set_axis(ax, "x", share_axis(float(fractions.min()), n_neurons))
    ax.set_ylabel("linear CKA with the whole layer")
    ax.set_ylim(0.0, 1.02)
    style_axes(ax)
    ax.legend(loc="lower right", frameon=False, fontsize="small", labelcolor=INK)
    return ax


def critical_mass_against_width(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the critical mass of layers of several widths with the same spectrum.

    Parameters
    ----------
    table: rows as `criticalmass.theory.width_what_if` returns them.
    ax: axes to draw on.

    Raises
    ------
    CriticalMassError: the table is empty.
    """
    _lines(table, "n_neurons", "critical_mass", ax)
    widths = table["n_neurons"].to_numpy(float)
    # On this line a layer needs all its neurons.
    ax.plot([widths.min(), widths.max()], [widths.min(), widths.max()], color=FAINT, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("width of the layer (neurons), same spectrum")
    ax.set_ylabel("critical mass (neurons)")
    return ax


def redundancy_against_decorrelation(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw diffused redundancy against the strength of decorrelation.

    Parameters
    ----------
    table: rows as `criticalmass.theory.decorrelation_what_if` returns them.
    ax: axes to draw on.

    Raises
    ------
    CriticalMassError: the table is empty.
    """
    _lines(table, "strength", "dr", ax)
    ax.set_xlabel("share of every covariance removed")
    ax.set_ylabel("diffused redundancy DR (CKA)")
    ax.set_ylim(0.0, 1.0)
    return ax


def _lines(table: pd.DataFrame, x: str, y: str, ax: Axes) -> None:
    """Draw one line per delta."""
    if table.empty:
        raise CriticalMassError(f"no {y} to draw: the table has no row")
    for number, (delta, line) in enumerate(table.groupby("delta", sort=True)):
        _plot(ax, line[x].to_numpy(float), line[y].to_numpy(float), number, f"delta = {delta:g}")
    style_axes(ax)
    ax.legend(loc="best", frameon=False, fontsize="small", labelcolor=INK)


def _plot(ax: Axes, x: npt.ArrayLike, y: npt.ArrayLike, number: int, label: str) -> None:
    """Draw line ``number`` with its own colour, marker and dash."""
    style: dict[str, Any] = {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }
    ax.plot(x, y, label=label, linewidth=1.6, markersize=4, zorder=3, **style)
