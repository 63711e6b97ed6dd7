"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747): 60,000 + 10,000, 28 x 28 grey."""

from __future__ import annotations

import gzip
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
from criticalmass.datasets.archives import FETCH_SECONDS, cache_folder, find_or_fetch
from criticalmass.datasets.dataset import Dataset, Split
from criticalmass.errors import CriticalMassError, DataUnavailableError

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
    "import sys; from criticalmass.models.repair import import_torchvision; "
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
