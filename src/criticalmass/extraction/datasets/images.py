"""Sequences of encoded images, from files or table columns, decoded on access."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.threads import thread_count
from criticalmass.extraction.pixels import BrokenImageError, range_fault, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

_REMEDY = "remove or repair it, or leave it out (--skip-broken, skip_broken=True)"


class EncodedContent(Protocol):
    """A source of encoded images: files, or a column of a table."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, row: int, /) -> bytes:
        """Return one image's encoded bytes."""
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
class EncodedImages(Sequence["Image"]):
    """A sequence of images that are decoded on access.

    Attributes
    ----------
    source: encoded images.
    names: the name of each image of the source, for messages.
    rows: (n,) indices of the source's images in this sequence, in order.
    """

    source: EncodedContent
    names: Sequence[str]
    rows: NDArray[np.intp]

    @classmethod
    def of_files(cls, paths: Iterable[Path]) -> EncodedImages:
        """Make a sequence of image files; the name of each is its path."""
        files = tuple(paths)
        return cls(FileContent(files), [str(path) for path in files], np.arange(len(files)))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> Image: ...
    @overload
    def __getitem__(self, key: slice) -> EncodedImages: ...
    def __getitem__(self, key: int | slice) -> Image | EncodedImages:
        """Decode one image, or return a slice of the sequence."""
        if isinstance(key, slice):
            return EncodedImages(self.source, self.names, self.rows[key])
        row = int(self.rows[key])
        try:
            return decode(self.source[row])
        except (BrokenImageError, OSError) as error:
            raise BrokenImageError(
                f"{self.names[row]!r} is not a readable image ({failure_reason(error)}); {_REMEDY}"
            ) from error

    def subset(self, rows: NDArray[np.intp]) -> EncodedImages:
        """Return some of the images, in the order of ``rows``."""
        return EncodedImages(self.source, self.names, self.rows[rows])

    def content(self) -> Iterable[bytes]:
        """Yield each image's bytes, for the dataset's digest; empty if it cannot be read."""
        for row in self.rows:
            try:
                yield self.source[int(row)]
            except OSError:
                yield b""

    def name(self, index: int) -> str:
        """Return the name of an image of this sequence."""
        return self.names[int(self.rows[index])]

    def encoded(self, index: int) -> bytes:
        """Return the encoded bytes of an image of this sequence."""
        return self.source[int(self.rows[index])]

    def fault(self, index: int) -> str | None:
        """Decode an image; return why it cannot be decoded, or None."""
        try:
            decode(self.encoded(index))
        except (BrokenImageError, OSError) as error:
            return failure_reason(error)
        return None


def decode(content: bytes) -> Image:
    """Decode an image into 8-bit RGB, upright; of an animated one, its first frame.

    Raises
    ------
    BrokenImageError: it is damaged, in no known format, larger than Pillow's limit, or its pixels
        have no known range.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _quiet_pillow(), Image.open(io.BytesIO(content)) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise BrokenImageError("no image of a known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImageError(str(error)) from error


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings.

    They are of large images, which are the user's own files, of palettes with transparency, which
    the conversion to RGB drops, and of damaged metadata.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        warnings.filterwarnings("ignore", message="Corrupt EXIF data")
        warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")
        yield


@dataclass(frozen=True)
class ImageHeader:
    """What can be known of an encoded image without decoding it.

    Attributes
    ----------
    fault: why it cannot be decoded; None if its header is intact.
    has_frames: whether it has several frames or pages.
    """

    fault: str | None
    has_frames: bool = False


def read_header(content: bytes) -> ImageHeader:
    """Check an encoded image without decoding it."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        return ImageHeader("nothing to read")
    try:
        with _quiet_pillow(), Image.open(io.BytesIO(content)) as image:
            fault = range_fault(image)
            has_frames = _has_frames(image)
            image.verify()
    except UnidentifiedImageError:
        return ImageHeader("no image of a known format")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return ImageHeader(str(error))
    return ImageHeader(fault, has_frames)


def _has_frames(image: Image) -> bool:
    # A damaged second frame does not make the first one unreadable.
    with suppress(OSError, SyntaxError, ValueError, EOFError, KeyError, struct.error):
        return bool(getattr(image, "is_animated", False))
    return False


def failure_reason(error: Exception) -> str:
    """Return why an image cannot be read, in one line without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


def decode_faults(images: EncodedImages) -> dict[int, str]:
    """Decode every image on all threads; return index -> reason of those that cannot be decoded."""
    with ThreadPoolExecutor(thread_count()) as pool:
        reasons = pool.map(images.fault, range(len(images)))
        return {index: reason for index, reason in enumerate(reasons) if reason is not None}
