"""The training folder: manifest, checkpoints, log, and the state to resume from.

This module imports torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save

from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.small_networks import TrainableNetwork
from criticalmass.extraction.models.trained import TRAINING
from criticalmass.storage.files import (
    MANIFEST,
    checked_path,
    read_manifest,
    write_bytes,
    write_manifest,
)
from criticalmass.storage.run_lock import WRITER_NAME, visible_entries
from criticalmass.training.recipe import Recipe, recipe_from
from criticalmass.training.start import Start

_LOG = "log.parquet"
_RESUME = "resume.pt"
_CHECKPOINTS = "checkpoints"
_NOTHING_DONE: Mapping[str, Any] = {
    "checkpoints": [],
    "log": None,
    "resume": None,
    "complete": False,
}


class TrainingFolder:
    """A folder that one recipe with one training seed writes.

    After each epoch the files are written in the order checkpoint, log, resume state, manifest:
    the manifest names only files that are complete, so an interruption loses the current epoch.
    Only `open`, `is_finished` and `log` may be used without the lock of the folder.

    Parameters
    ----------
    path: the folder.
    manifest: its content so far.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, recipe: Recipe) -> TrainingFolder | None:
        """Open the folder of a recipe; None if there is none yet.

        Raises
        ------
        CriticalMassError: it is another folder, or that of another recipe.
        """
        if not path.exists() or (path.is_dir() and not visible_entries(path)):
            return None
        if not (path / MANIFEST).is_file():
            raise CriticalMassError(
                f"{str(path)!r} is not a training folder and not empty; choose another folder"
            )
        manifest = read_manifest(path, TRAINING)
        # Not the digest in it: those of format 1 depend on defaults and paths that are written.
        before = recipe_from(manifest["recipe"], f"the recipe of {str(path)!r}")
        if before.digest != recipe.digest:
            changed = _differences(before.to_identity(), recipe.to_identity())
            raise CriticalMassError(
                f"{str(path)!r} was trained from another recipe ({changed}); choose another folder"
            )
        return cls(path, manifest)

    @classmethod
    def create(
        cls, path: Path, recipe: Recipe, start: Start, facts: Mapping[str, Any]
    ) -> TrainingFolder:
        """Describe a training that is about to begin, in the manifest of a new folder.

        Parameters
        ----------
        path: the folder.
        recipe: the recipe.
        start: the network before its training.
        facts: further entries of the manifest.
        """
        manifest = {
            **_described(recipe),
            "network": dataclasses.asdict(start.shape),
            "n_neurons": start.network.n_neurons,
            "preprocessing": dict(start.preprocess.settings),
            **facts,
            **_NOTHING_DONE,
        }
        write_manifest(path, manifest, durable=True)
        return cls(path, manifest)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, no file is missing, and no killed process left one.

        Raises
        ------
        StoreError: a file of a complete training is damaged.
        """
        left = self._leftovers() or (self.path / WRITER_NAME).exists()
        return self.is_complete and self._is_whole() and not left

    def repair(self, facts: Mapping[str, Any]) -> None:
        """Prepare the folder for the epochs that are left.

        What killed processes left is removed. If a file is missing, the training begins again.

        Parameters
        ----------
        facts: as of `create`, of this process.

        Raises
        ------
        CriticalMassError: the data or the weights to start from have changed.
        StoreError: a checkpoint is damaged.
        """
        version = self.manifest["format_version"]
        if version < TRAINING.newest:
            warn_user(f"{self.path} has format {version}; it goes on with format {TRAINING.newest}")
            before = recipe_from(self.manifest["recipe"], str(self.path))
            self.manifest |= {"devices": 1, **_described(before)}
        if not self._is_whole():
            warn_user(f"{self.path}: a file is missing; the training begins again")
            self.manifest |= _NOTHING_DONE
        if self.manifest["resume"] is None and not self.is_complete:
            self.manifest |= facts
        for key in ("dataset", "weights"):
            if self.manifest.get(key) != facts.get(key):
                raise CriticalMassError(
                    f"{str(self.path)!r} was begun with another {key} of the same name (its "
                    "digest has changed); choose another folder"
                )
        for key in ("threads", "device", "devices", "versions"):
            if self.manifest[key] != facts[key]:
                warn_user(
                    f"{self.path} was begun with {key}={self.manifest[key]} and goes on with "
                    f"{facts[key]}: its bytes will differ from those of one training"
                )
        for path in self._leftovers():
            path.unlink(missing_ok=True)

    def _is_whole(self) -> bool:
        """Return whether all files are there; the log of unfinished trainings is written again."""
        entries = [*self.manifest["checkpoints"], self.manifest["resume"]]
        if self.is_complete:
            entries.append(self.manifest["log"])
        named = [entry for entry in entries if entry is not None]
        if not all((self.path / str(entry["path"])).is_file() for entry in named):
            return False
        for entry in named:
            checked_path(self.path, entry, verify=True)
        return True

    def _leftovers(self) -> list[Path]:
        """Return the temporary files of killed processes, and states that are not needed."""
        state = self.manifest["resume"]
        parts = [*self.path.glob(".*.part"), *(self.path / _CHECKPOINTS).glob(".*.part")]
        states = self.path.glob(f"[01]-{_RESUME}")
        return parts + [path for path in states if state is None or path.name != state["path"]]

    @property
    def is_complete(self) -> bool:
        """Whether all epochs are done."""
        return bool(self.manifest["complete"])

    @property
    def log(self) -> pd.DataFrame:
        """The log: one row per epoch."""
        entry = self.manifest["log"]
        if entry is None:
            return pd.DataFrame()
        return pd.read_parquet(checked_path(self.path, entry, verify=True))

    def read_state(self) -> dict[str, Any] | None:
        """Read the state to resume from; None if nothing was finished.

        Raises
        ------
        StoreError: the file is missing or damaged.
        """
        entry = self.manifest["resume"]
        if entry is None:
            return None
        path = checked_path(self.path, entry, verify=True)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def write_epoch(
        self,
        epoch: int,
        network: TrainableNetwork | None,
        rows: Sequence[Mapping[str, Any]],
        state: Mapping[str, Any] | None,
    ) -> None:
        """Write what an epoch made.

        Parameters
        ----------
        epoch: number of finished epochs.
        network: its weights are kept as a checkpoint; None for none.
        rows: the log so far.
        state: what `read_state` returns; None after the last epoch.
        """
        if network is not None:
            self._add_checkpoint(epoch, network)
        buffer = io.BytesIO()
        pd.DataFrame(rows).to_parquet(buffer, index=False)
        self.manifest["log"] = self._write(_LOG, buffer.getvalue())
        self.manifest["resume"] = None
        if state is not None:
            content = io.BytesIO()
            torch.save(dict(state), content)
            # The previous state stays until the manifest names the new one.
            name = f"{epoch % 2}-{_RESUME}"
            self.manifest["resume"] = self._write(name, content.getvalue())
        self.manifest["complete"] = state is None
        write_manifest(self.path, self.manifest, durable=True)
        for path in self._leftovers():
            path.unlink(missing_ok=True)

    def _add_checkpoint(self, epoch: int, network: TrainableNetwork) -> None:
        state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        entry = self._write(f"{_CHECKPOINTS}/epoch-{epoch:04d}.safetensors", save(state))
        others = [one for one in self.manifest["checkpoints"] if one["epoch"] != epoch]
        self.manifest["checkpoints"] = [*others, {"epoch": epoch, **entry}]

    def _write(self, name: str, content: bytes) -> dict[str, str]:
        digest = hashlib.sha256(content).hexdigest()
        write_bytes(self.path / name, content, durable=True)
        return {"path": name, "sha256": digest}


def _described(recipe: Recipe) -> dict[str, Any]:
    """Return the entries of a manifest that say what is trained, in the newest format."""
    return {
        "format": TRAINING.format,
        "format_version": TRAINING.newest,
        "recipe": recipe.to_dict(),
        "recipe_digest": recipe.digest,
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """Name the first keys that differ, with both values."""
    texts = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            texts.append(_differences(a, b, f"{prefix}{key}."))
        else:
            texts.append(f"{prefix}{key}: {a!r} there, {b!r} here")
    return "; ".join(texts[:3])
