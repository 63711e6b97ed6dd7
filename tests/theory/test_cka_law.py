from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from benchmarks.figures_theory import (
    critical_mass_against_width,
    law_over_measured,
    redundancy_against_decorrelation,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.draw import new_axes
from criticalmass.theory.cka import (
    cka_critical_mass_interval,
    debiased_terms,
    expected_debiased_cka,
)
from criticalmass.theory.cka_moments import pair_sums, subset_moments
from criticalmass.theory.cka_remainder import average_subsets
from criticalmass.theory.what_if import (
    decorrelation_what_if,
    first_order_cka,
    first_order_critical_mass,
    width_what_if,
)


def scatter(x):
    centred = x - x.mean(axis=0)
    return centred.T @ centred


def layer(seed, n=60, d=7, spread=0.3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    return x * np.exp(spread * rng.standard_normal(d))


def subset_cka(c, subset):
    inner = np.linalg.norm(c[np.ix_(subset, subset)])
    return np.linalg.norm(c[list(subset)]) ** 2 / (inner * np.linalg.norm(c)) if inner else 0.0


def enumerated(terms, k):
    """N and D of every subset of k neurons, from their definition."""
    d = len(terms)
    subsets = [list(s) for s in combinations(range(d), k)]
    n = np.array([terms[s].sum() for s in subsets])
    return n, np.array([terms[np.ix_(s, s)].sum() for s in subsets])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 10**6), st.booleans())
def test_moments_equal_those_of_all_subsets(d, seed, negative):
    rng = np.random.default_rng(seed)
    terms = rng.random((d, d)) - (0.3 if negative else 0.0)
    terms += terms.T + 3.0 * np.eye(d)
    law = subset_moments(pair_sums(terms), np.arange(1, d + 1))
    for k in range(1, d + 1):
        n, within = enumerated(terms, k)
        en, ed = n.mean(), within.mean()
        i = k - 1
        assert law.mean_n[i] == pytest.approx(en, rel=1e-10)
        assert law.mean_d[i] == pytest.approx(ed, rel=1e-10)
        assert law.var_n[i] == pytest.approx(n.var() / en**2, abs=1e-10)
        assert law.var_d[i] == pytest.approx(within.var() / ed**2, abs=1e-10)
        cov = np.mean((n - en) * (within - ed)) / (en * ed)
        assert law.cov[i] == pytest.approx(cov, abs=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(2, 30), st.integers(0, 10**6))
def test_one_neuron_and_the_whole_layer_are_exact(d, n, seed):
    c = scatter(layer(seed, n, d, spread=1.0))
    law = cm.expected_cka(c, [1, d])
    values = [subset_cka(c, [i]) for i in range(d)]
    assert law.mean[0] == pytest.approx(np.mean(values), abs=1e-12)
    assert law.std[0] == pytest.approx(np.std(values), abs=1e-12)
    assert (law.mean[1], law.std[1]) == (1.0, 0.0)


def test_the_law_is_near_the_mean_of_all_subsets():
    c = scatter(layer(3, d=14))
    law = cm.expected_cka(c, np.arange(1, 15), remainder=False)
    for k in (4, 7, 10):
        values = [subset_cka(c, s) for s in combinations(range(14), k)]
        first = first_order_cka(cm.diagonal_share(c), 14, [k])[0]
        assert law.mean[k - 1] == pytest.approx(np.mean(values), abs=0.005)
        assert abs(law.mean[k - 1] - np.mean(values)) < abs(first - np.mean(values))
        assert law.std[k - 1] == pytest.approx(np.std(values), rel=0.12)


@pytest.mark.parametrize("giants", [0, 1, 4])
def test_the_law_against_measured_subsets(giants):
    x = layer(1, n=400, d=90)
    x[:, :giants] *= 40.0
    c = scatter(x)
    rng = np.random.default_rng(5)
    curves = np.array([cm.prefix_cka(c, rng.permutation(90)) for _ in range(2000)])
    law = cm.expected_cka(c, np.arange(1, 91))
    noise = curves.std(axis=0) * (2000**-0.5 + 2000**-0.5)
    # From 10 neurons on, as docs/theory.md claims; 4 standard errors of both averages.
    error = np.abs(law.mean - curves.mean(axis=0)) - 4 * noise
    assert error[9:].max() < 0.003
    assert np.abs(law.std - curves.std(axis=0))[9:].max() < (0.005 if giants == 0 else 0.06)


def test_neurons_of_large_variance_need_the_remainder():
    x = layer(1, n=400, d=90)
    x[:, :1] *= 40.0
    c = scatter(x)
    without = cm.expected_cka(c, [20], remainder=False)
    corrected = cm.expected_cka(c, [20])
    assert without.closed_form.all()
    assert not corrected.closed_form.any()
    rng = np.random.default_rng(5)
    want = np.mean([cm.prefix_cka(c, rng.permutation(90))[19] for _ in range(6000)])
    assert abs(without.mean[0] - want) > 0.012
    assert abs(corrected.mean[0] - want) < 0.004


def test_control_variates_leave_little_noise_where_the_expansion_is_right():
    # With neurons nearly alike, 64 orders give the mean of 4,000 within .0002.
    c = scatter(layer(2, n=4000, d=60, spread=0.0) + 0.0)
    c = np.eye(60) + 0.05 * c / np.diagonal(c).max()
    sizes = np.array([20])
    mean, _ = average_subsets(c, subset_moments(pair_sums(c * c), sizes), 64, 0)
    rng = np.random.default_rng(9)
    want = np.mean([cm.prefix_cka(c, rng.permutation(60))[19] for _ in range(4000)])
    assert mean[0] == pytest.approx(want, abs=2e-4)


def test_uncorrelated_equal_neurons_by_hand():
    law = cm.expected_cka(np.eye(16), np.arange(1, 17))
    np.testing.assert_allclose(law.mean, np.sqrt(np.arange(1, 17) / 16), rtol=1e-12)
    np.testing.assert_allclose(law.std, 0.0, atol=1e-12)
    assert law.closed_form.all()
    assert cm.cka_critical_mass(np.eye(16), 0.5) == 4


@pytest.mark.parametrize("c", [np.ones((6, 6)), np.full((1, 1), 3.0)])
def test_rank_one_with_equal_neurons_is_1_throughout(c):
    law = cm.expected_cka(c, np.arange(1, len(c) + 1))
    np.testing.assert_allclose(law.mean, 1.0, rtol=1e-12)
    np.testing.assert_allclose(law.std, 0.0, atol=1e-12)
    assert cm.cka_critical_mass(c, 1.0) == 1


def test_constant_neurons_count_and_score_zero():
    c = np.diag([1.0, 1.0, 0.0, 0.0])
    law = cm.expected_cka(c, [1, 2, 4])
    assert law.mean[0] == pytest.approx(np.sqrt(0.5) / 2)
    # Of the 6 pairs one has both varying neurons (1), four have one of them, one has none (0).
    assert law.mean[1] == pytest.approx((1 + 4 * np.sqrt(0.5)) / 6, abs=0.02)


def test_fewer_samples_than_neurons():
    c = scatter(layer(4, n=6, d=40))
    law = cm.expected_cka(c, [10, 20])
    rng = np.random.default_rng(0)
    want = np.mean([cm.prefix_cka(c, rng.permutation(40))[[9, 19]] for _ in range(3000)], axis=0)
    np.testing.assert_allclose(law.mean, want, atol=0.005)


@pytest.mark.parametrize("delta", [0.3, 0.8, 0.9, 0.95, 1.0])
def test_the_critical_mass_is_where_the_curve_reaches_delta(delta):
    c = scatter(layer(6, n=200, d=50))
    mass = cm.cka_critical_mass(c, delta)
    law = cm.expected_cka(c, np.arange(1, 51))
    assert law.mean[mass - 1] >= delta - 1e-12
    assert (law.mean[: mass - 1] < delta).all()
    low, high = cka_critical_mass_interval(c, delta, n_seeds=5)
    assert low <= mass <= high
    narrow = cka_critical_mass_interval(c, delta, n_seeds=500)
    assert low <= narrow[0] <= narrow[1] <= high


def test_the_interval_holds_the_means_of_that_many_seeds():
    c = scatter(layer(8, n=300, d=64))
    rng = np.random.default_rng(1)
    values = np.array([cm.prefix_cka(c, rng.permutation(64))[15] for _ in range(2000)])
    low, high = cm.expected_cka(c, [16]).interval(5)
    means = values.reshape(-1, 5).mean(axis=1)
    assert 0.91 < np.mean((means >= low[0]) & (means <= high[0])) < 0.99


def test_debiased_terms_sum_to_debiased_cka():
    x = layer(11, n=25, d=9) + 4.0
    terms = debiased_terms(x)
    for subset in ([2], [0, 5, 7], list(range(9))):
        want = cm.linear_cka(x[:, subset], x, debiased=True)
        inner = terms[np.ix_(subset, subset)].sum()
        got = terms[subset].sum() / np.sqrt(inner * terms.sum())
        assert got == pytest.approx(want, abs=1e-10)


def test_the_debiased_law_against_all_subsets():
    x = layer(12, n=80, d=12)
    law = expected_debiased_cka(x, [6, 9, 12])
    for i, k in enumerate((6, 9)):
        values = [
            cm.linear_cka(x[:, list(s)], x, debiased=True)
            for s in list(combinations(range(12), k))[::4]
        ]
        assert law.mean[i] == pytest.approx(np.mean(values), abs=0.006)
    assert law.mean[2] == 1.0


@given(st.integers(2, 400), st.floats(0.0, 1.0), st.floats(0.05, 1.0))
def test_the_closed_critical_mass_solves_the_first_order(d, position, delta):
    share = 1 / d + position * (1 - 1 / d)
    mass = first_order_critical_mass(share, d, delta)
    values = first_order_cka(share, d, np.arange(1, d + 1))
    assert values[mass - 1] >= delta - 1e-6
    assert mass == 1 or values[mass - 2] < delta + 1e-6


def test_a_wider_layer_with_the_same_spectrum_needs_the_same_number():
    # Neurons copied in pairs: same non-zero eigenvalues (times 2), twice the width.
    c = cm.theory.correlation(scatter(layer(7, n=500, d=200, spread=0.0)))
    wide = np.kron(np.ones((2, 2)), c)
    table = width_what_if(c, [200, 400, 100_000], deltas=[0.9])
    masses = table["critical_mass"].tolist()
    assert masses[0] == pytest.approx(cm.cka_critical_mass(c, 0.9), abs=2)
    assert masses[1] == pytest.approx(cm.cka_critical_mass(wide, 0.9), abs=3)
    limit = (cm.participation_ratio(c) - 1) * 0.81 / (1 - 0.81)
    assert masses[2] == pytest.approx(limit, rel=0.01)


def test_decorrelation_ends_at_uncorrelated_neurons():
    c = cm.theory.correlation(scatter(layer(9, n=300, d=36)))
    table = decorrelation_what_if(c, [0.0, 0.5, 1.0], deltas=[0.9])
    masses = table["critical_mass"].tolist()
    assert masses[0] == cm.cka_critical_mass(c, 0.9)
    assert masses == sorted(masses)
    # Uncorrelated equal neurons: sqrt(k / d) = .9.
    assert masses[2] == int(np.ceil(0.81 * 36))
    assert table["diagonal_share"].tolist()[2] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: cm.expected_cka(c[:2], [1]), "square"),
        (lambda c: cm.cka_critical_mass(c[0], 0.9), "square"),
        (lambda c: cm.expected_cka(c + np.triu(np.ones((7, 7))), [1]), "not symmetric"),
        (lambda c: cm.expected_cka(c * np.nan, [1]), "NaN"),
        (lambda c: cm.expected_cka(c, [0]), "n_kept=0.*7 neurons"),
        (lambda c: cm.expected_cka(c, [3, 8]), "n_kept=8.*7 neurons"),
        (lambda c: cm.expected_cka(c, [0.5]), "integers"),
        (lambda c: cm.expected_cka(c, []), "integers"),
        (lambda c: cm.cka_critical_mass(c, 1.2), "delta=1.2"),
        (lambda c: cm.expected_cka(c, [1]).interval(0), "n_seeds=0"),
        (lambda c: cka_critical_mass_interval(c, 0.9, level=1.0), "level=1.0"),
        (lambda c: expected_debiased_cka(c[:3], [1]), "at least 4 samples, got 3"),
        (lambda c: first_order_critical_mass(1.5, 7, 0.9), "share 1.5"),
        (lambda c: width_what_if(np.eye(7), [5]), "at least 7"),
        (lambda c: decorrelation_what_if(c, [1.1]), "strength 1.1"),
    ],
)
def test_mistakes_are_named_in_one_line(call, says):
    with pytest.raises(CriticalMassError, match=says) as caught:
        call(scatter(layer(0)))
    assert "\n" not in str(caught.value)


def test_each_figure_draws_the_values_of_its_table():
    c = scatter(layer(5, n=100, d=30))
    law = cm.expected_cka(c, np.arange(1, 31))
    measured = pd.DataFrame({"n_kept": [3, 10, 30], "value": [0.5, 0.8, 1.0]})
    _, ax = new_axes()
    assert law_over_measured(measured, law, ax, n_neurons=30) is ax
    np.testing.assert_allclose(ax.lines[0].get_ydata(), law.mean)
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [0.1, 1 / 3, 1.0])
    table = width_what_if(c, [30, 60])
    _, ax = new_axes()
    critical_mass_against_width(table, ax)
    want = table[table["delta"] == 0.8]["critical_mass"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), want)
    table = decorrelation_what_if(c, [0.0, 1.0])
    _, ax = new_axes()
    redundancy_against_decorrelation(table, ax)
    assert len(ax.lines) == 3
    np.testing.assert_allclose(ax.lines[2].get_ydata(), table[table["delta"] == 0.95]["dr"])
    with pytest.raises(CriticalMassError, match="no dr to draw"):
        redundancy_against_decorrelation(table[:0], ax)
    with pytest.raises(CriticalMassError, match="no measured CKA"):
        law_over_measured(measured[:0], law, ax, n_neurons=30)
