"""Datasets that are arrays: scikit-learn's digits and NumPy files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.splits import SPLIT_SEED, TEST_SHARE, split_in_two
from criticalmass.storage.untrusted import check_zip


def load_digits(spec: str) -> Dataset:
    """Load scikit-learn's 1,797 digits, 8 x 8 grey, as an image dataset.

    Grey levels 0..16 become 0..255. The split is stratified, a quarter for the test, seed 0.
    """
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    whole = Split(images, labels, [f"digit-{number:04d}" for number in range(len(labels))])
    return Dataset(
        spec=spec,
        name="digits",
        modality="image",
        splits=split_in_two(whole, TEST_SHARE, SPLIT_SEED),
        class_names=tuple(str(digit) for digit in range(10)),
        notes={"split": {"test_share": TEST_SHARE, "seed": SPLIT_SEED, "stratified": True}},
    )


def load_npz(spec: str, file: str) -> Dataset:
    """Load vectors from a NumPy archive.

    Parameters
    ----------
    spec: what the dataset was asked for with.
    file: an ``.npz`` with ``X`` (n, d) and ``y`` (n,), which are split (stratified, a quarter for
        the test, seed 0); or ``x_train``, ``y_train``, ``x_test``, ``y_test``. Labels may be any
        integers or texts; the sorted distinct ones become the classes.

    Raises
    ------
    CriticalMassError: no such file, not a NumPy archive, missing or misshapen arrays.
    """
    arrays = read_npz(Path(file))
    names = {name.lower(): name for name in arrays}
    notes: dict[str, Any] = {}
    if {"x", "y"} <= names.keys():
        pairs = {"all": (arrays[names["x"]], arrays[names["y"]])}
    elif {"x_train", "y_train", "x_test", "y_test"} <= names.keys():
        pairs = {
            split: (arrays[names[f"x_{split}"]], arrays[names[f"y_{split}"]])
            for split in ("train", "test")
        }
    else:
        raise CriticalMassError(
            f"{file!r} holds {sorted(arrays)}; it must hold X and y, "
            "or x_train, y_train, x_test and y_test"
        )
    for split, (x, y) in pairs.items():
        check_vectors(x, f"X of {split!r} in {file!r}")
        if y.shape != (len(x),):
            raise CriticalMassError(
                f"y of {split!r} in {file!r} has the shape {y.shape}, not {len(x)}"
            )
    classes, codes = encode_labels([y for _, y in pairs.values()])
    splits = {
        split: Split(x, code, [f"{split}-{number}" for number in range(len(x))])
        for (split, (x, _)), code in zip(pairs.items(), codes, strict=True)
    }
    if "all" in splits:
        splits = split_in_two(splits["all"], TEST_SHARE, SPLIT_SEED)
        notes = {"split": {"test_share": TEST_SHARE, "seed": SPLIT_SEED, "stratified": True}}
    return Dataset(spec, Path(file).stem, "vector", splits, classes, notes=notes)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz``; pickled objects are refused.

    Raises
    ------
    CriticalMassError: no such file, or not readable as a NumPy archive.
    """
    if not path.is_file():
        raise CriticalMassError(f"no file {str(path)!r}")
    check_zip(path)
    try:
        # Opened here: np.load leaves its own handle open when the archive is broken.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as NumPy arrays: {error}") from error
    raise CriticalMassError(f"{str(path)!r} is a single array, not an .npz archive")


def check_vectors(x: NDArray[Any], what: str) -> None:
    """Check that ``x`` is (n, d) real numbers, all finite.

    Raises
    ------
    CriticalMassError: it is not; the message begins with ``what``.
    """
    if x.ndim != 2 or 0 in x.shape:
        raise CriticalMassError(
            f"{what} has the shape {x.shape}; it must be (n_samples, n_neurons)"
        )
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise CriticalMassError(f"{what} is of type {x.dtype}; it must hold real numbers")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise CriticalMassError(
            f"{what} is not finite in {int((~finite).sum())} rows, first in row "
            f"{int(np.argmin(finite))}"
        )


def encode_labels(
    labels: list[NDArray[Any]],
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Give the distinct labels of several splits their class numbers.

    Returns
    -------
    The class names, and for each split its (n,) class numbers.

    Raises
    ------
    CriticalMassError: labels that are neither whole numbers nor texts.
    """
    together = np.concatenate(labels)
    if together.dtype.kind not in "iubUS":
        raise CriticalMassError(
            f"labels are of type {together.dtype}; they must be whole numbers or texts"
        )
    classes, codes = np.unique(together, return_inverse=True)
    ends = np.cumsum([len(part) for part in labels])[:-1]
    names = tuple(str(name) for name in classes.tolist())
    return names, [part.astype(np.int64) for part in np.split(codes, ends)]


def as_numbers(labels: NDArray[Any]) -> NDArray[Any]:
    """Turn texts into whole numbers if all are, so that class 10 does not stand before class 2."""
    try:
        numbers = labels.astype(np.int64)
    except (ValueError, OverflowError):
        return labels
    # "007" is a name.
    return numbers if np.array_equal(numbers.astype(str), labels) else labels
