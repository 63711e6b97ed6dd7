"""The images of a recipe in memory: label schemes, splits and augmentation.

This module imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset
from criticalmass.extraction.datasets.splits import stratified_sample
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.training.recipe import GIVEN, ROTATION, SHUFFLED, Data

N_ROTATIONS = 4
# Seed of the rows that are sampled and held out: the same for every training seed.
_SPLIT_SEED = 0
# Largest shift of an image, as a share of its side, and strengths of the views.
_SHIFT = 0.1
_SMALLEST_SCALE = 0.6
_CONTRAST = 0.4


@dataclass(frozen=True)
class LabelledImages:
    """Images and the labels that the recipe gives them.

    Attributes
    ----------
    images: (n, 3, pixels, pixels) uint8.
    labels: (n,) int64, those that the network is trained on.
    given: (n,) int64, the classes of the dataset.
    rotates: whether an image is turned at each use and its label says how.
    """

    images: Tensor
    labels: Tensor
    given: Tensor
    rotates: bool = False

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TrainingData:
    """The data of a recipe.

    Attributes
    ----------
    train, validation, test: the images; the validation images may be none.
    class_names: the names of the classes that the network is trained on.
    majority: share of the largest class among the test labels.
    """

    train: LabelledImages
    validation: LabelledImages | None
    test: LabelledImages
    class_names: tuple[str, ...]
    majority: float


def prepare_data(
    data: Data, dataset: Dataset, preprocess: ImagePreprocess, seed: int
) -> TrainingData:
    """Prepare the images of a recipe.

    Parameters
    ----------
    data: the recipe's keys.
    dataset: the loaded dataset.
    preprocess: resizes and crops the images.
    seed: training seed; it fixes which labels are shuffled, and nothing else here.

    Raises
    ------
    CriticalMassError: no images, a label scheme that leaves one class, or a sample that is too
        large or too small.
    """
    if dataset.modality != "image":
        raise CriticalMassError(
            f"dataset {data.dataset!r} holds {dataset.modality}s; recipes train on images"
        )
    scheme = _LabelScheme.of(data, dataset.class_names)
    train, test = dataset.splits["train"], dataset.splits["test"]
    rows = np.arange(len(train))
    if data.n:
        if not len(dataset.class_names) <= data.n <= len(train):
            raise CriticalMassError(
                f"n={data.n} of {data.dataset!r} must be from {len(dataset.class_names)} (the "
                f"classes) to {len(train):,} (the training images)"
            )
        rows = stratified_sample(train.labels, data.n, _SPLIT_SEED)
    held = _held_out(train.labels[rows], data.validation)
    kept_rows, held_rows = rows[~held], rows[held]
    labels = scheme.apply(train.labels[kept_rows])
    if data.labels == SHUFFLED:
        labels = np.random.default_rng(seed).permutation(labels)
    _check_classes(data, labels)

    def read(split_rows: NDArray[np.intp], of: str, given: NDArray[np.int64]) -> LabelledImages:
        images = _read_images(dataset, of, split_rows, preprocess)
        classes = torch.from_numpy(dataset.splits[of].labels[split_rows])
        return LabelledImages(images, torch.from_numpy(given), classes, data.labels == ROTATION)

    test_labels = scheme.apply(test.labels)
    return TrainingData(
        train=read(kept_rows, "train", labels),
        validation=(
            read(held_rows, "train", scheme.apply(train.labels[held_rows]))
            if len(held_rows)
            else None
        ),
        test=read(np.arange(len(test)), "test", test_labels),
        class_names=scheme.class_names,
        majority=scheme.majority(test_labels),
    )


@dataclass(frozen=True)
class _LabelScheme:
    """New labels of the dataset's classes.

    Attributes
    ----------
    group_of: (n_classes of the dataset,) new class number.
    class_names: names of the new classes, with those of rotations.
    """

    group_of: NDArray[np.int64]
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, data: Data, names: Sequence[str]) -> _LabelScheme:
        """Make the scheme of a recipe.

        Raises
        ------
        CriticalMassError: groups that are not those of the classes.
        """
        n_classes, scheme = len(names), data.labels
        if scheme in (GIVEN, SHUFFLED):
            return cls(np.arange(n_classes), tuple(names))
        if scheme == ROTATION:
            turned = [f"{name}, turned {90 * k}" for name in names for k in range(N_ROTATIONS)]
            return cls(np.arange(n_classes), tuple(turned))
        if isinstance(scheme, int):
            if scheme > n_classes:
                raise CriticalMassError(
                    f"labels: {scheme} groups of the {n_classes} classes of {data.dataset!r}; "
                    f"use at most {n_classes}"
                )
            group_of = np.arange(n_classes) * scheme // n_classes
        else:
            listed = sorted(number for group in scheme for number in group)
            if listed != list(range(n_classes)):
                raise CriticalMassError(
                    f"labels: the groups list the classes {listed}, and {data.dataset!r} has the "
                    f"classes 0 to {n_classes - 1}; list each once"
                )
            group_of = np.zeros(n_classes, dtype=np.int64)
            for number, group in enumerate(scheme):
                group_of[list(group)] = number
        groups = [
            " or ".join(names[int(k)] for k in np.flatnonzero(group_of == g))
            for g in np.unique(group_of)
        ]
        return cls(group_of, tuple(groups))

    def apply(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the new labels."""
        return self.group_of[labels]

    def majority(self, labels: NDArray[np.int64]) -> float:
        """Return the share of the most frequent class; each orientation is as frequent."""
        share = float(np.bincount(labels).max() / len(labels))
        has_rotations = len(self.class_names) == N_ROTATIONS * len(self.group_of)
        return share / N_ROTATIONS if has_rotations else share


def _check_classes(data: Data, labels: NDArray[np.int64]) -> None:
    if len(np.unique(labels)) < 2:
        raise CriticalMassError(
            f"labels={data.labels!r} of {data.dataset!r} leave one class among the training "
            "images; a network needs two"
        )


def _held_out(labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Mark a stratified share of the rows, at least one row per class if it is not zero."""
    held = np.zeros(len(labels), dtype=bool)
    if share:
        size = max(len(np.unique(labels)), round(share * len(labels)))
        if size >= len(labels):
            raise CriticalMassError(
                f"validation={share:g} of {len(labels)} training images leaves none; use a larger n"
            )
        held[stratified_sample(labels, size, _SPLIT_SEED)] = True
        lost = np.setdiff1d(labels, labels[~held])
        if len(lost):
            raise CriticalMassError(
                f"validation={share:g} of {len(labels)} training images leaves none of class "
                f"{lost[0]}; use a larger n, or validation: 0"
            )
    return held


def _read_images(
    dataset: Dataset, split: str, rows: NDArray[np.intp], preprocess: ImagePreprocess
) -> Tensor:
    from criticalmass.extraction.datasets.splits import take_items

    items = take_items(dataset.splits[split].items, rows)
    images = np.empty((len(rows), 3, preprocess.pixels, preprocess.pixels), dtype=np.uint8)
    for part, batch in preprocess.batches(items, None):
        images[part] = batch
    return torch.from_numpy(images)


def turn(images: Tensor, labels: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each image by a multiple of 90 degrees, and number its class by the orientation.

    Parameters
    ----------
    images: (n, 3, pixels, pixels).
    labels: (n,) class numbers without orientation.
    turns: (n,) numbers of quarter turns, 0 to 3.
    """
    turned = images.clone()
    for count in range(1, N_ROTATIONS):
        rows = turns == count
        turned[rows] = torch.rot90(images[rows], count, (2, 3))
    return turned, labels * N_ROTATIONS + turns


def augment(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Change each image at random.

    Parameters
    ----------
    images: (n, 3, pixels, pixels) in 0..1.
    how: as of `recipe.Data`.
    generator: on the CPU; the same draws on every device.
    """
    if how == "none":
        return images
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        values = torch.rand(count, generator=generator) * (high - low) + low
        return values.to(images.device)

    is_view = how == "views"
    scale = draw(_SMALLEST_SCALE, 1.0) if is_view else torch.ones(count, device=images.device)
    reach = (1 - scale) + 2 * _SHIFT
    shift_x, shift_y = draw(-1.0, 1.0) * reach, draw(-1.0, 1.0) * reach
    flip = torch.ones(count, device=images.device)
    if how in ("crop-flip", "views"):
        flip = torch.where(draw(0.0, 1.0) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(scale)
    matrix = torch.stack(
        [torch.stack([scale * flip, zero, shift_x], 1), torch.stack([zero, scale, shift_y], 1)], 1
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    if not is_view:
        return moved
    contrast = draw(1 - _CONTRAST, 1 + _CONTRAST).view(-1, 1, 1, 1)
    brightness = draw(-_CONTRAST / 2, _CONTRAST / 2).view(-1, 1, 1, 1)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return ((moved - mean) * contrast + mean + brightness).clamp(0, 1)
