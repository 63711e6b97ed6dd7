"""CREPE's network.

This module imports torch, so it is only imported by functions that need torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

N_PITCHES = 360
# Epsilon of Keras's batch normalisation, as the weights were trained with it.
_EPS = 1e-3


class Crepe(nn.Module):
    """Six convolutions of a frame and a linear classifier of pitches.

    Its input is (n, 1024, n_frames). Frames are the last axis of all maps, along which nothing is
    mixed, and the classifier reads (n, n_frames, 4 x the last number of channels).

    Parameters
    ----------
    channels: of the convolutions.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self._n_layers = len(channels)
        pairs = zip((1, *channels[:-1]), channels, strict=True)
        for number, (n_in, n_out) in enumerate(pairs, start=1):
            length, stride = (512, 4) if number == 1 else (64, 1)
            self.add_module(f"conv{number}", nn.Conv2d(n_in, n_out, (length, 1), (stride, 1)))
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(n_out, eps=_EPS))
        self.classifier = nn.Linear(4 * channels[-1], N_PITCHES)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the salience of each pitch, (n, n_frames, 360)."""
        maps = frames[:, None]
        for number in range(1, self._n_layers + 1):
            padding = (254, 254) if number == 1 else (31, 32)
            maps = nn.functional.pad(maps, (0, 0, *padding))
            maps = nn.functional.relu(self.get_submodule(f"conv{number}")(maps))
            maps = self.get_submodule(f"conv{number}_BN")(maps)
            maps = nn.functional.max_pool2d(maps, (2, 1))
        features = maps.permute(0, 3, 2, 1).flatten(2)
        salience: Tensor = torch.sigmoid(self.classifier(features))
        return salience
