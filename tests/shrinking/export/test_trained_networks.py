"""Exports of networks that criticalmass train trained: they do not need the training folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.training.tiny import tiny_recipe

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.slim_model import SlimModel

DIGITS = "sklearn:digits?n=100"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def slim(folder: Path) -> SlimModel:
    """A slim model of at most 8 of the 16 neurons, whose training folder is at ``net``."""
    trained = cm.train(tiny_recipe(epochs=1), out=folder / "net")
    store = cm.extract(trained.spec, DIGITS, out=folder / "store", engine="torch", device="cpu")
    plan = cm.shrink(
        store, keep=0.1, out=folder / "slim", selectors=("random",), measure="ridge", max_dims=8
    )
    return plan.slim


def test_torch_and_onnx_give_the_short_vectors_without_the_training_folder(
    slim: SlimModel, folder: Path, tmp_path: Path
) -> None:
    for form in ("torch", "onnx"):
        cm.export(slim, format=form, out=tmp_path / form)
    (folder / "net").rename(folder / "away")
    items = cm.load_dataset(DIGITS).splits["test"].items
    whole = cm.FeatureStore.open(folder / "store").features("test").array()
    expected = slim.transform(whole)
    try:
        read = cm.load_slim_torch(tmp_path / "torch", device="cpu")
    finally:
        (folder / "away").rename(folder / "net")
    np.testing.assert_allclose(read.transform(items), expected, rtol=1e-4, atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    batch = np.concatenate([part for _, part in read.preprocess.batches(items, None)])
    [short] = session.run(["short"], {"images": batch})
    np.testing.assert_allclose(short, expected, rtol=1e-4, atol=1e-5)


def test_channels_of_a_trained_network_are_not_cut(slim: SlimModel, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="only the input of a timm network's classifier"):
        cm.export(slim, format="torch", out=tmp_path / "cut", cut=True)
    assert not (tmp_path / "cut").exists()


def test_another_checkpoint_than_the_shrunk_one_is_refused(
    slim: SlimModel, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CriticalMassError, match="but the features were extracted with"):
        cm.export(slim, format="torch", out=tmp_path / "x", model=f"trained:{folder / 'net'}@0")
