"""Resize and crop 8-bit images in one step, bit for bit as Pillow does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# First source pixel of each output pixel, (n_out,), and the weights, (n_out, n_weights).
ResizeWeights = tuple[NDArray[np.int64], NDArray[np.int32]]


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
def resize_weights(n_in: int, n_out: int, interpolation: str) -> ResizeWeights:
    """Compute which pixels of an axis make each new pixel, and their weights.

    A step of more than one pixel widens the kernel (antialiasing). Weights are rounded to 22
    binary places, as Pillow rounds them for 8-bit images; before rounding, the weights of a pixel
    sum to 1.

    Parameters
    ----------
    n_in, n_out: number of pixels before and after.
    interpolation: one of ``INTERPOLATIONS``.

    Returns
    -------
    The first source pixel of each new pixel, (n_out,) ascending, and the weights in units of
    2**-22, (n_out, n_weights), with zeros if a new pixel needs fewer.
    """
    from criticalmass.extraction.models.resize_kernels import WEIGHT_BITS

    kernel, half_width = _KERNELS[interpolation]
    step = n_in / n_out
    scale = max(step, 1.0)
    centres = (np.arange(n_out) + 0.5) * step
    first = np.maximum((centres - half_width * scale + 0.5).astype(np.int64), 0)
    stop = np.minimum((centres + half_width * scale + 0.5).astype(np.int64), n_in)
    n_weights = int((stop - first).max())
    begin = np.minimum(first, n_in - n_weights)
    pixels = begin[:, None] + np.arange(n_weights)
    weights = kernel((pixels - centres[:, None] + 0.5) / scale)
    weights[(pixels < first[:, None]) | (pixels >= stop[:, None])] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    rounded = np.trunc(weights * float(1 << WEIGHT_BITS) + np.copysign(0.5, weights))
    arrays = begin, rounded.astype(np.int32)
    # The cache shares them between callers.
    for array in arrays:
        array.flags.writeable = False
    return arrays


def resize_crop(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    corner: tuple[int, int],
    pixels: int,
    interpolation: str,
) -> NDArray[np.uint8]:
    """Resize an image and crop a square; only the pixels of the square are computed.

    Parameters
    ----------
    image: (height, width, channels), contiguous.
    size: width and height of the resized image.
    corner: left and top of the square in the resized image; pixels outside the image are 0.
    pixels: side of the square.
    interpolation: one of ``INTERPOLATIONS``.

    Returns
    -------
    (channels, pixels, pixels), equal to two calls of Pillow's ``resize`` (the width first, rounded
    to 8 bits, then the height) and its ``crop``.
    """
    from criticalmass.extraction.models.resize_kernels import resize_planes

    targets, weights_of_axes = [], []
    for old, new, start in zip((image.shape[1], image.shape[0]), size, corner, strict=True):
        visible = slice(min(max(start, 0), new), max(min(start + pixels, new), 0))
        begin, weights = resize_weights(old, new, interpolation)
        targets.append(slice(visible.start - start, visible.stop - start))
        weights_of_axes.append((begin[visible], weights[visible]))
    (columns, column_weights), (rows, row_weights) = weights_of_axes
    square = resize_planes(image, columns, column_weights, rows, row_weights)
    if square.shape[1:] == (pixels, pixels):
        return square
    out = np.zeros((image.shape[2], pixels, pixels), np.uint8)
    out[:, targets[1], targets[0]] = square
    return out
