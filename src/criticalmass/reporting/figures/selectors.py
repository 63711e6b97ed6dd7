"""Figures of the choice of neurons: how much it matters, and which choice gives most for its size.

Each function takes a table and an ``ax``, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import is_similarity, measure_label
from criticalmass.reporting.figures.axes import _count_axis, fraction_axis
from criticalmass.reporting.figures.style import COLOURS, FAINT, INK, MARKERS, dress

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def choice_against_fraction(table: pd.DataFrame, ax: Axes, *, measure: str | None = None) -> Axes:
    """Draw random subsets between those of the best and the worst rule, with the rules' names.

    Parameters
    ----------
    table: rows of `criticalmass.diffuseness` for one model, layer and dataset.
    ax: where to draw.
    measure: draw this measure's rows; the only one by default.

    Raises
    ------
    CriticalMassError: no rows, or rows of more than one layer and measure.
    """
    rows = _one(table, measure, ("model", "layer", "dataset", "measure")).sort_values("n_kept")
    full = float(rows["value_full"].iloc[0])
    # All lines end in the whole layer, where there is nothing left to choose.
    kept = np.append((rows["n_kept"] / rows["n_neurons"]).to_numpy(float), 1.0)
    chance = np.append(rows["random"].to_numpy(float), full)
    lines = (
        (f"best: {_mostly(rows['best'])}", "best_value", COLOURS[0], "^"),
        ("random subsets", "random", INK, "o"),
        (f"worst: {_mostly(rows['worst'])}", "worst_value", COLOURS[1], "v"),
    )
    for label, name, colour, marker in lines:
        low, high = (rows[f"{name}_{end}"].to_numpy(float) for end in ("low", "high"))
        value = np.append(rows[name].to_numpy(float), full)
        ax.fill_between(kept, chance, value, color=colour, alpha=0.12, linewidth=0)
        ax.fill_between(kept[:-1], low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(kept, value, color=colour, linewidth=1.5, zorder=3)
        ax.plot(kept[:-1], value[:-1], color=colour, marker=marker, linestyle="none",
                markersize=3.5, zorder=3)  # fmt: skip
        ax.plot([], [], color=colour, marker=marker, linewidth=1.5, markersize=3.5, label=label)
    _whole_layer(ax, full)
    fraction_axis(ax, float(kept.min()))
    ax.set_ylabel(measure_label(str(rows["measure"].iloc[0])))
    dress(ax)
    _legend(ax, columns=1)
    return ax


def size_against_value(table: pd.DataFrame, ax: Axes, *, measure: str | None = None) -> Axes:
    """Draw every subset as a point and the front as a line that nothing lies above.

    Points on the front have the colour of their rule; what is dominated, but not
    significantly, is an open ring, and the rest are faint dots.

    Parameters
    ----------
    table: rows of `criticalmass.pareto` for one task.
    ax: where to draw.
    measure: draw this measure's rows; the only one by default.

    Raises
    ------
    CriticalMassError: no rows, or rows of more than one task.
    """
    names = ["dataset", "measure"]
    rows = table if measure is None else table[table["measure"] == measure]
    if len(rows) and is_similarity(str(rows["measure"].iloc[0])):
        names += ["model", "layer"]
    rows = _one(table, measure, names)
    front = rows[rows["on_front"]].sort_values(["n_kept", "value"])
    rest = rows[~rows["on_front"]]
    open_ones = rest[~rest["significant"].fillna(True).astype(bool)]
    beaten = rest.drop(open_ones.index)
    dots: Any = {"s": 9, "color": FAINT, "alpha": 0.45, "linewidths": 0, "zorder": 2}
    ax.scatter(beaten["n_kept"], beaten["value"].astype(float), label="dominated", **dots)
    if len(open_ones):
        rings: Any = {"s": 22, "facecolors": "none", "edgecolors": INK, "linewidths": 0.8}
        sizes, values = open_ones["n_kept"], open_ones["value"].astype(float)
        ax.scatter(sizes, values, label="perhaps on the front", zorder=3, **rings)
    stairs: Any = {"where": "post", "color": INK, "linewidth": 1.0, "zorder": 3}
    ax.step(front["n_kept"], front["value"].astype(float), **stairs)
    varying = [n for n in ("model", "layer") if rows[n].nunique() > 1]
    for number, (key, points) in enumerate(front.groupby([*varying, "selector"], sort=False)):
        label = ", ".join(str(part) for part in key).replace("$", r"\$")
        ax.errorbar(
            points["n_kept"].to_numpy(float),
            points["value"].to_numpy(float),
            yerr=_reach(points),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="none",
            markersize=5,
            elinewidth=1.0,
            label="whole layer" if label == "full" else label,
            zorder=4,
        )
    _count_axis(ax, float(rows["n_kept"].min()), float(rows["n_kept"].max()))
    ax.set_ylabel(measure_label(str(rows["measure"].iloc[0])))
    dress(ax)
    _legend(ax, columns=2)
    return ax


def draw_choice(name: str, run: Any, ax: Axes, measures: Sequence[str]) -> None:
    """Compute the table of a named figure and draw it for one measure.

    Parameters
    ----------
    name: "diffuseness" or "pareto".
    run: a run or the path of one.
    ax: where to draw.
    measures: the one to draw; by default the first that scores a task.

    Raises
    ------
    CriticalMassError: more than one measure or none of the run's, or nothing to draw.
    """
    from criticalmass.analysis.diffuseness import diffuseness
    from criticalmass.analysis.pareto import pareto

    if len(measures) > 1:
        raise CriticalMassError(
            f"the {name!r} figure draws one measure, not {', '.join(measures)}; name one"
        )
    table = (diffuseness if name == "diffuseness" else pareto)(run)
    known = list(dict.fromkeys(table["measure"].astype(str)))
    if measures and measures[0] not in known:
        raise unknown_name("measure", measures[0], known)
    measure = measures[0] if measures else min(known, key=is_similarity)
    draw = choice_against_fraction if name == "diffuseness" else size_against_value
    draw(table, ax, measure=measure)


def _one(table: pd.DataFrame, measure: str | None, names: Sequence[str]) -> pd.DataFrame:
    rows = table if measure is None else table[table["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(f"no subsets to draw for measure {measure!r}; sweep a run with it")
    for name in names:
        found = list(dict.fromkeys(rows[name].astype(str)))
        if len(found) > 1:
            raise CriticalMassError(
                f"the table has more than one {name}: {', '.join(found)}; hand over the rows of one"
            )
    return rows


def _mostly(names: pd.Series) -> str:
    """Name the rule that was picked at most sizes, and how many others were."""
    every = [name for pick in names.astype(str) for name in pick.split(" | ")]
    counts = {name: every.count(name) for name in dict.fromkeys(every)}
    first = max(counts, key=lambda name: counts[name])
    return first if len(counts) == 1 else f"{first} and {len(counts) - 1} more"


def _whole_layer(ax: Axes, value: float) -> None:
    ax.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    ax.annotate(
        f"whole layer {value:.3f}",
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color=INK,
        fontsize="small",
    )


def _legend(ax: Axes, columns: int) -> None:
    """Name the lines above the drawing: in a paper's column there is no free corner."""
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


def _reach(points: pd.DataFrame) -> Any:
    """(2, n) lengths of the error bars."""
    value, low, high = (points[name].to_numpy(float) for name in ("value", "low", "high"))
    return np.maximum(np.stack([value - low, high - value]), 0.0)
