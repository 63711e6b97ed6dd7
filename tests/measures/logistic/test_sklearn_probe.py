"""LogisticProbe against scikit-learn's estimator checks and its logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

import criticalmass as cm
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
