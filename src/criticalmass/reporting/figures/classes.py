"""Figures of the side effects of few neurons: loss per class, inequality and agreement.

Each figure is described once, by a function that returns a `Plot`; a second function draws this
description on an ``ax`` that follows the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from criticalmass.analysis.columns import CurveKey
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.draw import on_axes
from criticalmass.reporting.formatting import count_of
from criticalmass.reporting.plots import Plot, Rule, Series, plain_axis, share_axis, unit_axis

if TYPE_CHECKING:
    import pandas as pd

_AGREEMENT_LABELS = {"kappa": "predictions", "error_consistency": "errors"}


def classes_plot(
    classes: pd.DataFrame,
    *,
    losses: pd.DataFrame | None = None,
    order: Sequence[int] | None = None,
    most: int = 4,
) -> Plot:
    """Describe the share of its own whole-layer accuracy that every class keeps.

    All lines end at 1; the lowest line loses most. The classes that lose most are coloured and
    named, largest loss first; the others are grey.

    Parameters
    ----------
    classes: rows of `criticalmass.class_accuracy` for one model, layer, dataset, selector and
        measure.
    losses: rows of `criticalmass.class_losses` for one delta; their size is marked.
    order: ids of the classes, largest loss first. By default the order is that of ``losses``, or
        else of the losses at the smallest size.
    most: number of classes to name.

    Raises
    ------
    CriticalMassError: if there is nothing to draw, or rows of more than one curve.
    """
    rows = _require_one_curve(classes[classes["relative_loss"].notna()], "class")
    rules = [Rule("y", 1.0, dashed=True)]
    if losses is not None:
        losses = _require_one_curve(losses[losses["relative_loss"].notna()], "class")
        order = order or list(losses.sort_values("rank")["class_id"])
        first = losses.iloc[0]
        label = f"{first['delta'] * 100:g} % kept overall"
        rules.append(Rule("x", float(first["n_kept"] / first["n_neurons"]), label, dashed=True))
    if order is None:
        smallest = rows[rows["n_kept"] == rows["n_kept"].min()]
        losses_first = smallest.sort_values("relative_loss", ascending=False, kind="stable")
        order = list(losses_first["class_id"])
    rank = {class_id: number for number, class_id in enumerate(order)}
    lines = sorted(
        rows.sort_values("n_kept").groupby("class_id", sort=True),
        key=lambda group: rank.get(group[0], len(rank)),
    )
    series = tuple(
        _class_series(line, number, is_named=number < most)
        for number, (_, line) in enumerate(lines)
    )
    values = [value for line in series for value in (*line.y, *line.low, *line.high)]
    return Plot(
        name="classes",
        title="Loss by class",
        caption=(
            "Share of its own accuracy that each class keeps. The list is ordered by the loss at "
            "the critical mass, largest first. All lines end at the whole layer."
        ),
        summary=f"Share of accuracy kept by {len(series)} classes against the share of neurons.",
        table=rows.sort_values(["class_id", "n_kept"]).reset_index(drop=True),
        x=share_axis(_smallest_share(rows), int(rows["n_neurons"].iloc[0])),
        y=plain_axis([*values, 1.0], "share of the class’s accuracy kept", form="percent"),
        series=series,
        rules=tuple(rules),
        follows="mass",
    )


def gini_plot(table: pd.DataFrame) -> Plot:
    """Describe the inequality of class accuracies against accuracy, with its baseline.

    The dashed line is the proportional-odds baseline of `analysis.inequality`: the Gini
    coefficient of the whole layer after a loss of the same odds factor in all classes. Points
    above it are less fair than their accuracy explains. Small numbers are neurons kept.

    Parameters
    ----------
    table: rows of `criticalmass.fairness` for one model, layer, dataset, selector and measure.

    Raises
    ------
    CriticalMassError: if there is nothing to draw, or rows of more than one curve.
    """
    rows = _require_one_curve(table[table["gini"].notna()], "subset").sort_values("accuracy")
    x, y = rows["accuracy"].tolist(), rows["gini_corrected"].tolist()
    points = Series(
        f"subsets, {rows['selector'].iloc[0]} (neurons kept)",
        x,
        y,
        low=rows["gini_corrected_low"].tolist(),
        high=rows["gini_corrected_high"].tolist(),
        x_low=rows["accuracy_low"].tolist(),
        x_high=rows["accuracy_high"].tolist(),
        shape="points",
        texts=_size_texts(rows),
    )
    baseline = rows["gini_neutral"].tolist()
    line = Series("whole layer, proportional-odds baseline", x, baseline, style=1, shape="bare")
    has_baseline = bool(rows["gini_neutral"].notna().any())
    accuracies = [*x, *rows["accuracy_low"].dropna(), *rows["accuracy_high"].dropna()]
    return Plot(
        name="gini",
        title="Inequality of classes",
        caption="Gini coefficient of the class accuracies, without sampling noise. "
        "Numbers: neurons kept.",
        summary="Gini coefficient of class accuracies against accuracy.",
        table=rows.reset_index(drop=True),
        x=plain_axis(accuracies, "accuracy on held-out data"),
        y=plain_axis(
            [0.0, *y, *rows["gini_corrected_high"].dropna(), *baseline],
            "Gini coefficient of class accuracies",
        ),
        series=(points, line) if has_baseline else (points,),
    )


def agreement_plot(
    table: pd.DataFrame, *, figures: Sequence[str] = tuple(_AGREEMENT_LABELS)
) -> Plot:
    """Describe chance-corrected agreement with other seeds and with the whole layer, by size.

    Parameters
    ----------
    table: rows of `criticalmass.agreement` for one model, layer, dataset, selector and measure.
    figures: columns to draw, each with its interval.

    Raises
    ------
    CriticalMassError: if there is nothing to draw, or rows of more than one curve.
    """
    rows = _require_one_curve(table, "against").sort_values("n_kept")
    series: list[Series] = []
    for name in figures:
        for against, line in rows[rows[name].notna()].groupby("against", sort=True):
            series.append(
                Series(
                    f"{_AGREEMENT_LABELS.get(name, name)}, {against}",
                    x=(line["n_kept"] / line["n_neurons"]).tolist(),
                    y=line[name].tolist(),
                    low=line[f"{name}_low"].tolist(),
                    high=line[f"{name}_high"].tolist(),
                    style=len(series),
                )
            )
    values = [value for line in series for value in (*line.y, *line.low)]
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
        x=share_axis(_smallest_share(rows), int(rows["n_neurons"].iloc[0])),
        y=unit_axis(values, "agreement beyond chance (kappa)"),
        series=tuple(series),
        follows="mass",
    )


classes_against_fraction = on_axes(classes_plot)
gini_against_accuracy = on_axes(gini_plot)
agreement_against_fraction = on_axes(agreement_plot)


def _class_series(line: pd.DataFrame, number: int, *, is_named: bool) -> Series:
    """Return one class; ``number`` is its place, from 0, among those that lose most."""
    name = str(line["class_name"].iloc[0])
    low, high = (1.0 - line[f"relative_loss_{end}"].to_numpy(float) for end in ("high", "low"))
    return Series(
        name=name,
        x=(line["n_kept"] / line["n_neurons"]).tolist(),
        y=(1.0 - line["relative_loss"].to_numpy(float)).tolist(),
        low=low.tolist() if is_named else (),
        high=high.tolist() if is_named else (),
        style=number if is_named else 0,
        colour="" if is_named else "grey",
        legend=f"{number + 1}. {name}" if is_named else "",
    )


def _smallest_share(rows: pd.DataFrame) -> float:
    return float((rows["n_kept"] / rows["n_neurons"]).min())


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


def _size_texts(rows: pd.DataFrame) -> list[str]:
    """Return the number of neurons of each point, or "" where the texts would overlap."""
    x = rows["accuracy"].to_numpy(float)
    min_distance, last = 0.06 * (float(np.ptp(x)) or 1.0), -np.inf
    texts = []
    for size, at in zip(rows["n_kept"], x, strict=True):
        is_free = at - last >= min_distance
        last = at if is_free else last
        texts.append(f"{size:,}" if is_free else "")
    return texts
