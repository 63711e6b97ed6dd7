"""The nouns of this room: a split, a dataset, and the digest of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.images import EncodedImages, header_fault

"""The class names of data without labels: one class, of which every label is 0."""

Modality = Literal["image", "text", "vector"]


@runtime_checkable
class Digestible(Protocol):
    """Items that know how to feed a digest without being decoded (files on disk)."""

    def content(self) -> Iterable[bytes]:
        """Yield the bytes that the digest covers."""
        ...


@dataclass(frozen=True)
class Split:
    """The samples of one split.

    Attributes
    ----------
    items: PIL images, a (n, height, width[, 3]) uint8 array, texts, or a (n, d) float array.
    labels: (n,) int64 class numbers in 0..C-1.
    ids: the name of each sample.
    """

    items: Sequence[Any] | NDArray[Any]
    labels: NDArray[np.int64]
    ids: Sequence[str]

    def __post_init__(self) -> None:
        """Check that items, labels and names are equally many."""
        counts = {len(self.items), len(self.labels), len(self.ids)}
        if len(counts) != 1:
            raise CriticalMassError(
                f"a split has {len(self.items)} items, {len(self.labels)} labels and "
                f"{len(self.ids)} ids; they must be equally many"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Fault:
    """A broken image.

    Attributes
    ----------
    split, place: where it is.
    id: its sample's.
    name: its file, or the column and row.
    reason: what is wrong with it.
    """

    split: str
    place: int
    id: str
    name: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset.

    Attributes
    ----------
    spec: what it was asked for with, e.g. ``"demo:fashion-mnist"``.
    name: short name for tables.
    modality: ``"image"``, ``"text"`` or ``"vector"``.
    splits: name -> samples; ``train`` and ``test``, and ``val`` where the source has that too.
    class_names: the name of each class; ``UNLABELLED`` where there are no labels.
    digest: SHA-256 over items, labels and class names.
    notes: what was done to the source (split seed, cap, images left out), JSON-able.
    faults: broken images, as far as they were noticed in computing the digest.
    """

    spec: str
    name: str
    modality: Modality
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    digest: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the labels and fill in the digest."""
        for name, split in self.splits.items():
            if not len(split):
                raise CriticalMassError(f"split {name!r} of {self.spec!r} has no samples")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise CriticalMassError(
                    f"split {name!r} of {self.spec!r} has labels from {low} to {high}, "
                    f"but there are {len(self.class_names)} classes"
                )
        if not self.digest:
            digest, faults = _digest(self)
            object.__setattr__(self, "digest", digest)
            object.__setattr__(self, "faults", faults)


def _digest(dataset: Dataset) -> tuple[str, tuple[Fault, ...]]:
    """Digest all content; broken images are noticed on the way, while their bytes are at hand."""
    faults: list[Fault] = []
    digest = hashlib.sha256(dataset.modality.encode())
    for text in dataset.class_names:
        digest.update(b"\0class" + text.encode())
    for name, split in dataset.splits.items():
        digest.update(b"\0split" + name.encode())
        digest.update(np.ascontiguousarray(split.labels, dtype=np.int64).tobytes())
        for place, content in enumerate(_contents(split.items)):
            digest.update(hashlib.sha256(content).digest())
            if isinstance(split.items, EncodedImages):
                reason = header_fault(content)
                if reason is not None:
                    where = split.items.name(place)
                    faults.append(Fault(name, place, split.ids[place], where, reason))
    return digest.hexdigest(), tuple(faults)


def _contents(items: Sequence[Any] | NDArray[Any]) -> Iterable[bytes]:
    if isinstance(items, Digestible):
        yield from items.content()
    elif isinstance(items, np.ndarray):
        yield f"{items.dtype.str}{items.shape}".encode()
        yield np.ascontiguousarray(items).tobytes()
    else:
        for item in items:
            if isinstance(item, str):
                yield item.encode()
            else:
                array = np.asarray(item)
                yield f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
