"""Figures of predictions made without a sweep.

Each figure is described once, by a function that returns a `Plot`; a second function draws this
description on an ``ax`` that follows the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import measure_label
from criticalmass.reporting.figures.draw import draw, on_axes
from criticalmass.reporting.formatting import decimal
from criticalmass.reporting.plots import (
    FIFTHS,
    Axis,
    Plot,
    Rule,
    Series,
    count_axis,
    plain_axis,
    share_axis,
)
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def spectrum_plot(table: pd.DataFrame) -> Plot:
    """Describe the cumulative shares of two variances over the eigendirections.

    One line is the variance of the standardised neurons, the other the variance between the class
    means; without labels there is no second line.

    Parameters
    ----------
    table: ``spectrum`` of an `Explanation`.

    Raises
    ------
    CriticalMassError: if the table is empty.
    """
    if table.empty:
        raise CriticalMassError("no spectrum to draw: the table has no row")
    direction = table["direction"].tolist()
    lines = {"variance": "variance", "between": "variance between classes"}
    series = tuple(
        Series(label, direction, np.cumsum(table[column].to_numpy(float)).tolist(), style=number,
               shape="bare")
        for number, (column, label) in enumerate(lines.items())
        if table[column].notna().any()
    )  # fmt: skip
    of_what = "" if len(series) > 1 else " of the variance"
    return Plot(
        name="spectrum",
        title="Spectrum",
        caption="Cumulative shares of variance over the eigendirections.",
        summary="Cumulative shares of variance over the eigendirections.",
        table=table,
        x=count_axis(1, direction[-1], "eigendirections of the standardised neurons, by variance"),
        y=Axis(f"cumulative share{of_what}", 0.0, 1.02, FIFTHS),
        series=series,
        rules=(Rule("y", 0.5, dashed=True), Rule("y", 0.9, dashed=True)),
        free_corner="lower right",
    )


def prediction_plot(table: pd.DataFrame, measure: str) -> Plot:
    """Describe a predicted curve with the range of the mean over seeds.

    Parameters
    ----------
    table: ``curves`` of an `Explanation`.
    measure: the rows to draw.

    Raises
    ------
    CriticalMassError: if there is no prediction of the measure.
    """
    rows = table[table["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(f"no prediction to draw for measure {measure!r}")
    # A sweep starts at this fraction.
    rows = rows[rows["fraction"] >= min(DEFAULT_FRACTIONS[0], float(rows["fraction"].max()))]
    fractions, mean = rows["fraction"].tolist(), rows["mean"].tolist()
    low, high = rows["low"].tolist(), rows["high"].tolist()
    return Plot(
        name=f"predicted-{measure}",
        title=f"{measure}: predicted",
        caption="Line: predicted from second moments. Band: range of means over seeds.",
        summary=f"Predicted {measure} against the share of neurons kept.",
        table=rows.reset_index(drop=True),
        x=share_axis(min(fractions), int(rows["n_kept"].max())),
        y=plain_axis([*mean, *low, *high], measure_label(measure), top=1.02),
        series=(
            Series("predicted", fractions, mean, shape="bare"),
            Series("range of means over seeds", fractions, mean, low, high, shape="band"),
        ),
        rules=(Rule("y", mean[-1], f"whole layer {decimal(mean[-1], 3)}", dashed=True),),
        free_corner="lower right",
    )


def comparison_plot(curve: pd.DataFrame, compared: pd.DataFrame, measure: str) -> Plot:
    """Describe the predicted line and the measured means with their intervals.

    Parameters
    ----------
    curve: the prediction at many sizes; columns measure, fraction, mean.
    compared: rows of `criticalmass.theory.prediction_check.residuals`.
    measure: the rows to draw.

    Raises
    ------
    CriticalMassError: if there is no measured or no predicted curve of the measure.
    """
    line, rows = curve[curve["measure"] == measure], compared[compared["measure"] == measure]
    if line.empty or rows.empty:
        raise CriticalMassError(
            f"no figure for {measure!r}: it needs a predicted and a measured curve; sweep a run "
            "with this measure"
        )
    rows, fractions, x = _measured(rows)
    line = line[line["fraction"] >= x.low]
    mean, low, high = (
        rows[name].tolist() for name in ("measured", "measured_low", "measured_high")
    )
    predicted = line["mean"].tolist()
    return Plot(
        name=f"predicted-{measure}",
        title=f"{measure}: predicted and measured",
        caption="Line: predicted from second moments. Squares: measured, with intervals.",
        summary=f"Predicted and measured {measure} against the share of neurons kept.",
        table=rows,
        x=x,
        y=plain_axis([*predicted, *mean, *low, *high], measure_label(measure), top=1.02),
        series=(
            Series("predicted", line["fraction"].tolist(), predicted, shape="bare"),
            Series("measured", fractions, mean, low, high, style=1, shape="points"),
        ),
        free_corner="lower right",
    )


def residual_plot(compared: pd.DataFrame, measure: str) -> Plot:
    """Describe measured minus predicted means, with the 95 % range of the choice of subsets.

    Parameters
    ----------
    compared: rows of `criticalmass.theory.prediction_check.residuals`.
    measure: the rows to draw.

    Raises
    ------
    CriticalMassError: if there is no row of the measure.
    """
    rows = compared[compared["measure"] == measure]
    if rows.empty:
        raise CriticalMassError(
            f"no residual of {measure!r} to draw; sweep a run with this measure"
        )
    rows, fractions, x = _measured(rows)
    reach = 1.96 * rows["error"].to_numpy(float)
    low, high = (-reach).tolist(), reach.tolist()
    residual = rows["residual"].tolist()
    return Plot(
        name=f"residual-{measure}",
        title=f"{measure}: measured minus predicted",
        caption=(
            "Band: 95 % range of means over this number of seeds if the law holds. The subsets of "
            "a seed are nested, so the errors of neighbouring sizes are correlated."
        ),
        summary=f"Difference of measured and predicted {measure} by share of neurons kept.",
        table=rows,
        x=x,
        y=plain_axis([*residual, *low, *high], "measured minus predicted"),
        series=(
            Series("predicted 95 % range", fractions, [0.0] * len(rows), low, high, shape="bare"),
            Series("measured", fractions, residual, style=1, shape="points"),
        ),
        free_corner="upper right",
    )


spectrum = on_axes(spectrum_plot)
predicted_curve = on_axes(prediction_plot)
residual_against_fraction = on_axes(residual_plot)


def predicted_over_measured(
    curve: pd.DataFrame, compared: pd.DataFrame, ax: Axes, *, measure: str
) -> Axes:
    """Draw the figure of `comparison_plot` on an ``ax`` and return the ``ax``."""
    return draw(comparison_plot(curve, compared, measure), ax)


def _measured(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[float], Axis]:
    """Return the rows by size, their fractions, and the axis of fractions."""
    rows = rows.sort_values("n_kept").reset_index(drop=True)
    fractions = (rows["n_kept"] / rows["n_neurons"]).astype(float).tolist()
    return rows, fractions, share_axis(fractions[0], int(rows["n_neurons"].iloc[0]))
