"""Figures of the ridge law: each function draws a table of `what_if_ridge` on an ``ax``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.draw import DASHES, style_axes
from criticalmass.reporting.plots import COLOURS, FAINT, MARKERS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ACCURACY_LABEL = "predicted accuracy of a ridge probe"


def accuracy_against_samples(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw predicted accuracy against training samples, one line per number of neurons.

    A dotted line in the same colour marks where there are as many samples as neurons. There the
    accuracy of a probe with a small penalty has a minimum.

    Parameters
    ----------
    table: result of `ridge_by_samples`.
    ax: axes to draw on.

    Raises
    ------
    CriticalMassError: the table has no row.
    """
    lines = _lines(table, ax, along="setting", each="n_kept", label="{:,} neurons")
    fewest, most = table["setting"].min(), table["setting"].max()
    for number, size in enumerate(lines):
        if fewest <= size <= most:
            ax.axvline(size, color=_colour(number), linestyle=":", linewidth=0.9, zorder=1)
    ax.set_xscale("log")
    ax.set_xlabel("training samples")
    return _finish(ax)


def accuracy_against_classes(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the predicted share of the whole layer's accuracy against neurons, per class count.

    Parameters
    ----------
    table: result of `ridge_by_classes`.
    ax: axes to draw on.

    Raises
    ------
    CriticalMassError: the table has no row.
    """
    shares = table.assign(
        accuracy=table["accuracy"] / table["accuracy_full"],
        accuracy_std=table["accuracy_std"] / table["accuracy_full"],
    )
    _lines(shares, ax, along="n_kept", each="setting", label="{:,} classes")
    ax.axhline(1.0, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.set_xscale("log")
    ax.set_xlabel("neurons kept")
    _finish(ax)
    ax.set_ylabel("share of the whole layer's accuracy")
    return ax


def accuracy_against_members(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw predicted accuracy against the size of an ensemble, one line per member size.

    Parameters
    ----------
    table: result of `ridge_by_members`.
    ax: axes to draw on.

    Raises
    ------
    CriticalMassError: the table has no row.
    """
    _lines(table, ax, along="setting", each="n_kept", label="{:,} neurons each")
    full = float(table["accuracy_full"].iloc[0])
    ax.axhline(full, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.set_xscale("log")
    ax.set_xlabel("members of the ensemble")
    return _finish(ax)


def _lines(table: pd.DataFrame, ax: Axes, *, along: str, each: str, label: str) -> list[int]:
    """Draw one line with a band of one standard deviation per value of ``each``."""
    if table.empty:
        raise CriticalMassError("no row to draw; give one or more settings and sizes")
    values = sorted(int(value) for value in table[each].unique())
    for number, value in enumerate(values):
        line = table[table[each] == value].sort_values(along)
        x, y = line[along].to_numpy(float), line["accuracy"].to_numpy(float)
        std = np.nan_to_num(line["accuracy_std"].to_numpy(float))
        colour = _colour(number)
        ax.fill_between(x, y - std, y + std, color=colour, alpha=0.15, linewidth=0)
        ax.plot(
            x,
            y,
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            linestyle=DASHES[number % len(DASHES)],
            markersize=3.5,
            label=label.format(value),
        )
    return values


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _finish(ax: Axes) -> Axes:
    ax.set_ylabel(ACCURACY_LABEL)
    style_axes(ax)
    ax.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize="small")
    return ax
