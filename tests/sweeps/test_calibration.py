"""`calibration` fits the probes of a sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.calibration import CALIBRATION_COLUMNS


def test_accuracies_are_those_of_a_sweep(store: FeatureStore, tmp_path: Path) -> None:
    table = cm.calibration(store, fractions=(0.25, 0.5), seeds=2, resamples=200)
    assert list(table.columns) == list(CALIBRATION_COLUMNS)
    assert table["n_kept"].tolist() == [3, 6, 12]
    assert table["n_seeds"].tolist() == [2, 2, 1]
    run = cm.sweep(
        store, out=tmp_path / "run", fractions=(0.25, 0.5), seeds=2, measures=("logistic",)
    )
    means = run.frame().groupby("n_kept")["value"].mean()
    # Probabilities are computed in float64 here: a near tie may fall to the other class.
    assert np.abs(table["accuracy"].to_numpy() - means.to_numpy()).max() < 0.01
    for name in ("accuracy", "overconfidence", "ece"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    assert (table["ece"] >= np.abs(table["overconfidence"]) - 1e-9).all()


def test_no_permutation_is_refused(store: FeatureStore) -> None:
    with pytest.raises(CriticalMassError, match="seeds=0"):
        cm.calibration(store, seeds=0)
