"""Networks that ``criticalmass train`` trained: ``trained:DIR@EPOCH``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.models.frozen import FrozenModel, WeightSource
from criticalmass.extraction.models.image_models import image_model
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.specs import Spec, missing_path
from criticalmass.storage.files import FolderKind, checked_path, read_manifest

if TYPE_CHECKING:
    from criticalmass.extraction.models.small_networks import NetworkShape, TrainableNetwork

TRAINING = FolderKind("criticalmass-training", 2, "training folder", "train")
LAST = "last"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one epoch of a training folder.

    Attributes
    ----------
    folder: the training folder.
    manifest: its manifest.
    epoch: number of finished epochs.
    entry: path and digest of the file.
    """

    folder: Path
    manifest: Mapping[str, Any]
    epoch: int
    entry: Mapping[str, Any]

    @property
    def shape(self) -> NetworkShape:
        """All that is needed to build the network."""
        from criticalmass.extraction.models.small_networks import NetworkShape

        return NetworkShape(**self.manifest["network"])

    @property
    def preprocess(self) -> ImagePreprocess:
        """The preprocessing that the network was trained with."""
        return ImagePreprocess.from_settings(self.manifest["preprocessing"])

    @property
    def name(self) -> str:
        """Recipe, training seed, and the epoch if it is not the last."""
        recipe = self.manifest["recipe"]
        is_last = self.epoch == int(recipe["epochs"])
        return f"{recipe['name']}-s{recipe['seed']}" + ("" if is_last else f"-e{self.epoch}")

    def load_network(self) -> TrainableNetwork:
        """Build the network and load its weights.

        Raises
        ------
        StoreError: the file of the weights is missing or damaged.
        """
        import_torch()
        from safetensors.torch import load_file

        from criticalmass.extraction.models.small_networks import build_network

        path = checked_path(self.folder, self.entry, verify=True)
        network = build_network(self.shape)
        network.load_state_dict(load_file(path))
        return network


def split_trained_name(name: str) -> tuple[Path, str]:
    """Split ``DIR@EPOCH`` into the folder and the epoch; without one it is the last.

    The name of a folder may end like an epoch, if there is no folder of the part before.
    """
    folder, _, epoch = name.rpartition("@")
    is_epoch = folder and re.fullmatch(rf"[0-9]{{1,9}}|{LAST}", epoch)
    if is_epoch and (Path(folder).is_dir() or not Path(name).is_dir()):
        return Path(folder), epoch
    return Path(name), LAST


def find_checkpoint(name: str) -> Checkpoint:
    """Find the checkpoint that ``DIR@EPOCH`` names.

    Raises
    ------
    StoreError: there is no such folder, or its manifest cannot be read.
    CriticalMassError: the training is not finished, or has no checkpoint of that epoch.
    """
    folder, epoch = split_trained_name(name)
    if not folder.is_dir():
        raise missing_path(folder, "folder")
    manifest = read_manifest(folder, TRAINING)
    entries = {int(entry["epoch"]): entry for entry in manifest["checkpoints"]}
    number = int(manifest["recipe"]["epochs"]) if epoch == LAST else int(epoch)
    if number not in entries:
        kept = ", ".join(map(str, sorted(entries))) or "none"
        cure = "; its training is not finished: run criticalmass train again"
        cure = "" if manifest["complete"] else cure
        raise CriticalMassError(
            f"{str(folder)!r} has no checkpoint of epoch {number}; it has: {kept}{cure}"
        )
    return Checkpoint(folder, manifest, number, entries[number])


def load_trained(spec: Spec) -> FrozenModel:
    """Load the network of a checkpoint, with the preprocessing that it was trained with.

    Raises
    ------
    CriticalMassError: as `find_checkpoint` and `Checkpoint.load_network` raise it.
    """
    checkpoint = find_checkpoint(spec.name)
    try:
        network = checkpoint.load_network()
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0][:160]
        raise StoreError(
            f"the weights in {str(checkpoint.folder)!r} do not fit its network ({reason}); "
            "delete the folder and train again"
        ) from error
    digest = str(checkpoint.entry["sha256"])
    source = WeightSource(f"trained, epoch {checkpoint.epoch}", digest)
    model = image_model(spec, checkpoint.name, network, checkpoint.preprocess, source)
    names = tuple(checkpoint.manifest["class_names"]) if network.get_classifier() else ()
    return dataclasses.replace(model, output_names=names)


def trained_digest(spec: Spec) -> str:
    """Return the digest of a checkpoint's file, from the manifest."""
    return str(find_checkpoint(spec.name).entry["sha256"])
