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
from criticalmass.errors import CriticalMassError

if TYPE_CHECKING:
    from PIL.Image import Image

_REMEDY = "remove or repair it, or leave it out (--skip-broken, skip_broken=True)"

# 255 in 8 bits is 65535 = 257 * 255 in 16 bits.
_LEVEL_STEP = 257
# Pillow reads the 16-bit grey levels of these formats as 32-bit integers from 0 to 65535.
_FORMATS_OF_16_BITS = ("PNG", "PPM")


class BrokenImageError(CriticalMassError):
    """An image cannot be decoded."""


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


def to_rgb(image: Image) -> Image:
    """Convert an image to 8-bit RGB and apply its EXIF orientation.

    16-bit grey levels v become v / 257, rounded, so that 65535 becomes 255. Transparency is
    dropped: a transparent pixel has the colour that the file gives it.

    Raises
    ------
    BrokenImageError: pixels of 32 bits whose range is not known.
    """
    fault = _range_fault(image)
    if fault is not None:
        raise BrokenImageError(fault)
    if image.mode.startswith("I"):
        rgb = _from_16_bits(image)
    elif image.mode != "RGB":
        rgb = image.convert("RGB")
    else:
        image.load()  # an RGB image needs no copy
        rgb = image
    return _apply_orientation(rgb, _orientation(image))


def _range_fault(image: Image) -> str | None:
    """Return why the range of an image's grey levels is not known, or None."""
    if image.mode == "F":
        kind = "floats"
    elif image.mode == "I" and image.format not in _FORMATS_OF_16_BITS:
        kind = "integers"
    else:
        return None
    return f"its pixels are 32-bit {kind} of unknown range; save it with 8 or 16 bits"


def _from_16_bits(image: Image) -> Image:
    from PIL import Image as pillow

    levels = np.asarray(image).astype(np.int64)
    scaled = np.clip((levels + _LEVEL_STEP // 2) // _LEVEL_STEP, 0, 255)
    return pillow.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _orientation(image: Image) -> int:
    """Return the EXIF orientation of a decoded image, 1 to 8; 1 if it has none."""
    from PIL import ExifTags

    # Damaged metadata do not make the pixels unreadable.
    with suppress(OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _apply_orientation(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    method = methods.get(orientation)
    return image if method is None else image.transpose(method)


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
            fault = _range_fault(image)
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
