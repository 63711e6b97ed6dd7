"""Figures of selectors: how much the choice of neurons matters, and the Pareto front.

Each function takes a table and an ``ax``, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.analysis.columns import LayerKey
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import is_similarity, measure_label
from criticalmass.reporting.figures.axes import set_count_axis, set_fraction_axis
from criticalmass.reporting.figures.style import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    annotate_whole_layer,
    error_lengths,
    escape_math,
    style_axes,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def choice_against_fraction(table: pd.DataFrame, ax: Axes, *, measure: str | None = None) -> Axes:
    """Draw the values of random subsets and of those of the best and the worst selector.

    Parameters
    ----------
    table: rows of `criticalmass.diffuseness` for one model, layer and dataset.
    ax: where to draw.
    measure: measure to draw; required if the table has several.

    Raises
    ------
    CriticalMassError: if there are no rows, or rows of more than one layer and measure.
    """
    rows = _require_one(table, measure, LayerKey._fields).sort_values("n_kept")
    full = float(rows["value_full"].iloc[0])
    # All lines end at the whole layer, where there is no choice.
    fraction = np.append((rows["n_kept"] / rows["n_neurons"]).to_numpy(float), 1.0)
    random_value = np.append(rows["random"].to_numpy(float), full)
    lines = (
        (f"best: {_most_frequent(rows['best'])}", "best_value", COLOURS[0], "^"),
        ("random subsets", "random", INK, "o"),
        (f"worst: {_most_frequent(rows['worst'])}", "worst_value", COLOURS[1], "v"),
    )
    for label, name, colour, marker in lines:
        low, high = (rows[f"{name}_{end}"].to_numpy(float) for end in ("low", "high"))
        value = np.append(rows[name].to_numpy(float), full)
        ax.fill_between(fraction, random_value, value, color=colour, alpha=0.12, linewidth=0)
        ax.fill_between(fraction[:-1], low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(fraction, value, color=colour, linewidth=1.5, zorder=3)
        ax.plot(fraction[:-1], value[:-1], color=colour, marker=marker, linestyle="none",
                markersize=3.5, zorder=3)  # fmt: skip
        ax.plot([], [], color=colour, marker=marker, linewidth=1.5, markersize=3.5, label=label)
    ax.axhline(full, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    annotate_whole_layer(ax, full)
    set_fraction_axis(ax, float(fraction.min()))
    ax.set_ylabel(measure_label(str(rows["measure"].iloc[0])))
    style_axes(ax)
    _add_legend_above(ax, columns=1)
    return ax


def size_against_value(table: pd.DataFrame, ax: Axes, *, measure: str | None = None) -> Axes:
    """Draw every subset as a point and the Pareto front as a line.

    Points on the front have the colour of their selector. Open rings are subsets that are
    dominated, but not significantly; faint dots are the other dominated subsets.

    Parameters
    ----------
    table: rows of `criticalmass.pareto` for one task.
    ax: where to draw.
    measure: measure to draw; required if the table has several.

    Raises
    ------
    CriticalMassError: if there are no rows, or rows of more than one task.
    """
    names = ["dataset", "measure"]
    rows = table if measure is None else table[table["measure"] == measure]
    if len(rows) and is_similarity(str(rows["measure"].iloc[0])):
        names += ["model", "layer"]
    rows = _require_one(table, measure, names)
    front = rows[rows["on_front"]].sort_values(["n_kept", "value"])
    rest = rows[~rows["on_front"]]
    uncertain = rest[~rest["significant"].fillna(True).astype(bool)]
    dominated = rest.drop(uncertain.index)
    dots: Any = {"s": 9, "color": FAINT, "alpha": 0.45, "linewidths": 0, "zorder": 2}
    ax.scatter(dominated["n_kept"], dominated["value"].astype(float), label="dominated", **dots)
    if len(uncertain):
        rings: Any = {"s": 22, "facecolors": "none", "edgecolors": INK, "linewidths": 0.8}
        sizes, values = uncertain["n_kept"], uncertain["value"].astype(float)
        ax.scatter(sizes, values, label="perhaps on the front", zorder=3, **rings)
    stairs: Any = {"where": "post", "color": INK, "linewidth": 1.0, "zorder": 3}
    ax.step(front["n_kept"], front["value"].astype(float), **stairs)
    varying = [name for name in ("model", "layer") if rows[name].nunique() > 1]
    for number, (key, points) in enumerate(front.groupby([*varying, "selector"], sort=False)):
        label = ", ".join(str(part) for part in key)
        ax.errorbar(
            points["n_kept"].to_numpy(float),
            points["value"].to_numpy(float),
            yerr=error_lengths(points, "value", "low", "high"),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="none",
            markersize=5,
            elinewidth=1.0,
            label="whole layer" if label == "full" else escape_math(label),
            zorder=4,
        )
    set_count_axis(ax, float(rows["n_kept"].min()), float(rows["n_kept"].max()))
    ax.set_ylabel(measure_label(str(rows["measure"].iloc[0])))
    style_axes(ax)
    _add_legend_above(ax, columns=2)
    return ax


def draw_selector_figure(name: str, run: Any, ax: Axes, measures: Sequence[str]) -> None:
    """Compute the table of a named figure and draw it for one measure.

    Parameters
    ----------
    name: "diffuseness" or "pareto".
    run: a run or the path of one.
    ax: where to draw.
    measures: at most one; by default the run's first measure that scores a task.

    Raises
    ------
    CriticalMassError: if there are several measures, the measure is not one of the run's, or there
        is nothing to draw.
    """
    from criticalmass.analysis.diffuseness import diffuseness
    from criticalmass.analysis.pareto import pareto

    if len(measures) > 1:
        raise CriticalMassError(
            f"the {name!r} figure draws one measure, not {', '.join(measures)}; pass one of them"
        )
    table = (diffuseness if name == "diffuseness" else pareto)(run)
    available = list(dict.fromkeys(table["measure"].astype(str)))
    if measures and measures[0] not in available:
        raise unknown_name("measure", measures[0], available)
    measure = measures[0] if measures else min(available, key=is_similarity)
    draw = choice_against_fraction if name == "diffuseness" else size_against_value
    draw(table, ax, measure=measure)


def _require_one(table: pd.DataFrame, measure: str | None, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a measure, or raise if there are none or a column has several values."""
    rows = table if measure is None else table[table["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(f"no subsets to draw for measure {measure!r}; sweep a run with it")
    for name in names:
        values = list(dict.fromkeys(rows[name].astype(str)))
        if len(values) > 1:
            raise CriticalMassError(
                f"the table has more than one {name}: {', '.join(values)}; pass the rows of one"
            )
    return rows


def _most_frequent(names: pd.Series) -> str:
    """Return the selector that was picked at most sizes, and the number of the others.

    A cell may name several selectors, separated by ``" | "``.
    """
    picks = [name for cell in names.astype(str) for name in cell.split(" | ")]
    counts = {name: picks.count(name) for name in dict.fromkeys(picks)}
    first = max(counts, key=lambda name: counts[name])
    return first if len(counts) == 1 else f"{first} and {len(counts) - 1} more"


def _add_legend_above(ax: Axes, columns: int) -> None:
    """Name the lines above the axes; at the width of a column no corner is free."""
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.02),
        borderaxespad=0.0,
        ncols=columns,
        frameon=False,
        fontsize="x-small",
        labelcolor=INK,
        columnspacing=1.0,
        handletextpad=0.5,
    )
