"""Figures of many tasks: one row and one line for each, coloured by group."""

from __future__ import annotations

import pandas as pd
import pytest

from criticalmass.reporting.figures.tasks import fronts_plots, mass_plot


def groups() -> pd.DataFrame:
    """Three tasks in two groups, each with two numbers of training samples."""
    rows = []
    for group, spec, task, mass in (
        ("natural", "demo:mnist", "", 10),
        ("natural", "demo:emoji?n=5", "", 50),
        ("structured", "demo:sprites?labels=size,shape", "size", 20),
    ):
        rows += [
            {
                "group": group, "dataset_spec": spec, "task": task, "examples": examples,
                "model": "net", "control": False, "delta": delta, "n_neurons": 100,
                "critical_mass": mass + more, "critical_mass_low": mass - 5,
                "critical_mass_high": mass + 9, "value_full": 0.8, "at_floor": mass == 10,
            }
            for examples, more in (("all", 0), ("1000", 4))
            for delta in (0.9, 0.95)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def test_tasks_are_rows_by_group_and_critical_mass() -> None:
    plot = mass_plot(groups(), 0.9)
    assert plot.y is not None
    # From the bottom: structured, then natural with the smallest at the top.
    assert [text for _, text in plot.y.ticks] == ["sprites size", "emoji", "mnist"]
    names = [series.name for series in plot.series]
    assert names == ["natural, all", "natural, 1000", "structured, all", "structured, 1000"]
    assert [series.tone for series in plot.series] == ["series-0"] * 2 + ["series-1"] * 2
    assert [series.hollow for series in plot.series] == [False, True, False, True]
    first = plot.series[0]
    assert list(first.x) == [0.1, 0.5]
    assert list(first.x_low) == [0.05, 0.45]
    assert list(first.x_high) == pytest.approx([0.19, 0.59])
    assert list(first.bounds) == [0]
    places = {text: place for place, text in plot.y.ticks}
    assert [round(y) for y in first.y] == [places["mnist"], places["emoji"]]


def test_each_task_has_its_front_in_one_figure_for_each_protocol() -> None:
    table = groups()
    fronts = pd.concat(
        [
            table[table["delta"] == 0.9].assign(n_kept=size, value=size / 100)
            for size in (40, 20, 80)
        ]
    )
    plots = list(fronts_plots(fronts, table, 0.9))
    assert [plot.title.rpartition(", ")[2] for plot in plots] == [
        "all training samples",
        "1000 training samples",
    ]
    for plot, more in zip(plots, (0, 4), strict=True):
        lines = {series.name: series for series in plot.series if series.shape == "bare"}
        assert set(lines) == {"mnist", "emoji", "sprites size"}
        assert list(lines["mnist"].x) == [0.2, 0.4, 0.8]
        assert list(lines["mnist"].y) == [0.2, 0.4, 0.8]
        # A group is one entry of the legend, and one colour.
        assert [text for text, _ in plot.legend] == ["natural", "structured"]
        assert lines["mnist"].tone == lines["emoji"].tone != lines["sprites size"].tone
        points = {series.name: series for series in plot.series if series.shape == "points"}
        natural = points["natural: critical mass"]
        assert list(natural.x) == pytest.approx([(10 + more) / 100, (50 + more) / 100])
        assert list(natural.y) == pytest.approx([0.72, 0.72])
        # Points have numbers, which the caption explains.
        named = dict(entry.split(" ", 1) for entry in plot.caption.split(": ")[-1][:-1].split("; "))
        assert [named[text] for text in natural.texts] == ["mnist", "emoji"]
        assert set(named.values()) == set(lines)
        assert len(named) == 3
