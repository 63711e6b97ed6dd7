"""The eigenbasis of a training set against direct formulas, for both ways of summing."""

from __future__ import annotations

import numpy as np
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.theory.eigenbasis import decompose, eigenbasis, normal_equations


def layer(n: int = 60, d: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3 * y[:, None]
    return x.astype(np.float32), y


# Rows per neuron above which products are in float32: used for every layer, or for none.
@pytest.mark.parametrize("limit", [1, 1000])
def test_against_direct_formulas(limit: int) -> None:
    x, y = layer()
    basis = decompose(normal_equations(x, y, float32_rows_per_neuron=limit), len(x))
    z = (x - x.mean(axis=0, dtype=float)) / x.std(axis=0, dtype=float)
    onehot = np.eye(3)[y] - np.bincount(y) / y.size
    second = z.T @ z / y.size
    product = basis.vectors * basis.eigenvalues @ basis.vectors.T
    assert basis.second_moment == pytest.approx(second, abs=1e-5)
    assert product == pytest.approx(second, abs=1e-5)
    assert basis.cross_moment == pytest.approx(z.T @ onehot / y.size, abs=1e-5)
    assert (np.diff(basis.eigenvalues) <= 0).all()
    assert (basis.n, basis.n_neurons, basis.n_classes) == (60, 7, 3)


@pytest.mark.parametrize("limit", [1, 1000])
def test_a_constant_neuron_and_an_absent_class_have_no_moments(limit: int) -> None:
    x, y = layer()
    x[:, 2] = 0.1
    system = normal_equations(x, y, n_classes=5, float32_rows_per_neuron=limit)
    basis = decompose(system, len(x))
    assert np.abs(basis.second_moment[2]).max() < 1e-9
    assert basis.share[3:].tolist() == [0.0, 0.0]
    assert np.abs(basis.cross_moment[:, 3:]).max() < 1e-12
    assert basis.eigenvalues[-1] >= 0.0


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("spoil", [lambda y: y - 1, lambda y: y[:-1], lambda y: y * 1.0])
def test_labels_that_do_not_fit_are_refused(n: int, spoil: object) -> None:
    x, y = layer(n)
    with pytest.raises(CriticalMassError, match="labels"):
        eigenbasis(x, spoil(y), n_classes=3)  # type: ignore[operator]
