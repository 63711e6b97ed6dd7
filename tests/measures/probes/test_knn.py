from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import TileRows
from criticalmass.measures.nearest_kernels import majority_vote, update_nearest
from criticalmass.measures.probes.knn import centroid, class_means, knn
from criticalmass.measures.probes.task import ProbeTask


def probe_task(n: int = 150, d: int = 20, n_classes: int = 4, n_test: int = 70) -> ProbeTask:
    rng = np.random.default_rng(n + d)
    y = rng.integers(0, n_classes, n + n_test)
    x = rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n + n_test, d)) * 1.5 + 2.0
    x[:, 1] = 7.25
    x[:, 2] = x[:, 0]
    x = x.astype(np.float32)
    return ProbeTask(
        x_train=x[:n],
        y_train=y[:n],
        x_test=x[n:],
        n_classes=n_classes,
        orders=np.stack([rng.permutation(d) for _ in range(3)]),
        sizes=tuple(sorted({2, 3, d // 2 + 1, d})),
        validation=np.zeros(n, dtype=bool),
    )


class SliceOnly:
    """Rows that can be read by slices and in no other way, like shards on disk."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: slice) -> np.ndarray:
        assert isinstance(key, slice)
        return self._array[key]


def standardised(task: ProbeTask) -> tuple[Any, Any]:
    scaler = StandardScaler().fit(task.x_train.astype(float))
    return scaler.transform(task.x_train.astype(float)), scaler.transform(task.x_test.astype(float))


def vote(labels: np.ndarray) -> int:
    """Majority of class ids, nearest first; a tie goes to the class that comes first."""
    counts = np.bincount(labels)
    return next(int(label) for label in labels if counts[label] == counts.max())


@pytest.mark.parametrize("shape", [(150, 20, 4), (30, 50, 2), (7, 5, 3), (400, 8, 12)])
def test_knn_votes_among_the_neighbours_of_scikit_learn(shape: tuple[int, int, int]) -> None:
    task = probe_task(*shape)
    train, test = standardised(task)
    scores = knn(task)
    for seed, order in enumerate(task.orders):
        for j, k in enumerate(task.sizes):
            kept = order[:k]
            if np.isin(kept, [0, 1, 2]).all():
                continue  # one number in effect: float32 may swap its near-ties
            count = min(10, task.n_train)
            model = KNeighborsClassifier(count).fit(train[:, kept], task.y_train)
            indices = model.kneighbors(test[:, kept], return_distance=False)
            expected = [vote(task.y_train[row]) for row in indices]
            np.testing.assert_array_equal(scores.predictions[seed, j], expected)
    assert np.isnan(scores.l2).all()
    assert (scores.passes == 0).all()
    assert (scores.status == "ok").all()


def test_tiles_do_not_change_the_vote() -> None:
    task = probe_task(150, 20, 4)
    tiled = knn(task, tiles=TileRows(queries=16, candidates=37), chunk_rows=25)
    np.testing.assert_array_equal(tiled.predictions, knn(task).predictions)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_the_nearest_are_the_head_of_a_stable_sort(
    n: int, n_neighbours: int, levels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n_neighbours = min(n, n_neighbours)
    # Few distinct values, so that ties abound.
    dots = rng.integers(-levels, levels + 1, size=(3, n)).astype(np.float32)
    offsets = rng.integers(0, levels + 1, size=n).astype(np.float32)
    factors = rng.integers(-2, 2, size=n).astype(np.float32)
    best = np.full((3, n_neighbours), np.finfo(np.float32).max, dtype=np.float32)
    best_ids = np.zeros((3, n_neighbours), dtype=np.int32)
    ids = np.arange(n, dtype=np.int32)
    for part in (slice(0, n // 2), slice(n // 2, n)):
        tile = np.ascontiguousarray(dots[:, part])
        update_nearest(tile, offsets[part], factors[part], ids[part], best, best_ids)
    distances = offsets + factors * dots
    expected = np.argsort(distances, axis=1, kind="stable")[:, :n_neighbours]
    np.testing.assert_array_equal(best_ids, expected)
    np.testing.assert_array_equal(best, np.take_along_axis(distances, expected, axis=1))


def test_a_tie_of_votes_goes_to_the_class_of_the_nearest() -> None:
    nearest_first = np.array([[2, 0, 0, 2], [1, 0, 0, 2], [3, 3, 1, 1]], dtype=np.int32)
    out = np.empty(3, dtype=np.uint8)
    majority_vote(nearest_first, 4, out)
    assert out.tolist() == [2, 0, 3]


@pytest.mark.parametrize("shape", [(150, 20, 4), (30, 50, 2), (400, 8, 12)])
def test_centroid_is_that_of_scikit_learn(shape: tuple[int, int, int]) -> None:
    task = probe_task(*shape)
    train, test = standardised(task)
    scores = centroid(task)
    for seed, order in enumerate(task.orders):
        for j, k in enumerate(task.sizes):
            kept = order[:k]
            if not train[:, kept].std(axis=0).all():
                kept = kept[train[:, kept].std(axis=0) > 0]  # scikit-learn warns of dead columns
            model = NearestCentroid().fit(train[:, kept], task.y_train)
            np.testing.assert_array_equal(scores.predictions[seed, j], model.predict(test[:, kept]))
    assert (scores.passes == 1).all()


@pytest.mark.parametrize("probe", [knn, centroid])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_shards_give_what_the_matrix_gives(probe: Any, dtype: Any) -> None:
    task = probe_task()
    x_train, x_test = task.x_train.astype(dtype), task.x_test.astype(dtype)
    whole = probe(dataclasses.replace(task, x_train=x_train, x_test=x_test))
    sharded = probe(dataclasses.replace(task, x_train=SliceOnly(x_train), x_test=SliceOnly(x_test)))
    np.testing.assert_array_equal(whole.predictions, sharded.predictions)


@pytest.mark.parametrize("probe", [knn, centroid])
def test_rescaling_a_neuron_changes_nothing(probe: Any) -> None:
    task = probe_task()
    factor = np.where(np.arange(task.n_neurons) % 2 == 0, 8.0, 0.25).astype(np.float32)
    moved = dataclasses.replace(task, x_train=task.x_train * factor, x_test=task.x_test * factor)
    np.testing.assert_array_equal(probe(task).predictions, probe(moved).predictions)


@pytest.mark.parametrize("probe", [knn, centroid])
def test_a_neuron_dead_in_training_counts_for_nothing_in_the_test(probe: Any) -> None:
    task = probe_task()
    x_test = task.x_test.copy()
    x_test[:, 1] += np.random.default_rng(5).normal(size=len(x_test)).astype(np.float32)
    moved = probe(dataclasses.replace(task, x_test=x_test))
    np.testing.assert_array_equal(moved.predictions, probe(task).predictions)


def test_a_class_without_training_rows_is_never_the_nearest() -> None:
    task = probe_task(n_classes=3)
    wide = dataclasses.replace(task, n_classes=300, y_train=task.y_train + 200)
    for probe in (knn, centroid):
        scores = probe(wide)
        assert scores.predictions.dtype == np.uint16
        np.testing.assert_array_equal(scores.predictions, probe(task).predictions + np.uint16(200))


def test_class_means_are_means_of_classes() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(3000, 4)).astype(np.float32) + 100, rng.integers(0, 3, 3000)
    means, counts = class_means(x, y, 4)
    for label in range(3):
        np.testing.assert_allclose(means[label], x[y == label].astype(float).mean(axis=0))
    assert counts.tolist() == [*np.bincount(y).tolist(), 0]
    assert (means[3] == 0).all()


@pytest.mark.parametrize("probe", [knn, centroid])
@pytest.mark.parametrize("part", ["x_train", "x_test"])
def test_features_that_are_not_finite_are_named(probe: Any, part: str) -> None:
    task = probe_task()
    x = getattr(task, part).copy()
    x[57, 6] = -np.inf
    with pytest.raises(CriticalMassError, match=f"{part} row 57 neuron 6 is -inf"):
        probe(dataclasses.replace(task, **{part: x}))
