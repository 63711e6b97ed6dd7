"""Critical mass and DR against the number of training samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import criticalmass as cm
from criticalmass import synthetic
from criticalmass.cli.main import run_command
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run

GRID: dict[str, Any] = {"fractions": (0.125, 0.25, 0.5, 1.0), "seeds": 3}
SIZES = (20, 60, 200)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    data = synthetic.draw(synthetic.diffuse(16, 4, noise=0.7), n_train=600, n_test=800)
    return synthetic.to_store(data, tmp_path_factory.mktemp("sizes") / "features")


@pytest.fixture(scope="module")
def run(features: FeatureStore) -> Run:
    return cm.sweep(
        features,
        out=features.path.parent / "run",
        measures=("ridge", "cka"),
        refine=0.9,
        train_sizes=SIZES,
        **GRID,
    )


def test_one_row_for_each_number_of_training_samples(run: Run) -> None:
    table = cm.train_sizes(run, deltas=(0.8, 0.9))
    assert table["n_train"].tolist() == [*SIZES, 600] * 2
    assert set(table["measure"]) == {"ridge"}
    # The grid and the test samples are the same; only the training rows differ.
    assert (table["n_seeds"] == 3).all()
    assert (table["n_test"] == 800).all()
    assert (table["critical_mass_low"] <= table["critical_mass"]).all()
    assert (table["critical_mass"] <= table["critical_mass_high"]).all()
    pd.testing.assert_series_equal(
        table["dr"], 1 - table["critical_mass"] / 16, check_names=False, check_dtype=False
    )
    # More training samples make a better probe of the whole layer.
    assert table["value_full"].iloc[0] < table["value_full"].iloc[3]


def test_all_training_samples_give_the_table_of_a_sweep_without_refining(
    run: Run, features: FeatureStore, tmp_path: Path
) -> None:
    plain = cm.sweep(features, out=tmp_path / "plain", measures="ridge", **GRID)
    expected = cm.redundancy(plain).iloc[0]
    row = cm.train_sizes(run).iloc[-1]
    for name in ("critical_mass", "critical_mass_low", "critical_mass_high", "value_full"):
        assert row[name] == expected[name]


def test_a_run_with_one_number_of_training_samples_has_no_curve(
    features: FeatureStore, tmp_path: Path
) -> None:
    plain = cm.sweep(features, out=tmp_path / "plain", measures="centroid", seeds=2, fractions=0.5)
    with pytest.raises(CriticalMassError, match=r"one number of training samples; sweep it again"):
        cm.train_sizes(plain)


def test_the_command_line_prints_and_draws_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["train-sizes", str(run.path), "--delta", "0.9"]) == 0
    text = capsys.readouterr().out
    assert "training samples" in text
    assert all(f"{size}" in text for size in (*SIZES, 600))
    for name in ("train-size", "train-size-dr"):
        out = tmp_path / f"{name}.svg"
        assert run_command(["figure", name, str(run.path), "--out", str(out)]) == 0
        assert out.stat().st_size > 1000


def test_the_figure_draws_the_table(run: Run) -> None:
    from criticalmass.reporting.figures.curves import train_size_plot

    table = cm.train_sizes(run, deltas=(0.8, 0.9))
    masses, dr = train_size_plot(table), train_size_plot(table, "train-size-dr")
    assert [series.name for series in masses.series] == [
        "random, 80\N{NO-BREAK SPACE}%",
        "random, 90\N{NO-BREAK SPACE}%",
    ]
    assert list(masses.series[1].x) == [*SIZES, 600]
    assert list(masses.series[1].y) == table["critical_mass"].tolist()[4:]
    assert list(dr.series[1].low) == table["dr_low"].tolist()[4:]
