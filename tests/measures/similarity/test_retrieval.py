from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import ndcg_score
from sklearn.neighbors import NearestNeighbors

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import TileRows
from criticalmass.measures.registry import get_similarity
from criticalmass.measures.similarity.retrieval import (
    NeighbourFinder,
    _discounted_gains,
    choose_queries,
    graded_gains,
    ndcg,
    recall,
)
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((90, 12)) @ rng.standard_normal((12, 12)) + 1.0).astype(np.float32)


def log2(value):
    return np.log(value) / np.log(2.0)


def test_ndcg_by_hand():
    # One of two relevant ones, at rank 2 of 3.
    assert ndcg([[3, 1, 7]], [[1, 2]])[0] == pytest.approx((1 / log2(3)) / (1 + 1 / log2(3)))
    # Third, first, one that is not relevant; gains 3, 2, 1.
    want = (1 + 3 / log2(3)) / (3 + 2 / log2(3) + 1 / 2)
    assert ndcg([[9, 7, 4]], [[7, 8, 9]], [3, 2, 1])[0] == pytest.approx(want)
    # The best order scores exactly 1; the ideal list is as short as the ranked one.
    assert ndcg([[7, 8, 9]], [[7, 8, 9]], graded_gains(3)).tolist() == [1.0]
    assert ndcg([[7]], [[9, 8, 7]], [1, 2, 3]).tolist() == [1.0]
    assert ndcg([[7, 8]], [[7, -1]]).tolist() == [1.0]


def test_recall_by_hand():
    values = recall([[3, 1, 7], [1, 2, 3], [4, 5, 6]], [[1, 2, -1], [3, 1, 2], [-1, -1, -1]])
    assert values.tolist() == [0.5, 1.0, 0.0]
    assert ndcg([[4, 5]], [[-1, -1]]).tolist() == [0.0]
    # The -1 that fills a short list is no retrieved item.
    assert recall([[4, -1]], [[4, -1]]).tolist() == [1.0]
    assert ndcg([[-1, 4]], [[4, -1]])[0] == pytest.approx(1 / log2(3))


def test_ndcg_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    order = np.argsort(rng.standard_normal((40, 30)), axis=1)
    relevant = np.argsort(rng.standard_normal((40, 30)), axis=1)[:, :9]
    gains = rng.uniform(0.5, 4.0, (40, 9))
    truth, scores = np.zeros((40, 30)), np.zeros((40, 30))
    np.put_along_axis(truth, relevant, gains, axis=1)
    np.put_along_axis(scores, order, np.arange(30.0, 0.0, -1.0)[None].repeat(40, 0), axis=1)
    got = ndcg(order[:, :6], relevant, gains)
    want = [ndcg_score(truth[[q]], scores[[q]], k=6) for q in range(40)]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    discounts = 1.0 / np.log2(np.arange(2.0, 8.0))
    whole = _discounted_gains(order[:, :6], relevant, gains, discounts)
    in_slices = _discounted_gains(order[:, :6], relevant, gains, discounts, most_pairs=200)
    np.testing.assert_array_equal(in_slices, whole)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_of_every_prefix_are_those_of_scikit_learn(x, metric):
    query_rows, order = np.array([0, 5, 17, 40, 89]), np.random.default_rng(2).permutation(12)
    sizes = (2, 5, 12)
    finder = NeighbourFinder.of(x, metric, query_rows=query_rows)
    tiles = TileRows(queries=16, candidates=37)
    tiled = replace(finder, candidates=replace(finder.candidates, tiles=tiles))
    neighbours = tiled(order, sizes)
    assert neighbours.shape == (3, 5, 10)
    for size, lists in zip(sizes, neighbours, strict=True):
        subset = x[:, order[:size]].astype(np.float64)
        model = NearestNeighbors(n_neighbors=11, metric=metric, algorithm="brute").fit(subset)
        want = model.kneighbors(subset[query_rows], return_distance=False)[:, 1:]
        np.testing.assert_array_equal(lists, want)


def test_mutual_knn_by_hand():
    # Nearest in both neurons: 0-2 and 1-3. In the first neuron alone: 0-1, 1-0 (2 is as near but
    # later), 2-1, 3-2. In the second alone, with equal rows: as in both.
    rows = np.array([[0, 0], [1, 10], [2, 0], [3, 10]], dtype=np.float32)
    orders = np.array([[0, 1], [1, 0]])
    whole_layer = WholeLayer(rows, most_neighbours=1)
    scores = get_similarity("mutual-knn")(SimilarityTask(whole_layer, orders, (1, 2)))
    assert scores.values.tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert scores.bootstrap_values[0, 0].tolist() == [0.0] * 4


def test_retrieval_by_hand():
    # By angle to sample 0: 1, then 2, then 3. In the first neuron alone every cosine is 1 except
    # that with sample 3: ties go to the earlier sample, so sample 0 has neighbours 1 and 2.
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5], [-1.0, 1.0]], dtype=np.float32)
    task = SimilarityTask(WholeLayer(rows, most_neighbours=2), np.array([[0, 1]]), (1,))
    neighbours = task.whole_layer.neighbours_by_cosine
    assert neighbours.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    # Sample 1 has 0, 2, as in the whole layer. Sample 2 has 0, 1 instead of 1, 0. Sample 3 is
    # opposite to all others and has 0, 1 instead of 2, 1.
    graded_2 = (1 + 2 / log2(3)) / (2 + 1 / log2(3))
    graded_3 = (1 / log2(3)) / (2 + 1 / log2(3))
    got = get_similarity("retrieval")(task).bootstrap_values[0, 0]
    np.testing.assert_allclose(got, [1.0, 1.0, graded_2, graded_3], rtol=1e-6)
    got = get_similarity("retrieval-recall")(task).bootstrap_values[0, 0]
    assert got.tolist() == [1.0, 1.0, 1.0, 0.5]


def test_no_sample_is_its_own_neighbour_even_among_equal_rows():
    rows = np.zeros((40, 3), dtype=np.float32)
    rows[30:] = np.random.default_rng(3).standard_normal((10, 3)) + 5.0
    for metric in ("euclidean", "cosine"):
        finder = NeighbourFinder.of(rows, metric, query_rows=np.arange(40))
        neighbours = finder(np.arange(3), (1, 3))
        assert not (neighbours == np.arange(40)[:, None]).any()
        for lists in neighbours.reshape(-1, 10):
            assert len(set(lists.tolist())) == 10
    finder = NeighbourFinder.of(rows, "euclidean", query_rows=np.arange(30))
    by_distance = finder(np.arange(3), (3,))
    assert by_distance.max() < 30
    # Of samples at the same distance the earlier ones come first, for every query.
    assert by_distance[0, 29].tolist() == list(range(10))
    assert by_distance[0, 3].tolist() == [0, 1, 2, *range(4, 11)]


@pytest.mark.parametrize("name", ["retrieval", "retrieval-recall", "mutual-knn"])
@pytest.mark.parametrize("n", [2, 4, 11])
def test_samples_whose_neighbours_are_all_others_are_too_few(name, n, x):
    task = SimilarityTask(WholeLayer(x[:n]), np.arange(12)[None], (2, 12))
    message = f"{n} test samples are too few .* 10 .*all {n - 1} others.*at least 12 test samples"
    with pytest.raises(CriticalMassError, match=message):
        get_similarity(name)(task)
    scores = get_similarity(name)(replace(task, whole_layer=WholeLayer(x[:12])))
    assert scores.bootstrap_values.shape == (1, 2, 12)
    assert scores.values[0, 0] < 1.0


def test_few_samples_have_few_neighbours(x):
    assert NeighbourFinder.of(x[:4], "cosine", query_rows=np.arange(4)).n_neighbours == 3


def test_constant_neurons_do_not_separate_samples(x):
    rows = x.copy()
    rows[:, 4] = 0.0
    task = SimilarityTask(WholeLayer(rows), np.r_[4, 0:4, 5:12][None], (1, 12))
    scores = get_similarity("retrieval-recall")(task)
    assert scores.values[0, 1] == 1.0
    assert scores.values[0, 0] < 0.3


def test_features_far_from_zero_keep_their_distances(x):
    order = np.random.default_rng(4).permutation(12)[None]
    near = WholeLayer(x.astype(np.float64))
    far = WholeLayer(x.astype(np.float64) + 1e6)
    np.testing.assert_array_equal(near.neighbours_by_distance, far.neighbours_by_distance)
    one, other = (
        get_similarity("mutual-knn")(SimilarityTask(whole, order, (3, 7))) for whole in (near, far)
    )
    np.testing.assert_array_equal(one.bootstrap_values, other.bootstrap_values)


def test_of_many_samples_a_fixed_sample_is_compared(x):
    assert choose_queries(10).tolist() == list(range(10))
    query_rows = choose_queries(90, 20)
    assert len(set(query_rows.tolist())) == 20
    assert query_rows.tolist() == sorted(query_rows.tolist()) == choose_queries(90, 20).tolist()
    order = np.random.default_rng(5).permutation(12)[None]
    sampled = WholeLayer(x, most_queries=20)
    part = get_similarity("retrieval")(SimilarityTask(sampled, order, (3,))).bootstrap_values
    every = get_similarity("retrieval")(SimilarityTask(WholeLayer(x), order, (3,)))
    np.testing.assert_array_equal(part[0, 0], every.bootstrap_values[0, 0][query_rows])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_rows_may_be_of_any_float(x, dtype):
    rows = x.astype(dtype)
    whole = WholeLayer(rows)
    assert whole.neighbours_by_cosine.shape == (90, 10)
    assert whole.neighbours_by_distance.shape == (90, 10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: choose_queries(1), "1 sample has no neighbours"),
        (lambda x: ndcg([[1, 2]], [[1], [2]]), r"\(1, 2\).*\(2, 1\)"),
        (lambda x: recall([[1.0]], [[1]]), "whole numbers"),
        (lambda x: ndcg([[1]], [[1, 2]], [1.0]), r"gains have shape \(1,\).*\(1, 2\)"),
        (lambda x: ndcg([[1]], [[1, 2]], [1.0, 0.0]), "positive"),
        (
            lambda x: WholeLayer(np.where(x == x[3, 2], np.nan, x)).neighbours_by_cosine,
            "row 3 neuron 2",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(call, says, x):
    with pytest.raises(CriticalMassError, match=says) as caught:
        call(x)
    assert "\n" not in str(caught.value)


def nearest_by_cosine(rows, query_rows, count=10):
    """Brute force in float64: (n_queries, count) nearest other rows by cosine."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit[query_rows] @ unit.T
    cosines[np.arange(len(query_rows)), query_rows] = -np.inf
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def cosine_measures(rows, order, sizes):
    """Values of retrieval and retrieval-recall by brute force, (2, n_sizes)."""
    rows = rows.astype(np.float64)
    every = np.arange(len(rows))
    whole = nearest_by_cosine(rows, every)
    lists = [nearest_by_cosine(rows[:, order[:k]], every) for k in sizes]
    values = [
        [ndcg(nearest, whole, graded_gains(10)).mean() for nearest in lists],
        [recall(nearest, whole).mean() for nearest in lists],
    ]
    return np.array(values), whole, lists


def far_from_zero(deviations, dtype):
    rng = np.random.default_rng(20)
    rows = rng.standard_normal((600, 40)) @ rng.standard_normal((40, 40)) / 6.0
    return (rows + deviations * rng.choice([-1.0, 1.0], 40)).astype(dtype)


def massive_neurons(deviation, mean):
    rng = np.random.default_rng(21)
    rows = rng.standard_normal((600, 40))
    rows[:, 3] = mean + deviation * rng.standard_normal(600)
    rows[:, 17] = -mean + deviation * rng.standard_normal(600)
    return rows.astype(np.float32)


@pytest.mark.parametrize(
    "rows",
    [
        far_from_zero(3.0, np.float32),
        far_from_zero(350.0, np.float32),
        far_from_zero(3500.0, np.float32),
        far_from_zero(3500.0, np.float64),
        far_from_zero(1e4, np.float64),
        massive_neurons(3000.0, 0.0),
        massive_neurons(300.0, 2000.0),
        massive_neurons(1.0, 5000.0),
    ],
    ids=["ordinary", "350", "3500", "3500 float64", "1e4 float64", "massive", "both", "constant"],
)
def test_neighbours_by_cosine_are_those_of_float64(rows):
    order, sizes = np.random.default_rng(22).permutation(40), (8, 20, 32)
    want, whole, lists = cosine_measures(rows, order, sizes)
    layer = WholeLayer(rows)
    # Where float32 is good enough, two neighbours that tie to its precision may be swapped.
    assert (layer.neighbours_by_cosine == whole).mean() > 0.998
    assert (layer.finder("cosine")(order, sizes) == np.stack(lists)).mean() > 0.998
    task = SimilarityTask(layer, order[None], sizes)
    got = [get_similarity(name)(task).values[0] for name in ("retrieval", "retrieval-recall")]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_neighbours_in_a_projection_far_from_zero_are_those_of_float64():
    rows = far_from_zero(3500.0, np.float32)
    projection = np.random.default_rng(23).standard_normal((40, 12))
    finder = WholeLayer(rows).finder("cosine", projection)
    projected = rows.astype(np.float64) @ projection
    for size, lists in zip((6, 12), finder(np.arange(12), (6, 12)), strict=True):
        want = nearest_by_cosine(projected[:, :size], np.arange(600))
        np.testing.assert_array_equal(lists, want)


def test_equal_cosines_go_to_the_earlier_sample():
    """A single neuron has cosines of 1 and -1 only."""
    values = np.random.default_rng(24).standard_normal((300, 1)).astype(np.float32)
    finder = NeighbourFinder.of(values, "cosine", query_rows=np.arange(300))
    (lists,) = finder(np.arange(1), (1,))
    for row, nearest in enumerate(lists):
        same_sign = np.flatnonzero(np.sign(values[:, 0]) == np.sign(values[row, 0]))
        assert nearest.tolist() == [i for i in same_sign if i != row][:10]


@pytest.mark.parametrize("name", ["mutual-knn", "retrieval", "retrieval-recall"])
@pytest.mark.parametrize(
    ("exponent", "dtype"),
    [
        (60, np.float32),
        (67, np.float32),
        (120, np.float32),
        (-100, np.float32),
        (400, np.float64),
        (-400, np.float64),
    ],
)
@pytest.mark.parametrize("is_projection", [False, True])
def test_features_of_extreme_size_have_the_same_neighbours(x, name, exponent, dtype, is_projection):
    if is_projection:
        subsets = np.random.default_rng(25).standard_normal((12, 8))
    else:
        subsets = np.random.default_rng(25).permutation(12)[None]
    one, other = (
        get_similarity(name)(SimilarityTask(WholeLayer(rows), subsets, (3, 7), is_projection))
        for rows in (x, np.ldexp(x.astype(dtype), exponent))
    )
    np.testing.assert_array_equal(one.bootstrap_values, other.bootstrap_values)
    assert (one.values < 0.95).all()


def test_rows_of_different_extreme_sizes_have_the_same_cosines(x):
    exponents = np.random.default_rng(26).integers(-90, 90, len(x))
    scaled = np.ldexp(x, exponents[:, None])
    want = nearest_by_cosine(x.astype(np.float64), np.arange(len(x)))
    np.testing.assert_array_equal(WholeLayer(scaled).neighbours_by_cosine, want)


@pytest.mark.parametrize("scale", [2.0**61, 2.0**67, 2.0**-100])
def test_a_sweep_of_features_of_extreme_size_has_the_same_values(scale, tmp_path):
    rng = np.random.default_rng(27)
    rows = (rng.standard_normal((90, 12)) @ rng.standard_normal((12, 12))).astype(np.float32)
    split = np.array(["train"] * 30 + ["test"] * 60)
    frames = []
    for name, factor in (("ordinary", 1.0), ("extreme", scale)):
        store = cm.import_features(
            rows * np.float32(factor), out=tmp_path / name, labels=np.arange(90) % 3, split=split
        )
        measures = ("procrustes", "mutual-knn", "retrieval", "retrieval-recall")
        run = cm.sweep(
            store, out=tmp_path / f"run-{name}", measures=measures, fractions=0.5, seeds=1
        )
        frames.append(run.frame())
    assert set(frames[1]["status"]) == {"ok"}
    assert frames[0]["value"].tolist() == frames[1]["value"].tolist()


def test_a_sweep_of_too_few_samples_fails_those_cells_only(tmp_path):
    rows = np.random.default_rng(28).standard_normal((40, 12)).astype(np.float32)
    split = np.array(["train"] * 30 + ["test"] * 10)
    store = cm.import_features(rows, out=tmp_path / "s", labels=np.arange(40) % 3, split=split)
    measures = ("mutual-knn", "retrieval", "cka")
    with pytest.warns(UserWarning, match="cells failed"):
        frame = cm.sweep(
            store, out=tmp_path / "r", measures=measures, fractions=0.5, seeds=1
        ).frame()
    is_failed = frame["status"] == "failed"
    assert set(frame[is_failed]["measure"]) == {"mutual-knn", "retrieval"}
    assert set(frame[~is_failed]["measure"]) == {"cka"}
    lack = "needs at least 12 test samples; the split 'test' has 10"
    assert frame[is_failed]["error"].str.contains(lack).all()
