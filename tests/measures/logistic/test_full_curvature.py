"""The whole Hessian of a small problem, on a sample of rows."""

from __future__ import annotations

import numpy as np
import pytest

from criticalmass.measures.logistic.full_curvature import RowSample
from criticalmass.measures.logistic.preconditioner import Preconditioner
from criticalmass.measures.logistic.training_rows import HeldRows


def test_it_inverts_the_change_of_the_gradient() -> None:
    rng = np.random.default_rng(0)
    n, k, c, l2 = 900, 4, 3, 1e-3
    x, y = rng.standard_normal((n, k)).astype(np.float32), rng.integers(0, c, n)
    head = rng.standard_normal((c, k)).astype(np.float32), rng.standard_normal(c)
    sample = RowSample(x, n, c)  # 16 rows per weight are fewer than n: use those.
    used = x[: 16 * k * c].astype(np.float64)
    truth = np.eye(c)[y[: len(used)]]

    def gradient(flat: np.ndarray) -> np.ndarray:
        w, b = flat[: c * k].reshape(c, k), flat[c * k :]
        p = np.exp(used @ w.T + b)
        residual = p / p.sum(axis=1, keepdims=True) - truth
        return np.r_[(residual.T @ used / len(used) + l2 * w).ravel(), residual.mean(axis=0)]

    flat = np.r_[head[0].astype(np.float64).ravel(), head[1]]
    step = rng.standard_normal(flat.size)
    step[c * k :] -= step[c * k :].mean()  # A shift of all intercepts changes nothing.
    change = (gradient(flat + 1e-5 * step) - gradient(flat - 1e-5 * step)) / 2e-5
    got = sample.curvature(head, l2).apply(
        Preconditioner(np.eye(k, dtype=np.float32)), change.astype(np.float32)
    )
    np.testing.assert_allclose(got, step, rtol=1e-3, atol=1e-3)


def test_only_small_problems_with_weak_penalties_are_served() -> None:
    rows = HeldRows(np.zeros((1000, 200), np.float32), np.zeros(1000, np.int64))
    sample = RowSample.of(rows, (5, 10, 200), 10)
    assert sample.x.shape == (1000, 10)
    assert sample.serves(10, 1e-3)
    assert not sample.serves(10, 1e-2)
    assert not sample.serves(200, 1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_copies_of_neurons_and_certain_heads_have_a_factor(scale: float) -> None:
    """Rounding makes such a Hessian indefinite, and certain answers make it zero."""
    rng = np.random.default_rng(0)
    x = np.tile(rng.standard_normal((400, 3)).astype(np.float32), 4)
    head = (scale * rng.standard_normal((5, 12))).astype(np.float32), np.zeros(5)
    curvature = RowSample(x, 400, 5).curvature(head, 1e-12)
    step = curvature.apply(Preconditioner(np.eye(12, dtype=np.float32)), np.ones(65, np.float32))
    assert np.isfinite(step).all()
    assert np.isfinite(curvature.intercept).all()
