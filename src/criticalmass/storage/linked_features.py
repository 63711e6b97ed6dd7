"""Stores that refer to an existing file of vectors instead of copying it into shards.

The manifest names the file by its path, with its size, the time of its last change and the place
of the matrix in it. An index file lists the rows of each split. The shards have no files, but the
digests that their files would have: linked and copied features have the same digests, and one that
has changed is noticed by them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import write_line
from criticalmass.errors import StoreError
from criticalmass.storage.files import checked_path, resolve_inside, write_array


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


def take_rows_of_shards(
    shards: Sequence[NDArray[Any] | LinkedRows], rows: NDArray[np.intp]
) -> list[NDArray[Any] | LinkedRows]:
    """Return some rows of the shards of a split, without reading them.

    Parameters
    ----------
    shards: each (n_rows, n_neurons).
    rows: row numbers of all shards together, ascending.
    """
    taken: list[NDArray[Any] | LinkedRows] = []
    start = 0
    for shard in shards:
        index = rows[(rows >= start) & (rows < start + len(shard))] - start
        start += len(shard)
        if isinstance(shard, LinkedRows):
            taken.append(LinkedRows(shard.base, shard.index[index]))
        else:
            taken.append(LinkedRows(shard, index))
    return taken


def link_entry(
    folder: Path, matrix: np.memmap[Any, Any], rows: Mapping[str, NDArray[np.intp]], shard_rows: int
) -> dict[str, Any]:
    """Write the index files of a link and return its entries of the layer in the manifest.

    Parameters
    ----------
    folder: folder of the store.
    matrix: (n, n_neurons) memory map of the file, float32 or float16.
    rows: split -> its rows, ascending.
    shard_rows: rows of a shard.
    """
    path = Path(str(matrix.filename)).resolve()
    # Before the values are read: a later change of the file has another time.
    stat = path.stat()
    index, shards = {}, {}
    for split, numbers in rows.items():
        name = f"index/{split}.npy"
        index[split] = {"path": name, "sha256": write_array(folder / name, numbers.astype("i8"))}
        sizes = [len(numbers[at : at + shard_rows]) for at in range(0, len(numbers), shard_rows)]
        digests = _shard_digests(LinkedRows(matrix, numbers), sizes)
        shards[split] = [
            {"rows": size, "sha256": digest} for size, digest in zip(sizes, digests, strict=True)
        ]
    linked = {
        "path": str(path),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "offset": matrix.offset,
        "dtype": matrix.dtype.name,
        "rows": len(matrix),
        "index": index,
    }
    return {"linked": linked, "shards": shards}


def _shard_digests(rows: LinkedRows, sizes: Iterable[int]) -> Iterator[str]:
    """Yield the digests that the files of shards of these sizes would have."""
    for stop, size in zip(accumulate(sizes), sizes, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(rows[stop - size : stop]), allow_pickle=False)
        yield hashlib.sha256(buffer.getbuffer()).hexdigest()


def open_linked(folder: Path, layer: Mapping[str, Any], split: str) -> LinkedRows:
    """Open the rows of a split in a linked file.

    Parameters
    ----------
    folder: folder of the store.
    layer: the layer's entry of the manifest.
    split: name of the split.

    Raises
    ------
    StoreError: if a file is missing or differs from the manifest.
    """
    link, width = layer["linked"], int(layer["shape"][0])
    path = _linked_file(folder, link)
    index_path = checked_path(folder, link["index"][split], verify=False)
    dtype, n, offset = np.dtype(link["dtype"]), int(link["rows"]), int(link["offset"])
    needed = offset + n * width * dtype.itemsize
    if dtype not in (np.dtype("float32"), np.dtype("float16")) or path.stat().st_size < needed:
        raise _changed_error(folder, link)
    index = np.load(index_path, mmap_mode="r", allow_pickle=False)
    n_rows = sum(int(shard["rows"]) for shard in layer["shards"][split])
    is_list = index.shape == (n_rows,) and index.dtype.kind == "i"
    if not is_list or (index.size and not 0 <= int(index.min()) <= int(index.max()) < n):
        raise StoreError(
            f"{str(index_path)!r} is not a list of {n_rows} of the {n} rows of its file; "
            "import it again"
        )
    return LinkedRows(np.memmap(path, dtype, "r", offset, (n, width)), np.asarray(index))


def check_link(folder: Path, layer: Mapping[str, Any], *, verify: bool) -> None:
    """Check that a linked file exists and, if its size or time has changed, its digests.

    Parameters
    ----------
    folder, layer: see ``open_linked``.
    verify: whether to compare digests. If the time is the recorded one, the file is not read.

    Raises
    ------
    StoreError: if the file is missing, or its vectors have changed.
    """
    link = layer["linked"]
    path = _linked_file(folder, link)
    for entry in link["index"].values():
        checked_path(folder, entry, verify=verify)
    stat = path.stat()
    if not verify or (stat.st_size, stat.st_mtime_ns) == (link.get("size"), link.get("mtime_ns")):
        return
    for split, shards in layer["shards"].items():
        rows = open_linked(folder, layer, split)
        digests = _shard_digests(rows, [int(shard["rows"]) for shard in shards])
        if any(shard["sha256"] != digest for shard, digest in zip(shards, digests, strict=True)):
            raise _changed_error(folder, link)
    if "mtime_ns" in link:
        write_line(f"{str(path)!r} has another time than at its import, and the same vectors")


def _linked_file(folder: Path, link: Mapping[str, Any]) -> Path:
    path = Path(link["path"])
    if not path.is_absolute() or not path.is_file():
        raise StoreError(
            f"{str(path)!r} is missing, and {str(folder)!r} has no copy of its vectors (imported "
            f"with --link, link=True); restore it, or delete {str(folder)!r} and import the "
            "vectors again without --link"
        )
    return path


def _changed_error(folder: Path, link: Mapping[str, Any]) -> StoreError:
    return StoreError(
        f"{link['path']!r} has changed since it was imported with --link (link=True): "
        f"{str(folder)!r} has no copy of its vectors; restore it, or delete {str(folder)!r} and "
        "import again (without --link to be independent of the file)"
    )


def from_hard_link(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a manifest of format version 2, whose folder has a hard link to the file."""
    layers = {}
    for name, layer in manifest["layers"].items():
        entries = {split: shards[0] for split, shards in layer["shards"].items()}
        first = next(iter(entries.values()))
        linked = {
            **first["linked"],
            "path": str(resolve_inside(folder, first["path"])),
            "index": {split: entry["index"] for split, entry in entries.items()},
        }
        shards = {}
        for split, entry in entries.items():
            starts = range(0, entry["rows"], manifest["shard_rows"])
            shards[split] = [
                {"rows": min(manifest["shard_rows"], entry["rows"] - at), "sha256": digest}
                for at, digest in zip(starts, entry["as_shards"], strict=True)
            ]
        layers[name] = {**layer, "linked": linked, "shards": shards}
    return {**manifest, "layers": layers}
