"""Sequences of encoded images, from files or table columns, decoded on access."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from criticalmass.extraction.datasets.encoded import EncodedSamples, SampleHeader
from criticalmass.extraction.pixels import BrokenImageError, range_fault, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image


class EncodedImages(EncodedSamples["Image"]):
    """A sequence of images that are decoded on access."""

    noun = "image"
    error = BrokenImageError

    @staticmethod
    def decode(content: bytes) -> Image:
        """Decode an image into 8-bit RGB; see `decode`."""
        return decode(content)

    @staticmethod
    def read_header(content: bytes) -> SampleHeader:
        """Check an encoded image without decoding it."""
        return read_header(content)


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


def read_header(content: bytes) -> SampleHeader:
    """Check an encoded image without decoding it."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        return SampleHeader("nothing to read")
    try:
        with _quiet_pillow(), Image.open(io.BytesIO(content)) as image:
            fault = range_fault(image)
            has_frames = _has_frames(image)
            image.verify()
    except UnidentifiedImageError:
        return SampleHeader("no image of a known format")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return SampleHeader(str(error))
    return SampleHeader(fault, has_frames)


def _has_frames(image: Image) -> bool:
    # A damaged second frame does not make the first one unreadable.
    with suppress(OSError, SyntaxError, ValueError, EOFError, KeyError, struct.error):
        return bool(getattr(image, "is_animated", False))
    return False
