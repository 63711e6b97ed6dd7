"""Figures of the curves of a run: value against fraction, DR against delta, heat map of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criticalmass.analysis.columns import CurveKey
from criticalmass.measures.registry import is_similarity, measure_label
from criticalmass.reporting.figures import style
from criticalmass.reporting.figures.axes import Axis, plain_axis, share_axis
from criticalmass.reporting.figures.curves import (
    cka_against_fraction,
    dr_against_delta,
    value_against_fraction,
)
from criticalmass.reporting.figures.references import (
    ReferencePoint,
    draw_references,
    points_by_source,
    points_for_figure,
)
from criticalmass.reporting.formatting import decimal, integer, percent
from criticalmass.reporting.page.plot_spec import Cells, Plot, Rule, Series

if TYPE_CHECKING:
    import pandas as pd

#: Curve -> its number in the page.
CurveNumbers = Mapping[CurveKey, int]
#: Ticks from 0 to 1 in steps of 0.2.
FIFTHS = tuple((n / 5, f"{n / 5:.1f}") for n in range(6))


def value_plots(
    curves: pd.DataFrame, numbers: CurveNumbers, references: Sequence[ReferencePoint] = ()
) -> list[Plot]:
    """Draw value against fraction, one figure per measure.

    Parameters
    ----------
    curves: rows of `criticalmass.curves`.
    numbers: number of every curve.
    references: published numbers to draw.
    """
    rows = curves[curves["mean"].notna()]
    return [
        _value_plot(rows[rows["measure"] == measure], numbers, references)
        for measure in rows["measure"].unique()
    ]


def _value_plot(
    rows: pd.DataFrame, numbers: CurveNumbers, references: Sequence[ReferencePoint]
) -> Plot:
    measure = str(rows["measure"].iloc[0])
    similarity = is_similarity(measure)
    n_lines = len(list(style.split_curves(rows)))
    points = points_for_figure(references, "value", rows)
    drawing, ax = style.new_axes()
    draw = cka_against_fraction if similarity else value_against_fraction
    draw(rows, ax, measure=measure)
    if points:
        draw_references(points, ax)
    full_values = rows.drop_duplicates(["model", "layer", "dataset"])["value_full"].dropna()
    rules = [Rule("y", 1.0, dashed=True)] if similarity else []
    if not similarity and 0 < len(full_values) <= style.MAX_DISTINCT_LINES:
        label = f"whole layer {decimal(full_values.iloc[0], 3)}" if len(full_values) == 1 else ""
        rules = [Rule("y", float(value), label, dashed=True) for value in full_values]
    fractions = (rows["n_kept"] / rows["n_neurons"]).astype(float)
    smallest = min([float(fractions.min()), *(point.x for point in points)])
    values = [*rows["low"], *rows["high"], *rows["mean"], *full_values, *(p.y for p in points)]
    kind = "Similarity" if similarity else "Accuracy"
    title = f"{kind} ({measure})"
    return Plot(
        name=f"value-{measure}",
        title=title,
        caption=_value_caption(similarity, many=n_lines > style.MAX_DISTINCT_LINES),
        summary=f"{title} against the share of neurons kept; {_value_range_text(rows)}",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(smallest, _common_width(rows["n_neurons"])),
        y=plain_axis(values, measure_label(measure), top=1.02),
        series=(*_value_series(rows, numbers), *reference_series(points)),
        rules=tuple(rules),
        follows="value",
    )


def _value_series(rows: pd.DataFrame, numbers: CurveNumbers) -> list[Series]:
    lines = [(name, line.sort_values("n_kept")) for name, line in style.split_curves(rows)]
    many = len(lines) > style.MAX_DISTINCT_LINES
    return [
        Series(
            name=name,
            x=(line["n_kept"] / line["n_neurons"]).tolist(),
            y=line["mean"].tolist(),
            low=line["low"].tolist(),
            high=line["high"].tolist(),
            style=None if many else number,
            curve=numbers.get(curve_key(line.iloc[0])),
        )
        for number, (name, line) in enumerate(lines)
    ]


def dr_plot(
    redundancy: pd.DataFrame, numbers: CurveNumbers, references: Sequence[ReferencePoint] = ()
) -> Plot | None:
    """Draw DR against delta for all curves of a run; None if no curve has a DR.

    Parameters
    ----------
    redundancy: rows of `criticalmass.redundancy` for many deltas.
    numbers: number of every curve.
    references: published numbers to draw.
    """
    rows = redundancy[redundancy["dr"].notna()]
    if rows.empty:
        return None
    points = points_for_figure(references, "dr", rows)
    drawing, ax = style.new_axes()
    dr_against_delta(rows, ax)
    if points:
        draw_references(points, ax)
    lines = [(name, line.sort_values("delta")) for name, line in style.split_curves(rows)]
    many = len(lines) > style.MAX_DISTINCT_LINES
    series = [
        Series(
            name=name,
            x=line["delta"].tolist(),
            y=line["dr"].tolist(),
            low=line["dr_low"].tolist(),
            high=line["dr_high"].tolist(),
            style=None if many else number,
            shape="steps",
            curve=numbers.get(curve_key(line.iloc[0])),
        )
        for number, (name, line) in enumerate(lines)
    ]
    label = "share of the whole layer’s value to keep (delta)"
    return Plot(
        name="dr",
        title="Diffused redundancy",
        caption=(
            "DR is the share of the layer that can be removed while the share delta of its value "
            "remains. Where a line is flat on the left, the smallest tested subset already "
            "reaches delta, and DR is a lower bound."
        ),
        summary=f"Diffused redundancy against delta; {_dr_range_text(rows)}",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=plain_axis(rows["delta"], label, form="percent", top=1.0),
        y=Axis("diffused redundancy DR", -0.02, 1.02, FIFTHS),
        series=(*series, *reference_series(points)),
        follows="delta",
    )


def layers_plot(curves: pd.DataFrame) -> Plot | None:
    """Draw the share of its value that every layer keeps, as a heat map; None for one layer.

    Parameters
    ----------
    curves: rows of `criticalmass.curves`; the first measure is drawn, with the selector "random"
        if there is one.
    """
    from criticalmass.reporting.figures.heat_maps import layer_cells, layers_by_fraction

    rows = curves[curves["ratio"].notna()]
    if rows[["model", "layer", "dataset"]].drop_duplicates().shape[0] < 2:
        return None
    selectors = [str(name) for name in rows["selector"].unique()]
    selector = "random" if "random" in selectors else selectors[0]
    measure = str(rows["measure"].iloc[0])
    rows = rows[(rows["measure"] == measure) & (rows["selector"] == selector)]
    names, fractions, cells = layer_cells(rows, measure=measure, selector=selector)
    if len(names) < 2:
        return None
    drawing, ax = style.new_axes(3.8, min(8.0, 1.2 + 0.16 * len(names)))
    layers_by_fraction(rows, ax, measure=measure, selector=selector)
    return Plot(
        name="layers",
        title=f"Layers ({measure}, {selector})",
        caption="Share of the layer’s own value that subsets keep; darker is more.",
        summary=f"Heat map of {len(names)} layers by {len(fractions)} fractions of neurons kept.",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        cells=Cells(names, [f"{100 * f:.3g} %" for f in fractions], cells.tolist()),
    )


def curve_key(row: Any) -> CurveKey:
    """Return the key of the curve that a row of a table is about."""
    return CurveKey(*(str(row[name]) for name in CurveKey._fields))


def reference_series(points: Sequence[ReferencePoint]) -> list[Series]:
    """Return published numbers as stars, one series per source."""
    return [
        Series(
            name=source,
            x=[point.x for point in group],
            y=[point.y for point in group],
            low=[point.low for point in group],
            high=[point.high for point in group],
            shape="stars",
        )
        for source, group in points_by_source(points).items()
    ]


def _common_width(column: pd.Series) -> int:
    """Return the number of neurons of all layers, 0 if layers differ."""
    return int(column.iloc[0]) if column.nunique() == 1 else 0


def _value_range_text(rows: pd.DataFrame) -> str:
    low, high = rows.loc[rows["mean"].idxmin()], rows.loc[rows["mean"].idxmax()]
    return (
        f"from {decimal(low['mean'], 3)} at {integer(low['n_kept'])} neurons to "
        f"{decimal(high['mean'], 3)} at {integer(high['n_kept'])}."
    )


def _dr_range_text(rows: pd.DataFrame) -> str:
    first = rows[rows["delta"] == rows["delta"].min()].iloc[0]
    last = rows[rows["delta"] == rows["delta"].max()].iloc[0]
    return (
        f"from {decimal(first['dr'], 2)} at {percent(first['delta'])} to "
        f"{decimal(last['dr'], 2)} at {percent(last['delta'])}."
    )


def _value_caption(similarity: bool, *, many: bool) -> str:
    """Explain the lines and marks of a figure of values."""
    if similarity:
        return "Similarity of the kept neurons to the whole layer; 1 is the same geometry."
    coloured = "The coloured line is the curve chosen above. " if many else ""
    return (
        f"{coloured}Line: mean over seeds; band: its interval. Dashed: the whole layer. The "
        "diamond is the critical mass at the delta of the slider, the bar its interval."
    )
