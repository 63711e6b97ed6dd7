"""Images inside packages of PyPI and npm: animal silhouettes and emoji."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import split_dataset
from criticalmass.extraction.packages import Package

ANIMALS = (
    "bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra",
)  # fmt: skip
_ANIMAL_IMAGES = "animal_mnist/data/Animal_MNIST/animal_data_version_3.gz"
_ANIMAL_LABELS = "animal_mnist/data/Animal_MNIST/animal_label_version_3.gz"
ANIMAL_MNIST = Package(
    "pypi",
    "animal-mnist",
    "0.4",
    "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
    3,
    "MIT",
    (_ANIMAL_IMAGES, _ANIMAL_LABELS),
)

_EMOJI_LIST, _EMOJI_FOLDER = "package/emoji.json", "package/img/google/64"
# Five skin tones and hair styles, which are no emoji by themselves.
_COMPONENT = "Component"
EMOJI = Package(
    "npm",
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    74,
    "Apache-2.0",
    (_EMOJI_LIST, f"{_EMOJI_FOLDER}/*.png"),
)


def load_animals(spec: str) -> Dataset:
    """Load 10,000 grey silhouettes of animals, 28 x 28, in 10 classes of 1,000.

    The split is stratified: a quarter for the test, seed 0; identical images stay in one split.

    Raises
    ------
    DataUnavailableError: the package cannot be fetched.
    """
    images = read_pickled_array(ANIMAL_MNIST.file(_ANIMAL_IMAGES))
    labels = read_pickled_array(ANIMAL_MNIST.file(_ANIMAL_LABELS))
    ids = [f"animal-{row:05d}" for row in range(len(labels))]
    samples = Split(np.squeeze(images), labels.reshape(-1).astype(np.int64), ids)
    notes = {"origin": ANIMAL_MNIST.origin}
    dataset = Dataset(spec, "animals", "image", {}, ANIMALS, notes=notes)
    return split_dataset(dataset, samples, grouped_by="image")


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes arrays of NumPy and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct": np.zeros(0).__reduce__()[0], "ndarray": np.ndarray}
        known["dtype"] = np.dtype
        if module.partition(".")[0] != "numpy" or name not in known:
            raise pickle.UnpicklingError(f"it contains code, {module}.{name}, which was not run")
        return known[name]


def read_pickled_array(path: Path) -> NDArray[Any]:
    """Read a packed pickle of one array; nothing else in it is made or run.

    Raises
    ------
    CriticalMassError: it holds something else.
    """
    try:
        array = _ArrayUnpickler(io.BytesIO(gzip.decompress(path.read_bytes()))).load()
    except (pickle.UnpicklingError, gzip.BadGzipFile, EOFError, ValueError) as error:
        raise CriticalMassError(f"{str(path)!r} holds no array ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise CriticalMassError(f"{str(path)!r} holds no array of numbers")
    return array


def load_emoji(spec: str) -> Dataset:
    """Load the 1,906 emoji of Google's Noto, 64 x 64 in colour; the category is the class.

    Variants of skin tone are left out. The split is stratified: a quarter for the test, seed 0;
    files with identical bytes stay in one split.

    Raises
    ------
    DataUnavailableError: the package cannot be fetched.
    """
    entries = json.loads(EMOJI.file(_EMOJI_LIST).read_text(encoding="utf-8"))
    folder = EMOJI.folder / _EMOJI_FOLDER
    samples, names = read_emoji(entries, folder)
    notes = {"origin": EMOJI.origin}
    return split_dataset(
        Dataset(spec, "emoji", "image", {}, names, notes=notes), samples, grouped_by="file"
    )


def read_emoji(entries: Sequence[Any], folder: Path) -> tuple[Split, tuple[str, ...]]:
    """Return the pictures of the entries of ``emoji.json``, and the categories by name."""
    chosen = sorted(
        (one for one in entries if one["category"] != _COMPONENT and one["has_img_google"]),
        key=lambda one: (one["category"], one["sort_order"]),
    )
    names = tuple(sorted({one["category"] for one in chosen}))
    labels = np.array([names.index(one["category"]) for one in chosen], dtype=np.int64)
    files = [folder / Path(one["image"]).name for one in chosen]
    return Split(EncodedImages.of_files(files), labels, [file.stem for file in files]), names
