"""Label schemes, samples, splits and augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.datasets.dataset import Dataset
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.training.data import LabelledImages, TrainingData, augment, prepare_data, turn
from criticalmass.training.evaluation import NetworkReader
from criticalmass.training.recipe import Data

N_CLASSES, PIXELS = 4, 8
PREPROCESS = ImagePreprocess(PIXELS, PIXELS, "bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)


def images_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return grey images whose first pixel is their class."""
    images = np.random.default_rng(seed).integers(10, 250, (len(labels), PIXELS, PIXELS))
    images[:, 0, 0] = labels
    return images.astype(np.uint8)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    train = np.repeat(np.arange(N_CLASSES), [40, 30, 20, 10])
    test = np.arange(24) % N_CLASSES
    return load_dataset(
        {"train": (images_of(train, 0), train), "test": (images_of(test, 1), test)}  # type: ignore[arg-type]
    )


def prepare(dataset: Dataset, seed: int = 0, **keys: Any) -> TrainingData:
    return prepare_data(Data(dataset="sklearn:digits", **keys), dataset, PREPROCESS, seed)


def given(part: LabelledImages) -> list[int]:
    """Return the true classes of the images."""
    return [int(one) for one in part.images[:, 0, 0, 0]]


def test_given_labels_are_those_of_the_dataset_and_the_validation_is_stratified(
    dataset: Dataset,
) -> None:
    data = prepare(dataset, validation=0.2)
    assert data.validation is not None
    assert np.bincount(data.validation.labels).tolist() == [8, 6, 4, 2]
    assert np.bincount(data.train.labels).tolist() == [32, 24, 16, 8]
    for part in (data.train, data.validation, data.test):
        assert part.labels.tolist() == given(part)
    train, held = (
        {bytes(one.numpy().tobytes()) for one in part.images}
        for part in (data.train, data.validation)
    )
    assert len(train | held) == 100
    assert not train & held
    assert data.majority == pytest.approx(0.25)
    assert prepare(dataset, validation=0).validation is None


def test_the_rows_do_not_depend_on_the_training_seed(dataset: Dataset) -> None:
    a, b = (prepare(dataset, seed, n=40) for seed in (0, 1))
    assert torch.equal(a.train.images, b.train.images)
    assert len(a.train) + len(a.validation or ()) == 40


@pytest.mark.parametrize(
    ("scheme", "group_of"),
    [(2, [0, 0, 1, 1]), (3, [0, 0, 1, 2]), (4, [0, 1, 2, 3]), ([[3, 0], [1, 2]], [0, 1, 1, 0])],
)
def test_groups(dataset: Dataset, scheme: Any, group_of: list[int]) -> None:
    data = prepare(dataset, labels=scheme)
    for part in (data.train, data.test):
        assert part.labels.tolist() == [group_of[label] for label in given(part)]
    assert len(data.class_names) == max(group_of) + 1
    members = [
        name for name, group in zip(dataset.class_names, group_of, strict=True) if group == 0
    ]
    assert data.class_names[0] == " or ".join(members)


def test_shuffled_labels_are_a_permutation_that_the_seed_fixes(dataset: Dataset) -> None:
    plain = prepare(dataset)
    first, again, other = (prepare(dataset, seed, labels="shuffled") for seed in (0, 0, 1))
    assert torch.equal(first.train.labels, again.train.labels)
    assert not torch.equal(first.train.labels, other.train.labels)
    assert torch.equal(first.train.labels.sort().values, plain.train.labels.sort().values)
    assert torch.equal(first.train.images, plain.train.images)
    share = float((first.train.labels == plain.train.labels).float().mean())
    # Two independent labels of these shares are equal in 30 % of the images.
    assert 0.1 < share < 0.5
    assert first.test.labels.tolist() == given(first.test)


def test_a_turn_is_a_rotation_and_its_label_says_which() -> None:
    images = torch.arange(2 * 3 * 16).reshape(2, 3, 4, 4)
    for count in range(4):
        turned, labels = turn(images, torch.tensor([0, 5]), torch.full((2,), count))
        expected = np.rot90(images.numpy(), count, axes=(2, 3))
        np.testing.assert_array_equal(turned.numpy(), expected)
        assert labels.tolist() == [count, 20 + count]
    back, _ = turn(
        *turn(images, torch.zeros(2, dtype=torch.long), torch.tensor([1, 3])), torch.tensor([3, 1])
    )
    assert torch.equal(back, images)


def test_rotations_make_four_classes_of_each(dataset: Dataset) -> None:
    data = prepare(dataset, labels="rotation")
    assert len(data.class_names) == 4 * N_CLASSES
    assert data.class_names[5].endswith("turned 90")
    assert data.majority == pytest.approx(1 / 16)
    assert data.train.rotates


def test_orientations_do_not_follow_the_order_of_the_classes(dataset: Dataset) -> None:
    """The classes of these test images have a period of four, as the orientations could."""

    class Upright(torch.nn.Module):
        def features(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    reader = NetworkReader(Upright(), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))  # type: ignore[arg-type]
    test = prepare(dataset, labels="rotation").test
    _, labels = reader.features(test)
    assert (labels // 4).tolist() == given(test)
    assert len({(int(one) // 4, int(one) % 4) for one in labels}) > 8


@pytest.mark.parametrize("how", ["crop", "crop-flip", "views"])
def test_augmented_images_differ_and_follow_the_generator(how: str) -> None:
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, again = (augment(images, how, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    changes = (first - images).abs().flatten(1).amax(dim=1)
    assert float(changes.min()) > 0
    assert torch.equal(augment(images, "none", torch.Generator()), images)


def test_a_crop_shifts_by_at_most_a_tenth_and_a_flip_mirrors() -> None:
    """The centre of mass of a bright column moves by the shift, or to the other side."""
    images = torch.zeros(200, 1, 20, 20)
    images[:, :, :, 4] = 1
    columns = torch.arange(20.0)
    for how, mirrored in (("crop", False), ("crop-flip", True)):
        moved = augment(images, how, torch.Generator().manual_seed(0))
        mass = moved.sum(dim=(1, 2))
        place = (mass * columns).sum(dim=1) / mass.sum(dim=1)
        shifts = torch.minimum(
            (place - 4).abs(), (place - 15).abs() if mirrored else torch.tensor(99.0)
        )
        assert float(shifts.max()) <= 2.01
        assert float(shifts.max()) > 1.5
        share = float((place > 10).float().mean())
        assert (0.4 < share < 0.6) if mirrored else share == 0


@pytest.mark.parametrize(("mode", "size"), [("L", (20, 30)), ("RGB", (11, 9))])
def test_grey_and_coloured_files_of_other_sizes(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(8):
            array = rng.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / label / f"{number}.png")
    data = prepare(load_dataset(f"imagefolder:{tmp_path}"))
    assert data.train.images.shape[1:] == (3, PIXELS, PIXELS)
    assert data.train.images.dtype == torch.uint8
    is_grey = bool((data.train.images[:, 0] == data.train.images[:, 1]).all())
    assert is_grey == (mode == "L")


def test_one_class_among_the_training_images_is_refused() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    one = load_dataset(
        {
            "train": (images_of(labels[:10], 0), ["a"] * 9 + ["b"]),
            "test": (images_of(labels, 1), ["a", "b"] * 10),
        }
    )  # type: ignore[arg-type]
    with pytest.raises(CriticalMassError, match="leaves none of class 1; use a larger n"):
        prepare(one, validation=0.2)
