"""docs/results.md agrees with its tables."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.findings.claims import claims, dr_above_chance, last_layer, p_values
from benchmarks.findings.findings import DOCS, IMAGES, copy_to_docs
from benchmarks.findings.writing import render
from scipy.stats import norm

from criticalmass.errors import CriticalMassError

RESULTS = DOCS / "results"
TEXT = (DOCS / "results.md").read_text(encoding="utf-8")


def test_text_and_tables_agree() -> None:
    assert render(RESULTS, IMAGES) == TEXT


@pytest.mark.parametrize("name", ["transfer", "layers", "pca", "cka", "fairness", "protocol"])
def test_a_changed_number_in_a_table_changes_the_text(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS, tmp_path / "results")
    table = pd.read_csv(folder / f"{name}.csv")
    shown = {"pca": "chosen", "cka": "mean", "fairness": "accuracy"}.get(name, "value_full")
    table[shown] += 0.1
    table.to_csv(folder / f"{name}.csv", index=False)
    assert render(folder, IMAGES) != TEXT


def test_verdicts_follow_from_the_tables() -> None:
    tables = {path.stem: pd.read_csv(path) for path in RESULTS.glob("*.csv")}
    pd.testing.assert_frame_equal(claims(tables), tables["claims"])


def test_p_values_of_intervals_are_those_of_the_normal_test() -> None:
    centre, error = np.array([0.0, 1.0, 2.0, 3.0]), 0.5
    low, high = centre - 1.959964 * error, centre + 1.959964 * error
    p = p_values(*map(pd.Series, (centre, low, high)))
    np.testing.assert_allclose(p, 2 * norm.sf(centre / error), rtol=1e-5)
    # Without a width: certain, unless it is the threshold itself.
    one = pd.Series([0.9])
    assert p_values(one, one, one, 0.5).tolist() == [0.0]
    assert p_values(one, one, one, 0.9).tolist() == [1.0]


def test_fewer_cases_remain_after_the_correction() -> None:
    tables = {path.stem: pd.read_csv(path) for path in RESULTS.glob("*.csv")}
    counts = claims(tables)
    assert (counts["support"] <= counts["support_alone"]).all()
    assert (counts["against"] <= counts["against_alone"]).all()
    # An independent count of the same intervals: 12 of 31 trained pairs, 22 untrained.
    assert counts.loc[counts["claim"] == "task", "support"].tolist() == [12, 22]


def test_a_share_above_chance_needs_more_neurons_than_a_plain_one() -> None:
    tables = {path.stem: pd.read_csv(path) for path in RESULTS.glob("*.csv")}
    keys = ["model", "dataset"]
    plain = last_layer(tables["transfer"], control=False).set_index(keys)["dr"]
    above = dr_above_chance(tables)
    above = above[~above["control"]].set_index(keys)
    assert (above["dr"] <= plain.reindex(above.index) + 1e-3).all()
    assert (above["dr_low"] <= above["dr"]).all()
    assert (above["dr"] <= above["dr_high"]).all()


def test_every_figure_exists() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert len(shown) >= 5
    assert all((DOCS / name).is_file() for name in shown)
    assert {Path(name).name for name in shown} == {path.name for path in RESULTS.glob("*.png")}


def test_copying_gives_the_same_text_and_removes_old_files(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.csv").touch()
    assert copy_to_docs(RESULTS, tmp_path).read_text(encoding="utf-8") == TEXT
    assert not (tmp_path / "results" / "old.csv").exists()


def test_a_table_that_is_missing_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS, tmp_path / "results")
    (folder / "cka.csv").unlink()
    with pytest.raises(CriticalMassError, match="cka"):
        copy_to_docs(folder, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()
