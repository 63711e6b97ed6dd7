"""Where a gradient on the CPU would write beyond its end, channels are kept apart."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

BACKWARD = """
import torch
from criticalmass.extraction.models.pixel_order import pixel_order
torch.set_num_threads(1)
for channels in range(1, 9):
    net = torch.nn.Conv2d(channels, 8, 1, stride=2)
    net.to(memory_format=pixel_order(net))
    for _ in range(100):
        x = torch.rand(32, channels, 8, 8).contiguous(memory_format=pixel_order(net))
        net(x.requires_grad_()).sum().backward()
        [torch.rand(size) for size in range(1, 100)]
"""


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "groups", "together"),
    [
        (4, 1, 2, 1, False),
        (7, 1, 2, 1, False),
        (16, 1, 2, 4, False),
        (8, 1, 2, 1, True),
        (4, 1, 1, 1, True),
        (4, 3, 2, 1, True),
    ],
)
def test_channels_lie_together_unless_a_strided_convolution_has_few(
    channels: int, kernel: int, stride: int, groups: int, together: bool
) -> None:
    from criticalmass.extraction.models.pixel_order import pixel_order

    part = torch.nn.Conv2d(channels, 16, kernel, stride=stride, groups=groups)
    order = pixel_order(torch.nn.Sequential(torch.nn.ReLU(), part))
    assert order == (torch.channels_last if together else torch.contiguous_format)


def test_no_gradient_ends_the_process() -> None:
    """On a CPU without AVX-512 it did, with 2 to 6 channels that lie together."""
    done = subprocess.run(
        [sys.executable, "-c", BACKWARD], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
