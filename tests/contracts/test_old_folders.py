"""Folders that version 0.1 wrote can be opened, reported and continued with the same results."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm

OLD = Path(__file__).parent / "written_by_0_1"
MEASURES = ("logistic", "ridge", "cka", "retrieval")
SELECTORS = ("random", "first", "pca-top")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old folders as working folder, as when they were written."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def test_an_old_store_opens_and_is_not_imported_again(old: Path) -> None:
    store = cm.FeatureStore.open(old / "store")
    labels = np.loadtxt(old / "labels.txt", dtype=str)
    vectors = np.load(old / "vectors.npy")
    assert store.class_names == ("ant", "bee", "cat")
    assert len(store.labels("train")) + len(store.labels("test")) == len(labels)
    test_rows = [int(name.removeprefix("all-")) for name in store.sample_ids("test")]
    np.testing.assert_array_equal(store.features("test").array(), vectors[test_rows])
    before = contents(old / "store")
    again = cm.import_features("vectors.npy", out="store", labels="labels.txt")
    assert contents(old / "store") == before
    assert again.digest("penultimate") == store.digest("penultimate")


def test_an_old_run_gives_the_same_tables(old: Path) -> None:
    # Last digits may differ between processors, so numbers are compared to 1e-9.
    # Version 0.1 gave a strict interval as tested sizes; it now covers the gap below the lower one.
    widened = ["critical_mass_low", "dr_high"]
    # Intervals of fairness are computed in another way; `worst_accuracy` was the observed one.
    widened += ["gini_low", "gini_high", "gini_neutral", "gini_noise"]
    widened += [
        f"{name}{end}"
        for name in ("gini_excess", "cv", "gap", "worst_accuracy")
        for end in ("_low", "_high")
    ]
    for name, frame in (
        ("redundancy", cm.redundancy("run", deltas=(0.8, 0.9), estimator="strict")),
        ("fairness", cm.fairness("run")),
    ):
        if name == "fairness":
            frame["worst_accuracy"] = frame["worst_observed"]
            frame = frame.drop(columns=["worst_share"])
            widened += ["worst_share", "accuracy_low", "accuracy_high"]
        frame.to_csv(old / "again.csv", index=False)
        expected = table(old / f"{name}.csv").drop(columns=widened, errors="ignore")
        again = table(old / "again.csv")[list(expected.columns)]
        pd.testing.assert_frame_equal(again, expected, rtol=1e-9, atol=1e-12)
    page = cm.report("run", out=old / "page.html")
    assert "penultimate" in page.read_text(encoding="utf-8")


def test_an_old_run_is_continued(old: Path) -> None:
    options = {"measures": MEASURES, "selectors": SELECTORS, "seeds": 3}
    rows = cm.Run.open(old / "run").frame()
    with pytest.warns(UserWarning, match="dropped 16 of 64 rows, because their features or pro"):
        cm.sweep("store", out="run", fractions=(0.25, 0.5, 1.0), **options)
    # The protocol of the logistic probe has changed; nothing else was computed, times included.
    same = cm.Run.open(old / "run").frame()
    logistic = rows["measure"] == "logistic"
    assert logistic.sum() == 16
    pd.testing.assert_frame_equal(
        same[same["measure"] != "logistic"].reset_index(drop=True),
        rows[~logistic].reset_index(drop=True),
    )
    again = same[same["measure"] == "logistic"]
    assert len(again) == 16
    assert not set(again["cell"]) & set(rows["cell"])
    rows = same
    table_bytes = (old / "run" / "results.parquet").read_bytes()
    cm.sweep("store", out="run", fractions=(0.25, 0.5, 1.0), **options)
    assert (old / "run" / "results.parquet").read_bytes() == table_bytes
    more = cm.sweep("store", out="run", fractions=(0.125, 0.25, 0.5, 1.0), **options).frame()
    assert len(more) == len(rows) + len(MEASURES) * (3 + 1 + 1)
    unchanged = more[more["cell"].isin(rows["cell"])]
    pd.testing.assert_frame_equal(
        unchanged.sort_values("cell").reset_index(drop=True),
        rows.sort_values("cell").reset_index(drop=True),
    )


def test_an_old_slim_model_is_exported(old: Path) -> None:
    cm.export("slim", format="indices", out=old / "indices")
    assert any((old / "indices").iterdir())
