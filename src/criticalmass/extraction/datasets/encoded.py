"""Sequences of encoded samples, from files or table columns, decoded on access."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.threads import thread_count
from criticalmass.errors import BrokenSampleError

T = TypeVar("T")
_REMEDY = "remove or repair it, or leave it out (--skip-broken, skip_broken=True)"


class EncodedContent(Protocol):
    """A source of encoded samples: files, or a column of a table."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, row: int, /) -> bytes:
        """Return one sample's encoded bytes."""
        ...


@dataclass(frozen=True)
class FileContent:
    """The contents of files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int, /) -> bytes:
        return self.paths[row].read_bytes()


@dataclass(frozen=True)
class JoinedSource(Generic[T]):
    """Several sources of samples, one after the other."""

    sources: tuple[Any, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, row: int, /) -> T:
        """Return one sample of the source that holds it."""
        for source in self.sources:
            if row < len(source):
                sample: T = source[row]
                return sample
            row -= len(source)
        raise IndexError(row)


def joined_rows(sources: Sequence[Sized], rows: Sequence[NDArray[np.intp]]) -> NDArray[np.intp]:
    """Return the rows of several sources as those of the joined source."""
    starts = np.cumsum([0, *map(len, sources)])[:-1]
    return np.concatenate([start + part for start, part in zip(starts, rows, strict=True)])


@dataclass(frozen=True)
class SampleHeader:
    """What can be known of an encoded sample without decoding it.

    Attributes
    ----------
    fault: why it cannot be decoded; None if its header is intact.
    has_frames: whether it is an image with several frames or pages.
    """

    fault: str | None
    has_frames: bool = False


@dataclass(frozen=True)
class EncodedSamples(Sequence[T]):
    """A sequence of samples that are decoded on access.

    Attributes
    ----------
    source: encoded samples.
    names: the name of each sample of the source, for messages.
    rows: (n,) indices of the source's samples in this sequence, in order.
    noun: what a sample is, for messages.
    error: raised for a sample that cannot be decoded.
    """

    source: EncodedContent
    names: Sequence[str]
    rows: NDArray[np.intp]
    noun: ClassVar[str] = "sample"
    error: ClassVar[type[BrokenSampleError]] = BrokenSampleError

    @staticmethod
    @abstractmethod
    def decode(content: bytes) -> Any:
        """Decode one sample.

        Raises
        ------
        BrokenSampleError: it cannot be decoded.
        """

    @staticmethod
    @abstractmethod
    def read_header(content: bytes) -> SampleHeader:
        """Check an encoded sample without decoding it."""

    @classmethod
    def of_files(cls, paths: Iterable[Path]) -> Self:
        """Make a sequence of files; the name of each is its path."""
        files = tuple(paths)
        return cls(FileContent(files), [str(path) for path in files], np.arange(len(files)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return several sequences as one."""
        sources = [part.source for part in parts]
        names = [name for part in parts for name in part.names]
        rows = joined_rows(sources, [part.rows for part in parts])
        return cls(JoinedSource[bytes](tuple(sources)), names, rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Self: ...
    def __getitem__(self, key: int | slice) -> T | Self:
        """Decode one sample, or return a slice of the sequence."""
        if isinstance(key, slice):
            return type(self)(self.source, self.names, self.rows[key])
        row = int(self.rows[key])
        try:
            sample: T = self.decode(self.source[row])
        except (BrokenSampleError, OSError) as error:
            raise self.error(
                f"{self.names[row]!r} is not a readable {self.noun} ({failure_reason(error)}); "
                f"{_REMEDY}"
            ) from error
        return sample

    def subset(self, rows: NDArray[np.intp]) -> Self:
        """Return some of the samples, in the order of ``rows``."""
        return type(self)(self.source, self.names, self.rows[rows])

    def content(self) -> Iterable[bytes]:
        """Yield each sample's bytes, for the dataset's digest; empty if it cannot be read."""
        for row in self.rows:
            try:
                yield self.source[int(row)]
            except OSError:
                yield b""

    def name(self, index: int) -> str:
        """Return the name of a sample of this sequence."""
        return self.names[int(self.rows[index])]

    def encoded(self, index: int) -> bytes:
        """Return the encoded bytes of a sample of this sequence."""
        return self.source[int(self.rows[index])]

    def fault(self, index: int) -> str | None:
        """Decode a sample; return why it cannot be decoded, or None."""
        try:
            self.decode(self.encoded(index))
        except (BrokenSampleError, OSError) as error:
            return failure_reason(error)
        return None


def failure_reason(error: Exception) -> str:
    """Return why a sample cannot be read, in one line without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


def decode_faults(samples: EncodedSamples[Any]) -> dict[int, str]:
    """Decode every sample on all threads; return index -> reason of those that cannot be."""
    with ThreadPoolExecutor(thread_count()) as pool:
        reasons = pool.map(samples.fault, range(len(samples)))
        return {index: reason for index, reason in enumerate(reasons) if reason is not None}
