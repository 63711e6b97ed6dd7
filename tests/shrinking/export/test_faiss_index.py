"""FAISS: the rebuilt index, read in a separate process, returns the neighbours of short vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.slim_model import SlimModel

faiss: Any = pytest.importorskip("faiss")
IDS = np.arange(400, dtype=np.int64)[::-1] * 7 + 3
SEARCH = """
import faiss, numpy as np
q = np.load("q.npy")
for name in {names}:
    index = faiss.read_index(name + "/index.faiss")
    if hasattr(index, "nlist"):
        index.nprobe = index.nlist
    short = np.ascontiguousarray(q[:, np.load(name + "/indices.npy")])
    if name == "unit":
        faiss.normalize_L2(short)
    found, ids = index.search(short, 5)
    np.savez(name + ".npz", found=found, ids=ids, total=index.ntotal)
"""


def indexes(x: NDArray[np.float32]) -> dict[str, Any]:
    """One index of every supported kind."""
    d = x.shape[1]
    flat, inner = faiss.IndexFlatL2(d), faiss.IndexFlatIP(d)
    flat.add(x)
    inner.add(x)
    named = faiss.IndexIDMap(faiss.IndexFlatL2(d))
    named.add_with_ids(x, IDS)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, 8, faiss.METRIC_L2)
    lists.train(x)
    lists.add_with_ids(x, IDS)
    lists.nprobe = 3
    unit = faiss.IndexFlatIP(d)
    unit.add(x / np.linalg.norm(x, axis=1, keepdims=True))
    return {"flat": flat, "inner": inner, "named": named, "lists": lists, "unit": unit}


def test_every_kind(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path, fresh: Callable[..., str]
) -> None:
    made = indexes(whole)
    for name, index in made.items():
        faiss.write_index(index, str(tmp_path / f"{name}.whole"))
        cm.export(
            slim, format="faiss", out=tmp_path / name, index=tmp_path / f"{name}.whole",
            normalise=name == "unit",
        )  # fmt: skip
    queries = whole[:30] + np.float32(0.1)
    np.save(tmp_path / "q.npy", queries)
    fresh(SEARCH.format(names=list(made)), tmp_path)
    x, q = whole[:, slim.indices].astype(np.float64), queries[:, slim.indices].astype(np.float64)
    squares = ((q[:, None] - x[None]) ** 2).sum(axis=2)
    cosines = (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    ranked = {"flat": -squares, "inner": q @ x.T, "named": -squares, "lists": -squares}
    for name, score in {**ranked, "unit": cosines}.items():
        found = np.load(tmp_path / f"{name}.npz")
        best = np.argsort(-score, axis=1, kind="stable")[:, :5]
        ids = IDS if name in ("named", "lists") else np.arange(400)
        assert found["total"] == 400
        np.testing.assert_array_equal(found["ids"], ids[best])
        values = np.abs(np.take_along_axis(score, best, axis=1))
        np.testing.assert_allclose(np.abs(found["found"]), values, rtol=1e-4, atol=1e-5)


def test_a_graph_keeps_its_parameters(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path
) -> None:
    graph = faiss.IndexHNSWFlat(24, 8)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 77, 55
    graph.add(whole)
    faiss.write_index(graph, str(tmp_path / "whole"))
    cm.export(slim, format="faiss", out=tmp_path / "out", index=tmp_path / "whole")
    made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert (made.hnsw.efConstruction, made.hnsw.efSearch, made.hnsw.nb_neighbors(1)) == (77, 55, 8)
    np.testing.assert_array_equal(made.reconstruct_n(0, len(whole)), whole[:, slim.indices])


def test_lists_are_trained_on_short_vectors(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path
) -> None:
    """The new centres are at least as near to short vectors as the old ones, shortened."""
    index = indexes(whole)["lists"]
    faiss.write_index(index, str(tmp_path / "whole"))
    cm.export(slim, format="faiss", out=tmp_path / "out", index=tmp_path / "whole")
    made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert (made.nlist, made.nprobe, made.d) == (8, 3, slim.n_kept)

    def error(centres: NDArray[np.float32]) -> float:
        squares = ((whole[:, slim.indices][:, None] - centres[None]) ** 2).sum(axis=2)
        return float(squares.min(axis=1).mean())

    old = faiss.downcast_index(index.quantizer).reconstruct_n(0, 8)[:, slim.indices]
    new = faiss.downcast_index(made.quantizer).reconstruct_n(0, 8)
    assert error(new) < error(old)


def test_vectors_of_length_1_give_a_warning(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from criticalmass.shrinking.export import faiss_index

    warnings: list[str] = []
    monkeypatch.setattr(faiss_index, "warn_user", warnings.append)
    for name in ("unit", "flat"):
        faiss.write_index(indexes(whole)[name], str(tmp_path / name))
        cm.export(slim, format="faiss", out=tmp_path / "out", index=tmp_path / name)
    assert len(warnings) == 1
    assert "normalise=True" in warnings[0]


def test_invalid_indexes_are_refused(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"format": "faiss", "out": tmp_path / "out"}
    with pytest.raises(CriticalMassError, match="needs the index on whole vectors"):
        cm.export(slim, **options)
    with pytest.raises(CriticalMassError, match="no index file"):
        cm.export(slim, **options, index=tmp_path / "nowhere")
    (tmp_path / "noise").write_bytes(b"no index")
    with pytest.raises(CriticalMassError, match="holds no readable FAISS index"):
        cm.export(slim, **options, index=tmp_path / "noise")
    narrow, empty = faiss.IndexFlatL2(7), faiss.IndexFlatL2(24)
    narrow.add(whole[:, :7].copy())
    graph = faiss.IndexNSGFlat(24, 8)
    graph.add(whole)
    hashed = faiss.IndexIVFSpectralHash(faiss.IndexFlatL2(24), 24, 4, 8, 0.5)
    hashed.train(whole)
    hashed.add(whole)
    manhattan = faiss.IndexFlat(24, faiss.METRIC_L1)
    manhattan.add(whole)
    small = faiss.IndexPQ(24, 2, 8)
    small.train(whole)
    small.add(whole[:100])
    for name, index, words in (
        ("narrow", narrow, "holds vectors of 7 dimensions .* from 24 neurons"),
        ("empty", empty, "holds no vectors"),
        ("graph", graph, "an IndexNSGFlat, which export does not build again.*--index-type hnsw"),
        ("hashed", hashed, "IndexIVFSpectralHash, from which FAISS reconstructs no.*--vectors"),
        ("manhattan", manhattan, "supported are L2 and inner product"),
        ("small", small, "needs at least 256 vectors and there are 100"),
    ):
        faiss.write_index(index, str(tmp_path / name))
        with pytest.raises(CriticalMassError, match=words) as error:
            cm.export(slim, **options, index=tmp_path / name)
        assert "\n" not in str(error.value)
    bits = faiss.IndexBinaryFlat(32)
    bits.add(np.zeros((3, 4), np.uint8))
    faiss.write_index_binary(bits, str(tmp_path / "bits"))
    with pytest.raises(CriticalMassError, match="holds a binary index"):
        cm.export(slim, **options, index=tmp_path / "bits")
    np.save(tmp_path / "few.npy", whole[:9])
    np.save(tmp_path / "other.npy", whole[::-1])
    for name, words in (
        ("few.npy", "has 9 vectors but .* holds 400"),
        ("other.npy", "does not hold the vectors of .* in their order"),
        ("narrow", "neither a feature store nor a .npy file"),
    ):
        faiss.write_index(indexes(whole)["flat"], str(tmp_path / "flat"))
        with pytest.raises(CriticalMassError, match=words):
            cm.export(slim, **options, index=tmp_path / "flat", vectors=tmp_path / name)
    with pytest.raises(CriticalMassError, match="did you mean"):
        cm.export(slim, **options, index=tmp_path / "flat", index_type="hnws")
    with pytest.raises(CriticalMassError, match="index_type='flat' is for format faiss"):
        cm.export(slim, format="indices", out=tmp_path / "out", index_type="flat")
    assert not (tmp_path / "out").exists()
