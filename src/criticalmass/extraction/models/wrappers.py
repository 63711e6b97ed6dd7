"""Torch modules around a network: input scaling, sentence pooling, reading of layers.

This module imports torch, so it is only imported by functions that need torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.penultimate import TRIAL_ERRORS
from criticalmass.extraction.models.pooling import pool_values

# Largest change of hidden states that counts as rounding, relative to a change by another token.
_SAME_STATES = 1e-5


class ScaledInput(nn.Module):
    """A network for 8-bit images: scales to 0..1, subtracts the mean, divides by the deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        """Run the network on (n, 3, height, width) uint8."""
        return self.net((images.to(torch.float32) / 255.0 - self.mean) / self.std)


class NamedInputs(nn.Module):
    """A network whose inputs are passed by name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """Run the network on name -> (n, ...)."""
        return self.net(**inputs)


class SentenceEmbedder(nn.Module):
    """A transformer and the pooling and normalising stages after it, for unpadded batches.

    Without padding the attention mask is all ones. An encoder gets no mask, which gives the same
    numbers with less work.
    """

    def __init__(
        self, transformer: nn.Module, stages: Sequence[nn.Module], *, with_mask: bool = False
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.stages = nn.ModuleList(stages)
        self._with_mask = with_mask

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed (n, tokens) int64 -> (n, d)."""
        features: dict[str, Any] = {
            "token_embeddings": _hidden_states(
                self.transformer, "input_ids", token_ids, with_mask=self._with_mask
            ),
            "attention_mask": torch.ones_like(token_ids),
        }
        for stage in self.stages:
            features = stage(features)
        embedding: Tensor = features["sentence_embedding"]
        return embedding


class StaticEmbedder(nn.Module):
    """The mean of a text's token embeddings, which do not depend on the other tokens."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        n_tokens, width = vectors.shape
        self.embedding = nn.Embedding(n_tokens, width, _weight=vectors)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed (n, tokens) int64 -> (n, d)."""
        embedded: Tensor = self.embedding(token_ids)
        return embedded.mean(dim=1)


@dataclass(frozen=True)
class _Reading:
    """What one module read or returned in one run: the raw tensor, and its vectors."""

    raw: Tensor
    vectors: Tensor


class TappedModel(nn.Module):
    """Runs a model once and returns the tapped layers, each as (n, n_neurons).

    Attributes
    ----------
    module: the module of the model.
    taps: where the layers are read.
    pooling: layer -> description of its pooling; filled by each pass.
    """

    def __init__(self, model: FrozenModel, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.module = model.module
        self.taps = tuple(taps)
        self.pooling: dict[str, str] = {}
        self._model_name = model.name
        self._pool = model.pool
        self._layout = model.token_layout
        self._tapped_modules = {
            tap.layer: [model.root.get_submodule(path) for path in tap.paths] for tap in self.taps
        }

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run one batch."""
        # Layer -> runs of each of its modules.
        readings: dict[str, list[list[_Reading]]] = {
            tap.layer: [[] for _ in tap.paths] for tap in self.taps
        }
        of_model = [tap for tap in self.taps if not tap.path and tap.side == "output"]
        handles = [
            self._register_hook(tap, module, runs)
            for tap in self.taps
            if tap not in of_model
            for module, runs in zip(
                self._tapped_modules[tap.layer], readings[tap.layer], strict=True
            )
        ]
        try:
            output = self.module(inputs)
        finally:
            for handle in handles:
                handle.remove()
        for tap in of_model:
            readings[tap.layer][0].append(self._read(tap, output))
        return tuple(self._join(layer, modules) for layer, modules in readings.items())

    def _register_hook(self, tap: Tap, module: nn.Module, runs: list[_Reading]) -> Any:
        """Append what a tap reads to a list in each run of its module."""
        # The vectors are made inside the hook, because a later module may overwrite the value in
        # place.
        if tap.side == "input":

            def before(_: nn.Module, args: Any) -> None:
                runs.append(self._read(tap, args))

            return module.register_forward_pre_hook(before)

        def after(_: nn.Module, args: Any, output: Any) -> None:
            runs.append(self._read(tap, output))

        return module.register_forward_hook(after)

    def _join(self, layer: str, modules: Sequence[Sequence[_Reading]]) -> Tensor:
        """Join the vectors of a layer's modules; modules with the same input count once."""
        for runs in modules:
            if len(runs) != 1:
                raise CriticalMassError(
                    f"layer {layer!r} of {self._model_name!r} runs {len(runs)} times in one "
                    "pass; choose a layer that runs once"
                )
        different = distinct_inputs([runs[0].raw for runs in modules])
        vectors = [modules[index][0].vectors for index in different]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)

    def _read(self, tap: Tap, raw: Any) -> _Reading:
        try:
            value = first_tensor(raw)
            if self._pool == "flatten" and self._layout.is_text and value.ndim > 2:
                raise CriticalMassError(
                    "as many tokens as the text; use pool='mean', 'max', 'cls' or 'last'"
                )
            pooled, self.pooling[tap.layer] = pool_values(value, self._pool, self._layout)
        except CriticalMassError as error:
            raise CriticalMassError(
                f"layer {tap.layer!r} of {self._model_name!r} has {error}"
            ) from error
        return _Reading(value, pooled.clone() if pooled is value else pooled)


def distinct_inputs(values: Sequence[Tensor]) -> list[int]:
    """Return the indices of the first occurrence of each tensor object."""
    first = {id(value): index for index, value in reversed([*enumerate(values)])}
    return sorted(first.values())


def first_tensor(value: Any) -> Tensor:
    """Return the tensor in a module's input or output: the value itself, or its first item.

    Raises
    ------
    CriticalMassError: the value contains no tensor. The text completes a sentence that ends in
        "has".
    """
    while isinstance(value, (tuple, list, Mapping)) and value:
        value = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    if not isinstance(value, Tensor):
        raise CriticalMassError(
            f"a value of type {type(value).__name__}, not a tensor; choose another layer"
        )
    return value


def as_tensors(batch: NDArray[Any], device: str) -> Any:
    """Return an input batch as a tensor, or as name -> tensor for several named inputs."""
    if batch.dtype.names:
        return {name: as_tensors(batch[name], device) for name in batch.dtype.names}
    return torch.from_numpy(np.require(batch, requirements=["C", "W"])).to(device)


class HiddenStates(nn.Module):
    """A transformers model that returns only its last hidden states.

    Parameters
    ----------
    transformer: the model.
    argument: name of its input.
    with_mask: whether to pass an attention mask of ones. Decoders need it: without one they look
        for several texts in one row, which OpenVINO cannot convert.
    """

    def __init__(self, transformer: nn.Module, argument: str, *, with_mask: bool = False) -> None:
        super().__init__()
        self.transformer = transformer
        self._argument = argument
        self._with_mask = with_mask

    def forward(self, inputs: Tensor) -> Tensor:
        """Run (n, tokens) int64 or (n, 3, height, width) -> (n, tokens, d) or a map."""
        return _hidden_states(self.transformer, self._argument, inputs, with_mask=self._with_mask)


class JointSpace(nn.Module):
    """One tower of a model of images and texts, with its projection to the joint space.

    Parameters
    ----------
    model: model of transformers that has ``get_image_features`` and ``get_text_features``.
    argument: ``"pixel_values"`` or ``"input_ids"``, which choose the tower.
    length: tokens that every text is continued to; 0: texts have their own length.
    padding: token that a text is continued with.
    """

    def __init__(self, model: nn.Module, argument: str, *, length: int = 0, padding: int = 0):
        super().__init__()
        self.model = model
        self._argument, self._length, self._padding = argument, length, padding

    def forward(self, inputs: Tensor) -> Tensor:
        """Run (n, tokens) int64 or (n, 3, height, width) -> (n, d)."""
        if self._length > inputs.shape[1] and self._argument == "input_ids":
            missing = self._length - inputs.shape[1]
            inputs = nn.functional.pad(inputs, (0, missing), value=self._padding)
        tower = "image" if self._argument == "pixel_values" else "text"
        features: Any = getattr(self.model, f"get_{tower}_features")(**{self._argument: inputs})
        # Since version 5 of transformers the features are one entry of an output.
        vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
        return vectors


class SoundFrames(nn.Module):
    """An encoder of padded spectrograms, and the mean of its states over the frames of the sound.

    The last row of the input marks the frames of the sound. Several frames may make one state.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor) -> Tensor:
        """Run (n, bins + 1, frames) -> (n, d)."""
        states = self.encoder(inputs[:, :-1])
        per_state = inputs.shape[2] // states.shape[1]
        marks = inputs[:, -1, ::per_state, None]
        mean: Tensor = (states * marks).sum(dim=1) / marks.sum(dim=1)
        return mean


def _hidden_states(
    transformer: nn.Module, argument: str, inputs: Tensor, *, with_mask: bool
) -> Tensor:
    """Run a transformers model and return its last hidden states."""
    parameters = inspect.signature(transformer.forward).parameters
    options: dict[str, Any] = {}
    if "use_cache" in parameters:
        # Features do not need a decoder's cache of keys and values, and OpenVINO cannot convert it.
        options["use_cache"] = False
    if with_mask and "attention_mask" in parameters:
        options["attention_mask"] = torch.ones_like(inputs)
    states: Tensor = transformer(**{argument: inputs}, **options).last_hidden_state
    return states


def is_causal(transformer: Any) -> bool:
    """Whether a token's hidden states depend on the tokens before it only.

    Two texts that differ in their last token only are run. In a causal model the states of the
    tokens before it stay the same. A model that does not run on the texts counts as not causal.

    Parameters
    ----------
    transformer: model of transformers that takes token ids.
    """
    try:
        special = (transformer.config.pad_token_id, transformer.config.eos_token_id)
        n_ids = transformer.get_input_embeddings().num_embeddings
        *start, one, other = [token for token in range(n_ids) if token not in special][:6]
        device = next(transformer.parameters()).device
        texts = torch.tensor([[*start, one], [*start, other]], device=device)
        with torch.no_grad():
            states = HiddenStates(transformer, "input_ids")(texts)
    except TRIAL_ERRORS:
        return False
    change = (states[0] - states[1]).abs().amax(dim=-1)
    return bool(change[:-1].max() <= _SAME_STATES * change[-1])


class BlurredConvolution(nn.Module):
    """A fixed binomial blur of 3 x 3 pixels in each channel, then a convolution."""

    blur_filter: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        binomial = torch.tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(binomial, binomial).expand(conv.in_channels, 1, 3, 3)
        self.register_buffer("blur_filter", kernel.contiguous())

    def forward(self, maps: Tensor) -> Tensor:
        """Run (n, channels, height, width)."""
        blurred = nn.functional.conv2d(
            maps, self.blur_filter, padding=1, groups=self.conv.in_channels
        )
        convolved: Tensor = self.conv(blurred)
        return convolved


class NestedClassifiers(nn.Module):
    """One classifier per size; each reads that number of first neurons (Matryoshka)."""

    def __init__(self, sizes: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self._sizes = tuple(sizes)
        for number, size in enumerate(self._sizes):
            self.add_module(f"nesting_classifier_{number}", nn.Linear(size, n_classes))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each classifier for (n, d)."""
        pairs = zip(self.children(), self._sizes, strict=True)
        return tuple(classifier(features[:, :size]) for classifier, size in pairs)


class FirstNeurons(nn.Module):
    """Return the first neurons of (n, d)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def forward(self, features: Tensor) -> Tensor:
        """Cut (n, d) to (n, size)."""
        return features[:, : self._size]
