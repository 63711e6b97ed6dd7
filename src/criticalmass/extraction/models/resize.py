"""Resizing and cropping 8-bit images at once, bit for bit as Pillow does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Where the weights of each output pixel begin, (n_out,), and the weights, (n_out, n_weights).
Taps = tuple[NDArray[np.int64], NDArray[np.int32]]


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    # Keys' cubic convolution kernel with a = -1/2.
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


# The kernel and half its width.
_KERNELS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
INTERPOLATIONS = tuple(_KERNELS)


@lru_cache(maxsize=512)
def resize_taps(n_in: int, n_out: int, interpolation: str) -> Taps:
    """Find which pixels of an axis make each new pixel, and with which weights.

    A larger step than one pixel widens the kernel (antialiasing). Weights are rounded to 22
    binary places, as Pillow rounds them for 8-bit images; a pixel's sum to 1 but for that.

    Parameters
    ----------
    n_in, n_out: pixels before and after.
    interpolation: one of ``INTERPOLATIONS``.

    Returns
    -------
    Where the weights begin, (n_out,) ascending, and the weights in units of 2**-22,
    (n_out, n_weights), zeros where an output pixel needs fewer.
    """
    from criticalmass.extraction.models.resize_kernels import WEIGHT_BITS

    kernel, half_width = _KERNELS[interpolation]
    step = n_in / n_out
    widened = max(step, 1.0)
    centres = (np.arange(n_out) + 0.5) * step
    first = np.maximum((centres - half_width * widened + 0.5).astype(np.int64), 0)
    stop = np.minimum((centres + half_width * widened + 0.5).astype(np.int64), n_in)
    n_weights = int((stop - first).max())
    begin = np.minimum(first, n_in - n_weights)
    pixels = begin[:, None] + np.arange(n_weights)
    weights = kernel((pixels - centres[:, None] + 0.5) / widened)
    weights[(pixels < first[:, None]) | (pixels >= stop[:, None])] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    whole = np.trunc(weights * float(1 << WEIGHT_BITS) + np.copysign(0.5, weights))
    taps = begin, whole.astype(np.int32)
    for array in taps:
        array.flags.writeable = False
    return taps


def resize_crop(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    corner: tuple[int, int],
    pixels: int,
    interpolation: str,
) -> NDArray[np.uint8]:
    """Resize an image and keep a square of it; only that square is computed.

    Parameters
    ----------
    image: (height, width, channels), contiguous.
    size: new width and height of the whole image.
    corner: left and top of the square in the resized image; what lies outside of it is 0.
    pixels: side of the square.
    interpolation: one of ``INTERPOLATIONS``.

    Returns
    -------
    (channels, pixels, pixels), equal to two calls of Pillow's ``resize`` (the width first, rounded
    to 8 bits, then the height) and its ``crop``.
    """
    from criticalmass.extraction.models.resize_kernels import resize_planes

    spans, taps = [], []
    for old, new, start in zip((image.shape[1], image.shape[0]), size, corner, strict=True):
        inside = slice(min(max(start, 0), new), max(min(start + pixels, new), 0))
        begin, weights = resize_taps(old, new, interpolation)
        spans.append(slice(inside.start - start, inside.stop - start))
        taps.append((begin[inside], weights[inside]))
    (columns, across), (rows, down) = taps
    found = resize_planes(image, columns, across, rows, down)
    if found.shape[1:] == (pixels, pixels):
        return found
    out = np.zeros((image.shape[2], pixels, pixels), np.uint8)
    out[:, spans[1], spans[0]] = found
    return out
