"""Fixtures for several packages: small feature stores, runs, and a Ray cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from tests.postgres import postgres, postgres_server

from criticalmass.measures.probes.task import ProbeScores, ProbeTask
from criticalmass.measures.registry import get_probe, get_similarity
from criticalmass.measures.similarity.task import SimilarityScores, SimilarityTask
from criticalmass.reporting.figures import draw
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import SplitInfo, StoreWriter
from criticalmass.storage.run import Run
from criticalmass.sweeps import draw_spread
from criticalmass.sweeps import jobs as job_module
from criticalmass.theory import exchangeability

__all__ = ["postgres", "postgres_server"]

# A slow, shared machine must not fail a property: an example may take longer than 200 ms.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")

N_CLASSES, N_TRAIN, N_TEST, N_NEURONS = 3, 90, 45, 12
RUN_TEST, RUN_NEURONS = 3000, 100
MOST_NEURONS = exchangeability.MOST_NEURONS
FEWEST, MOST = draw_spread.FEWEST, draw_spread.MOST
AS_PDF = draw.as_pdf
RUN_ACCURACY = {5: 0.50, 10: 0.70, 20: 0.78, 50: 0.80, 100: 0.80}


# The files that take longest, first: one that starts last leaves the other process without work.
LONGEST = (
    "contracts/test_docs.py",
    "faults/test_harnesses.py",
    "contracts/test_notebooks.py",
    "core/test_ray.py",
    "studies/test_ray_study.py",
    "benchmarks/test_benchmarks.py",
    "shrinking/export/test_torch_folder.py",
    "measures/logistic/test_ray_bytes.py",
    "faults/test_degenerate.py",
    "faults/test_hostile.py",
    "sweeps/test_refine.py",
    "reporting/page/test_page.py",
    "training/test_train.py",
    "training/test_devices.py",
    "studies/test_trainings.py",
    "contracts/test_timm_contract.py",
    "contracts/test_transformers_contract.py",
    "theory/test_synthetic.py",
    "probing/test_attack.py",
    "measures/logistic/test_distributed.py",
    "browser/test_page_in_browser.py",
    "measures/test_nearest_scale.py",
    "studies/test_advice.py",
    "extraction/engines/test_precision.py",
    "shrinking/test_shrink.py",
    "shrinking/export/test_faiss_recall.py",
    "cli/test_cli.py",
    "shrinking/export/test_sql_postgres.py",
    "measures/logistic/test_fit_probes.py",
    "faults/test_bad_input.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    first = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.fixture(autouse=True, scope="session")
def few_drawn_subsets() -> Iterator[None]:
    """Let a sweep draw 3 further subsets of each size in place of up to 100.

    They take nine tenths of a small sweep's time. `all_drawn_subsets` undoes it for a test.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw_spread, "FEWEST", 3)
        patch.setattr(draw_spread, "MOST", 3)
        yield


@pytest.fixture(autouse=True, scope="session")
def few_neurons_compared() -> Iterator[None]:
    """Let the diffuseness test compare 48 neurons in place of 256: 0.1 s a layer in place of 2.

    `all_neurons_compared` undoes it for a test.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchangeability, "MOST_NEURONS", 48)
        yield


@pytest.fixture
def all_neurons_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the diffuseness test compare as many neurons as it does for a user."""
    monkeypatch.setattr(exchangeability, "MOST_NEURONS", MOST_NEURONS)


@pytest.fixture(autouse=True, scope="session")
def short_pdfs() -> Iterator[None]:
    """Leave the PDF files of figures out of pages: their fonts take half the time of a page.

    `real_pdfs` undoes it for a test. No second process draws them either; its own tests start it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "as_pdf", lambda figure: b"%PDF")
        patch.setattr("criticalmass.reporting.page.report._MAX_SERIAL_RUNS", 100)
        yield


@pytest.fixture
def real_pdfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the page of a test hold its real PDF files."""
    monkeypatch.setattr(draw, "as_pdf", AS_PDF)


@pytest.fixture
def all_drawn_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sweep draw as many further subsets of each size as it does for a user."""
    monkeypatch.setattr(draw_spread, "FEWEST", FEWEST)
    monkeypatch.setattr(draw_spread, "MOST", MOST)


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
    """Records computed jobs as (measure, n_orders, sizes)."""

    jobs: list[tuple[str, int, tuple[int, ...]]]

    def take(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Return the recorded jobs and forget them."""
        jobs, self.jobs = self.jobs, []
        return jobs


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    recorded = Calls([])

    def counting(name: str) -> Callable[[ProbeTask], ProbeScores]:
        def probe(task: ProbeTask) -> ProbeScores:
            recorded.jobs.append((name, task.n_seeds, task.sizes))
            return get_probe(name)(task)

        return probe

    def counting_similarity(name: str) -> Callable[[SimilarityTask], SimilarityScores]:
        def similarity(task: SimilarityTask) -> SimilarityScores:
            recorded.jobs.append((name, task.n_orders, task.sizes))
            return get_similarity(name)(task)

        return similarity

    monkeypatch.setattr(job_module, "get_probe", counting)
    monkeypatch.setattr(job_module, "get_similarity", counting_similarity)
    return recorded


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Make a run with the accuracies ``RUN_ACCURACY``, the same for every seed."""

    def make(
        name: str = "run",
        *,
        layer: str = "penultimate",
        seeds: int = 12,
        accuracy: dict[int, float] = RUN_ACCURACY,
        n_test: int = RUN_TEST,
        failing: Sequence[int] = (),
        unfinished: Sequence[int] = (),
        classes: Sequence[str] = ("a", "b"),
    ) -> Run:
        run = Run.create(
            tmp_path / name,
            {
                "model": "toy",
                "dataset": "blobs",
                "model_spec": "test:toy",
                "weights_digest": "0123456789abcdef",
                "dataset_spec": "test:blobs",
                "dataset_notes": {"sample": {"train": 900, "of": 6000, "seed": 0}},
                "engine": "openvino",
                "precision": "f32",
                "validation": {"n_rows": 180},
                "created": "2026-11-22T18:00:00+00:00",
                "versions": {"numpy": np.__version__},
            },
        )
        labels = np.zeros(n_test, np.int64)
        cells = [("full", 0, RUN_NEURONS)]
        cells += [("random", seed, size) for seed in range(seeds) for size in accuracy]
        rows, predictions = [], []
        for selector, seed, size in cells:
            wrong = round(n_test * (1 - accuracy[size]))
            failed = size in failing and selector == "random"
            status = "failed" if failed else "not_converged" if size in unfinished else "ok"
            predictions.append((np.arange(n_test) < wrong).astype(np.uint8))
            rows.append(
                {
                    "model": "toy",
                    "layer": layer,
                    "dataset": "blobs",
                    "split": "test",
                    "selector": selector,
                    "measure": "logistic",
                    "fraction": size / RUN_NEURONS,
                    "n_kept": size,
                    "n_neurons": RUN_NEURONS,
                    "seed": seed,
                    "value": None if failed else 1 - wrong / n_test,
                    "value_full": accuracy[RUN_NEURONS],
                    "n_train": 900,
                    "n_test": n_test,
                    "l2": 0.01,
                    "gap": 1e-7,
                    "passes": 10,
                    "seconds": 0.5,
                    "status": status,
                    "error": "it <b>broke</b>" if failed else None,
                    "cell": f"{layer}-{selector}-{seed}-{size}",
                }
            )
        with run.writer() as writer:
            writer.put_labels(labels, classes)
            writer.append(rows, Artifact("predictions", np.array(predictions)))
        return run

    return make


@pytest.fixture
def make_predicted_run(tmp_path: Path) -> Callable[..., Run]:
    """Make a run from predictions.

    ``make_predicted_run(labels, {(n_kept, seed): predictions}, whole=predictions, names=...)``;
    the layer has as many neurons as the largest subset unless ``n_neurons`` says more.
    """

    def make(
        labels: NDArray[np.int64],
        subsets: Mapping[tuple[int, int], NDArray[np.int64]],
        *,
        whole: NDArray[np.int64] | None = None,
        names: tuple[str, ...] | None = None,
        name: str = "run",
        selector: str = "random",
        n_neurons: int | None = None,
    ) -> Run:
        d = n_neurons or max(size for size, _ in subsets)
        run = Run.create(tmp_path / name, {})
        cells = [(selector, size, seed, found) for (size, seed), found in subsets.items()]
        if whole is not None:
            cells.insert(0, ("full", d, 0, whole))
        rows = [
            {
                "model": "m", "layer": "penultimate", "dataset": "d", "split": "test",
                "selector": which, "measure": "logistic", "fraction": size / d, "n_kept": size,
                "n_neurons": d, "seed": seed, "value": float(np.mean(found == labels)),
                "value_full": None, "n_train": 100, "n_test": labels.size, "l2": 0.1, "gap": 0.0,
                "passes": 3, "seconds": 0.1, "status": "ok", "error": None,
                "cell": f"{which}-{size}-{seed}", "artifact": i,
            }
            for i, (which, size, seed, found) in enumerate(cells)
        ]  # fmt: skip
        top = int(max(labels.max(), max(found.max() for *_, found in cells))) + 1
        with run.writer() as writer:
            writer.put_labels(labels, names or tuple(f"class {c}" for c in range(top)))
            stacked = np.stack([found for *_, found in cells])
            writer.append(rows, Artifact("predictions", stacked))
        return run

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of one node with two CPUs, whose dead nodes are noticed in a second or two."""
    ray = pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    from criticalmass.core.ray_backend import connect

    # Processes that are started ahead of work, and a watch of 15 s, only cost time here.
    settings = {
        "enable_worker_prestart": False,
        "prestart_worker_first_driver": False,
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    ray_cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "object_store_memory": 80 << 20,
            "include_dashboard": False,
            "_system_config": settings,
        },
    )
    connect(ray_cluster.address)
    yield ray_cluster
    ray.shutdown()
    ray_cluster.shutdown()
