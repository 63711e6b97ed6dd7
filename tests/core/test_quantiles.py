"""Quantiles and tails without scipy equal those of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import bdtrc, ndtri, stdtrit

from criticalmass.core.quantiles import normal_quantile, sign_test, student_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 19, 99, 300, 1999])
def test_students_quantile(freedom: int) -> None:
    for probability in (0.01, 0.025, 0.5, 0.6, 0.9, 0.975, 0.999, 0.9999):
        expected = stdtrit(freedom, probability)
        assert student_quantile(freedom, probability) == pytest.approx(expected, rel=1e-12)


def test_without_freedom_there_is_no_quantile() -> None:
    assert np.isnan(student_quantile(0, 0.975))


def test_normal_quantile() -> None:
    for probability in (0.001, 0.025, 0.5, 0.8, 0.975, 0.9999):
        assert normal_quantile(probability) == pytest.approx(ndtri(probability), abs=1e-14)


@pytest.mark.parametrize(
    ("gained", "lost"),
    [(0, 0), (0, 3), (3, 0), (5, 5), (6, 5), (5, 6), (60, 40), (40, 60), (9000, 8800), (10, 9000)],
)
def test_the_sign_test_is_the_binomial_tail(gained: int, lost: int) -> None:
    expected = bdtrc(gained - 1, gained + lost, 0.5)
    assert sign_test(gained, lost) == pytest.approx(expected, rel=1e-9)
