"""Write imported vectors to a feature store: copied into shards, or as a link to their file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import Progress, warn_user
from criticalmass.errors import CriticalMassError, DataUnavailableError, StoreError
from criticalmass.extraction.datasets.dataset import SampleCopies, row_digests
from criticalmass.extraction.vectors import Vectors, VectorSource
from criticalmass.extraction.vectors.source import check_finite
from criticalmass.storage import features_writer
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import (
    ShardPlan,
    SplitInfo,
    StoreWriter,
    describe_differences,
    different_request_error,
    recorded_request,
)
from criticalmass.storage.files import MANIFEST, PLAIN_VERSION, STORE, read_manifest
from criticalmass.storage.qrels import Qrels

#: Types that a store keeps as they are.
_STORED_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))


class NotLinkableError(CriticalMassError):
    """A link to vectors was requested that only a copy can hold."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split.

    Attributes
    ----------
    part: the part of the vectors that holds them.
    rows: (n,) row numbers in that part, ascending.
    """

    part: str
    rows: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class CollectionEntry:
    """What makes the splits of a store documents and queries.

    Attributes
    ----------
    ids: part -> the id of every row.
    qrels: by the rows of the splits.
    """

    ids: Mapping[str, Sequence[str]]
    qrels: Qrels


@dataclass(frozen=True)
class ImportPlan:
    """The content of a store of imported vectors.

    Attributes
    ----------
    layer: the only layer of the store.
    vectors: the vectors.
    labels: part -> (n,) class numbers.
    splits: split -> its rows.
    header: the entries of the manifest that describe the import.
    link: whether to refer to the file of the vectors instead of copying them.
    collection: the ids and qrels of a retrieval collection, or None.
    """

    layer: str
    vectors: Vectors
    labels: Mapping[str, NDArray[np.int64]]
    splits: Mapping[str, SplitRows]
    header: dict[str, Any]
    link: bool
    collection: CollectionEntry | None = None

    def request(self) -> dict[str, Any]:
        """Return the header with the shard size, as a finished manifest records them."""
        return {**self.header, "shard_rows": features_writer.StoreWriter.shard_rows}

    def is_compared(self, split: str) -> bool:
        """Return whether shards that exist are compared with the vectors, which have no version."""
        database = self.vectors.sources[self.splits[split].part].database
        return database is not None and database.version is None

    def split_infos(self) -> dict[str, SplitInfo]:
        """Return the labels and ids of each split's samples."""
        return {
            name: SplitInfo(
                self.labels[split.part][split.rows],
                self._ids(split),
            )
            for name, split in self.splits.items()
        }

    def _ids(self, split: SplitRows) -> list[str]:
        if self.collection is None:
            own = self.vectors.sources[split.part].ids
            if own is not None:
                return [str(value) for value in own.take(split.rows).to_pylist()]
            return [f"{split.part}-{row}" for row in split.rows.tolist()]
        ids = self.collection.ids[split.part]
        return [ids[row] for row in split.rows.tolist()]


def write_store(out: Path, plan: ImportPlan) -> FeatureStore:
    """Write the store, or open it if it exists.

    Raises
    ------
    CriticalMassError: values that are not finite; too little free space for a copy.
    StoreError: ``out`` holds another request's features, or other files.
    """
    store = _open_linked_store(out, plan)
    if store is not None:
        return store
    matrix = _storable_matrix(plan.vectors)
    digests = _RowDigests()
    for part, source in plan.vectors.sources.items():
        if source.mapped is not None:
            _check_finite(part, source, digests)
    is_new = not (out / MANIFEST).exists()
    qrels = None if plan.collection is None else plan.collection.qrels
    writer = StoreWriter.begin(out, plan.header, plan.split_infos(), qrels=qrels)
    if plan.link and matrix is not None and not writer.manifest["complete"]:
        rows = {name: split.rows for name, split in plan.splits.items()}
        writer.link(plan.layer, matrix, rows)
    try:
        _check_space(writer, plan, matrix is not None)
        _write_shards(writer, plan, digests)
    except DataUnavailableError:
        # The database was lost, and may be back soon.
        raise
    except CriticalMassError:
        # The user must repair the file, which makes it another request: shards are of no use then.
        if is_new:
            shutil.rmtree(out)
        raise
    if qrels is None:  # A query may be a document.
        digests.warn_of_copies(plan)
    return writer.finish()


def _open_linked_store(out: Path, plan: ImportPlan) -> FeatureStore | None:
    """Open an existing store of a link; None if there is no store or it holds shards.

    Raises
    ------
    StoreError: the store is of another request, or its linked file has changed.
    """
    if not (out / MANIFEST).is_file():
        return None
    manifest = read_manifest(out, STORE)
    if manifest["format_version"] == PLAIN_VERSION:
        return None
    differences = describe_differences(recorded_request(manifest), plan.request())
    if not plan.link:
        differences.append("the vectors are linked there, but a copy is requested")
    if differences:
        raise different_request_error(out, differences)
    return FeatureStore.open(out)


def check_linkable(vectors: Vectors) -> None:
    """Raise an error if a store cannot refer to the file of the vectors.

    Raises
    ------
    NotLinkableError: it cannot.
    """
    if _storable_matrix(vectors) is None:
        raise NotLinkableError(
            f"{vectors.name} cannot be linked: only one row-major float32 or float16 matrix "
            "that its file stores uncompressed can (.npy, .npz, .safetensors, a flat FAISS index); "
            "leave out --link (link=True) to copy it"
        )


def _storable_matrix(vectors: Vectors) -> np.memmap[Any, Any] | None:
    """Return the memory map of the vectors if a store can refer to it."""
    first, *others = [source.mapped for source in vectors.sources.values()]
    return None if others or first is None or not first.is_storable else first.open()


def _check_space(writer: StoreWriter, plan: ImportPlan, can_link: bool) -> None:
    """Raise an error if the missing shards do not fit on the disk."""
    rows = sum(shard.stop - shard.start for shard in writer.missing())
    entry = writer.manifest["layers"][plan.layer]
    needed = rows * int(entry["shape"][0]) * np.dtype(entry["dtype"]).itemsize
    free = shutil.disk_usage(writer.path).free
    if needed > free:
        cure = "free some space or choose another folder"
        if can_link:
            cure = "use --link (link=True) to refer to the file instead, or " + cure
        raise CriticalMassError(
            f"a copy of {plan.vectors.name} takes {needed / 1e9:,.3g} GB, but {str(writer.path)!r} "
            f"has {free / 1e9:,.3g} GB free; {cure}"
        )


class _RowDigests:
    """Digests of the rows of each part, by which test vectors that are training vectors are found.

    Attributes
    ----------
    parts: part -> digest of each row that was read.
    """

    def __init__(self) -> None:
        self.parts: dict[str, list[bytes]] = {}

    def add(self, part: str, row: int, chunk: NDArray[Any]) -> None:
        """Add the rows of a chunk whose first row is row ``row``, unless they were read before."""
        digests = self.parts.setdefault(part, [])
        if row == len(digests):
            digests.extend(row_digests(chunk))

    def add_stored(self, part: str, stop: int, plan: ImportPlan, writer: StoreWriter) -> None:
        """Add the rows before row ``stop``, which are in the shards of a store."""
        stored: list[bytes] = [b""] * stop
        for shard in writer.plans():
            split = plan.splits[shard.split]
            rows = split.rows[shard.start : shard.stop]
            rows = rows[: np.searchsorted(rows, stop)]
            if split.part == part and rows.size:
                digests = row_digests(writer.stored(plan.layer, shard)[: rows.size])
                for row, digest in zip(rows.tolist(), digests, strict=True):
                    stored[row] = digest
        self.parts[part] = stored

    def warn_of_copies(self, plan: ImportPlan) -> None:
        """Warn if a test vector equals a training vector. All rows must have been read."""
        if not {"train", "test"} <= plan.splits.keys():
            return
        train, test = plan.splits["train"], plan.splits["test"]
        if not {train.part, test.part} <= self.parts.keys():
            return
        first: dict[bytes, int] = {}
        for row in train.rows.tolist():
            first.setdefault(self.parts[train.part][row], row)
        rows = [row for row in test.rows.tolist() if self.parts[test.part][row] in first]
        if rows:
            train_row = first[self.parts[test.part][rows[0]]]
            ids = f"{test.part}-{rows[0]}", f"{train.part}-{train_row}"
            copies = SampleCopies(len(rows), *ids)
            warn_user(copies.describe("vectors", len(test.rows), plan.vectors.name))


def _check_finite(part: str, source: VectorSource, digests: _RowDigests) -> None:
    """Check that all values are finite, before anything is written."""
    row = 0
    for chunk in source.chunks():
        check_finite(chunk, source.name, row, source.ids)
        digests.add(part, row, chunk)
        row += len(chunk)


def _write_shards(writer: StoreWriter, plan: ImportPlan, digests: _RowDigests) -> None:
    """Read every part once and write each shard when it is full.

    The rows of a database that cannot say whether they have changed are read from the first one on,
    and compared with the shards that exist.
    """
    shards = [s for s in writer.plans() if not writer.has(s) or plan.is_compared(s.split)]
    if not shards:
        return
    total = sum(shard.stop - shard.start for shard in shards)
    with Progress(f"vectors of {plan.vectors.name}", total, "vectors") as bar:
        for part, source in plan.vectors.sources.items():
            fillers = [
                _ShardFiller(
                    writer, plan.layer, split.rows, [s for s in shards if s.split == name], bar
                )
                for name, split in plan.splits.items()
                if split.part == part
            ]
            if any(filler.shards for filler in fillers):
                first = 0
                if source.chunks_from is not None and source.dtype in _STORED_DTYPES:
                    first = min(int(f.rows[f.shards[0].start]) for f in fillers if f.shards)
                    digests.add_stored(part, first, plan, writer)
                _read_part(part, source, first, fillers, digests)


def _read_part(
    part: str, source: VectorSource, row: int, fillers: list[_ShardFiller], digests: _RowDigests
) -> None:
    """Read a part from a row on."""
    chunks = source.chunks_from(row) if row and source.chunks_from else source.chunks()
    for chunk in chunks:
        check_finite(chunk, source.name, row, source.ids)
        digests.add(part, row, chunk)
        for filler in fillers:
            filler.add(chunk, row)
        row += len(chunk)
    if row != source.shape[0]:
        raise CriticalMassError(
            f"{source.name} has {row} vectors, but {source.shape[0]} were counted; check that no "
            "other program is writing to the file"
        )


class _ShardFiller:
    """Collects the rows of one split from consecutive chunks and writes each full shard.

    Attributes
    ----------
    rows: (n,) rows of the split, ascending.
    shards: shards to write, in order.
    pieces: collected rows of the next shard.
    """

    def __init__(
        self,
        writer: StoreWriter,
        layer: str,
        rows: NDArray[np.intp],
        shards: list[ShardPlan],
        bar: Progress,
    ) -> None:
        self.writer, self.layer, self.bar = writer, layer, bar
        self.rows, self.shards = rows, shards
        self.pieces: list[NDArray[Any]] = []

    def add(self, chunk: NDArray[Any], first: int) -> None:
        """Collect the split's rows of a chunk whose first row is row ``first`` of the part."""
        start, stop = np.searchsorted(self.rows, [first, first + len(chunk)]).tolist()
        while self.shards and self.shards[0].start < stop:
            shard = self.shards[0]
            low, high = max(start, shard.start), min(stop, shard.stop)
            if low < high:
                self.pieces.append(chunk[self.rows[low:high] - first])
            if stop < shard.stop:
                break
            self._write(shard, np.concatenate(self.pieces))
            self.bar.advance(shard.stop - shard.start)
            self.shards.pop(0)
            self.pieces = []

    def _write(self, shard: ShardPlan, rows: NDArray[Any]) -> None:
        """Write a shard, or compare it with the one that exists."""
        if not self.writer.has(shard):
            self.writer.put(shard, {self.layer: rows})
            return
        stored = self.writer.stored(self.layer, shard)
        if not np.array_equal(stored, rows.astype(stored.dtype)):
            raise StoreError(
                f"the vectors of rows {shard.start} to {shard.stop - 1} of split {shard.split!r} "
                f"have changed since they were written to {str(self.writer.path)!r}; name another "
                "folder or delete this one"
            )
