"""The matplotlib renderer draws the words and colours of a description, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_hex
from tests.reporting.figure_words import described_words, example_plots

from criticalmass.reporting.figures.draw import draw, escape_math, new_axes, set_axis
from criticalmass.reporting.plots import PALETTE, Plot, Series, look, plain_axis, share_axis

PLOTS = {plot.name: plot for plot in example_plots()}


def drawn_words(ax: Axes) -> set[str]:
    """Return all texts of an ax, of its legend and of its colour bar."""
    words = set()
    for one in ax.get_figure().axes:
        labels = [*one.get_xticklabels(), *one.get_yticklabels(), one.xaxis.label, one.yaxis.label]
        legend = one.get_legend()
        labels += [*one.texts, one.title, *(legend.get_texts() if legend else [])]
        words |= {label.get_text() for label in labels}
    return words - {""}


def escaped(words: set[str]) -> set[str]:
    return {escape_math(word) for word in words}


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("width", [3.0, 14.0])
def test_it_draws_the_words_of_the_description(name: str, width: float) -> None:
    plot = PLOTS[name]
    figure, ax = new_axes(width, 0.75 * width)
    draw(plot, ax)
    figure.canvas.draw()
    words = described_words(plot.spec())
    drawn = drawn_words(ax)
    assert escaped(words.required) <= drawn
    assert drawn <= escaped(words.required | words.optional)
    if width > 10 and name != "map-1":
        assert drawn == escaped(words.required | words.optional), "wide figures leave nothing out"


def css_colour(spec: dict[str, Any]) -> str:
    colour = str(spec["colour"])
    return PALETTE[colour[6:-1]] if colour.startswith("var(--") else colour


@pytest.mark.parametrize("name", ["kinds", "many"])
def test_each_series_has_the_colour_marker_and_dashes_of_its_description(name: str) -> None:
    plot = PLOTS[name]
    _, ax = new_axes()
    draw(plot, ax)
    lines = {str(line.get_label()): line for line in ax.lines}
    for series, spec in zip(plot.series, plot.spec()["series"], strict=True):
        if series.shape == "band":
            bands = [one for one in ax.collections if isinstance(one, FillBetweenPolyCollection)]
            assert css_colour(spec) in {to_hex(band.get_facecolor()[0]) for band in bands}
            continue
        line = lines[escape_math(series.name)]
        assert to_hex(line.get_color()) == css_colour(spec)
        if not series.is_secondary:
            assert line.get_marker() == (spec["marker"] or "none")
        if series.shape in ("line", "bare", "steps"):
            assert line.is_dashed() == bool(spec["dashes"])
        np.testing.assert_allclose(line.get_xdata(), spec["x"])
        np.testing.assert_allclose(line.get_ydata(), spec["y"])


def test_texts_that_would_overlap_are_left_out_from_the_last_backwards() -> None:
    _, ax = new_axes(1.5, 1.5)
    axis = share_axis(0.001, 0)
    set_axis(ax, "x", axis)
    shown = [label.get_text() for label in ax.get_xticklabels()]
    texts = [text for _, text in axis.ticks]
    assert shown[-1] == texts[-1]
    assert 1 < len(shown) < len(texts)


def test_lines_of_one_colour_differ_in_marker_and_dashes() -> None:
    looks = {
        (one.tone, one.marker, one.dashes)
        for one in (Series("a", [], [], style=n) for n in range(36))
    }
    assert len(looks) == 36
    many = {Series("a", [], [], **look(n, 40)).tone for n in range(40)}
    assert len(many) == 40


def test_a_legend_needs_two_entries_and_equal_texts_share_one() -> None:
    axis = plain_axis([0, 1], "a")
    one, two = Series("one", [0], [1]), Series("two", [0], [1], legend="one")
    other, none = Series("other", [0], [1]), Series("none", [0], [1], legend="")

    def legend(*series: Series) -> list[tuple[str, list[int]]]:
        return Plot("a", "", "", "", None, axis, axis, series).legend  # type: ignore[arg-type]

    assert legend(one, none) == []
    assert legend(one, none, two, other) == [("one", [0, 2]), ("other", [3])]


@pytest.mark.parametrize(
    ("values", "form", "texts"),
    [
        ([0.0, 1.0], "number", ["0.0", "0.5", "1.0"]),
        ([-0.05, 0.05], "number", ["−0.05", "0.00", "0.05"]),
        ([-0.1, 0.1], "percent", ["−10 %", "−5 %", "0 %", "5 %", "10 %"]),
    ],
)
def test_ticks_of_plain_axes_are_round(values: list[float], form: str, texts: list[str]) -> None:
    assert [text for _, text in plain_axis(values, "", form=form).ticks] == texts


def test_the_page_has_every_value_of_a_table() -> None:
    n = 9
    table = pd.DataFrame(
        {
            "constant": pd.array(["a"] * n, dtype="string"),
            "missing": pd.array([None] * n, dtype="Float64"),
            "repeated": pd.array([1, None, 2] * 3, dtype="Int64"),
            "flag": pd.array([True, False, None] * 3, dtype="boolean"),
            "distinct": np.arange(n) / 8,
            "mixed": [1, True, "x", None, 1.0, float("nan"), False, 0, "x"],
        }
    )
    spec = replace(next(iter(PLOTS.values())), table=table).spec()["table"]
    assert spec["rows"] == n
    assert [column["name"] for column in spec["columns"]] == list(table.columns)
    for column in spec["columns"]:
        values, index = column["values"], column["index"]
        rows = values if index is None else [values[i] for i in index or [0] * n]
        cells = table[column["name"]].astype(object).tolist()
        want = [None if pd.isna(value) else value for value in cells]
        assert [type(value) for value in rows] == [type(value) for value in want]
        assert rows == want
    lengths = {column["name"]: len(column["values"]) for column in spec["columns"]}
    assert lengths["constant"] == lengths["missing"] == 1
    assert lengths["repeated"] == lengths["flag"] == 3
