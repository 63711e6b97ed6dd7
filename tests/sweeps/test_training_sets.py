"""Sweeps on parts of the training rows."""

from __future__ import annotations

import itertools
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

import criticalmass as cm
from criticalmass.analysis.training_sets import FOLDER
from criticalmass.cli.main import run_command
from criticalmass.core.compute import Compute
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps.layer_data import SweepData
from criticalmass.sweeps.training_sets import TrainingSet, first_rows

MakeStore = Callable[..., FeatureStore]
GRID: dict[str, Any] = {"fractions": (0.25, 0.5, 1.0), "seeds": 2, "measures": ("centroid", "cka")}


def quick(store: FeatureStore, out: Path, **changes: Any) -> Run:
    return cm.sweep(store, out=out, **(GRID | changes))


def part(run: Run, *names: str) -> Run:
    path = run.path
    for name in names:
        path = path / FOLDER / name
    return Run.open(path)


def everything(labels: np.ndarray) -> TrainingSet:
    return TrainingSet("all", np.arange(labels.size))


def test_halves_are_stratified_independent_and_half_of_the_rows() -> None:
    labels = np.repeat([0, 1, 2], (40, 11, 200))
    halves = [everything(labels).half(i, labels) for i in range(40)]
    for half in halves:
        assert (np.diff(half.rows) > 0).all()
        counts = np.bincount(labels[half.rows])
        assert half.rows.size in (125, 126)
        assert np.abs(counts - np.array([20, 5.5, 100])).max() <= 1.5
    shared = [np.intersect1d(a.rows, b.rows).size for a, b in itertools.pairwise(halves)]
    assert abs(np.mean(shared) - 62.75) < 3  # of two independent halves a quarter is in both
    times_drawn = np.bincount(np.concatenate([half.rows for half in halves]), minlength=251)
    assert abs(times_drawn.var() - 10) < 3  # binomial: 40 / 4


def test_the_first_rows_are_nested_and_stratified() -> None:
    labels = np.repeat([0, 1], (30, 90))
    small, large = first_rows(labels, 24), first_rows(labels, 60)
    assert set(small.rows) < set(large.rows)
    assert abs(np.bincount(labels[small.rows])[0] - 6) <= 1
    assert abs(np.bincount(labels[large.rows])[0] - 15) <= 1


def test_the_table_of_the_run_is_the_same_with_training_sets(
    store: FeatureStore, tmp_path: Path
) -> None:
    plain = quick(store, tmp_path / "plain")
    run = quick(store, tmp_path / "run", training_sets=3, train_sizes=30)
    pd.testing.assert_frame_equal(
        plain.frame().drop(columns="seconds"), run.frame().drop(columns="seconds")
    )
    only_here = {"training_sets", "train_sizes", "created"}
    assert {k: v for k, v in run.manifest.items() if k not in only_here} == {
        k: v for k, v in plain.manifest.items() if k not in only_here
    }
    assert not (plain.path / FOLDER).exists()
    assert run.manifest["training_sets"]["names"] == ["half-0", "half-1", "half-2"]


@pytest.mark.parametrize("selector", ["random", "pca-top"])
def test_a_part_has_the_probes_of_its_own_rows(
    selector: str, store: FeatureStore, tmp_path: Path
) -> None:
    run = quick(store, tmp_path / "run", selectors=selector, training_sets=3, train_sizes=30)
    x, y = store.features("train").array(), store.labels("train")
    test, y_test = store.features("test").array(), store.labels("test")
    prefix = first_rows(y, 30)
    parts = {
        ("half-1",): everything(y).half(1, y),
        ("first-30",): prefix,
        ("first-30", "half-2"): prefix.half(2, y),
    }
    for names, training_set in parts.items():
        table = part(run, *names).frame()
        assert set(table["measure"]) == {"centroid"}  # a similarity trains nothing
        assert set(table["n_train"]) == {training_set.rows.size}
        assert not set(table["cell"]) & set(run.frame()["cell"])
        rows, labels = x[training_set.rows], y[training_set.rows]
        reference = NearestCentroid()
        scaler = StandardScaler().fit(rows.astype(np.float64))
        reference.fit(scaler.transform(rows), labels)
        if len(names) == 1 and names[0].startswith("first"):
            assert (cm.redundancy(part(run, *names))["training_sets"] == 3).all()
        whole = table.query("selector == 'full'").iloc[0]
        assert whole["value"] == np.mean(reference.predict(scaler.transform(test)) == y_test)


def test_subsets_and_test_samples_are_those_of_the_whole_training_split(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = quick(store, tmp_path / "run", training_sets=3)
    half = part(run, "half-0")
    for seed in range(2):
        np.testing.assert_array_equal(
            run.order("random", "penultimate", seed), half.order("random", "penultimate", seed)
        )
    np.testing.assert_array_equal(run.labels(), half.labels())


def test_a_second_sweep_computes_only_missing_halves(
    store: FeatureStore, tmp_path: Path, calls: Any
) -> None:
    quick(store, tmp_path / "run", training_sets=3)
    whole, cka, *halves = calls.take()
    assert (whole[0], cka[0], [half[0] for half in halves]) == ("centroid", "cka", ["centroid"] * 3)
    quick(store, tmp_path / "run", training_sets=3)
    assert calls.take() == []
    run = quick(store, tmp_path / "run", training_sets=5)
    assert len(calls.take()) == 2
    quick(store, tmp_path / "run")
    assert calls.take() == []
    assert len(run.manifest["training_sets"]["names"]) == 5


def test_halves_of_other_features_are_measured_again(
    make_store: MakeStore, tmp_path: Path, calls: Any
) -> None:
    quick(make_store("one"), tmp_path / "run", training_sets=3)
    other = make_store("two", layers={"penultimate": 5})
    with pytest.warns(UserWarning, match="dropped 14 of 14 rows"):
        quick(other, tmp_path / "run")
    calls.take()
    run = Run.open(tmp_path / "run")
    # The halves are of features that the run no longer has.
    assert (cm.redundancy(run)["training_sets"].dropna() == 0).all()
    run = quick(other, tmp_path / "run", training_sets=3)
    assert len(calls.take()) == 3
    assert (cm.redundancy(run)["training_sets"].dropna() == 3).all()


def test_an_interrupted_sweep_uses_the_halves_that_it_has(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = quick(store, tmp_path / "run", training_sets=4)
    shutil.rmtree(run.path / FOLDER / "half-1")
    assert (cm.redundancy(run)["training_sets"].dropna() == 3).all()
    shutil.rmtree(run.path / FOLDER / "half-2")
    assert (cm.redundancy(run)["training_sets"].dropna() == 0).all()
    run_command(["redundancy", str(run.path)])
    assert "Not in the intervals: the training set." in capsys.readouterr().out
    run_command(
        ["sweep", str(store.path), "--out", str(run.path), "--measure", "centroid",
         "--fraction", "0.25", "--fraction", "0.5", "--seeds", "2", "--training-sets", "4"]
    )  # fmt: skip
    capsys.readouterr()
    run_command(["redundancy", str(run.path)])
    assert "include the training set, from 4 random halves" in capsys.readouterr().out


def test_other_processes_train_on_the_same_rows(store: FeatureStore) -> None:
    rows = np.arange(0, 90, 2)
    data = SweepData.from_store(store, Compute(), rows)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301
    np.testing.assert_array_equal(copy.y_train, store.labels("train")[rows])
    np.testing.assert_array_equal(
        copy.layer("penultimate").train[0:45], store.features("train").array()[rows]
    )
    np.testing.assert_array_equal(copy.validation, data.validation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"training_sets": 2}, "training_sets=2 is too few"),
        ({"training_sets": -1}, "training_sets=-1"),
        ({"training_sets": 3, "measures": "cka"}, "no measure is a probe"),
        ({"train_sizes": 90}, "train_sizes=90 must be at least 4 and below the 90"),
        ({"train_sizes": (30, 2)}, "train_sizes=2 must"),
        ({"train_sizes": 6, "training_sets": 3}, "train_sizes=6 must be at least 8"),
    ],
)
def test_impossible_training_sets_are_refused(
    arguments: dict[str, Any], message: str, store: FeatureStore, tmp_path: Path
) -> None:
    with pytest.raises(CriticalMassError, match=message):
        quick(store, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
