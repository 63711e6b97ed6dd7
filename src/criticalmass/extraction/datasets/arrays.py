"""Datasets in arrays: scikit-learn's digits and NumPy archives."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.splits import (
    SPLIT_SEED,
    TEST_SHARE,
    split_notes,
    train_test_split,
)
from criticalmass.extraction.labels import LabelColumn, check_hidden_labels, encode_labels
from criticalmass.extraction.vectors.source import check_vectors
from criticalmass.storage.untrusted import check_zip


def load_digits(spec: str) -> Dataset:
    """Load scikit-learn's 1,797 digits, 8 x 8 grey, as an image dataset.

    Grey levels 0..16 become 0..255. The split is stratified: a quarter for the test, seed 0.
    """
    from sklearn.datasets import load_digits as load_bundled

    data = load_bundled()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    samples = Split(images, labels, [f"digit-{number:04d}" for number in range(len(labels))])
    return Dataset(
        spec=spec,
        name="digits",
        modality="image",
        splits=train_test_split(samples, TEST_SHARE, SPLIT_SEED),
        class_names=tuple(str(digit) for digit in range(10)),
        notes={"split": split_notes()},
    )


def load_npz(spec: str, file: str) -> Dataset:
    """Load vectors from a NumPy archive.

    Parameters
    ----------
    spec: the spec that named the dataset.
    file: an ``.npz`` with ``X`` (n, d) and ``y`` (n,), which are split (stratified, a quarter for
        the test, seed 0); or ``x_train``, ``y_train``, ``x_test``, ``y_test``. Labels are
        integers or texts; the sorted distinct labels become the classes.

    Raises
    ------
    CriticalMassError: no such file, not a NumPy archive, missing or misshapen arrays.
    """
    arrays = read_npz(Path(file))
    names = {name.lower(): name for name in arrays}
    notes: dict[str, Any] = {}
    if {"x", "y"} <= names.keys():
        array_names = {"all": (names["x"], names["y"])}
    elif {"x_train", "y_train", "x_test", "y_test"} <= names.keys():
        array_names = {
            split: (names[f"x_{split}"], names[f"y_{split}"]) for split in ("train", "test")
        }
    else:
        raise CriticalMassError(
            f"{file!r} holds {sorted(arrays)}; it must hold X and y, "
            "or x_train, y_train, x_test and y_test"
        )
    for x_name, y_name in array_names.values():
        x, y = arrays[x_name], arrays[y_name]
        check_vectors(x, f"{x_name} in {file!r}")
        if y.shape != (len(x),):
            raise CriticalMassError(
                f"{y_name} in {file!r} has shape {y.shape}; it must be ({len(x)},)"
            )
    classes, class_numbers = encode_labels(
        [LabelColumn(arrays[y_name], f"{y_name} in {file!r}") for _, y_name in array_names.values()]
    )
    splits = {
        split: Split(arrays[x_name], numbers, [f"{split}-{row}" for row in range(len(numbers))])
        for (split, (x_name, _)), numbers in zip(array_names.items(), class_numbers, strict=True)
    }
    if "all" in splits:
        splits = train_test_split(splits["all"], TEST_SHARE, SPLIT_SEED)
        notes = {"split": split_notes()}
    numbers_of_splits = {split: part.labels for split, part in splits.items()}
    check_hidden_labels(numbers_of_splits, classes, f"y in {file!r}")
    return Dataset(spec, Path(file).stem, "vector", splits, classes, notes=notes)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz``; refuse pickled objects.

    Raises
    ------
    CriticalMassError: no such file, or not readable as a NumPy archive.
    """
    if not path.is_file():
        raise CriticalMassError(f"no file {str(path)!r}")
    check_zip(path)
    try:
        # np.load of a path leaves the file open if the archive is broken.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as NumPy arrays: {error}") from error
    raise CriticalMassError(f"{str(path)!r} is a single array, not an .npz archive")
