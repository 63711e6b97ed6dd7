"""Relevance on qrels: the definitions of trec_eval, by hand, by scikit-learn and by loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES, get_similarity, measure_label
from criticalmass.measures.relevance import drop_own, score_ranked
from criticalmass.measures.similarity.task import Gallery, SimilarityTask, WholeLayer
from criticalmass.storage.qrels import Qrels

SCORES = ("ndcg", "recall", "mrr")


def qrels_of(grades: np.ndarray, own: np.ndarray | None = None) -> Qrels:
    """Qrels of a (n_queries, n_documents) matrix of grades."""
    queries, documents = np.nonzero(grades > 0)
    pairs = queries, documents, grades[queries, documents].astype(float)
    return Qrels.of_pairs(pairs, grades.shape, own)


def test_a_case_by_hand():
    # Grades 3, 2 and 1 of the documents 0, 1 and 2; ranks 1 to 3 hold grade 2, none and grade 3.
    qrels = qrels_of(np.array([[3, 2, 1, 0, 0], [0, 0, 0, 0, 4]]))
    ranked = np.array([[1, 3, 0], [0, 1, 4]])
    gained = 2 / np.log2(2) + 0 + 3 / np.log2(4)
    ideal = 3 / np.log2(2) + 2 / np.log2(3) + 1 / np.log2(4)
    expected = [gained / ideal, 1 / np.log2(4)]
    np.testing.assert_allclose(score_ranked(ranked, qrels, "ndcg"), expected)
    np.testing.assert_allclose(score_ranked(ranked, qrels, "recall"), [2 / 3, 1])
    np.testing.assert_allclose(score_ranked(ranked, qrels, "mrr"), [1, 1 / 3])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_ndcg_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 4, (6, 30)) * (rng.random((6, 30)) < 0.5)
    grades[:, 0] = 1
    similarity = rng.permuted(np.tile(np.arange(30.0), (6, 1)), axis=1)
    ranked = np.argsort(-similarity, axis=1)[:, :10]
    qrels = qrels_of(grades)
    for row in range(6):
        expected = ndcg_score(grades[row : row + 1], similarity[row : row + 1], k=10)
        assert score_ranked(ranked, qrels, "ndcg")[row] == pytest.approx(expected)
    hits = np.take_along_axis(grades, ranked, axis=1) > 0
    recall = hits.sum(axis=1) / (grades > 0).sum(axis=1)
    np.testing.assert_allclose(score_ranked(ranked, qrels, "recall"), recall)
    first = [1 / (1 + np.flatnonzero(row)[0]) if row.any() else 0.0 for row in hits]
    np.testing.assert_allclose(score_ranked(ranked, qrels, "mrr"), first)


def test_a_perfect_list_scores_exactly_one_and_only_ten_ranks_count():
    grades = np.zeros((1, 40))
    grades[0, :12] = np.arange(12, 0, -1)
    qrels = qrels_of(grades)
    assert score_ranked(np.arange(12)[None], qrels, "ndcg")[0] == 1.0
    # 12 documents are relevant, 10 are listed: recall is not divided by 10.
    assert score_ranked(np.arange(12)[None], qrels, "recall")[0] == pytest.approx(10 / 12)
    assert score_ranked(np.arange(30, 42)[None], qrels_of(grades[:, ::-1]), "mrr")[0] == 1.0
    late = np.r_[np.arange(20, 30), 0][None]
    assert [score_ranked(late, qrels, score)[0] for score in SCORES] == [0.0, 0.0, 0.0]


def test_filling_and_queries_without_relevant_documents_score_nothing():
    qrels = qrels_of(np.array([[0, 0, 1], [0, 0, 0]]))
    # The key of query 1 and filling -1 would be that of the last document of query 0.
    ranked = np.array([[-1, -1], [-1, 2]])
    for score in SCORES:
        np.testing.assert_array_equal(score_ranked(ranked, qrels, score), [0.0, 0.0])


def test_the_query_itself_is_removed():
    ranked = np.array([[5, 1, 2], [3, 4, 0], [6, 7, 8]], dtype=np.int32)
    own = np.array([1, 9, -1])
    np.testing.assert_array_equal(drop_own(ranked, own), [[5, 2], [3, 4], [6, 7]])


def collection(seed: int = 0, n: int = 300, m: int = 40, d: int = 12) -> tuple:
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((n, d)).astype(np.float32)
    source = rng.integers(0, n, m)
    queries = (documents[source] + rng.standard_normal((m, d))).astype(np.float32)
    grades = np.zeros((m, n))
    grades[np.arange(m), source] = 2
    grades[np.arange(m), rng.integers(0, n, m)] += 1
    return documents, queries, qrels_of(grades)


def brute(documents, queries, qrels, score):
    a, b = (x.astype(float) for x in (documents, queries))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    ranked = np.argsort(-(b @ a.T), axis=1, kind="stable")[:, :10]
    return score_ranked(ranked, qrels, score)


@pytest.mark.parametrize("score", SCORES)
def test_subsets_search_all_documents(score):
    documents, queries, qrels = collection()
    layer = WholeLayer(queries, gallery=Gallery(documents, qrels))
    order = np.random.default_rng(3).permutation(12)
    result = get_similarity(score)(SimilarityTask(layer, order[None], (3, 7, 12)))
    for j, size in enumerate((3, 7, 12)):
        kept = order[:size]
        expected = brute(documents[:, kept], queries[:, kept], qrels, score)
        np.testing.assert_allclose(result.bootstrap_values[0, j], expected, atol=1e-6)
    basis = np.linalg.qr(np.random.default_rng(4).standard_normal((12, 12)))[0]
    projected = get_similarity(score)(SimilarityTask(layer, basis, (4,), is_projection=True))
    expected = brute(documents @ basis[:, :4], queries @ basis[:, :4], qrels, score)
    assert projected.values[0, 0] == pytest.approx(expected.mean(), abs=1e-6)


def test_a_query_that_is_a_document_does_not_find_itself():
    documents, _, _ = collection()
    queries, own = documents[:5], np.arange(5)
    grades = np.zeros((5, 300))
    grades[np.arange(5), own] = 1
    for score in SCORES:
        for with_own, expected in ((None, 1.0), (own, 0.0)):
            gallery = Gallery(documents, qrels_of(grades, with_own))
            task = SimilarityTask(WholeLayer(queries, gallery=gallery), np.arange(12)[None], (12,))
            assert get_similarity(score)(task).values[0, 0] == expected


@pytest.mark.parametrize("measure", ["retrieval", "retrieval-recall", "mutual-knn"])
def test_neighbours_in_a_collection_are_documents(measure):
    documents, queries, qrels = collection()
    task = SimilarityTask(
        WholeLayer(queries, gallery=Gallery(documents, qrels)), np.arange(12)[None], (6, 12)
    )
    scores = get_similarity(measure)(task)
    assert scores.bootstrap_values.shape == (1, 2, 40)
    assert scores.values[0, 1] == 1.0
    if measure == "retrieval-recall":
        lists = []
        for kept in (6, 12):
            a, b = documents[:, :kept].astype(float), queries[:, :kept].astype(float)
            cosines = (b @ a.T) / np.linalg.norm(a, axis=1)
            lists.append(np.argsort(-cosines, axis=1)[:, :10])
        shared = [len(set(one) & set(other)) / 10 for one, other in zip(*lists, strict=True)]
        assert scores.values[0, 0] == pytest.approx(np.mean(shared))


def test_distances_to_far_documents_do_not_depend_on_the_origin():
    documents, queries, qrels = collection()
    values = [
        get_similarity("mutual-knn")(
            SimilarityTask(
                WholeLayer(queries + shift, gallery=Gallery(documents + shift, qrels)),
                np.arange(12)[None],
                (6,),
            )
        ).values[0, 0]
        for shift in (np.float32(0), np.float32(64))
    ]
    assert values[0] == pytest.approx(values[1], abs=0.02)


def test_many_queries_are_searched_in_blocks(monkeypatch):
    documents, queries, qrels = collection(m=30)
    order, sizes = np.arange(12)[None], (5, 12)
    layer = WholeLayer(queries, gallery=Gallery(documents, qrels))
    whole = get_similarity("ndcg")(SimilarityTask(layer, order, sizes))
    monkeypatch.setattr("criticalmass.measures.similarity.task._QUERY_BLOCK", 7)
    layer = WholeLayer(queries, gallery=Gallery(documents, qrels))
    parts = get_similarity("ndcg")(SimilarityTask(layer, order, sizes))
    np.testing.assert_array_equal(whole.bootstrap_values, parts.bootstrap_values)


def test_20000_documents_and_more_than_4096_queries():
    documents, _, _ = collection(n=20_000, m=1, d=8)
    source = np.arange(4200) * 3
    queries = documents[source] + np.float32(0.01)
    pairs = np.arange(4200), source, np.ones(4200)
    layer = WholeLayer(queries, gallery=Gallery(documents, Qrels.of_pairs(pairs, (4200, 20_000))))
    scores = get_similarity("mrr")(SimilarityTask(layer, np.arange(8)[None], (2, 8)))
    assert scores.bootstrap_values.shape == (1, 2, 4200)
    assert scores.values[0, 1] > 0.99 > scores.values[0, 0] > 0.0


def test_equal_documents_are_ranked_by_their_rows():
    documents = np.tile(np.random.default_rng(0).standard_normal((4, 6)), (5, 1)).astype("f4")
    grades = np.zeros((1, 20))
    grades[0, 0] = 1
    gallery = Gallery(documents, qrels_of(grades))
    layer = WholeLayer(documents[:1], gallery=gallery)
    task = SimilarityTask(layer, np.arange(6)[None], (3, 6))
    np.testing.assert_array_equal(get_similarity("mrr")(task).values, [[1.0, 1.0]])


def test_without_qrels_there_is_one_line_with_the_cure():
    task = SimilarityTask(WholeLayer(np.eye(14, dtype="f4")), np.arange(14)[None], (14,))
    with pytest.raises(CriticalMassError, match=r"needs queries and qrels.*--queries.*beir:FOLDER"):
        get_similarity("ndcg")(task)


def test_labels_name_relevance_and_the_searched_samples():
    assert all("on qrels" in MEASURES[name].label for name in SCORES)
    assert "agreement" not in "".join(MEASURES[name].label for name in SCORES)
    assert "among documents" in measure_label("retrieval", "documents")
    assert "test samples" not in measure_label("mutual-knn", "documents")
