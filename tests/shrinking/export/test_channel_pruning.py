"""Channel pruning: the kept neurons stay the same; if they would change, an error is raised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.backbone import Backbone, remove_classifier
from criticalmass.shrinking.export.channel_pruning import cut_channels
from criticalmass.shrinking.slim_model import SlimModel

READ = """
import numpy as np, criticalmass as cm
got = cm.load_slim_torch("torch", device="cpu")
x = np.load("items.npy")
np.savez("found.npz", short=got.transform(x), labels=got.predict(x))
"""


def backbone(name: str, pixels: int) -> Backbone:
    model = cm.load_model(f"timm:{name}?init=random&px={pixels}", device="cpu")
    return remove_classifier(Backbone(model, "timm", "penultimate"))


def parameters(one: Backbone) -> int:
    return sum(value.numel() for value in one.model.root.parameters())


def test_kept_neurons_stay_and_parameters_go() -> None:
    whole = backbone("test_efficientnet", 64)
    indices = np.array([0, 3, 77, 255])
    cut = cut_channels(whole, indices, 256)
    assert set(cut.cut_modules) == {"conv_head", "bn2"}
    batch = whole.sample_batch()
    assert batch is not None
    before, after = whole.layer_output(batch), cut.layer_output(batch)
    np.testing.assert_allclose(after, before[:, indices], atol=1e-6 * np.abs(before).max())
    # Each cut channel takes its filter, and scale and shift of its normalisation.
    head = whole.model.root.get_submodule("conv_head")
    assert parameters(whole) - parameters(cut) == 252 * (head.in_channels + 2)
    assert whole.layer_output(batch).shape == (2, 256), "the original is left as it was"
    assert cut_channels(whole, np.arange(256), 256).cut_modules == ()


def test_a_convolution_after_the_average() -> None:
    whole = backbone("mobilenetv3_small_050", 32)
    batch = whole.sample_batch()
    assert batch is not None
    before = whole.layer_output(batch)
    indices = np.arange(0, before.shape[1], 3)
    cut = cut_channels(whole, indices, before.shape[1])
    assert cut.cut_modules == ("conv_head",)
    np.testing.assert_allclose(
        cut.layer_output(batch), before[:, indices], atol=1e-6 * np.abs(before).max()
    )


@pytest.mark.parametrize(
    ("name", "pixels", "width", "words"),
    [
        ("resnet18", 32, 512, "'layer4.1.conv1' reads or mixes its channels as well"),
        ("test_vit", 160, 64, "reads or mixes its channels"),
        ("test_resnet", 32, 96, "its channels come from 2 modules"),
    ],
)
def test_channels_that_others_read_are_not_cut(
    name: str, pixels: int, width: int, words: str
) -> None:
    with pytest.raises(CriticalMassError, match=words):
        cut_channels(backbone(name, pixels), np.arange(5), width)


def test_a_channel_of_several_neurons_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four channels at four positions each are sixteen neurons: no channel is a neuron."""
    (tmp_path / "flat_nets.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(),\n"
        "                         nn.Linear(16, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = cm.load_model("module:flat_nets:net?px=8", device="cpu")
    whole = remove_classifier(Backbone(model, "timm", "penultimate"))
    with pytest.raises(CriticalMassError, match="reads or mixes its channels as well"):
        cut_channels(whole, np.arange(4, 16), 16)


def test_a_cut_export(tmp_path: Path, fresh: Callable[..., str]) -> None:
    digits = cm.load_dataset("sklearn:digits?n=200")
    spec = "timm:test_efficientnet?init=random&px=32"
    store = cm.extract(spec, digits, out=tmp_path / "store", device="cpu", engine="torch")
    slim = cm.shrink(store, keep=0.1, selectors=("random",), max_dims=64).slim
    out = cm.export(slim, format="torch", out=tmp_path / "torch", cut=True)
    plain = cm.export(slim, format="torch", out=tmp_path / "plain")
    x = store.features("test").array()
    np.save(tmp_path / "items.npy", digits.splits["test"].items)
    fresh(READ, tmp_path, alone=False)
    found = np.load(tmp_path / "found.npz")
    gap = np.abs(found["short"] - slim.transform(x)).max()
    assert gap <= 1e-4 * np.abs(slim.transform(x)).max()
    np.testing.assert_array_equal(found["labels"], slim.predict(x))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (out, plain)]
    assert sizes[0] < sizes[1]
    saved = json.loads((out / "config.json").read_text())["savings"]
    gone = 256 - slim.n_kept
    head = cm.load_model(spec, device="cpu").root.get_submodule("conv_head")
    assert saved["parameters_before"] - saved["parameters_after"] == gone * (
        head.in_channels + 2 + 10
    )
    assert saved["multiply_adds_after"] < saved["multiply_adds_before"]
    assert saved["milliseconds_after"] > 0


def test_vectors_have_nothing_to_cut(slim: SlimModel, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="cut=True needs a backbone"):
        cm.export(slim, format="torch", out=tmp_path / "out", cut=True)
