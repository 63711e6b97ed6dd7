"""Contract of every engine: torch's float32 numbers, in the right rows, for any batch size."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.preprocess import VectorPreprocess

engines = importlib.import_module("criticalmass.extraction.engines")
WIDTHS = {"hidden": 7, "penultimate": 5}


@pytest.fixture
def model():
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Linear(5, 2)).eval()
    return FrozenModel(
        spec="net",
        name="net",
        modality="vector",
        module=net,
        root=net,
        preprocess=VectorPreprocess(),
        weights="random",
        weights_digest="0",
        penultimate=Tap("penultimate", "3", "input"),
    )


TAPS = [Tap("hidden", "1", "output"), Tap("penultimate", "3", "input")]
X = np.random.default_rng(0).normal(size=(101, 4)).astype(np.float32)


def reference(model):
    import torch

    with torch.no_grad():
        hidden = model.root[1](model.root[0](torch.from_numpy(X)))
        return {"hidden": hidden.numpy(), "penultimate": model.root[2](hidden).numpy()}


def compute(engine, batches):
    out = {name: np.full((len(X), width), np.nan, np.float32) for name, width in WIDTHS.items()}
    done = []
    engine.run(batches, out, done.append)
    assert sum(done) == len(X)
    return out


@pytest.fixture(params=["torch", "openvino"])
def engine(request, model):
    return engines.make_engine(request.param, model, TAPS, [X[:8]])


def test_the_numbers_are_torchs(model, engine):
    expected = reference(model)
    for size in (1, 13, 101, 500):
        found = compute(engine, model.preprocess.batches(X, size))
        for name, value in expected.items():
            assert np.abs(found[name] - value).max() <= 1e-4 * np.abs(value).max()


def test_rows_may_come_in_any_order(model, engine):
    order = np.random.default_rng(1).permutation(len(X))
    batches = [(rows, X[rows]) for rows in np.array_split(order, 9)]
    found = compute(engine, batches)
    for name, value in reference(model).items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_an_error_in_the_batches_reaches_the_caller(model, engine):
    def batches():
        yield np.arange(50), X[:50]
        raise KeyboardInterrupt

    out = {name: np.zeros((len(X), width), np.float32) for name, width in WIDTHS.items()}
    with pytest.raises(KeyboardInterrupt):
        engine.run(batches(), out, lambda _: None)
    found = compute(engine, model.preprocess.batches(X, 10))
    np.testing.assert_allclose(found["hidden"], reference(model)["hidden"], atol=1e-6)


def test_info_names_the_engine(engine):
    assert engine.info["precision"] == "float32"
    assert engine.info["device"] == "cpu"
    assert engine.info["name"] in engine.versions


def test_importing_openvino_sends_no_usage_report():
    code = (
        "import sys; from criticalmass.extraction.engines.openvino_engine import import_openvino; "
        "import_openvino(); "
        "import openvino.tools.ovc.telemetry_utils as utils; "
        "assert utils.tm.__name__.endswith('telemetry_stub'), utils.tm; "
        "assert 'openvino_telemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_an_engine_leaves_no_hooks_on_the_model(model, engine):
    compute(engine, model.preprocess.batches(X, 50))
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.module.modules()
    )


def test_a_network_that_does_not_take_its_input_says_so_in_one_line(model):
    with pytest.raises(CriticalMassError, match="'net' does not run on its input") as caught:
        engines.inspect_layers(model, ["penultimate"], X[:, :3])
    assert "\n" not in str(caught.value)
    own = dataclasses.replace(model, spec="module:a:b")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engines.inspect_layers(own, ["penultimate"], X[:, :3])
