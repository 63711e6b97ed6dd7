"""docs/results.md agrees with its tables."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from benchmarks.findings.claims import claims
from benchmarks.findings.findings import DOCS, IMAGES, copy_to_docs
from benchmarks.findings.writing import render

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
