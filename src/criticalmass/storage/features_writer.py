"""The writer of feature stores. It writes shard by shard and continues interrupted stores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage.classifier import FILE as CLASSIFIER_FILE
from criticalmass.storage.classifier import Classifier
from criticalmass.storage.digests import file_digest
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import (
    LINKED_VERSION,
    MANIFEST,
    PLAIN_VERSION,
    STORE,
    read_manifest,
    resolve_inside,
    write_array,
    write_json,
    write_manifest,
)
from criticalmass.storage.linked_features import link_entry
from criticalmass.storage.prompts import PREFIX, Prompts, write_prompts
from criticalmass.storage.qrels import FILE, Qrels

_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class SplitInfo:
    """Labels and names of the samples of one split.

    Attributes
    ----------
    labels: (n_samples,) class ids.
    ids: (n_samples,) names.
    """

    labels: NDArray[np.int64]
    ids: Sequence[str]


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: number ``index`` of a split, rows ``start`` to ``stop`` (exclusive)."""

    split: str
    index: int
    start: int
    stop: int


def describe_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Sequence[str] = ()
) -> list[str]:
    """Describe how two requests (nested mappings) differ, one phrase per entry.

    Parameters
    ----------
    old, new: JSON-able mappings: the request in the folder and the new one.
    ignore: dotted names that may differ.
    """
    phrases: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        inner_ignore = [name.partition(".")[2] for name in ignore if name.startswith(f"{key}.")]
        before, after = old.get(key), new.get(key)
        if key in ignore or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            inner = describe_differences(before, after, inner_ignore)
            phrases += [f"{key} {phrase}" for phrase in inner]
        else:
            phrases.append(
                f"{key} is {_shortened(before)} in the folder but {_shortened(after)} was requested"
            )
    return phrases


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"


class StoreWriter:
    """Writes one feature store; created by :meth:`begin`.

    Attributes
    ----------
    shard_rows: default number of rows of a shard.
    path: the folder.
    manifest: content of ``manifest.json``, which is written after each shard.
    """

    shard_rows: ClassVar[int] = 8192

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def begin(
        cls,
        out: str | Path,
        header: Mapping[str, Any],
        splits: Mapping[str, SplitInfo],
        *,
        shard_rows: int | None = None,
        qrels: Qrels | None = None,
        classifier: Classifier | None = None,
    ) -> StoreWriter:
        """Start a store, or continue an interrupted one of the same request.

        Parameters
        ----------
        out: the folder; created if needed.
        header: ``model``, ``dataset``, ``layers`` (name -> ``dtype``, ``shape`` of one row, and
            other entries), ``engine`` and ``versions``. A store continues only if all are equal.
        splits: labels and sample names.
        shard_rows: rows of a shard; None for the class's default.
        qrels: the relevant documents of a retrieval collection, or None. The digest of the
            dataset in ``header`` must cover them.
        classifier: the network's own, which reads one of the layers, or None. The digest of the
            weights in ``header`` must cover it.

        Raises
        ------
        StoreError: if the folder holds another request's features (the error lists what differs),
            or other files. Other versions of libraries are no difference to a finished, intact
            store.
        """
        path = Path(out)
        shard_rows = shard_rows or cls.shard_rows
        if (path / MANIFEST).is_file():
            manifest = read_manifest(path, STORE)
            request = {**header, "shard_rows": shard_rows}
            differences = describe_differences(recorded_request(manifest), request)
            # A finished store stays valid under newer libraries: its manifest says which wrote it.
            usable = {**request, "versions": manifest.get("versions")}
            is_finished = manifest["complete"] and recorded_request(manifest) == usable
            if differences and not is_finished:
                raise different_request_error(path, differences)
            writer = cls(path, manifest)
            if differences:
                FeatureStore.open(path)  # Raises an error for a damaged file.
            else:
                writer._forget_damaged(splits, qrels, classifier)
            return writer
        if path.exists() and not (path.is_dir() and _is_startable(path)):
            raise StoreError(
                f"{str(path)!r} exists and is not a feature store; name another folder"
            )
        manifest = {
            "format": STORE.format,
            "format_version": PLAIN_VERSION,
            "complete": False,
            **header,
            "shard_rows": shard_rows,
        }
        manifest["layers"] = {
            name: {**entry, "shards": {split: [] for split in splits}}
            for name, entry in header["layers"].items()
        }
        manifest["splits"] = {}
        writer = cls(path, manifest)
        for split, info in splits.items():
            writer._write_split(split, info)
        if qrels is not None:
            manifest["qrels"] = qrels.write(path)
        if classifier is not None:
            manifest["classifier"] = classifier.write(path)
        writer._save()
        return writer

    def _write_split(self, split: str, info: SplitInfo) -> None:
        labels, ids = f"labels/{safe_file_name(split)}.npy", f"ids/{safe_file_name(split)}.json"
        self.manifest["splits"][split] = {
            "n_samples": len(info.labels),
            "labels": {
                "path": labels,
                "sha256": write_array(self.path / labels, info.labels.astype(np.int64)),
            },
            "ids": {"path": ids, "sha256": write_json(self.path / ids, list(info.ids))},
        }

    def _forget_damaged(
        self,
        splits: Mapping[str, SplitInfo],
        qrels: Qrels | None,
        classifier: Classifier | None,
    ) -> None:
        """Remove missing and damaged files from the manifest, so that they are written again.

        Labels, sample names, qrels and classifier are written at once.
        """
        if qrels is not None and not self._is_intact(self.manifest["qrels"]):
            self.manifest["qrels"] = qrels.write(self.path)
        if classifier is not None:
            # Stores of earlier versions have none.
            entry = self.manifest.get("classifier")
            if entry is None or not self._is_intact(entry):
                self.manifest["classifier"] = classifier.write(self.path)
        prompts = self.manifest.get("prompts")
        if prompts is not None and not self._is_intact(prompts):
            del self.manifest["prompts"]  # Attached again when the store is finished.
        for name, info in splits.items():
            entry = self.manifest["splits"][name]
            if not (self._is_intact(entry["labels"]) and self._is_intact(entry["ids"])):
                self._write_split(name, info)
        for layer in self.manifest["layers"].values():
            if "norms" in layer and not self._is_intact(layer["norms"]):
                self.manifest["complete"] = False
                del layer["norms"]
            for entries in layer["shards"].values():
                are_intact = [self._is_intact(entry) for entry in entries]
                if not all(are_intact):
                    self.manifest["complete"] = False
                    del entries[are_intact.index(False) :]
        self._save()

    def _is_intact(self, entry: Mapping[str, Any]) -> bool:
        path = resolve_inside(self.path, entry["path"])
        if path.is_file() and file_digest(path) == entry["sha256"]:
            return True
        warn_user(f"{str(path)!r} is missing or damaged and is written again")
        return False

    def missing(self) -> Iterator[ShardPlan]:
        """Yield the missing shards, in order."""
        return (plan for plan in self.plans() if not self.has(plan))

    def plans(self) -> Iterator[ShardPlan]:
        """Yield all shards, in order."""
        rows = int(self.manifest["shard_rows"])
        for split, info in self.manifest["splits"].items():
            for index, start in enumerate(range(0, max(1, int(info["n_samples"])), rows)):
                yield ShardPlan(split, index, start, min(start + rows, int(info["n_samples"])))

    def has(self, plan: ShardPlan) -> bool:
        """Return whether a shard is written, of every layer."""
        layers = self.manifest["layers"].values()
        return plan.index < min(len(layer["shards"][plan.split]) for layer in layers)

    def stored(self, layer: str, plan: ShardPlan) -> NDArray[Any]:
        """Memory-map a shard that is written, (rows of the shard, n_neurons)."""
        entry = self.manifest["layers"][layer]["shards"][plan.split][plan.index]
        path = resolve_inside(self.path, entry["path"])
        shard: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return shard

    def put(self, plan: ShardPlan, features: Mapping[str, NDArray[Any]]) -> None:
        """Write one shard of every layer.

        Parameters
        ----------
        plan: the shard.
        features: layer -> (rows of the shard, n_neurons).

        Raises
        ------
        CriticalMassError: if a value is not finite.
        StoreError: if an array has another shape than the layer.
        """
        for name, layer in self.manifest["layers"].items():
            # The largest float16 is 65504: larger values are noticed after the cast.
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(features[name], layer["dtype"])
            _require_finite(array, name, plan)
            width = int(layer["shape"][0])
            if array.shape != (plan.stop - plan.start, width):
                raise StoreError(
                    f"layer {name!r} gave {array.shape} for rows {plan.start} to {plan.stop}, "
                    f"expected {(plan.stop - plan.start, width)}"
                )
            file = f"{safe_file_name(plan.split)}-{plan.index:05d}.npy"
            path = f"features/{safe_file_name(name)}/{file}"
            digest = write_array(self.path / path, array)
            entries = layer["shards"][plan.split]
            entries[plan.index :] = [{"path": path, "rows": len(array), "sha256": digest}]
        self._save()

    def link(
        self, layer: str, matrix: np.memmap[Any, Any], rows: Mapping[str, NDArray[np.intp]]
    ) -> None:
        """Refer to a file of vectors instead of writing the shards of a layer.

        Parameters
        ----------
        layer: the layer.
        matrix: (n, n_neurons) memory map of the file, float32 or float16.
        rows: split -> its rows, ascending.
        """
        shutil.rmtree(self.path / "features", ignore_errors=True)  # Of an interrupted copy.
        entry = link_entry(self.path, matrix, rows, int(self.manifest["shard_rows"]))
        self.manifest["layers"][layer].update(entry)
        self.manifest["format_version"] = LINKED_VERSION

    def finish(self) -> FeatureStore:
        """Mark the store complete and open it."""
        if next(self.missing(), None) is not None:
            raise StoreError(f"{str(self.path)!r} lacks shards; write them before finish")
        for name, layer in self.manifest["layers"].items():
            if "norm_split" in layer and "norms" not in layer:
                layer["norms"] = self._write_norms(name, layer)
        if not self.manifest["complete"]:
            self.manifest["complete"] = True
            self._save()
        return FeatureStore.open(self.path)

    def _write_norms(self, name: str, layer: Mapping[str, Any]) -> dict[str, str]:
        """Write the L2 norm of each column over a split, (n_neurons,) float64."""
        squares = np.zeros(int(layer["shape"][0]))
        for entry in layer["shards"][layer["norm_split"]]:
            shard = np.load(
                resolve_inside(self.path, entry["path"]), mmap_mode="r", allow_pickle=False
            )
            for start in range(0, len(shard), _CHUNK_ROWS):
                rows = shard[start : start + _CHUNK_ROWS].astype(np.float64)
                squares += np.einsum("ij,ij->j", rows, rows)
        path = f"norms/{safe_file_name(name)}.npy"
        return {"path": path, "sha256": write_array(self.path / path, np.sqrt(squares))}

    def _save(self) -> None:
        write_manifest(self.path, self.manifest)


def attach_prompts(store: FeatureStore, prompts: Prompts) -> FeatureStore:
    """Write prompts into a finished store and open it again; other prompts are replaced.

    The features stay as they are. The measures that read prompts are computed again in a run,
    because their protocol has the digest of the prompts.

    Raises
    ------
    CriticalMassError: the prompts do not fit the layer, or a value is not finite.
    """
    width = store.features(store.splits[0], prompts.layer).shape[1]
    if prompts.vectors.ndim != 2 or prompts.vectors.shape[1] != width:
        raise CriticalMassError(
            f"prompts have shape {prompts.vectors.shape} but layer {prompts.layer!r} has {width} "
            "neurons; encode both with towers of one joint space"
        )
    if not np.isfinite(prompts.vectors).all():
        raise CriticalMassError("the prompts have values that are not finite; encode them again")
    before = store.manifest.get("prompts")
    if before is not None and before["digest"] == prompts.digest:
        return store
    entry = write_prompts(prompts, store.path)
    write_manifest(store.path, {**store.manifest, "prompts": entry})
    for other in store.path.glob(f"{PREFIX}*.npz"):
        if other.name != entry["path"]:
            other.unlink(missing_ok=True)
    return FeatureStore.open(store.path)


def _is_startable(folder: Path) -> bool:
    """Return whether a folder is empty, or has only files written before a first manifest."""
    patterns = (
        "labels/*.npy",
        "ids/*.json",
        "labels/.*.part",
        "ids/.*.part",
        FILE,
        f".{FILE}.*.part",
        CLASSIFIER_FILE,
        f".{CLASSIFIER_FILE}.*.part",
        f".{MANIFEST}.*.part",
    )
    files = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return all(any(path.match(pattern) for pattern in patterns) for path in files)


def recorded_request(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of a manifest: the arguments of :meth:`StoreWriter.begin`."""
    keys = ("model", "dataset", "engine", "versions", "shard_rows")
    request = {key: manifest[key] for key in keys if key in manifest}
    request["layers"] = {
        name: {
            key: value for key, value in entry.items() if key not in ("shards", "norms", "linked")
        }
        for name, entry in manifest["layers"].items()
    }
    return request


def different_request_error(path: Path, differences: Sequence[str]) -> StoreError:
    """Return the error for a folder that holds another request's features."""
    return StoreError(
        f"{str(path)!r} holds another request's features: {'; '.join(differences)}; "
        "name another folder or delete this one"
    )


def safe_file_name(name: str) -> str:
    """Return a file name for a layer or split, whose name may contain any character."""
    if all(letter.isalnum() or letter in "._-" for letter in name) and name.strip("."):
        return name
    return "x" + name.encode().hex()


def _require_finite(array: NDArray[Any], layer: str, plan: ShardPlan) -> None:
    # If the sum is finite, so are all values. If it is not, check each: it may have overflowed.
    if np.isfinite(array.sum(dtype=np.float64)):
        return
    rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if rows.size:
        cure = "use dtype='float32'" if array.dtype == np.float16 else "check this sample"
        raise CriticalMassError(
            f"layer {layer!r} is not finite for {rows.size} samples of split {plan.split!r}, "
            f"first in row {plan.start + int(rows[0])}; {cure}"
        )
