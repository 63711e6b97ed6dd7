"""Representations of known redundancy: the expected values are right, and sweeps recover them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, multivariate_normal, norm

import criticalmass as cm
from criticalmass.theory import synthetic
from criticalmass.theory.synthetic import Population

SMALL = {
    "diffuse": synthetic.diffuse(6, 2, noise=0.5, seed=1),
    "pure": synthetic.diffuse(6, 3, seed=2),
    "duplicated": synthetic.duplicated(3, 2),
    "needle": synthetic.needle(6, at=2),
    "nested": synthetic.nested(6, decay=0.6),
}


def by_inverse(population: Population, subset: list[int]) -> float:
    """Phi(D / 2), the distance from the pseudo-inverse of the covariance within a class."""
    shift = (population.means[1] - population.means[0])[subset]
    within = (population.loadings @ population.loadings.T)[np.ix_(subset, subset)]
    inverse = np.linalg.pinv(within, rcond=1e-9, hermitian=True)
    return float(norm.cdf(0.5 * np.sqrt(shift @ inverse @ shift)))


@pytest.mark.parametrize("name", SMALL)
def test_prefix_accuracy_is_the_mahalanobis_distance_of_every_prefix(name: str) -> None:
    population = SMALL[name]
    orders = np.array(list(itertools.permutations(range(6)))[::37])
    got = synthetic.prefix_accuracy(population, orders)
    want = [[by_inverse(population, list(o[:k])) for k in range(1, 7)] for o in orders]
    np.testing.assert_allclose(got, want, atol=1e-9)
    np.testing.assert_allclose(synthetic.prefix_accuracy(population, orders[0]), want[0], atol=1e-9)


@pytest.mark.parametrize("name", ["duplicated", "needle"])
def test_closed_form_of_random_subsets_is_the_mean_over_all_of_them(name: str) -> None:
    population = SMALL[name]
    for k in range(1, 7):
        every = [by_inverse(population, list(s)) for s in itertools.combinations(range(6), k)]
        assert population.exact["random"][k - 1] == pytest.approx(np.mean(every), abs=1e-9)


@pytest.mark.parametrize("name", ["needle", "nested"])
def test_closed_form_of_the_prefixes(name: str) -> None:
    population = SMALL[name]
    want = [by_inverse(population, list(range(k))) for k in range(1, 7)]
    np.testing.assert_allclose(population.exact["first"], want, atol=1e-9)


def test_rotated_factors_follow_a_beta_law() -> None:
    """k coordinates of a random direction in F dimensions have a Beta(k/2, (F-k)/2) share."""
    n_factors, separation = 5, 3.0
    mean = np.zeros(n_factors)
    for seed in range(60):
        population = synthetic.diffuse(40, n_factors, separation=separation, seed=seed)
        mean += synthetic.expected(population, n_orders=40, seed=seed).mean[:n_factors] / 60
    for k in range(1, n_factors):
        law = beta(k / 2, (n_factors - k) / 2)
        want = law.expect(lambda share: norm.cdf(0.5 * separation * np.sqrt(share)))
        assert mean[k - 1] == pytest.approx(want, abs=0.01)
    assert mean[-1] == pytest.approx(norm.cdf(0.5 * separation), abs=1e-9)


def test_as_many_neurons_as_factors_are_enough() -> None:
    for n_factors in (3, 7):
        population = synthetic.diffuse(30, n_factors, seed=n_factors)
        assert synthetic.critical_mass(population, 1.0, n_orders=50) == n_factors


def test_critical_mass_by_hand() -> None:
    # Linear from 0.5 to Phi(3/2) = 0.9332: 0.9 of the final value is 0.8399, 0.7846 of the way.
    assert synthetic.critical_mass(synthetic.needle(100), 0.9) == 79
    assert synthetic.critical_mass(synthetic.needle(100, at=4), 0.9, selector="first") == 5
    # One block of three: Phi(0.866) = 0.807, three: 0.9332; two: Phi(1.2247) = 0.8896.
    population = synthetic.duplicated(3, 4)
    assert population.exact["random"][0] == pytest.approx(norm.cdf(0.8660254), abs=1e-6)
    # Two neurons are of one block with probability 3/11.
    pair = 3 / 11 * norm.cdf(0.8660254) + 8 / 11 * norm.cdf(1.2247449)
    assert population.exact["random"][1] == pytest.approx(pair, abs=1e-6)
    assert pair >= 0.9 * norm.cdf(1.5) > norm.cdf(0.8660254)
    assert synthetic.critical_mass(population, 0.9) == 2


def test_a_copy_that_differs_without_noise_separates_the_classes() -> None:
    twins = Population("twins", np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[1.0], [1.0]]))
    np.testing.assert_allclose(
        synthetic.prefix_accuracy(twins, [0, 1]), [norm.cdf(0.5), 1.0], atol=1e-12
    )


def test_the_covariance_is_that_of_both_classes_together() -> None:
    population = SMALL["diffuse"]
    data = synthetic.draw(population, n_train=40_000, n_test=2, seed=0)
    got = np.cov(data.x_train.T.astype(float), bias=True)
    np.testing.assert_allclose(got, population.covariance, atol=0.15)
    within = data.x_train[data.y_train == 1].astype(float)
    law = multivariate_normal(population.means[1], population.covariance)
    assert np.isfinite(law.logpdf(within[:5])).all()
    np.testing.assert_allclose(within.mean(axis=0), population.means[1], atol=0.05)


def test_a_sample_is_balanced_shuffled_and_repeatable() -> None:
    one, two = (synthetic.draw(SMALL["nested"], n_train=101, n_test=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.x_train, two.x_train)
    assert not np.array_equal(one.x_train[:50], one.x_test)
    assert np.bincount(one.y_train).tolist() == [51, 50]
    assert one.y_test[:8].tolist() != sorted(one.y_test[:8].tolist())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: synthetic.diffuse(4, 5), "n_factors=5 but 4 neurons"),
        (lambda: synthetic.diffuse(noise=-1.0), "noise=-1.0"),
        (lambda: synthetic.duplicated(0, 3), "n_neurons=0"),
        (lambda: synthetic.needle(4, at=4), "at=4"),
        (lambda: synthetic.needle(separation=0.0), "separation=0.0"),
        (lambda: synthetic.nested(decay=1.5), "decay=1.5"),
        (lambda: synthetic.draw(SMALL["needle"], n_test=1), "n_test=1"),
        (lambda: synthetic.expected(SMALL["needle"], measure="ckaa"), "did you mean 'cka'"),
        (lambda: synthetic.expected(SMALL["needle"], selector="frist"), "did you mean 'first'"),
        (lambda: synthetic.critical_mass(SMALL["needle"], 1.2), "delta=1.2"),
    ],
)
def test_invalid_parameters_are_refused(make, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(cm.CriticalMassError, match=says):
        make()


# --- sweeps recover the expected values ---

FRACTIONS = [k / 24 for k in range(1, 25)]
RECOVERED = {
    "diffuse": synthetic.diffuse(24, 6, noise=0.3, seed=3),
    "duplicated": synthetic.duplicated(6, 4),
    "needle": synthetic.needle(24),
    "nested": synthetic.nested(24, decay=0.8),
}


@pytest.mark.parametrize("name", RECOVERED)
def test_sweep_and_redundancy_find_the_critical_mass(name: str, tmp_path: Path) -> None:
    population = RECOVERED[name]
    data = synthetic.draw(population, n_train=3000, n_test=3000, seed=4)
    store = synthetic.to_store(data, tmp_path / "features")
    run = cm.sweep(
        store, out=tmp_path / "run", selectors=("random", "first"), seeds=12,
        fractions=FRACTIONS, measures=("logistic", "cka"),
    )  # fmt: skip
    table = cm.redundancy(run, 0.9, "interpolated").set_index(["selector", "measure"])
    for selector, measure in itertools.product(("random", "first"), ("logistic", "cka")):
        name = "accuracy" if measure == "logistic" else measure
        truth = synthetic.critical_mass(population, 0.9, measure=name, selector=selector)
        row = table.loc[(selector, measure)]
        assert row["critical_mass_low"] - 1 <= truth <= row["critical_mass_high"] + 1
        assert abs(row["critical_mass"] - truth) <= (4 if selector == "random" else 1)
