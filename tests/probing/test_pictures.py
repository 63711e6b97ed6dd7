"""SSIM against its definition with another library's filter, and RMS."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from criticalmass.probing.pictures import rms, ssim


def ssim_by_scipy(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Wang et al. 2004 with scipy's filter, as scikit-image computes it (gaussian_weights)."""

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(values, 1.5, truncate=3.5)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(values[5:-5, 5:-5].mean())


def test_ssim_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(4, 2, 24, 20)), axis=2)
    x = (x - x.min()) / np.ptp(x)
    noise = rng.normal(size=x.shape) * np.array([0.0, 0.02, 0.1, 0.5])[:, None, None, None]
    y = np.clip(x + noise, 0, 1)
    ours = ssim(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    theirs = [
        np.mean([ssim_by_scipy(a, b) for a, b in zip(p, q, strict=True)])
        for p, q in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert ours[0] == 1.0
    assert np.all(np.diff(ours) < 0)


def test_ssim_of_pictures_below_its_window() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    assert bool((ssim(x, 1 - x) < 0.1).all())


def test_rms() -> None:
    x = torch.zeros(2, 3, 4, 4)
    torch.testing.assert_close(
        rms(x, x + torch.tensor([0.1, 0.5]).view(2, 1, 1, 1)), torch.tensor([0.1, 0.5])
    )
