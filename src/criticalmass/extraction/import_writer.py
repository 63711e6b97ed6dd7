"""Write imported vectors to a feature store: as a link to their file, or copied into shards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import Progress, write_line
from criticalmass.errors import CriticalMassError
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
from criticalmass.storage.files import MANIFEST, read_manifest
from criticalmass.storage.linked_features import LinkPlan, write_linked


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
    copy: whether to copy the vectors even if their file can be linked.
    """

    layer: str
    vectors: Vectors
    labels: Mapping[str, NDArray[np.int64]]
    splits: Mapping[str, SplitRows]
    header: dict[str, Any]
    copy: bool

    def request(self) -> dict[str, Any]:
        """Return the header with the shard size, as a finished manifest records them."""
        return {**self.header, "shard_rows": features_writer.StoreWriter.shard_rows}

    def split_infos(self) -> dict[str, SplitInfo]:
        """Return the labels and ids of each split's samples."""
        return {
            name: SplitInfo(
                self.labels[split.part][split.rows],
                [f"{split.part}-{row}" for row in split.rows.tolist()],
            )
            for name, split in self.splits.items()
        }


def write_store(out: Path, plan: ImportPlan) -> FeatureStore:
    """Write the store, or open it if it exists.

    Raises
    ------
    CriticalMassError: values that are not finite.
    StoreError: ``out`` holds another request's features, or other files.
    """
    store = _open_linked_store(out, plan)
    if store is not None:
        return store
    if not plan.copy and _write_link(out, plan):
        write_line(f"{plan.vectors.name} is linked, not copied")
        return FeatureStore.open(out)
    for source in plan.vectors.sources.values():
        if source.mapped is not None:
            _check_finite(source)
    is_new = not (out / MANIFEST).exists()
    writer = StoreWriter.begin(out, plan.header, plan.split_infos())
    try:
        _write_shards(writer, plan)
    except CriticalMassError:
        # The user must repair the file, which makes it another request: shards are of no use then.
        if is_new:
            shutil.rmtree(out)
        raise
    return writer.finish()


def _open_linked_store(out: Path, plan: ImportPlan) -> FeatureStore | None:
    """Open an existing store of a link; None if there is no store or it holds shards.

    Raises
    ------
    StoreError: the store is of another request, or its linked file has changed.
    """
    if not (out / MANIFEST).is_file():
        return None
    manifest = read_manifest(out)
    differences = describe_differences(recorded_request(manifest), plan.request())
    if differences:
        raise different_request_error(out, differences)
    shards = manifest["layers"][plan.layer]["shards"]
    is_linked = any("linked" in entry for entries in shards.values() for entry in entries)
    if is_linked and plan.copy:
        raise different_request_error(
            out, ["the vectors are linked there, but a copy is requested"]
        )
    # Damaged shards are written again; a link has no shards to write.
    return FeatureStore.open(out) if is_linked else None


def _write_link(out: Path, plan: ImportPlan) -> bool:
    """Write a store that links the file of the vectors; return False if that is not possible."""
    if len(plan.vectors.sources) != 1 or (out.exists() and any(out.iterdir())):
        return False
    (source,) = plan.vectors.sources.values()
    matrix = source.mapped
    if matrix is None or not matrix.is_storable:
        return False
    _check_finite(source)
    rows = {name: split.rows for name, split in plan.splits.items()}
    link = LinkPlan(matrix.path, matrix.offset, matrix.open(), plan.layer, rows)
    return write_linked(out, plan.request(), link, plan.split_infos())


def _check_finite(source: VectorSource) -> None:
    """Check that all values are finite, before anything is written."""
    row = 0
    for chunk in source.chunks():
        check_finite(chunk, source.name, row)
        row += len(chunk)


def _write_shards(writer: StoreWriter, plan: ImportPlan) -> None:
    """Read every part once and write each shard when it is full."""
    shards = list(writer.missing())
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
                _read_part(source, fillers)


def _read_part(source: VectorSource, fillers: list[_ShardFiller]) -> None:
    row = 0
    for chunk in source.chunks():
        check_finite(chunk, source.name, row)
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
            self.writer.put(shard, {self.layer: np.concatenate(self.pieces)})
            self.bar.advance(shard.stop - shard.start)
            self.shards.pop(0)
            self.pieces = []
