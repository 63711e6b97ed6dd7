"""Neurons removed from the probe of the whole layer, without another fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass import synthetic
from criticalmass.measures.logistic.masked import logistic_masked
from criticalmass.measures.logistic.probe import logistic
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import MEASURES

SIZES = (1, 3, 8, 12)


@pytest.fixture(scope="module")
def task() -> ProbeTask:
    """Three classes in 12 correlated neurons, one of them constant, with different offsets."""
    rng = np.random.default_rng(0)
    centres, mix = rng.standard_normal((3, 12)), rng.standard_normal((12, 12))
    offset = 10.0 * rng.standard_normal(12)

    def draw(n: int) -> tuple[Any, Any]:
        y = rng.integers(0, 3, n)
        x = (centres[y] + 1.5 * rng.standard_normal((n, 12))) @ mix + offset
        x[:, 5] = 4.0
        return x.astype(np.float32), y

    (x_train, y_train), (x_test, _) = draw(300), draw(1500)
    orders = np.stack([rng.permutation(12) for _ in range(3)])
    return ProbeTask(x_train, y_train, x_test, 3, orders, SIZES, validation_rows(y_train))


def test_removed_neurons_are_at_their_training_mean(task: ProbeTask) -> None:
    scores = logistic_masked(task)
    whole = logistic(
        ProbeTask(
            task.x_train, task.y_train, task.x_test, 3, np.arange(12)[None], (12,), task.validation
        )
    )
    assert whole.heads is not None
    head, mean = whole.heads[0][0], np.asarray(task.x_train).mean(axis=0, dtype=np.float64)
    for seed, order in enumerate(task.orders):
        for j, size in enumerate(SIZES):
            masked = np.asarray(task.x_test, dtype=np.float64).copy()
            masked[:, order[size:]] = mean[order[size:]]
            expected = (masked @ head.coef.T + head.intercept).argmax(axis=1)
            # Rounding may decide between two classes with the same logit.
            assert np.mean(scores.predictions[seed, j] != expected) < 2e-3
    assert (scores.l2 == whole.l2[0, 0]).all()
    for seed in range(3):
        assert np.mean(scores.predictions[seed, -1] != whole.predictions[0, 0]) < 2e-3


def test_the_head_of_a_subset_needs_the_neurons_that_are_kept_alone(task: ProbeTask) -> None:
    scores = logistic_masked(task)
    assert scores.heads is not None
    for seed, order in enumerate(task.orders):
        for j, size in enumerate(SIZES):
            head = scores.heads[seed][j]
            assert head.coef.shape == (3, size)
            x = np.asarray(task.x_test, dtype=np.float64)[:, order[:size]]
            predicted = (x @ head.coef.T + head.intercept).argmax(axis=1)
            assert np.mean(scores.predictions[seed, j] != predicted) < 2e-3


def test_a_sweep_fits_one_probe_and_keeps_less_than_refitting(tmp_path: Path) -> None:
    data = synthetic.draw(synthetic.diffuse(16, 4, noise=0.7), n_train=400, n_test=1000)
    store = synthetic.to_store(data, tmp_path / "features")
    run = cm.sweep(
        store,
        out=tmp_path / "run",
        selectors=("random", "first"),
        measures=("logistic", "logistic-masked"),
        fractions=(0.125, 0.25, 0.5, 1.0),
    )
    table = run.frame()
    assert (table["status"] == "ok").all()
    full = table[table["selector"] == "full"].set_index("measure")["value"]
    assert full["logistic-masked"] == pytest.approx(full["logistic"], abs=2e-3)
    curves = cm.curves(run).query("selector == 'random'").set_index(["measure", "n_kept"])["mean"]
    # The optimal head of a subset differs from the one that was trained with all neurons.
    for size in (2, 4):
        assert curves["logistic", size] > curves["logistic-masked", size]


def test_a_projection_has_no_neurons_to_remove(tmp_path: Path) -> None:
    data = synthetic.draw(synthetic.diffuse(8, 2, noise=0.7), n_train=100, n_test=100)
    store = synthetic.to_store(data, tmp_path / "features")
    with pytest.warns(UserWarning, match="cells failed"):
        run = cm.sweep(
            store,
            out=tmp_path / "run",
            selectors=("random", "pca-top"),
            measures="logistic-masked",
            fractions=0.5,
        )
    failed = run.frame().query("status == 'failed'")
    assert set(failed["selector"]) == {"pca-top"}
    assert failed["error"].str.contains("projection has no neurons to remove").all()


def test_its_values_are_computed_again_when_the_probe_has_changed() -> None:
    protocol = MEASURES["logistic-masked"].protocol
    assert protocol["probe_version"] == MEASURES["logistic"].version
    rest = {
        name: value for name, value in MEASURES["logistic"].protocol.items() if name != "version"
    }
    assert rest.items() <= protocol.items()
