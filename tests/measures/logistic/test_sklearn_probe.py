"""LogisticProbe against scikit-learn's estimator checks and its logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

import criticalmass as cm
from criticalmass.measures.logistic.certificate import _hessian_factor
from criticalmass.measures.logistic.sklearn_probe import LogisticProbe


@parametrize_with_checks([LogisticProbe()])
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_same_probabilities_as_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = rng.standard_normal((3, 8))[y] + rng.standard_normal((300, 8))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    probe = cm.LogisticProbe(l2=1e-2, tol=1e-7).fit(z, y)
    reference = LogisticRegression(C=1 / (300 * 1e-2), tol=1e-10, max_iter=10000).fit(z, y)
    np.testing.assert_allclose(probe.predict_proba(z), reference.predict_proba(z), atol=1e-3)
    assert probe.converged_
    assert 0 <= probe.gap_ <= 1e-7 * probe.objective_


def _weak_penalty_data(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Standardised columns: 3 separable classes, or 50 samples of noise with 300 columns."""
    rng = np.random.default_rng(0)
    if name == "separable":
        y = np.repeat(np.arange(3), 60)
        means = rng.standard_normal((3, 10))
        means *= 8.0 / np.linalg.norm(means, axis=1, keepdims=True)
        x = rng.standard_normal((180, 10)) + means[y]
    else:
        x, y = rng.standard_normal((50, 300)), rng.integers(0, 3, 50)
    return (x - x.mean(axis=0)) / x.std(axis=0), y


def _objective(
    theta: NDArray[np.float64], z: NDArray[np.float64], y: NDArray[np.int64], l2: float
) -> tuple[float, NDArray[np.float64]]:
    """Return mean cross-entropy + l2/2 ||W||^2 and its gradient, divided by l2, in float64."""
    n, d = z.shape
    n_classes = theta.size // (d + 1)
    weights, intercepts = theta[: n_classes * d].reshape(n_classes, d), theta[n_classes * d :]
    logits = z @ weights.T + intercepts
    logits -= logits[np.arange(n), y][:, None]
    others = np.arange(n_classes) != y[:, None]
    # Written with the other classes only, so that nothing cancels where the true one is certain.
    loss = np.log1p((np.exp(logits) * others).sum(axis=1)).mean()
    residuals = softmax(logits, axis=1) * others
    residuals[np.arange(n), y] = -residuals.sum(axis=1)
    gradient = residuals.T @ z / n + l2 * weights
    value = float(loss + 0.5 * l2 * (weights**2).sum())
    return value / l2, np.r_[gradient.ravel(), residuals.mean(axis=0)] / l2


@pytest.mark.parametrize("name", ["separable", "noise"])
@pytest.mark.parametrize("l2", [1e-7, 1e-8, 1e-9, 1e-10])
def test_weak_penalties_give_a_fit_with_a_true_bound(name: str, l2: float) -> None:
    z, y = _weak_penalty_data(name)
    probe = LogisticProbe(l2=l2, device="cpu").fit(z, y)
    assert (probe.predict(z) == y).all()
    theta = np.r_[probe.coef_.ravel(), probe.intercept_]
    value = _objective(theta, z, y, l2)[0] * l2
    assert probe.objective_ == pytest.approx(value, rel=1e-5)
    fit = minimize(
        _objective, theta, (z, y, l2), method="L-BFGS-B", jac=True,
        options={"maxiter": 3000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    assert value - fit.fun * l2 <= probe.gap_
    assert probe.converged_ == (probe.gap_ <= 1e-6 * probe.objective_)


def test_a_hessian_of_rounding_errors_is_factored() -> None:
    for entries in (-np.ones((3, 3)), -np.diag([1.0, 0.0, 0.0]), np.zeros((3, 3))):
        for scale in (1.0, 1e-8, 1e-30):
            factor = _hessian_factor(-scale * entries, np.zeros(3))
            assert np.isfinite(cho_solve(factor, np.ones(3))).all()
