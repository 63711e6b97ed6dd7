"""Resizing a whole batch of equal-sized 8-bit images at once, bit for bit as Pillow does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Pillow rounds its filter weights to this many binary places for 8-bit images.
_WEIGHT_BITS = 22


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


@lru_cache(maxsize=64)
def resize_matrix(n_in: int, n_out: int, interpolation: str) -> NDArray[np.float64]:
    """Build the matrix that resizes one axis, (n_out, n_in); each row sums to 1.

    A larger step than one pixel widens the kernel (antialiasing). The weights are rounded as
    Pillow rounds them, so that a float64 product of them with 8-bit values is exact.

    Parameters
    ----------
    n_in, n_out: pixels before and after.
    interpolation: one of ``INTERPOLATIONS``.
    """
    kernel, half_width = _KERNELS[interpolation]
    step = n_in / n_out
    widened = max(step, 1.0)
    centres = (np.arange(n_out) + 0.5) * step
    first = np.maximum((centres - half_width * widened + 0.5).astype(np.intp), 0)
    stop = np.minimum((centres + half_width * widened + 0.5).astype(np.intp), n_in)
    pixels = np.arange(n_in)
    weights = kernel((pixels[None, :] - centres[:, None] + 0.5) / widened)
    weights[(pixels < first[:, None]) | (pixels >= stop[:, None])] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    scale = float(1 << _WEIGHT_BITS)
    rounded: NDArray[np.float64] = np.trunc(weights * scale + np.copysign(0.5, weights)) / scale
    return rounded


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    values += 0.5
    np.floor(values, out=values)
    return np.clip(values, 0.0, 255.0, out=values)


def resize_batch(
    images: NDArray[np.uint8], height: int, width: int, interpolation: str
) -> NDArray[np.uint8]:
    """Resize images of one size.

    Parameters
    ----------
    images: (n, height, width) 8-bit planes.
    height, width: the new size in pixels.
    interpolation: one of ``INTERPOLATIONS``.

    Returns
    -------
    (n, height, width) 8-bit planes, equal to two calls of Pillow's ``resize``: the width first,
    rounded to 8 bits, then the height.
    """
    n, old_height, old_width = images.shape
    planes = images.astype(np.float64)
    if old_width != width:
        across = resize_matrix(old_width, width, interpolation)
        flat = planes.reshape(n * old_height, old_width) @ across.T
        planes = _to_bytes(flat).reshape(n, old_height, width)
    if old_height != height:
        down = resize_matrix(old_height, height, interpolation)
        planes = _to_bytes(np.matmul(down, planes))
    return planes.astype(np.uint8)
