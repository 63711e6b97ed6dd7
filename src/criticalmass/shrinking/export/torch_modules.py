"""Torch modules of an export: layer of a backbone, kept neurons and head.

Attribute names are keys of the exported state dict. This module is imported only where torch is
needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.wrappers import SentenceEmbedder, TappedModel
from criticalmass.shrinking.slim_model import SlimModel

_TOP_LEVEL = 255.0


@dataclass(frozen=True)
class KeptShape:
    """What the module of the kept values needs before its weights are loaded.

    Attributes
    ----------
    n_kept: number of kept values.
    precision: the type that they are stored in.
    n_inputs: width of whole vectors for a projection; None for a subset.
    is_normalised: whether the kept values are scaled to length 1.
    """

    n_kept: int
    precision: str
    n_inputs: int | None = None
    is_normalised: bool = False


class KeptNeurons(nn.Module):
    """The kept values of whole vectors, encoded and decoded in the precision.

    Attributes
    ----------
    indices: (n_kept,) int64, columns to keep; not used with a matrix.
    matrix: (n_neurons, n_kept) float32 directions, or None.
    offset, step: (n_kept,) float32 of the `Codec`.
    """

    indices: Tensor
    matrix: Tensor | None
    offset: Tensor
    step: Tensor

    def __init__(self, shape: KeptShape) -> None:
        super().__init__()
        n_kept, n_inputs = shape.n_kept, shape.n_inputs
        self.precision = shape.precision
        self.is_normalised = shape.is_normalised
        self.register_buffer("indices", torch.zeros(n_kept, dtype=torch.int64))
        matrix = None if n_inputs is None else torch.zeros(n_inputs, n_kept)
        self.register_buffer("matrix", matrix)
        self.register_buffer("offset", torch.zeros(n_kept))
        self.register_buffer("step", torch.ones(n_kept))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the kept values: (n, n_neurons) -> (n, n_kept)."""
        if self.matrix is None:
            values = vectors.index_select(1, self.indices)
        else:
            values = vectors.double() @ self.matrix.double()
        if self.is_normalised:
            wide = values.double()
            lengths = (wide * wide).sum(1, keepdim=True).sqrt()
            values = wide / torch.where(lengths > 0.0, lengths, torch.ones_like(lengths))
        values = values.float()
        if self.precision == "float16":
            return values.half().float()
        if self.precision == "int8":
            levels = ((values - self.offset) / self.step).round().clamp(0.0, _TOP_LEVEL)
            return self.offset + self.step * levels
        if self.precision == "binary":
            return (values > self.offset).float() * 2.0 - 1.0
        return values


class SlimModule(nn.Module):
    """Backbone, kept neurons and head; backbone and head are optional."""

    def __init__(
        self, backbone: nn.Module | None, kept: KeptNeurons, head: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.kept = kept
        self.head = head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the short vectors (n, n_kept) and, with a head, the logits (n, n_present)."""
        vectors = inputs[0] if self.backbone is None else self.backbone(*inputs)
        short = self.kept(vectors)
        return (short,) if self.head is None else (short, self.head(short))


class LayerOutput(nn.Module):
    """One layer of a model: input batches -> (n, n_neurons)."""

    def __init__(self, model: FrozenModel, tap: Tap) -> None:
        super().__init__()
        self.tapped = TappedModel(model, [tap])

    def forward(self, inputs: Tensor) -> Tensor:
        """Run one batch."""
        layer: Tensor = self.tapped(inputs)[0]
        return layer


class MaskedEmbedder(nn.Module):
    """A sentence encoder for token ids and an attention mask."""

    def __init__(self, embedder: SentenceEmbedder) -> None:
        super().__init__()
        self.transformer = embedder.transformer
        self.stages = embedder.stages

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed (n, tokens) int64 token ids; the mask is 0 on padding; -> (n, d)."""
        output = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
        features = {"token_embeddings": output.last_hidden_state, "attention_mask": attention_mask}
        for stage in self.stages:
            features = stage(features)
        embedding: Tensor = features["sentence_embedding"]
        return embedding


class MaskedMean(nn.Module):
    """The mean of the token embeddings of texts, without padding."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed (n, tokens) int64 token ids; the mask is 0 on padding; -> (n, d)."""
        mask = attention_mask[:, :, None].float()
        embedded: Tensor = self.embedding(input_ids) * mask
        return embedded.sum(dim=1) / mask.sum(dim=1)


def make_empty_module(
    backbone: nn.Module | None, shape: KeptShape, n_present: int | None
) -> SlimModule:
    """Build the modules without their weights.

    Parameters
    ----------
    backbone: takes input batches, returns vectors; or None.
    shape: of the kept values.
    n_present: rows of the head; None for no head.
    """
    head = None if n_present is None else nn.Linear(shape.n_kept, n_present)
    return SlimModule(backbone, KeptNeurons(shape), head).eval().requires_grad_(False)


def make_slim_module(
    slim: SlimModel, backbone: nn.Module | None, *, is_cut: bool = False
) -> SlimModule:
    """Build the modules of a slim model.

    Parameters
    ----------
    slim: indices, codec and head.
    backbone: takes input batches, returns (n, n_neurons); or None.
    is_cut: whether the backbone returns only the kept neurons.
    """
    n_present = None if slim.head is None else int(slim.head.classes.size)
    n_inputs = None if slim.matrix is None else slim.n_neurons
    shape = KeptShape(slim.n_kept, slim.precision, n_inputs, slim.short_map is not None)
    module = make_empty_module(backbone, shape, n_present)
    if slim.matrix is not None and module.kept.matrix is not None:
        module.kept.matrix.copy_(torch.from_numpy(slim.matrix))
    else:
        columns = np.arange(slim.n_kept) if is_cut else slim.indices
        module.kept.indices.copy_(torch.from_numpy(columns.astype(np.int64)))
    module.kept.offset.copy_(torch.from_numpy(slim.codec.offset))
    module.kept.step.copy_(torch.from_numpy(slim.codec.step))
    if slim.head is not None and module.head is not None:
        module.head.weight.copy_(torch.from_numpy(slim.head.coef))
        module.head.bias.copy_(torch.from_numpy(slim.head.intercept))
    return module
