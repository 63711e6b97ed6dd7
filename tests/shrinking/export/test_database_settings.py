"""Settings of databases: Qdrant and Milvus run them; each has the certified width and precision."""

from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.codec import BITS
from criticalmass.shrinking.slim_model import SlimModel

MODULES = ("qdrant.py", "milvus.py", "weaviate.py")


def shrink_stored(
    store: cm.FeatureStore, precision: str, selector: str = "pca-top", rerank: int = 0
) -> SlimModel:
    keep = 0.2 if precision == "binary" else 0.6
    return cm.shrink(
        store, keep=keep, measure="retrieval-recall", precisions=(precision,),
        selectors=(selector,), reranks=(rerank,),
    ).slim  # fmt: skip


@pytest.fixture(scope="module")
def projected(vectors: cm.FeatureStore) -> dict[tuple[str, int], SlimModel]:
    """One projection per precision, with and without re-ranking."""
    keys = [(precision, 0) for precision in BITS] + [("int8", 3)]
    return {key: shrink_stored(vectors, key[0], rerank=key[1]) for key in keys}


def overlap(slim: SlimModel, store: cm.FeatureStore, answers: list[list[int]]) -> float:
    """Share of what an exact search of float32 short vectors finds that is among the answers."""
    x, q = store.features("train").array(), store.features("test").array()[: len(answers)]
    scores = slim.shorten(q) @ slim.shorten(x).T
    if slim.record["stored"]["rerank"]:
        n = 10 * slim.record["stored"]["rerank"]
        floor = np.sort(scores, axis=1)[:, -n][:, None]
        scores = np.where(
            scores >= floor, q @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T, -np.inf
        )
    right = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return float(
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(right.tolist(), answers, strict=True)])
    )


def run(module: dict[str, Any], client: Any, store: cm.FeatureStore) -> list[list[int]]:
    x, q = store.features("train").array(), store.features("test").array()[:40]
    module["create"](client, "items")
    module["insert"](client, "items", range(len(x)), x)
    answers: list[list[int]] = module["search"](client, "items", q)
    assert [len(answer) for answer in answers] == [10] * 40
    return answers


def test_qdrant_runs_its_module(
    projected: dict[tuple[str, int], SlimModel], vectors: cm.FeatureStore, tmp_path: Path
) -> None:
    """The local mode searches exactly and ignores quantisers."""
    qdrant = pytest.importorskip("qdrant_client")
    fields = {"float16": "datatype", "int8": "quantization_config", "binary": "quantization_config"}
    for key, slim in projected.items():
        cm.export(slim, format="settings", out=tmp_path / "out")
        module = runpy.run_path(str(tmp_path / "out" / "qdrant.py"))
        client = qdrant.QdrantClient(":memory:")
        agreement = overlap(slim, vectors, run(module, client, vectors))
        assert agreement >= 0.97, key
        config = client.get_collection("items").config.params.vectors
        assert config["short"].size == slim.n_kept
        if key[0] in fields:
            assert fields[key[0]] in (tmp_path / "out" / "qdrant.py").read_text()
        assert ("whole" in config) == bool(key[1])


def test_milvus_runs_its_module(
    projected: dict[tuple[str, int], SlimModel], vectors: cm.FeatureStore, tmp_path: Path
) -> None:
    """milvus-lite has neither 16-bit floats nor bits."""
    pymilvus = pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    for key in (("float32", 0), ("int8", 0), ("int8", 3)):
        slim = projected[key]
        cm.export(slim, format="settings", out=tmp_path / "out")
        module = runpy.run_path(str(tmp_path / "out" / "milvus.py"))
        client = pymilvus.MilvusClient(str(tmp_path / f"{key[0]}{key[1]}.db"))
        try:
            assert overlap(slim, vectors, run(module, client, vectors)) >= 0.9, key
        finally:
            client.close()


def test_every_file_has_the_certified_width_and_precision(
    projected: dict[tuple[str, int], SlimModel], vectors: cm.FeatureStore, tmp_path: Path
) -> None:
    settings = {
        "float32": ('"HNSW"', "quantizer.none()", "Edm.Single", '"faiss"'),
        "float16": ("FLOAT16_VECTOR", "quantizer.none()", "Edm.Half", '"fp16"'),
        "int8": ("HNSW_SQ", "quantizer.sq()", "scalarQuantization", '"4x"'),
        "binary": ("BINARY_VECTOR", "quantizer.bq()", "binaryQuantization", '"32x"'),
    }
    names = ("milvus.py", "weaviate.py", "azure-ai-search.json", "opensearch.json")
    for (precision, rerank), slim in projected.items():
        cm.export(slim, format="settings", out=tmp_path / "out")
        texts = {name: (tmp_path / "out" / name).read_text() for name in (*MODULES, *names[2:])}
        for name, words in zip(names, settings[precision], strict=True):
            assert words in texts[name], (name, precision)
        for name in MODULES:
            ast.parse(texts[name])
            assert max(map(len, texts[name].splitlines())) <= 100
            assert ('"whole"' in texts[name]) == bool(rerank), name
        azure, search = (json.loads(texts[name]) for name in names[2:])
        assert azure["fields"][1]["dimensions"] == slim.n_kept
        assert search["mappings"]["properties"]["short"]["dimension"] == slim.n_kept
        card = (tmp_path / "out" / "README.md").read_text()
        assert all(f"`{name}`" in card for name in texts)


def test_azure_truncates_a_prefix(vectors: cm.FeatureStore, tmp_path: Path) -> None:
    slim = shrink_stored(vectors, "int8", "first", rerank=3)
    cm.export(slim, format="settings", out=tmp_path / "out")
    azure = json.loads((tmp_path / "out" / "azure-ai-search.json").read_text())
    (codes,) = azure["vectorSearch"]["compressions"]
    assert codes["truncationDimension"] == slim.n_kept < 24
    assert azure["fields"][1]["dimensions"] == 24
    assert codes["rescoringOptions"]["defaultOversampling"] == 3


def test_binary_codes_of_milvus_are_the_certified_ones(
    projected: dict[tuple[str, int], SlimModel], vectors: cm.FeatureStore, tmp_path: Path
) -> None:
    pytest.importorskip("pymilvus")
    slim, x = projected["binary", 0], vectors.features("test").array()
    cm.export(slim, format="settings", out=tmp_path / "out")
    codes = runpy.run_path(str(tmp_path / "out" / "milvus.py"))["encode"](x)
    same = np.frombuffer(b"".join(codes), np.uint8).reshape(len(x), -1) == slim.encode(x)
    assert same.mean() > 0.99


def test_a_slim_model_without_searches_is_refused(slim: SlimModel, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="promises nothing about searches"):
        cm.export(slim, format="settings", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
