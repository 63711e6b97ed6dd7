"""Torch modules around a network: input scaling, sentence pooling, and reading of layers.

Imported only where a model is loaded, since it needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from criticalmass.errors import CriticalMassError
from criticalmass.models.frozen import FrozenModel, Tap


class ScaledInput(nn.Module):
    """Scale 8-bit images to 0..1, subtract the mean, divide by the deviation, then the network."""

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


class SentenceEmbedder(nn.Module):
    """A transformer and the pooling (and normalising) stages after it, for unpadded batches.

    Without padding the attention mask is all ones, and leaving it away gives the same numbers
    from less work.
    """

    def __init__(self, transformer: nn.Module, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.transformer = transformer
        self.stages = nn.ModuleList(stages)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed (n, tokens) int64 -> (n, d)."""
        tokens = self.transformer(input_ids=token_ids).last_hidden_state
        features: dict[str, Any] = {
            "token_embeddings": tokens,
            "attention_mask": torch.ones_like(token_ids),
        }
        for stage in self.stages:
            features = stage(features)
        embedding: Tensor = features["sentence_embedding"]
        return embedding


class Tapped(nn.Module):
    """Runs a model once and returns the asked layers, each as (n, n_neurons).

    Attributes
    ----------
    pooling: layer -> what was done to make a vector of it; filled by each pass.
    """

    def __init__(self, model: FrozenModel, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.module = model.module
        self.taps = tuple(taps)
        self.pooling: dict[str, str] = {}
        self._model_name = model.name
        self._places = {tap.layer: model.root.get_submodule(tap.path) for tap in self.taps}
        self._channels_last = getattr(model.root, "output_fmt", None) == "NHWC"

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run one batch."""
        seen: dict[str, list[Tensor]] = {tap.layer: [] for tap in self.taps}
        whole = [tap for tap in self.taps if not tap.path and tap.side == "output"]
        handles = [self._listen(tap, seen[tap.layer]) for tap in self.taps if tap not in whole]
        try:
            output = self.module(inputs)
        finally:
            for handle in handles:
                handle.remove()
        for tap in whole:
            seen[tap.layer].append(self._vector(tap, output))
        for layer, found in seen.items():
            if len(found) != 1:
                raise CriticalMassError(
                    f"layer {layer!r} of {self._model_name!r} runs {len(found)} times in one "
                    "pass; choose a layer that runs once"
                )
        return tuple(found[0] for found in seen.values())

    def _listen(self, tap: Tap, found: list[Tensor]) -> Any:
        place = self._places[tap.layer]
        # The vector is made on the spot: what runs next may overwrite the value in place.
        if tap.side == "input":

            def before(_: nn.Module, args: Any) -> None:
                found.append(self._vector(tap, args))

            return place.register_forward_pre_hook(before)

        def after(_: nn.Module, args: Any, output: Any) -> None:
            found.append(self._vector(tap, output))

        return place.register_forward_hook(after)

    def _vector(self, tap: Tap, raw: Any) -> Tensor:
        value = _first(raw)
        if value.ndim == 2:
            self.pooling[tap.layer] = "none"
            return value.clone()
        if value.ndim == 3:
            self.pooling[tap.layer] = "mean over tokens"
            return value.mean(dim=1)
        if value.ndim == 4:
            self.pooling[tap.layer] = "mean over positions"
            return value.mean(dim=(1, 2) if self._channels_last else (2, 3))
        raise CriticalMassError(
            f"layer {tap.layer!r} of {self._model_name!r} gives the shape {tuple(value.shape)}; "
            "only (n, d), (n, tokens, d) and (n, channels, height, width) can be read"
        )


def _first(value: Any) -> Tensor:
    """Take the tensor out of what a module takes or gives (a tensor, or a tuple that starts so)."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        raise CriticalMassError(
            f"a layer gives {type(value).__name__}, not a tensor; choose another"
        )
    return value
