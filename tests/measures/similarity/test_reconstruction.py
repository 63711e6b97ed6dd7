"""R^2 of the dropped neurons: that of least squares, whatever the sizes and scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import r2_score

from criticalmass.core.moments import moments
from criticalmass.core.rows import CHUNK_ROWS
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import get_similarity
from criticalmass.measures.similarity.cka_jackknife import sample_blocks
from criticalmass.measures.similarity.reconstruction import RIDGE, prefix_reconstruction
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer

Array = NDArray[Any]


def least_squares(train: Array, test: Array, order: Array, k: int) -> float:
    """1 - squared errors / squares about the training mean, of the neurons after the first k."""
    d = train.shape[1]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale[scale == 0.0] = 1.0
    x, t = ((train - mean) / scale)[:, order], ((test - mean) / scale)[:, order]
    # The ridge as further rows.
    a = np.vstack([x[:, :k], np.sqrt(RIDGE * d) * np.eye(k)])
    b = np.vstack([x[:, k:], np.zeros((k, d - k))])
    weights = np.linalg.lstsq(a, b, rcond=None)[0]
    errors = ((t[:, k:] - t[:, :k] @ weights) * scale[order[k:]]) ** 2
    return float(1.0 - errors.sum() / ((test - mean)[:, order[k:]] ** 2).sum())


def draw(n: int, d: int, seed: int, rank: int | None = None) -> tuple[Array, Array, Array]:
    """Training and test rows of correlated neurons with offsets, and an order."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((rank or d, d))
    offset = 5.0 * rng.standard_normal(d)
    rows = [rng.standard_normal((size, len(mix))) @ mix + offset for size in (n, 40)]
    return rows[0], rows[1], rng.permutation(d)


def values_of(train: Array, test: Array, order: Array, sizes: Any) -> Array:
    return prefix_reconstruction(test, moments(train), order[None], sizes)[0][0]


# More rows than neurons, as many, fewer, two and one.
@pytest.mark.parametrize(("n", "d"), [(200, 9), (9, 9), (5, 12), (2, 6), (1, 4), (40, 2)])
def test_it_is_that_of_ridge_regression_on_standardised_neurons(n: int, d: int) -> None:
    train, test, order = draw(n, d, seed=n)
    expected = [least_squares(train, test, order, k) for k in range(1, d)]
    values = values_of(train, test, order, range(1, d))
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)


def test_with_many_rows_it_is_that_of_least_squares_by_scikit_learn() -> None:
    train, test, order = draw(20_000, 8, seed=0)
    design = np.c_[train[:, order[:5]], np.ones(len(train))]
    weights = np.linalg.lstsq(design, train[:, order[5:]], rcond=None)[0]
    predicted = np.c_[test[:, order[:5]], np.ones(len(test))] @ weights
    expected = r2_score(test[:, order[5:]], predicted, multioutput="variance_weighted")
    # scikit-learn centres the test rows on their own mean, and has no ridge.
    assert values_of(train, test, order, (5,))[0] == pytest.approx(expected, abs=0.03)


def test_neurons_of_a_low_rank_are_known_from_as_many_others() -> None:
    train, test, order = draw(5000, 30, seed=1, rank=4)
    values = values_of(train, test, order, (1, 3, 4, 10, 30))
    assert values[1] < 0.99
    assert (values[2:4] > 0.999).all()
    assert values[4] == 1.0


def test_independent_neurons_are_not_known_at_all() -> None:
    rng = np.random.default_rng(2)
    train, test = rng.standard_normal((4000, 10)), rng.standard_normal((1000, 10))
    values = values_of(train, test, np.arange(10), (1, 5, 9))
    assert (np.abs(values) < 0.02).all()


def test_there_is_no_peak_of_errors_where_as_many_neurons_as_rows_are_kept() -> None:
    train, test, order = draw(40, 80, seed=3, rank=20)
    rng = np.random.default_rng(3)
    noisy = [rows + rng.standard_normal(rows.shape) for rows in (train, test)]
    values = values_of(noisy[0], noisy[1], order, (10, 30, 38, 40, 42, 50, 70))
    assert (np.diff(values) > -0.05).all()
    assert (values[1:] > 0.7).all()


@pytest.mark.parametrize("factor", [1e18, 1e-30, 1e-40])
def test_a_common_unit_does_not_matter(factor: float) -> None:
    train, test, order = draw(50, 7, seed=4)
    expected = values_of(train, test, order, (1, 3, 6))
    np.testing.assert_allclose(
        values_of(train * factor, test * factor, order, (1, 3, 6)), expected, rtol=1e-9
    )


def test_units_of_single_neurons_are_weights_alone() -> None:
    train, test, order = draw(50, 6, seed=5)
    factors = np.ones(6)
    factors[order[-1]] = 1e12  # Nothing but the last neuron counts.
    other = values_of(train * factors, test * factors, order, (2,))[0]
    rest = np.r_[order[:2], order[-1:]]
    # With the ridge of 3 neurons in place of 6.
    assert other == pytest.approx(
        values_of(train[:, rest], test[:, rest], np.arange(3), (2,))[0], abs=0.01
    )


def test_constant_and_repeated_neurons_are_harmless() -> None:
    train, test, order = draw(300, 6, seed=6)
    plain = values_of(train, test, order, (2, 4))
    flat = [np.c_[rows, np.full(len(rows), 3.0)] for rows in (train, test)]
    with_flat = np.r_[order[:1], 6, order[1:]]
    np.testing.assert_allclose(values_of(*flat, with_flat, (3, 5)), plain, atol=0.01)
    twice = [np.c_[rows, rows] for rows in (train, test)]
    assert values_of(*twice, np.arange(12), (6,))[0] > 0.99
    assert (values_of(np.ones((9, 4)), np.ones((5, 4)), np.arange(4), (1, 3, 4)) == 1.0).all()


def test_a_neuron_that_varies_in_the_test_rows_alone_is_not_predicted() -> None:
    train, test, _ = draw(300, 3, seed=7)
    train[:, 2] = 1.5
    values = values_of(train, test, np.arange(3), (2,))
    assert values[0] == pytest.approx(0.0, abs=1e-12)


def test_dropped_neurons_at_their_mean_score_0_unless_that_is_predicted() -> None:
    kept = np.array([-1.0, 1.0] * 10)
    train = np.c_[kept, 3.0 * kept]
    at_mean = np.c_[np.arange(5.0), np.zeros(5)]
    assert values_of(train, at_mean, np.arange(2), (1,))[0] == 0.0
    assert values_of(train, np.zeros((5, 2)), np.arange(2), (1,))[0] == 1.0


def test_heavy_tails_leave_it_finite() -> None:
    rng = np.random.default_rng(8)
    train, test = rng.standard_cauchy((2, 500, 6)).astype(np.float32) ** 3
    values, replicates = prefix_reconstruction(test, moments(train), np.arange(6)[None], (1, 3, 6))
    assert np.isfinite(values).all()
    assert np.isfinite(replicates).all()
    assert (values <= 1.0).all()
    assert (replicates <= 1.0).all()


def test_replicates_are_the_values_without_a_block_also_across_chunks() -> None:
    rng = np.random.default_rng(9)
    train, _, order = draw(60, 5, seed=9)
    test = rng.standard_normal((2 * CHUNK_ROWS + 300, 5)) @ rng.standard_normal((5, 5))
    sizes = (1, 2, 4, 5)
    values, replicates = prefix_reconstruction(test, moments(train), order[None], sizes)
    expected = [least_squares(train, test, order, k) for k in sizes[:-1]]
    np.testing.assert_allclose(values[0, :-1], expected, rtol=1e-9)
    for b, members in enumerate(sample_blocks(len(test))):
        rest = np.delete(test, members, axis=0)
        expected = [least_squares(train, rest, order, k) for k in sizes[:-1]]
        np.testing.assert_allclose(replicates[0, :-1, b], expected, rtol=1e-9)
    assert (replicates[0, -1] == 1.0).all()


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 12),
    n_test=st.integers(4, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_order_has_its_own_least_squares(n: int, d: int, n_test: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d))
    train = rng.standard_normal((n, d)) @ mix
    test = rng.standard_normal((n_test, d)) @ mix
    orders = np.stack([rng.permutation(d) for _ in range(2)])
    sizes = sorted(set(rng.integers(1, d + 1, 3).tolist()) | {d})
    values, replicates = prefix_reconstruction(test, moments(train), orders, sizes)
    assert values.shape == (2, len(sizes))
    assert replicates.shape == (2, len(sizes), min(32, n_test // 2))
    for own, order in zip(values, orders, strict=True):
        for value, k in zip(own, sizes, strict=True):
            expected = least_squares(train, test, order, k) if k < d else 1.0
            assert value == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_projections_and_a_layer_without_training_rows_are_refused() -> None:
    train, test, order = draw(20, 4, seed=10)
    measure = get_similarity("reconstruction")
    layer = WholeLayer(test, training_moments=lambda: moments(train))
    with pytest.raises(CriticalMassError, match="a projection drops none; choose selectors of"):
        measure(SimilarityTask(layer, np.eye(4), (2,), is_projection=True))
    with pytest.raises(CriticalMassError, match="fits training rows, and the layer has none"):
        measure(SimilarityTask(WholeLayer(test), order[None], (2,)))
