"""Figures of the side effects of few neurons: loss per class, inequality and agreement.

Each function takes a table and an ``ax``, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.analysis.columns import CurveKey
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.reporting.figures.axes import set_fraction_axis
from criticalmass.reporting.figures.style import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    draw_band,
    error_lengths,
    escape_math,
    style_axes,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_UNNAMED_COLOUR = "#c9c7c1"


def classes_against_fraction(
    classes: pd.DataFrame, ax: Axes, *, losses: pd.DataFrame | None = None, most: int = 4
) -> Axes:
    """Draw the share of its own whole-layer accuracy that every class keeps.

    All lines end at 1; the lowest line loses most. The classes that lose most are coloured and
    named, largest loss first; the others are grey.

    Parameters
    ----------
    classes: rows of `criticalmass.class_accuracy` for one model, layer, dataset, selector and
        measure.
    ax: where to draw.
    losses: rows of `criticalmass.class_losses` for one delta. Their ranks set the order of the
        classes, and their size is marked. By default the order is that of the losses at the
        smallest size.
    most: number of classes to name.

    Raises
    ------
    CriticalMassError: if there is nothing to draw, or rows of more than one curve.
    """
    rows = _require_one_curve(classes[classes["relative_loss"].notna()], "class")
    smallest = rows[rows["n_kept"] == rows["n_kept"].min()]
    ranking = smallest.sort_values("relative_loss", ascending=False, kind="stable")["class_id"]
    if losses is not None:
        losses = _require_one_curve(losses[losses["relative_loss"].notna()], "class")
        ranking = losses.sort_values("rank")["class_id"]
        row = losses.iloc[0]
        ax.axvline(
            float(row["n_kept"] / row["n_neurons"]),
            color=FAINT,
            linewidth=0.9,
            linestyle=(0, (4, 3)),
            label=f"{row['delta'] * 100:g} % kept overall",
            zorder=1,
        )
    named = list(ranking)[:most]
    for class_id, line in rows.groupby("class_id", sort=True):
        rank = named.index(class_id) + 1 if class_id in named else None
        _draw_class(line.sort_values("n_kept"), ax, rank)
    set_fraction_axis(ax, float((rows["n_kept"] / rows["n_neurons"]).min()))
    ax.set_ylabel("share of the class's accuracy kept")
    ax.axhline(1.0, color=FAINT, linewidth=0.8, zorder=1)
    style_axes(ax)
    handles, labels = ax.get_legend_handles_labels()
    # "1. name", "2. name", ..., then the line of delta.
    prefixes = [label.partition(". ")[0] for label in labels]
    ranks = [int(prefix) if prefix.isdigit() else most + 1 for prefix in prefixes]
    order = np.argsort(ranks, kind="stable")
    _add_legend_above(ax, [handles[i] for i in order], [labels[i] for i in order])
    return ax


def gini_against_accuracy(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the inequality of class accuracies against accuracy, with its baseline.

    The dashed line is the proportional-odds baseline of `analysis.inequality`: the Gini
    coefficient of the whole layer after a loss of the same odds factor in all classes. Points
    above it are less fair than their accuracy explains. Small numbers are neurons kept.

    Parameters
    ----------
    table: rows of `criticalmass.fairness` for one model, layer, dataset, selector and measure.
    ax: where to draw.

    Raises
    ------
    CriticalMassError: if there is nothing to draw, or rows of more than one curve.
    """
    rows = _require_one_curve(table[table["gini"].notna()], "subset").sort_values("accuracy")
    x, y = rows["accuracy"].to_numpy(float), rows["gini"].to_numpy(float)
    ax.errorbar(
        x,
        y,
        xerr=error_lengths(rows, "accuracy", "accuracy_low", "accuracy_high"),
        yerr=error_lengths(rows, "gini", "gini_low", "gini_high"),
        fmt=MARKERS[0],
        color=COLOURS[0],
        markersize=4,
        linewidth=1.0,
        label=f"subsets, {rows['selector'].iloc[0]} (neurons kept)",
        zorder=3,
    )
    has_baseline = rows["gini_neutral"].notna().to_numpy(bool)
    if has_baseline.any():
        ax.plot(
            x[has_baseline],
            rows["gini_neutral"].to_numpy(float)[has_baseline],
            color=COLOURS[1],
            linestyle=(0, (6, 1.5)),
            linewidth=1.6,
            label="whole layer, proportional-odds baseline",
            zorder=2,
        )
    _annotate_sizes(rows, x, y, ax)
    ax.set_xlabel("accuracy on held-out data")
    ax.set_ylabel("Gini coefficient of class accuracies")
    ax.set_ylim(bottom=0.0)
    style_axes(ax)
    _add_legend_above(ax, *ax.get_legend_handles_labels(), columns=1)
    return ax


def agreement_against_fraction(
    table: pd.DataFrame, ax: Axes, *, figures: Sequence[str] = ("kappa", "error_consistency")
) -> Axes:
    """Draw chance-corrected agreement with other seeds and with the whole layer, by size.

    Parameters
    ----------
    table: rows of `criticalmass.agreement` for one model, layer, dataset, selector and measure.
    ax: where to draw.
    figures: columns to draw, each with its interval.

    Raises
    ------
    CriticalMassError: if there is nothing to draw, or rows of more than one curve.
    """
    rows = _require_one_curve(table, "against")
    labels = {"kappa": "predictions", "error_consistency": "errors"}
    for number, name in enumerate(figures):
        colour = COLOURS[number]
        for against, line in rows[rows[name].notna()].groupby("against", sort=True):
            line = line.sort_values("n_kept")
            x = (line["n_kept"] / line["n_neurons"]).to_numpy(float)
            with_seeds = against == "other seeds"
            ax.plot(
                x,
                line[name].to_numpy(float),
                color=colour,
                marker=MARKERS[0 if with_seeds else 1],
                markerfacecolor=colour if with_seeds else "white",
                linestyle="-" if with_seeds else (0, (6, 1.5)),
                linewidth=1.6,
                markersize=4,
                label=f"{labels.get(name, name)}, {against}",
                zorder=3,
            )
            draw_band(ax, x, line[f"{name}_low"], line[f"{name}_high"], colour, alpha=0.15)
    set_fraction_axis(ax, float((rows["n_kept"] / rows["n_neurons"]).min()))
    ax.set_ylabel("agreement beyond chance (kappa)")
    ax.set_ylim(min(0.0, float(rows[list(figures)].min().min())), 1.02)
    style_axes(ax)
    _add_legend_above(ax, *ax.get_legend_handles_labels())
    return ax


def draw_class_figure(
    name: str, run: Any, ax: Axes, measures: Sequence[str] = (), deltas: Sequence[float] = (0.9,)
) -> Axes:
    """Compute the table of a named figure of this module and draw it.

    Parameters
    ----------
    name: "classes", "gini" or "agreement".
    run: a Run or the path of one.
    ax: where to draw.
    measures: the one measure to draw; the first with predictions by default.
    deltas: the first is the share kept at which "classes" orders the classes by loss.

    Raises
    ------
    CriticalMassError: if the measure is unknown, or there is nothing to draw, or more than one
        curve.
    """
    from criticalmass.analysis.agreement import agreement
    from criticalmass.analysis.fairness import class_accuracy, class_losses, fairness

    compute = {"classes": class_accuracy, "gini": fairness, "agreement": agreement}[name]
    table = compute(run)
    available = list(dict.fromkeys(table["measure"]))
    for measure in measures:
        if measure not in available:
            raise unknown_name("measure with predictions", measure, available)
    table = table[table["measure"].isin(list(measures) or available[:1])]
    if name == "gini":
        return gini_against_accuracy(table, ax)
    if name == "agreement":
        return agreement_against_fraction(table, ax)
    losses = class_losses(run, tuple(deltas)[:1])
    losses = losses[losses["measure"].isin(table["measure"].unique())]
    return classes_against_fraction(table, ax, losses=losses if len(losses) else None)


def _draw_class(line: pd.DataFrame, ax: Axes, rank: int | None) -> None:
    """Draw one class; ``rank`` from 1 among the named classes, None for an unnamed one."""
    x = (line["n_kept"] / line["n_neurons"]).to_numpy(float)
    y = 1.0 - line["relative_loss"].to_numpy(float)
    if rank is None:
        ax.plot(x, y, color=_UNNAMED_COLOUR, linewidth=0.9, zorder=2)
        return
    colour = COLOURS[(rank - 1) % len(COLOURS)]
    ax.plot(
        x,
        y,
        color=colour,
        marker=MARKERS[(rank - 1) % len(MARKERS)],
        markersize=4,
        linewidth=1.6,
        label=escape_math(f"{rank}. {line['class_name'].iloc[0]}"),
        zorder=4,
    )
    low, high = 1.0 - line["relative_loss_high"], 1.0 - line["relative_loss_low"]
    draw_band(ax, x, low, high, colour, alpha=0.15)


def _require_one_curve(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the rows, or raise if there are none or if they are of several curves."""
    if rows.empty:
        raise CriticalMassError(f"no {kind} to draw; the table has no row with a value")
    for name in (column for column in CurveKey._fields if column in rows):
        values = rows[name].unique()
        if len(values) > 1:
            raise CriticalMassError(
                f"rows of {len(values)} values of {name!r} ({', '.join(map(str, values))}); "
                "draw one at a time"
            )
    return rows


def _add_legend_above(
    ax: Axes, handles: Sequence[Any], labels: Sequence[str], *, columns: int = 2
) -> None:
    """Name the lines above the axes, where the legend hides none of them."""
    ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize="x-small",
        handlelength=1.8,
        columnspacing=1.2,
        labelcolor=INK,
    )


def _annotate_sizes(rows: pd.DataFrame, x: Any, y: Any, ax: Axes) -> None:
    """Write the number of neurons next to each point, unless the labels would overlap."""
    min_distance = 0.06 * (float(np.ptp(x)) or 1.0)
    last = -np.inf
    # On the side of the point away from the baseline.
    above = (rows["gini_excess"].fillna(0.0) > 0.0).to_numpy(bool)
    for size, at_x, at_y, is_above in zip(rows["n_kept"], x, y, above, strict=True):
        if at_x - last < min_distance:
            continue
        last = at_x
        ax.annotate(
            f"{size:,}",
            (at_x, at_y),
            xytext=(4, 4) if is_above else (-4, -5),
            textcoords="offset points",
            ha="left" if is_above else "right",
            va="bottom" if is_above else "top",
            color=FAINT,
            fontsize="x-small",
        )
