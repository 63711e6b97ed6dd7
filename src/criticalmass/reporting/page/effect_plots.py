"""Figures of side effects and choices: who pays first, who agrees, which subsets none beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from criticalmass.measures.registry import measure_label
from criticalmass.reporting.figures import classes as class_figures
from criticalmass.reporting.figures import heat_maps, selectors, style
from criticalmass.reporting.figures.axes import Axis, count_axis, plain_axis, share_axis
from criticalmass.reporting.page.plot_spec import Cells, Plot, Series

if TYPE_CHECKING:
    import pandas as pd

#: So many classes, those that pay first, have a colour and a name beside the figure.
NAMED_CLASSES = 6
_TENTHS = tuple((n / 5, f"{n / 5:.1f}") for n in range(6))


def classes_plot(classes: pd.DataFrame, first: list[int]) -> Plot:
    """Draw what every class keeps, those that pay first in colour and first in the list.

    Parameters
    ----------
    classes: rows of `criticalmass.class_accuracy` of one curve.
    first: ids of the classes, who pays most first.
    """
    rows = classes[classes["relative_loss"].notna()].sort_values(["class_id", "n_kept"])
    place = {class_id: at for at, class_id in enumerate(first)}
    parts = sorted(rows.groupby("class_id"), key=lambda part: place.get(int(part[0]), len(place)))
    series = []
    for at, (_, line) in enumerate(parts):
        coloured = at < NAMED_CLASSES
        ends = [1.0 - line[f"relative_loss_{end}"].to_numpy(float) for end in ("high", "low")]
        series.append(
            Series(
                name=str(line["class_name"].iloc[0]),
                x=(line["n_kept"] / line["n_neurons"]).tolist(),
                y=(1.0 - line["relative_loss"].to_numpy(float)).tolist(),
                low=ends[0].tolist() if coloured else (),
                high=ends[1].tolist() if coloured else (),
                style=at if coloured else None,
            )
        )
    drawing, ax = style.new_axes()
    class_figures.classes_against_fraction(rows, ax)
    smallest = float((rows["n_kept"] / rows["n_neurons"]).min())
    shown = [value for one in series for value in (*one.y, *one.low)]
    return Plot(
        name="classes",
        title="Who pays first",
        caption=(
            "Share of its own accuracy that each class keeps; the list is in the order of who "
            "loses most at the critical mass. All lines end at the whole layer."
        ),
        summary=f"Share of accuracy kept by {len(series)} classes against the share of neurons.",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(smallest, int(rows["n_neurons"].iloc[0])),
        y=plain_axis([*shown, 1.0], "share of the class’s accuracy kept", form="percent"),
        series=tuple(series),
        rules=(("y", 1.0, "", True),),
        follows="mass",
    )


def agreement_plot(table: pd.DataFrame) -> Plot:
    """Draw agreement beyond chance against size.

    Parameters
    ----------
    table: rows of `criticalmass.agreement` of one curve.
    """
    words = {"kappa": "predictions", "error_consistency": "errors"}
    series: list[Series] = []
    for name, said in words.items():
        for against, line in table[table[name].notna()].groupby("against", sort=True):
            line = line.sort_values("n_kept")
            series.append(
                Series(
                    name=f"{said}, against {against}",
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
    low = min([0.0, *(float(v) for one in series for v in one.y)])
    return Plot(
        name="agreement",
        title="Agreement by size",
        caption=(
            "Agreement beyond chance (kappa): 1 is the same answer to everything, 0 no more than "
            "chance. Errors: whether the same samples are got wrong. "
            f"From {int(table['n_seeds'].max())} seeds."
        ),
        summary="Agreement of predictions and of errors against the share of neurons kept.",
        table=table.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(smallest, int(table["n_neurons"].iloc[0])),
        y=Axis("agreement beyond chance (kappa)", low - 0.02, 1.02, _TENTHS),
        series=tuple(series),
        follows="mass",
    )


def matrix_plot(table: pd.DataFrame) -> Plot:
    """Draw kappa of every two groups of subsets.

    Parameters
    ----------
    table: rows of `agreement_matrix` of one layer and measure.
    """
    names, cells = heat_maps.matrix_cells(table)
    drawing, ax = style.new_axes(4.2, 3.6)
    heat_maps.agreement_by_group(table, ax)
    sizes = str(table["by"].iloc[0]) == "size"
    return Plot(
        name="agreement-matrix",
        title="Agreement of sizes" if sizes else "Agreement of selectors",
        caption=(
            "Kappa between predictions, mean over pairs of subsets of different seeds. "
            + ("Rows and columns: neurons kept." if sizes else "Subsets of about a tenth.")
        ),
        summary=f"Matrix of agreement between {len(names)} groups of subsets.",
        table=table.reset_index(drop=True),
        drawing=drawing,
        cells=Cells(names, names, [[_or_none(v) for v in row] for row in cells.tolist()]),
    )


def pareto_plot(table: pd.DataFrame) -> Plot:
    """Draw size against value, with the front.

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
    parts = list(front.groupby([*varying, "selector"], sort=False))
    for number, (key, points) in enumerate(parts):
        name = ", ".join("whole layer" if part == "full" else str(part) for part in key)
        series.append(_points(name, points, None if len(parts) > style.MANY else number))
    for name, points in rest.groupby([*varying, "selector"], sort=False):
        said = ", ".join(str(part) for part in name)
        series.append(_points(f"{said} (beaten)", points, None, hollow=True))
    sizes = table["n_kept"].astype(float)
    values = [*table["value"].astype(float), *table["low"].dropna(), *table["high"].dropna()]
    return Plot(
        name=f"pareto-{measure}",
        title=f"Pareto front ({measure})",
        caption=(
            "Every tested subset. On the line: no other has as few neurons and as high a value. "
            "Open rings are beaten by another, some of them by no more than noise (see the CSV)."
        ),
        summary=f"Value against neurons kept; {len(front)} of {len(table)} subsets on the front.",
        table=table.reset_index(drop=True),
        drawing=drawing,
        x=count_axis(float(sizes.min()), float(sizes.max()), "neurons or dimensions kept"),
        y=plain_axis(values, measure_label(measure), top=1.02),
        series=tuple(series),
    )


def _points(name: str, points: pd.DataFrame, style: int | None, *, hollow: bool = False) -> Series:
    """One selector's subsets as points; intervals where they have a colour."""
    ends = [] if hollow else [points["low"].tolist(), points["high"].tolist()]
    return Series(
        name=name,
        x=points["n_kept"].tolist(),
        y=points["value"].tolist(),
        low=ends[0] if ends else (),
        high=ends[1] if ends else (),
        style=style,
        shape="points",
        hollow=hollow,
    )


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
