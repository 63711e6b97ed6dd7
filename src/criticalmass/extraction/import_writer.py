"""Writing imported vectors: a link where one will do, else shards, read once from first to last."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import Progress, say, track
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.arrays import check_vectors
from criticalmass.extraction.vectors import Source, Vectors
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import (
    SHARD_ROWS,
    ShardPlan,
    SplitInfo,
    StoreWriter,
    differences,
    different_request,
    request_of,
)
from criticalmass.storage.files import MANIFEST, read_manifest
from criticalmass.storage.linked_features import LinkPlan, write_linked


@dataclass(frozen=True)
class Import:
    """What goes into the store.

    Attributes
    ----------
    layer: its only layer.
    given: the vectors.
    labels: part -> (n,) class numbers.
    rows: split -> part, and its rows in it, ascending.
    header: what the manifest says of it.
    copy: whether a link will not do.
    """

    layer: str
    given: Vectors
    labels: Mapping[str, NDArray[np.int64]]
    rows: Mapping[str, tuple[str, NDArray[np.intp]]]
    header: dict[str, Any]
    copy: bool

    def splits(self) -> dict[str, SplitInfo]:
        """List labels and names of each split's samples."""
        return {
            split: SplitInfo(self.labels[part][rows], [f"{part}-{row}" for row in rows.tolist()])
            for split, (part, rows) in self.rows.items()
        }


def write_store(out: Path, wanted: Import) -> FeatureStore:
    """Write the store, or open it if it is there already.

    Raises
    ------
    CriticalMassError: values that are not finite.
    StoreError: ``out`` holds another request's features, or other files.
    """
    there = _there(out, wanted)
    if there is not None:
        return there
    if not wanted.copy and _linked(out, wanted):
        say(f"{wanted.given.name} is linked, not copied")
        return FeatureStore.open(out)
    for part, source in wanted.given.sources.items():
        if source.block is not None:
            _check(source, f"features of {part!r}")
    fresh = not (out / MANIFEST).exists()
    writer = StoreWriter.begin(out, wanted.header, wanted.splits())
    try:
        _stream(writer, wanted)
    except CriticalMassError:
        # The file is the user's to mend, and is another request then: nothing here is of use.
        if fresh:
            shutil.rmtree(out)
        raise
    return writer.finish()


def _there(out: Path, wanted: Import) -> FeatureStore | None:
    """Open the store if it is complete; None if it is to be written.

    Raises
    ------
    StoreError: it is of another request, or was linked and has changed.
    """
    if not (out / MANIFEST).is_file():
        return None
    manifest = read_manifest(out)
    found = differences(request_of(manifest), {**wanted.header, "shard_rows": SHARD_ROWS})
    if found:
        raise different_request(out, found)
    linked = any("linked" in entry for entry in _entries(manifest, wanted.layer))
    if linked and wanted.copy:
        raise different_request(out, ["the vectors are linked there, a copy asked"])
    # Shards that are damaged are written again; a link is as it is.
    return FeatureStore.open(out) if linked else None


def _entries(manifest: Mapping[str, Any], layer: str) -> list[dict[str, Any]]:
    shards = manifest["layers"][layer]["shards"]
    return [entry for entries in shards.values() for entry in entries]


def _linked(out: Path, wanted: Import) -> bool:
    """Write the store around a link, if the vectors allow it; -> whether that was possible."""
    if len(wanted.given.sources) != 1 or (out.exists() and any(out.iterdir())):
        return False
    (source,) = wanted.given.sources.values()
    if source.block is None or not source.block.is_storable:
        return False
    _check(source, f"the vectors in {str(source.block.path)!r}")
    rows = {split: rows for split, (_, rows) in wanted.rows.items()}
    block = source.block
    plan = LinkPlan(block.path, block.offset, block.open(), wanted.layer, rows)
    return write_linked(out, {**wanted.header, "shard_rows": SHARD_ROWS}, plan, wanted.splits())


def _check(source: Source, what: str) -> None:
    """Look for values that are not finite before anything is written."""
    row = 0
    for block in source.chunks():
        # A sum is finite unless some value is not (or the sum overflows, then look at each).
        if not np.isfinite(block.sum(dtype=np.float64)):
            check_vectors(np.asarray(block), f"{what}, rows from {row} on,")
        row += len(block)


def _stream(writer: StoreWriter, wanted: Import) -> None:
    """Read every part once and write the shards as they fill."""
    plans = list(writer.missing())
    total = sum(plan.stop - plan.start for plan in plans)
    with track(f"vectors of {wanted.given.name}", total, "vectors") as bar:
        for part, source in wanted.given.sources.items():
            fillers = [
                _Filler(writer, wanted.layer, rows, [p for p in plans if p.split == split], bar)
                for split, (name, rows) in wanted.rows.items()
                if name == part
            ]
            if any(filler.plans for filler in fillers):
                _read_once(source, fillers, part)


def _read_once(source: Source, fillers: list[_Filler], part: str) -> None:
    row = 0
    for block in source.chunks():
        for filler in fillers:
            filler.take(block, row)
        row += len(block)
    if row != source.shape[0]:
        raise CriticalMassError(
            f"{row} vectors of {part!r} where {source.shape[0]} were said to be; is the file being "
            "written to?"
        )


class _Filler:
    """Gathers one split's rows out of the passing blocks and writes each shard when it is full.

    Attributes
    ----------
    rows: (n,) rows of the split, ascending.
    plans: shards that are still to be written, in order.
    pieces: rows of the next shard, so far.
    """

    def __init__(
        self,
        writer: StoreWriter,
        layer: str,
        rows: NDArray[np.intp],
        plans: list[ShardPlan],
        bar: Progress,
    ) -> None:
        self.writer, self.layer, self.bar = writer, layer, bar
        self.rows, self.plans = rows, plans
        self.pieces: list[NDArray[Any]] = []

    def take(self, block: NDArray[Any], first: int) -> None:
        """Take the split's rows out of a block whose first row is ``first``."""
        start, stop = np.searchsorted(self.rows, [first, first + len(block)]).tolist()
        while self.plans and self.plans[0].start < stop:
            plan = self.plans[0]
            low, high = max(start, plan.start), min(stop, plan.stop)
            if low < high:
                self.pieces.append(block[self.rows[low:high] - first])
            if stop < plan.stop:
                break
            self.writer.put(plan, {self.layer: np.concatenate(self.pieces)})
            self.bar.advance(plan.stop - plan.start)
            self.plans.pop(0)
            self.pieces = []
