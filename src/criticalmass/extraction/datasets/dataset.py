"""Data classes of this package: a split, a dataset, and the digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.notebook import Card, Shown
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.encoded import EncodedSamples, SampleHeader
from criticalmass.storage.class_counts import ClassProblem, describe_classes
from criticalmass.storage.qrels import Qrels
from criticalmass.storage.task_stores import Labelling

Modality = Literal["image", "text", "audio", "vector", "tensor"]
FRAMES_NOTE = "first_frame_of"
"""The note with the number of images of which only the first frame or page is used."""
CLASSES_NOTE = "classes"
"""The note with one sentence for each lack of samples of the classes."""
UNITS: Mapping[Modality, str] = {
    "image": "images",
    "text": "texts",
    "audio": "sounds",
    "vector": "vectors",
    "tensor": "tensors",
}
"""Plural names of the samples."""


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
    items: PIL images, a (n, height, width[, 3]) uint8 array, texts, a (n, d) float array, or
        inputs of a network, `StoredTensors`.
    labels: (n,) int64 class numbers in 0..C-1.
    ids: the name of each sample.
    tasks: for several labels of a sample: name of the label -> (n,) class numbers, -1 where it is
        missing; ``labels`` are then all 0.
    """

    items: Sequence[Any] | NDArray[Any]
    labels: NDArray[np.int64]
    ids: Sequence[str]
    tasks: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def strata(self) -> NDArray[np.int64]:
        """(n,) numbers of the groups that splits and samples keep the shares of.

        They are the classes; of several labels, the classes of the first one.
        """
        first = next(iter(self.tasks.values()), None)
        return self.labels if first is None else first + 1

    def __post_init__(self) -> None:
        """Check that the numbers of items, labels and ids are equal."""
        counts = {len(self.items), len(self.labels), len(self.ids), *map(len, self.tasks.values())}
        if len(counts) != 1:
            raise CriticalMassError(
                f"a split has {len(self.items)} items, {len(self.labels)} labels and "
                f"{len(self.ids)} ids; they must be equally many"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SampleFault:
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
class SampleCopies:
    """Test samples that are training samples too.

    Attributes
    ----------
    count: number of these test samples.
    test_id, train_id: ids of the first one and of its first copy.
    """

    count: int
    test_id: str
    train_id: str

    def describe(self, unit: str, n_test: int, source: str) -> str:
        """Return the warning.

        Parameters
        ----------
        unit: plural name of the samples, e.g. ``"images"``.
        n_test: number of all test samples.
        source: what holds them.
        """
        return (
            f"{self.count:,} of {n_test:,} test {unit} of {source} are also training {unit} "
            f"(equal bytes), first {self.test_id!r} and {self.train_id!r}: scores on them are too "
            "high; remove the copies"
        )


@dataclass(frozen=True, repr=False)
class Dataset(Shown):
    """A labelled dataset.

    Attributes
    ----------
    spec: the spec that named it, e.g. ``"demo:fashion-mnist"``.
    name: short name for tables.
    modality: ``"image"``, ``"text"``, ``"audio"``, ``"vector"`` or ``"tensor"``.
    splits: name -> samples; ``train`` and ``test``, and ``val`` if the source has one too.
    class_names: the name of each class; ``UNLABELLED`` without labels.
    digest: SHA-256 over items, labels, class names and qrels.
    notes: how the source was processed (split seed, sample, images left out), and what is off
        with its classes and samples, JSON-able.
    task_classes: for several labels of a sample: name of the label -> the name of each class.
    qrels: relevant documents of a retrieval collection, whose documents are the split ``train``
        and whose queries are ``test``; None for other datasets.
    faults: images with a broken header, found while the digest was computed.
    copies: test samples that are training samples too, found while the digest was computed;
        None without any, and for arrays of images.
    """

    spec: str
    name: str
    modality: Modality
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    digest: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    qrels: Qrels | None = None
    task_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    faults: tuple[SampleFault, ...] = field(default=(), init=False, repr=False, compare=False)
    copies: SampleCopies | None = field(default=None, init=False, repr=False, compare=False)

    def _card(self) -> Card:
        counts = [f"{len(split):,} {name}" for name, split in self.splits.items()]
        tasks = [f"{len(classes):,} of {name}" for name, classes in self.task_classes.items()]
        facts = {
            UNITS[self.modality]: ", ".join(counts),
            "classes": ", ".join(tasks) or f"{len(self.class_names):,}",
            "digest": self.digest[:12],
        }
        return Card(f"Dataset {self.name} ({self.spec})", facts)

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
        notes = {key: value for key, value in self.notes.items() if key != CLASSES_NOTE}
        if not self.digest:
            inspection = _inspect(self)
            object.__setattr__(self, "digest", inspection.digest)
            object.__setattr__(self, "faults", inspection.faults)
            object.__setattr__(self, "copies", inspection.copies)
            counts = {
                FRAMES_NOTE: inspection.n_with_frames,
                f"test_{UNITS[self.modality]}_in_train": getattr(inspection.copies, "count", 0),
            }
            notes = {key: value for key, value in notes.items() if key not in counts}
            notes |= {key: count for key, count in counts.items() if count}
        problems = self.class_problems()
        if problems:
            notes[CLASSES_NOTE] = [problem.text for problem in problems]
        object.__setattr__(self, "notes", notes)

    def labellings(self) -> list[Labelling]:
        """Return the labels of each task; empty for a dataset with one label or none."""
        return [
            Labelling(name, classes, {key: s.tasks[name] for key, s in self.splits.items()})
            for name, classes in self.task_classes.items()
        ]

    def class_problems(self) -> list[ClassProblem]:
        """Return what is off with the samples of the classes; see `describe_classes`."""
        labels = {name: split.labels for name, split in self.splits.items()}
        is_split = {"train", "test"} <= labels.keys()
        return describe_classes(labels, self.class_names) if is_split else []


@dataclass(frozen=True)
class _Inspection:
    """What one pass over all content of a dataset finds.

    Attributes
    ----------
    digest: SHA-256 over items, labels and class names.
    faults: images with a broken header.
    n_with_frames: images with several frames or pages.
    copies: test samples that are training samples too.
    """

    digest: str
    faults: tuple[SampleFault, ...]
    n_with_frames: int
    copies: SampleCopies | None


def _inspect(dataset: Dataset) -> _Inspection:
    """Digest all content; check each encoded image's header and find copies in the same pass."""
    faults: list[SampleFault] = []
    n_with_frames = 0
    sample_digests: dict[str, list[bytes]] = {}
    digest = hashlib.sha256(dataset.modality.encode())
    for class_name in dataset.class_names:
        digest.update(b"\0class" + class_name.encode())
    for name, split in dataset.splits.items():
        digest.update(b"\0split" + name.encode())
        digest.update(np.ascontiguousarray(split.labels, dtype=np.int64).tobytes())
        digests = sample_digests[name] = []
        for index, content in enumerate(_contents(split.items)):
            digests.append(hashlib.sha256(content).digest())
            digest.update(digests[-1])
            if isinstance(split.items, EncodedSamples):
                header = split.items.read_header(content)
                if not content:
                    header = SampleHeader(split.items.fault(index))
                n_with_frames += header.has_frames
                if header.fault is not None:
                    # Broken images are reported as such.
                    digests[-1] = b""
                    image_name, sample_id = split.items.name(index), split.ids[index]
                    faults.append(SampleFault(name, index, sample_id, image_name, header.fault))
        if isinstance(split.items, np.ndarray):
            is_matrix = dataset.modality == "vector"
            sample_digests[name] = list(row_digests(split.items)) if is_matrix else []
    if dataset.qrels is not None:
        # A query may be a document, so copies are no fault.
        digest.update(b"\0qrels" + dataset.qrels.digest.encode())
        sample_digests.clear()
    copies = _find_copies(dataset, sample_digests)
    return _Inspection(digest.hexdigest(), tuple(faults), n_with_frames, copies)


def _find_copies(dataset: Dataset, digests: Mapping[str, Sequence[bytes]]) -> SampleCopies | None:
    """Compare the digests of the test samples with those of the training samples."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(digests.get("train", ())):
        first.setdefault(digest, row)
    first.pop(b"", None)
    copies = [row for row, digest in enumerate(digests.get("test", ())) if digest in first]
    if not copies:
        return None
    train, test = dataset.splits["train"], dataset.splits["test"]
    train_row = first[digests["test"][copies[0]]]
    return SampleCopies(len(copies), test.ids[copies[0]], train.ids[train_row])


def row_digests(x: NDArray[Any]) -> Iterator[bytes]:
    """Yield the SHA-256 of the bytes of each row of (n_rows, n_neurons)."""
    return (hashlib.sha256(row).digest() for row in np.ascontiguousarray(x))


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
