"""The figures of a run's curves: value against fraction, DR against delta, layers as a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criticalmass.measures.registry import is_similarity, measure_label
from criticalmass.reporting.figures import style
from criticalmass.reporting.figures.axes import Axis, plain_axis, share_axis
from criticalmass.reporting.figures.curves import (
    cka_against_fraction,
    dr_against_delta,
    value_against_fraction,
)
from criticalmass.reporting.figures.references import ReferencePoint, fitting, mark_references
from criticalmass.reporting.page.plot_spec import Cells, Plot, Series

if TYPE_CHECKING:
    import pandas as pd

KEY = ("model", "layer", "dataset", "selector", "measure")
CurveIds = Mapping[tuple[str, ...], int]


def value_plots(
    lines: pd.DataFrame, ids: CurveIds, references: Sequence[ReferencePoint] = ()
) -> list[Plot]:
    """Draw value against fraction, one figure per measure.

    Parameters
    ----------
    lines: rows of `criticalmass.curves`.
    ids: number of every curve, by its `KEY`.
    references: published numbers to draw beside.
    """
    known = lines[lines["mean"].notna()]
    return [
        _value_plot(known[known["measure"] == measure], ids, references)
        for measure in known["measure"].unique()
    ]


def _value_plot(rows: pd.DataFrame, ids: CurveIds, references: Sequence[ReferencePoint]) -> Plot:
    measure = str(rows["measure"].iloc[0])
    similarity = is_similarity(measure)
    points = fitting(references, "value", rows)
    drawing, ax = style.new_axes()
    draw = cka_against_fraction if similarity else value_against_fraction
    draw(rows, ax, measure=measure)
    if points:
        mark_references(points, ax)
    whole = rows.drop_duplicates(["model", "layer", "dataset"])["value_full"].dropna()
    rules = [("y", 1.0, "", True)] if similarity else []
    if not similarity and 0 < len(whole) <= style.MANY:
        words = f"whole layer {float(whole.iloc[0]):.3f}" if len(whole) == 1 else ""
        rules = [("y", float(value), words, True) for value in whole]
    shares = (rows["n_kept"] / rows["n_neurons"]).astype(float)
    smallest = min([float(shares.min()), *(point.x for point in points)])
    values = [*rows["low"], *rows["high"], *rows["mean"], *whole, *(p.y for p in points)]
    kind = "Similarity" if similarity else "Accuracy"
    title = f"{kind} ({measure})"
    return Plot(
        name=f"value-{measure}",
        title=title,
        caption=_value_caption(similarity, many=len(list(named(rows))) > style.MANY),
        summary=f"{title} against the share of neurons kept; {_range(rows)}",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(smallest, _one(rows["n_neurons"])),
        y=plain_axis(_numbers(values), measure_label(measure), top=1.02),
        series=(*_value_lines(rows, ids), *reference_series(points)),
        rules=tuple(rules),
        follows="value",
    )


def _value_lines(rows: pd.DataFrame, ids: CurveIds) -> list[Series]:
    lines = list(named(rows))
    many = len(lines) > style.MANY
    return [
        Series(
            name=name,
            x=(line["n_kept"] / line["n_neurons"]).tolist(),
            y=line["mean"].tolist(),
            low=line["low"].tolist(),
            high=line["high"].tolist(),
            style=None if many else number,
            curve=ids.get(curve_key(line.iloc[0])),
        )
        for number, (name, line) in enumerate(
            (name, line.sort_values("n_kept")) for name, line in lines
        )
    ]


def dr_plot(
    every: pd.DataFrame, ids: CurveIds, references: Sequence[ReferencePoint] = ()
) -> Plot | None:
    """Draw DR against delta for all curves of a run; None if no curve has one.

    Parameters
    ----------
    every: rows of `criticalmass.redundancy` for many deltas.
    ids: number of every curve, by its `KEY`.
    references: published numbers to draw beside.
    """
    rows = every[every["dr"].notna()]
    if rows.empty:
        return None
    points = fitting(references, "dr", rows)
    drawing, ax = style.new_axes()
    dr_against_delta(rows, ax)
    if points:
        mark_references(points, ax)
    lines = [(name, line.sort_values("delta")) for name, line in named(rows)]
    many = len(lines) > style.MANY
    series = [
        Series(
            name=name,
            x=line["delta"].tolist(),
            y=line["dr"].tolist(),
            low=line["dr_low"].tolist(),
            high=line["dr_high"].tolist(),
            style=None if many else number,
            shape="steps",
            curve=ids.get(curve_key(line.iloc[0])),
        )
        for number, (name, line) in enumerate(lines)
    ]
    label = "share of the whole layer’s value to keep (delta)"
    return Plot(
        name="dr",
        title="Diffused redundancy",
        caption=(
            "DR is the share of the layer that can go while the share delta of its value stays. "
            "Where a line is flat on the left, even the smallest tested subset passes: DR is a "
            "lower bound there."
        ),
        summary=f"Diffused redundancy against delta; {_dr_range(rows)}",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=plain_axis(rows["delta"], label, form="percent", top=1.0),
        y=Axis("diffused redundancy DR", -0.02, 1.02, _TENTHS),
        series=(*series, *reference_series(points)),
        follows="delta",
    )


_TENTHS = tuple((n / 5, f"{n / 5:.1f}") for n in range(6))


def layers_plot(lines: pd.DataFrame) -> Plot | None:
    """Draw what every layer keeps as a heat map; None for a run of one layer."""
    from criticalmass.reporting.figures.heat_maps import layer_cells, layers_by_fraction

    rows = lines[lines["ratio"].notna()]
    if rows[["model", "layer", "dataset"]].drop_duplicates().shape[0] < 2:
        return None
    measure, selector = str(rows["measure"].iloc[0]), _usual(rows["selector"])
    rows = rows[(rows["measure"] == measure) & (rows["selector"] == selector)]
    names, fractions, cells = layer_cells(rows, measure=measure, selector=selector)
    if len(names) < 2:
        return None
    drawing, ax = style.new_axes(3.8, min(8.0, 1.2 + 0.16 * len(names)))
    layers_by_fraction(rows, ax, measure=measure, selector=selector)
    return Plot(
        name="layers",
        title=f"Layers ({measure}, {selector})",
        caption="Share of the layer’s own value that subsets keep: the darker, the more.",
        summary=f"Heat map of {len(names)} layers by {len(fractions)} fractions of neurons kept.",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        cells=Cells(names, [f"{100 * f:.3g} %" for f in fractions], cells.tolist()),
    )


def named(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a table into its lines, in order of appearance, each named by what varies."""
    varying = [name for name in KEY if rows[name].nunique(dropna=False) > 1]
    if not varying:
        return [(str(rows["selector"].iloc[0]), rows)]
    groups = rows.groupby(varying, sort=False, dropna=False)
    return [(", ".join(str(part) for part in key), line) for key, line in groups]


def curve_key(row: Any) -> tuple[str, ...]:
    """Key of the curve that a row of a table is about."""
    return tuple(str(row[name]) for name in KEY)


def reference_series(points: Sequence[ReferencePoint]) -> list[Series]:
    """Make published numbers stars, one series per source."""
    found = []
    for source in dict.fromkeys(point.source for point in points):
        mine = [point for point in points if point.source == source]
        found.append(
            Series(
                name=source,
                x=[point.x for point in mine],
                y=[point.y for point in mine],
                low=[point.low for point in mine],
                high=[point.high for point in mine],
                shape="stars",
            )
        )
    return found


def _usual(column: pd.Series) -> str:
    names = [str(name) for name in column.unique()]
    return "random" if "random" in names else names[0]


def _one(column: pd.Series) -> int:
    """Return the one number of neurons, 0 where layers differ."""
    return int(column.iloc[0]) if column.nunique() == 1 else 0


def _numbers(values: Sequence[Any]) -> list[float]:
    import pandas as pd

    return [float(value) for value in values if not pd.isna(value)]


def _range(rows: pd.DataFrame) -> str:
    low, high = rows.loc[rows["mean"].idxmin()], rows.loc[rows["mean"].idxmax()]
    return (
        f"from {float(low['mean']):.3f} at {int(low['n_kept']):,} neurons to "
        f"{float(high['mean']):.3f} at {int(high['n_kept']):,}."
    )


def _dr_range(rows: pd.DataFrame) -> str:
    first = rows[rows["delta"] == rows["delta"].min()].iloc[0]
    last = rows[rows["delta"] == rows["delta"].max()].iloc[0]
    return (
        f"from {float(first['dr']):.2f} at {100 * float(first['delta']):g} % to "
        f"{float(last['dr']):.2f} at {100 * float(last['delta']):g} %."
    )


def _value_caption(similarity: bool, *, many: bool) -> str:
    """Say what to look at in a curve."""
    if similarity:
        return "Similarity of the kept neurons to the whole layer; 1 is the same geometry."
    lines = "The line in colour is the curve chosen above. " if many else ""
    return (
        f"{lines}Line: mean over seeds; band: its interval. Dashed: the whole layer. The diamond "
        "is the critical mass at the delta of the slider, the bar its interval."
    )
