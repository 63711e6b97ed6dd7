"""How alike two pictures are: RMS and SSIM. This module imports torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Constants of Wang et al. 2004: window of 11 pixels, its deviation, and the two stabilisers.
_WINDOW, _DEVIATION, _K1, _K2 = 11, 1.5, 0.01, 0.03


def rms(a: Tensor, b: Tensor) -> Tensor:
    """Return the root of the mean squared difference of pixels, (n,)."""
    return (a - b).flatten(1).square().mean(dim=1).sqrt()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of pictures (Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13).

    Gaussian window of 11 x 11 pixels and standard deviation 1.5, means over the places where it
    fits and over channels, as in their code; in pictures of fewer pixels the largest odd window.

    Parameters
    ----------
    a, b: (n, channels, height, width) in 0..1.

    Returns
    -------
    (n,), 1 for equal pictures.
    """
    size = min(_WINDOW, *a.shape[-2:])
    size -= 1 - size % 2
    places = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-places.square() / (2 * _DEVIATION**2))
    window = torch.outer(weights, weights) / weights.sum().square()
    channels = a.shape[1]
    kernel = window.expand(channels, 1, size, size).to(a.device)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, groups=channels)

    x, y = a.double(), b.double()
    mean_x, mean_y = mean(x), mean(y)
    variance_x = mean(x * x) - mean_x.square()
    variance_y = mean(y * y) - mean_y.square()
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    alike = alike / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))
    return alike.flatten(1).mean(dim=1).to(a)
