"""Degrees of freedom, and the penalties that are equivalent to a choice of neurons."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from criticalmass.errors import CriticalMassError
from criticalmass.theory.degrees_of_freedom import degrees_of_freedom, full_penalty
from criticalmass.theory.neuron_penalties import TOLERANCE, neuron_penalties

SPECTRA = arrays(np.float64, st.integers(2, 30), elements=st.floats(0.0, 50.0)).filter(
    lambda e: e.max() > 1e-2
)
PENALTIES = st.floats(1e-4, 5.0)


def covariance(rng: np.random.Generator, d: int) -> np.ndarray:
    """A correlation matrix whose neurons are far from exchangeable."""
    x = rng.standard_normal((3 * d, d)) * np.geomspace(5, 0.2, d)
    x = x @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    x[:, : d // 3] += 4 * rng.standard_normal((3 * d, 1))
    return np.corrcoef(x.T)


def test_degrees_of_freedom_by_hand() -> None:
    assert degrees_of_freedom([1.0, 3.0], 1.0) == pytest.approx(1.25)
    assert degrees_of_freedom([1.0, 3.0], [1.0, 3.0]) == pytest.approx([1.25, 0.75])
    assert degrees_of_freedom([0.0, 3.0], 1e-12) == pytest.approx(1.0)


@given(SPECTRA, PENALTIES, st.data())
def test_the_penalty_solves_the_law_of_free_sketches(
    spectrum: np.ndarray, l2: float, data: st.DataObject
) -> None:
    d = spectrum.size
    k = data.draw(st.integers(1, d))
    mu = full_penalty(spectrum, [k], l2)[0]
    df = degrees_of_freedom(spectrum, mu)
    assert mu * (k - df) == pytest.approx(l2 * (d - df), rel=1e-8, abs=1e-9)
    assert mu >= l2 * (1 - 1e-12)


@given(SPECTRA, PENALTIES)
def test_fewer_neurons_are_a_larger_penalty_and_all_add_none(
    spectrum: np.ndarray, l2: float
) -> None:
    mu = full_penalty(spectrum, range(1, spectrum.size + 1), l2)
    assert (np.diff(mu) < 0).all()
    assert mu[-1] == l2


def test_without_penalty_k_neurons_are_k_degrees_of_freedom() -> None:
    spectrum = np.geomspace(30, 1e-2, 50)
    sizes = [1, 7, 25, 49]
    mu = full_penalty(spectrum, sizes, 1e-12)
    assert degrees_of_freedom(spectrum, mu) == pytest.approx(sizes, rel=1e-6)


def test_white_neurons_by_hand() -> None:
    # (1 + l2) d / (1 + mu) = k
    assert full_penalty(np.ones(20), [5], 0.5)[0] == pytest.approx(1.5 * 20 / 5 - 1)


@pytest.mark.parametrize("sizes", [[0], [6], [], [1.5]])
def test_sizes_outside_the_layer_are_refused(sizes: list[int]) -> None:
    with pytest.raises(CriticalMassError, match=r"size|n_kept"):
        full_penalty(np.ones(5), sizes, 0.1)


@pytest.mark.parametrize("l2", [0.0, -1.0, np.inf, np.nan])
def test_a_penalty_is_above_zero(l2: float) -> None:
    with pytest.raises(CriticalMassError, match="above 0"):
        full_penalty(np.ones(5), [2], l2)
    with pytest.raises(CriticalMassError, match="above 0"):
        degrees_of_freedom(np.ones(5), min(l2, 0.0))


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 25), st.data(), st.floats(1e-3, 2.0), st.integers(0, 1000))
def test_every_neuron_carries_its_share_of_the_degrees_of_freedom(
    d: int, data: st.DataObject, l2: float, seed: int
) -> None:
    a = covariance(np.random.default_rng(seed), d)
    share = data.draw(st.integers(1, d - 1)) / d
    medium = neuron_penalties(a, share, l2, np.ones(d))
    shifted = a + l2 * np.eye(d)
    shares = np.diag(shifted @ np.linalg.inv(shifted + np.diag(medium.penalties)))
    assert shares == pytest.approx(np.full(d, share), rel=2 * TOLERANCE)
    assert (medium.penalties > 0).all()


def test_exchangeable_neurons_share_one_penalty() -> None:
    d, l2, k = 12, 0.1, 4
    a = np.full((d, d), 0.4) + 0.6 * np.eye(d)
    medium = neuron_penalties(a, k / d, l2, np.ones(d))
    common = full_penalty(np.linalg.eigvalsh(a), [k], l2)[0] - l2
    assert medium.penalties == pytest.approx(np.full(d, common), rel=0.02)


def test_uncorrelated_neurons_are_exact_against_all_subsets() -> None:
    variances, l2, k = np.array([4.0, 1.0, 0.5, 0.1, 2.0]), 0.3, 2
    exact = np.zeros(5)
    subsets = list(combinations(range(5), k))
    for subset in subsets:
        exact[list(subset)] += 1.0 / (variances[list(subset)] + l2) / len(subsets)
    medium = neuron_penalties(np.diag(variances), k / 5, l2, np.ones(5))
    assert np.diag(medium.resolvent) == pytest.approx(exact, rel=TOLERANCE)
    # One penalty for all neurons is not exact, because it treats the choice as a rotation.
    mu = full_penalty(variances, [k], l2)[0]
    assert np.abs(1 / (variances + mu) - exact).max() > 0.1 * exact.max()


def test_the_mean_over_all_subsets_is_nearer_with_a_penalty_per_neuron() -> None:
    d, k, l2 = 12, 4, 0.05
    a = covariance(np.random.default_rng(1), d)
    mean = np.zeros((d, d))
    subsets = list(combinations(range(d), k))
    for subset in subsets:
        index = np.ix_(subset, subset)
        mean[index] += np.linalg.inv(a[index] + l2 * np.eye(k)) / len(subsets)
    mu = full_penalty(np.linalg.eigvalsh(a), [k], l2)[0]
    common_error = np.linalg.norm(np.linalg.inv(a + mu * np.eye(d)) - mean)
    medium = neuron_penalties(a, k / d, l2, np.ones(d))
    assert np.linalg.norm(medium.resolvent - mean) < 0.7 * common_error


def test_a_layer_without_a_solution_is_an_error() -> None:
    a = covariance(np.random.default_rng(0), 9)
    with pytest.raises(CriticalMassError, match="law='exchangeable'"):
        neuron_penalties(a, 0.5, 0.1, np.full(9, 50.0), most_rounds=1)
