"""The network's own classifier on subsets: what the network itself predicts, if all are kept."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.core.rows import CHUNK_ROWS, ProjectedRows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.own_head import own_head
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.reporting.page.provenance import method_summary
from criticalmass.storage.classifier import Classifier
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.run_folder import drop_stale

N_CLASSES, WIDTH = 4, 16


def make_task(n_test: int, d: int, n_classes: int, seed: int = 0, n_orders: int = 2) -> ProbeTask:
    rng = np.random.default_rng(seed)
    y = np.arange(10) % n_classes
    head = Classifier(
        "penultimate",
        rng.standard_normal((n_classes, d)).astype(np.float32),
        rng.standard_normal(n_classes).astype(np.float32),
    )
    return ProbeTask(
        rng.standard_normal((10, d)).astype(np.float32),
        y,
        rng.standard_normal((n_test, d)).astype(np.float32),
        n_classes,
        np.stack([rng.permutation(d) for _ in range(n_orders)]),
        tuple(sorted({1, max(1, d // 2), d})),
        np.zeros(10, dtype=np.bool_),
        classifier=head,
    )


@settings(max_examples=30, deadline=None)
@given(
    n_test=st.integers(1, 40),
    d=st.integers(1, 12),
    n_classes=st.integers(2, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_dropped_neurons_are_zero_and_the_weights_are_scaled(
    n_test: int, d: int, n_classes: int, seed: int
) -> None:
    task = make_task(n_test, d, n_classes, seed)
    assert task.classifier is not None
    scores = own_head(task)
    assert scores.predictions.shape == (2, len(task.sizes), n_test)
    weight = task.classifier.weight.astype(np.float64)
    for order, predicted in zip(task.orders, scores.predictions, strict=True):
        for k, of_size in zip(task.sizes, predicted, strict=True):
            zeroed = np.asarray(task.x_test, dtype=np.float64).copy()
            zeroed[:, order[k:]] = 0.0
            outputs = zeroed @ weight.T * (d / k) + task.classifier.bias
            chosen = np.take_along_axis(outputs, of_size[:, None].astype(np.intp), axis=1)[:, 0]
            np.testing.assert_allclose(chosen, outputs.max(axis=1), rtol=1e-9, atol=1e-9)


def test_more_rows_than_a_chunk_are_scored_row_by_row() -> None:
    task = make_task(2 * CHUNK_ROWS + 5, 6, 3)
    whole = own_head(task).predictions
    last = own_head(replace(task, x_test=task.x_test[-9:])).predictions
    np.testing.assert_array_equal(whole[:, :, -9:], last)


def test_the_bias_weighs_as_much_in_every_subset() -> None:
    # All neurons alike: a subset has k / d of the evidence, and the scale restores it.
    task = make_task(50, 8, 3)
    assert task.classifier is not None
    same = replace(task.classifier, weight=np.repeat(task.classifier.weight[:, :1], 8, axis=1))
    alike = np.repeat(np.asarray(task.x_test)[:, :1], 8, axis=1)
    predictions = own_head(replace(task, classifier=same, x_test=alike)).predictions
    assert (predictions == predictions[:1, -1:]).all()


def test_a_task_without_a_fitting_classifier_is_refused() -> None:
    task = make_task(5, 6, 3)
    assert task.classifier is not None
    with pytest.raises(CriticalMassError, match="network's own classifier, and this task has none"):
        own_head(replace(task, classifier=None))
    narrow = replace(task.classifier, weight=task.classifier.weight[:, :4])
    with pytest.raises(CriticalMassError, match="3 outputs of 4 neurons"):
        own_head(replace(task, classifier=narrow))
    rows = ProjectedRows(task.x_test, np.eye(6, dtype=np.float32))
    with pytest.raises(CriticalMassError, match="a projection has no neurons to remove"):
        own_head(replace(task, x_test=rows))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, FeatureStore]:
    """A network of two layers that has learned noisy classes, its test data, and its features."""
    torch = importlib.import_module("torch")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((N_CLASSES, 10))
    data: dict[str, Any] = {}
    for split, n in (("train", 160), ("test", 300)):
        y = np.arange(n) % N_CLASSES
        data[split] = (centres[y] + rng.standard_normal((n, 10))).astype(np.float32), y
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(10, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, N_CLASSES)
        )
        optimiser = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(40):
            optimiser.zero_grad()
            outputs = net(torch.from_numpy(data["train"][0]))
            torch.nn.functional.cross_entropy(
                outputs, torch.from_numpy(data["train"][1])
            ).backward()
            optimiser.step()
    store = cm.extract(
        net, data, out=tmp_path_factory.mktemp("own") / "store", layers=("penultimate", "0")
    )
    return net, data["test"], store


@pytest.mark.filterwarnings("ignore:own-head. the outputs:UserWarning")
class TestInASweep:
    def test_all_neurons_are_the_network_itself(
        self, trained: tuple[Any, Any, FeatureStore], tmp_path: Path
    ) -> None:
        net, (x, y), store = trained
        torch = importlib.import_module("torch")
        with pytest.warns(UserWarning, match="no names; they are taken as the 4 classes of"):
            run = cm.sweep(
                store,
                out=tmp_path / "run",
                layers="penultimate",
                measures=("own-head", "reconstruction"),
                fractions=(0.25, 0.5, 1.0),
                seeds=3,
            )
        table = run.frame()
        assert (table["status"] == "ok").all()
        with torch.no_grad():
            own = net(torch.from_numpy(x)).argmax(1).numpy()
        rows = table[table["measure"] == "own-head"]
        assert (rows["value_full"] == (own == y).mean()).all()
        assert set(rows["n_train"]) == {0}
        assert set(table.loc[table["measure"] == "reconstruction", "n_train"]) == {160}
        full = run.predictions(rows[rows["selector"] == "full"])
        np.testing.assert_array_equal(full[0], own)
        masses = cm.redundancy(run, deltas=(0.5,))
        assert masses["critical_mass"].notna().all()
        summary = method_summary(table, masses[masses["measure"] == "own-head"].iloc[0])
        assert summary.startswith("The network's own classifier was scored on 300 samples, for 3 ")

    def test_another_layer_fails_and_leaves_the_others(
        self, trained: tuple[Any, Any, FeatureStore], tmp_path: Path
    ) -> None:
        store = trained[2]
        with pytest.warns(UserWarning, match="has none that reads layer '0'"):
            run = cm.sweep(store, out=tmp_path / "run", measures="own-head", fractions=0.5, seeds=1)
        status = run.frame().groupby("layer")["status"].unique().map(list).to_dict()
        assert status == {"0": ["failed"], "penultimate": ["ok"]}
        with pytest.raises(CriticalMassError, match="has none that reads layer '0'"):
            cm.sweep(store, out=tmp_path / "other", measures="own-head", layers="0")

    def test_another_classifier_makes_its_rows_stale(
        self, trained: tuple[Any, Any, FeatureStore], tmp_path: Path
    ) -> None:
        store = trained[2]
        options: dict[str, Any] = {"layers": "penultimate", "fractions": 0.5, "seeds": 1}
        measures = ("own-head", "centroid")
        run = cm.sweep(store, out=tmp_path / "run", measures=measures, **options)
        old = set(run.frame()["cell"])
        classifier = store.classifier()
        assert classifier is not None
        other = replace(classifier, bias=classifier.bias + np.arange(4, dtype=np.float32))
        entry = {**store.manifest["classifier"], "digest": other.digest}
        changed = replace(store, manifest={**store.manifest, "classifier": entry})
        with run.writer() as writer:
            assert drop_stale(run, writer, store, {"penultimate": store.digest()}) == 0
            assert drop_stale(run, writer, changed, {"penultimate": store.digest()}) == 2
        assert set(run.frame()["measure"]) == {"centroid"}
        assert set(run.frame()["cell"]) < old

    def test_a_store_without_a_classifier_is_refused(
        self, store: FeatureStore, tmp_path: Path
    ) -> None:
        with pytest.raises(CriticalMassError, match="measure='own-head' needs the network's own"):
            cm.sweep(store, out=tmp_path / "run", measures=("cka", "own-head"))
        assert not (tmp_path / "run").exists()
        with pytest.raises(CriticalMassError, match="shrink makes a model with a fitted head"):
            cm.shrink(store, measure="own-head", out=tmp_path / "slim")
