"""The eigenbasis of a training set: against direct formulas, on both ways of summing."""

from __future__ import annotations

import numpy as np
import pytest

from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError
from criticalmass.theory import eigenbasis as room
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis, eigenbasis_of


def layer(n: int = 60, d: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3 * y[:, None]
    return x.astype(np.float32), y


@pytest.mark.parametrize("tall", [1, 1000])
def test_against_direct_formulas(monkeypatch: pytest.MonkeyPatch, tall: int) -> None:
    monkeypatch.setattr(room, "TALL", tall)
    x, y = layer()
    found = eigenbasis(x, y)
    z = (x - x.mean(axis=0, dtype=float)) / x.std(axis=0, dtype=float)
    onehot = np.eye(3)[y] - np.bincount(y) / y.size
    second = z.T @ z / y.size
    turned = found.vectors * found.eigenvalues @ found.vectors.T
    assert found.second_moment == pytest.approx(second, abs=1e-5)
    assert turned == pytest.approx(second, abs=1e-5)
    assert found.cross_moment == pytest.approx(z.T @ onehot / y.size, abs=1e-5)
    assert found.rotate(x) == pytest.approx(z @ found.vectors, abs=1e-4)
    assert (np.diff(found.eigenvalues) <= 0).all()
    assert (found.n, found.n_neurons, found.n_classes) == (60, 7, 3)


@pytest.mark.parametrize("tall", [1, 1000])
def test_a_constant_neuron_and_an_absent_class_stay_silent(
    monkeypatch: pytest.MonkeyPatch, tall: int
) -> None:
    monkeypatch.setattr(room, "TALL", tall)
    x, y = layer()
    x[:, 2] = 0.1
    found = eigenbasis(x, y, n_classes=5)
    assert np.abs(found.second_moment[2]).max() < 1e-9
    assert found.share[3:].tolist() == [0.0, 0.0]
    assert np.abs(found.cross_moment[:, 3:]).max() < 1e-12
    assert found.eigenvalues[-1] >= 0.0


def test_moments_give_the_same_basis() -> None:
    x, y = layer(n=20)
    one, two = eigenbasis(x, y), eigenbasis_of(moments(x, y))
    assert one.eigenvalues == pytest.approx(two.eigenvalues)


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("spoil", [lambda y: y - 1, lambda y: y[:-1], lambda y: y * 1.0])
def test_labels_that_do_not_fit_are_refused(n: int, spoil: object) -> None:
    x, y = layer(n)
    with pytest.raises(CriticalMassError, match="labels"):
        eigenbasis(x, spoil(y), n_classes=3)  # type: ignore[operator]


def test_rows_of_another_layer_are_refused() -> None:
    found: Eigenbasis = eigenbasis(*layer())
    with pytest.raises(CriticalMassError, match="7 neurons"):
        found.rotate(np.zeros((3, 6), np.float32))
