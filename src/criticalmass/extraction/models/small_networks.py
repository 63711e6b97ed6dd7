"""Small image networks that are trained here, and the head that any image network is trained with.

This module imports torch, so it is only imported by functions that need torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.models.optional_imports import import_after_torchvision


@dataclass(frozen=True)
class NetworkShape:
    """All that is needed to build a network with random weights.

    Attributes
    ----------
    name: one of `SMALL_NETWORKS`, or the name of a network of timm.
    width: channels of the first stage of a ResNet, or width of the tokens of ``vit4``; not used by
        networks of timm.
    neurons: neurons of a layer before the classifier (a 1x1 convolution before the mean over
        positions, or a linear map of a vector, then batch normalisation and ReLU); 0 for none.
    pixels: side of the square input.
    outputs: number of classes of the classifier; 0 for none.
    """

    name: str
    width: int
    neurons: int
    pixels: int
    outputs: int


class TrainableNetwork(nn.Module):
    """A body, a layer of neurons, and a linear classifier.

    Parameters
    ----------
    body: maps (n, 3, pixels, pixels) to (n, channels, height, width) or (n, channels).
    n_channels: number of channels of the body.
    neurons, outputs: as of `NetworkShape`.

    Attributes
    ----------
    n_neurons: width of the penultimate layer.
    head: the classifier; ``Identity`` without classes.
    """

    def __init__(self, body: nn.Module, n_channels: int, neurons: int, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.n_neurons = neurons or n_channels
        self.expand = nn.Linear(n_channels, neurons, bias=False) if neurons else None
        self.norm = nn.BatchNorm1d(neurons) if neurons else None
        self.head: nn.Module = nn.Linear(self.n_neurons, outputs) if outputs else nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        """Return the (n, n_neurons) activations of the penultimate layer."""
        values: Tensor = self.body(images)
        if self.expand is None or self.norm is None:
            return values.mean(dim=(2, 3)) if values.ndim == 4 else values
        if values.ndim == 2:
            return F.relu(self.norm(self.expand(values)))
        # A linear map of every position is a 1x1 convolution.
        count, _, height, width = values.shape
        rows = self.expand(values.permute(0, 2, 3, 1).reshape(-1, values.shape[1]))
        return F.relu(self.norm(rows)).reshape(count, height * width, -1).mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the (n, outputs) logits; the features without a classifier."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def get_classifier(self) -> nn.Linear | None:
        """Return the classifier, as networks of timm do; None without one."""
        return self.head if isinstance(self.head, nn.Linear) else None

    def linear_head(self) -> nn.Linear:
        """Return the classifier of a network that has one.

        Raises
        ------
        CriticalMassError: it has none.
        """
        classifier = self.get_classifier()
        if classifier is None:
            raise CriticalMassError("the network has no classifier")
        return classifier


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


def _resnet(width: int, blocks: int) -> nn.Module:
    """Return a ResNet for small images: three stages of so many blocks (He et al. 2016, 4.2)."""
    parts: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    n_in = width
    for stage in range(3):
        n_out = width * 2**stage
        for index in range(blocks):
            parts.append(_Block(n_in, n_out, 2 if stage and not index else 1))
            n_in = n_out
    return nn.Sequential(*parts)


_VIT_HEADS = 4
_VIT_BLOCKS = 4
_VIT_PATCHES = 7
# Name -> blocks of a stage.
_RESNETS: Mapping[str, int] = {"resnet8": 1, "resnet20": 3}
VIT = "vit4"
SMALL_NETWORKS = (*_RESNETS, VIT)
"""The networks that need no other library than torch, and the small vision transformer."""


def build_network(shape: NetworkShape) -> TrainableNetwork:
    """Build a network with random weights, drawn from torch's global generator.

    Raises
    ------
    CriticalMassError: the network is unknown, or does not take images of that size.
    """
    if shape.name in _RESNETS:
        body, n_channels = _resnet(shape.width, _RESNETS[shape.name]), 4 * shape.width
    elif shape.name == VIT:
        body, n_channels = _vision_transformer(shape), shape.width
    else:
        body, n_channels = _timm_body(shape)
    return TrainableNetwork(body, n_channels, shape.neurons, shape.outputs)


def check_network_name(name: str) -> None:
    """Check the name of a network without building it.

    Raises
    ------
    CriticalMassError: neither a small network nor one of timm.
    """
    if name in SMALL_NETWORKS:
        return
    timm = import_after_torchvision("timm", "torch")
    if not timm.is_model(name):
        raise unknown_name("network", name, [*SMALL_NETWORKS, *timm.list_models()])


def _vision_transformer(shape: NetworkShape) -> nn.Module:
    vision_transformer = import_after_torchvision("timm.models.vision_transformer", "torch")
    patch = max(1, shape.pixels // _VIT_PATCHES)
    if shape.pixels % patch or shape.width % _VIT_HEADS:
        raise CriticalMassError(
            f"{VIT} of width {shape.width} on {shape.pixels} pixels: the width must be a multiple "
            f"of {_VIT_HEADS} and the pixels of {patch}"
        )
    net: nn.Module = vision_transformer.VisionTransformer(
        img_size=shape.pixels,
        patch_size=patch,
        embed_dim=shape.width,
        depth=_VIT_BLOCKS,
        num_heads=_VIT_HEADS,
        num_classes=0,
        global_pool="avg",
    )
    return net


def _timm_body(shape: NetworkShape) -> tuple[nn.Module, int]:
    timm: Any = import_after_torchvision("timm", "torch")
    check_network_name(shape.name)
    net = timm.create_model(shape.name, pretrained=False, num_classes=0)
    try:
        if hasattr(net, "set_input_size"):
            net.set_input_size(img_size=shape.pixels)
        with torch.no_grad():
            width = net.eval()(torch.zeros(1, 3, shape.pixels, shape.pixels)).shape[-1]
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0][:160]
        raise CriticalMassError(
            f"network {shape.name!r} does not take {shape.pixels} pixels ({reason}); set pixels"
        ) from error
    return net.train(), int(width)
