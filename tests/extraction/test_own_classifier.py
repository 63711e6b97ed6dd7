"""The classifier that an extraction keeps: one linear module on a layer as it is stored."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.storage import features_writer
from criticalmass.storage.features import FeatureStore

torch = importlib.import_module("torch")
nn = torch.nn
X = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
DATA = {"train": (X[:16], np.arange(16) % 3), "test": (X[16:], np.arange(8) % 3)}


class Scaled(nn.Linear):  # type: ignore[misc, name-defined]
    """A linear module whose output is not its weights times its input."""

    def forward(self, x: Any) -> Any:
        return 2.0 * super().forward(nn.functional.normalize(x))


def network(*modules: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), *modules)


def extract(net: Any, out: Path, **options: Any) -> FeatureStore:
    return cm.extract(net, DATA, out=out, **options)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("layers", [("penultimate",), ("0", "penultimate"), ("penultimate", "all")])
def test_the_outputs_are_those_of_the_network(
    tmp_path: Path, has_bias: bool, layers: tuple[str, ...]
) -> None:
    net = network(nn.Dropout(0.5), nn.Linear(5, 3, bias=has_bias))
    store = extract(net, tmp_path / "store", layers=layers)
    classifier = store.classifier()
    assert classifier is not None
    outputs = store.features("test").array() @ classifier.weight.T + classifier.bias
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(X[16:])).numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert classifier.output_names == ()
    assert [layer for layer in store.layers if store.classifier(layer)] == ["penultimate"]


@pytest.mark.parametrize(
    ("modules", "layers"),
    [
        ((nn.Linear(5, 3), nn.BatchNorm1d(3)), ("penultimate",)),
        ((Scaled(5, 3),), ("penultimate",)),
        ((nn.Linear(5, 3),), ("0",)),
        ((nn.Linear(5, 3),), ("all",)),
    ],
)
def test_other_ends_and_other_layers_have_no_classifier(
    tmp_path: Path, modules: tuple[Any, ...], layers: tuple[str, ...]
) -> None:
    store = extract(network(*modules), tmp_path / "store", layers=layers)
    assert "classifier" not in store.manifest
    assert store.classifier(store.layers[0]) is None


def test_an_interrupted_extraction_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 4)
    net = network(nn.Linear(5, 3))
    extract(net, tmp_path / "whole")
    put = features_writer.StoreWriter.put

    def put_and_die(self: Any, plan: Any, features: Any) -> None:
        put(self, plan, features)
        if plan.index == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features_writer.StoreWriter, "put", put_and_die)
        with pytest.raises(KeyboardInterrupt):
            extract(net, tmp_path / "resumed")
    extract(net, tmp_path / "resumed")
    for name in ("classifier.npz", "manifest.json"):
        whole, resumed = ((tmp_path / f / name).read_bytes() for f in ("whole", "resumed"))
        assert whole == resumed
