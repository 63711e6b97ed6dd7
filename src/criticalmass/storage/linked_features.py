"""Stores that link an existing file of vectors instead of copying it into shards.

The store's folder contains a hard link to the file. The link takes no space, remains if the
original is deleted, and does not change if the original is replaced by a new file. It changes only
if a program writes into the original file. The digest is checked when the store is opened, so such
a change is noticed. An index file beside the link lists the rows of each split.
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
from criticalmass.storage.digests import file_digest
from criticalmass.storage.files import (
    FORMAT,
    LINKED_VERSION,
    checked_path,
    scratch_path,
    write_array,
    write_json,
    write_manifest,
)


@dataclass(frozen=True)
class LinkedRows:
    """Some rows of a memory-mapped matrix, read on access.

    Attributes
    ----------
    base: (n, n_neurons) memory map of the linked file.
    index: (n_rows,) row numbers, ascending.
    """

    base: NDArray[Any]
    index: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_neurons)."""
        return len(self.index), int(self.base.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: slice | NDArray[Any]) -> NDArray[Any]:
        """Return rows as an aligned copy in memory, (n_rows, n_neurons)."""
        rows = self.index[key]
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
            return np.array(self.base[rows[0] : rows[-1] + 1])
        return np.asarray(self.base[rows])


def open_linked(folder: Path, entry: Mapping[str, Any], width: int) -> LinkedRows:
    """Open the rows of a split in a linked file.

    Parameters
    ----------
    folder: folder of the store.
    entry: entry of the shard in the manifest, with ``linked`` (``offset`` in bytes, ``dtype``,
        ``rows`` of the matrix) and ``index``.
    width: number of neurons.

    Raises
    ------
    StoreError: if a file is missing or differs from the manifest.
    """
    path = checked_path(folder, entry, verify=False)
    index_path = checked_path(folder, entry["index"], verify=False)
    link = entry["linked"]
    dtype, n = np.dtype(link["dtype"]), int(link["rows"])
    offset = int(link["offset"])
    if dtype not in (np.dtype("float32"), np.dtype("float16")) or (
        path.stat().st_size < offset + n * width * dtype.itemsize
    ):
        raise StoreError(
            f"{str(path)!r} does not hold the {n} x {width} {dtype} of its manifest; "
            "import it again"
        )
    index = np.load(index_path, mmap_mode="r", allow_pickle=False)
    if index.shape != (int(entry["rows"]),) or index.dtype.kind != "i":
        raise StoreError(
            f"{str(index_path)!r} is not a list of {entry['rows']} rows; import it again"
        )
    if index.size and not 0 <= int(index.min()) <= int(index.max()) < n:
        raise StoreError(
            f"{str(index_path)!r} lists rows outside the {n} of its file; import it again"
        )
    return LinkedRows(np.memmap(path, dtype, "r", offset, (n, width)), np.asarray(index))


def link_changed_error(folder: Path, entry: Mapping[str, Any]) -> StoreError:
    """Return the error for a linked file that has changed since the import."""
    return StoreError(
        f"{str(folder / str(entry['path']))!r} has changed since it was imported: it is a link to "
        f"{entry['linked']['from']!r}, into which a program has written; delete "
        f"{str(folder)!r} and import again (with copy=True, --copy, to be independent of it)"
    )


def hard_link(original: Path, link: Path) -> bool:
    """Make a hard link; -> whether the file system allows it."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(original.resolve(), link)
    except OSError:
        # Another file system, or one without hard links: the caller copies instead.
        return False
    return True


def shard_digests(rows: LinkedRows, shard_rows: int) -> Iterator[str]:
    """Yield the digests that shards of these rows would have.

    Linked and copied features of equal content thus have equal digests.
    """
    for start in range(0, len(rows), shard_rows):
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(rows[start : start + shard_rows]), allow_pickle=False)
        yield hashlib.sha256(buffer.getbuffer()).hexdigest()


@dataclass(frozen=True)
class LinkPlan:
    """The file that :func:`write_linked` links, and the rows of each split.

    Attributes
    ----------
    original: the file of the vectors.
    offset: bytes before the first value.
    matrix: (n, n_neurons) memory map of the file, float32 or float16.
    layer: the store's only layer.
    rows: split -> its rows, ascending.
    """

    original: Path
    offset: int
    matrix: NDArray[Any]
    layer: str
    rows: Mapping[str, NDArray[np.intp]]

    def manifest_entry(self) -> dict[str, Any]:
        """Return the position of the matrix in the file, for the manifest."""
        return {
            "from": str(self.original.resolve()),
            "offset": self.offset,
            "dtype": self.matrix.dtype.name,
            "rows": len(self.matrix),
        }


def write_linked(
    out: Path, manifest: Mapping[str, Any], plan: LinkPlan, labels: Mapping[str, Any]
) -> bool:
    """Write a store with a linked file, atomically.

    Parameters
    ----------
    out: the folder; must not exist, or be empty.
    manifest: the manifest without format, splits and shards.
    plan: the file to link.
    labels: split -> ``labels`` (n,) and ``ids``, as in ``SplitInfo``.

    Returns
    -------
    Whether the store was written; False if the file cannot be linked.
    """
    scratch = scratch_path(out)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        link = f"linked/{plan.original.name}"
        if not hard_link(plan.original, scratch / link):
            return False
        digest = file_digest(scratch / link)
        shards = {}
        for split, rows in plan.rows.items():
            linked = LinkedRows(plan.matrix, rows)
            index = f"index/{split}.npy"
            index_digest = write_array(scratch / index, rows.astype(np.int64))
            shards[split] = [
                {
                    "path": link,
                    "rows": len(rows),
                    "sha256": digest,
                    "linked": plan.manifest_entry(),
                    "index": {"path": index, "sha256": index_digest},
                    "as_shards": list(shard_digests(linked, int(manifest["shard_rows"]))),
                }
            ]
        content = {
            **manifest,
            "format": FORMAT,
            "format_version": LINKED_VERSION,
            "complete": True,
            "splits": {
                split: _write_split_files(scratch, split, info) for split, info in labels.items()
            },
            "layers": {plan.layer: {**manifest["layers"][plan.layer], "shards": shards}},
        }
        write_manifest(scratch, content)
        if out.is_dir():
            out.rmdir()  # An empty folder; os.replace needs a free path.
        os.replace(scratch, out)
        return True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_split_files(folder: Path, split: str, info: Any) -> dict[str, Any]:
    labels, ids = f"labels/{split}.npy", f"ids/{split}.json"
    return {
        "n_samples": len(info.labels),
        "labels": {"path": labels, "sha256": write_array(folder / labels, info.labels)},
        "ids": {"path": ids, "sha256": write_json(folder / ids, list(info.ids))},
    }
