"""Networks of the paper that timm has no name for, built from timm's.

WideResNet50-4 (Salman et al., 2020), and ResNet50 as Kusupati et al. (2022) trained it: with
nested classifiers (Matryoshka), or with one classifier that reads only the first neurons (fixed
feature widths). Both ResNet50 networks blur before they stride.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

MATRYOSHKA_SIZES = tuple(2**power for power in range(3, 12))
# timm's network with the same architecture and preprocessing.
_RESNET50 = "resnet50.tv_in1k"
_MIN_BLURRED_CHANNELS = 16
_FIXED_WIDTH = re.compile(r"resnet50_ff(\d+)")
NAMES = (
    "wide_resnet50_4",
    "resnet50_mrl",
    *(f"resnet50_ff{size}" for size in MATRYOSHKA_SIZES),
)


def build(timm: Any, name: str) -> nn.Module:
    """Build one of ``NAMES`` with random weights."""
    if name == "wide_resnet50_4":
        wide: nn.Module = timm.create_model(
            "wide_resnet50_2.tv_in1k", pretrained=False, base_width=256
        )
        return wide
    from torch import nn

    from criticalmass.extraction.models.wrappers import FirstNeurons, NestedClassifiers

    resnet: Any = timm.create_model(_RESNET50, pretrained=False)
    fixed_width = _FIXED_WIDTH.fullmatch(name)
    if fixed_width is None:
        resnet.fc = NestedClassifiers(MATRYOSHKA_SIZES, resnet.num_classes)
    else:
        # The representation is the input of the classifier.
        size = int(fixed_width[1])
        resnet.global_pool = nn.Sequential(resnet.global_pool, FirstNeurons(size))
        resnet.fc = nn.Linear(size, resnet.num_classes)
    net: nn.Module = resnet
    add_blur(net)
    return net


def add_blur(net: nn.Module) -> None:
    """Add a blur before every strided convolution with at least 16 input channels, in place.

    The method is that of Zhang (2019). The modules have the form and the names of the FFCV
    training script, because the published weights use these names.
    """
    from torch import nn

    from criticalmass.extraction.models.wrappers import BlurredConvolution

    for name, child in list(net.named_children()):
        if isinstance(child, BlurredConvolution):
            continue
        if (
            isinstance(child, nn.Conv2d)
            and max(child.stride) > 1
            and child.in_channels >= _MIN_BLURRED_CHANNELS
        ):
            setattr(net, name, BlurredConvolution(child))
        else:
            add_blur(child)


def remove_blur(net: nn.Module) -> None:
    """Undo ``add_blur``, for the weights of a network that was trained without blur."""
    from criticalmass.extraction.models.wrappers import BlurredConvolution

    for name, child in list(net.named_children()):
        if isinstance(child, BlurredConvolution):
            setattr(net, name, child.conv)
        else:
            remove_blur(child)
