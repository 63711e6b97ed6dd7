"""Feature stores that several tests sweep over, and what a sweep computed on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from criticalmass import cells
from criticalmass.probes import get_probe
from criticalmass.probes.task import ProbeScores, ProbeTask
from criticalmass.similarity import SimilarityScores, SimilarityTask, get_similarity
from criticalmass.store import FeatureStore
from criticalmass.store_writer import SplitInfo, StoreWriter

N_CLASSES, N_TRAIN, N_TEST, N_NEURONS = 3, 90, 45, 12
Layers = Mapping[str, Mapping[str, NDArray[np.float32]]]


def _labels(n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64) % N_CLASSES


def _features(seed: int) -> dict[str, NDArray[np.float32]]:
    """Three overlapping classes in twelve correlated neurons."""
    rng = np.random.default_rng(seed)
    centres = 0.8 * rng.standard_normal((N_CLASSES, N_NEURONS))
    mix = rng.standard_normal((N_NEURONS, N_NEURONS)) / 3 + np.eye(N_NEURONS)
    return {
        split: ((centres[_labels(n)] + rng.standard_normal((n, N_NEURONS))) @ mix + 2.0).astype(
            np.float32
        )
        for split, n in (("train", N_TRAIN), ("test", N_TEST))
    }


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Make a small store: ``make_store("a", layers={"penultimate": 0}, model="toy")``.

    ``layers``: name -> seed of its features.
    """

    def make(
        name: str = "store",
        *,
        layers: Mapping[str, int] | None = None,
        model: str = "toy",
        dataset: str = "blobs",
    ) -> FeatureStore:
        features = {
            layer: _features(seed) for layer, seed in (layers or {"penultimate": 0}).items()
        }
        header = {
            "model": {"spec": f"test:{model}", "name": model, "preprocessing": {"size": 8}},
            "dataset": {
                "spec": f"test:{dataset}",
                "name": dataset,
                "class_names": [f"class {c}" for c in range(N_CLASSES)],
            },
            "layers": {
                layer: {"place": "out", "pooling": "none", "dtype": "float32", "shape": [N_NEURONS]}
                for layer in features
            },
            "engine": {"name": "torch", "precision": "float32"},
            "versions": {"numpy": np.__version__},
        }
        splits = {
            split: SplitInfo(_labels(n), [f"{split}-{i}" for i in range(n)])
            for split, n in (("train", N_TRAIN), ("test", N_TEST))
        }
        writer = StoreWriter.begin(tmp_path / name, header, splits)
        for plan in writer.missing():
            writer.put(
                plan,
                {layer: x[plan.split][plan.start : plan.stop] for layer, x in features.items()},
            )
        return writer.finish()

    return make


@pytest.fixture
def store(make_store: Callable[..., FeatureStore]) -> FeatureStore:
    return make_store()


@dataclasses.dataclass
class Calls:
    """What was computed: (measure, n_orders, sizes) per job."""

    jobs: list[tuple[str, int, tuple[int, ...]]]

    def take(self) -> list[tuple[str, int, tuple[int, ...]]]:
        taken, self.jobs = self.jobs, []
        return taken


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    seen = Calls([])

    def counting(name: str) -> Callable[[ProbeTask], ProbeScores]:
        def probe(task: ProbeTask) -> ProbeScores:
            seen.jobs.append((name, task.n_seeds, task.sizes))
            return get_probe(name)(task)

        return probe

    def counting_similarity(name: str) -> Callable[[SimilarityTask], SimilarityScores]:
        def similarity(task: SimilarityTask) -> SimilarityScores:
            seen.jobs.append((name, task.n_orders, task.sizes))
            return get_similarity(name)(task)

        return similarity

    monkeypatch.setattr(cells, "get_probe", counting)
    monkeypatch.setattr(cells, "get_similarity", counting_similarity)
    return seen
