"""Exports of networks inside packages: timm builds them, with their padding and epsilon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.extraction.models.package_networks import PACKAGE_NETWORKS, network_shape
from criticalmass.extraction.specs import Spec
from criticalmass.shrinking.slim_model import SlimModel

DIGITS = "sklearn:digits?n=60"
# Padding as in TensorFlow, another epsilon; untrained, so that no package is needed.
SPEC = "npm:mobilenetv2-nsfw?init=random&px=33"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("package")


@pytest.fixture(scope="module")
def slim(folder: Path) -> SlimModel:
    store = cm.extract(SPEC, DIGITS, out=folder / "store", engine="torch", device="cpu")
    plan = cm.shrink(
        store, keep=0.1, out=folder / "slim", selectors=("random",), measure="ridge", max_dims=8
    )
    return plan.slim


def test_a_torch_folder_with_cut_channels_gives_the_short_vectors(
    slim: SlimModel, folder: Path, tmp_path: Path
) -> None:
    cm.export(slim, format="torch", out=tmp_path / "torch", cut=True)
    items = cm.load_dataset(DIGITS).splits["test"].items
    expected = slim.transform(cm.FeatureStore.open(folder / "store").features("test").array())
    read = cm.load_slim_torch(tmp_path / "torch", device="cpu")
    np.testing.assert_allclose(read.transform(items), expected, rtol=1e-3, atol=1e-5)


def test_a_graph_gives_the_short_vectors(slim: SlimModel, folder: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    cm.export(slim, format="onnx", out=tmp_path / "onnx")
    data = cm.load_dataset(DIGITS).splits["test"]
    expected = slim.transform(cm.FeatureStore.open(folder / "store").features("test").array())
    preprocess = cm.load_model(SPEC).preprocess
    batch = np.concatenate([part for _, part in preprocess.batches(data.items, None)])
    session = onnxruntime.InferenceSession(
        tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    [short] = session.run(["short"], {"images": batch})
    np.testing.assert_allclose(short, expected, rtol=1e-3, atol=1e-5)


def test_what_builds_a_network_holds_its_padding_epsilon_and_side() -> None:
    shape = network_shape(Spec("npm:mobilenetv2-nsfw", "npm", "mobilenetv2-nsfw", {}))
    assert (shape.options["pad_type"], shape.eps) == ("same", 1e-3)
    vit = "pypi:vit-s14-saliency"
    assert PACKAGE_NETWORKS[vit].shape(42).options["img_size"] == 42


def test_a_folder_is_read_with_its_pooling(tmp_path: Path) -> None:
    """The layer is a map, whose maxima were shrunk."""
    spec = "timm:test_resnet?init=random&px=32&pool=max"
    store = cm.extract(
        spec, DIGITS, out=tmp_path / "store", layers=("layer1",), engine="torch", device="cpu"
    )
    options = {"selectors": ("random",), "measure": "ridge", "max_dims": 8}
    slim = cm.shrink(store, keep=0.1, **options).slim
    cm.export(slim, format="torch", out=tmp_path / "torch")
    read = cm.load_slim_torch(tmp_path / "torch", device="cpu")
    items = cm.load_dataset(DIGITS).splits["test"].items
    expected = slim.transform(store.features("test", "layer1").array())
    np.testing.assert_allclose(read.transform(items), expected, rtol=1e-3, atol=1e-5)
