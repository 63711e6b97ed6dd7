"""A frozen image network as a differentiable function of pixels. This module imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset
from criticalmass.extraction.datasets.dataset import UNITS
from criticalmass.extraction.engines.torch_engine import device_of, exact_products
from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.pixel_order import pixel_order
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.models.wrappers import TappedModel

_LEVELS = 255.0
_IMAGES_PER_PASS = 64


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network says of images.

    Attributes
    ----------
    features: (n, n_neurons) activations of the layer.
    logits: (n, n_classes) outputs of its classifier; None without one.
    """

    features: Tensor
    logits: Tensor | None


class ImageNetwork:
    """A layer and the classifier of a frozen network, as functions of images in 0..1.

    Parameters
    ----------
    model: an image model that runs in torch.
    layer: name of the layer.

    Attributes
    ----------
    model: the model.
    layer: name of the layer.
    device: of the model.

    Raises
    ------
    CriticalMassError: the model takes no images, has no gradient, or has no such layer.
    """

    def __init__(self, model: FrozenModel, layer: str = "penultimate") -> None:
        if model.modality != "image" or not isinstance(model.preprocess, ImagePreprocess):
            raise CriticalMassError(
                f"model {model.spec!r} takes {UNITS[model.modality]}; a search for images needs a "
                "network of images, e.g. pypi:efficientnet-lite0"
            )
        if not isinstance(model.module, torch.nn.Module):
            raise CriticalMassError(
                f"model {model.spec!r} has no gradient; give the network in torch, e.g. as timm:"
            )
        self.model = model
        self.layer = layer
        self.device = torch.device(device_of(model))
        tap = model.tap(layer)
        has_classes = bool(model.penultimate.path)
        taps = [tap, Tap("logits", "", "output")] if has_classes else [tap]
        self._tapped = TappedModel(model, taps).eval()
        self._order = pixel_order(model.module)
        if model.live is None:
            module: Any = model.module
            module.to(memory_format=self._order)

    @property
    def pixels(self) -> int:
        """Side of the square images."""
        return int(self.model.preprocess.settings["centre_crop"])

    def read(self, images: Tensor) -> Reading:
        """Read images (n, 3, pixels, pixels) in 0..1, with gradients if they need them."""
        scaled = (images * _LEVELS).contiguous(memory_format=self._order)
        with exact_products():
            outputs = self._tapped(scaled)
        return Reading(outputs[0].float(), outputs[1].float() if len(outputs) > 1 else None)

    @torch.no_grad()
    def read_all(self, images: Tensor) -> Reading:
        """Read any number of images in 0..1, on any device, without gradients."""
        parts = [self.read(part.to(self.device)) for part in torch.split(images, _IMAGES_PER_PASS)]
        logits = [part.logits for part in parts if part.logits is not None]
        return Reading(
            torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None
        )

    def prepare(self, items: Any) -> Tensor:
        """Return the network's images of some samples, (n, 3, pixels, pixels) in 0..1."""
        batches = [batch for _, batch in self.model.preprocess.batches(items, _IMAGES_PER_PASS)]
        return torch.from_numpy(np.concatenate(batches)).float() / _LEVELS

    def predict(self, images: Tensor) -> NDArray[np.int64]:
        """Return the (n,) class of each image of another size, in 0..1, rounded to 8 bits.

        Raises
        ------
        CriticalMassError: the network has no classifier.
        """
        levels = (images * _LEVELS).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        logits = self.read_all(self.prepare(np.ascontiguousarray(levels))).logits
        if logits is None:
            raise CriticalMassError(
                f"model {self.model.spec!r} has no classifier; give another judge"
            )
        return logits.argmax(dim=1).cpu().numpy().astype(np.int64)


def check_images(model: FrozenModel, dataset: Dataset) -> None:
    """Check that a dataset has what a model takes.

    Raises
    ------
    CriticalMassError: it has not.
    """
    if model.modality != dataset.modality:
        raise CriticalMassError(
            f"model {model.spec!r} takes {UNITS[model.modality]}, dataset {dataset.spec!r} holds "
            f"{UNITS[dataset.modality]}; give a dataset of {UNITS[model.modality]}"
        )


def select_items(items: Sequence[Any] | NDArray[Any], rows: NDArray[np.intp]) -> Any:
    """Return some samples of a split, in the order of ``rows``."""
    return items[rows] if isinstance(items, np.ndarray) else [items[int(row)] for row in rows]
