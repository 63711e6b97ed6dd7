"""Torch modules of an export: a backbone's layer, the kept neurons, the head.

Imported only where torch is needed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.wrappers import SentenceEmbedder, Tapped
from criticalmass.shrinking.slim_model import SlimModel

_TOP_LEVEL = 255.0


class Kept(nn.Module):
    """The kept neurons of whole vectors, as they read back from their storage.

    Attributes
    ----------
    indices: (n_kept,) int64, columns to keep.
    offset, step: (n_kept,) float32 of the precision; see `criticalmass.shrinking.codec`.
    """

    indices: Tensor
    offset: Tensor
    step: Tensor

    def __init__(self, n_kept: int, precision: str) -> None:
        super().__init__()
        self.precision = precision
        self.register_buffer("indices", torch.zeros(n_kept, dtype=torch.int64))
        self.register_buffer("offset", torch.zeros(n_kept))
        self.register_buffer("step", torch.ones(n_kept))

    def forward(self, whole: Tensor) -> Tensor:
        """Keep (n, n_neurons) -> (n, n_kept)."""
        kept = whole.index_select(1, self.indices)
        if self.precision == "float16":
            return kept.half().float()
        if self.precision == "int8":
            level = ((kept - self.offset) / self.step).round().clamp(0.0, _TOP_LEVEL)
            return self.offset + self.step * level
        if self.precision == "binary":
            return (kept > self.offset).float() * 2.0 - 1.0
        return kept


class Slim(nn.Module):
    """Backbone, kept neurons and head; each of the outer two may be missing."""

    def __init__(
        self, backbone: nn.Module | None, kept: Kept, head: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.kept = kept
        self.head = head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the short vectors (n, n_kept) and, with a head, its logits (n, n_present)."""
        whole = inputs[0] if self.backbone is None else self.backbone(*inputs)
        short = self.kept(whole)
        return (short,) if self.head is None else (short, self.head(short))


class LayerOf(nn.Module):
    """One layer of a model as (n, n_neurons)."""

    def __init__(self, model: FrozenModel, tap: Tap) -> None:
        super().__init__()
        self.tapped = Tapped(model, [tap])

    def forward(self, inputs: Tensor) -> Tensor:
        """Run one batch."""
        layer: Tensor = self.tapped(inputs)[0]
        return layer


class MaskedEmbedder(nn.Module):
    """A sentence encoder for batches with padding."""

    def __init__(self, embedder: SentenceEmbedder) -> None:
        super().__init__()
        self.transformer = embedder.transformer
        self.stages = embedder.stages

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed (n, tokens) int64, with a mask that is 0 on padding, -> (n, d)."""
        found = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
        features = {"token_embeddings": found.last_hidden_state, "attention_mask": attention_mask}
        for stage in self.stages:
            features = stage(features)
        embedding: Tensor = features["sentence_embedding"]
        return embedding


def empty_slim(
    backbone: nn.Module | None, n_kept: int, precision: str, n_present: int | None
) -> Slim:
    """Build the modules without their numbers; ``n_present``: rows of the head, None without."""
    head = None if n_present is None else nn.Linear(n_kept, n_present)
    return Slim(backbone, Kept(n_kept, precision), head).eval().requires_grad_(False)


def slim_module(slim: SlimModel, backbone: nn.Module | None, *, is_cut: bool = False) -> Slim:
    """Build the modules of a slim model.

    Parameters
    ----------
    slim: indices, codec and head.
    backbone: takes input batches, returns (n, n_neurons); or None.
    is_cut: whether the backbone returns the kept neurons alone.
    """
    present = None if slim.head is None else int(slim.head.classes.size)
    module = empty_slim(backbone, slim.n_kept, slim.precision, present)
    columns = np.arange(slim.n_kept) if is_cut else slim.indices
    module.kept.indices.copy_(torch.from_numpy(columns.astype(np.int64)))
    module.kept.offset.copy_(torch.from_numpy(slim.codec.offset))
    module.kept.step.copy_(torch.from_numpy(slim.codec.step))
    if slim.head is not None and module.head is not None:
        module.head.weight.copy_(torch.from_numpy(slim.head.coef))
        module.head.bias.copy_(torch.from_numpy(slim.head.intercept))
    return module
