"""Figures of the side effects of few neurons: who pays, who agrees, what votes recover.

Each function takes a table and an ``ax``, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.reporting.figures.axes import fraction_axis
from criticalmass.reporting.figures.style import COLOURS, FAINT, INK, MARKERS, dress

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_KEY = ["model", "layer", "dataset", "selector", "measure"]
_QUIET = "#c9c7c1"


def classes_against_fraction(
    classes: pd.DataFrame, ax: Axes, *, losses: pd.DataFrame | None = None, most: int = 4
) -> Axes:
    """Draw the share of its own whole-layer accuracy that every class keeps.

    All lines end at 1; the lowest line pays most. The classes that pay first are coloured and
    named in that order, the others are grey.

    Parameters
    ----------
    classes: rows of `criticalmass.class_accuracy` for one model, layer, dataset, selector and
        measure.
    ax: where to draw.
    losses: rows of `criticalmass.class_losses` for one delta: their ranks say who pays first,
        and their size is marked. By default the losses at the smallest size.
    most: how many classes to name.

    Raises
    ------
    CriticalMassError: nothing to draw, or rows of more than one curve.
    """
    rows = _one_curve(classes[classes["relative_loss"].notna()], "class")
    first = rows[rows["n_kept"] == rows["n_kept"].min()].sort_values(
        "relative_loss", ascending=False, kind="stable"
    )["class_id"]
    if losses is not None:
        known = losses[losses["relative_loss"].notna()]
        first = _one_curve(known, "class").sort_values("rank")["class_id"]
        size = known.iloc[0]
        share = float(size["n_kept"] / size["n_neurons"])
        ax.axvline(
            share,
            color=FAINT,
            linewidth=0.9,
            linestyle=(0, (4, 3)),
            label=f"{size['delta'] * 100:g} % kept overall",
            zorder=1,
        )
    leading = list(first)[:most]
    for class_id, line in rows.groupby("class_id", sort=True):
        place = leading.index(class_id) if class_id in leading else None
        _class_line(line.sort_values("n_kept"), ax, place)
    fraction_axis(ax, float((rows["n_kept"] / rows["n_neurons"]).min()))
    ax.set_ylabel("share of the class's accuracy kept")
    ax.axhline(1.0, color=FAINT, linewidth=0.8, zorder=1)
    dress(ax)
    handles, labels = ax.get_legend_handles_labels()
    # "1. name", "2. name", ..., and the line of delta after them.
    ranks = [int(first) if first.isdigit() else most + 1 for first, *_ in _parted(labels)]
    order = np.argsort(ranks, kind="stable")
    _legend_above(ax, [handles[i] for i in order], [labels[i] for i in order])
    return ax


def gini_against_accuracy(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw inequality against accuracy, with what a class-neutral loss would give.

    Points above the dashed line are less fair than their accuracy explains. Small numbers
    are neurons kept.

    Parameters
    ----------
    table: rows of `criticalmass.fairness` for one model, layer, dataset, selector and measure.
    ax: where to draw.

    Raises
    ------
    CriticalMassError: nothing to draw, or rows of more than one curve.
    """
    rows = _one_curve(table[table["gini"].notna()], "subset").sort_values("accuracy")
    x, y = rows["accuracy"].to_numpy(float), rows["gini"].to_numpy(float)
    ax.errorbar(
        x,
        y,
        xerr=_bars(rows, "accuracy"),
        yerr=_bars(rows, "gini"),
        fmt=MARKERS[0],
        color=COLOURS[0],
        markersize=4,
        linewidth=1.0,
        label=f"subsets, {rows['selector'].iloc[0]} (neurons kept)",
        zorder=3,
    )
    known = rows["gini_neutral"].notna().to_numpy(bool)
    if known.any():
        ax.plot(
            x[known],
            rows["gini_neutral"].to_numpy(float)[known],
            color=COLOURS[1],
            linestyle=(0, (6, 1.5)),
            linewidth=1.6,
            label="whole layer, class-neutral loss",
            zorder=2,
        )
    _name_sizes(rows, x, y, ax)
    ax.set_xlabel("accuracy on held-out data")
    ax.set_ylabel("Gini coefficient of class accuracies")
    ax.set_ylim(bottom=0.0)
    dress(ax)
    _legend_above(ax, *ax.get_legend_handles_labels(), columns=1)
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
    CriticalMassError: nothing to draw, or rows of more than one curve.
    """
    rows = _one_curve(table, "against")
    words = {"kappa": "predictions", "error_consistency": "errors"}
    for colour, name in enumerate(figures):
        for against, line in rows[rows[name].notna()].groupby("against", sort=True):
            line = line.sort_values("n_kept")
            x = (line["n_kept"] / line["n_neurons"]).to_numpy(float)
            seeds = against == "other seeds"
            ax.plot(
                x,
                line[name].to_numpy(float),
                color=COLOURS[colour],
                marker=MARKERS[0 if seeds else 1],
                markerfacecolor=COLOURS[colour] if seeds else "white",
                linestyle="-" if seeds else (0, (6, 1.5)),
                linewidth=1.6,
                markersize=4,
                label=f"{words.get(name, name)}, {against}",
                zorder=3,
            )
            _shade(ax, x, line, name, COLOURS[colour])
    fraction_axis(ax, float((rows["n_kept"] / rows["n_neurons"]).min()))
    ax.set_ylabel("agreement beyond chance (kappa)")
    ax.set_ylim(min(0.0, float(rows[list(figures)].min().min())), 1.02)
    dress(ax)
    _legend_above(ax, *ax.get_legend_handles_labels())
    return ax


def ensemble_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw what members, their votes and one probe on the same neurons reach.

    The line across is the whole layer, with its interval.

    Parameters
    ----------
    table: rows of `criticalmass.ensembles` for one model, layer, dataset and measure.
    ax: where to draw.

    Raises
    ------
    CriticalMassError: nothing to draw, or rows of more than one layer and measure.
    """
    rows = _one_curve(table, "kind")
    kinds = [kind for kind in dict.fromkeys(rows["kind"]) if kind != "whole layer"]
    sizes = sorted(rows["n_kept"].unique())
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        mine = rows[rows["kind"] == kind].sort_values("n_kept")
        at = np.array([sizes.index(size) for size in mine["n_kept"]], dtype=float)
        ax.bar(
            at + (number - (len(kinds) - 1) / 2) * width,
            mine["value"].to_numpy(float),
            0.88 * width,
            yerr=_bars(mine, "value"),
            color=(_QUIET, *COLOURS)[number],
            error_kw={"ecolor": INK, "elinewidth": 0.9},
            label=kind,
            zorder=2,
        )
    whole = rows[rows["kind"] == "whole layer"].iloc[:1]
    for row in whole.itertuples():
        ax.axhline(row.value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ax.axhspan(row.value_low, row.value_high, color=FAINT, alpha=0.15, linewidth=0)
        ax.annotate(
            f"whole layer {row.value:.3f}",
            (0.0, row.value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=INK,
            fontsize="small",
        )
    members = int(rows["members"].iloc[0])
    ax.set_xticks(range(len(sizes)), [f"{members} × {size:,}" for size in sizes])
    ax.set_xlabel("members × neurons of each, none shared")
    ax.set_ylabel("accuracy on held-out data")
    ax.set_ylim(0.0, 1.08 * float(rows["value_high"].max()))
    dress(ax)
    _legend_above(ax, *ax.get_legend_handles_labels())
    return ax


def draw_effect(
    name: str, run: Any, ax: Axes, measures: Sequence[str] = (), deltas: Sequence[float] = (0.9,)
) -> Axes:
    """Compute the table that a named figure of this module needs and draw it.

    Parameters
    ----------
    name: "classes", "gini" or "agreement".
    run: a Run or the path of one.
    ax: where to draw.
    measures: the one measure to draw; the first with predictions by default.
    deltas: the first is the share kept at which "classes" says who paid first.

    Raises
    ------
    CriticalMassError: unknown measure, more than one curve, or nothing to draw.
    """
    from criticalmass.analysis.agreement import agreement
    from criticalmass.analysis.fairness import class_accuracy, class_losses, fairness

    compute = {"classes": class_accuracy, "gini": fairness, "agreement": agreement}[name]
    table = compute(run)
    known = list(dict.fromkeys(table["measure"]))
    for measure in measures:
        if measure not in known:
            raise unknown_name("measure with predictions", measure, known)
    table = table[table["measure"].isin(list(measures) or known[:1])]
    if name == "gini":
        return gini_against_accuracy(table, ax)
    if name == "agreement":
        return agreement_against_fraction(table, ax)
    losses = class_losses(run, tuple(deltas)[:1])
    losses = losses[losses["measure"].isin(table["measure"].unique())]
    return classes_against_fraction(table, ax, losses=losses if len(losses) else None)


def _class_line(line: pd.DataFrame, ax: Axes, place: int | None) -> None:
    """Draw one class; ``place`` among those that pay first, or None."""
    x = (line["n_kept"] / line["n_neurons"]).to_numpy(float)
    y = 1.0 - line["relative_loss"].to_numpy(float)
    if place is None:
        ax.plot(x, y, color=_QUIET, linewidth=0.9, zorder=2)
        return
    colour = COLOURS[place % len(COLOURS)]
    name = str(line["class_name"].iloc[0]).replace("$", r"\$")
    ax.plot(
        x,
        y,
        color=colour,
        marker=MARKERS[place % len(MARKERS)],
        markersize=4,
        linewidth=1.6,
        label=f"{place + 1}. {name}",
        zorder=4,
    )
    known = line["relative_loss_low"].notna().to_numpy(bool)
    low = 1.0 - line["relative_loss_high"][known].to_numpy(float)
    high = 1.0 - line["relative_loss_low"][known].to_numpy(float)
    ax.fill_between(x[known], low, high, color=colour, alpha=0.15, linewidth=0)


def _one_curve(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """Refuse to draw nothing, or several curves into one figure."""
    if rows.empty:
        raise CriticalMassError(f"no {what} to draw; the table has no row with a value")
    for name in (key for key in _KEY if key in rows):
        found = rows[name].unique()
        if len(found) > 1:
            raise CriticalMassError(
                f"rows of {len(found)} values of {name!r} ({', '.join(map(str, found))}); "
                "draw one at a time"
            )
    return rows


def _legend_above(
    ax: Axes, handles: Sequence[Any], labels: Sequence[str], *, columns: int = 2
) -> None:
    """Name the lines above the figure, where none of them runs."""
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


def _parted(labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """Split labels at their first full stop."""
    return [label.partition(". ") for label in labels]


def _bars(rows: pd.DataFrame, name: str) -> Any:
    """(2, n) lengths of error bars down and up; 0 where there is no interval."""
    value = rows[name].to_numpy(float)
    low = rows[f"{name}_low"].to_numpy(float, na_value=np.nan)
    high = rows[f"{name}_high"].to_numpy(float, na_value=np.nan)
    return np.nan_to_num(np.maximum(0.0, np.stack([value - low, high - value])))


def _shade(ax: Axes, x: Any, line: pd.DataFrame, name: str, colour: str) -> None:
    """Shade the interval where there is one."""
    known = line[f"{name}_low"].notna().to_numpy(bool)
    low = line[f"{name}_low"][known].to_numpy(float)
    high = line[f"{name}_high"][known].to_numpy(float)
    ax.fill_between(x[known], low, high, color=colour, alpha=0.15, linewidth=0)


def _name_sizes(rows: pd.DataFrame, x: Any, y: Any, ax: Axes) -> None:
    """Write neurons kept beside points, leaving out those that would crowd."""
    reach = 0.06 * (float(np.ptp(x)) or 1.0)
    last = -np.inf
    # On the side of the point where the line of the class-neutral loss does not run.
    above = (rows["gini_excess"].fillna(0.0) > 0.0).to_numpy(bool)
    for size, across, up, over in zip(rows["n_kept"], x, y, above, strict=True):
        if across - last < reach:
            continue
        last = across
        ax.annotate(
            f"{size:,}",
            (across, up),
            xytext=(4, 4) if over else (-4, -5),
            textcoords="offset points",
            ha="left" if over else "right",
            va="bottom" if over else "top",
            color=FAINT,
            fontsize="x-small",
        )
