"""Images as they lie on disk or in a table: decoded one by one, broken ones named."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError

if TYPE_CHECKING:
    from PIL.Image import Image

_CURE = "remove or repair it, or leave it out (--skip-broken, skip_broken=True)"


class BrokenImageError(CriticalMassError):
    """An image cannot be decoded."""


class EncodedContent(Protocol):
    """Where encoded images come from: files, a column of a table."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def __getitem__(self, row: int, /) -> bytes:
        """Read one image's bytes as they were stored."""
        ...


@dataclass(frozen=True)
class FileContent:
    """The bytes of files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int, /) -> bytes:
        """Read one file."""
        return self.paths[row].read_bytes()


@dataclass(frozen=True)
class EncodedImages(Sequence["Image"]):
    """Images that are decoded when they are asked for.

    Attributes
    ----------
    source: encoded images.
    names: the name of each of the source's images, for messages.
    rows: (n,) which of them are here, in this order.
    """

    source: EncodedContent
    names: Sequence[str]
    rows: NDArray[np.intp]

    @classmethod
    def of_files(cls, paths: Iterable[Path]) -> EncodedImages:
        """Take image files, each named by its path."""
        files = tuple(paths)
        return cls(FileContent(files), [str(path) for path in files], np.arange(len(files)))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> Image: ...
    @overload
    def __getitem__(self, key: slice) -> EncodedImages: ...
    def __getitem__(self, key: int | slice) -> Image | EncodedImages:
        """Decode one image, or narrow the sequence."""
        if isinstance(key, slice):
            return EncodedImages(self.source, self.names, self.rows[key])
        row = int(self.rows[key])
        try:
            return decode(self.source[row])
        except (BrokenImageError, OSError) as error:
            raise BrokenImageError(
                f"{self.names[row]!r} is not a readable image ({reason_of(error)}); {_CURE}"
            ) from error

    def subset(self, rows: NDArray[np.intp]) -> EncodedImages:
        """Keep some of the images, in the order given."""
        return EncodedImages(self.source, self.names, self.rows[rows])

    def content(self) -> Iterable[bytes]:
        """Yield each image's bytes, for the dataset's digest; none where it cannot be read."""
        for row in self.rows:
            try:
                yield self.source[int(row)]
            except OSError:
                yield b""

    def name(self, place: int) -> str:
        """Name the image at a place of this sequence."""
        return self.names[int(self.rows[place])]

    def fault(self, place: int) -> str | None:
        """Decode an image; -> why that is not possible, or None."""
        try:
            decode(self.source[int(self.rows[place])])
        except (BrokenImageError, OSError) as error:
            return reason_of(error)
        return None


def decode(content: bytes) -> Image:
    """Decode an image into RGB.

    Raises
    ------
    BrokenImageError: it is broken, of no known format, or too large to be honest.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of huge images and of odd palettes; the first is the user's own file,
            # the second is what the conversion below is for.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            with Image.open(io.BytesIO(content)) as image:
                if image.mode != "RGB":
                    return image.convert("RGB")
                image.load()  # what is RGB already is not copied
                return image
    except UnidentifiedImageError as error:
        raise BrokenImageError("no image of a known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImageError(str(error)) from error


def header_fault(content: bytes) -> str | None:
    """Check an encoded image as far as that goes without decoding it; -> what is wrong."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        return "nothing to read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                image.verify()
    except UnidentifiedImageError:
        return "no image of a known format"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return None


def reason_of(error: Exception) -> str:
    """Word why an image could not be read, on one line and without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


def all_faults(images: EncodedImages) -> dict[int, str]:
    """Decode every image, on all processors; -> place and reason of each that is broken."""
    with ThreadPoolExecutor(thread_count()) as pool:
        found = pool.map(images.fault, range(len(images)))
        return {place: reason for place, reason in enumerate(found) if reason is not None}
