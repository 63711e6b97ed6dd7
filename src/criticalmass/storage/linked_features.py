"""Shards that are not copies: a file of vectors that was there already, linked into a store.

The file becomes a hard link in the store's folder. It takes no space, outlives the deletion of
the original, and is not touched when the original is replaced by a new file. Only if someone
writes into the original itself does the link change with it; its digest is compared whenever the
store is opened, so that is found out. Which rows are a split's stands in an index beside it.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import StoreError
from criticalmass.storage.files import (
    FORMAT,
    LINKED_VERSION,
    checked,
    file_digest,
    scratch_beside,
    write_array,
    write_json,
    write_manifest,
)


@dataclass(frozen=True)
class LinkedRows:
    """Some rows of a memory-mapped matrix, read when they are asked for.

    Attributes
    ----------
    base: (n, n_neurons) memory-map of the linked file.
    index: (rows,) which of its rows, ascending.
    """

    base: NDArray[Any]
    index: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, n_neurons)."""
        return len(self.index), int(self.base.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: slice | NDArray[Any]) -> NDArray[Any]:
        """Read rows; -> a copy in memory, (rows, n_neurons), aligned whatever the file's layout."""
        rows = self.index[key]
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
            return np.array(self.base[rows[0] : rows[-1] + 1])
        return np.asarray(self.base[rows])


def open_linked(folder: Path, entry: Mapping[str, Any], width: int) -> LinkedRows:
    """Open the rows of a split in a linked file.

    Parameters
    ----------
    folder: of the store.
    entry: the shard's, with ``linked`` (``offset`` in bytes, ``dtype``, ``rows`` of the matrix)
        and ``index``.
    width: number of neurons.

    Raises
    ------
    StoreError: a file is missing or does not hold what the manifest says.
    """
    path = checked(folder, entry, verify=False)
    index_path = checked(folder, entry["index"], verify=False)
    link = entry["linked"]
    dtype, n = np.dtype(link["dtype"]), int(link["rows"])
    offset = int(link["offset"])
    if dtype not in (np.dtype("float32"), np.dtype("float16")) or (
        path.stat().st_size < offset + n * width * dtype.itemsize
    ):
        raise StoreError(
            f"{str(path)!r} does not hold {n} x {width} {dtype}, as its manifest says; "
            "import it again"
        )
    index = np.load(index_path, mmap_mode="r", allow_pickle=False)
    if index.shape != (int(entry["rows"]),) or index.dtype.kind != "i":
        raise StoreError(f"{str(index_path)!r} is no list of {entry['rows']} rows; import it again")
    if index.size and not 0 <= int(index.min()) <= int(index.max()) < n:
        raise StoreError(f"{str(index_path)!r} names rows that are not there; import it again")
    return LinkedRows(np.memmap(path, dtype, "r", offset, (n, width)), np.asarray(index))


def changed(folder: Path, entry: Mapping[str, Any]) -> StoreError:
    """Word the error for a linked file that is no longer what was imported."""
    return StoreError(
        f"{str(folder / str(entry['path']))!r} has changed since it was imported: it is a link to "
        f"{entry['linked']['from']!r}, into which something was written; delete "
        f"{str(folder)!r} and import again (with copy=True, --copy, to be independent of it)"
    )


def hard_link(original: Path, link: Path) -> bool:
    """Link a file; -> whether the file system can do that here."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(original.resolve(), link)
    except OSError:
        # Another file system, or one without links: the caller copies instead.
        return False
    return True


def shard_digests(rows: LinkedRows, shard_rows: int) -> Iterator[str]:
    """Digest rows as the shards of a copy would be: equal features have equal digests."""
    for start in range(0, len(rows), shard_rows):
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(rows[start : start + shard_rows]), allow_pickle=False)
        yield hashlib.sha256(buffer.getbuffer()).hexdigest()


@dataclass(frozen=True)
class LinkPlan:
    """What :func:`write_linked` is to write.

    Attributes
    ----------
    original: the file of the vectors.
    offset: bytes before the first value.
    matrix: (n, n_neurons) memory-map of it, float32 or float16.
    layer: the store's only layer.
    rows: split -> its rows, ascending.
    """

    original: Path
    offset: int
    matrix: NDArray[Any]
    layer: str
    rows: Mapping[str, NDArray[np.intp]]

    def place(self) -> dict[str, Any]:
        """Say where the matrix lies, for the manifest."""
        return {
            "from": str(self.original.resolve()),
            "offset": self.offset,
            "dtype": self.matrix.dtype.name,
            "rows": len(self.matrix),
        }


def write_linked(
    out: Path, manifest: Mapping[str, Any], plan: LinkPlan, labels: Mapping[str, Any]
) -> bool:
    """Write a store around a linked file; it appears whole or not at all.

    Parameters
    ----------
    out: the folder, which must not be there yet.
    manifest: all but the format, the splits and the shards.
    plan: what to link.
    labels: split -> ``labels`` (n,) and ``ids``, as ``SplitInfo`` has them.

    Returns
    -------
    Whether there is a store now; False if the file cannot be linked to.
    """
    work = scratch_beside(out)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        name = f"linked/{plan.original.name}"
        if not hard_link(plan.original, work / name):
            return False
        whole = {
            **manifest,
            "format": FORMAT,
            "format_version": LINKED_VERSION,
            "complete": True,
            "splits": {split: _beside(work, split, info) for split, info in labels.items()},
            "layers": {plan.layer: {**manifest["layers"][plan.layer], "shards": {}}},
        }
        digest = file_digest(work / name)
        for split, rows in plan.rows.items():
            entry = {"path": name, "rows": len(rows), "sha256": digest, "linked": plan.place()}
            index = f"index/{split}.npy"
            entry["index"] = {
                "path": index,
                "sha256": write_array(work / index, rows.astype(np.int64)),
            }
            there = LinkedRows(plan.matrix, rows)
            entry["as_shards"] = list(shard_digests(there, int(manifest["shard_rows"])))
            whole["layers"][plan.layer]["shards"][split] = [entry]
        write_manifest(work, whole)
        if out.is_dir():
            out.rmdir()  # an empty folder that was made for the store
        os.replace(work, out)
        return True
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _beside(work: Path, split: str, info: Any) -> dict[str, Any]:
    labels, ids = f"labels/{split}.npy", f"ids/{split}.json"
    return {
        "n_samples": len(info.labels),
        "labels": {"path": labels, "sha256": write_array(work / labels, info.labels)},
        "ids": {"path": ids, "sha256": write_json(work / ids, list(info.ids))},
    }
