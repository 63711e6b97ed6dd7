"""Figures of many tasks by group: their critical masses, and their Pareto fronts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from criticalmass.reporting.formatting import is_missing, percent
from criticalmass.reporting.plots import Axis, Plot, Series, plain_axis, share_axis

#: Distance between the points of a task, whose rows are 1 apart.
_STEP = 0.18
_NO_GROUP = "tasks"
_SETTINGS = ("protocol", "model", "layer", "examples")


def mass_plot(table: pd.DataFrame, delta: float) -> Plot:
    """Describe the critical mass of every task as a point with its interval, group by group.

    Tasks are rows, in each group ascending in their critical mass. Where a task was measured
    several times (other models, or other numbers of training samples), each has a point.

    Parameters
    ----------
    table: rows of the table "groups" of a study, of one measure.
    delta: the share of the whole layer's value.
    """
    rows = _tasks(table[table["delta"] == delta])
    # Trained networks come before their untrained controls.
    rows = rows.sort_values("control", kind="stable")
    for end in ("", "_low", "_high"):
        rows[f"share{end}"] = rows[f"critical_mass{end}"].astype(float) / rows["n_neurons"]
    order = rows.groupby(["group", "label"], sort=False)["share"].mean().reset_index()
    order = order.sort_values(["group", "share"], ascending=[False, False])
    tasks = list(zip(order["group"], order["label"], strict=True))
    places = {task: place for place, task in enumerate(tasks)}
    groups = sorted(set(rows["group"]))
    several = len(set(rows["setting"])) > 1
    series = []
    for number, group in enumerate(groups):
        of_group = rows[rows["group"] == group]
        settings = list(dict.fromkeys(of_group["setting"]))
        for place, setting in enumerate(settings):
            points = of_group[of_group["setting"] == setting]
            offset = _STEP * ((len(settings) - 1) / 2 - place)
            series.append(
                Series(
                    name=f"{group}, {setting}" if several else str(group),
                    x=points["share"].tolist(),
                    y=[places[group, label] + offset for label in points["label"]],
                    x_low=points["share_low"].tolist(),
                    x_high=points["share_high"].tolist(),
                    style=number,
                    shape="points",
                    hollow=place > 0,
                    bounds=_at_floor(points),
                )
            )
    neurons = rows["n_neurons"].unique()
    n_neurons = int(neurons[0]) if len(neurons) == 1 else 0
    smallest = min(float(rows["share_low"].min()), float(rows["share"].min()))
    ticks = tuple((float(place), label) for (_, label), place in places.items())
    return Plot(
        name="critical-mass-of-tasks",
        title="Critical mass by task",
        caption=(
            f"Neurons that random subsets need to keep {percent(delta)} of the whole layer’s "
            "accuracy, with their intervals; triangles are upper bounds, the smallest tested sizes."
        ),
        summary=f"Critical mass of {len(places)} tasks in {len(groups)} groups.",
        table=rows.reset_index(drop=True),
        x=share_axis(smallest, n_neurons, "neurons needed"),
        y=Axis("", -0.6, len(places) - 0.4, ticks, form="name"),
        series=tuple(series),
    )


def fronts_plots(fronts: pd.DataFrame, groups: pd.DataFrame, delta: float) -> Iterator[Plot]:
    """Yield a figure of the Pareto fronts of all tasks for each number of training samples.

    Redundancy is on one axis and performance on the other: a line joins the subsets of a task that
    no smaller one equals, and a point marks the critical mass.

    Parameters
    ----------
    fronts: rows of the table "fronts" of a study, of one measure.
    groups: rows of its table "groups", of the same measure.
    delta: share of the whole layer's value at the marked critical masses.
    """
    lines, masses = _tasks(fronts), _tasks(groups[groups["delta"] == delta])
    for examples, of_examples in lines.groupby("examples", sort=False):
        marked = masses[masses["examples"] == examples]
        yield _fronts_plot(of_examples, marked, sorted(set(lines["group"])), str(examples), delta)


def _fronts_plot(
    rows: pd.DataFrame, masses: pd.DataFrame, names: Sequence[str], examples: str, delta: float
) -> Plot:
    rows = rows.assign(share=rows["n_kept"] / rows["n_neurons"])
    # Names would cover each other where tasks are close, so points have numbers, from the top.
    masses = masses.sort_values("value_full", ascending=False, kind="stable")
    masses = masses.assign(number=[str(1 + place) for place in range(len(masses))])
    lines = [
        Series(
            name=str(label),
            x=front["share"].tolist(),
            y=front["value"].tolist(),
            style=names.index(group),
            shape="bare",
            legend=str(group),
        )
        for (group, label), front in rows.sort_values("share").groupby(
            ["group", "label"], sort=False
        )
    ]
    points = [
        Series(
            name=f"{group}: critical mass",
            x=(of_group["critical_mass"].astype(float) / of_group["n_neurons"]).tolist(),
            y=(delta * of_group["value_full"].astype(float)).tolist(),
            style=names.index(group),
            shape="points",
            legend="",
            texts=of_group["number"].tolist(),
            bounds=_at_floor(of_group),
        )
        for group, of_group in masses.groupby("group", sort=False)
    ]
    legend = "; ".join(
        f"{number} {label}" for number, label in zip(masses["number"], masses["label"], strict=True)
    )
    n_training = "" if examples == "" else f", {examples} training samples"
    return Plot(
        name=f"fronts-{examples or 'tasks'}",
        title=f"Redundancy and performance of every task{n_training}",
        caption=(
            "Each line is the Pareto front of a task: no tested subset has fewer neurons and as "
            f"high an accuracy. Points are critical masses for {percent(delta)} of the whole "
            f"layer’s accuracy: {legend}."
        ),
        summary=f"Pareto fronts of {len(lines)} tasks.",
        table=rows.reset_index(drop=True),
        x=share_axis(float(rows["share"].min()), 0),
        y=plain_axis(rows["value"].astype(float), "accuracy", top=1.02),
        series=(*lines, *points),
    )


def _at_floor(rows: pd.DataFrame) -> list[int]:
    """Return the places of critical masses that are only upper bounds."""
    flags = rows["at_floor"].fillna(value=False).astype(bool)
    return [place for place, is_bound in enumerate(flags) if is_bound]


def _tasks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with columns for what is drawn: group, label, examples and setting."""
    filled = {
        name: _texts(table, name, default)
        for name, default in (("group", _NO_GROUP), ("examples", ""), ("task", ""))
    }
    specs = table["dataset_spec"].astype(str)
    labels = [_label(spec, task) for spec, task in zip(specs, filled["task"], strict=True)]
    table = table.assign(**filled, label=labels)
    # What differs between the points of one task; an untrained network has a name of its own.
    of_task = table.groupby(["group", "label"])
    names = [name for name in _SETTINGS if name in table and of_task[name].nunique().max() > 1]
    settings = table[names].astype(str).agg(", ".join, axis=1) if names else ""
    return table.assign(setting=settings)


def _texts(table: pd.DataFrame, name: str, default: str) -> list[str]:
    if name not in table:
        return [default] * len(table)
    return [default if is_missing(value) else str(value) for value in table[name]]


def _label(spec: str, task: str) -> str:
    """Return the name of a task: that of its dataset and of its label, if it has several."""
    name, _, query = spec.partition(":")[2].partition("?")
    options = dict(pair.partition("=")[::2] for pair in query.split("&"))
    return f"{name} {task or options.get('label', '')}".strip()
