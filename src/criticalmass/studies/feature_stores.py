"""The feature stores of a folder, shared by all studies that use the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from criticalmass.core.backends import Backend, Local
from criticalmass.errors import CriticalMassError, DataUnavailableError, MissingExtraError
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.models.frozen import matches_layer
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import write_json
from criticalmass.studies.grid import ModelDatasetPair

_ALL = "all"
_DEFAULT_LAYERS = ("penultimate",)


class StoredLayers(NamedTuple):
    """A feature store, and the names of the requested layers in it."""

    store: FeatureStore
    layers: tuple[str, ...]


class _StorePlan(NamedTuple):
    """A store to open or extract.

    Attributes
    ----------
    path: folder of the store.
    layers: layer names and patterns that it is extracted with.
    requested: those of them that are requested now.
    """

    path: Path
    layers: tuple[str, ...]
    requested: tuple[str, ...]


class StudyFeatures:
    """Opens and extracts the feature stores of studies.

    Parameters
    ----------
    folder: holds one feature store per pair and choice of layers, and for each store a JSON file
        with its model, dataset and layers.
    device, backend: as of `criticalmass.extract`.

    Attributes
    ----------
    n_extracted: number of stores extracted or completed so far.
    """

    def __init__(self, folder: Path, device: str = "auto", backend: Backend | None = None) -> None:
        self.folder = folder
        self.device = device
        self.backend: Backend = Local() if backend is None else backend
        self.n_extracted = 0
        self._opened: dict[Path, FeatureStore] = {}
        self._last_dataset: tuple[str, Dataset] | None = None
        self._errors: dict[str, CriticalMassError] = {}

    def stores(self, pair: ModelDatasetPair, layers: Sequence[str]) -> list[StoredLayers]:
        """Open the stores with some layers of a pair, and extract what is missing.

        Layers that another store of the pair has are not extracted again, not even together with
        other layers. The features of one pass for several layers may differ in the last bits from
        those of a pass for one layer, and then cells computed on the latter would be stale.

        Parameters
        ----------
        pair: the model and the dataset; with a task, the stores are those of this label.
        layers: names and patterns, as of `criticalmass.extract`.

        Raises
        ------
        CriticalMassError: as `criticalmass.extract` raises it. A dataset or model that cannot be
            loaded is tried once; its error is raised again for each of its pairs.
        """
        for spec in (pair.dataset, pair.model):
            if spec in self._errors:
                raise self._errors[spec]
        try:
            dataset = self._load_dataset(pair.dataset)
        except CriticalMassError as error:
            self._errors[pair.dataset] = error
            raise
        stored = []
        for plan in self._plan_stores(pair, tuple(layers)):
            store = self._extract(pair, dataset, plan)
            store = store.task(pair.task) if pair.task else store
            stored.append(StoredLayers(store, match_layers(store, plan.requested)))
        return stored

    def mark_unavailable(self, spec: str, error: CriticalMassError) -> None:
        """Record that a model or dataset cannot be had; `stores` raises the error again."""
        self._errors[spec] = error

    def _extract(self, pair: ModelDatasetPair, dataset: Dataset, plan: _StorePlan) -> FeatureStore:
        from criticalmass.extraction.extract import extract

        path = plan.path
        if path in self._opened:
            return self._opened[path]
        n_files = _count_feature_files(path)
        record = {"model": pair.model, "dataset": pair.dataset, "layers": list(plan.layers)}
        write_json(path.with_name(f"{path.name}.json"), record, indent=2)
        # The workers of other backends load the data themselves.
        data = dataset if isinstance(self.backend, Local) else pair.dataset
        try:
            store = extract(
                pair.model,
                data,
                out=path,
                layers=plan.layers,
                device=self.device,
                backend=self.backend,
            )
        except (DataUnavailableError, MissingExtraError) as error:
            # The dataset is loaded already, so the error is about the model.
            self._errors[pair.model] = error
            raise
        self.n_extracted += _count_feature_files(path) != n_files
        self._opened[path] = store
        return store

    def _load_dataset(self, spec: str) -> Dataset:
        """Load a dataset; the last one stays in memory, because pairs are sorted by dataset."""
        if self._last_dataset is None or self._last_dataset[0] != spec:
            self._last_dataset = (spec, load_dataset(spec))
        return self._last_dataset[1]

    def _plan_stores(self, pair: ModelDatasetPair, layers: tuple[str, ...]) -> list[_StorePlan]:
        """Return the stores that have these layers, and a new one for the layers of none."""
        plans: list[_StorePlan] = []
        remaining = list(layers)
        for path in sorted(self.folder.glob(f"{pair.folder}*.json")):
            record = _read_record(path)
            stored = tuple(record.get("layers", ()))
            if (record.get("model"), record.get("dataset")) != (pair.model, pair.dataset):
                continue
            covered = tuple(layer for layer in remaining if _has_layer(stored, layer, layers))
            if covered:
                plans.append(_StorePlan(path.with_suffix(""), stored, covered))
                remaining = [layer for layer in remaining if layer not in covered]
        if remaining:
            suffix = ""
            if tuple(remaining) != _DEFAULT_LAYERS:
                digest = hashlib.sha256("\0".join(remaining).encode()).hexdigest()
                suffix = f"-{digest[:6]}"
            path = self.folder / f"{pair.folder}{suffix}"
            plans.append(_StorePlan(path, tuple(remaining), tuple(remaining)))
        return plans


def _has_layer(stored: tuple[str, ...], layer: str, requested: tuple[str, ...]) -> bool:
    """Return whether a store with some layers has one of the requested layers.

    The layer "all" depends on the layers that it is extracted with. A choice with "all" therefore
    matches only a store with the same choice.
    """
    if _ALL in (*stored, *requested):
        return stored == requested
    return layer in stored or any(matches_layer(pattern, layer) for pattern in stored)


def _count_feature_files(path: Path) -> int:
    return sum(1 for _ in path.rglob("*.npy"))


def merge_layer_choices(choices: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Merge choices of layers so that one pass extracts them; those with "all" stay separate.

    Returns
    -------
    The choices to extract, each once.
    """
    separate = dict.fromkeys(tuple(choice) for choice in choices if _ALL in choice)
    merged = dict.fromkeys(layer for choice in choices if _ALL not in choice for layer in choice)
    return [*([tuple(merged)] if merged else []), *separate]


def match_layers(store: FeatureStore, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers of a store that match names and patterns."""
    return tuple(
        name for name in store.layers if any(matches_layer(pattern, name) for pattern in layers)
    )


def _read_record(path: Path) -> dict[str, Any]:
    """Read the JSON file of a store; empty if the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
