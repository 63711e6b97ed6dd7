"""Figures draw what the table says, and leave the rest of matplotlib alone."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib import rcParams
from matplotlib.collections import PolyCollection

from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures import figure
from criticalmass.reporting.figures.curves import (
    cka_against_fraction,
    dr_against_delta,
    mark_critical_mass,
    split_curves,
    value_against_fraction,
)
from criticalmass.reporting.figures.draw import new_axes

KEPT = np.array([13, 64, 128, 256, 640, 1280])


def curves(**changes: object) -> pd.DataFrame:
    """Six points of a made-up curve in the shape of `criticalmass.curves`."""
    mean = np.array([0.60, 0.75, 0.80, 0.83, 0.85, 0.86])
    frame = pd.DataFrame(
        {
            "model": "lite0",
            "layer": "penultimate",
            "dataset": "fashion",
            "selector": "random",
            "measure": "logistic",
            "fraction": KEPT / 1280,
            "n_kept": KEPT,
            "n_neurons": 1280,
            "mean": mean,
            "low": mean - 0.01,
            "high": mean + 0.01,
            "value_full": 0.86,
            "full_low": 0.85,
            "full_high": 0.87,
        }
    )
    return frame.assign(**changes)


def masses(**changes: object) -> pd.DataFrame:
    """Make three rows in the shape of `criticalmass.redundancy`."""
    frame = pd.DataFrame(
        {
            "model": "lite0",
            "layer": "penultimate",
            "dataset": "fashion",
            "selector": "random",
            "measure": "logistic",
            "delta": [0.6, 0.9, 0.95],
            "n_neurons": 1280,
            "value_full": 0.86,
            "critical_mass": [13, 128, 256],
            "critical_mass_low": [13, 64, 256],
            "critical_mass_high": [13, 128, 640],
            "dr": [0.99, 0.9, 0.8],
            "dr_low": [0.99, 0.9, 0.5],
            "dr_high": [0.99, 0.95, 0.8],
            "at_floor": [True, False, False],
        }
    )
    return frame.assign(**changes)


def tables_module() -> ModuleType:
    """Find the module; the package's attribute of this name is the verb."""
    return importlib.import_module("criticalmass.analysis.redundancy")


def test_line_passes_through_every_mean_at_its_recorded_size() -> None:
    _, ax = new_axes()
    assert value_against_fraction(curves().sample(frac=1, random_state=1), ax) is ax
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(x, KEPT / 1280)
    np.testing.assert_allclose(y, curves()["mean"])


def test_band_spans_the_interval() -> None:
    _, ax = new_axes()
    value_against_fraction(curves(), ax)
    bands = [item for item in ax.collections if isinstance(item, PolyCollection)]
    heights = bands[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.59)
    assert heights.max() == pytest.approx(0.87)


def test_whole_layer_line_stands_at_its_value() -> None:
    _, ax = new_axes()
    value_against_fraction(curves(), ax)
    assert [line for line in ax.lines if set(line.get_ydata()) == {0.86}]
    assert any("0.860" in text.get_text() for text in ax.texts)


def test_lines_differ_in_colour_marker_and_dash() -> None:
    names = ["random", "first", "pca-top", "norm-high", "norm-low", "pca-bottom"]
    rows = pd.concat([curves(selector=name) for name in names])
    _, ax = new_axes()
    value_against_fraction(rows, ax)
    lines = [line for line in ax.lines if line.get_label() in names]
    assert len(lines) == len(names)
    for look in ("get_color", "get_marker"):
        assert len({getattr(line, look)() for line in lines}) == len(names)


def test_labels_name_only_what_varies() -> None:
    rows = pd.concat([curves(layer="a"), curves(layer="b")])
    assert [label for label, _ in split_curves(rows)] == ["a", "b"]
    rows = pd.concat([rows, curves(layer="b", selector="first")])
    assert [label for label, _ in split_curves(rows)] == [
        "a, random",
        "b, random",
        "b, first",
    ]


def test_a_name_from_data_stays_a_name() -> None:
    rows = pd.concat([curves(layer="_hidden"), curves(layer="$x^2$")])
    drawing, ax = new_axes()
    value_against_fraction(rows, ax)
    drawing.canvas.draw()
    legend = ax.get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == [" _hidden", r"\$x^2\$"]


def test_missing_values_are_left_out_not_drawn_as_zero() -> None:
    rows = curves()
    rows.loc[0, ["mean", "low", "high"]] = np.nan
    _, ax = new_axes()
    value_against_fraction(rows, ax)
    assert len(ax.lines[0].get_xdata()) == len(KEPT) - 1


def test_nothing_to_draw_is_an_error() -> None:
    _, ax = new_axes()
    with pytest.raises(CriticalMassError, match="'cka'"):
        value_against_fraction(curves(), ax, measure="cka")
    with pytest.raises(CriticalMassError, match="'cka'"):
        dr_against_delta(masses(), ax, measure="cka")


def test_cka_axis_ends_at_one() -> None:
    _, ax = new_axes()
    cka_against_fraction(curves(measure="cka", value_full=1.0), ax)
    assert ax.get_ylim()[0] <= 0
    assert ax.get_ylim()[1] == pytest.approx(1.02)
    assert "CKA" in ax.get_ylabel()


def test_lower_bounds_are_open_triangles_at_their_deltas() -> None:
    _, ax = new_axes()
    dr_against_delta(masses(), ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.99, 0.9, 0.8])
    bounds = ax.lines[1]
    assert bounds.get_marker() == "^"
    np.testing.assert_allclose(bounds.get_xdata(), [0.6])


def test_critical_mass_is_marked_where_the_bar_is() -> None:
    _, ax = new_axes()
    mark_critical_mass(masses().iloc[[1]], ax)
    interval, point, _ = ax.lines
    np.testing.assert_allclose(point.get_data(), [[128 / 1280], [0.9 * 0.86]])
    np.testing.assert_allclose(interval.get_xdata(), [64 / 1280, 128 / 1280])


def test_drawing_changes_no_global_setting() -> None:
    before = rcParams.copy()
    _, ax = new_axes()
    value_against_fraction(curves(), ax)
    dr_against_delta(masses(), new_axes()[1])
    assert rcParams.copy() == before
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
@pytest.mark.parametrize("name", ["value", "dr"])
def test_figure_file(
    name: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module(), "curves", lambda run: curves())
    monkeypatch.setattr(tables_module(), "redundancy", lambda run, deltas: masses())
    path = figure.figure(name, "run", out=tmp_path / "deep" / f"figure.{ending}")
    assert path.stat().st_size > 1000
    assert [item.name for item in path.parent.iterdir()] == [f"figure.{ending}"]


def test_figure_refuses_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module(), "curves", lambda run: curves())
    with pytest.raises(CriticalMassError, match="did you mean 'value'"):
        figure.figure("valeu", "run", out=tmp_path / "a.pdf")
    with pytest.raises(CriticalMassError, match=r"a\.doc.*\.pdf"):
        figure.figure("value", "run", out=tmp_path / "a.doc")
    with pytest.raises(CriticalMassError, match="logistic"):
        figure.figure("cka", "run", out=tmp_path / "a.pdf")
    with pytest.raises(CriticalMassError, match="did you mean 'logistic'"):
        figure.figure("value", "run", out=tmp_path / "a.pdf", measures=("logstic",))
    assert not list(tmp_path.iterdir())
