"""Exports of stored vectors: the certified codes in FAISS, and the same values elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.codec import BITS
from criticalmass.shrinking.export.sklearn_pipeline import make_pipeline
from criticalmass.shrinking.slim_model import SlimModel

faiss: Any = pytest.importorskip("faiss")
# Other programs round sums of float64 in another order: next to no value gets another code.
MOST_OTHER_CODES = 2e-3
IDS = np.arange(600, dtype=np.int64)[::-1] * 7 + 3


def shrink_vectors(store: cm.FeatureStore, precision: str, **options: Any) -> SlimModel:
    keep = 0.2 if precision == "binary" else 0.6
    return cm.shrink(
        store, keep=keep, measure="retrieval-recall", precisions=(precision,),
        **{"selectors": ("pca-top",), "reranks": (0,), **options},
    ).slim  # fmt: skip


@pytest.fixture(scope="module")
def stored(vectors: cm.FeatureStore) -> dict[str, SlimModel]:
    """One projection per precision."""
    slims = {precision: shrink_vectors(vectors, precision) for precision in BITS}
    assert all(slim.matrix is not None for slim in slims.values())
    return slims


def agree(got: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Equal, but for a few values at the border of two codes."""
    assert got.shape == wanted.shape
    assert np.mean(np.abs(got - wanted) > 2e-7) <= MOST_OTHER_CODES


def indexes(x: NDArray[np.float32]) -> dict[str, Any]:
    """One index of every kind that vectors are read from."""
    d = x.shape[1]
    flat, graph = faiss.IndexFlatL2(d), faiss.IndexHNSWFlat(d, 16)
    flat.add(x)
    graph.add(x)
    named = faiss.IndexIDMap(faiss.IndexFlatIP(d))
    named.add_with_ids(x, IDS)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, 4, faiss.METRIC_L2)
    lists.train(x)
    lists.add_with_ids(x, IDS)
    lists.nprobe = 4
    return {"flat": flat, "graph": graph, "named": named, "lists": lists}


def codes_of(index: Any) -> NDArray[np.uint8]:
    """The bytes that a FAISS index of any depth stores."""
    while not hasattr(index, "codes"):
        inner = getattr(index, "storage", None) or index.index
        index = faiss.downcast_index(inner)
    return faiss.vector_to_array(index.codes).reshape(index.ntotal, -1)


def test_faiss_holds_the_certified_codes(
    stored: dict[str, SlimModel], vectors: cm.FeatureStore, tmp_path: Path
) -> None:
    x = vectors.features("train").array()
    for name, index in indexes(x).items():
        faiss.write_index(index, str(tmp_path / name))
    for precision, slim in stored.items():
        codes = slim.encode(x)
        if precision == "binary":
            bits = np.unpackbits(codes, axis=1, count=slim.n_kept)
            codes = np.packbits(bits, axis=1, bitorder="little")
        for name in ("flat", "named", "graph"):
            if (precision, name) == ("binary", "graph"):
                continue
            cm.export(slim, format="faiss", index=tmp_path / name, out=tmp_path / "out")
            made = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
            np.testing.assert_array_equal(codes_of(made), codes.view(np.uint8).reshape(600, -1))


@pytest.mark.parametrize("rerank", [0, 3])
def test_faiss_finds_what_was_certified(
    rerank: int, vectors: cm.FeatureStore, tmp_path: Path, fresh: Callable[..., str]
) -> None:
    """Whole queries go in; the recall is the certified one, in a process without this package."""
    x, q = vectors.features("train").array(), vectors.features("test").array()
    right = np.argsort(-(q @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T), axis=1)[:, :10]
    made = indexes(x)
    for name, index in made.items():
        faiss.write_index(index, str(tmp_path / f"{name}.whole"))
    np.save(tmp_path / "q.npy", q)
    expected, folders = {}, []
    for precision, selector in (("int8", "pca-top"), ("binary", "pca-top"), ("float16", "random")):
        slim = shrink_vectors(vectors, precision, reranks=(rerank,), selectors=(selector,))
        for name in made:
            if precision == "binary" and name in ("graph", "lists"):
                with pytest.raises(CriticalMassError, match="and stores bits"):
                    cm.export(
                        slim, format="faiss", index=tmp_path / f"{name}.whole", out=tmp_path / "out"
                    )
                continue
            folder = f"{precision}-{name}"
            cm.export(slim, format="faiss", index=tmp_path / f"{name}.whole", out=tmp_path / folder)
            folders.append(folder)
            expected[folder] = slim.record["stored"]["recall"]
    fresh(
        "import faiss, numpy as np\n"
        f"for name in {folders}:\n"
        "    index = faiss.read_index(name + '/index.faiss')\n"
        "    np.save(name + '.npy', index.search(np.load('q.npy'), 10)[1])",
        tmp_path,
    )
    for folder, recall in expected.items():
        got = np.load(tmp_path / f"{folder}.npy")
        ids = IDS if folder.endswith(("named", "lists")) else np.arange(600)
        hits = [len(set(a) & set(b)) / 10 for a, b in zip(got, ids[right], strict=True)]
        # A graph is searched approximately; ties of bits may be broken in another order.
        limit = 0.06 if folder.endswith("graph") else 0.01
        assert np.mean(hits) == pytest.approx(recall, abs=limit), folder


def test_sklearn_gives_the_same_values(
    stored: dict[str, SlimModel], whole: NDArray[np.float32], tmp_path: Path
) -> None:
    import skops.io

    for slim in stored.values():
        cm.export(slim, format="sklearn", out=tmp_path / "out")
        pipeline = skops.io.load(tmp_path / "out" / "pipeline.skops", trusted=[])
        agree(pipeline.transform(whole), slim.transform(whole))
        agree(make_pipeline(slim).transform(whole), slim.transform(whole))


def test_torch_and_onnx_give_the_same_values(
    stored: dict[str, SlimModel], vectors: cm.FeatureStore, whole: NDArray[np.float32],
    tmp_path: Path,
) -> None:  # fmt: skip
    pytest.importorskip("torch")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    subset = shrink_vectors(vectors, "float16", selectors=("random",))
    x = np.concatenate([whole, np.zeros((1, 24), np.float32)])
    for slim in (*stored.values(), subset):
        cm.export(slim, format="torch", model="none", out=tmp_path / "torch")
        shipped = cm.load_slim_torch(tmp_path / "torch", device="cpu")
        agree(shipped.transform(x), slim.transform(x))
        cm.export(slim, format="onnx", model="none", out=tmp_path / "onnx")
        session = runtime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
        (short,) = session.run(None, {"vectors": x})
        agree(short, slim.transform(x))
    with pytest.raises(CriticalMassError, match="needs a backbone"):
        cm.export(stored["int8"], format="torch", model="none", cut=True, out=tmp_path / "torch")


def test_sql_of_a_subset_scales_to_length_1(
    vectors: cm.FeatureStore, whole: NDArray[np.float32], tmp_path: Path
) -> None:
    duckdb = pytest.importorskip("duckdb")
    slim = shrink_vectors(vectors, "float32", selectors=("random",))
    cm.export(slim, format="sql", out=tmp_path / "out", suffix="v1")
    base = duckdb.connect()
    base.execute("CREATE TABLE items (id INTEGER, embedding FLOAT[24])")
    base.executemany("INSERT INTO items VALUES (?, ?)", list(enumerate(whole[:20].tolist())))
    base.execute((tmp_path / "out" / "duckdb.sql").read_text())
    rows = base.execute("SELECT embedding_slim_v1 FROM items ORDER BY id").fetchall()
    np.testing.assert_allclose([row[0] for row in rows], slim.transform(whole[:20]), atol=1e-6)
    half = shrink_vectors(vectors, "float16", selectors=("random",))
    cm.export(half, format="sql", out=tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["type"] == f"halfvec({half.n_kept})"
    assert facts["normalised"] is True
    assert not (tmp_path / "out" / "duckdb.sql").exists()
    with pytest.raises(CriticalMassError, match="certified for the cosine"):
        cm.export(half, format="sql", metric="l2", out=tmp_path / "out")


@pytest.mark.parametrize("precision", sorted(BITS))
def test_the_readme_of_vectors_shortens_queries(
    precision: str,
    stored: dict[str, SlimModel],
    whole: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    """Run as it is written, it gives the codes of queries and what stored codes stand for."""
    np.save(tmp_path / "train.npy", whole)
    slim = stored[precision]
    slim.save(tmp_path / "slim", "")
    out = cm.export(
        tmp_path / "slim", format="vectors", vectors=tmp_path / "train.npy", out=tmp_path / "out"
    )
    (out / "vectors.npy").rename(out / "train.npy")
    text = (out / "README.md").read_text()
    # Vectors without a model are called by the name of their data.
    assert text.startswith(f"# {slim.record['dataset']} in {slim.n_kept} of ")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"queries": whole}
    exec(code.replace('load("', f'load("{out}/'), names)  # noqa: S102
    np.testing.assert_array_equal(names["codes"], slim.encode(whole))
    np.testing.assert_allclose(names["short"], slim.shorten(whole), atol=1e-6)
    if precision == "int8":
        decoded = slim.codec.decode(names["codes"])
        np.testing.assert_allclose(names["vectors"], decoded, atol=1e-6)
    elif precision == "binary":
        agree(np.packbits(names["bits"], axis=1), names["codes"])


def test_versions_of_the_folder(
    slim: SlimModel, stored: dict[str, SlimModel], whole: NDArray[np.float32], tmp_path: Path
) -> None:
    """A classifier's folder is what version 0.1 wrote; stored vectors need a newer reader."""
    for name, model, version in (("old", slim, 1), ("new", stored["int8"], 2)):
        model.save(tmp_path / name, "card")
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["format_version"] == version
        read = SlimModel.open(tmp_path / name)
        np.testing.assert_array_equal(read.encode(whole), model.encode(whole))
        np.testing.assert_array_equal(read.queries(whole), model.queries(whole))
    assert slim.short_map is None
    np.testing.assert_array_equal(slim.shorten(whole), whole[:, slim.indices])
