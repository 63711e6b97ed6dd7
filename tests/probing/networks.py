"""Small networks whose blind spots are known, and images for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.models.wrappers import ScaledInput

PIXELS = 8
WIDTH = 12
#: Neurons that read the left half of the image; the others read the right half.
LEFT = 6


class LinearNetwork(nn.Module):
    """Neurons that are linear in the pixels of the first channel, and a classifier.

    With ``copies`` the last neurons are those of the first half once more; otherwise they read the
    other half of the image, so that the first half has a planted blind spot.
    """

    def __init__(self, *, copies: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        half = PIXELS // 2
        weights = torch.zeros(WIDTH, 3, PIXELS, PIXELS)
        weights[:LEFT, 0, :, :half] = torch.randn(LEFT, PIXELS, half, generator=generator)
        if copies:
            weights[LEFT:] = weights[:LEFT]
        else:
            others = torch.randn(WIDTH - LEFT, PIXELS, half, generator=generator)
            weights[LEFT:, 0, :, half:] = others
        self.weights = nn.Parameter(weights.flatten(1))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1) @ self.weights.T)
        return logits

    def get_classifier(self) -> nn.Linear:
        return self.head


def linear_model(*, copies: bool = False) -> FrozenModel:
    """Return the network as a model of images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = LinearNetwork(copies=copies).eval().requires_grad_(False)
    preprocess = ImagePreprocess(PIXELS, PIXELS, "bilinear", mean=(0.0,), std=(1.0,))
    return FrozenModel(
        spec=f"test:{'copies' if copies else 'planted'}",
        name="linear",
        modality="image",
        module=ScaledInput(net, (0.0,), (1.0,)).eval(),
        root=net,
        preprocess=preprocess,
        weights="test",
        weights_digest="0" * 64,
        penultimate=Tap("penultimate", "head", "input"),
    )


def noise_images(n_train: int = 80, n_test: int = 30) -> Dataset:
    """Return images of grey noise around the middle of the range, in two classes."""
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        items = rng.integers(96, 160, (n, PIXELS, PIXELS, 3)).astype(np.uint8)
        return Split(items, np.arange(n) % 2, [str(i) for i in range(n)])

    return Dataset(
        "test:noise", "noise", "image", {"train": split(n_train), "test": split(n_test)}, ("a", "b")
    )
