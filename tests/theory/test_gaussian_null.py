"""The Gaussian twin has the class means and covariance of a store, and nothing else of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore


def make_store(folder: Path, x: np.ndarray, y: np.ndarray | None) -> FeatureStore:
    half = len(x) // 2
    arrays = {"train": x[:half], "test": x[half:]}
    labels = None if y is None else {"train": y[:half], "test": y[half:]}
    return cm.import_features(arrays, labels=labels, out=folder)


def all_rows(store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([store.features(s).array() for s in ("train", "test")])
    return x.astype(np.float64), np.concatenate([store.labels(s) for s in ("train", "test")])


def within_covariance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    means = np.array([x[y == c].mean(axis=0) for c in range(y.max() + 1)])
    z = x - means[y]
    return z.T @ z / len(x)


def skewed(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return three classes of skewed, correlated neurons; neuron 4 is 1, neuron 3 copies 0."""
    y = rng.integers(0, 3, n)
    z = rng.exponential(size=(n, 3)) @ np.array([[1.0, 0.5, 0], [0, 1, -0.3], [0, 0, 2]])
    x = z + np.array([[0, 0, 0], [2, 0, 1], [0, -3, 0]])[y]
    return np.column_stack([x, x[:, 0], np.ones(n)]).astype(np.float32), y


def test_class_means_and_covariance_are_those_of_the_store(tmp_path: Path) -> None:
    x, y = skewed(40000, np.random.default_rng(0))
    store = make_store(tmp_path / "a", x, y)
    twin = cm.gaussian_null(store, out=tmp_path / "b")
    z, labels = all_rows(twin)
    np.testing.assert_array_equal(labels, y)
    assert twin.model == f"{store.model}-gaussian"
    for c in range(3):
        members = z[labels == c]
        error = x[y == c].std(axis=0) / np.sqrt(len(members))
        assert (np.abs(members.mean(axis=0) - x[y == c].mean(axis=0)) <= 5 * error + 1e-6).all()
    expected = within_covariance(x.astype(np.float64), y)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # An entry of a Gaussian covariance has a standard error of at most sqrt(2/n) of its scale.
    error = 5 * np.sqrt(2 / len(x)) * scale + 1e-6
    assert (np.abs(within_covariance(z, labels) - expected) <= error).all()
    # A constant neuron is constant, and a copy is a copy.
    np.testing.assert_allclose(z[:, 4], 1.0, atol=1e-6)
    np.testing.assert_allclose(z[:, 3], z[:, 0], atol=1e-5)
    # Third moments are gone: exponential noise has skewness 2.
    u = z[labels == 0, 2] - z[labels == 0, 2].mean()
    assert abs((u**3).mean() / u.std() ** 3) < 0.15


def test_on_gaussian_features_the_twin_has_the_same_accuracies(tmp_path: Path) -> None:
    population = cm.synthetic.diffuse(n_neurons=16, n_factors=4)
    data = cm.synthetic.draw(population, n_train=4000, n_test=4000, seed=1)
    store = cm.synthetic.to_store(data, tmp_path / "a")
    twin = cm.gaussian_null(store, out=tmp_path / "b", seed=3)
    values = []
    for one, name in ((store, "x"), (twin, "y")):
        run = cm.sweep(
            one, out=tmp_path / name, measures=("ridge",), fractions=(0.125, 0.5), seeds=4
        )
        frame = run.frame()
        values.append(frame[frame["selector"] == "random"].groupby("n_kept")["value"].mean())
    # Two test sets of 4,000: a difference of accuracies has a standard error of at most .011.
    assert np.abs(values[0] - values[1]).max() < 4 * 0.0112


def test_the_same_seed_gives_the_same_store_and_another_seed_another(tmp_path: Path) -> None:
    x, y = skewed(400, np.random.default_rng(1))
    store = make_store(tmp_path / "a", x, y)
    digests = [
        cm.gaussian_null(store, out=tmp_path / name, seed=seed).digest()
        for name, seed in (("b", 0), ("c", 0), ("d", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_test_samples_of_store_and_twin_are_not_paired(tmp_path: Path) -> None:
    x, y = skewed(400, np.random.default_rng(1))
    store = make_store(tmp_path / "a", x, y)
    twin = cm.gaussian_null(store, out=tmp_path / "b")
    assert twin.manifest["dataset"]["digest"] != store.manifest["dataset"]["digest"]


def test_a_store_without_labels_or_with_few_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = make_store(tmp_path / "a", rng.standard_normal((40, 3)).astype(np.float32), None)
    with pytest.raises(CriticalMassError, match="no labels of two or more classes"):
        cm.gaussian_null(plain, out=tmp_path / "b")
    x = rng.standard_normal((40, 20)).astype(np.float32)
    wide = make_store(tmp_path / "c", x, np.arange(40) % 2)
    with pytest.warns(UserWarning, match="20 neurons and only 40 samples"):
        cm.gaussian_null(wide, out=tmp_path / "d")
