"""``trained:DIR@EPOCH``: the network of a checkpoint as a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.tiny import DIGITS, tiny_recipe

import criticalmass as cm
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.models.loading import fingerprint
from criticalmass.extraction.models.trained import find_checkpoint, split_trained_name
from criticalmass.training.loop import Trainer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return cm.train(tiny_recipe(checkpoints=[1]), out=tmp_path / "net").path


@pytest.mark.parametrize("recipe", [tiny_recipe(), tiny_recipe(objectives=["simclr"], epochs=1)])
def test_extracted_features_are_those_of_the_network(tmp_path: Path, recipe: object) -> None:
    """Within float32: extraction runs larger batches, in another memory format."""
    trained = cm.train(recipe, out=tmp_path / "net")  # type: ignore[arg-type]
    store = cm.extract(trained.spec, DIGITS, out=tmp_path / "features", engine="torch")
    checkpoint = find_checkpoint(f"{trained.path}@last")
    network = checkpoint.load_network().eval()
    items = load_dataset(DIGITS).splits["test"].items
    batch = np.concatenate([part for _, part in checkpoint.preprocess.batches(items, None)])
    with torch.no_grad():
        expected = network.features((torch.from_numpy(batch).float() / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(
        store.features("test").array(), expected.numpy(), rtol=1e-4, atol=1e-5
    )
    assert store.features("test").shape[1] == 16


def test_epochs_are_models_of_their_own(folder: Path) -> None:
    models = {
        epoch: cm.load_model(f"trained:{folder}{epoch}")
        for epoch in ("@0", "@1", "@2", "@last", "")
    }
    assert [models[one].name for one in ("@0", "@1", "@2")] == [
        "tiny-s0-e0",
        "tiny-s0-e1",
        "tiny-s0",
    ]
    digests = [models[one].weights_digest for one in ("@0", "@1", "@2")]
    assert len(set(digests)) == 3
    assert models[""].weights_digest == models["@last"].weights_digest == digests[2]
    assert models["@0"].output_names == load_dataset(DIGITS).class_names
    for epoch, model in models.items():
        assert fingerprint(f"trained:{folder}{epoch}") == model.weights_digest


@pytest.mark.parametrize("name", ["a@b", "run@5", "x@last", "with space", "ä"])
def test_folders_of_any_name(tmp_path: Path, name: str) -> None:
    trained = cm.train(tiny_recipe(epochs=0), out=tmp_path / name)
    for spec in (trained.spec, f"trained:{trained.path}"):
        assert cm.load_model(spec).name == "tiny-s0"
    assert split_trained_name(str(trained.path)) == (trained.path, "last")


def test_an_epoch_without_a_checkpoint_and_a_folder_that_is_none_are_named(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CriticalMassError, match=r"no checkpoint of epoch 7; it has: 0, 1, 2$"):
        cm.load_model(f"trained:{folder}@7")
    with pytest.raises(CriticalMassError, match=r"no folder '.*/nett'; did you mean '.*/net'"):
        cm.load_model(f"trained:{tmp_path / 'nett'}@1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="make one with: criticalmass train"):
        cm.load_model(f"trained:{tmp_path / 'empty'}")


def test_an_unfinished_training_has_no_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run_epoch", interrupt)
    out = tmp_path / "net"
    with pytest.raises(KeyboardInterrupt):
        cm.train(tiny_recipe(), out=out)
    with pytest.raises(CriticalMassError, match="it has: 0; its training is not finished: run"):
        cm.load_model(f"trained:{out}")
    assert cm.load_model(f"trained:{out}@0").name == "tiny-s0-e0"


def test_damaged_and_missing_files_are_named(folder: Path) -> None:
    path = folder / "checkpoints" / "epoch-0002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"epoch-0002\.safetensors' is damaged"):
        cm.load_model(f"trained:{folder}")
    path.unlink()
    with pytest.raises(StoreError, match=r"epoch-0002\.safetensors' is missing"):
        cm.load_model(f"trained:{folder}")
    assert cm.load_model(f"trained:{folder}@1").name == "tiny-s0-e1"


def test_an_edited_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["network"]["neurons"] = 17
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="is damaged"):
        cm.load_model(f"trained:{folder}")
