"""Several devices: two processes on the CPU train what one trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from tests.training.tiny import tiny_recipe
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.trained import TRAINING
from criticalmass.storage.files import read_manifest
from criticalmass.training import devices
from criticalmass.training.loop import Trainer, TrainingError


def weights(folder: Path, epoch: int) -> dict[str, np.ndarray]:
    return load_file(folder / f"checkpoints/epoch-{epoch:04d}.safetensors")


def test_two_processes_go_on_to_the_weights_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in half of the batch, of which DeCov needs all, and batch normalisation the moments.

    Numbers are added in another order. Six steps at a learning rate of .1 let the rounding of
    float32 (6e-8) grow to some 1e-6; a process that saw its own half alone would differ by 1e-2.
    """
    recipe = tiny_recipe(
        objectives=["cross-entropy", {"decov": {"weight": 0.1}}, {"dropout": {"p": 0.2}}],
        optimizer={"clip": 1.0},
        epochs=3,
        checkpoints=[1],
    )
    one = cm.train(recipe, out=tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", run_only_the_first(Trainer.run_epoch))
        with pytest.raises(KeyboardInterrupt):
            cm.train(recipe, out=tmp_path / "two")
    two = cm.train(recipe, out=tmp_path / "two", device="cpu", devices=2)
    assert weights(two.path, 1).keys() == weights(one.path, 1).keys()
    largest = 0.0
    for name, before in weights(one.path, 1).items():
        expected, actual = weights(one.path, 3)[name], weights(two.path, 3)[name]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
        largest = max(largest, float(np.abs(expected - before).max()))
    assert largest > 0.05
    np.testing.assert_allclose(two.log["loss"][1:], one.log["loss"][1:], rtol=1e-4)
    assert read_manifest(two.path, TRAINING)["complete"]


def run_only_the_first(run_epoch: Any) -> Any:
    def run(trainer: Trainer, advance: Any) -> Any:
        if trainer.epoch:
            raise KeyboardInterrupt
        return run_epoch(trainer, advance)

    return run


def test_the_error_of_a_process_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(work: Any, args: Any, **_: Any) -> None:
        args[0][2].put(TrainingError("the loss is not finite"))
        raise ProcessRaisedException("a traceback", 1, 0)

    monkeypatch.setattr(devices, "start_processes", fail)
    with pytest.raises(TrainingError, match="the loss is not finite"):
        cm.train(tiny_recipe(), out=tmp_path / "a", device="cpu", devices=2)


@pytest.mark.parametrize("count", [0, -1, 10_000])
def test_a_number_of_devices_that_makes_no_sense_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(CriticalMassError, match=f"devices={count}"):
        cm.train(tiny_recipe(), out=tmp_path / "a", devices=count)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None)]
)
def test_the_statistics_of_one_process_are_those_of_torch(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_sum", lambda values: values)
    shape = (5, 3) if isinstance(layer, nn.BatchNorm1d) else (5, 3, 4, 2)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 2
    results = []
    for shares in (False, True):
        layer.load_state_dict(type(layer)(3).state_dict())
        values = x.clone().requires_grad_()
        if shares:
            with devices.SharedStatistics():
                out = layer(values)
        else:
            out = layer(values)
        F.mse_loss(out, x).backward()
        results.append([out, values.grad, layer.running_mean, layer.running_var])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
