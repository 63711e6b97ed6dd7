"""Properties of similarities with the whole layer that hold for any representation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criticalmass.core.moments import moment_of_squares, moments
from criticalmass.measures.registry import SIMILARITIES
from criticalmass.measures.similarity.cka import linear_cka, prefix_cka_debiased
from criticalmass.measures.similarity.procrustes import prefix_procrustes_replicates
from criticalmass.measures.similarity.retrieval import graded_gains, ndcg, recall
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer

shapes = st.tuples(st.integers(8, 40), st.integers(2, 9), st.integers(0, 2**32 - 1))
lists = st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))


def representation(shape):
    """More or fewer neurons than samples, sometimes with a constant neuron and equal rows."""
    n, d, seed = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)
    if seed % 3 == 0:
        x[:, 0] = 1.5
    if seed % 2 == 0:
        x[n // 2 :] = x[: n - n // 2]
    return x, rng


@settings(max_examples=40)
@given(shape=shapes, chunk=st.integers(1, 50))
def test_debiased_prefixes_are_those_of_the_subsets_and_correlations(shape, chunk):
    x, rng = representation(shape)
    m, order = moments(x), rng.permutation(x.shape[1])
    squares = moment_of_squares(x, m.mean, chunk=chunk)
    values = prefix_cka_debiased(m.scatter, squares, len(x), order)
    direct = [linear_cka(x[:, order[: k + 1]], x, debiased=True) for k in range(len(order))]
    np.testing.assert_allclose(values, direct, atol=1e-8)
    assert (np.abs(values) <= 1.0 + 1e-9).all()


@settings(max_examples=40)
@given(shape=shapes, scale=st.floats(1e-6, 1e6))
def test_procrustes_ignores_scale_shift_and_the_order_of_samples(shape, scale):
    x, rng = representation(shape)
    order, sizes = rng.permutation(x.shape[1])[None], range(1, x.shape[1] + 1)
    values, _ = prefix_procrustes_replicates(x, order, sizes, n_blocks=3)
    assert (values >= 0.0).all()
    assert (values <= 1.0).all()
    assert values[0, -1] == pytest.approx(1.0, abs=1e-14)
    for changed in (x * scale, x - 7.0, rng.permutation(x)):
        again, _ = prefix_procrustes_replicates(changed, order, sizes, n_blocks=3)
        np.testing.assert_allclose(again, values, atol=1e-7)


@settings(max_examples=15)
@given(shape=shapes)
def test_every_similarity_is_at_most_one_and_one_for_all_neurons(shape):
    x, rng = representation(shape)
    d = x.shape[1]
    most = min(10, len(x) - 2)
    layer = WholeLayer(x, most_neighbours=most, training_moments=lambda: moments(x))
    task = SimilarityTask(layer, rng.permutation(d)[None], (1, d))
    for name, measure in SIMILARITIES.items():
        if name == "cka-without-top5" and (d < 7 or len(x) < 16):
            continue  # Nothing may be left without five axes.
        scores = measure(task)
        assert np.isfinite(scores.bootstrap_values).all()
        assert (np.abs(scores.values) <= 1.0 + 1e-9).all()
        np.testing.assert_allclose(scores.values[0, 1], 1.0, atol=1e-9)


@given(shape=lists)
def test_ranked_lists_score_between_none_and_all(shape):
    n, k, seed = shape
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((n, 20)), axis=1)[:, :k]
    relevant = np.argsort(rng.random((n, 20)), axis=1)[:, :k]
    gains = graded_gains(k)
    for score in (ndcg(ranked, relevant, gains), recall(ranked, relevant)):
        assert ((score >= 0.0) & (score <= 1.0)).all()
    assert (ndcg(relevant, relevant, gains) == 1.0).all()
    # For lists of equal length recall is symmetric.
    np.testing.assert_array_equal(recall(ranked, relevant), recall(relevant, ranked))
    # Another order of the relevant items scores lower where gains differ.
    backwards = ndcg(relevant[:, ::-1], relevant, gains)
    assert (backwards < 1.0).all() or k == 1
    # nDCG is 0 exactly where no relevant item is retrieved.
    np.testing.assert_array_equal(ndcg(ranked, relevant) > 0.0, recall(ranked, relevant) > 0.0)
    renamed = rng.permutation(20)
    np.testing.assert_allclose(
        ndcg(renamed[ranked], renamed[relevant], gains), ndcg(ranked, relevant, gains), rtol=1e-12
    )
