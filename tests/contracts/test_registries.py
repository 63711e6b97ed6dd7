"""One registry entry adds a thing, and lists print exactly the registries."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError
from criticalmass.measures import registry
from criticalmass.measures.memory import LayerSizes
from criticalmass.measures.registry import MEASURES, PROBE_LABEL, Measure
from criticalmass.measures.similarity.task import SimilarityScores, SimilarityTask
from criticalmass.selectors.registry import SELECTORS
from criticalmass.shrinking.export.export import FORMATS
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps import memory_estimate
from criticalmass.sweeps.layer_info import describe_layers
from criticalmass.sweeps.plan import make_request

Capture = pytest.CaptureFixture[str]
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
TOY_BYTES = 7_000_000_000


def energy(task: SimilarityTask) -> SimilarityScores:
    """Mean share of a sample's squared norm that the subset has, and without each sample."""
    squares = np.asarray(task.whole_layer.rows[:], dtype=np.float64) ** 2
    sums = squares[:, task.subsets].cumsum(axis=-1)
    shares = (sums / sums[..., -1:])[..., np.array(task.sizes) - 1].transpose(1, 2, 0)
    values, n = shares.mean(axis=-1), len(squares)
    replicates = (n * values[..., None] - shares) / (n - 1)
    return SimilarityScores(values, "replicates", replicates.astype(np.float32))


def energy_bytes(sizes: LayerSizes) -> int:
    return TOY_BYTES * sizes.n_neurons // sizes.sizes[-1]


ENERGY = Measure(
    name="energy",
    kind="similarity",
    function=energy,
    description="share of the squared norm that the subset has, on the test split",
    label="share of the squared norm",
    quantity="squared norm of a vector",
    value_name="squared norm",
    memory=energy_bytes,
)


def printed_list(what: str, capsys: Capture) -> list[tuple[Any, ...]]:
    with pytest.raises(SystemExit) as ended:
        main(["list", what, "--format", "json"])
    assert not ended.value.code
    return [tuple(row.values()) for row in json.loads(capsys.readouterr().out)]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Measure:
    monkeypatch.setitem(registry._BY_NAME, ENERGY.name, ENERGY)
    return ENERGY


@pytest.fixture
def toy_run(toy: Measure, store: FeatureStore, tmp_path: Path) -> Run:
    return cm.sweep(store, out=tmp_path / "run", fractions=FRACTIONS, seeds=3, measures=toy.name)


class TestOneEntryAddsAMeasure:
    def test_it_is_listed(self, toy: Measure, capsys: Capture) -> None:
        assert (toy.name, toy.description) in printed_list("measures", capsys)

    def test_it_is_measured(self, toy: Measure, toy_run: Run) -> None:
        table = toy_run.frame()
        assert set(table["measure"]) == {toy.name}
        assert (table["status"] == "ok").all()
        assert len(table) == 3 * len(FRACTIONS) + 1
        whole = table[table["selector"] == "full"]
        np.testing.assert_allclose(whole["value"], 1.0)
        assert toy_run.manifest["measures"] == {toy.name: {"version": 1}}

    def test_its_memory_is_estimated(self, toy: Measure, store: FeatureStore) -> None:
        request = make_request(
            describe_layers(store),
            selectors="random",
            fractions=FRACTIONS,
            seeds=1,
            measures=(toy.name, "cka"),
        )
        largest = memory_estimate.estimate_memory(request, 0).parts[-1]
        assert largest.name == toy.name
        assert largest.n_bytes == int(1.15 * TOY_BYTES)

    def test_it_has_a_row_of_redundancy(self, toy: Measure, toy_run: Run) -> None:
        table = cm.redundancy(toy_run, deltas=(0.5,))
        assert list(table["measure"]) == [toy.name]
        assert table["reached"].all()

    def test_it_is_on_the_page(self, toy: Measure, toy_run: Run, tmp_path: Path) -> None:
        page = cm.report(toy_run, out=tmp_path / "report.html").read_text()
        for text in (toy.description, toy.label, toy.quantity):
            assert text in page

    def test_a_layer_is_shrunk_by_it(
        self, toy: Measure, store: FeatureStore, tmp_path: Path
    ) -> None:
        plan = cm.shrink(store, keep=0.5, measure=toy.name, out=tmp_path / "slim")
        assert plan.safe
        assert plan.slim.record["value_name"] == toy.value_name
        assert 1 <= plan.slim.record["n_kept"] < plan.slim.record["n_neurons"]

    def test_too_few_test_samples_are_named(
        self, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(registry._BY_NAME, "energy", replace(ENERGY, min_test_samples=1000))
        with pytest.warns(UserWarning, match="energy needs at least 1000 test samples"):
            cm.sweep(store, out=tmp_path / "run", fractions=0.5, seeds=1, measures="energy")

    def test_a_similarity_is_no_probe(self, toy: Measure) -> None:
        assert toy.name in registry.SIMILARITIES
        assert toy.name not in registry.PROBES
        with pytest.raises(KeyError):
            registry.PROBES[toy.name]
        with pytest.raises(CriticalMassError, match="no probe 'energy'"):
            registry.get_probe(toy.name)


def test_every_measure_names_its_axis_and_quantity() -> None:
    for entry in MEASURES.values():
        if entry.is_probe:
            assert entry.label == PROBE_LABEL
            assert entry.plural
        else:
            assert entry.label != PROBE_LABEL
            assert entry.quantity


def registries() -> dict[str, dict[str, str]]:
    """Return list -> name -> description, as the registries have them."""
    from criticalmass.extraction.datasets.loading import DATASET_SOURCES
    from criticalmass.extraction.models.loading import MODEL_SOURCES
    from criticalmass.studies.library import describe_studies

    return {
        "measures": {name: entry.description for name, entry in MEASURES.items()},
        "selectors": {name: entry.description for name, entry in SELECTORS.items()},
        "models": {source.form: source.description for source in MODEL_SOURCES},
        "datasets": {source.form: source.description for source in DATASET_SOURCES},
        "studies": dict(describe_studies()),
    }


def test_every_entry_has_a_description() -> None:
    from criticalmass.extraction.engines.registry import ENGINES

    others = {
        "engines": dict(ENGINES),
        "export formats": {name: entry.description for name, entry in FORMATS.items()},
    }
    for kind, descriptions in {**registries(), **others}.items():
        assert descriptions, kind
        for name, description in descriptions.items():
            assert description.strip(), f"{kind}: {name}"
            assert "\n" not in description, f"{kind}: {name}"


@pytest.mark.parametrize("what", ["measures", "selectors", "models", "datasets", "studies"])
def test_a_list_prints_its_registry(what: str, capsys: Capture) -> None:
    assert printed_list(what, capsys) == list(registries()[what].items())


def test_no_other_table_is_keyed_by_measures() -> None:
    """No dict of the sources has two measures as keys, no other literal has three as elements."""
    root = Path(cm.__file__).parent
    # The names of the scores by which queries are ranked are words of their own.
    names = set(MEASURES) - {"ndcg", "recall", "mrr"}
    tables = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                limit, keys = 1, list(node.keys)
            elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
                limit, keys = 2, list(node.elts)
            else:
                continue
            constants = {key.value for key in keys if isinstance(key, ast.Constant)}
            if len(constants & names) > limit:
                tables.append(f"{path.relative_to(root)}:{node.lineno}")
    assert tables == []
