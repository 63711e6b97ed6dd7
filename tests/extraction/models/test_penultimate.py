"""The penultimate layer: what the classifiers of a network read, or the network's output."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.cli.catalogue import listing
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.engines import run_torch
from criticalmass.extraction.models import load_model

torch = pytest.importorskip("torch")
NETS = """
import torch
from torch import nn

class Squeeze(nn.Module):
    '''Scales the channels by two small linear layers, as SENet does.'''
    def __init__(self, n):
        super().__init__()
        self.down, self.up = nn.Linear(n, 2), nn.Linear(2, n)
    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]

class Cnn(nn.Module):
    def __init__(self, fc, squeeze=False):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6)
        self.squeeze = Squeeze(6) if squeeze else nn.Identity()
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), fc
    def forward(self, x):
        return self.fc(torch.flatten(self.avgpool(self.squeeze(self.bn(self.conv(x)).relu())), 1))

class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.ln = nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.ln(x))

class Vit(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.ln = nn.LayerNorm(8)
        self.layers = nn.ModuleList([Block(8), Block(8)])
        self.heads = heads
    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.heads(self.ln(x)[:, 0])

class NoHeads(Vit):
    def forward(self, x):
        return super().forward(x)

class NormFirst(nn.Module):
    '''Registers its classifier before the layers that run before it.'''
    def __init__(self):
        super().__init__()
        self.fc, self.conv, self.bn = nn.Linear(6, 2), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3))).log_softmax(1)

class Tasks(nn.Module):
    '''Two classifiers read the same features, one reads another layer.'''
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 3), nn.Linear(4, 2)])
        self.early, self.late = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
    def forward(self, x):
        early = self.early(x)
        a, b = early.mean((2, 3)), self.late(early).mean((2, 3))
        return {"one": self.heads[0](b), "two": [self.heads[1](b), self.heads[2](a)]}

class TasksLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc_a, self.fc_b = nn.Conv2d(3, 6, 3), nn.Linear(6, 2), nn.Linear(3, 2)
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.fc_a(x), self.fc_b(x[:, :3])

class Listed(Tasks):
    def get_classifier(self):
        return {"one": self.heads[0], "rest": self.heads[1:]}

def seeded(make):
    def factory():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make().eval()
    return factory

nets = {
    "headless": lambda: Cnn(nn.Identity()),
    "squeezed": lambda: Cnn(nn.Identity(), squeeze=True),
    "vit": lambda: Vit(nn.Linear(8, 2)),
    "vit_headless": lambda: Vit(nn.Identity()),
    "vit_no_heads": lambda: NoHeads(nn.Sequential()),
    "vgg": lambda: Cnn(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(), nn.Identity())),
    "embedding": lambda: Cnn(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))),
    "switched_off": lambda: Cnn(nn.Sequential(nn.Linear(6, 2), nn.Identity())),
    "no_parameters": lambda: nn.Sequential(nn.AvgPool2d(4), nn.Flatten()),
    "convolutions": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
    "norm_first": NormFirst,
    "tasks": Tasks,
    "tasks_last": TasksLast,
    "listed": Listed,
}
globals().update({name: seeded(make) for name, make in nets.items()})

def vectors():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Identity())
"""
PIXELS = 16
OUTPUT = "output of the model"


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "penultimate_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("penultimate_nets", None)


def images(n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, PIXELS, PIXELS)).astype(np.uint8)


def load(name: str):
    return load_model(f"module:penultimate_nets:{name}?px={PIXELS}", device="cpu")


def scaled(batch: np.ndarray):
    return (torch.from_numpy(batch).float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize(
    ("name", "place", "width"),
    [
        ("headless", OUTPUT, 6),
        ("squeezed", OUTPUT, 6),
        ("vit", "input of 'heads'", 8),
        ("vit_headless", OUTPUT, 8),
        ("vit_no_heads", OUTPUT, 8),
        ("vgg", OUTPUT, 5),
        ("embedding", OUTPUT, 5),
        ("switched_off", "input of 'fc.0'", 6),
        ("no_parameters", OUTPUT, 48),
        ("convolutions", OUTPUT, 4),
        ("norm_first", "input of 'fc'", 6),
        ("tasks", "input of 'heads.0' and 'heads.1' and 'heads.2'", 10),
        ("tasks_last", "input of 'fc_a' and 'fc_b'", 9),
        ("listed", "input of 'heads.0' and 'heads.1' and 'heads.2'", 10),
    ],
)
def test_the_classifier_or_the_output(name, place, width):
    model = load(name)
    assert model.penultimate.description == place
    features = run_torch(model, "penultimate", images())
    assert features.shape == (2, width)
    if place == OUTPUT:
        with torch.no_grad():
            expected = model.root(scaled(images()))
        expected = expected.mean((2, 3)) if expected.ndim == 4 else expected
        np.testing.assert_allclose(features, expected.numpy(), atol=1e-6)
    table = listing("layers", model.spec)
    assert int(table["neurons"][0]) == width


def test_each_different_input_of_the_classifiers_once():
    model = load("tasks")
    features = run_torch(model, "penultimate", images())
    root = model.root
    with torch.no_grad():
        early = root.early(scaled(images()))
        expected = torch.cat([root.late(early).mean((2, 3)), early.mean((2, 3))], dim=1)
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["headless", "vit_headless", "listed"])
def test_the_engines_agree(name, tmp_path):
    stores = {
        engine: cm.extract(
            f"module:penultimate_nets:{name}?px={PIXELS}", "sklearn:digits?n=40",
            out=tmp_path / engine, device="cpu", engine=engine,
        )
        for engine in ("torch", "openvino")
    }  # fmt: skip
    one, other = (store.features("test").array() for store in stores.values())
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("layer", ["avgpool", "fc", "conv"])
def test_every_layer_of_a_network_without_a_classifier_can_be_named(layer, tmp_path):
    spec = f"module:penultimate_nets:headless?px={PIXELS}"
    store = cm.extract(
        spec, "sklearn:digits?n=40", out=tmp_path / "s", layers=(layer,), device="cpu"
    )
    assert store.features("test", layer).shape[1] == 6


def test_vectors_of_a_network_without_a_classifier():
    model = load_model("module:penultimate_nets:vectors?modality=vector", device="cpu")
    assert model.penultimate.description == OUTPUT
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with torch.no_grad():
        expected = model.root(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run_torch(model, "penultimate", x), expected, atol=1e-6)


def test_a_network_that_does_not_take_the_trial_input_is_still_loaded():
    # 3 pixels are one patch too few; the extraction says so, not the loading.
    model = load_model("module:penultimate_nets:vit_headless?px=3", device="cpu")
    assert model.penultimate.description == "input of 'layers.1.mlp.2'"
    with pytest.raises((CriticalMassError, RuntimeError)):
        run_torch(model, "penultimate", images()[:, :, :3, :3])
