"""The images of an inversion: targets, other images, training rows. This module imports torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset
from criticalmass.extraction.datasets.dataset import Split
from criticalmass.measures.protocol import validation_rows
from criticalmass.probing.network import ImageNetwork, Reading, select_items
from criticalmass.probing.pictures import rms
from criticalmass.probing.request import InversionRequest
from criticalmass.probing.subsets import Subset, SubsetSplit, make_subsets, subset_sizes
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.storage.features import UNLABELLED

# Test images that no search aims at: they give the distances of unrelated images, R^2, and the
# starting points.
_MOST_OTHERS = 1000


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some images of a split, with what the network says of them.

    Attributes
    ----------
    images: (n, 3, pixels, pixels) in 0..1.
    labels: (n,) classes; all 0 without labels.
    ids: their names.
    reading: activations and logits.
    """

    images: Tensor
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    reading: Reading


@dataclass(frozen=True, eq=False)
class Unrelated:
    """Root mean square distances of a target from unrelated images.

    Attributes
    ----------
    rows: (n_unrelated,) their places among the other images.
    kept, dropped: (n_subsets,) distance of the kept and of the dropped neurons.
    pixels: RMS of pixels.
    """

    rows: NDArray[np.intp]
    kept: Tensor
    dropped: Tensor
    pixels: float


@dataclass(frozen=True, eq=False)
class Scene:
    """All that the searches of one inversion share.

    Attributes
    ----------
    network: the network.
    targets: the images that are searched for.
    others: other test images.
    subsets: the subsets.
    split: divides distances among them.
    """

    network: ImageNetwork
    targets: ImageSet
    others: ImageSet
    subsets: tuple[Subset, ...]
    split: SubsetSplit

    def unrelated(self, target: int) -> Unrelated:
        """Return the distances of a target from images of other classes, or from all others."""
        rows = np.flatnonzero(self.others.labels != self.targets.labels[target])
        if not len(rows):
            rows = np.arange(len(self.others.labels))
        differences = (
            self.others.reading.features[torch.from_numpy(rows)]
            - self.targets.reading.features[target]
        )
        kept, dropped = [], []
        for number in range(len(self.subsets)):
            of = torch.full((len(rows),), number, device=differences.device)
            parts = self.split(differences, of)
            kept.append(parts[0].mean().sqrt())
            dropped.append(parts[1].mean().sqrt())
        images = self.others.images[torch.from_numpy(rows)]
        distances = rms(images, self.targets.images[target : target + 1].expand_as(images))
        pixels = float(distances.square().mean().sqrt())
        return Unrelated(rows, torch.stack(kept), torch.stack(dropped), pixels)


def make_scene(network: ImageNetwork, dataset: Dataset, request: InversionRequest) -> Scene:
    """Choose the images, read them, and choose the subsets.

    Raises
    ------
    CriticalMassError: there are too few images, or a subset does not fit the layer.
    """
    test, train = dataset.splits["test"], dataset.splits["train"]
    if request.images >= len(test):
        raise CriticalMassError(
            f"images={request.images} but dataset {dataset.spec!r} has {len(test)} test images; "
            "one more is needed to start from"
        )
    rng = np.random.default_rng(request.seed)
    order = rng.permutation(len(test))
    targets = _read(network, test, order[: request.images])
    others = _read(network, test, order[request.images :][:_MOST_OTHERS])
    rows = np.sort(rng.permutation(len(train))[: request.reference])
    reference = _read(network, train, rows)
    width = int(reference.reading.features.shape[1])
    sizes = subset_sizes(request.keep, request.sizes, width, request.layer)
    has_labels = dataset.class_names not in ((), UNLABELLED)
    layer = SelectorInput(
        width,
        rows=reference.reading.features.cpu().numpy(),
        labels=reference.labels if has_labels else None,
        n_classes=len(dataset.class_names) if has_labels else 0,
        validation=validation_rows(reference.labels) if has_labels else None,
    )
    test_rows = others.reading.features.cpu().numpy()
    subsets = make_subsets(layer, test_rows, sizes, request.selectors, request.seeds)
    split = SubsetSplit(subsets, width, network.device)
    return Scene(network, targets, others, tuple(subsets), split)


def _read(network: ImageNetwork, split: Split, rows: NDArray[np.intp]) -> ImageSet:
    images = network.prepare(select_items(split.items, rows)).to(network.device)
    ids = tuple(str(split.ids[int(row)]) for row in rows)
    return ImageSet(images, split.labels[rows], ids, network.read_all(images))
