"""The image classification datasets of torchvision: on disk, or fetched by torchvision."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import say
from criticalmass.errors import CriticalMassError, DataUnavailableError, unknown_name
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.debian_packages import cache_folder
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import arranged
from criticalmass.extraction.models.optional_imports import import_torchvision
from criticalmass.extraction.specs import Spec

Arguments = Mapping[str, Any]

_BY_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: Mapping[str, Arguments] = {"all": {}}


def _by_split(*names: str) -> Mapping[str, Arguments]:
    return {name: {"split": name} for name in names}


# How each class of torchvision.datasets is asked for its parts.
PARTS: Mapping[str, Mapping[str, Arguments]] = {
    "CIFAR10": _BY_TRAIN,
    "CIFAR100": _BY_TRAIN,
    "CLEVRClassification": _by_split("train", "val"),
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "Country211": _by_split("train", "valid", "test"),
    "DTD": _by_split("train", "val", "test"),
    "EMNIST": _BY_TRAIN,
    "EuroSAT": _WHOLE,
    "FER2013": _by_split("train", "test"),
    "FGVCAircraft": _by_split("trainval", "test"),
    "FashionMNIST": _BY_TRAIN,
    "Flowers102": _by_split("train", "val", "test"),
    "Food101": _by_split("train", "test"),
    "GTSRB": _by_split("train", "test"),
    "INaturalist": {"train": {"version": "2021_train"}, "val": {"version": "2021_valid"}},
    "ImageNet": _by_split("train", "val"),
    "Imagenette": _by_split("train", "val"),
    "KMNIST": _BY_TRAIN,
    "MNIST": _BY_TRAIN,
    "OxfordIIITPet": _by_split("trainval", "test"),
    "PCAM": _by_split("train", "val", "test"),
    "Places365": _by_split("train-standard", "val"),
    "QMNIST": _BY_TRAIN,
    "RenderedSST2": _by_split("train", "val", "test"),
    "SEMEION": _WHOLE,
    "STL10": _by_split("train", "test"),
    "SUN397": _WHOLE,
    "SVHN": _by_split("train", "test"),
    "StanfordCars": _by_split("train", "test"),
    "USPS": _BY_TRAIN,
}
# Further arguments that a spec may give, with what they are if it does not (None: torchvision's).
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "DTD": {"partition": None},
    "EMNIST": {"split": "balanced"},
    "FGVCAircraft": {"annotation_level": None},
    "Imagenette": {"size": None},
    "Places365": {"small": None},
}
TORCHVISION_OPTIONS = ("n", "root", *sorted({key for some in CHOICES.values() for key in some}))
"""The options of ``torchvision:``."""

_STALL_SECONDS = 60
_FETCH = f"""
import json, socket, sys
socket.setdefaulttimeout({_STALL_SECONDS})
from criticalmass.extraction.models.optional_imports import import_torchvision
name, root, arguments = sys.argv[1:]
getattr(import_torchvision().datasets, name)(root, download=True, **json.loads(arguments))
"""


def load_torchvision(spec: Spec) -> Dataset:
    """Load a dataset of torchvision.

    Parameters
    ----------
    spec: ``torchvision:NAME``, a key of ``PARTS``; ``?root=DIR`` is the folder that torchvision
        takes by that name (a folder of the cache if it is not told); ``CHOICES`` may follow.

    Raises
    ------
    MissingExtraError: torchvision is not installed.
    CriticalMassError: a name or option it does not have.
    DataUnavailableError: not in that folder, and it cannot be fetched.
    """
    if spec.name not in PARTS:
        raise unknown_name("torchvision: dataset", spec.name, PARTS)
    root = Path(spec.options.get("root", cache_folder() / "torchvision"))
    choices = _choices(spec)
    parts, names = {}, None
    for part, arguments in PARTS[spec.name].items():
        source = _make(spec, root, {**choices, **arguments})
        if any(item[1] is None for _, item in _probes(source)):
            raise CriticalMassError(f"part {part!r} of {spec.text!r} comes with no labels")
        images, labels = _images(source), _labels(source)
        parts[part] = Split(images, labels, [f"{part}-{row}" for row in range(len(labels))])
        names = names or _class_names(source)
    splits, rule = arranged(parts, spec.text)
    n_classes = 1 + max(int(split.labels.max()) for split in splits.values())
    names = names or tuple(str(number) for number in range(n_classes))
    return Dataset(spec.text, spec.name, "image", splits, names, notes={"split": rule, **choices})


def _choices(spec: Spec) -> dict[str, Any]:
    known = CHOICES.get(spec.name, {})
    given = {key: value for key, value in spec.options.items() if key not in ("n", "root")}
    for key in given:
        if key not in known:
            raise unknown_name(f"option of torchvision:{spec.name}", key, [*known, "n", "root"])
    values = {key: given.get(key, default) for key, default in known.items()}
    words = {"true": True, "false": False}
    return {
        key: int(text) if text.isdecimal() else words.get(text.lower(), text)
        for key, text in values.items()
        if text is not None
    }


def _make(spec: Spec, root: Path, arguments: Arguments) -> Any:
    """Open one part; if it is not there, let torchvision fetch it first."""
    kind = getattr(import_torchvision().datasets, spec.name)
    fetches = "download" in inspect.signature(kind.__init__).parameters or spec.name in (
        "EMNIST",
        "QMNIST",
    )
    offline = {"download": False} if fetches else {}
    if root.is_dir():
        try:
            return kind(str(root), **offline, **arguments)
        except (RuntimeError, OSError, ValueError) as error:
            if "argument" in str(error):  # a word that torchvision does not know
                raise CriticalMassError(f"{spec.text!r}: {_one_line(error)}") from error
            reason = _one_line(error)
    else:
        reason = "there is no such folder"
    if not fetches:
        raise DataUnavailableError(
            f"{spec.text!r} is not in {str(root)!r} ({reason}) and torchvision cannot fetch it; "
            "name the folder that holds it with ?root=DIR"
        )
    _fetch(spec, root, arguments, reason)
    return kind(str(root), download=False, **arguments)


def _fetch(spec: Spec, root: Path, arguments: Arguments, reason: str) -> None:
    """Let torchvision download, in a process of its own, where a stalled connection ends."""
    say(f"{spec.name} is not in {str(root)!r}: fetching it through torchvision")
    root.mkdir(parents=True, exist_ok=True)
    told = (spec.name, str(root), json.dumps(dict(arguments)))
    command = [sys.executable, "-P", "-c", _FETCH, *told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataUnavailableError(
            f"{spec.text!r} is not in {str(root)!r} ({reason}) and cannot be fetched ({said}); "
            "name the folder that holds it with ?root=DIR"
        )


def _one_line(error: Exception) -> str:
    # What torchvision advises instead is a word of its own interface.
    return " ".join(str(error).split()).partition(" You can use")[0]


def _probes(source: Any) -> Iterator[tuple[int, Any]]:
    """Yield the first, the middle and the last sample; broken ones prove nothing and are not."""
    from PIL import Image

    for place in sorted({0, len(source) // 2, len(source) - 1}):
        try:
            yield place, source[place]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue


def _images(source: Any) -> Any:
    """Take the images in the cheapest form that is what the dataset itself hands out."""
    for candidate in (_as_array(source), _as_files(source)):
        if candidate is not None and _hands_out(source, candidate):
            return candidate
    return Decoded(source, np.arange(len(source)))


def _hands_out(source: Any, candidate: Any) -> bool:
    return len(candidate) == len(source) and all(
        np.array_equal(_pixels(item[0]), _pixels(candidate[place]))
        for place, item in _probes(source)
    )


def _pixels(image: Any) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of an image or a grey or coloured array."""
    if not isinstance(image, np.ndarray):
        image = np.asarray(image.convert("RGB"))
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _as_array(source: Any) -> NDArray[np.uint8] | None:
    data = getattr(source, "data", None)
    if data is None:
        return None
    array = np.asarray(data)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        return None
    if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
        array = np.moveaxis(array, 1, 3)
    return array


def _as_files(source: Any) -> EncodedImages | None:
    for name in ("samples", "imgs", "_samples", "_image_files", "_images"):
        found = getattr(source, name, None)
        if not isinstance(found, Sequence) or len(found) != len(source):
            continue
        paths = [item[0] if isinstance(item, tuple) else item for item in found]
        if isinstance(paths[0], (str, Path)) and Path(paths[0]).is_file():
            return EncodedImages.of_files(Path(path) for path in paths)
    return None


def _labels(source: Any) -> NDArray[np.int64]:
    """Take the class numbers without decoding an image, if the dataset has them in a list."""
    for name in ("targets", "_labels", "labels", "y", "samples", "_samples", "imgs"):
        found = getattr(source, name, None)
        if found is None or len(found) != len(source):
            continue
        if isinstance(found[0], tuple):
            found = [item[1] for item in found]
        labels = np.asarray(found)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            continue
        if all(int(item[1]) == labels[place] for place, item in _probes(source)):
            return labels.astype(np.int64)
    return np.array([int(source[row][1]) for row in range(len(source))], dtype=np.int64)


def _class_names(source: Any) -> tuple[str, ...] | None:
    found = getattr(source, "classes", None) or getattr(source, "categories", None)
    if not found:
        return None
    names = [", ".join(name) if isinstance(name, tuple) else str(name) for name in found]
    # ImageNet has two cranes, the bird and the machine.
    return tuple(
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names)
    )


@dataclass(frozen=True)
class Decoded(Sequence[Any]):
    """Images that only the dataset itself can decode.

    Attributes
    ----------
    source: the dataset.
    rows: (n,) which of its images are here.
    """

    source: Any
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """Decode one image, or narrow the sequence."""
        if isinstance(key, slice):
            return Decoded(self.source, self.rows[key])
        return self.source[int(self.rows[key])][0].convert("RGB")

    def subset(self, rows: NDArray[np.intp]) -> Decoded:
        """Keep some of the images, in the order given."""
        return Decoded(self.source, self.rows[rows])

    def content(self) -> Iterable[bytes]:
        """Yield each image's pixels, for the dataset's digest."""
        for image in self:
            array = np.asarray(image)
            yield f"{array.shape}".encode() + array.tobytes()
