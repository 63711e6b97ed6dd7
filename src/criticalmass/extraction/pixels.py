"""Pixels of decoded images: 8-bit RGB, upright, in one way for every source."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from criticalmass.errors import BrokenSampleError

if TYPE_CHECKING:
    from PIL.Image import Image

# 255 in 8 bits is 65535 = 257 * 255 in 16 bits.
_LEVEL_STEP = 257
# Pillow reads the 16-bit grey levels of these formats as 32-bit integers from 0 to 65535.
_FORMATS_OF_16_BITS = ("PNG", "PPM")


class BrokenImageError(BrokenSampleError):
    """An image cannot be decoded."""


def to_rgb(image: Image) -> Image:
    """Convert an image to 8-bit RGB and apply its EXIF orientation.

    16-bit grey levels v become v / 257, rounded, so that 65535 becomes 255. Transparency is
    dropped: a transparent pixel has the colour that the file gives it.

    Raises
    ------
    BrokenImageError: pixels of 32 bits whose range is not known.
    """
    fault = range_fault(image)
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


def range_fault(image: Image) -> str | None:
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
    if method is None:
        return image
    upright = image.transpose(method)
    # Pillow copies the metadata, so that the image would be turned again.
    upright.info = {}
    return upright
