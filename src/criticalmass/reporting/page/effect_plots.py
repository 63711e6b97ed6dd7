"""Figures of side effects and of selectors: loss by class, agreement, Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticalmass.measures.registry import measure_label
from criticalmass.reporting.figures import classes as class_figures
from criticalmass.reporting.figures import heat_maps, selectors, style
from criticalmass.reporting.figures.axes import Axis, count_axis, plain_axis, share_axis
from criticalmass.reporting.formatting import count_of
from criticalmass.reporting.page.curve_plots import FIFTHS
from criticalmass.reporting.page.plot_spec import Cells, Plot, Rule, Series

if TYPE_CHECKING:
    import pandas as pd

#: Number of classes, those of the largest losses, with a colour and a legend entry.
N_NAMED_CLASSES = 6


def classes_plot(classes: pd.DataFrame, order: list[int]) -> Plot:
    """Draw the share of its accuracy that every class keeps.

    Parameters
    ----------
    classes: rows of `criticalmass.class_accuracy` of one curve.
    order: ids of the classes, largest loss first; the first ones are coloured.
    """
    rows = classes[classes["relative_loss"].notna()].sort_values(["class_id", "n_kept"])
    rank = {class_id: number for number, class_id in enumerate(order)}
    groups = sorted(rows.groupby("class_id"), key=lambda group: rank.get(int(group[0]), len(rank)))
    series = []
    for number, (_, line) in enumerate(groups):
        coloured = number < N_NAMED_CLASSES
        low, high = (1.0 - line[f"relative_loss_{end}"].to_numpy(float) for end in ("high", "low"))
        series.append(
            Series(
                name=str(line["class_name"].iloc[0]),
                x=(line["n_kept"] / line["n_neurons"]).tolist(),
                y=(1.0 - line["relative_loss"].to_numpy(float)).tolist(),
                low=low.tolist() if coloured else (),
                high=high.tolist() if coloured else (),
                style=number if coloured else None,
            )
        )
    drawing, ax = style.new_axes()
    class_figures.classes_against_fraction(rows, ax)
    smallest = float((rows["n_kept"] / rows["n_neurons"]).min())
    values = [value for line in series for value in (*line.y, *line.low)]
    return Plot(
        name="classes",
        title="Loss by class",
        caption=(
            "Share of its own accuracy that each class keeps. The list is ordered by the loss at "
            "the critical mass, largest first. All lines end at the whole layer."
        ),
        summary=f"Share of accuracy kept by {len(series)} classes against the share of neurons.",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(smallest, int(rows["n_neurons"].iloc[0])),
        y=plain_axis([*values, 1.0], "share of the class’s accuracy kept", form="percent"),
        series=tuple(series),
        rules=(Rule("y", 1.0, dashed=True),),
        follows="mass",
    )


def agreement_plot(table: pd.DataFrame) -> Plot:
    """Draw agreement beyond chance against size.

    Parameters
    ----------
    table: rows of `criticalmass.agreement` of one curve.
    """
    labels = {"kappa": "predictions", "error_consistency": "errors"}
    series: list[Series] = []
    for name, label in labels.items():
        for against, line in table[table[name].notna()].groupby("against", sort=True):
            line = line.sort_values("n_kept")
            series.append(
                Series(
                    name=f"{label}, against {against}",
                    x=(line["n_kept"] / line["n_neurons"]).tolist(),
                    y=line[name].tolist(),
                    low=line[f"{name}_low"].tolist(),
                    high=line[f"{name}_high"].tolist(),
                    style=len(series),
                )
            )
    drawing, ax = style.new_axes()
    class_figures.agreement_against_fraction(table, ax)
    smallest = float((table["n_kept"] / table["n_neurons"]).min())
    low = min([0.0, *(float(value) for line in series for value in line.y)])
    return Plot(
        name="agreement",
        title="Agreement by size",
        caption=(
            "Agreement beyond chance (kappa): 1 means identical predictions, 0 no more agreement "
            "than by chance. Errors: agreement on which samples are wrong. "
            f"From {count_of(int(table['n_seeds'].max()), 'seed')}."
        ),
        summary="Agreement of predictions and of errors against the share of neurons kept.",
        table=table.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(smallest, int(table["n_neurons"].iloc[0])),
        y=Axis("agreement beyond chance (kappa)", low - 0.02, 1.02, FIFTHS),
        series=tuple(series),
        follows="mass",
    )


def matrix_plot(table: pd.DataFrame) -> Plot:
    """Draw kappa of every two groups of subsets as a heat map.

    Parameters
    ----------
    table: rows of `analysis.agreement_matrix.agreement_matrix` of one layer and measure.
    """
    names, cells = heat_maps.matrix_cells(table)
    drawing, ax = style.new_axes(4.2, 3.6)
    heat_maps.agreement_by_group(table, ax)
    by_size = str(table["by"].iloc[0]) == "size"
    return Plot(
        name="agreement-matrix",
        title="Agreement of sizes" if by_size else "Agreement of selectors",
        caption=(
            "Kappa between predictions, mean over pairs of subsets of different seeds. "
            + (
                "Rows and columns: neurons kept."
                if by_size
                else "The subsets keep about a tenth of the neurons."
            )
        ),
        summary=f"Heat map of the agreement between {len(names)} groups of subsets.",
        table=table.reset_index(drop=True),
        drawing=drawing,
        cells=Cells(names, names, cells.tolist()),
    )


def pareto_plot(table: pd.DataFrame) -> Plot:
    """Draw value against size, with the Pareto front.

    Parameters
    ----------
    table: rows of `criticalmass.pareto` of one task.
    """
    measure = str(table["measure"].iloc[0])
    drawing, ax = style.new_axes()
    selectors.size_against_value(table, ax, measure=measure)
    front = table[table["on_front"]].sort_values(["n_kept", "value"])
    rest = table[~table["on_front"]]
    varying = [name for name in ("model", "layer") if table[name].nunique() > 1]
    series = [
        Series("front", front["n_kept"].tolist(), front["value"].tolist(), style=None,
               shape="steps"),
    ]  # fmt: skip
    groups = list(front.groupby([*varying, "selector"], sort=False))
    for number, (key, points) in enumerate(groups):
        name = ", ".join("whole layer" if part == "full" else str(part) for part in key)
        many = len(groups) > style.MAX_DISTINCT_LINES
        series.append(_point_series(name, points, None if many else number))
    for key, points in rest.groupby([*varying, "selector"], sort=False):
        name = ", ".join(str(part) for part in key)
        series.append(_point_series(f"{name} (dominated)", points, None, hollow=True))
    sizes = table["n_kept"].astype(float)
    values = [*table["value"].astype(float), *table["low"].dropna(), *table["high"].dropna()]
    return Plot(
        name=f"pareto-{measure}",
        title=f"Pareto front ({measure})",
        caption=(
            "Every tested subset. For those on the line, no other subset has as few neurons and as "
            "high a value. Open rings are dominated by another subset, some of them not "
            "significantly (see the CSV)."
        ),
        summary=f"Value against neurons kept; {len(front)} of {len(table)} subsets on the front.",
        table=table.reset_index(drop=True),
        drawing=drawing,
        x=count_axis(float(sizes.min()), float(sizes.max()), "neurons or dimensions kept"),
        y=plain_axis(values, measure_label(measure), top=1.02),
        series=tuple(series),
    )


def _point_series(
    name: str, points: pd.DataFrame, style: int | None, *, hollow: bool = False
) -> Series:
    """Return the subsets of one selector as points, without intervals if they are hollow."""
    return Series(
        name=name,
        x=points["n_kept"].tolist(),
        y=points["value"].tolist(),
        low=() if hollow else points["low"].tolist(),
        high=() if hollow else points["high"].tolist(),
        style=style,
        shape="points",
        hollow=hollow,
    )
