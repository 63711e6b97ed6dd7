from __future__ import annotations

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES, SIMILARITIES, get_similarity
from criticalmass.measures.similarity.cka import linear_cka
from criticalmass.measures.similarity.procrustes import (
    prefix_procrustes_replicates,
    projection_procrustes_replicates,
)
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.selectors.registry import SELECTORS
from criticalmass.sweeps.sweep import sweep

COMPARED = [name for name, measure in MEASURES.items() if measure.kind == "similarity"]
# A projection drops no neuron that could be predicted from the others.
OF_PROJECTIONS = [name for name in COMPARED if name != "reconstruction"]


def whole_layer(x):
    return WholeLayer(x, training_moments=lambda: moments(x))


def textbook_procrustes(x, y):
    """||A'B||_* / (||A|| ||B||) of the centred features, by singular values."""
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    return nuclear / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.standard_normal((70, 24)) @ rng.standard_normal((24, 24)) + 2.0


@pytest.mark.parametrize("n", [9, 70])
def test_procrustes_of_every_prefix_equals_the_singular_values(x, n):
    rows, order = x[:n], np.random.default_rng(1).permutation(24)
    values, _ = prefix_procrustes_replicates(rows, [order], range(1, 25))
    want = [textbook_procrustes(rows[:, order[:k]], rows) for k in range(1, 25)]
    np.testing.assert_allclose(values[0], want, atol=1e-9 if n > 24 else 1e-7)
    assert values[0, -1] == pytest.approx(1.0, abs=1e-14)


def test_procrustes_is_the_best_rotation_of_the_padded_subset(x):
    a, order = x - x.mean(axis=0), np.random.default_rng(2).permutation(24)
    padded = np.zeros_like(a)
    padded[:, :5] = a[:, order[:5]]
    whole, part = a / np.linalg.norm(a), padded / np.linalg.norm(padded)
    left, _, right = np.linalg.svd(part.T @ whole)
    distance = np.linalg.norm(whole - part @ (left @ right)) ** 2
    values, _ = prefix_procrustes_replicates(x, [order], [5])
    assert values[0, 0] == pytest.approx(1.0 - distance / 2.0, abs=1e-10)


def test_procrustes_by_hand():
    # Uncorrelated neurons with sums of squares 9, 4, 1: A'B holds 9 and 4, so that two of them
    # give (9 + 4) / (sqrt(13) sqrt(14)).
    rows = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * np.array([3, 2, 1]) / 2
    values, _ = prefix_procrustes_replicates(rows, [[0, 1, 2]], [1, 2, 3])
    want = [9 / np.sqrt(9 * 14), 13 / np.sqrt(13 * 14), 1.0]
    np.testing.assert_allclose(values[0], want, rtol=1e-12)


def test_a_projection_is_compared_as_the_rows_it_makes(x):
    p = np.random.default_rng(3).standard_normal((24, 10))
    values, replicates = projection_procrustes_replicates(x, p, (1, 4, 10), n_blocks=5)
    want = [textbook_procrustes(x @ p[:, :k], x) for k in (1, 4, 10)]
    np.testing.assert_allclose(values[0], want, atol=1e-9)
    assert replicates.shape == (1, 3, 5)


def test_a_projection_that_selects_is_the_order(x):
    order = np.random.default_rng(8).permutation(24)
    values, replicates = prefix_procrustes_replicates(x, [order], (3, 11), n_blocks=5)
    projected = projection_procrustes_replicates(x, np.eye(24)[:, order], (3, 11), n_blocks=5)
    np.testing.assert_allclose(projected[0], values, rtol=1e-10)
    np.testing.assert_allclose(projected[1], replicates, rtol=1e-6)
    assert np.abs(replicates - values[..., None]).max() > 1e-3


def test_without_a_block_the_rotation_of_all_samples_is_right_to_first_order():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2000, 12)) @ rng.standard_normal((12, 12)) - 5.0
    orders = np.stack([rng.permutation(12) for _ in range(2)])
    values, replicates = prefix_procrustes_replicates(x, orders, (3, 12), n_blocks=20)
    blocks = np.array_split(np.random.default_rng(0).permutation(2000), 20)
    exact = np.empty_like(replicates)
    for b, block in enumerate(blocks):
        rest = np.delete(x, block, axis=0)
        for o, order in enumerate(orders):
            exact[o, :, b] = [textbook_procrustes(rest[:, order[:k]], rest) for k in (3, 12)]
    np.testing.assert_allclose(replicates[:, 1], 1.0, atol=1e-7)
    change = exact[:, 0] - values[:, :1]
    error = np.abs(replicates[:, 0] - exact[:, 0]).max(axis=1)
    assert (error < 0.03 * np.abs(change).max(axis=1)).all()


def test_constant_neurons_have_no_procrustes_similarity(x):
    rows = x.copy()
    rows[:, [3, 5]] = 0.25
    order = np.r_[3, 5, np.setdiff1d(np.arange(24), [3, 5])]
    values, replicates = prefix_procrustes_replicates(rows, [order], (2, 3))
    assert values[0, 0] == 0.0
    assert (replicates[0, 0] == 0.0).all()
    assert 0.0 < values[0, 1] < 1.0


def test_a_neuron_that_lives_in_one_block_has_no_similarity_without_it(x):
    rows = x.copy()
    block = np.array_split(np.random.default_rng(0).permutation(70), 5)[2]
    rows[:, 0] = 0.3
    rows[block, 0] = np.arange(len(block)) + 0.1
    _, replicates = prefix_procrustes_replicates(rows, [np.arange(24)], (1,), n_blocks=5)
    assert replicates[0, 0, 2] == 0.0
    assert (replicates[0, 0, [0, 1, 3, 4]] > 0.0).all()


@pytest.mark.parametrize("name", OF_PROJECTIONS)
def test_a_projection_of_full_width_is_not_the_layer(x, name):
    p = np.random.default_rng(9).uniform(size=(24, 24))
    scores = get_similarity(name)(SimilarityTask(whole_layer(x), p, (24,), is_projection=True))
    assert 0.0 < scores.values[0, 0] < 0.97


@pytest.mark.parametrize("name", SIMILARITIES)
def test_all_neurons_in_any_order_are_the_whole_layer(x, name):
    orders = np.stack([np.random.default_rng(s).permutation(24) for s in range(2)])
    scores = get_similarity(name)(SimilarityTask(whole_layer(x), orders, (4, 24)))
    np.testing.assert_allclose(scores.values[:, 1], 1.0, atol=1e-12)
    assert (scores.values[:, 0] < 1.0).all()
    assert scores.bootstrap_values.shape[:2] == (2, 2)
    if scores.kind == "scores":
        np.testing.assert_allclose(scores.bootstrap_values.mean(axis=-1), scores.values, atol=1e-6)


@pytest.mark.parametrize("name", OF_PROJECTIONS)
def test_a_rotation_of_the_layer_is_as_good_as_the_layer(x, name):
    rotation, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((24, 24)))
    scores = get_similarity(name)(SimilarityTask(whole_layer(x), rotation, (24,), True))
    np.testing.assert_allclose(scores.values, 1.0, atol=1e-6)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_features_does_not_matter(x, name, scale):
    order = np.random.default_rng(6).permutation(24)[None]
    one = get_similarity(name)(SimilarityTask(whole_layer(x), order, (3, 9)))
    other = get_similarity(name)(SimilarityTask(whole_layer(x * scale), order, (3, 9)))
    np.testing.assert_allclose(one.values, other.values, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in SIMILARITIES if not n.startswith("retrieval")])
def test_a_shift_of_the_features_does_not_matter_except_for_a_cosine(x, name):
    order = np.random.default_rng(7).permutation(24)[None]
    one = get_similarity(name)(SimilarityTask(whole_layer(x), order, (3, 9)))
    other = get_similarity(name)(SimilarityTask(whole_layer(x + 1e4), order, (3, 9)))
    np.testing.assert_allclose(one.values, other.values, atol=1e-7)


def test_every_measure_on_every_selector_has_an_interval(store, tmp_path):
    run = sweep(
        store,
        out=tmp_path / "run",
        selectors=tuple(SELECTORS),
        fractions=(0.25, 0.5, 1.0),
        seeds=2,
        measures=OF_PROJECTIONS,
    )
    table = run.frame()
    assert set(table["status"]) == {"ok"}
    assert set(table["measure"]) == set(OF_PROJECTIONS)
    assert set(table["n_train"]) == {0}
    assert table["artifact"].notna().all()
    np.testing.assert_allclose(table["value_full"], 1.0, atol=1e-12)
    curves = cm.curves(run, resamples=100)
    assert len(curves) == 3 * len(SELECTORS) * len(OF_PROJECTIONS)
    small = curves[curves["n_kept"] == 3]
    assert (small["high"] > small["low"]).all()
    test = np.asarray(store.features("test")[:], dtype=np.float64)
    chosen = table[(table["measure"] == "cka-debiased") & (table["selector"] == "random")]
    for row in chosen.to_dict("records"):
        order = np.load(run.path / "orders" / f"penultimate--random--{row['seed']}.npy")
        want = linear_cka(test[:, order[: row["n_kept"]]], test, debiased=True)
        assert row["value"] == pytest.approx(want, abs=1e-10)


def test_an_unknown_similarity_is_named():
    with pytest.raises(CriticalMassError, match="did you mean 'procrustes'"):
        get_similarity("procrustus")


def test_measures_that_are_no_probes_are_the_similarities():
    assert set(COMPARED) == set(SIMILARITIES)


@pytest.mark.parametrize("exponent", [60, 100, -100, 300, -300])
@pytest.mark.parametrize("is_projection", [False, True])
def test_procrustes_does_not_depend_on_extreme_scales(x, exponent, is_projection):
    rng = np.random.default_rng(10)
    subsets = rng.standard_normal((24, 9)) if is_projection else rng.permutation(24)[None]
    one, other = (
        get_similarity("procrustes")(
            SimilarityTask(WholeLayer(rows), subsets, (3, 9), is_projection)
        )
        for rows in (x, np.ldexp(x, exponent))
    )
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.bootstrap_values, other.bootstrap_values)
    subset = x @ subsets if is_projection else x[:, subsets[0]]
    want = [textbook_procrustes(subset[:, :k], x) for k in (3, 9)]
    np.testing.assert_allclose(other.values[0], want, atol=1e-7)
    assert np.isfinite(other.bootstrap_values).all()
