"""p-values of bootstrap draws, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from criticalmass.analysis.multiplicity import holm, smallest_p, two_sided_p


def test_holm_by_hand():
    # Holm 1979: the smallest times n, the next times n - 1, and never below the one before.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.2]), [0.2])
    assert holm([]).size == 0


def test_holm_lies_between_the_p_values_and_bonferroni():
    p = np.random.default_rng(0).random(40) ** 3
    corrected = holm(p)
    assert np.all((corrected >= p) & (corrected <= np.minimum(1.0, 40 * p) + 1e-15))
    assert np.array_equal(np.argsort(corrected[np.argsort(p)], kind="stable"), np.arange(40))


def test_holm_keeps_the_rate_of_false_families():
    # 10 true hypotheses, 2,000 families: at least one rejected in at most 5 % of them.
    p = np.random.default_rng(1).random((2000, 10))
    false = np.mean([holm(row).min() <= 0.05 for row in p])
    assert 0.03 < false < 0.065
    assert np.mean(p.min(axis=1) <= 0.05) > 0.35


def test_a_p_value_is_never_0_and_needs_draws_on_one_side():
    above = np.full(999, 0.3)
    assert two_sided_p(above, above) == smallest_p(999) == 0.002
    assert two_sided_p(-above, -above) == 0.002
    assert two_sided_p(np.zeros(999), np.zeros(999)) == 1.0
    # A draw that allows both signs is evidence for neither.
    assert two_sided_p(-above, above) == 1.0
    assert two_sided_p(np.array([0.1, np.nan]), np.array([0.1, 0.2])) is None


@pytest.mark.parametrize("z", [0.5, 1.5, 2.5])
def test_the_p_value_of_normal_draws_is_that_of_the_normal_test(z):
    draws = z + np.random.default_rng(2).standard_normal(200_000)
    assert two_sided_p(draws, draws) == pytest.approx(2 * norm.sf(z), rel=0.05)
