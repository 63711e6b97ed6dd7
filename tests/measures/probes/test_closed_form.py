from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.prefix_heads import unstack_heads
from criticalmass.measures.probes.closed_form import (
    L2S,
    lda,
    lda_system,
    ridge,
    ridge_path,
    ridge_system,
    solve,
)
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.scaling import column_scales

SHAPES = [(80, 12, 3), (40, 60, 4), (300, 25, 2), (200, 30, 10)]


def features(n: int, d: int, n_classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Separable-ish data far from zero, with a dead, a duplicate and a tiny neuron."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    x = rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n, d)) * 1.5 + 3.0
    x[:, 1] = 7.25
    x[:, 2] = x[:, 0]
    x[:, 3] *= 1e-3
    return x, y


def probe_task(n: int = 200, d: int = 24, n_classes: int = 3, **changes: Any) -> ProbeTask:
    rng = np.random.default_rng(1)
    x, y = features(2 * n, d, n_classes)
    validation = np.zeros(n, dtype=bool)
    validation[rng.permutation(n)[: n // 4]] = True
    task = ProbeTask(
        x_train=x[:n].astype(np.float32),
        y_train=y[:n],
        x_test=x[n:].astype(np.float32),
        n_classes=n_classes,
        orders=np.stack([rng.permutation(d) for _ in range(2)]),
        sizes=(1, 4, 9, d),
        validation=validation,
    )
    return dataclasses.replace(task, **changes)


class SliceOnly:
    """Rows that can be read by slices and in no other way, like shards on disk."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: slice) -> np.ndarray:
        assert isinstance(key, slice)
        return self._array[key]


class Shrunk(BaseEstimator):
    """Covariance plus a multiple of the identity, for scikit-learn's LDA."""

    def __init__(self, l2: float = 0.0) -> None:
        self.l2 = l2

    def fit(self, x: np.ndarray) -> Shrunk:
        self.covariance_ = np.cov(x.T, bias=True) + self.l2 * np.eye(x.shape[1])
        return self


def scaler(x: np.ndarray) -> StandardScaler:
    return StandardScaler().fit(x)


@pytest.mark.parametrize(("n", "d", "n_classes"), SHAPES)
def test_ridge_weights_are_those_of_scikit_learn(n: int, d: int, n_classes: int) -> None:
    x, y = features(n, d, n_classes)
    order, sizes = np.random.default_rng(2).permutation(d), (1, 5, d // 2, d)
    system = ridge_system(moments(x, y, n_classes=n_classes))
    paths = ridge_path(system.matrix, system.targets, order, sizes, L2S)
    z, one_hot = scaler(x).transform(x), np.eye(n_classes)[y]
    for l2, path in zip(L2S, paths, strict=True):
        for k, weights in zip(sizes, path, strict=True):
            kept = order[:k]
            reference = Ridge(alpha=n * l2, solver="cholesky").fit(z[:, kept], one_hot)
            np.testing.assert_allclose(weights, reference.coef_.T, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(system.bias, reference.intercept_, rtol=1e-9)


@pytest.mark.parametrize(("n", "d", "n_classes"), SHAPES)
def test_lda_is_that_of_scikit_learn(n: int, d: int, n_classes: int) -> None:
    x, y = features(n, d, n_classes)
    order, sizes = np.random.default_rng(2).permutation(d), (2, 5, d // 2, d)
    system = lda_system(moments(x, y, n_classes=n_classes))
    z = scaler(x).transform(x)
    for l2 in L2S:
        heads = solve(system, order, sizes, l2)
        for k, weights, bias in zip(sizes, unstack_heads(heads.blocks), heads.bias, strict=True):
            reference = LinearDiscriminantAnalysis("lsqr", covariance_estimator=Shrunk(l2))
            reference.fit(z[:, order[:k]], y)
            ours = z[:, order[:k]] @ weights + bias
            theirs = reference.decision_function(z[:, order[:k]])
            if n_classes == 2:
                ours, theirs = ours[:, 1] - ours[:, 0], theirs.ravel()
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def by_hand(task: ProbeTask, probe: Any, kept: np.ndarray) -> tuple[float, np.ndarray]:
    """Choose and refit with scikit-learn, one subset at a time."""
    fit, held = ~task.validation, task.validation

    def predict(l2: float, train: np.ndarray, x: np.ndarray) -> np.ndarray:
        standard = scaler(task.x_train[train][:, kept].astype(float))
        z, y = standard.transform(task.x_train[train][:, kept].astype(float)), task.y_train[train]
        z_new = standard.transform(x[:, kept].astype(float))
        if probe is ridge:
            model = Ridge(alpha=len(z) * l2).fit(z, np.eye(task.n_classes)[y])
            return model.predict(z_new).argmax(axis=1)
        model = LinearDiscriminantAnalysis("lsqr", covariance_estimator=Shrunk(l2)).fit(z, y)
        return model.predict(z_new)

    x_held, y_held = task.x_train[held], task.y_train[held]
    accuracy = [np.mean(predict(l2, fit, x_held) == y_held) for l2 in L2S]
    best = max(l2 for l2, a in zip(L2S, accuracy, strict=True) if a == max(accuracy))
    return best, predict(best, np.full(task.n_train, True), task.x_test)


@pytest.mark.parametrize("probe", [ridge, lda])
@pytest.mark.parametrize(("n", "d", "n_classes"), [(200, 24, 3), (60, 90, 5)])
def test_choice_and_predictions_agree_with_a_loop(
    probe: Any, n: int, d: int, n_classes: int
) -> None:
    task = probe_task(n, d, n_classes, sizes=(2, 7, d))
    scores = probe(task)
    for seed, order in enumerate(task.orders):
        for j, k in enumerate(task.sizes):
            l2, predictions = by_hand(task, probe, order[:k])
            assert scores.l2[seed, j] == l2
            np.testing.assert_array_equal(scores.predictions[seed, j], predictions)
    assert scores.predictions.dtype == np.uint8
    assert (scores.status == "ok").all()
    assert np.isnan(scores.gap).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 10**6))
def test_every_prefix_solves_its_own_equations(d: int, n_outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(d + 3, d))
    moment, cross = x.T @ x / len(x), rng.normal(size=(d, n_outputs))
    order = rng.permutation(d)
    sizes = sorted(set(rng.integers(1, d + 1, size=4).tolist()))
    l2s = (1e-2, 1.0)
    for l2, path in zip(l2s, ridge_path(moment, cross, order, sizes, l2s), strict=True):
        for k, weights in zip(sizes, path, strict=True):
            kept = order[:k]
            left = (moment[np.ix_(kept, kept)] + l2 * np.eye(k)) @ weights
            np.testing.assert_allclose(left, cross[kept], atol=1e-9)


@pytest.mark.parametrize("probe", [ridge, lda])
def test_rescaling_or_shifting_a_neuron_changes_nothing(probe: Any) -> None:
    task = probe_task()
    factor = np.where(np.arange(task.n_neurons) % 2 == 0, 8.0, 0.25).astype(np.float32)
    moved = dataclasses.replace(task, x_train=task.x_train * factor, x_test=task.x_test * factor)
    np.testing.assert_array_equal(probe(task).predictions, probe(moved).predictions)


@pytest.mark.parametrize("probe", [ridge, lda])
def test_a_neuron_dead_in_training_counts_for_nothing_in_the_test(probe: Any) -> None:
    task = probe_task()
    x_test = task.x_test.copy()
    x_test[:, 1] += np.random.default_rng(5).normal(size=len(x_test)).astype(np.float32) * 50
    moved = probe(dataclasses.replace(task, x_test=x_test))
    np.testing.assert_array_equal(moved.predictions, probe(task).predictions)


def test_a_variance_of_rounding_is_none() -> None:
    mean = np.array([0.1, 0.1, 0.0, 1e6, 1e-6])
    variance = np.array([1e-33, 1e-4, 0.0, 1e-14, 1e-14])
    expected = [1.0, 1e-2, 1.0, 1.0, 1e-7]
    np.testing.assert_allclose(column_scales(mean, variance, 1000), expected)


@pytest.mark.parametrize("probe", [ridge, lda])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_shards_give_what_the_matrix_gives(probe: Any, dtype: Any) -> None:
    task = probe_task()
    x_train, x_test = task.x_train.astype(dtype), task.x_test.astype(dtype)
    whole = probe(dataclasses.replace(task, x_train=x_train, x_test=x_test))
    sharded = probe(dataclasses.replace(task, x_train=SliceOnly(x_train), x_test=SliceOnly(x_test)))
    np.testing.assert_array_equal(whole.predictions, sharded.predictions)


@pytest.mark.parametrize("probe", [ridge, lda])
def test_a_class_without_training_rows_is_never_predicted(probe: Any) -> None:
    task = probe_task(n_classes=3)
    scores = probe(dataclasses.replace(task, n_classes=5, y_train=task.y_train + 1))
    assert set(np.unique(scores.predictions)) <= {1, 2, 3}
    np.testing.assert_array_equal(scores.predictions, probe(task).predictions + 1)


@pytest.mark.parametrize("probe", [ridge, lda])
def test_a_useful_head_beats_chance(probe: Any) -> None:
    task = probe_task(n=400, d=24, n_classes=3)
    truth = features(800, 24, 3)[1][400:]
    accuracy = (probe(task).predictions == truth).mean(axis=2)
    assert (accuracy[:, -1] > 0.9).all()
    assert (accuracy[:, -1] > accuracy[:, 0]).all()


def test_a_prefix_that_is_singular_is_refused() -> None:
    with pytest.raises(CriticalMassError, match=r"l2=0.0 leaves .* first 2 neurons singular"):
        ridge_path(np.ones((3, 3)), np.ones((3, 1)), [0, 1, 2], (1, 3), (0.0,))


@pytest.mark.parametrize(("everywhere", "use"), [(True, "fit"), (False, "choose the penalty")])
def test_rows_must_be_left_on_both_sides(everywhere: bool, use: str) -> None:
    task = probe_task(validation=np.full(200, everywhere))
    with pytest.raises(CriticalMassError, match=f"200 .* samples is left to {use} on"):
        ridge(task)


@pytest.mark.parametrize("part", ["x_train", "x_test"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(part: str, bad: float) -> None:
    task = probe_task()
    x = getattr(task, part).copy()
    x[57, 6] = bad
    with pytest.raises(CriticalMassError, match=f"{part} row 57 neuron 6 is {bad}"):
        ridge(dataclasses.replace(task, **{part: x}))
