"""Data classes of this package: a split, a dataset, and the digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.images import EncodedImages, read_header

Modality = Literal["image", "text", "vector"]
FRAMES_NOTE = "first_frame_of"
"""The note with the number of images of which only the first frame or page is used."""


@runtime_checkable
class Digestible(Protocol):
    """A sequence of items that yields the bytes to digest, e.g. of files, without decoding."""

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
        """Check that the numbers of items, labels and ids are equal."""
        counts = {len(self.items), len(self.labels), len(self.ids)}
        if len(counts) != 1:
            raise CriticalMassError(
                f"a split has {len(self.items)} items, {len(self.labels)} labels and "
                f"{len(self.ids)} ids; they must be equally many"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageFault:
    """An image that cannot be decoded.

    Attributes
    ----------
    split, index: its split and its position there.
    id: the id of its sample.
    name: its file, or its column and row.
    reason: why it cannot be decoded.
    """

    split: str
    index: int
    id: str
    name: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset.

    Attributes
    ----------
    spec: the spec that named it, e.g. ``"demo:fashion-mnist"``.
    name: short name for tables.
    modality: ``"image"``, ``"text"`` or ``"vector"``.
    splits: name -> samples; ``train`` and ``test``, and ``val`` if the source has one too.
    class_names: the name of each class; ``UNLABELLED`` without labels.
    digest: SHA-256 over items, labels and class names.
    notes: how the source was processed (split seed, sample, images left out), JSON-able.
    faults: images with a broken header, found while the digest was computed.
    """

    spec: str
    name: str
    modality: Modality
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    digest: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[ImageFault, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the labels; compute the digest, and what is noted of the images, if it is empty."""
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
            inspection = _inspect(self)
            object.__setattr__(self, "digest", inspection.digest)
            object.__setattr__(self, "faults", inspection.faults)
            notes = {key: value for key, value in self.notes.items() if key != FRAMES_NOTE}
            if inspection.n_with_frames:
                notes[FRAMES_NOTE] = inspection.n_with_frames
            object.__setattr__(self, "notes", notes)


@dataclass(frozen=True)
class _Inspection:
    """What one pass over all content of a dataset finds.

    Attributes
    ----------
    digest: SHA-256 over items, labels and class names.
    faults: images with a broken header.
    n_with_frames: images with several frames or pages.
    """

    digest: str
    faults: tuple[ImageFault, ...]
    n_with_frames: int


def _inspect(dataset: Dataset) -> _Inspection:
    """Digest all content, and check the header of each encoded image in the same pass."""
    faults: list[ImageFault] = []
    n_with_frames = 0
    digest = hashlib.sha256(dataset.modality.encode())
    for class_name in dataset.class_names:
        digest.update(b"\0class" + class_name.encode())
    for name, split in dataset.splits.items():
        digest.update(b"\0split" + name.encode())
        digest.update(np.ascontiguousarray(split.labels, dtype=np.int64).tobytes())
        for index, content in enumerate(_contents(split.items)):
            digest.update(hashlib.sha256(content).digest())
            if isinstance(split.items, EncodedImages):
                header = read_header(content)
                n_with_frames += header.has_frames
                if header.fault is not None:
                    image_name, sample_id = split.items.name(index), split.ids[index]
                    faults.append(ImageFault(name, index, sample_id, image_name, header.fault))
    return _Inspection(digest.hexdigest(), tuple(faults), n_with_frames)


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
