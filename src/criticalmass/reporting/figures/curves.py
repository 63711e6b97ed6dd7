"""Figures of value against kept share, and of diffused redundancy against delta.

Each figure is described once, by a function that returns a `Plot`; a second function draws this
description on an ``ax`` that follows the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criticalmass.analysis.columns import CurveKey
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import (
    MEASURES,
    compares_with_layer,
    gallery_name,
    measure_label,
)
from criticalmass.reporting.figures.draw import draw_marks, on_axes
from criticalmass.reporting.figures.references import (
    ReferencePoint,
    points_for_figure,
    reference_series,
)
from criticalmass.reporting.formatting import decimal, integer, is_missing, percent, records
from criticalmass.reporting.plots import (
    MAX_DISTINCT_LINES,
    Mark,
    Plot,
    Rule,
    Series,
    count_axis,
    look,
    plain_axis,
    share_axis,
    unit_axis,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Curve -> its number in the page.
CurveNumbers = Mapping[CurveKey, int]

_TITLES = {
    "probe": "Accuracy",
    "similarity": "Similarity",
    "relevance": "Relevance",
    "score": "Score",
}


def mark_critical_mass(table: pd.DataFrame, ax: Axes) -> Axes:
    """Mark each critical mass and its interval on a figure of value against fraction.

    A thin line runs from the vertical axis, at delta times the whole layer's value, to the size
    that reaches this value.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy` for the curves already on ``ax``.
    ax: the axes of `value_against_fraction`.
    """
    draw_marks(critical_mass_marks(table), ax)
    return ax


def critical_mass_marks(table: pd.DataFrame) -> tuple[Mark, ...]:
    """Describe each critical mass of rows of `criticalmass.redundancy`, with its delta."""
    marks = []
    for row in table[table["critical_mass"].notna()].itertuples():
        mass = float(row.critical_mass) / row.n_neurons
        # Without an interval the mark is a point.
        low, high = (
            mass if is_missing(end) else float(end) / row.n_neurons
            for end in (row.critical_mass_low, row.critical_mass_high)
        )
        marks.append(Mark(mass, row.delta * row.value_full, low, high, f"{row.delta * 100:g} %"))
    return tuple(marks)


def value_plot(
    curves: pd.DataFrame,
    *,
    measure: str | None = None,
    whole_layer: bool = True,
    numbers: CurveNumbers | None = None,
    references: Sequence[ReferencePoint] = (),
) -> Plot:
    """Describe value against the fraction of neurons kept, with intervals and the whole layer.

    Parameters
    ----------
    curves: rows of `criticalmass.curves`; one line per model, layer, dataset, selector and
        measure.
    measure: draw only the rows of this measure; all by default.
    whole_layer: draw the whole layer's value as a horizontal line.
    numbers: number of every curve in the page.
    references: published numbers to draw.

    Raises
    ------
    CriticalMassError: if no row has a value.
    """
    rows = curves if measure is None else curves[curves["measure"] == measure]
    rows = rows[rows["mean"].notna()].reset_index(drop=True)
    if rows.empty:
        raise CriticalMassError(f"no curve to draw for measure {measure!r}; run a sweep with it")
    measure = str(rows["measure"].iloc[0])
    similarity = compares_with_layer(measure)
    label = measure_label(measure, gallery_name(rows.iloc[0].to_dict()))
    columns = {"x": "share", "y": "mean", "low": "low", "high": "high"}
    series = _curve_series(rows.assign(share=rows["n_kept"] / rows["n_neurons"]), columns, numbers)
    points = points_for_figure(references, "value", rows)
    rules = [Rule("y", 1.0, dashed=True)] if similarity else []
    if whole_layer and not similarity and len(series) <= MAX_DISTINCT_LINES:
        rules = _whole_layer_rules(rows)
    stars = reference_series(points)
    smallest = min(float(x) for one in (*series, *stars) for x in one.x)
    values = [*rows["low"], *rows["high"], *rows["mean"], *(p.y for p in points)]
    values += [rule.position for rule in rules]
    kind = MEASURES[measure].kind if measure in MEASURES else "probe"
    title = f"{_TITLES[kind]} ({measure})"
    return Plot(
        name=f"value-{measure}",
        title=title,
        caption=_value_caption(similarity, many=len(series) > MAX_DISTINCT_LINES),
        summary=f"{title} against the share of neurons kept; {_value_range_text(rows)}",
        table=rows,
        x=share_axis(smallest, _common_width(rows["n_neurons"])),
        y=unit_axis(values, label) if similarity else plain_axis(values, label, top=1.02),
        series=(*series, *stars),
        rules=tuple(rules),
        follows="value",
        free_corner="lower right",
    )


def dr_plot(
    redundancy: pd.DataFrame,
    *,
    measure: str | None = None,
    numbers: CurveNumbers | None = None,
    references: Sequence[ReferencePoint] = (),
) -> Plot:
    """Describe diffused redundancy against delta, the share of the whole layer's value to keep.

    Open triangles mark lower bounds: there the smallest tested subset already reaches delta.

    Parameters
    ----------
    redundancy: rows of `criticalmass.redundancy`, one per delta of the line.
    measure, numbers, references: as in `value_plot`.

    Raises
    ------
    CriticalMassError: if no row has a DR.
    """
    rows = redundancy if measure is None else redundancy[redundancy["measure"] == measure]
    rows = rows[rows["dr"].notna()].reset_index(drop=True)
    if rows.empty:
        raise CriticalMassError(f"no DR to draw for measure {measure!r}; run a sweep with it")
    columns = {"x": "delta", "y": "dr", "low": "dr_low", "high": "dr_high"}
    points = points_for_figure(references, "dr", rows)
    label = "share of the whole layer’s value to keep (delta)"
    return Plot(
        name="dr",
        title="Diffused redundancy",
        caption=(
            "DR is the share of the layer that can be removed while the share delta of its value "
            "remains. Triangles: the smallest tested subset already reaches delta, and DR is a "
            "lower bound."
        ),
        summary=f"Diffused redundancy against delta; {_dr_range_text(rows)}",
        table=rows,
        x=plain_axis([*rows["delta"], 1.0], label, form="percent", top=1.0),
        y=unit_axis(rows["dr_low"], "diffused redundancy DR"),
        series=(
            *_curve_series(rows, columns, numbers, shape="steps"),
            *reference_series(points),
        ),
        follows="delta",
        free_corner="lower left",
    )


def train_size_plot(table: pd.DataFrame, name: str = "train-size") -> Plot:
    """Describe critical mass or DR against the number of training samples, with intervals.

    Parameters
    ----------
    table: rows of `criticalmass.train_sizes`; one line per curve and delta.
    name: "train-size" for the critical mass in neurons, "train-size-dr" for DR.

    Raises
    ------
    CriticalMassError: if no row has a critical mass.
    """
    rows = table[table["critical_mass"].notna()].reset_index(drop=True)
    if rows.empty:
        raise CriticalMassError("no critical mass to draw against the number of training samples")
    column = "dr" if name == "train-size-dr" else "critical_mass"
    columns = {"x": "n_train", "y": column, "low": f"{column}_low", "high": f"{column}_high"}
    deltas = rows["delta"].unique()
    groups = [(delta, rows[rows["delta"] == delta]) for delta in deltas]
    lines = [(delta, *line) for delta, part in groups for line in split_curves(part)]
    series = tuple(
        Series(
            name=f"{label}, {percent(delta)}" if len(deltas) > 1 else label,
            **{axis: line[source].tolist() for axis, source in columns.items()},
            **look(number, len(lines)),
            bounds=_bounds(line),
        )
        for number, (delta, label, line) in enumerate(lines)
    )
    label = "diffused redundancy DR" if column == "dr" else "critical mass (neurons)"
    ends = [*rows[columns["low"]], *rows[columns["high"]]]
    return Plot(
        name=name,
        title=f"{label[0].upper()}{label[1:]} against training samples",
        caption="Probes trained on the first samples of one permutation; same subsets and test "
        "samples. Bars and bands: intervals.",
        summary=f"{label} against the number of training samples.",
        table=rows,
        x=count_axis(rows["n_train"].min(), rows["n_train"].max(), "training samples"),
        y=unit_axis(ends, label) if column == "dr" else plain_axis(ends, label),
        series=series,
    )


value_against_fraction = on_axes(value_plot)
dr_against_delta = on_axes(dr_plot)


def cka_against_fraction(curves: pd.DataFrame, ax: Axes, *, measure: str = "cka") -> Axes:
    """Draw the similarity of subsets to their whole layer, which is 1 at the fraction 1."""
    return value_against_fraction(curves, ax, measure=measure)


def split_curves(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split a table into its curves, in order of appearance.

    Yields
    ------
    The name of each curve, made of the key columns whose values differ between curves, and its
    rows.
    """
    varying = [name for name in CurveKey._fields if rows[name].nunique(dropna=False) > 1]
    if not varying:
        yield str(rows["selector"].iloc[0]), rows
        return
    for key, curve in rows.groupby(varying, sort=False, dropna=False):
        yield ", ".join(str(part) for part in key), curve


def curve_key(row: Any) -> CurveKey:
    """Return the key of the curve that a row of a table is about."""
    return CurveKey(*(str(row[name]) for name in CurveKey._fields))


def rows_by_curve(table: pd.DataFrame) -> dict[CurveKey, list[dict[str, Any]]]:
    """Return the rows of each curve of a table, in their order."""
    curves: dict[CurveKey, list[dict[str, Any]]] = {}
    for row in records(table):
        curves.setdefault(curve_key(row), []).append(row)
    return curves


def _curve_series(
    rows: pd.DataFrame,
    columns: Mapping[str, str],
    numbers: CurveNumbers | None,
    *,
    shape: str = "line",
) -> list[Series]:
    """Return one series per curve of a table.

    Parameters
    ----------
    rows: the table.
    columns: coordinates of the series -> columns of the table.
    numbers: number of every curve in the page.
    shape: of the series.
    """
    lines = [(name, line.sort_values(columns["x"])) for name, line in split_curves(rows)]
    return [
        Series(
            name=name,
            **{coordinate: line[column].tolist() for coordinate, column in columns.items()},
            **look(number, len(lines)),
            shape=shape,
            bounds=_bounds(line) if "at_floor" in line else (),
            curve=(numbers or {}).get(curve_key(line.iloc[0])),
        )
        for number, (name, line) in enumerate(lines)
    ]


def _bounds(line: pd.DataFrame) -> list[int]:
    """Return the indices of lower bounds to mark: those among about eight points of the line."""
    step, at_floor = max(1, len(line) // 8), line["at_floor"].tolist()
    return [index for index in range(0, len(line), step) if bool(at_floor[index])]


def _whole_layer_rules(rows: pd.DataFrame) -> list[Rule]:
    """Return the whole layer's value and interval once per layer and measure."""
    layers = rows.dropna(subset=["value_full"])
    layers = layers.drop_duplicates(["model", "layer", "dataset", "measure"])
    return [
        Rule(
            "y",
            float(row.value_full),
            f"whole layer {decimal(row.value_full, 3)}" if len(layers) == 1 else "",
            dashed=True,
            low=None if is_missing(row.full_low) else float(row.full_low),
            high=None if is_missing(row.full_high) else float(row.full_high),
        )
        for row in layers.itertuples()
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
    order = (
        "Colours follow the order of the curves; the thick line is the curve chosen above. "
        if many
        else ""
    )
    return (
        f"{order}Line: mean over seeds; band: its interval. Dashed: the whole layer. The "
        "diamond is the critical mass at the delta of the slider, the bar its interval."
    )
