"""Rows in several places: the same bytes however many there are, and what one place finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.core.moments import moments, spreading
from criticalmass.measures.logistic import row_shards
from criticalmass.measures.logistic.device import lending
from criticalmass.measures.logistic.distributed import Here, SpreadCrew
from criticalmass.measures.logistic.row_shards import Holder, cut, shares
from criticalmass.measures.logistic.training_rows import holding
from criticalmass.storage.features import Features, FeatureStore
from criticalmass.storage.run import Run

N_TRAIN, N_TEST, N_NEURONS, N_CLASSES = 5_000, 2_500, 24, 3


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_shards, "IN_MEMORY_BYTES", 300_000)  # some leaves held, some streamed


@pytest.fixture
def tall(tmp_path: Path) -> FeatureStore:
    rng = np.random.default_rng(5)
    labels = {"train": np.arange(N_TRAIN) % N_CLASSES, "test": np.arange(N_TEST) % N_CLASSES}
    centres = 0.4 * rng.standard_normal((N_CLASSES, N_NEURONS))
    x = {
        split: (centres[y] + rng.standard_normal((y.size, N_NEURONS)) + 3.0).astype(np.float32)
        for split, y in labels.items()
    }
    return cm.import_features(x, out=tmp_path / "tall", labels=labels)


class Spread:
    """A backend of places in this process."""

    def __init__(self, n_places: int, threads: int = 1) -> None:
        self.holders = tuple(Holder(threads) for _ in range(n_places))

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        crew = SpreadCrew(Here(self.holders))
        for task in tasks:
            with lending(crew), spreading(crew.moments), holding(0):
                found = function(task)
            yield found


def sweep(store: FeatureStore, out: Path, backend: Any = "local") -> Run:
    return cm.sweep(
        store,
        out=out,
        selectors=("random", "pca-top", "leverage"),
        fractions=(0.25, 0.5, 1.0),
        seeds=2,
        measures=("logistic", "cka"),
        backend=backend,
    )


def table(run: Run) -> pd.DataFrame:
    return run.frame().drop(columns="seconds")


def files(run: Run) -> dict[str, bytes]:
    return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*.npy")}


def test_leaves_cover_all_rows_once_and_places_all_leaves() -> None:
    for n in (1, 1023, 1024, 1025, 40_000, 1_200_000):
        edges = cut(n)
        assert edges[0][0] == 0
        assert edges[-1][1] == n
        assert all(a[1] == b[0] for a, b in pairwise(edges))
        full = [i for i, (a, b) in enumerate(edges) if a < b]
        for n_places in (1, 3, 8, 50):
            dealt = shares(np.empty((n, 1)), n_places)
            assert [i for mine in dealt for i in mine] == full


def test_bytes_do_not_depend_on_the_places(tall: FeatureStore, tmp_path: Path) -> None:
    one = sweep(tall, tmp_path / "one", Spread(1))
    three = sweep(tall, tmp_path / "three", Spread(3, threads=2))
    pd.testing.assert_frame_equal(table(one), table(three), check_exact=True)
    assert files(one) == files(three)


def test_values_are_those_of_this_process(tall: FeatureStore, tmp_path: Path) -> None:
    here, spread = sweep(tall, tmp_path / "here"), sweep(tall, tmp_path / "spread", Spread(2))
    mine, other = table(here), table(spread)
    assert list(mine["cell"]) == list(other["cell"])
    assert other["error"].isna().all(), other["error"].dropna().iloc[0]
    np.testing.assert_allclose(other["value"], mine["value"], atol=1 / N_TEST)
    np.testing.assert_array_equal(other["l2"].fillna(0), mine["l2"].fillna(0))
    similar = mine["measure"] == "cka"
    np.testing.assert_allclose(other["value"][similar], mine["value"][similar], rtol=1e-12)


def test_moments_of_leaves_are_those_of_the_whole(tall: FeatureStore) -> None:
    crew = SpreadCrew(Here((Holder(), Holder())))
    rows, y = tall.features("train"), tall.labels("train")
    found, known = crew.moments(rows, y, N_CLASSES), moments(rows, y, n_classes=N_CLASSES)
    assert found.n == known.n
    np.testing.assert_allclose(found.mean, known.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scatter, known.scatter, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(found.class_means, known.class_means, rtol=1e-12)


def test_features_of_no_store_are_not_taken_for_those_before_them() -> None:
    keys = []

    class Elsewhere:  # keeps nothing of what it is asked about, as workers of another machine
        def ask(self, key: int, *_: Any) -> list[Any]:
            keys.append(key)
            return []

    crew = SpreadCrew(Elsewhere())
    for value in range(20):  # each is freed at once, so that the next may lie where it lay
        crew.ask(Features((np.full((5, 3), value, np.float32),)), len)
    assert keys == list(range(20))


def test_a_place_that_lost_everything_makes_it_anew(
    tall: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep(tall, tmp_path / "whole", Spread(2))
    lossy, asked = Spread(2), []
    plain = Here.ask

    def forgetful(self: Here, *question: Any) -> Any:
        asked.append(1)
        if len(asked) % 5 == 0:
            lost = self.holders[len(asked) % 2]
            with self._turn:  # places are lost between questions
                lost.whole.clear()
                lost._rows.clear()
                lost._logits.clear()
        return plain(self, *question)

    monkeypatch.setattr(Here, "ask", forgetful)
    again = sweep(tall, tmp_path / "again", lossy)
    assert len(asked) > 50
    pd.testing.assert_frame_equal(table(whole), table(again), check_exact=True)
    assert files(whole) == files(again)


def test_rows_on_workers_of_ray_give_the_same_values(
    cluster: Any, tall: FeatureStore, tmp_path: Path
) -> None:
    here = sweep(tall, tmp_path / "here", Spread(1))
    there = sweep(tall, tmp_path / "there", "ray-rows")
    one, two = table(here), table(there)
    assert one["cell"].tolist() == two["cell"].tolist()
    # Bytes too where BLAS of this process has one thread, as that of the workers has.
    np.testing.assert_allclose(
        one["value"].to_numpy(float), two["value"].to_numpy(float), atol=0.03
    )
