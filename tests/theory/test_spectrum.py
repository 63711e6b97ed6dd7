from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.theory.spectrum import as_second_moment, correlation

ROWS = arrays(
    np.float64, st.tuples(st.integers(2, 12), st.integers(1, 9)), elements=st.floats(-3, 3)
).filter(lambda x: np.ptp(x, axis=0).max() > 0.1)


def scatter(x):
    centred = x - x.mean(axis=0)
    return centred.T @ centred


@given(ROWS)
def test_the_participation_ratio_is_that_of_the_eigenvalues(x):
    c = scatter(x)
    values = np.linalg.eigvalsh(c)
    want = values.sum() ** 2 / (values**2).sum()
    assert cm.participation_ratio(c) == pytest.approx(want, rel=1e-9)
    assert 1.0 - 1e-9 <= cm.participation_ratio(c) <= min(c.shape[0], len(x) - 1) + 1e-9


@given(ROWS, st.floats(1e-3, 1e3))
def test_the_diagonal_share_has_its_limits_and_ignores_scale(x, scale):
    c = scatter(x)
    share = cm.diagonal_share(c)
    assert share == pytest.approx((np.diagonal(c) ** 2).sum() / (c**2).sum(), rel=1e-12)
    assert 1.0 / c.shape[0] - 1e-12 <= share <= 1.0 + 1e-12
    assert cm.diagonal_share(c * scale) == pytest.approx(share, rel=1e-12)


def test_for_standardised_neurons_the_share_is_effective_dimensions_per_neuron():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 12)) @ rng.standard_normal((12, 12))
    c = correlation(scatter(x))
    np.testing.assert_allclose(c, np.corrcoef(x.T), atol=1e-12)
    assert cm.diagonal_share(c) == pytest.approx(cm.participation_ratio(c) / 12, rel=1e-12)


@pytest.mark.parametrize("function", [cm.participation_ratio, cm.diagonal_share])
def test_rounding_of_float32_is_no_asymmetry(function):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 12)) @ rng.standard_normal((12, 12))
    c = scatter(x).astype(np.float32)
    rounding = np.triu(rng.uniform(-1, 1, c.shape), 1).astype(np.float32)
    uneven = c + c.max() * np.float32(1e-5) * rounding
    assert function(uneven) == pytest.approx(function(c), rel=1e-3)
    symmetric = as_second_moment(uneven)
    np.testing.assert_array_equal(symmetric, symmetric.T)
    with pytest.raises(CriticalMassError, match="not symmetric"):
        function(uneven.astype(np.float64))
    with pytest.raises(CriticalMassError, match="not symmetric"):
        function(c + 1e-3 * c.max() * rounding)


def test_limits_by_hand():
    assert cm.diagonal_share(np.eye(5)) == 1.0
    assert cm.participation_ratio(np.eye(5)) == 5.0
    assert cm.diagonal_share(np.ones((5, 5))) == pytest.approx(0.2)
    assert cm.participation_ratio(np.ones((5, 5))) == pytest.approx(1.0)
    # 3 and 1 on the diagonal, 1 off it: (3 + 1)^2 / (9 + 1 + 2 * 1) and 10 / 12.
    assert cm.participation_ratio([[3, 1], [1, 1]]) == pytest.approx(16 / 12)
    assert cm.diagonal_share([[3, 1], [1, 1]]) == pytest.approx(10 / 12)


def test_constant_neurons_have_no_correlation():
    c = correlation(np.diag([4.0, 0.0, 1e-40]) + 0.0)
    np.testing.assert_array_equal(c, np.diag([1.0, 0.0, 0.0]))


def test_the_input_is_not_changed():
    c = np.diag([4.0, 1.0])
    correlation(c)
    as_second_moment(c)[0, 0] = 9.0
    np.testing.assert_array_equal(c, np.diag([4.0, 1.0]))


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_extreme_scales(scale):
    assert cm.participation_ratio(np.eye(3) * scale) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.ones((2, 3)), r"square.*\(2, 3\)"),
        (np.ones(3), r"square.*\(3,\)"),
        (np.ones((0, 0)), "square"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "NaN"),
        (np.array([[np.inf, 0.0], [0.0, 1.0]]), "NaN or infinity"),
        (np.array([[1.0, 0.5], [0.1, 1.0]]), "not symmetric"),
        (np.zeros((3, 3)), "every neuron is constant"),
        (np.diag([1.0, -0.5]), "neuron 1 has the negative variance -0.5"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "exceeds the largest variance"),
    ],
)
@pytest.mark.parametrize("function", [cm.participation_ratio, cm.diagonal_share])
def test_mistakes_are_named_in_one_line(function, matrix, says):
    with pytest.raises(CriticalMassError, match=says) as caught:
        function(matrix)
    assert "\n" not in str(caught.value)
