"""Networks of the paper that timm has no name for, made of timm's.

WideResNet50-4 (Salman et al., 2020), and ResNet50 as Kusupati et al. (2022) trained it: with
nested classifiers (Matryoshka), or with one that reads the first neurons alone (fixed feature
widths); both blur before they stride.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

MATRYOSHKA_SIZES = tuple(2**power for power in range(3, 12))
_PREPARED_LIKE = "resnet50.tv_in1k"
_BLURRED_CHANNELS = 16
_FIXED = re.compile(r"resnet50_ff(\d+)")
NAMES = (
    "wide_resnet50_4",
    "resnet50_mrl",
    *(f"resnet50_ff{size}" for size in MATRYOSHKA_SIZES),
)


def build(timm: Any, name: str) -> nn.Module:
    """Build one of ``NAMES``, its weights at random."""
    if name == "wide_resnet50_4":
        wide: nn.Module = timm.create_model(
            "wide_resnet50_2.tv_in1k", pretrained=False, base_width=256
        )
        return wide
    from torch import nn

    from criticalmass.extraction.models.wrappers import FirstNeurons, NestedClassifiers

    net: Any = timm.create_model(_PREPARED_LIKE, pretrained=False)
    fixed = _FIXED.fullmatch(name)
    if fixed is None:
        net.fc = NestedClassifiers(MATRYOSHKA_SIZES, net.num_classes)
    else:
        # Its representation is what its classifier reads.
        size = int(fixed[1])
        net.global_pool = nn.Sequential(net.global_pool, FirstNeurons(size))
        net.fc = nn.Linear(size, net.num_classes)
    blurred: nn.Module = net
    add_blur(blurred)
    return blurred


def add_blur(net: nn.Module) -> None:
    """Blur before every convolution that strides and reads 16 channels or more, in place.

    As in Zhang (2019), in the form of the FFCV training script, by which such networks name their
    weights.
    """
    from torch import nn

    from criticalmass.extraction.models.wrappers import BlurredConvolution

    for name, child in list(net.named_children()):
        if isinstance(child, BlurredConvolution):
            continue
        strides = isinstance(child, nn.Conv2d) and max(child.stride) > 1
        if isinstance(child, nn.Conv2d) and strides and child.in_channels >= _BLURRED_CHANNELS:
            setattr(net, name, BlurredConvolution(child))
        else:
            add_blur(child)


def remove_blur(net: nn.Module) -> None:
    """Undo ``add_blur``: for weights of a network that was trained without."""
    from criticalmass.extraction.models.wrappers import BlurredConvolution

    for name, child in list(net.named_children()):
        if isinstance(child, BlurredConvolution):
            setattr(net, name, child.conv)
        else:
            remove_blur(child)
