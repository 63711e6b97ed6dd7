"""The variation between training sets in the intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, t

import criticalmass as cm
from criticalmass import synthetic
from criticalmass.analysis.columns import Draws
from criticalmass.analysis.training_sets import (
    TrainingSpread,
    _training_deviation,
    training_set_note,
)


def crossed_scores(
    rng: np.random.Generator, between: float, *, sets: int = 8, seeds: int = 4, samples: int = 300
) -> np.ndarray:
    """Scores of training sets x seeds x samples with all interactions of two of them."""
    shape = sets, seeds, samples
    draw = rng.standard_normal
    return np.asarray(
        between * draw((sets, 1, 1))
        + 0.3 * draw((1, seeds, 1))
        + draw((1, 1, samples))
        + 0.4 * draw((sets, seeds, 1))
        + 0.5 * draw((sets, 1, samples))
        + 0.5 * draw((1, seeds, samples))
        + 0.7 * draw(shape)
    )


@pytest.mark.parametrize("between", [0.5, 1.0])
def test_what_seeds_and_samples_explain_is_not_counted_again(between: float) -> None:
    rng = np.random.default_rng(0)
    variances, raw = [], []
    for _ in range(150):
        scores = crossed_scores(rng, between)
        deviation = _training_deviation(scores)
        variances.append(float(deviation @ deviation) / 7)
        raw.append(scores.mean(axis=(1, 2)).var(ddof=1))
    assert np.mean(variances) == pytest.approx(between**2, rel=0.12)
    assert np.mean(raw) > np.mean(variances) + 0.03  # the interaction with 4 seeds is 0.16 / 4


def test_training_sets_that_differ_by_chance_alone_add_little() -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(100):
        scores = crossed_scores(rng, 0.0)
        pairs.append(
            (np.sum(_training_deviation(scores) ** 2), 7 * scores.mean((1, 2)).var(ddof=1))
        )
    counted, raw = np.sum(pairs, axis=0)
    assert counted < 0.25 * raw


def test_draws_follow_students_distribution_with_the_variance_between_sets() -> None:
    rng = np.random.default_rng(2)
    deviation = rng.standard_normal((5, 4))
    deviation -= deviation.mean(axis=0)
    spread = TrainingSpread(np.array([10, 20, 40]), deviation)
    mean, full = spread.draws(np.array([10, 20, 40]), Draws(0.95, 20_000, 0))
    scale = np.sqrt((deviation**2).sum(axis=0) / 4)
    for draws, std in zip([*mean.T, full], scale, strict=True):
        assert kstest(draws / std, t(4).cdf).statistic < 0.015
    # All columns move together, as one training set does: their ranks are correlated so.
    expected = np.corrcoef(deviation[:, 0], deviation[:, 3])[0, 1]
    within = np.abs(mean[:, 0] / scale[0]) < 3
    assert np.corrcoef(mean[within, 0], full[within])[0, 1] == pytest.approx(expected, abs=0.1)


def test_between_measured_sizes_the_deviation_is_interpolated_in_log_k() -> None:
    spread = TrainingSpread(np.array([4, 16]), np.array([[1.0, 3.0, 0.0], [-1.0, -3.0, 0.0]] * 2))
    settings = Draws(0.95, 50, 0)
    ends = spread.draws(np.array([4, 16]), settings)[0]
    inside = spread.draws(np.array([8]), settings)[0][:, 0]
    np.testing.assert_allclose(inside, ends.mean(axis=1))
    np.testing.assert_allclose(spread.draws(np.array([2]), settings)[0][:, 0], ends[:, 0])


def test_the_training_set_widens_the_intervals_of_probes_and_nothing_else(tmp_path: Path) -> None:
    population = synthetic.diffuse(16, 4, noise=0.7)
    data = synthetic.draw(population, n_train=24, n_test=2000)
    store = synthetic.to_store(data, tmp_path / "features")
    run = cm.sweep(store, out=tmp_path / "run", measures=("centroid", "cka"), fractions=(0.5, 1))
    without = cm.curves(run), cm.redundancy(run)
    run = cm.sweep(
        store, out=run.path, measures=("centroid", "cka"), fractions=(0.5, 1), training_sets=8
    )
    tables = cm.curves(run), cm.redundancy(run)
    for before, after in zip(without, tables, strict=True):
        is_probe = (after["measure"] == "centroid").to_numpy(dtype=bool)
        assert (after["training_sets"][is_probe] == 8).all()
        assert (before["training_sets"][is_probe] == 0).all()
        assert after["training_sets"][~is_probe].isna().all()
        pd.testing.assert_frame_equal(before[~is_probe], after[~is_probe], check_exact=True)
        estimates = [c for c in after if not c.endswith(("low", "high")) and c != "training_sets"]
        pd.testing.assert_frame_equal(before[estimates], after[estimates])
    widths = [
        c.query("measure == 'centroid'").eval("full_high - full_low")
        for c in (without[0], tables[0])
    ]
    assert (widths[1] > widths[0] * 1.1).all()
    assert "Not in the intervals: the training set" in training_set_note(without[1])
    assert "include the training set, from 8 random halves" in training_set_note(tables[1])


def test_two_runs_on_the_same_data_are_compared_on_the_same_training_sets(tmp_path: Path) -> None:
    """Two equal measurements differ by 0 with training sets too."""
    data = synthetic.draw(synthetic.diffuse(8, 3, noise=0.7), n_train=24, n_test=400)
    store = synthetic.to_store(data, tmp_path / "features")
    runs = [
        cm.sweep(
            store, out=tmp_path / name, measures="centroid", fractions=(0.5, 1), training_sets=3
        )
        for name in ("a", "b")
    ]
    table = cm.compare(*runs, paired=True)
    table = table[table["quantity"].isin(["value", "ratio", "whole layer"])]
    assert len(table) >= 2
    assert (table["low"] == 0).all()
    assert (table["high"] == 0).all()
