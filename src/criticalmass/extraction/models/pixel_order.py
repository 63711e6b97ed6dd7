"""In which order the numbers of images and maps lie in memory. This module imports torch."""

from __future__ import annotations

import torch
from torch import nn

#: oneDNN's convolutions for AVX2 work on so many channels at once.
_BLOCK = 8


def pixel_order(network: nn.Module) -> torch.memory_format:
    """Return the order in which a network can be run forwards and backwards on a CPU.

    Convolutions run faster where the channels of a pixel lie together. The gradient of a strided
    1x1 convolution of fewer than 8 channels then writes beyond its end, though, and the process
    dies: seen with torch 2.13 (oneDNN) on a CPU without AVX-512.
    """
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.in_channels // module.groups < _BLOCK
        ):
            return torch.contiguous_format
    return torch.channels_last
