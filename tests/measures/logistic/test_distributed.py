"""Rows on several workers: the same bytes for any number of workers, the values of one process."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.measures.logistic.local_workers import LocalRows, LocalWorkers

import criticalmass as cm
from criticalmass.core.moments import moments
from criticalmass.measures.logistic.distributed import DistributedExecutor
from criticalmass.measures.logistic.row_shards import ShardCache, assign_shards, shard_bounds
from criticalmass.storage.features import Features, FeatureStore
from criticalmass.storage.run import Run

N_TRAIN, N_TEST, N_NEURONS, N_CLASSES = 5_000, 2_500, 24, 3


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    rng = np.random.default_rng(5)
    labels = {"train": np.arange(N_TRAIN) % N_CLASSES, "test": np.arange(N_TEST) % N_CLASSES}
    centres = 0.4 * rng.standard_normal((N_CLASSES, N_NEURONS))
    x = {
        split: (centres[y] + rng.standard_normal((y.size, N_NEURONS)) + 3.0).astype(np.float32)
        for split, y in labels.items()
    }
    return cm.import_features(x, out=tmp_path_factory.mktemp("rows") / "tall", labels=labels)


def caches(n_workers: int, threads: int = 1) -> list[ShardCache]:
    """Caches so small that some shards are held in memory and some are streamed."""
    return [ShardCache(threads, memory_bytes=300_000) for _ in range(n_workers)]


def local_rows(n_workers: int, threads: int = 1) -> LocalRows:
    return LocalRows(LocalWorkers(*caches(n_workers, threads)))


def sweep(store: FeatureStore, out: Path, backend: Any = "local", **changes: Any) -> Run:
    options: dict[str, Any] = {
        "selectors": ("random", "pca-top", "leverage"),
        "fractions": (0.25, 0.5, 1.0),
        "seeds": 2,
        "measures": ("logistic", "cka"),
    }
    return cm.sweep(store, out=out, backend=backend, **options | changes)


@pytest.fixture(scope="module")
def one(tall: FeatureStore) -> Run:
    """The run of one worker."""
    return sweep(tall, tall.path.with_name("one"), local_rows(1))


def table(run: Run) -> pd.DataFrame:
    return run.frame().drop(columns="seconds")


def files(run: Run) -> dict[str, bytes]:
    return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*.npy")}


def test_shards_cover_all_rows_once_and_workers_all_shards() -> None:
    for n in (1, 1023, 1024, 1025, 40_000, 1_200_000):
        bounds = shard_bounds(n)
        assert bounds[0][0] == 0
        assert bounds[-1][1] == n
        assert all(a[1] == b[0] for a, b in pairwise(bounds))
        not_empty = [i for i, (a, b) in enumerate(bounds) if a < b]
        for n_workers in (1, 3, 8, 50):
            assignment = assign_shards(np.empty((n, 1)), n_workers)
            assert [i for shards in assignment for i in shards] == not_empty


def test_bytes_do_not_depend_on_the_number_of_workers(
    one: Run, tall: FeatureStore, tmp_path: Path
) -> None:
    three = sweep(tall, tmp_path / "three", local_rows(3, threads=2))
    pd.testing.assert_frame_equal(table(one), table(three), check_exact=True)
    assert files(one) == files(three)


def test_values_are_those_of_one_process(one: Run, tall: FeatureStore, tmp_path: Path) -> None:
    local, distributed = table(sweep(tall, tmp_path / "local")), table(one)
    assert list(local["cell"]) == list(distributed["cell"])
    assert distributed["error"].isna().all(), distributed["error"].dropna().iloc[0]
    np.testing.assert_allclose(distributed["value"], local["value"], atol=1 / N_TEST)
    np.testing.assert_array_equal(distributed["l2"].fillna(0), local["l2"].fillna(0))
    is_cka = local["measure"] == "cka"
    np.testing.assert_allclose(distributed["value"][is_cka], local["value"][is_cka], rtol=1e-12)


def test_merged_moments_of_shards_are_those_of_all_rows(tall: FeatureStore) -> None:
    executor = DistributedExecutor(LocalWorkers(*caches(2)))
    rows, y = tall.features("train"), tall.labels("train")
    merged, expected = executor.moments(rows, y, N_CLASSES), moments(rows, y, n_classes=N_CLASSES)
    assert merged.n == expected.n
    np.testing.assert_allclose(merged.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.scatter, expected.scatter, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(merged.class_means, expected.class_means, rtol=1e-12)


def test_features_without_a_store_get_a_key_each() -> None:
    keys = []

    class RemoteWorkers:  # has no reference to the rows, like workers on another machine
        def run(self, key: int, *_: Any) -> list[Any]:
            keys.append(key)
            return []

    executor = DistributedExecutor(RemoteWorkers())
    for value in range(20):  # without a reference the next array could get the same address
        executor.gather(Features((np.full((5, 3), value, np.float32),)), lambda *_: {})
    assert keys == list(range(20))


def test_a_worker_that_lost_its_cache_computes_it_again(
    one: Run, tall: FeatureStore, tmp_path: Path
) -> None:
    calls = []

    class LossyWorkers(LocalWorkers):
        def run(self, *arguments: Any) -> Any:
            calls.append(1)
            if len(calls) % 5 == 0:
                with self.lock:  # between two operations
                    self.caches[len(calls) % 2].keep_only(())
            return super().run(*arguments)

    lossy = sweep(tall, tmp_path / "lossy", LocalRows(LossyWorkers(*caches(2))))
    assert len(calls) > 50
    pd.testing.assert_frame_equal(table(one), table(lossy), check_exact=True)
    assert files(one) == files(lossy)


def test_rows_on_workers_of_ray_give_the_same_values(
    cluster: Any, one: Run, tall: FeatureStore, tmp_path: Path
) -> None:
    few: dict[str, Any] = {"selectors": ("random", "pca-top"), "fractions": (0.5, 1.0), "seeds": 1}
    ray = table(sweep(tall, tmp_path / "ray", "ray-rows", **few))
    assert len(ray) == 2 * (2 * 2 + 1)  # of each measure: two selectors, and the whole layer
    local = table(one).set_index("cell").loc[ray["cell"]]
    # The bytes are equal too if this process's BLAS has one thread, like the workers'.
    np.testing.assert_allclose(
        local["value"].to_numpy(float), ray["value"].to_numpy(float), atol=0.03
    )
