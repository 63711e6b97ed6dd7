"""ONNX graphs of texts: each text runs alone, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models import sentence_graphs
from criticalmass.extraction.models.frozen import PENULTIMATE, FrozenModel, Tap
from criticalmass.extraction.models.onnx_models import CUSTOM_OPERATIONS, read_text_graph
from criticalmass.extraction.models.preprocess import PlainTextPreprocess

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WORDS = ("cat", "dog", "cow", "hen")


def write_graph(path: Path, *, kind: int = onnx.TensorProto.STRING, domain: str = "ai.onnx.ml"):
    """Write a graph: one-hot of a word, less the mean over the batch."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node(
            "LabelEncoder", ["texts"], ["ids"], domain=domain,
            keys_strings=list(WORDS), values_int64s=list(range(len(WORDS))),
        ),
        helper.make_node("OneHot", ["ids", "depth", "values"], ["one_hot"]),
        helper.make_node("ReduceMean", ["one_hot"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["one_hot", "mean"], ["centred"]),
        helper.make_node("Add", ["one_hot", "centred"], ["vectors"]),
    ]  # fmt: skip
    weights = [
        helper.make_tensor("depth", TensorProto.INT64, [1], [len(WORDS)]),
        helper.make_tensor("values", TensorProto.FLOAT, [2], [0.0, 1.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("texts", kind, ["n"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", len(WORDS)])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    opsets += [helper.make_opsetid(domain, 1)] * (domain != "ai.onnx.ml")
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def model_of(path: Path) -> FrozenModel:
    graph = read_text_graph(path)
    return FrozenModel(
        spec="pypi:words",
        name="words",
        modality="text",
        module=graph,
        root=graph,
        preprocess=PlainTextPreprocess(),
        weights="test",
        weights_digest="0" * 64,
        penultimate=Tap(PENULTIMATE, graph.output, "output"),
    )


def test_the_vector_of_a_text_does_not_depend_on_the_others(tmp_path: Path) -> None:
    model = model_of(write_graph(tmp_path / "words.onnx"))
    texts = ["cat", "dog", "cow", "hen", "cat", "dog"] * 3
    data = {part: (texts, [0, 1] * 9) for part in ("train", "test")}
    with pytest.warns(UserWarning, match="also training texts"):
        store = cm.extract(model, data, out=tmp_path / "store")
    expected = np.eye(4, dtype=np.float32)[[WORDS.index(text) for text in texts]]
    # Alone, a text is the mean of its batch, so that nothing is added.
    np.testing.assert_array_equal(store.features("train").array(), expected)
    assert store.manifest["engine"]["name"] == "onnxruntime"
    assert "one_hot" in model.places


def test_openvino_is_refused_for_texts(tmp_path: Path) -> None:
    model = model_of(write_graph(tmp_path / "words.onnx"))
    data = {"train": (["cat", "dog"], [0, 1]), "test": (["cow", "hen"], [0, 1])}
    with pytest.raises(CriticalMassError, match="'openvino' does not run"):
        cm.extract(model, data, out=tmp_path / "store", engine="openvino")


def test_operations_of_other_domains_are_noticed(tmp_path: Path) -> None:
    assert not read_text_graph(write_graph(tmp_path / "a.onnx")).is_custom
    assert read_text_graph(write_graph(tmp_path / "b.onnx", domain="ai.onnx.contrib")).is_custom


def test_a_graph_of_numbers_is_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "a.onnx", kind=onnx.TensorProto.FLOAT)
    with pytest.raises(CriticalMassError, match="other inputs than texts"):
        read_text_graph(path)


def test_the_sentence_encoder_has_no_untrained_network() -> None:
    with pytest.raises(CriticalMassError, match="leave out init=random"):
        cm.load_model(f"pypi:{sentence_graphs.USE}?init=random")


def test_the_sentence_encoder_knows_translations() -> None:
    pytest.importorskip(CUSTOM_OPERATIONS[0])
    if not sentence_graphs.PACKAGE.is_cached:
        pytest.skip("its package is not in the cache")
    model = cm.load_model(f"pypi:{sentence_graphs.USE}")
    texts = ["The cat sleeps on the sofa.", "Die Katze schläft auf dem Sofa.", "Prices fell."]
    from criticalmass.extraction.engines.onnx_engine import OnnxEngine

    engine = OnnxEngine(model, [model.penultimate])
    [[_, batch]] = model.preprocess.batches(texts, None)
    [vectors] = engine.vectors(batch)
    similar = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(similar), 1.0, atol=1e-5)
    assert similar[0, 1] > 0.8 > 0.3 > similar[0, 2]
