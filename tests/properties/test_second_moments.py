"""Properties of moments, CKA and subsets that hold for any representation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from criticalmass.core.moments import moments
from criticalmass.measures.similarity.cka import linear_cka, prefix_cka
from criticalmass.measures.similarity.cka_jackknife import projection_cka_replicates
from criticalmass.selectors.registry import SELECTORS, select
from criticalmass.selectors.sizes import grid_for, sizes_for

shapes = st.tuples(st.integers(5, 30), st.integers(2, 8), st.integers(0, 2**32 - 1))
fractions = st.floats(1e-6, 1.0)


def representation(shape):
    n, d, seed = shape
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


@given(fraction=fractions, n_neurons=st.integers(1, 10_000))
def test_rounding_keeps_one_neuron_at_least_and_never_more_than_all(fraction, n_neurons):
    ((grid_fraction, n_kept),) = grid_for([fraction], n_neurons)
    assert grid_fraction == fraction
    assert 1 <= n_kept <= n_neurons
    assert abs(n_kept - fraction * n_neurons) <= 0.5 or n_kept == 1


@given(requested=st.lists(fractions, min_size=1, max_size=20), n_neurons=st.integers(1, 5000))
def test_sizes_rise_with_the_fraction_and_one_is_the_whole_layer(requested, n_neurons):
    grid = grid_for([*requested, 1.0], n_neurons)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(grid))
    assert sizes_for([*requested, 1.0], n_neurons)[-1] == n_neurons


@given(shape=shapes, seed=st.integers(0, 1000))
def test_subsets_of_one_seed_are_nested(shape, seed):
    x = representation(shape)
    m = moments(x, np.arange(len(x)) % 2)
    rules = [info for info in SELECTORS.values() if not info.is_projection]
    for name in (info.name for info in rules if info.needs != "probe"):
        order = select(name, m, seed=seed).order
        subsets = [set(order[:k].tolist()) for k in range(1, m.n_neurons + 1)]
        assert [len(s) for s in subsets] == list(range(1, m.n_neurons + 1))
        assert all(a < b for a, b in pairwise(subsets))


@given(shape=shapes, cuts=st.tuples(st.integers(1, 2), st.integers(3, 4)))
def test_merging_moments_is_associative_and_equals_two_passes(shape, cuts):
    x = representation(shape)
    y = np.arange(len(x)) % 3
    parts = [
        moments(p, q, n_classes=3)
        for p, q in zip(np.split(x, cuts), np.split(y, cuts), strict=True)
    ]
    left = parts[0].merge(parts[1]).merge(parts[2])
    right = parts[0].merge(parts[1].merge(parts[2]))
    centred = x - x.mean(axis=0)
    scale = np.abs(centred.T @ centred).max()
    for merged in (left, right):
        np.testing.assert_allclose(merged.scatter, centred.T @ centred, atol=1e-12 * scale)
        np.testing.assert_allclose(merged.mean, x.mean(axis=0), atol=1e-12 * np.abs(x).max())
        assert merged.class_counts.tolist() == np.bincount(y, minlength=3).tolist()
        for c in range(3):
            np.testing.assert_allclose(merged.class_means[c], x[y == c].mean(axis=0), atol=1e-9)


@given(shape=shapes, chunk=st.integers(1, 12), data=st.data())
def test_restricting_equals_the_moments_of_the_columns(shape, chunk, data):
    x = representation(shape)
    order = data.draw(st.permutations(range(x.shape[1])))
    subset = order[: data.draw(st.integers(1, x.shape[1]))]
    part, direct = moments(x, chunk=chunk).restrict(subset), moments(x[:, subset])
    atol = 1e-11 * np.abs(direct.scatter).max()
    np.testing.assert_allclose(part.scatter, direct.scatter, atol=atol)
    np.testing.assert_allclose(part.mean, direct.mean, rtol=1e-9, atol=1e-12)


@settings(max_examples=40)
@given(shape=shapes, scale=st.floats(1e-6, 1e6))
def test_cka_ignores_rotation_scale_shift_and_the_order_of_samples(shape, scale):
    x = representation(shape)
    rng = np.random.default_rng(shape[2])
    other = rng.standard_normal((len(x), 3)) + x[:, :1]
    rotation = ortho_group.rvs(x.shape[1], random_state=rng)
    value = linear_cka(x, other)
    assert -1e-12 <= value <= 1 + 1e-12
    again = rng.permutation(len(x))
    for changed in (x @ rotation, x * scale, x + 5.0, x[:, ::-1]):
        np.testing.assert_allclose(linear_cka(changed, other), value, atol=1e-9)
    np.testing.assert_allclose(linear_cka(x[again], other[again]), value, atol=1e-9)
    np.testing.assert_allclose(linear_cka(other, x), value, atol=1e-12)
    for debiased in (False, True):
        np.testing.assert_allclose(linear_cka(x, x @ rotation, debiased=debiased), 1.0, atol=1e-9)


@settings(max_examples=40)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_cka_of_prefixes_is_that_of_the_subsets_and_of_selecting_projections(shape, seed):
    x = representation(shape)
    m = moments(x)
    order = select("random", m, seed=seed).order
    values = prefix_cka(m.scatter, order)
    np.testing.assert_allclose(values[-1], 1.0, atol=1e-12)
    direct = [linear_cka(x[:, order[:k]], x) for k in range(1, m.n_neurons + 1)]
    np.testing.assert_allclose(values, direct, atol=1e-10)
    projection = np.eye(m.n_neurons)[:, order]
    projected, _ = projection_cka_replicates(x, projection, range(1, m.n_neurons + 1))
    np.testing.assert_allclose(projected[0], values, atol=1e-10)
