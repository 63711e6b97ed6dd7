"""Retrieval collections from BEIR folders, mteb tasks, files and arrays."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import criticalmass as cm
from criticalmass.cli.main import cli
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.datasets.collections import read_task
from criticalmass.extraction.judgements import read_judgements

DOCUMENTS = [
    ("d1", "A cat", "sits"), ("d2", "", "dogs run"), ("d3", "T", ""), ("d1", "again", "x"),
    ("d4", "", ""), ("q4", "", "a query as a document"),
]  # fmt: skip
QUERIES = [("q1", "cat"), ("q2", "dog"), ("q3", "nothing"), ("q4", "a query as a document")]
QRELS = (
    "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t1\nq1\tzz\t1\nq2\td2\t1\nq2\td3\t0\n"
    "q9\td1\t1\nq4\td3\t1\nq1\td1\t3\n"
)
PAIRS = {("q1", "d1"): 3.0, ("q1", "d2"): 1.0, ("q2", "d2"): 1.0, ("q4", "d3"): 1.0}


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": i, "title": t, "text": x}) for i, t, x in DOCUMENTS]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    with gzip.open(folder / "queries.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"_id": i, "text": x}) + "\n" for i, x in QUERIES)
    (folder / "qrels" / "test.tsv").write_text(QRELS)
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq3\td2\t1\n")
    return folder


def named_pairs(qrels, document_ids, query_ids):
    rows = zip(qrels.queries, qrels.documents, qrels.grades, strict=True)
    return {(query_ids[q], document_ids[d]): grade for q, d, grade in rows}


def test_a_beir_folder(beir):
    data = load_dataset(f"beir:{beir}")
    documents, queries = data.splits["train"], data.splits["test"]
    assert list(documents.items) == ["A cat sits", "dogs run", "T", "", "a query as a document"]
    assert list(queries.ids) == ["q1", "q2", "q4"]
    assert named_pairs(data.qrels, documents.ids, queries.ids) == PAIRS
    # As in BEIR, the document with the query's id does not count as retrieved.
    np.testing.assert_array_equal(data.qrels.own, [-1, -1, 4])
    for count in (
        "documents without text: 1", "id of an earlier one: 1", "queries that are absent: 1",
        "documents that are absent: 1", "replaces: 1", "grade of 0 or below: 1",
        "without a relevant document: 1", "5 documents, 3 queries, 4 relevant pairs",
    ):  # fmt: skip
        assert count in data.notes["collection"]


def test_other_qrels_are_named_by_an_option(beir):
    data = load_dataset(f"beir:{beir}?split=dev")
    assert list(data.splits["test"].ids) == ["q3"]
    assert data.qrels.name == "dev"
    assert data.digest != load_dataset(f"beir:{beir}").digest
    with pytest.raises(CriticalMassError, match="dev"):
        load_dataset(f"beir:{beir}?split=devv")


def test_the_digest_covers_the_grades(beir):
    before = load_dataset(f"beir:{beir}").digest
    (beir / "qrels" / "test.tsv").write_text(QRELS.replace("q2\td2\t1", "q2\td2\t2"))
    assert load_dataset(f"beir:{beir}").digest != before


@pytest.mark.parametrize(
    ("break_folder", "message"),
    [
        (lambda f: (f / "corpus.jsonl").unlink(), r"no file .*corpus\.jsonl"),
        (lambda f: (f / "corpus.jsonl").write_text('{"_id": "a"}\n'), "line 1 of .*_id and text"),
        (lambda f: [p.unlink() for p in (f / "qrels").iterdir()], "holds no qrels"),
        (lambda f: (f / "qrels/test.tsv").write_text("a\tb\tc\n"), "grade 'c'.*query-id"),
        (
            lambda f: (f / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nx\ty\t1\n"),
            "no query of .* has a relevant document",
        ),
    ],
)
def test_a_broken_folder_is_an_error_in_one_line(beir, break_folder, message):
    break_folder(beir)
    with pytest.raises(CriticalMassError, match=message) as error:
        load_dataset(f"beir:{beir}")
    assert "\n" not in str(error.value)


FORMS = {
    "beir.tsv": "query-id\tcorpus-id\tscore\nq 1\td1\t2\nq2\td2\t1\n",
    "no-header.tsv": "q 1\td1\t2\nq2\td2\t1\n",
    "trec.txt": "q1 0 d1 2\nq2 Q0 d2 1\n",
    "comma.csv": 'qid,docid,relevance\n"q 1",d1,2\nq2,d2,1\n',
    "lines.jsonl": '{"query-id": "q 1", "corpus-id": "d1", "score": 2}\n'
    '{"query-id": "q2", "corpus-id": "d2", "score": 1}\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_qrels_in_every_form(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name])
    read = read_judgements(tmp_path / name)
    assert read.queries.tolist() == (["q1", "q2"] if "trec" in name else ["q 1", "q2"])
    assert read.documents.tolist() == ["d1", "d2"]
    assert read.grades.tolist() == [2, 1]


def test_qrels_from_python(tmp_path):
    table = pd.DataFrame({"query-id": [1, 2], "corpus-id": [7, 8], "score": [2, 1]})
    table.to_parquet(tmp_path / "q.parquet")
    np.save(tmp_path / "q.npy", table.to_numpy())
    sources = (
        table, table.to_numpy(), table.to_numpy().astype(float), {1: {7: 2}, 2: {8: 1}},
        tmp_path / "q.parquet", tmp_path / "q.npy",
    )  # fmt: skip
    for source in sources:
        read = read_judgements(source)
        assert (read.queries.tolist(), read.documents.tolist()) == (["1", "2"], ["7", "8"])
        assert read.grades.tolist() == [2, 1]
    assert read_judgements({"a": ["b"]}).grades.tolist() == [1]
    with pytest.raises(CriticalMassError, match=r"shape \(3,\)"):
        read_judgements(np.ones(3))


def task_of(version: int, **options) -> SimpleNamespace:
    corpus = {i: {"title": t, "text": x} for i, t, x in DOCUMENTS[:3]}
    relevant = {"q1": {"d1": 1}, "q2": {"d2": 1}}
    metadata = SimpleNamespace(name="Tiny", is_multilingual=False)
    task = SimpleNamespace(metadata=metadata, data_loaded=False, **options)
    task.load_data = lambda: setattr(task, "data_loaded", True)
    if version == 1:
        task.corpus, task.queries = {"test": corpus}, {"test": dict(QUERIES)}
        task.relevant_docs = {"test": relevant}
        return task
    rows = {
        "corpus": [{"id": i, **text} for i, text in corpus.items()],
        "queries": [{"id": i, "text": x} for i, x in QUERIES],
        "relevant_docs": relevant,
    }
    task.dataset = {"default": {"dev": {}, "test": rows}}
    return task


@pytest.mark.parametrize("version", [1, 2])
def test_a_task_of_mteb(version):
    data = load_dataset(task_of(version))
    assert list(data.splits["train"].items) == ["A cat sits", "dogs run", "T"]
    assert list(data.splits["test"].ids) == ["q1", "q2"]
    assert data.name == "Tiny"
    assert (data.qrels.own == -1).all()


def test_a_task_says_what_it_lacks():
    with pytest.raises(CriticalMassError, match=r"qrels in task 'Tiny'.*train"):
        read_task(task_of(2), split="train")
    pictures = task_of(2)
    pictures.dataset["default"]["test"]["corpus"] = [{"id": "d1", "image": b""}]
    with pytest.raises(CriticalMassError, match="no ids and texts to embed"):
        load_dataset(pictures)


X = np.random.default_rng(0).normal(size=(30, 4)).astype("f4")
Q = X[:6] + np.float32(0.1)


def test_arrays_are_counted_by_rows(tmp_path):
    store = cm.import_features(X, queries=Q, qrels=[[0, 5, 2], [4, 9, 1]], out=tmp_path / "s")
    np.testing.assert_array_equal(store.features("train").array(), X)
    np.testing.assert_array_equal(store.features("test").array(), Q[[0, 4]])
    assert store.sample_ids("test") == ("0", "4")
    pairs = named_pairs(store.qrels, store.sample_ids("train"), store.sample_ids("test"))
    assert pairs == {("0", "5"): 2, ("4", "9"): 1}


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ({0: 5}, "for query 0; give"),
        ({0: "12"}, "for query 0; give"),
        ([[0.5, 1, 1]], r"judgement 1 names \[0.5, 1.0\]"),
        ([[0, float("inf"), 1]], "judgement 1 names"),
        ([[0, 1], [2]], "is no array"),
        (np.zeros((2, 3), dtype=complex), "has complex numbers"),
        (float("nan"), r"has shape \(\)"),
    ],
)
def test_qrels_of_another_form_are_an_error_in_one_line(tmp_path, qrels, message):
    with pytest.raises(CriticalMassError, match=message) as raised:
        cm.import_features(X, queries=Q, qrels=qrels, out=tmp_path / "s")
    assert "\n" not in str(raised.value)


def test_queries_in_memory_are_part_of_the_digest_beside_a_file(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "docs.npy", rng.normal(size=(6, 3)).astype(np.float32))
    digests = set()
    for seed in (1, 2):
        queries = np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32)
        store = cm.import_features(
            tmp_path / "docs.npy",
            queries=queries,
            qrels={0: {1: 1}, 1: {2: 1}, 2: {0: 1}},
            out=tmp_path / f"f{seed}",
        )
        digests.add(store.manifest["dataset"]["digest"])
    assert len(digests) == 2


def test_ids_of_tables_are_used_and_repeated_ones_left_out(tmp_path):
    documents = pd.DataFrame({"_id": [f"d{i % 29}" for i in range(30)], "vector": list(X)})
    queries = pd.DataFrame({"query_id": [f"q{i}" for i in range(6)], "vector": list(Q)})
    store = cm.import_features(
        documents, queries=queries, qrels={"q3": {"d0": 1, "d28": 1}}, out=tmp_path / "s"
    )
    np.testing.assert_array_equal(store.features("train").array(), X[:29])
    pairs = named_pairs(store.qrels, store.sample_ids("train"), store.sample_ids("test"))
    assert pairs == {("q3", "d0"): 1, ("q3", "d28"): 1}
    assert "id of an earlier one: 1" in store.manifest["dataset"]["notes"]["collection"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": Q}, "needs queries and qrels; give qrels"),
        ({"qrels": [[0, 0, 1]]}, "give queries"),
        ({"queries": Q[:, :3], "qrels": [[0, 0, 1]]}, "4 dimensions, queries 3"),
        ({"queries": Q, "qrels": [[0, 0, 1]], "labels": np.arange(30) % 2}, "leave out labels"),
        ({"queries": Q, "qrels": [[0, 0, 1]], "split": np.arange(30) % 2 > 0}, "leave out split"),
        ({"queries": Q, "qrels": [[0, 0, 1]], "link": True}, "leave out link"),
        ({"queries": {"train": Q, "test": Q}, "qrels": [[0, 0, 1]]}, "one matrix of queries"),
        ({"queries": Q, "qrels": [[77, 0, 1]]}, "no query of .* has a relevant document"),
    ],
)
def test_what_makes_no_collection_is_refused(tmp_path, options, message):
    with pytest.raises(CriticalMassError, match=message):
        cm.import_features(X, out=tmp_path / "s", **options)


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("docs.npy", X)
    np.save("queries.npy", Q)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t5\t2\n9\t5\t2\n")
    line = "import docs.npy --queries queries.npy --qrels qrels.tsv --out f"
    result = CliRunner().invoke(cli, line.split())
    assert result.exit_code == 0, result.output
    assert "30 documents, 1 queries, 1 relevant pairs (qrels 'qrels')" in result.stderr
    assert "queries that are absent: 1" in result.stderr
    assert cm.FeatureStore.open("f").is_collection
