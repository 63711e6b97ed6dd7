"""FAISS indexes of 6,000 vectors: type, parameters and ids stay; the recall is counted right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.shrinking.export import faiss_build
from criticalmass.shrinking.export.faiss_source import open_index
from criticalmass.shrinking.slim_model import SlimModel

faiss: Any = pytest.importorskip("faiss")
N, D, M = 6_000, 24, 200
IDS = np.random.default_rng(5).permutation(N).astype(np.int64) * 3 + 7


@pytest.fixture(autouse=True, scope="module")
def small_samples() -> Iterator[None]:
    """Train lists and codes on few rows: that takes most of the time of an export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_build, "_LEAST_SAMPLE", 2000)
        patch.setattr(faiss_build, "_ROWS_PER_CENTRE", 40)
        yield


def shrink_stored(store: cm.FeatureStore, precision: str, rerank: int = 0) -> SlimModel:
    return cm.shrink(
        store, keep=0.6, measure="retrieval-recall", precisions=(precision,),
        selectors=("pca-top",), reranks=(rerank,),
    ).slim  # fmt: skip


@pytest.fixture(scope="module")
def slims(vectors: cm.FeatureStore) -> dict[str, SlimModel]:
    made = {name: shrink_stored(vectors, name) for name in ("float32", "int8")}
    return {**made, "reranked": shrink_stored(vectors, "int8", 4)}


@pytest.fixture(scope="module")
def rows(vectors: cm.FeatureStore) -> NDArray[np.float32]:
    """6,000 rows like those that the slim models were made from, of length 1."""
    rng = np.random.default_rng(6)
    base = vectors.features("train").array()[rng.integers(0, 600, N)]
    x = base + 0.7 * rng.standard_normal((N, D)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def queries(rows: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = 0.1 * np.random.default_rng(7).standard_normal((M, D)).astype(np.float32)
    path = tmp_path_factory.mktemp("queries") / "q.npy"
    np.save(path, rows[:M] + noise)
    return path


@pytest.fixture(scope="module")
def nearest(rows: NDArray[np.float32], queries: Path) -> NDArray[np.int64]:
    """(M, 10) rows that an exact search by the cosine finds."""
    return np.argsort(-(np.load(queries).astype(float) @ rows.T.astype(float)), axis=1)[:, :10]


def train_quickly(index: Any, rows: NDArray[np.float32]) -> None:
    """Train without what is slow and not used: polysemous codes, repeated rotations."""
    part = index
    while type(part).__name__ in ("IndexPreTransform", "IndexRefineFlat", "IndexIDMap2"):
        if type(part).__name__ == "IndexPreTransform":
            step = faiss.downcast_VectorTransform(part.chain.at(0))
            if isinstance(step, faiss.OPQMatrix):
                step.niter = 1
        is_refined = type(part).__name__ == "IndexRefineFlat"
        part = faiss.downcast_index(part.base_index if is_refined else part.index)
    part = faiss.downcast_index(getattr(part, "storage", part))
    if hasattr(part, "pq"):
        part.do_polysemous_training = False
        part.pq.cp.min_points_per_centroid = 1
    index.train(rows)


def build(name: str, rows: NDArray[np.float32], *, with_ids: bool) -> Any:
    index = faiss.index_factory(D, name, faiss.METRIC_INNER_PRODUCT)
    train_quickly(index, rows[:3000])
    index.add_with_ids(rows, IDS) if with_ids else index.add(rows)
    return index


def overlap(ids: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, right, strict=True)]))


def innermost(index: Any) -> Any:
    while type(index).__name__ in ("IndexPreTransform", "IndexRefineFlat", "IndexIDMap2"):
        is_refined = type(index).__name__ == "IndexRefineFlat"
        inner = index.base_index if is_refined else index.index
        index = faiss.downcast_index(inner)
    return index


@pytest.mark.parametrize(
    ("name", "slim", "type_name", "with_ids"),
    [
        ("Flat", "float32", "IndexFlat", False),
        ("SQ8", "float32", "IndexScalarQuantizer", False),
        ("SQfp16", "int8", "IndexScalarQuantizer", False),
        ("PQ8", "int8", "IndexPQ", False),
        ("HNSW16", "float32", "IndexHNSWFlat", False),
        ("HNSW16,SQ8", "int8", "IndexHNSWSQ", False),
        ("IDMap,HNSW16", "int8", "IndexHNSWSQ", True),
        ("IVF32,Flat", "float32", "IndexIVFFlat", True),
        ("IVF32,SQ8", "int8", "IndexIVFScalarQuantizer", True),
        ("IVF32_HNSW8,SQ8", "reranked", "IndexIVFScalarQuantizer", True),
        ("IVF32,PQ8", "float32", "IndexIVFPQ", True),
        ("PCA12,IVF32,Flat", "int8", "IndexIVFScalarQuantizer", False),
    ],
)
def test_type_ids_and_recall(
    name: str, slim: str, type_name: str, with_ids: bool, slims: dict[str, SlimModel],
    rows: NDArray[np.float32], queries: Path, nearest: NDArray[np.int64], tmp_path: Path,
) -> None:  # fmt: skip
    existing = build(name, rows, with_ids=with_ids)
    lists = faiss.try_extract_index_ivf(existing)
    if lists is not None:
        lists.nprobe = 5
    faiss.write_index(existing, str(tmp_path / "whole"))
    np.save(tmp_path / "x.npy", rows[np.argsort(IDS)] if name.startswith("IVF") else rows)
    cm.export(
        slims[slim], format="faiss", index=tmp_path / "whole", vectors=tmp_path / "x.npy",
        queries=queries, out=tmp_path / "out",
    )  # fmt: skip
    made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    inner = innermost(made)
    assert type(inner).__name__ in (type_name, f"{type_name}IP")
    assert made.ntotal == N
    if lists is not None:
        assert (inner.nlist, inner.nprobe) == (32, 5)
    ids = IDS if with_ids else np.arange(N)
    q = np.load(queries)
    report = json.loads((tmp_path / "out" / "export.json").read_text())["recall"]
    recalls = {row["search"].partition(":")[0]: row for row in report["recalls"]}
    before, after = recalls["existing index"], recalls["exported index"]
    for row, index in ((before, existing), (after, made)):
        assert row["recall"] == pytest.approx(
            overlap(index.search(q, 10)[1], ids[nearest]), abs=1e-3
        )
        assert row["low"] <= row["recall"] <= row["high"]
    form = slims[slim]
    scores = form.queries(q).astype(float) @ form.transform(rows).T.astype(float)
    listed = np.argsort(-scores, axis=1, kind="stable")
    key = f"exact, {form.n_kept} dimensions, {form.precision}"
    if slim != "reranked":
        assert recalls[key]["recall"] == pytest.approx(overlap(listed[:, :10], nearest), abs=2e-3)
    else:
        best = np.take_along_axis(
            listed[:, :40], np.argsort(-(np.einsum("ijk,ik->ij", rows[listed[:, :40]], q))), axis=1
        )
        key += ", 4 x 10 re-ranked"
        assert recalls[key]["recall"] == pytest.approx(overlap(best[:, :10], nearest), abs=2e-3)
    assert report["lost_by_dimensions"] == pytest.approx(1.0 - recalls[key]["recall"])
    assert report["lost_by_index"] == pytest.approx(recalls[key]["recall"] - after["recall"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Recall of the index" in card
    assert f"{after['recall']:.4f}" in card


def test_lists_hold_the_certified_codes(
    slims: dict[str, SlimModel], rows: NDArray[np.float32], tmp_path: Path
) -> None:
    faiss.write_index(build("IVF32,SQ8", rows, with_ids=True), str(tmp_path / "whole"))
    np.save(tmp_path / "x.npy", rows[np.argsort(IDS)])
    cm.export(
        slims["int8"], format="faiss", index=tmp_path / "whole", vectors=tmp_path / "x.npy",
        out=tmp_path / "out",
    )  # fmt: skip
    made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    lists = innermost(made).invlists
    row_of = dict(zip(IDS.tolist(), range(N), strict=True))
    codes = slims["int8"].encode(rows)
    for number in range(0, 32, 5):
        size = lists.list_size(number)
        ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
        stored = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
        expected = codes[[row_of[i] for i in ids.tolist()]]
        np.testing.assert_array_equal(stored.reshape(size, -1), expected)


def test_parameters_of_a_graph_stay(
    slims: dict[str, SlimModel], rows: NDArray[np.float32], tmp_path: Path
) -> None:
    graph = faiss.IndexHNSWSQ(D, faiss.ScalarQuantizer.QT_8bit, 12, faiss.METRIC_L2)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 33, 21
    graph.train(rows[:2000])
    graph.add(rows[:2000])
    faiss.write_index(graph, str(tmp_path / "whole"))
    cm.export(slims["int8"], format="faiss", index=tmp_path / "whole", out=tmp_path / "out")
    made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    links = innermost(made).hnsw
    assert (links.efConstruction, links.efSearch, links.nb_neighbors(1)) == (33, 21, 12)
    notes = json.loads((tmp_path / "out" / "export.json").read_text())["notes"]
    assert any("IndexHNSWSQ holds approximations" in note for note in notes)


@pytest.mark.parametrize("index_type", ["flat", "hnsw", "ivf", "pq", "ivfpq"])
def test_an_index_from_vectors(
    index_type: str, slims: dict[str, SlimModel], rows: NDArray[np.float32], queries: Path,
    nearest: NDArray[np.int64], tmp_path: Path,
) -> None:  # fmt: skip
    np.save(tmp_path / "x.npy", rows)
    cm.export(
        slims["float32"], format="faiss", vectors=tmp_path / "x.npy", index_type=index_type,
        queries=queries, out=tmp_path / "out",
    )  # fmt: skip
    made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    recall = json.loads((tmp_path / "out" / "export.json").read_text())["recall"]
    got = overlap(made.search(np.load(queries), 10)[1], nearest)
    assert recall["recalls"][-1]["recall"] == pytest.approx(got, abs=1e-3)
    assert recall["lost_before"] is None
    if index_type in ("flat", "hnsw"):
        assert recall["lost_by_index"] == pytest.approx(0.0, abs=0.01)


def test_a_store_keeps_the_numbers_of_its_file(
    vectors: cm.FeatureStore, slims: dict[str, SlimModel], tmp_path: Path
) -> None:
    """Rows of the file that a store was made from; queries are of the test split."""
    x = np.concatenate([vectors.features(split).array() for split in ("train", "test")])
    np.save(tmp_path / "x.npy", x)
    store = cm.import_features(tmp_path / "x.npy", out=tmp_path / "store")
    cm.export(
        slims["float32"], format="faiss", vectors=store.path, index_type="flat",
        out=tmp_path / "out",
    )  # fmt: skip
    made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert made.search(x[::50], 1)[1].ravel().tolist() == list(range(0, 1000, 50))
    recall = json.loads((tmp_path / "out" / "export.json").read_text())["recall"]
    assert recall["n_queries"] == len(store.sample_ids("test"))
    assert recall["lost_by_index"] == pytest.approx(0.0, abs=1e-6)
    assert "test split" in recall["queries"]


def test_no_query_is_its_own_result(
    vectors: cm.FeatureStore, slims: dict[str, SlimModel], tmp_path: Path
) -> None:
    x = vectors.features("train").array()
    np.save(tmp_path / "x.npy", x)
    cm.export(
        slims["float32"], format="faiss", vectors=tmp_path / "x.npy", index_type="flat",
        out=tmp_path / "out",
    )  # fmt: skip
    nearest = []
    for rows in (x, slims["float32"].shorten(x)):
        unit = rows.astype(float) / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        nearest.append(np.argsort(-cosines, axis=1)[:, :10])
    recall = json.loads((tmp_path / "out" / "export.json").read_text())["recall"]
    expected = overlap(nearest[1], nearest[0])
    assert [row["recall"] for row in recall["recalls"][1:]] == pytest.approx([expected] * 2)


def test_equal_vectors_are_equally_right(
    vectors: cm.FeatureStore, slims: dict[str, SlimModel], tmp_path: Path
) -> None:
    """Of 20 copies of each vector, any 10 will do, whatever their ids."""
    np.save(tmp_path / "x.npy", np.repeat(vectors.features("train").array()[:50], 20, axis=0))
    cm.export(
        slims["float32"], format="faiss", vectors=tmp_path / "x.npy", index_type="hnsw",
        out=tmp_path / "out",
    )  # fmt: skip
    recall = json.loads((tmp_path / "out" / "export.json").read_text())["recall"]
    assert [row["recall"] for row in recall["recalls"]] == pytest.approx([1.0] * 3, abs=0.01)


def test_vectors_are_read_through_every_layer(rows: NDArray[np.float32], tmp_path: Path) -> None:
    for name, most in (
        ("IDMap2,SQ8", 0.01), ("IVF32,Flat", 0.0), ("PCA24,IVF32,Flat", 1e-5),
        ("IVF32,PQ8,RFlat", 0.0), ("OPQ8,PQ8", 0.7), ("HNSW16_PQ8", 0.7), ("LSH", 5.0),
    ):  # fmt: skip
        part = rows[:1000]
        index = faiss.index_factory(D, name)
        train_quickly(index, part)
        has_ids = name.startswith(("IDMap", "IVF32,Flat"))
        index.add_with_ids(part, IDS[:1000]) if has_ids else index.add(part)
        faiss.write_index(index, str(tmp_path / "whole"))
        source = open_index(faiss, tmp_path / "whole", D)
        expected = part
        if has_ids:
            assert source.ids is not None
            order = np.argsort(IDS[:1000]) if name.startswith("IVF") else np.arange(1000)
            np.testing.assert_array_equal(source.ids, IDS[:1000][order])
            expected = part[order]
        for key in (slice(5, 90), np.array([7, 3, 999])):
            error = np.linalg.norm(source.rows[key] - expected[key], axis=1).max()
            assert error <= most, name
        assert source.is_exact == (most < 1e-4)


def test_the_command_prints_the_recall(vectors: cm.FeatureStore, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from criticalmass.cli.main import cli

    cm.shrink(
        vectors, keep=0.6, measure="retrieval-recall", precisions=("float32",),
        selectors=("pca-top",), reranks=(0,), out=tmp_path / "slim",
    )  # fmt: skip
    arguments = ["export", str(tmp_path / "slim"), "--format", "faiss", "--quiet"]
    arguments += ["--vectors", str(vectors.path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*arguments, "--index-type", "flat"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert sum(line.startswith("recall@10 ") for line in lines) == 3
    assert any("The exported index loses 0.0000" in line for line in lines)
    assert lines[-1] == str(tmp_path / "out")
