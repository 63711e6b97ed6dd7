"""Measures of neighbours on more test samples than are queries, beside brute force in float64."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.measures.registry import get_similarity
from criticalmass.measures.similarity.retrieval import MOST_QUERIES, choose_queries
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.shrinking.probe_evaluator import LabelledRows
from criticalmass.shrinking.retrieval_evaluator import RetrievalEvaluator

N, N_TRAIN, WIDTH, N_CHECKED = 10_000, 2_000, 8, 40
SIMILARITIES = ("retrieval", "retrieval-recall", "mutual-knn")
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """A store with 2,000 training and 10,000 test samples, and its arrays in float64."""

    store: cm.FeatureStore
    train: Matrix
    test: Matrix
    y_train: NDArray[np.int64]
    y_test: NDArray[np.int64]


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    rng = np.random.default_rng(6)
    y = rng.integers(0, 3, N_TRAIN + N)
    rows = (rng.standard_normal((N_TRAIN + N, WIDTH)) + y[:, None]).astype(np.float32)
    split = np.repeat(["train", "test"], [N_TRAIN, N])
    path = tmp_path_factory.mktemp("scale") / "store"
    store = cm.import_features(rows, out=path, labels=y, split=split)
    wide = rows.astype(np.float64)
    return Layer(store, wide[:N_TRAIN], wide[N_TRAIN:], y[:N_TRAIN], y[N_TRAIN:])


def nearest(rows: Matrix, query: Matrix, metric: str, without: int | None = None) -> list[int]:
    """The 10 nearest rows of one query by brute force; ties go to the earlier row."""
    if metric == "cosine":
        far = -(rows @ query) / np.linalg.norm(rows, axis=1)
    else:
        far = ((rows - query) ** 2).sum(axis=1)
    if without is not None:
        far[without] = np.inf
    return np.argsort(far, kind="stable")[:10].tolist()


def agreement(measure: str, listed: list[int], relevant: list[int]) -> float:
    """The score of one query by its definition."""
    if measure != "retrieval":
        return len({*listed} & {*relevant}) / 10
    gains = {row: 10 - rank for rank, row in enumerate(relevant)}
    discounts = 1.0 / np.log2(np.arange(2, 12))
    gained = sum(gains.get(row, 0) * d for row, d in zip(listed, discounts, strict=True))
    return float(gained / np.sum(np.arange(10, 0, -1) * discounts))


def vote(layer: Layer, columns: NDArray[np.intp], row: int) -> int:
    """The majority among the 10 nearest training rows; a tie goes to the nearest of the tied."""
    mean, scale = layer.train.mean(axis=0), layer.train.std(axis=0)
    train, test = (((part - mean) / scale)[:, columns] for part in (layer.train, layer.test))
    classes = layer.y_train[nearest(train, test[row], "euclidean")]
    counts = np.bincount(classes)
    return int(next(c for c in classes if counts[c] == counts.max()))


def check_scores(
    scores: NDArray[np.floating], measure: str, rows: Matrix, columns: NDArray[np.intp]
) -> None:
    """Compare the first scores of queries with brute force; near-ties in float32 may differ."""
    metric = "euclidean" if measure == "mutual-knn" else "cosine"
    want = []
    for row in choose_queries(len(rows), max(MOST_QUERIES, scores.size))[:N_CHECKED]:
        subset = rows[:, columns]
        lists = [nearest(part, part[row], metric, int(row)) for part in (subset, rows)]
        want.append(agreement(measure, *lists))
    differences = np.abs(scores[:N_CHECKED] - want)
    assert np.mean(differences > 1e-6) <= 0.05
    assert differences.max() <= 0.1 + 1e-6


def test_a_sweep_and_its_refinement(layer: Layer, tmp_path: Path) -> None:
    """Scores are those of a sample of queries, and every table and page reads them."""
    run = cm.sweep(
        layer.store,
        out=tmp_path / "run",
        measures=(*SIMILARITIES, "knn"),
        fractions=(0.75,),
        seeds=1,
        refine=0.7,
        refine_seeds=1,
    )
    frame = run.frame()
    assert set(frame["status"]) == {"ok"}
    assert set(frame["n_test"]) == {N}
    for row in frame.to_dict("records"):
        order: Any = np.arange(WIDTH)
        if row["selector"] != "full":
            order = run.order(row["selector"], row["layer"], row["seed"])[: row["n_kept"]]
        artifact = run.artifact(row)
        if row["measure"] == "knn":
            assert artifact.shape == (N,)
            want = [vote(layer, order, i) for i in range(N_CHECKED)]
            assert np.mean(artifact[:N_CHECKED] == want) >= 0.95
        else:
            assert artifact.shape == (MOST_QUERIES,)
            assert row["value"] == pytest.approx(artifact.mean(dtype=np.float64), abs=1e-6)
            check_scores(artifact, row["measure"], layer.test, order)
    assert {*run.manifest["refined"][0]} >= {"measure", "delta"}
    assert len(cm.redundancy(run, deltas=(0.7,))) == 4
    assert len(cm.pareto(run)) > 0
    assert cm.report(run, out=tmp_path / "page.html").is_file()


@pytest.mark.parametrize("measure", SIMILARITIES)
def test_the_pure_functions(layer: Layer, measure: str) -> None:
    """More queries than a sweep takes."""
    order = np.random.default_rng(1).permutation(WIDTH)
    whole = WholeLayer(layer.test.astype(np.float32), most_queries=MOST_QUERIES + 1000)
    scores = get_similarity(measure)(SimilarityTask(whole, order[None], (2, 5)))
    assert scores.bootstrap_values.shape == (1, 2, MOST_QUERIES + 1000)
    for j, size in enumerate((2, 5)):
        check_scores(scores.bootstrap_values[0, j], measure, layer.test, order[:size])


def test_ndcg_and_recall_of_many_lists() -> None:
    rng = np.random.default_rng(2)
    listed, relevant = (rng.permuted(np.tile(np.arange(30), (N, 1)), axis=1)[:, :10] for _ in "ab")
    gains = np.arange(10, 0, -1)
    got = cm.ndcg(listed, relevant, gains), cm.recall(listed, relevant)
    assert got[0].shape == got[1].shape == (N,)
    for i in (0, N // 2, N - 1):
        lists = listed[i].tolist(), relevant[i].tolist()
        assert got[0][i] == pytest.approx(agreement("retrieval", *lists))
        assert got[1][i] == agreement("retrieval-recall", *lists)


@pytest.mark.parametrize("measure", ["mutual-knn", "knn"])
def test_shrink_by_a_measure_of_the_test_split(layer: Layer, measure: str) -> None:
    plan = cm.shrink(layer.store, measure=measure, keep=0.3, selectors=("random",))
    assert plan.safe
    slim = plan.slim
    if measure == "knn":
        assert slim.record["n_judged"] == N
        right = [vote(layer, slim.indices, i) == layer.y_test[i] for i in range(200)]
        assert np.mean(right) == pytest.approx(slim.record["measured"]["value"], abs=0.12)
    else:
        assert slim.record["n_judged"] == MOST_QUERIES
        rest = np.setdiff1d(np.arange(WIDTH), slim.indices)
        order = np.r_[slim.indices, rest][None]
        task = SimilarityTask(WholeLayer(layer.test.astype(np.float32)), order, (slim.n_kept,))
        value = get_similarity(measure)(task).values[0, 0]
        assert slim.record["measured"]["value"] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("measure", ["retrieval", "retrieval-recall"])
def test_shrink_by_queries_among_the_training_rows(
    layer: Layer, tmp_path: Path, measure: str
) -> None:
    """All 100 test samples are queries, and 10,000 training samples are searched."""
    stored, queries = layer.test, layer.train[:100]
    rows = np.vstack([stored, queries]).astype(np.float32)
    split = np.repeat(["train", "test"], [N, len(queries)])
    store = cm.import_features(rows, out=tmp_path / "store", split=split)
    plan = cm.shrink(
        store, measure=measure, keep=0.3, selectors=("random",), precisions=("float32",),
    )  # fmt: skip
    columns = plan.slim.indices
    scores = []
    for query in queries:
        relevant = nearest(stored, query, "cosine")
        listed = nearest(stored[:, columns], query[columns], "cosine")
        scores.append(agreement(measure, listed, relevant))
    assert plan.slim.record["n_judged"] == len(queries)
    assert plan.slim.record["measured"]["value"] == pytest.approx(np.mean(scores), abs=0.005)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_rows_are_listed_in_their_order(metric: Any) -> None:
    """Copies of 500 rows, in several tiles: float32 and float64 list the same ones."""
    rng = np.random.default_rng(3)
    base, copies = rng.standard_normal((500, 24)).astype(np.float16), rng.integers(0, 500, 5000)
    layer = WholeLayer(base[copies], most_queries=60)
    lists = layer.finder(metric)(np.arange(24), (12, 24))
    for size, neighbours in zip((12, 24), lists, strict=True):
        # Distances are computed once per distinct row, so that copies are equally far.
        distinct = base[:, :size].astype(np.float64)
        for row, listed in zip(layer.query_rows, neighbours, strict=True):
            ranks = np.empty(500, dtype=np.intp)
            if metric == "cosine":
                far = -(distinct @ distinct[copies[row]]) / np.linalg.norm(distinct, axis=1)
            else:
                far = ((distinct - distinct[copies[row]]) ** 2).sum(axis=1)
            ranks[np.argsort(far)] = np.arange(500)
            want = np.argsort(ranks[copies], kind="stable")
            assert listed.tolist() == want[want != row][:10].tolist()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_of_more_copies_than_a_list_holds_the_first_are_listed(metric: Any) -> None:
    """Of float32 rows, whose products float64 rounds too: 60 copies, and lists of ten."""
    rng = np.random.default_rng(4)
    base, copies = rng.standard_normal((100, 24)).astype(np.float32), rng.integers(0, 100, 6000)
    layer = WholeLayer(base[copies], most_queries=50)
    (lists,) = layer.finder(metric)(np.arange(24), (24,))
    for row, listed in zip(layer.query_rows, lists, strict=True):
        same = np.flatnonzero(copies == copies[row])
        assert listed.tolist() == same[same != row][:10].tolist()


def test_relevance_by_thousands_of_labels_takes_little_memory(tmp_path: Path) -> None:
    """20,000 samples of 5,000 labels: nothing of the size labels x samples is made."""
    rng = np.random.default_rng(5)
    n = 20_000
    labels = rng.integers(0, 5000, n)
    rows = rng.standard_normal((5000, 6))[labels] + 0.1 * rng.standard_normal((n, 6))
    store = cm.import_features(rows.astype(np.float32), out=tmp_path / "store", labels=labels)
    tracemalloc.start()
    try:
        plan = cm.shrink(
            store, measure="retrieval", relevance="labels", keep=0.8, precisions=("float32",),
            reranks=(0,),
        )  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert plan.safe
    assert peak < 5000 * n, "bytes of one flag per label and sample"


def test_re_ranking_by_labels_sorts_by_the_cosine_of_whole_vectors(layer: Layer) -> None:
    queries = LabelledRows(layer.test[:50].astype(np.float32), layer.y_test[:50])
    stored = LabelledRows(layer.train.astype(np.float32), layer.y_train)
    evaluator = RetrievalEvaluator("retrieval", stored, queries, "labels")
    rng = np.random.default_rng(7)
    listed = rng.permuted(np.tile(np.arange(N_TRAIN), (50, 1)), axis=1)[:, :40].astype(np.int32)
    for row, best in enumerate(evaluator.rerank(listed)):
        ordered = np.sort(listed[row])
        want = ordered[nearest(layer.train[ordered], layer.test[row], "cosine")]
        assert best.tolist() == want.tolist()
