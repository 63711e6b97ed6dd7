"""Promises by relevance: queries and documents apart, held-out queries, and the words for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.cli.main import cli
from criticalmass.errors import CriticalMassError
from criticalmass.measures.relevance import score_ranked
from criticalmass.shrinking.data_parts import split_data
from criticalmass.shrinking.evaluators import make_stored_evaluator
from criticalmass.shrinking.shrink import ShrinkPlan
from criticalmass.shrinking.slim_model import SlimModel

N_DOCUMENTS, N_QUERIES, WIDTH = 1200, 600, 16


def draw(seed: int, *, are_documents: bool = False) -> tuple[NDArray[np.float32], ...]:
    """Documents near 5 directions; queries are noisy and scaled; two graded documents each."""
    mix = np.random.default_rng(99).standard_normal((5, WIDTH))
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((N_DOCUMENTS, 5)) @ mix
    documents += 0.2 * rng.standard_normal(documents.shape)
    source = rng.permutation(N_DOCUMENTS)[:N_QUERIES]
    queries = documents[source]
    if not are_documents:
        queries = 3.0 * queries + rng.standard_normal(queries.shape) + 1.0
    numbers = np.arange(N_QUERIES)
    others = rng.integers(0, N_DOCUMENTS, N_QUERIES)
    qrels = np.r_[np.c_[numbers, source, numbers * 0 + 2], np.c_[numbers, others, numbers * 0 + 1]]
    return documents.astype("f4"), queries.astype("f4"), qrels


def make_store(out: Path, seed: int = 0) -> cm.FeatureStore:
    documents, queries, qrels = draw(seed)
    return cm.import_features(documents, queries=queries, qrels=qrels, out=out)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> cm.FeatureStore:
    return make_store(tmp_path_factory.mktemp("collection") / "store")


@pytest.fixture(scope="module")
def plan(store: cm.FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> ShrinkPlan:
    out = tmp_path_factory.mktemp("slim") / "slim"
    return cm.shrink(store, measure="ndcg", keep=0.9, selectors=("first", "pca-top"), out=out)


def test_queries_to_choose_by_and_to_test_on_are_apart(store):
    parts = split_data(store, None)
    chosen, held_out = (part.rows[:] for part in (parts.selection, parts.test))
    queries = store.features("test").array()
    assert len(chosen) + len(held_out) == len(queries)
    assert not {row.tobytes() for row in chosen} & {row.tobytes() for row in held_out}
    np.testing.assert_array_equal(parts.train.rows[:], store.features("train").array())
    for part, qrels in ((parts.selection, parts.selection_qrels), (parts.test, parts.test_qrels)):
        assert qrels.n_queries == part.rows.shape[0]


def test_documents_to_choose_by_hold_what_is_relevant(store, monkeypatch):
    monkeypatch.setattr("criticalmass.shrinking.data_parts._MAX_FIT_ROWS", 400)
    parts = split_data(store, None)
    assert parts.fit.rows.shape[0] == 400
    # Two relevant documents for every query, but for the same one drawn twice.
    per_query = np.bincount(parts.selection_qrels.queries)
    whole = store.qrels
    assert per_query.min() >= np.bincount(whole.queries).min()
    assert parts.selection_qrels.grades.sum() >= 2.9 * parts.selection_qrels.n_queries


@pytest.mark.parametrize("measure", ["ndcg", "recall", "mrr"])
@pytest.mark.parametrize("rerank", [0, 4])
def test_the_value_is_that_of_a_search_by_hand(store, measure, rerank):
    evaluator = make_stored_evaluator(measure, split_data(store, None), True, "qrels")
    reference = evaluator.reference
    documents, queries = store.features("train").array(), evaluator.queries
    units = documents / np.linalg.norm(documents.astype(float), axis=1, keepdims=True)
    nearest = np.argsort(-(queries.astype(float) @ units.T), axis=1, kind="stable")[:, :10]
    expected = score_ranked(nearest, reference.qrels, measure)
    np.testing.assert_allclose(reference.scores_full, expected)
    short = documents[:, :6] / np.linalg.norm(documents[:, :6].astype(float), axis=1)[:, None]
    order = np.argsort(-(queries[:, :6].astype(float) @ short.T), axis=1, kind="stable")
    listed = order[:, : max(1, rerank) * 10]
    if rerank:
        cosines = np.einsum("qd,qkd->qk", queries.astype(float), units[listed])
        listed = np.take_along_axis(listed, np.argsort(-cosines, axis=1), axis=1)
    from criticalmass.shrinking.stored_vectors import ShortMap

    short_map = ShortMap(WIDTH, np.arange(6))
    scores = evaluator.scores([(short_map, "float32")], (rerank,))[0][0]
    np.testing.assert_allclose(
        scores.mean(), score_ranked(listed[:, :10], reference.qrels, measure).mean(), atol=0.003
    )


def test_the_promise_and_its_words(plan):
    assert plan.safe
    assert "at least 0.9 of the relevance (nDCG@10 on qrels) is kept" in plan.sentence
    assert "450 held-out queries" in plan.sentence
    assert "neighbour agreement" not in plan.sentence
    card = (plan.path / "README.md").read_text()
    for words in (
        "Each query searches all 1,200 documents",
        "qrels 'given' name, with their grades",
        "fitted on 1,200 documents and compared on 150 queries. The 450 other queries",
        "other documents than these",
    ):
        assert words in card
    assert "agreement" not in card
    record = plan.slim.record
    assert (record["relevance"], record["measure"]) == ("qrels", "ndcg")
    assert record["promise"]["ratio_bound"] >= 0.9


def test_the_front_has_projections_precisions_and_reranking(plan):
    front = plan.front
    assert set(front["precision"]) >= {"int8", "float16"}
    assert set(front["rerank"]) == {0, 4}
    assert front["selector"].str.startswith("pca-top").any()
    assert (front["bound"] <= 2.0).all()
    assert front["ndcg"].between(0, 1).all()


def test_the_promise_holds_on_new_queries_and_documents(plan, tmp_path):
    fresh = make_store(tmp_path / "fresh", seed=1)
    result = cm.verify(plan.path, fresh)
    assert result.holds
    assert result.n_samples == N_QUERIES
    assert "relevance (nDCG@10 on qrels)" in result.sentence
    plain = cm.import_features(draw(1)[0], out=tmp_path / "plain")
    with pytest.raises(CriticalMassError, match="needs queries and qrels"):
        cm.verify(plan.path, plain)


def test_wrong_qrels_are_not_confirmed(plan, tmp_path):
    documents, queries, qrels = draw(2)
    # The map keeps 5 directions; in the others, which it drops, queries find their documents.
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(documents.shape).astype("f4")
    hidden = noise[qrels[:N_QUERIES, 1]]
    directions = plan.slim.matrix
    project = np.eye(WIDTH) - directions @ directions.T
    documents, queries = 0.1 * documents + 3 * noise @ project, 3 * hidden @ project
    store = cm.import_features(
        documents.astype("f4"), queries=queries.astype("f4"), qrels=qrels, out=tmp_path / "s"
    )
    assert not cm.verify(plan.path, store).holds


def test_neighbour_agreement_is_asked_by_the_queries(store):
    parts = split_data(store, None)
    evaluator = make_stored_evaluator("retrieval", parts, False)
    queries = {row.tobytes() for row in store.features("test").array()}
    assert {row.tobytes() for row in evaluator.queries} <= queries
    plan = cm.shrink(store, measure="retrieval", keep=0.8, selectors=("first",), reranks=(0,))
    assert "among documents" in plan.sentence
    assert "training" not in plan.sentence


def test_a_query_that_is_a_document_does_not_count(tmp_path):
    from criticalmass.shrinking.evaluators import evaluate_queries
    from criticalmass.shrinking.probe_evaluator import LabelledRows
    from criticalmass.shrinking.stored_vectors import ShortMap
    from criticalmass.storage.qrels import Qrels

    documents, queries, qrels = draw(0, are_documents=True)
    pairs, short_map = qrels[:N_QUERIES], ShortMap(WIDTH, np.arange(WIDTH - 1))
    part = [LabelledRows(x, np.zeros(len(x), np.int64)) for x in (documents, queries)]
    for own, expected in ((None, 1.0), (pairs[:, 1], 0.0)):
        found = Qrels.of_pairs(
            (pairs[:, 0], pairs[:, 1], pairs[:, 2].astype(float)), (N_QUERIES, N_DOCUMENTS), own
        )
        evaluator = evaluate_queries("recall", *part, 10_000, "qrels", found)
        assert evaluator.reference.scores_full.mean() == expected
        forms = evaluator.scores([(short_map, "float32")], (0, 4))[0]
        assert [scores.mean() for scores in forms] == [expected, expected]


def test_without_qrels_one_line_says_how_to_get_them(tmp_path):
    store = cm.import_features(draw(0)[0], out=tmp_path / "s")
    for command in ("shrink", "sweep"):
        arguments = [command, str(store.path), "--measure", "ndcg", "--out", str(tmp_path / "o")]
        result = CliRunner().invoke(cli, arguments)
        message = str(result.exception) + result.output
        assert result.exit_code != 0
        assert "needs queries and qrels" in message
        assert "--queries" in message


def test_labels_are_no_relevance_of_a_measure_on_qrels(store):
    with pytest.raises(CriticalMassError, match="relevance='labels' applies"):
        cm.shrink(store, measure="ndcg", relevance="labels")


def test_too_few_queries_are_refused(tmp_path):
    documents, queries, _ = draw(0)
    few = [[i, i, 1] for i in range(4)]
    store = cm.import_features(documents, queries=queries, qrels=few, out=tmp_path / "s")
    with pytest.raises(CriticalMassError, match=r"has 4 queries .* at least 8"):
        cm.shrink(store, measure="ndcg")


def test_a_slim_model_is_exported_as_any_other(plan, store, tmp_path):
    path = cm.export(plan.path, format="vectors", vectors=store.path, out=tmp_path / "exported")
    assert json.loads((Path(path) / "export.json").read_text())
    assert SlimModel.open(plan.path).record["relevance"] == "qrels"


def test_a_sweep_measures_relevance_on_all_documents(store, tmp_path):
    measures = ("ndcg", "retrieval-recall")
    run = cm.sweep(
        store, out=tmp_path / "run", measures=measures, fractions=(0.25, 0.5, 1), seeds=3
    )
    frame = run.frame()
    assert set(frame["n_train"]) == {N_DOCUMENTS}
    assert set(frame["n_test"]) == {N_QUERIES}
    assert (frame["status"] == "ok").all()
    table = cm.redundancy(run, deltas=(0.8,)).set_index("measure")
    assert 0 < table.loc["ndcg", "value_full"] < 1
    assert table.loc["retrieval-recall", "value_full"] == 1
    assert table.loc["ndcg", "critical_mass_low"] <= table.loc["ndcg", "critical_mass"]
    result = CliRunner().invoke(cli, ["redundancy", str(tmp_path / "run")])
    assert "1,200 documents" in result.stdout
    changed = cm.import_features(
        draw(0)[0], queries=draw(0)[1], qrels=draw(0)[2][:N_QUERIES], out=tmp_path / "changed"
    )
    assert changed.digest() != store.digest()
