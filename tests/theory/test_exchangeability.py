from __future__ import annotations

import numpy as np
import pytest
from benchmarks.exchangeable import synthetic_layer, wilson

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.theory.exchangeability import (
    _random_mixture,
    _unstandardised_spectrum,
    exchangeability_test,
)

pytestmark = pytest.mark.usefixtures("all_neurons_compared")


def p_values(kind, power=1.0, *, repeats=6, **options):
    results = [
        exchangeability_test(
            synthetic_layer(kind, power, (200, 48), seed), n_draws=39, seed=seed, **options
        )
        for seed in range(repeats)
    ]
    return np.array([[r.order_p, r.structure_p, r.p_value] for r in results])


@pytest.mark.parametrize("standardise", [True, False])
def test_exchangeable_neurons_are_rarely_rejected(standardise):
    # 30 layers at level 0.1: 3 expected; 9 or more has a chance of .002 per p-value.
    hits = (p_values("exchangeable", 1.0, repeats=30, standardise=standardise) <= 0.1).sum(axis=0)
    assert hits.max() <= 8


@pytest.mark.parametrize("kind", ["matryoshka", "duplicated", "sparse"])
def test_structure_is_detected(kind):
    assert (p_values(kind)[:, 1] <= 0.025).mean() >= 0.8


def test_order_is_detected_only_where_there_is_one():
    c = synthetic_layer("matryoshka", 1.0, (200, 48), 0)
    shuffled = np.random.default_rng(1).permutation(48)
    ordered = exchangeability_test(c, standardise=False, n_draws=99)
    mixed = exchangeability_test(c[np.ix_(shuffled, shuffled)], standardise=False, n_draws=99)
    assert ordered.order_p <= 0.03
    assert mixed.order_p > 0.05
    assert ordered.features[0].deviation > mixed.features[0].deviation
    assert not ordered.is_diffuse()


def test_the_parts_of_the_p_value():
    result = exchangeability_test(synthetic_layer("sparse", 1.0, (200, 48), 3), n_draws=39)
    assert result.p_value == pytest.approx(min(1.0, 2 * min(result.order_p, result.structure_p)))
    assert result.structure_p == pytest.approx(1 / 40)
    assert (result.n_draws, result.n_compared) == (39, 48)
    assert max(f.deviation for f in result.features[1:]) > 5


def test_the_scale_of_neurons_counts_only_when_they_are_raw():
    c = synthetic_layer("exchangeable", 0.5, (200, 48), 2)
    scale = np.exp(0.8 * np.random.default_rng(0).standard_normal(48))
    scaled = c * scale[:, None] * scale
    plain, same = exchangeability_test(c, n_draws=39), exchangeability_test(scaled, n_draws=39)
    assert (same.order_p, same.structure_p) == (plain.order_p, plain.structure_p)
    assert exchangeability_test(scaled, standardise=False, n_draws=39).structure_p == 1 / 40


def test_standardised_mixtures_get_the_layers_spectrum():
    rng = np.random.default_rng(0)
    eigenvalues = np.linalg.eigvalsh(
        cm.theory.correlation(synthetic_layer("exchangeable", 2.0, (200, 48), 0))
    )
    before = _unstandardised_spectrum(np.maximum(eigenvalues, 0.0), rng)

    def total(spectrum):
        drawn = [np.linalg.eigvalsh(_random_mixture(spectrum, True, rng)) for _ in range(40)]
        return (np.mean(drawn, axis=0) ** 2).sum()

    target = (eigenvalues**2).sum()
    assert abs(total(before) / target - 1) < 0.04
    assert abs(total(np.maximum(eigenvalues, 0.0)) / target - 1) > 0.06


def test_a_rotation_keeps_the_spectrum():
    values = np.array([5.0, 2.0, 1.0, 0.5, 0.0])
    drawn = _random_mixture(values, False, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.eigvalsh(drawn), values[::-1], atol=1e-12)


def test_constant_neurons_are_left_out_and_wide_layers_are_sampled():
    c = np.zeros((320, 320))
    c[20:, 20:] = synthetic_layer("exchangeable", 0.5, (400, 300), 1)
    result = exchangeability_test(c, n_draws=19)
    assert result.n_compared == 256
    assert np.isfinite([f.deviation for f in result.features]).all()


def test_equal_seeds_give_equal_results():
    c = synthetic_layer("exchangeable", 1.0, (100, 20), 0)
    assert exchangeability_test(c, n_draws=19) == exchangeability_test(c, n_draws=19)


def test_uncorrelated_equal_neurons_are_diffuse():
    assert exchangeability_test(np.eye(30), n_draws=39).is_diffuse()


def test_wilson_by_hand():
    # 0 of n: the upper end is z^2 / (n + z^2).
    low, high = wilson(0, 100)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(3.8415 / 103.8415, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: exchangeability_test(np.eye(5)), "5 neurons vary"),
        (lambda: exchangeability_test(np.eye(30), n_draws=5), "n_draws=5"),
        (lambda: exchangeability_test(np.ones((3, 4))), "square"),
    ],
)
def test_mistakes_are_named_in_one_line(call, says):
    with pytest.raises(CriticalMassError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
