"""Tables for the terminal, and as JSON, CSV and Parquet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from criticalmass.analysis.columns import CurveKey
from criticalmass.errors import CriticalMassError
from criticalmass.reporting import tables


def masses() -> pd.DataFrame:
    """Two rows in the shape of `criticalmass.redundancy`: one at the floor, one within."""
    return pd.DataFrame(
        {
            "model": "lite0",
            "layer": "penultimate",
            "dataset": "fashion",
            "selector": "random",
            "measure": "logistic",
            "delta": [0.8, 0.95],
            "estimator": "strict",
            "n_neurons": 1280,
            "value_full": 0.8567,
            "critical_mass": [13, 214],
            "critical_mass_low": [13, 190],
            "critical_mass_high": [13, 1242],
            "dr": [0.99, 0.83],
            "dr_low": [0.99, 0.03],
            "dr_high": [0.99, 0.85],
            "at_floor": [True, False],
            "reached": [True, True],
            "level": 0.95,
        }
    )


def test_intervals_are_aligned_in_every_part() -> None:
    texts = tables.intervals([13, 214], [13, 190], [13, 1242], marks=["<= ", ""])
    assert texts == ["<= 13 [ 13,    13]", "  214 [190, 1,242]"]
    assert tables.intervals([0.5], [None], [0.75], digits=2) == ["0.50 [–, 0.75]"]


def test_the_view_has_bounds_and_intervals() -> None:
    shown = tables.redundancy_view(masses())
    assert list(shown["DR"]) == [">= 0.99 [0.99, 0.99]", "   0.83 [0.03, 0.85]"]
    assert list(shown["k*"]) == ["<= 13 [ 13,    13]", "  214 [190, 1,242]"]
    assert list(shown["delta"]) == ["0.80", "0.95"]


def test_tested_sizes_and_the_size_for_most_subsets_stand_beside_the_mass() -> None:
    table = masses().assign(
        estimator=["monotone", "strict"],
        largest_failing=[pd.NA, 190],
        smallest_passing=[13, 214],
        pass_share=0.95,
        pass_mass=[13, 230],
        worst_selector=[pd.NA, "norm-low"],
        worst_ratio=[pd.NA, 0.56],
    )
    shown = tables.redundancy_view(table)
    assert list(shown["tested"]) == ["13 passes", "190 fails, 214 passes"]
    assert list(shown["k for 95 %"]) == ["13", "230"]
    assert list(shown["worst selector"]) == ["", "norm-low keeps 56 %"]
    # A strict critical mass is what was measured: it lies between two tested sizes.
    assert list(shown["k*"]) == ["     <= 13 [ 13,    13]", "191 to 214 [190, 1,242]"]


def test_a_delta_that_no_subset_reaches_is_named() -> None:
    table = masses().assign(reached=[True, False])
    assert list(tables.redundancy_view(table)["k*"])[1] == "not reached"


def test_a_refined_curve_of_many_sizes_is_drawn_with_some_of_them() -> None:
    sizes = [1, 2, 4, *range(100, 200), 400, 800, 1280]
    curves = masses()[list(CurveKey._fields)].iloc[[0] * len(sizes)]
    curves = curves.assign(n_kept=sizes, mean=[size / 1280 for size in sizes])
    line = next(iter(tables.redundancy_view(masses(), curves)["curve"]))
    assert 5 < len(line) <= 16
    assert list(line) == sorted(line)


def test_common_values_stand_once_above_the_table() -> None:
    curves = masses()[list(CurveKey._fields)].iloc[[0] * 4]
    curves = curves.assign(mean=[0.1, 0.4, 0.7, 0.8], n_kept=[13, 128, 640, 1280])
    text = tables.as_text(tables.redundancy_view(masses(), curves), title="demo")
    assert text.count("lite0") == 1
    assert text.count("▁") == 2
    assert "lite0 · penultimate · fashion · random · logistic · strict · 95 % intervals" in text
    assert any(
        "214 [190, 1,242]" in line and "0.83 [0.03, 0.85]" in line for line in text.split("\n")
    )
    assert "\x1b" not in text


def test_wide_table_is_not_cut_in_a_narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    frame = pd.DataFrame({f"column{i}": ["x" * 20, "y" * 20] for i in range(6)})
    lines = tables.as_text(frame).split("\n")
    assert any(line.count("x" * 20) == 6 for line in lines)


def test_names_cannot_drive_the_terminal() -> None:
    frame = pd.DataFrame({"class": ["[bold red]a[/]", "\x1b[2Jb"], "n": [1, 2]})
    text = tables.as_text(frame)
    assert "[bold red]a[/]" in text
    assert "\x1b" not in text


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=20))
def test_sparkline_keeps_order_and_length(values: list[float | None]) -> None:
    line = tables.sparkline(values)
    known = [v for v in values if v is not None]
    if not known:
        assert line == ""
        return
    assert len(line) == len(values)
    marks = [mark for mark, value in zip(line, values, strict=True) if value is not None]
    for a, u in zip(marks, known, strict=True):
        for b, v in zip(marks, known, strict=True):
            assert u > v or a <= b


def test_other_formats_keep_every_digit(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    frame = pd.DataFrame({"x": [1 / 3, np.nan], "n": np.array([1, 2], np.int64), "s": ["a,b", "ü"]})
    tables.write_table(frame, form="csv")
    back = pd.read_csv(io.BytesIO(capsysbinary.readouterr().out))
    pd.testing.assert_frame_equal(back, frame, check_dtype=False, rtol=0, atol=0)
    tables.write_table(frame, form="json")
    assert json.loads(capsysbinary.readouterr().out) == [
        {"x": 1 / 3, "n": 1, "s": "a,b"},
        {"x": None, "n": 2, "s": "ü"},
    ]
    tables.write_table(frame, form="parquet")
    back = pd.read_parquet(io.BytesIO(capsysbinary.readouterr().out))
    pd.testing.assert_frame_equal(back, frame)


def test_json_is_strict_where_numbers_are_missing() -> None:
    frame = pd.DataFrame({"v": pd.array([0.5, None], dtype="Float64"), "w": [np.inf, 1.0]})
    assert json.loads(tables.as_bytes(frame, "json")) == [
        {"v": 0.5, "w": None},
        {"v": None, "w": 1},
    ]


def test_out_file_is_whole_or_absent(tmp_path: Path) -> None:
    tables.write_table(masses(), form="csv", out=tmp_path / "new" / "table.csv")
    assert [item.name for item in (tmp_path / "new").iterdir()] == ["table.csv"]
    with pytest.raises(CriticalMassError, match="did you mean 'json'"):
        tables.write_table(masses(), form="jsn", out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_empty_table_has_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    tables.write_table(masses().iloc[:0])
    assert "no rows" in capsys.readouterr().out
