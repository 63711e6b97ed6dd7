"""The encoder of Whisper.

This module imports torch, so it is only imported by functions that need torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of the wavelengths of the positions, as in Vaswani et al. (2017), arXiv:1706.03762.
_LONGEST = 10_000


@dataclass(frozen=True)
class EncoderShape:
    """The size of an encoder.

    Attributes
    ----------
    n_bins: bins of the spectrogram.
    n_states: states of a sound, one for two frames of the spectrogram.
    width: neurons of a state.
    n_heads, n_blocks: heads of the attention of a block, and blocks.
    """

    n_bins: int
    n_states: int
    width: int
    n_heads: int
    n_blocks: int


class EncoderBlock(nn.Module):
    """Attention between all states and a network of two linear layers, each after a layer norm."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self._n_heads = n_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, states: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean over the marked states, (n, width), and all states.

        The mean comes first, because it is what is read as the block's layer.
        """
        parts = self.qkv(self.norm1(states)).unflatten(2, (3, self._n_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(query, key, value)
        states = states + self.proj(heads.transpose(1, 2).flatten(2))
        states = states + self.fc2(functional.gelu(self.fc1(self.norm2(states))))
        return mean_of_marked(states, marks), states


class WhisperEncoder(nn.Module):
    """Two convolutions of a log-mel spectrogram, positions and blocks of a transformer.

    Its input is (n, n_bins + 1, 2 x n_states); the last row is 1 at the frames of the sound and 0
    at those of the silence after it. All states see each other; means are over the states of the
    sound.
    """

    positions: Tensor

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(shape.n_bins, shape.width, 3, padding=1)
        self.conv2 = nn.Conv1d(shape.width, shape.width, 3, stride=2, padding=1)
        self.register_buffer("positions", sinusoids(shape.n_states, shape.width))
        blocks = (EncoderBlock(shape.width, shape.n_heads) for _ in range(shape.n_blocks))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean of the last states over the sound, (n, width)."""
        marks = inputs[:, -1, ::2, None]
        return mean_of_marked(self.states(inputs[:, :-1], marks), marks)

    def states(self, spectrogram: Tensor, marks: Tensor) -> Tensor:
        """Return the last states, (n, n_states, width)."""
        maps = functional.gelu(self.conv1(spectrogram))
        states = functional.gelu(self.conv2(maps)).transpose(1, 2) + self.positions
        for block in self.blocks:
            _, states = block(states, marks)
        last: Tensor = self.norm(states)
        return last


def mean_of_marked(states: Tensor, marks: Tensor) -> Tensor:
    """Average (n, n_states, width) over the states whose mark, (n, n_states, 1), is 1."""
    return (states * marks).sum(dim=1) / marks.sum(dim=1)


def sinusoids(n_states: int, width: int) -> Tensor:
    """Compute the positions, (n_states, width): sines, then cosines, of falling frequency."""
    n_waves = width // 2
    waves = torch.exp(torch.arange(n_waves) * (-math.log(_LONGEST) / (n_waves - 1)))
    angles = torch.arange(n_states)[:, None] * waves
    return torch.cat([angles.sin(), angles.cos()], dim=1)
