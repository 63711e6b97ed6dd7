"""The feature store: representations on disk, in memory-mapped shards with digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.notebook import Card, Shown
from criticalmass.errors import StoreError, unknown_name
from criticalmass.storage.classifier import Classifier, read_classifier
from criticalmass.storage.files import MANIFEST, STORE, checked_path, folder_of, read_manifest
from criticalmass.storage.linked_features import (
    LinkedRows,
    check_link,
    from_hard_link,
    open_linked,
    take_rows_of_shards,
)
from criticalmass.storage.prompts import Prompts, read_prompts
from criticalmass.storage.qrels import Qrels, read_qrels

TASKS = "tasks"
"""The folder of a store that holds a store for each labelling of its samples."""
#: Class names of a dataset without labels.
UNLABELLED = ("unlabelled",)


@dataclass(frozen=True, repr=False)
class Features:
    """One representation: a layer of a frozen model on one split, read from its shards.

    Attributes
    ----------
    shards: memory-mapped arrays, each (n_rows, n_neurons), in the order of the samples; for
        linked vectors, rows of the mapped file.
    scale: (n_neurons,) float32 factors of the columns, applied on access; or None.
    origin: path of the store, split and layer; other processes open the features from these.
    """

    shards: tuple[NDArray[Any] | LinkedRows, ...]
    scale: NDArray[np.float32] | None = None
    origin: tuple[str, str, str] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        """(n_shards + 1,) first row of each shard, and the number of rows."""
        return np.cumsum([0, *(len(shard) for shard in self.shards)]).astype(np.intp)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_samples, n_neurons)."""
        return int(self._starts[-1]), int(self.shards[0].shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values on access: float32 if scaled, otherwise as stored."""
        return self.shards[0].dtype if self.scale is None else self.scale.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Features(shape={self.shape}, dtype={self.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the path of the store if it is known, otherwise as arrays."""
        if self.origin is None:
            return Features, (tuple(np.asarray(shard) for shard in self.shards), self.scale)
        return _open_features, self.origin

    def __getitem__(self, key: slice | NDArray[Any] | list[int]) -> NDArray[Any]:
        """Read the rows of a slice, row numbers or a boolean mask; -> (n_rows, n_neurons)."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._scaled(self._block(start, max(start, stop)))
            return self._scaled(self._gather(np.arange(start, stop, step)))
        rows = np.asarray(key)
        if rows.ndim != 1:
            raise StoreError(f"rows have the shape {rows.shape}; give a slice or a 1-D array")
        if rows.dtype == np.bool_:
            if len(rows) != len(self):
                raise StoreError(
                    f"a mask of {len(rows)} rows does not fit {len(self)} samples; give one bool "
                    "per sample"
                )
            rows = np.flatnonzero(rows)
        return self._scaled(self._gather(rows.astype(np.intp)))

    def _scaled(self, raw: NDArray[Any]) -> NDArray[Any]:
        return raw if self.scale is None else raw * self.scale

    def _block(self, start: int, stop: int) -> NDArray[Any]:
        pieces = [
            shard[max(0, start - first) : max(0, stop - first)]
            for shard, first in zip(self.shards, self._starts[:-1], strict=True)
            if first < stop and first + len(shard) > start
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else self.shards[0][:0]

    def _gather(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        rows = np.where(rows < 0, rows + len(self), rows)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise StoreError(
                f"a row number is outside the {len(self)} samples of the split; give row "
                f"numbers below {len(self)}"
            )
        out = np.empty((len(rows), self.shape[1]), dtype=self.shards[0].dtype)
        shard_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        for index in np.unique(shard_of_row):
            in_shard = shard_of_row == index
            out[in_shard] = self.shards[index][rows[in_shard] - self._starts[index]]
        return out

    def array(self) -> NDArray[Any]:
        """Return all rows, (n_samples, n_neurons); a single shard is returned as its memory map."""
        first = self.shards[0]
        if len(self.shards) == 1 and isinstance(first, np.ndarray):
            return self._scaled(first)
        return self._scaled(self._block(0, len(self)))

    def chunks(self, rows: int = 4096) -> Iterator[NDArray[Any]]:
        """Yield consecutive blocks of at most ``rows`` rows, each (rows, n_neurons)."""
        if rows < 1:
            raise StoreError(f"rows={rows} must be at least 1")
        for start in range(0, len(self), rows):
            yield self[start : start + rows]


@dataclass(frozen=True, repr=False)
class FeatureStore(Shown):
    """A finished extraction: representations, labels and the manifest that describes them.

    Attributes
    ----------
    path: the folder.
    manifest: the content of ``manifest.json``.
    """

    path: Path
    manifest: dict[str, Any] = field(repr=False, compare=False)

    def _card(self) -> Card:
        splits = self.manifest["splits"]
        counts = [f"{entry['n_samples']:,} {name}" for name, entry in splits.items()]
        widths = {name: layer["shape"][0] for name, layer in self.manifest["layers"].items()}
        layers = [f"{name} ({width:,} neurons)" for name, width in widths.items()]
        more = f" and {len(layers) - 4} more" if len(layers) > 4 else ""
        classes = self.class_names
        facts = {
            "model": self.model,
            "dataset": self.dataset,
            "layers": ", ".join(layers[:4]) + more,
            "samples": ", ".join(counts),
            "classes": "none" if classes == UNLABELLED else f"{len(classes):,}",
            **({"labels": ", ".join(self.tasks)} if self.tasks else {}),
        }
        return Card(f"Feature store {str(self.path)!r}", facts)

    @classmethod
    def open(cls, path: str | Path | FeatureStore, *, verify: bool = True) -> FeatureStore:
        """Open a finished store.

        Parameters
        ----------
        path: the folder, or a store, which is returned.
        verify: compare each file with its digest in the manifest; a linked file only if its time
            has changed.

        Raises
        ------
        StoreError: if there is no store, it is unfinished, a file is damaged, or its format is
            newer.
        """
        if isinstance(path, FeatureStore):
            return path
        folder = folder_of(path, STORE)
        manifest = read_manifest(folder, STORE)
        if not manifest.get("complete"):
            raise StoreError(
                f"the extraction in {str(folder)!r} is unfinished; "
                "run the same extract again to continue it"
            )
        try:
            if manifest["format_version"] == 2:
                manifest = from_hard_link(folder, manifest)
            store = cls(folder, manifest)
            store._check_files(verify)
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the manifest of {str(folder)!r} lacks {error}; extract it again"
            ) from error
        return store

    def _check_files(self, verify: bool) -> None:
        for split in self.manifest["splits"].values():
            checked_path(self.path, split["labels"], verify=verify)
            checked_path(self.path, split["ids"], verify=verify)
            if "rows" in split:
                checked_path(self.path, split["rows"], verify=verify)
        folder = self._feature_folder
        if self.is_task and not (folder / MANIFEST).is_file():
            raise StoreError(
                f"{str(self.path)!r} shares the features of the store around it, but "
                f"{str(folder)!r} is no store; move it back into {TASKS}/ of its store"
            )
        for name in ("qrels", "classifier", "prompts"):
            if name in self.manifest:
                checked_path(folder, self.manifest[name], verify=verify)
        for layer in self.manifest["layers"].values():
            if "norm_split" in layer:
                checked_path(folder, layer["norms"], verify=verify)
            if "linked" in layer:
                check_link(folder, layer, verify=verify)
                continue
            for split in self.splits:
                for entry in layer["shards"][split]:
                    checked_path(folder, entry, verify=verify)

    @property
    def is_task(self) -> bool:
        """Whether this is one labelling of the samples of the store around it."""
        return "task" in self.manifest

    @property
    def _feature_folder(self) -> Path:
        """The folder of the store that has the features: this one, or the one around a task."""
        return self.path.resolve().parent.parent if self.is_task else self.path

    @property
    def tasks(self) -> tuple[str, ...]:
        """The labellings of the samples, in alphabetical order; empty without any."""
        return tuple(sorted(self._task_folders()))

    def task(self, name: str) -> FeatureStore:
        """Open the store of one labelling: the same features, with its labels.

        Raises
        ------
        CriticalMassError: if there is no such labelling.
        """
        folders = self._task_folders()
        if name not in folders:
            raise unknown_name(f"label in {str(self.path)!r}", name, folders)
        return FeatureStore.open(folders[name])

    def _task_folders(self) -> dict[str, Path]:
        folders = (path.parent for path in (self.path / TASKS).glob(f"*/{MANIFEST}"))
        return {str(read_manifest(folder, STORE).get("task")): folder for folder in folders}

    @property
    def model(self) -> str:
        """The model's short name."""
        return str(self.manifest["model"]["name"])

    @property
    def dataset(self) -> str:
        """The dataset's short name."""
        return str(self.manifest["dataset"]["name"])

    @property
    def layers(self) -> tuple[str, ...]:
        """The stored layers."""
        return tuple(self.manifest["layers"])

    @property
    def splits(self) -> tuple[str, ...]:
        """The stored splits."""
        return tuple(self.manifest["splits"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class; a label is an index into it."""
        return tuple(self.manifest["dataset"]["class_names"])

    @property
    def is_collection(self) -> bool:
        """Whether it is a retrieval collection: documents in ``train``, queries in ``test``."""
        return "qrels" in self.manifest

    @cached_property
    def qrels(self) -> Qrels | None:
        """The relevant documents of the queries; None if this is no retrieval collection."""
        if not self.is_collection:
            return None
        entry = self.manifest["qrels"]
        return read_qrels(checked_path(self._feature_folder, entry, verify=False), entry)

    def classifier(self, layer: str = "penultimate") -> Classifier | None:
        """Return the network's own classifier if it reads this layer and is stored, else None."""
        if not self.classifier_digest(layer):
            return None
        entry = self.manifest["classifier"]
        return read_classifier(checked_path(self._feature_folder, entry, verify=False), entry)

    def classifier_digest(self, layer: str) -> str:
        """Return the digest of the classifier that reads a layer, in hex; empty without one."""
        return self.stored_digests(layer).get("classifier", "")

    def prompts(self, layer: str = "penultimate") -> Prompts | None:
        """Return the class prompts in the space of this layer if they are stored, else None."""
        if "prompts" not in self.stored_digests(layer):
            return None
        entry = self.manifest["prompts"]
        return read_prompts(checked_path(self._feature_folder, entry, verify=False), entry)

    def stored_digests(self, layer: str) -> dict[str, str]:
        """Return the digests of what is stored beside a layer: its classifier, its prompts."""
        return {
            name: str(self.manifest[name]["digest"])
            for name in ("classifier", "prompts")
            if name in self.manifest and self.manifest[name]["layer"] == layer
        }

    def features(self, split: str, layer: str = "penultimate") -> Features:
        """Open the representation of a layer on a split, (n_samples, n_neurons).

        Raises
        ------
        CriticalMassError: if there is no such split or layer.
        StoreError: if a shard is missing or its shape differs from the manifest.
        """
        entry, folder = self._layer(layer), self._feature_folder
        shards: list[NDArray[Any] | LinkedRows] = []
        if "linked" in entry:
            shards = [open_linked(folder, entry, self._split(split))]
        else:
            for shard in entry["shards"][self._split(split)]:
                path = checked_path(folder, shard, verify=False)
                shards.append(_open_shard(path, (int(shard["rows"]), int(entry["shape"][0]))))
        labelled = self.manifest["splits"][split].get("rows")
        if labelled is not None:
            path = checked_path(self.path, labelled, verify=False)
            rows = np.load(path, allow_pickle=False).astype(np.intp)
            shards = take_rows_of_shards(shards, rows)
        origin = (str(self.path.resolve()), split, layer)
        return Features(tuple(shards), self._scale(layer), origin)

    def _scale(self, layer: str) -> NDArray[np.float32] | None:
        """Return the factors that scale each column to norm 1; a column of zeros is kept."""
        entry = self._layer(layer)
        if "norm_split" not in entry:
            return None
        path = checked_path(self._feature_folder, entry["norms"], verify=False)
        norms = np.load(path, allow_pickle=False)
        return (1.0 / np.where(norms > 0.0, norms, 1.0)).astype(np.float32)

    def labels(self, split: str) -> NDArray[np.int64]:
        """Return the class id of each sample of a split, (n_samples,)."""
        entry = self.manifest["splits"][self._split(split)]["labels"]
        path = checked_path(self.path, entry, verify=False)
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.int64)

    def sample_ids(self, split: str) -> tuple[str, ...]:
        """Return the name of each sample of a split."""
        entry = self.manifest["splits"][self._split(split)]["ids"]
        path = checked_path(self.path, entry, verify=False)
        return tuple(json.loads(path.read_text(encoding="utf-8")))

    def digest(self, layer: str = "penultimate") -> str:
        """Return the digest of a layer's content (all splits, with labels and qrels), in hex.

        Linked and copied features of equal content have equal digests.
        """
        shards = self._layer(layer)["shards"]
        content = [
            [split, [entry["sha256"] for entry in shards[split]], info["labels"]["sha256"]]
            + ([info["rows"]["sha256"]] if "rows" in info else [])
            for split, info in self.manifest["splits"].items()
        ]
        if self.is_collection:
            content.append(["qrels", [], self.manifest["qrels"]["digest"]])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _layer(self, layer: str) -> dict[str, Any]:
        if layer not in self.layers:
            raise unknown_name(f"layer in {str(self.path)!r}", layer, self.layers)
        entry: dict[str, Any] = self.manifest["layers"][layer]
        return entry

    def _split(self, split: str) -> str:
        if split not in self.splits:
            raise unknown_name(f"split in {str(self.path)!r}", split, self.splits)
        return split


def _open_features(path: str, split: str, layer: str) -> Features:
    """Open features without a check, because another process has verified them."""
    return FeatureStore.open(path, verify=False).features(split, layer)


def _open_shard(path: Path, shape: tuple[int, int]) -> NDArray[Any]:
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise StoreError(f"{str(path)!r} cannot be read ({error}); extract it again") from error
    if shard.shape != shape or shard.dtype not in (np.dtype("float32"), np.dtype("float16")):
        raise StoreError(
            f"{str(path)!r} holds {shard.dtype} {shard.shape} but its manifest says {shape}; "
            "extract it again"
        )
    return np.asarray(shard) if shard.size == 0 else shard
