from __future__ import annotations

import numpy as np
import pytest

from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError


def two_pass(x):
    x = np.asarray(x, dtype=np.longdouble)
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred


def assert_equal_to_two_pass(m, x, rtol=1e-12):
    mean, scatter = two_pass(x)
    spread = np.sqrt(np.outer(np.diag(scatter), np.diag(scatter)))
    assert m.n == len(x)
    np.testing.assert_allclose(m.mean, mean.astype(float), rtol=rtol)
    # Relative to the scale of each pair of neurons, not to a correlation that may be near 0.
    assert np.all(np.abs(m.scatter - scatter) <= rtol * spread)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_streamed_moments_equal_two_passes(chunk, offset):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 9)) * np.linspace(0.1, 10, 9) + offset
    assert_equal_to_two_pass(moments(x, chunk=chunk), x)


def test_a_drifting_mean_does_not_cancel():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((500, 4)) + np.linspace(0, 1e3, 500)[:, None]
    assert_equal_to_two_pass(moments(x, chunk=32), x)


def test_scatter_is_exactly_symmetric_and_contiguous():
    x = np.random.default_rng(2).standard_normal((50, 300))
    scatter = moments(x, chunk=16).scatter
    np.testing.assert_array_equal(scatter, scatter.T)
    assert scatter.flags["C_CONTIGUOUS"]


def test_half_precision_is_summed_in_double():
    x = np.random.default_rng(3).standard_normal((3000, 3)).astype(np.float16)
    assert_equal_to_two_pass(moments(x), x.astype(np.float64))


def test_constant_neuron_has_exactly_no_variance():
    x = np.random.default_rng(4).standard_normal((1001, 3))
    x[:, 1] = 0.1
    m = moments(x, chunk=100)
    assert m.std[1] == 0.0
    assert not m.scatter[1].any()
    assert m.mean[1] == 0.1


def test_covariance_and_std_are_those_of_the_population():
    x = np.random.default_rng(5).standard_normal((40, 3))
    m = moments(x)
    np.testing.assert_allclose(m.covariance, np.cov(x.T, ddof=0), rtol=1e-12)
    np.testing.assert_allclose(m.std, x.std(axis=0), rtol=1e-12)


def test_class_counts_and_means_with_an_empty_class():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((90, 4)) + 100.0
    y = rng.choice([0, 2, 3], size=90)
    m = moments(x, y, n_classes=5, chunk=13)
    assert m.class_counts.tolist() == [np.sum(y == c) for c in range(5)]
    for c in (0, 2, 3):
        np.testing.assert_allclose(m.class_means[c], x[y == c].mean(axis=0), rtol=1e-12)
    assert not m.class_means[[1, 4]].any()


def test_merging_parts_gives_the_whole():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((80, 5)) * 3 + 50
    y = rng.integers(0, 3, 80)
    merged = moments(x[:11], y[:11], n_classes=3).merge(moments(x[11:], y[11:], n_classes=3))
    whole = moments(x, y)
    assert_equal_to_two_pass(merged, x)
    assert merged.class_counts.tolist() == whole.class_counts.tolist()
    np.testing.assert_allclose(merged.class_means, whole.class_means, rtol=1e-12)


def test_restrict_is_the_moments_of_those_columns():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((60, 6))
    y = rng.integers(0, 2, 60)
    kept = np.array([4, 0, 3])
    part, direct = moments(x, y).restrict(kept), moments(x[:, kept], y)
    np.testing.assert_allclose(part.scatter, direct.scatter, rtol=1e-12)
    np.testing.assert_allclose(part.mean, direct.mean, rtol=1e-12)
    np.testing.assert_allclose(part.class_means, direct.class_means, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: moments(np.zeros((0, 3))), r"\(0, 3\)"),
        (lambda: moments(np.zeros(3)), "n_samples, n_neurons"),
        (lambda: moments(np.zeros((3, 2)), chunk=0), "chunk=0"),
        (lambda: moments(np.zeros((3, 2)), [0, 1]), "3 integers"),
        (lambda: moments(np.zeros((3, 2)), [0, 1, 2], n_classes=2), "0 to 2.*0..1"),
        (lambda: moments(np.array([[1.0, 2.0], [1.0, np.nan]])), "neuron 1.*NaN"),
        (lambda: moments(np.zeros((3, 2))).restrict([2]), "neuron 2.*0 to 1"),
        (lambda: moments(np.zeros((3, 2))).restrict([0.5]), "integers"),
        (lambda: moments(np.eye(2)).merge(moments(np.eye(3))), "2 and 3 neurons"),
        (lambda: moments(np.eye(2)).merge(moments(np.eye(2), [0, 1])), "no and 2 classes"),
    ],
)
def test_mistakes_are_named_in_one_line(call, says):
    with pytest.raises(CriticalMassError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
