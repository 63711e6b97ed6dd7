"""Figures of selectors: how much the choice of neurons matters, and the Pareto front.

Each figure is described once, by a function that returns a `Plot`; a second function draws this
description on an ``ax`` that follows the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from criticalmass.analysis.columns import LayerKey
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import compares_with_layer, measure_label
from criticalmass.reporting.figures.draw import on_axes
from criticalmass.reporting.formatting import decimal
from criticalmass.reporting.plots import Plot, Rule, Series, count_axis, plain_axis, share_axis

if TYPE_CHECKING:
    import pandas as pd


def choice_plot(table: pd.DataFrame, *, measure: str | None = None) -> Plot:
    """Describe the values of random subsets and of those of the best and the worst selector.

    Parameters
    ----------
    table: rows of `criticalmass.diffuseness` for one model, layer and dataset.
    measure: measure to draw; required if the table has several.

    Raises
    ------
    CriticalMassError: if there are no rows, or rows of more than one layer and measure.
    """
    rows = _require_one(table, measure, LayerKey._fields).sort_values("n_kept")
    full = float(rows["value_full"].iloc[0])
    measured = str(rows["measure"].iloc[0])
    # All lines end at the whole layer, where there is no choice.
    fractions = [*(rows["n_kept"] / rows["n_neurons"]).astype(float), 1.0]
    lines = (
        (f"best: {_most_frequent(rows['best'])}", "best_value", "", 2),
        ("random subsets", "random", "ink", 0),
        (f"worst: {_most_frequent(rows['worst'])}", "worst_value", "series-1", 4),
    )
    series = tuple(
        Series(
            name,
            fractions,
            [*rows[column], full],
            [*rows[f"{column}_low"], None],
            [*rows[f"{column}_high"], None],
            style=style,
            colour=colour,
        )
        for name, column, colour, style in lines
    )
    values = [value for line in series for value in (*line.y, *line.low, *line.high)]
    return Plot(
        name=f"diffuseness-{measured}",
        title=f"Choice of neurons ({measured})",
        caption="Values of random subsets and of those of the best and the worst selector.",
        summary=f"{measured} of the best, random and worst subsets against their size.",
        table=rows.reset_index(drop=True),
        x=share_axis(fractions[0], int(rows["n_neurons"].iloc[0])),
        y=plain_axis(values, measure_label(measured), top=1.02),
        series=series,
        rules=(Rule("y", full, f"whole layer {decimal(full, 3)}", dashed=True),),
    )


def pareto_plot(table: pd.DataFrame, *, measure: str | None = None) -> Plot:
    """Describe every subset as a point and the Pareto front as a line.

    Points on the front have the colour of their selector. Open rings are subsets that are
    dominated, but not significantly; grey dots are the other dominated subsets.

    Parameters
    ----------
    table: rows of `criticalmass.pareto` for one task.
    measure: measure to draw; required if the table has several.

    Raises
    ------
    CriticalMassError: if there are no rows, or rows of more than one task.
    """
    names = ["dataset", "measure"]
    rows = table if measure is None else table[table["measure"] == measure]
    if len(rows) and compares_with_layer(str(rows["measure"].iloc[0])):
        names += ["model", "layer"]
    rows = _require_one(table, measure, names)
    measured = str(rows["measure"].iloc[0])
    front = rows[rows["on_front"]].sort_values(["n_kept", "value"])
    is_clear = rows["significant"].fillna(True).astype(bool)
    varying = [name for name in ("model", "layer") if rows[name].nunique() > 1]
    key = [*varying, "selector"]
    series = [
        Series("front", front["n_kept"].tolist(), front["value"].tolist(), colour="ink", legend="",
               shape="steps"),
        *_other_points(rows[~rows["on_front"] & is_clear], key, "dominated"),
        *_other_points(rows[~rows["on_front"] & ~is_clear], key, "perhaps on the front"),
        *(
            Series(
                _name(parts),
                points["n_kept"].tolist(),
                points["value"].tolist(),
                points["low"].tolist(),
                points["high"].tolist(),
                style=number,
                shape="points",
            )
            for number, (parts, points) in enumerate(front.groupby(key, sort=False))
        ),
    ]  # fmt: skip
    sizes = rows["n_kept"].astype(float)
    values = [*rows["value"].astype(float), *rows["low"], *rows["high"]]
    return Plot(
        name=f"pareto-{measured}",
        title=f"Pareto front ({measured})",
        caption=(
            "Every tested subset. For those on the line, no other subset has as few neurons and as "
            "high a value. Grey dots are dominated by another subset; open rings are dominated, "
            "but not significantly."
        ),
        summary=f"Value against neurons kept; {len(front)} of {len(rows)} subsets on the front.",
        table=rows.reset_index(drop=True),
        x=count_axis(float(sizes.min()), float(sizes.max()), "neurons or dimensions kept"),
        y=plain_axis(values, measure_label(measured), top=1.02),
        series=tuple(series),
    )


choice_against_fraction = on_axes(choice_plot)
size_against_value = on_axes(pareto_plot)


def _other_points(rows: pd.DataFrame, key: Sequence[str], kind: str) -> list[Series]:
    """Return subsets beside the front, one series per selector; they share a legend entry."""
    is_uncertain = kind == "perhaps on the front"
    return [
        Series(
            f"{_name(parts)} ({kind})",
            points["n_kept"].tolist(),
            points["value"].tolist(),
            colour="ink" if is_uncertain else "grey",
            shape="points",
            hollow=is_uncertain,
            legend=kind,
        )
        for parts, points in rows.groupby(list(key), sort=False)
    ]


def _name(parts: Sequence[object]) -> str:
    return ", ".join("whole layer" if part == "full" else str(part) for part in parts)


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
