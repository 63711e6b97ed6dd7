"""Datasets in arrays: scikit-learn's digits and NumPy archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.splits import split_dataset
from criticalmass.extraction.labels import check_hidden_labels, encode_labels
from criticalmass.extraction.specs import missing_path
from criticalmass.extraction.vectors.numpy_files import open_npz
from criticalmass.extraction.vectors.source import VectorRequest, check_vectors


def load_digits(spec: str) -> Dataset:
    """Load scikit-learn's 1,797 digits, 8 x 8 grey, as an image dataset.

    Grey levels 0..16 become 0..255. The split is stratified: a quarter for the test, seed 0.
    """
    from sklearn.datasets import load_digits as load_bundled

    data = load_bundled()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    samples = Split(images, labels, [f"digit-{number:04d}" for number in range(len(labels))])
    return split_dataset(Dataset(spec, "digits", "image", {}, tuple("0123456789")), samples)


def load_npz(spec: str, file: str) -> Dataset:
    """Load vectors and labels from a NumPy archive.

    Parameters
    ----------
    spec: the spec that named the dataset.
    file: an ``.npz`` with ``X`` (n, d) and ``y`` (n,), or other usual names, as
        `import_features` finds them; they are split (stratified, a quarter for the test, seed 0).
        Or ``x_train``, ``y_train``, ``x_test``, ``y_test``. Labels are integers or texts; the
        sorted distinct labels become the classes.

    Raises
    ------
    CriticalMassError: no such file, not a NumPy archive, missing or misshapen arrays.
    """
    path = Path(file)
    if not path.is_file():
        raise missing_path(path)
    vectors = open_npz(path, VectorRequest(find_labels=True))
    if not vectors.labels:
        names = ", ".join(map(repr, vectors.column_names))
        raise CriticalMassError(
            f"{file!r} holds {names}, but no labels; add y (or y_train and y_test), or import the "
            f"vectors, which need no model: criticalmass import {file}"
        )
    arrays = {part: np.concatenate(list(s.chunks())) for part, s in vectors.sources.items()}
    for part, x in arrays.items():
        check_vectors(x, vectors.sources[part].name)
    classes, class_numbers = encode_labels([vectors.labels[part] for part in arrays])
    splits = {
        split: Split(x, numbers, [f"{split}-{row}" for row in range(len(numbers))])
        for (split, x), numbers in zip(arrays.items(), class_numbers, strict=True)
    }
    if "all" in splits:
        dataset = split_dataset(Dataset(spec, path.stem, "vector", {}, classes), splits["all"])
    else:
        dataset = Dataset(spec, path.stem, "vector", splits, classes)
    numbers_of_splits = {split: part.labels for split, part in dataset.splits.items()}
    check_hidden_labels(numbers_of_splits, classes, f"y in {file!r}")
    return dataset
