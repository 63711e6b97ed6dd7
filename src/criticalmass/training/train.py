"""``train``: train a network by a recipe, and keep its checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.optional import import_package
from criticalmass.core.progress import Progress, write_line
from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.models.loading import resolve_device
from criticalmass.extraction.models.optional_imports import import_after_torchvision, import_torch
from criticalmass.storage.files import write_json
from criticalmass.storage.run_lock import write_lock
from criticalmass.training.objectives import count_views, needs_classifier
from criticalmass.training.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from criticalmass.extraction.datasets import Dataset
    from criticalmass.training.devices import DeviceGroup
    from criticalmass.training.folder import TrainingFolder
    from criticalmass.training.loop import Trainer

_TIMING = "timing.json"
_MOST_DEVICES = 1024


@dataclass(frozen=True, eq=False, repr=False)
class TrainedNetwork(Shown):
    """The result of `train`.

    Attributes
    ----------
    path: the training folder.
    recipe: the recipe, with its training seed.
    log: one row per epoch, from 0 (untrained): loss and each of its terms, learning rate,
        ``train_accuracy`` (of the classifier while it was trained), ``validation_accuracy``; and
        for checkpoints what `training.evaluation.evaluate` returns.
    checkpoints: the epochs whose weights are kept.
    """

    path: Path
    recipe: Recipe
    log: pd.DataFrame
    checkpoints: tuple[int, ...]

    @property
    def spec(self) -> str:
        """The model spec of the last epoch."""
        return self.at(self.checkpoints[-1])

    def at(self, epoch: int) -> str:
        """Return the model spec of an epoch; 0 is the untrained network."""
        return f"trained:{self.path}@{epoch}"

    def _card(self) -> Card:
        last = self.log.iloc[-1]
        names = ("train_error", "test_accuracy", "probe_accuracy", "live_share")
        facts = {name.replace("_", " "): f"{last[name]:.3f}" for name in names}
        facts["checkpoints"] = ", ".join(map(str, self.checkpoints))
        return Card(f"Network {self.recipe.name}, training seed {self.recipe.seed}", facts)


@validate_arguments
def train(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
    *,
    out: str | os.PathLike[str],
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    devices: int = 1,
) -> TrainedNetwork:
    """Train a network by a recipe.

    The folder gets the checkpoints (safetensors), the log (``log.parquet``) and a manifest with
    digests. A training that was stopped goes on after its last finished epoch and ends with the
    same bytes; a finished one is not repeated. Each checkpoint is a model spec
    ``trained:DIR@EPOCH``.

    Parameters
    ----------
    recipe: a recipe of the package (`criticalmass list recipes`), a YAML file, or its keys; see
        docs/training.md.
    out: the training folder.
    seed: training seed, instead of that of the recipe.
    device: "auto" (the GPU if there is one), "cpu" or "cuda".
    threads: of the processor; 1 by default for the small networks, which gain little from more,
        and all cores for networks of timm. The bytes of the weights depend on it.
    devices: GPUs, or processes on a CPU, that each compute a part of every batch. The weights are
        those of one device up to the order in which numbers are added. A script that asks for
        several needs ``if __name__ == "__main__":``.

    Raises
    ------
    CriticalMassError: the recipe is not valid, its data or network do not fit, or ``out`` holds
        something else.
    TrainingError: the loss is not finite; the checkpoints so far are kept.
    MissingExtraError: a library that the recipe needs is not installed.
    """
    checked = load_recipe(recipe)
    if seed is not None:
        checked = checked.with_changes(seed=seed)
    if not 1 <= devices <= _MOST_DEVICES:
        raise CriticalMassError(f"devices={devices} must be from 1 to {_MOST_DEVICES}")
    return train_on(checked, None, out=Path(out), device=device, threads=threads, devices=devices)


def train_on(
    recipe: Recipe,
    dataset: Dataset | None,
    *,
    out: Path,
    device: str = "auto",
    threads: int | None = None,
    devices: int = 1,
) -> TrainedNetwork:
    """Train by a checked recipe on a dataset that may be loaded already; see `train`."""
    import_torch()
    import_after_torchvision("timm", "torch")
    import_package("safetensors", "train")
    if count_views([entry.name for entry in recipe.objectives]) > 1:
        import_after_torchvision("pytorch_metric_learning", "train")
    from criticalmass.training.folder import TrainingFolder

    place = resolve_device(device)
    opened = TrainingFolder.open(out, recipe)
    if opened is not None and opened.is_finished:
        write_line(f"{out}: {recipe.name}, seed {recipe.seed}, is trained already")
        return _result(opened, recipe)
    count = threads or (1 if _is_small(recipe) else max(1, thread_count() // devices))
    settings = {"threads": count, "device": place, "devices": devices}
    if devices == 1:
        _train_here(None, recipe, dataset, out, settings)
    else:
        from criticalmass.training.devices import run_on_devices

        run_on_devices(devices, place, _train_here, recipe, dataset, out, settings)
    opened = TrainingFolder.open(out, recipe)
    assert opened is not None
    return _result(opened, recipe)


def _train_here(
    group: DeviceGroup | None,
    recipe: Recipe,
    dataset: Dataset | None,
    out: Path,
    settings: Mapping[str, Any],
) -> None:
    """Train in this process, alone or in a group, of which the first process writes the folder."""
    from criticalmass.training.folder import TrainingFolder

    torch = import_torch()
    data = dataset if dataset is not None else load_dataset(recipe.data.dataset)
    with _torch_threads(settings["threads"]), ExitStack() as stack:
        place = torch.device(settings["device"]) if group is None else group.device
        trainer, facts = _prepare(recipe, data, place, group)
        facts |= settings
        folder = None
        if group is None or group.is_first:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(write_lock(out))
            opened = TrainingFolder.open(out, recipe)
            folder = opened or TrainingFolder.create(out, recipe, trainer.start, facts)
            folder.repair(facts)
        begun = (False, None) if folder is None else (folder.is_complete, folder.read_state())
        is_complete, state = begun if group is None else group.share(begun)
        if not is_complete:
            _run(trainer, folder, state)


def _is_small(recipe: Recipe) -> bool:
    from criticalmass.extraction.models.small_networks import SMALL_NETWORKS

    weights = recipe.network.weights
    is_own = weights is None or weights.startswith("trained:")
    return is_own and recipe.network.name in SMALL_NETWORKS


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    torch = import_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(
    recipe: Recipe, dataset: Dataset, device: Any, group: DeviceGroup | None
) -> tuple[Trainer, dict[str, Any]]:
    """Return the trainer, and what the manifest says of the data."""
    from criticalmass.training.data import prepare_data
    from criticalmass.training.loop import Trainer
    from criticalmass.training.start import build_start, start_preprocess

    preprocess = start_preprocess(recipe.network)
    data = prepare_data(recipe.data, dataset, preprocess, recipe.seed)
    has_head = needs_classifier([entry.name for entry in recipe.objectives])
    outputs = len(data.class_names) if has_head else 0
    start = build_start(recipe.network, outputs, recipe.seed)
    facts = {
        "dataset": {"spec": dataset.spec, "digest": dataset.digest},
        "weights": start.digest,
        "n_train": len(data.train),
        "n_validation": 0 if data.validation is None else len(data.validation),
        "n_test": len(data.test),
        "class_names": list(data.class_names),
        "majority": data.majority,
        "versions": {name: version(name) for name in ("torch", "timm")},
    }
    return Trainer(recipe, start, data, device, group), facts


def _run(trainer: Trainer, folder: TrainingFolder | None, state: Mapping[str, Any] | None) -> None:
    """Train the epochs that are left; without a folder nothing is written."""
    recipe = trainer.recipe
    if state is None:
        _finish_epoch(trainer, folder, {"epoch": 0, "step": 0, "seconds": 0.0})
    else:
        trainer.load_state(state)
        if folder is not None:
            write_line(f"{folder.path}: goes on after epoch {trainer.epoch} of {recipe.epochs}")
    left = recipe.epochs - trainer.epoch
    label = f"training {recipe.name}, seed {recipe.seed}"
    with Progress(label, left * trainer.steps_per_epoch, "steps") as bar:
        for number in range(left):
            seconds = None if folder is None else trained_seconds(folder.path)
            per_epoch = seconds / trainer.epoch if trainer.epoch and seconds else None
            text = f"epoch {trainer.epoch + 1} of {recipe.epochs}{_accuracy_text(trainer)}"
            bar.begin(text, None if per_epoch is None else per_epoch * (left - number))
            _finish_epoch(trainer, folder, trainer.run_epoch(bar.advance))


def _accuracy_text(trainer: Trainer) -> str:
    """Return the newest accuracy for the progress bar."""
    for name in ("validation_accuracy", "probe_accuracy"):
        value = trainer.rows[-1].get(name, float("nan")) if trainer.rows else float("nan")
        if value == value:
            return f", {name.replace('_', ' ')} {value:.3f}"
    return ""


def _finish_epoch(trainer: Trainer, folder: TrainingFolder | None, row: dict[str, Any]) -> None:
    """Evaluate, log and write an epoch."""
    is_kept = trainer.epoch in trainer.recipe.kept_epochs
    seconds = row.pop("seconds")
    row["validation_accuracy"] = trainer.validate()
    if is_kept:
        row |= trainer.measure()
    trainer.rows.append(row)
    if folder is None:
        return
    is_last = trainer.epoch == trainer.recipe.epochs
    total = (trained_seconds(folder.path) or 0.0) + seconds
    folder.write_epoch(
        trainer.epoch,
        trainer.network if is_kept else None,
        trainer.rows,
        None if is_last else trainer.state(),
    )
    # Not in the manifest or the log, whose bytes are the same whenever the recipe is trained.
    write_json(folder.path / _TIMING, {"seconds": round(total, 2)})


def trained_seconds(folder: Path) -> float | None:
    """Return the seconds that the epochs of a training folder took so far; None if unknown."""
    try:
        return float(json.loads((folder / _TIMING).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _result(folder: TrainingFolder, recipe: Recipe) -> TrainedNetwork:
    epochs = tuple(sorted(int(entry["epoch"]) for entry in folder.manifest["checkpoints"]))
    return TrainedNetwork(folder.path, recipe, folder.log, epochs)
