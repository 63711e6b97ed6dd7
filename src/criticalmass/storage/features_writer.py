"""The one writer of feature stores: shard by shard, so that an interrupted work continues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import notice
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import (
    FORMAT,
    MANIFEST,
    PLAIN_VERSION,
    file_digest,
    inside,
    read_manifest,
    write_array,
    write_json,
    write_manifest,
)

SHARD_ROWS = 8192
_ROWS = 1024


@dataclass(frozen=True)
class SplitInfo:
    """What stands beside the features of one split.

    Attributes
    ----------
    labels: (n_samples,) class numbers.
    ids: the name of each sample.
    """

    labels: NDArray[np.int64]
    ids: Sequence[str]


@dataclass(frozen=True)
class ShardPlan:
    """Rows ``start`` to ``stop`` (exclusive) of a split, the shard with number ``index``."""

    split: str
    index: int
    start: int
    stop: int


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Sequence[str] = ()
) -> list[str]:
    """Word what differs between two requests (nested mappings), one phrase per entry.

    Parameters
    ----------
    old, new: JSON-able mappings.
    ignore: dotted names that may differ.
    """
    found: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        below = [name.partition(".")[2] for name in ignore if name.startswith(f"{key}.")]
        before, after = old.get(key), new.get(key)
        if key in ignore or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [f"{key} {text}" for text in differences(before, after, below)]
        else:
            found.append(f"{key} is {_short(before)} there, {_short(after)} asked")
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"


class StoreWriter:
    """Writes one feature store; made by :meth:`begin`.

    Attributes
    ----------
    path: the folder.
    manifest: what ``manifest.json`` holds; rewritten after each shard.
    """

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
    ) -> StoreWriter:
        """Start a store, or take up an interrupted one of the same request.

        Parameters
        ----------
        out: the folder; made if it is missing.
        header: ``model``, ``dataset``, ``layers`` (name -> ``dtype``, ``shape`` of one row, and
            what else is known of it), ``engine`` and ``versions``; all must be equal to continue.
        splits: labels and sample names.
        shard_rows: rows a shard; ``SHARD_ROWS`` if None.

        Raises
        ------
        StoreError: the folder holds another request (it is named what differs), or other files.
        """
        path = Path(out)
        shard_rows = shard_rows or SHARD_ROWS
        if (path / MANIFEST).is_file():
            manifest = read_manifest(path)
            wanted = {**header, "shard_rows": shard_rows}
            found = differences(request_of(manifest), wanted)
            if found:
                raise different_request(path, found)
            writer = cls(path, manifest)
            writer._forget_damaged(splits)
            return writer
        if path.exists() and not (path.is_dir() and _is_free(path)):
            raise StoreError(f"{str(path)!r} exists and is no feature store; name another folder")
        manifest = {
            "format": FORMAT,
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
        writer._save()
        return writer

    def _write_split(self, split: str, info: SplitInfo) -> None:
        labels, ids = f"labels/{_plain(split)}.npy", f"ids/{_plain(split)}.json"
        self.manifest["splits"][split] = {
            "n_samples": len(info.labels),
            "labels": {
                "path": labels,
                "sha256": write_array(self.path / labels, info.labels.astype(np.int64)),
            },
            "ids": {"path": ids, "sha256": write_json(self.path / ids, list(info.ids))},
        }

    def _forget_damaged(self, splits: Mapping[str, SplitInfo]) -> None:
        """Drop every file that is gone or changed from the manifest, to be made again."""
        for name, info in splits.items():
            entry = self.manifest["splits"][name]
            if not (self._is_whole(entry["labels"]) and self._is_whole(entry["ids"])):
                self._write_split(name, info)
        for layer in self.manifest["layers"].values():
            if "norms" in layer and not self._is_whole(layer["norms"]):
                self.manifest["complete"] = False
                del layer["norms"]
            for entries in layer["shards"].values():
                whole = [self._is_whole(entry) for entry in entries]
                if not all(whole):
                    self.manifest["complete"] = False
                    del entries[whole.index(False) :]
        self._save()

    def _is_whole(self, entry: Mapping[str, Any]) -> bool:
        path = inside(self.path, entry["path"])
        if path.is_file() and file_digest(path) == entry["sha256"]:
            return True
        notice(f"{str(path)!r} is missing or damaged and is made again")
        return False

    def missing(self) -> Iterator[ShardPlan]:
        """Yield the shards that are still to be written, in order."""
        rows = int(self.manifest["shard_rows"])
        for split, info in self.manifest["splits"].items():
            done = min(len(layer["shards"][split]) for layer in self.manifest["layers"].values())
            starts = range(0, max(1, int(info["n_samples"])), rows)
            for index in range(done, len(starts)):
                start = starts[index]
                yield ShardPlan(split, index, start, min(start + rows, int(info["n_samples"])))

    def put(self, plan: ShardPlan, features: Mapping[str, NDArray[Any]]) -> None:
        """Write one shard of every layer, each array (plan's rows, n_neurons).

        Raises
        ------
        StoreError: a value that is not finite, or a shape other than the earlier shards'.
        """
        for name, layer in self.manifest["layers"].items():
            # float16 ends at 65504: look for values that left it only after the cast.
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(features[name], layer["dtype"])
            _require_finite(array, name, plan)
            width = int(layer["shape"][0])
            if array.shape != (plan.stop - plan.start, width):
                raise StoreError(
                    f"layer {name!r} gave {array.shape} for rows {plan.start} to {plan.stop}, "
                    f"expected {(plan.stop - plan.start, width)}"
                )
            path = f"features/{_plain(name)}/{_plain(plan.split)}-{plan.index:05d}.npy"
            digest = write_array(self.path / path, array)
            entries = layer["shards"][plan.split]
            entries[plan.index :] = [{"path": path, "rows": len(array), "sha256": digest}]
        self._save()

    def finish(self) -> FeatureStore:
        """Mark the store complete and open it."""
        if next(self.missing(), None) is not None:
            raise StoreError(f"{str(self.path)!r} still lacks shards; put them before finish")
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
            shard = np.load(inside(self.path, entry["path"]), mmap_mode="r", allow_pickle=False)
            for start in range(0, len(shard), _ROWS):
                rows = shard[start : start + _ROWS].astype(np.float64)
                squares += np.einsum("ij,ij->j", rows, rows)
        path = f"norms/{_plain(name)}.npy"
        return {"path": path, "sha256": write_array(self.path / path, np.sqrt(squares))}

    def _save(self) -> None:
        write_manifest(self.path, self.manifest)


def _is_free(folder: Path) -> bool:
    """Whether a folder is empty, or holds only what a writer killed before its manifest left."""
    known = ("labels/*.npy", "ids/*.json", "labels/.*.part", "ids/.*.part", f".{MANIFEST}.*.part")
    files = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return all(any(path.match(pattern) for pattern in known) for path in files)


def request_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a manifest what :meth:`StoreWriter.begin` was asked for."""
    kept = ("model", "dataset", "engine", "versions", "shard_rows")
    request = {key: manifest[key] for key in kept if key in manifest}
    request["layers"] = {
        name: {key: value for key, value in entry.items() if key not in ("shards", "norms")}
        for name, entry in manifest["layers"].items()
    }
    return request


def different_request(path: Path, found: Sequence[str]) -> StoreError:
    """Word the error for a folder that holds another request's features."""
    return StoreError(
        f"{str(path)!r} holds another request's features: {'; '.join(found)}; "
        "name another folder or delete this one"
    )


def _plain(name: str) -> str:
    """Make a name fit for a file: a layer's name may hold any character."""
    if all(letter.isalnum() or letter in "._-" for letter in name) and name.strip("."):
        return name
    return "x" + name.encode().hex()


def _require_finite(array: NDArray[Any], layer: str, plan: ShardPlan) -> None:
    # A sum is finite unless some value is not (or the sum overflows, then look at each).
    if np.isfinite(array.sum(dtype=np.float64)):
        return
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise CriticalMassError(
            f"layer {layer!r} is not finite for {bad.size} samples of split {plan.split!r}, "
            f"first in row {plan.start + int(bad[0])}"
        )
