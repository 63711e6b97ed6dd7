"""torchvision's image classification datasets: read from disk, or downloaded by torchvision."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError, DataUnavailableError, unknown_name
from criticalmass.extraction.cache import cache_folder, make_cache_folder
from criticalmass.extraction.datasets.columns import label_names
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.encoded import JoinedSource, joined_rows
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.label_schemes import (
    LABEL_SCHEMES,
    LabelScheme,
    label_schemes,
)
from criticalmass.extraction.datasets.sampling import SAMPLING
from criticalmass.extraction.datasets.several_labels import choose_labels
from criticalmass.extraction.datasets.splits import arrange_splits
from criticalmass.extraction.labels import LabelColumn
from criticalmass.extraction.models.optional_imports import import_torchvision
from criticalmass.extraction.pixels import to_rgb
from criticalmass.extraction.specs import Spec
from criticalmass.storage.features import UNLABELLED

Arguments = Mapping[str, Any]

_BY_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_SINGLE_PART: Mapping[str, Arguments] = {"all": {}}


def _by_split(*names: str) -> Mapping[str, Arguments]:
    return {name: {"split": name} for name in names}


# Class of torchvision.datasets -> part -> arguments that select the part.
PARTS: Mapping[str, Mapping[str, Arguments]] = {
    "CIFAR10": _BY_TRAIN,
    "CIFAR100": _BY_TRAIN,
    "CLEVRClassification": _by_split("train", "val"),
    "Caltech101": _SINGLE_PART,
    "Caltech256": _SINGLE_PART,
    "Country211": _by_split("train", "valid", "test"),
    "DTD": _by_split("train", "val", "test"),
    "EMNIST": _BY_TRAIN,
    "EuroSAT": _SINGLE_PART,
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
    "Kitti": _SINGLE_PART,
    "MNIST": _BY_TRAIN,
    "OxfordIIITPet": _by_split("trainval", "test"),
    "PCAM": _by_split("train", "val", "test"),
    "Places365": _by_split("train-standard", "val"),
    "QMNIST": _BY_TRAIN,
    "RenderedSST2": _by_split("train", "val", "test"),
    "SEMEION": _SINGLE_PART,
    "STL10": _by_split("train", "test"),
    "SUN397": _SINGLE_PART,
    "SVHN": _by_split("train", "test"),
    "StanfordCars": _by_split("train", "test"),
    "USPS": _BY_TRAIN,
}
# Classes whose samples have annotations, and no class of their own.
_WITHOUT_CLASSES = ("Kitti",)
# Class -> further arguments that a spec may set -> default (None: torchvision's default).
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "DTD": {"partition": None},
    "EMNIST": {"split": "balanced"},
    "FGVCAircraft": {"annotation_level": None},
    "Imagenette": {"size": None},
    "Places365": {"small": None},
}
TORCHVISION_OPTIONS = (
    *SAMPLING,
    "root",
    "label",
    "labels",
    *sorted({key for choices in CHOICES.values() for key in choices}),
)
"""The options of ``torchvision:``."""

_DOWNLOAD_MODULE = "criticalmass.extraction.datasets.torchvision_download"


def load_torchvision(spec: Spec) -> Dataset:
    """Load a dataset of torchvision.

    Parameters
    ----------
    spec: ``torchvision:NAME``, a key of ``PARTS``; ``?root=DIR`` is torchvision's ``root`` (by
        default a folder of the cache); ``CHOICES`` lists further options. ``?label=NAME`` and
        ``?labels=A,B`` choose labels of ``LABEL_SCHEMES``, which are made from annotations.

    Raises
    ------
    MissingExtraError: torchvision is not installed.
    CriticalMassError: an unknown name or option, or a part without labels.
    DataUnavailableError: not in that folder, and it cannot be downloaded.
    """
    if spec.name not in PARTS:
        raise unknown_name("torchvision: dataset", spec.name, PARTS)
    root = Path(spec.options.get("root", cache_folder() / "torchvision"))
    choices = _choices(spec)
    schemes = _schemes(spec)
    parts, names = {}, None
    columns: dict[str, dict[str, LabelColumn]] = {name: {} for name in schemes}
    for part, arguments in PARTS[spec.name].items():
        source = _open_part(spec, root, {**choices, **arguments})
        if any(sample[1] is None for _, sample in _test_samples(source)):
            raise CriticalMassError(f"part {part!r} of {spec.text!r} has no labels")
        images = _images(source)
        labels = np.zeros(len(images), np.int64) if schemes else _labels(source)
        parts[part] = Split(images, labels, [f"{part}-{row}" for row in range(len(labels))])
        for name, scheme in schemes.items():
            columns[name][part] = LabelColumn(scheme.read(source), f"label {name!r}")
        names = names or _class_names(source)
    if schemes:
        dataset = Dataset(spec.text, spec.name, "image", parts, UNLABELLED, "-", notes=choices)
        labelled = choose_labels(dataset, spec, columns, default=next(iter(schemes)))
        splits, rule = arrange_splits(labelled.splits, spec.text)
        notes = {"split": rule, **choices}
        return dataclasses.replace(labelled, splits=splits, digest="", notes=notes)
    splits, rule = arrange_splits(parts, spec.text)
    n_classes = 1 + max(int(split.labels.max()) for split in splits.values())
    names = names or tuple(str(number) for number in range(n_classes))
    return Dataset(spec.text, spec.name, "image", splits, names, notes={"split": rule, **choices})


def _schemes(spec: Spec) -> dict[str, LabelScheme]:
    """Return the labels that the spec names; of a dataset without classes, the first by default."""
    single = spec.options.get("label")
    names = label_names(spec) or tuple(filter(None, (single,)))
    if not names and spec.name in _WITHOUT_CLASSES:
        names = (next(iter(LABEL_SCHEMES[spec.name])),)
    return label_schemes(spec, names)


def download_with_torchvision(
    name: str, root: Path, arguments: Arguments | None = None, *, timeout: float | None = None
) -> None:
    """Download a dataset with torchvision in a child process.

    Parameters
    ----------
    name: a class of ``torchvision.datasets``.
    root: the folder to download to.
    arguments: other arguments of the class.
    timeout: seconds after which the download is given up; None for no limit.

    Raises
    ------
    DataUnavailableError: the download failed; the message is the last line of its error.
    """
    options = [] if arguments is None else [json.dumps(dict(arguments))]
    command = [sys.executable, "-P", "-m", _DOWNLOAD_MODULE, name, str(root), *options]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataUnavailableError(f"it did not end within {timeout} s") from error
    if process.returncode != 0:
        raise DataUnavailableError((process.stderr.strip().splitlines() or ["no message"])[-1])


def _choices(spec: Spec) -> dict[str, Any]:
    defaults = CHOICES.get(spec.name, {})
    general = (*SAMPLING, "root", "label", "labels")
    options = {key: value for key, value in spec.options.items() if key not in general}
    for key in options:
        if key not in defaults:
            raise unknown_name(f"option of torchvision:{spec.name}", key, [*defaults, *general])
    values = {key: options.get(key, default) for key, default in defaults.items()}
    booleans = {"true": True, "false": False}
    return {
        key: int(text) if text.isdecimal() else booleans.get(text.lower(), text)
        for key, text in values.items()
        if text is not None
    }


def _open_part(spec: Spec, root: Path, arguments: Arguments) -> Any:
    """Open one part; download it first if it is missing."""
    dataset_class = getattr(import_torchvision().datasets, spec.name)
    parameters = inspect.signature(dataset_class.__init__).parameters
    can_download = "download" in parameters or spec.name in ("EMNIST", "QMNIST")
    offline = {"download": False} if can_download else {}
    if root.is_dir():
        try:
            return _in_order(dataset_class(str(root), **offline, **arguments))
        except (RuntimeError, OSError, ValueError) as error:
            if "argument" in str(error):  # an option's value that torchvision rejects
                raise CriticalMassError(f"{spec.text!r}: {_one_line(error)}") from error
            reason = _one_line(error)
    else:
        reason = "there is no such folder"
    if not can_download:
        raise DataUnavailableError(
            f"{spec.text!r} is not in {str(root)!r} ({reason}) and torchvision cannot fetch it; "
            "name the folder that holds it with ?root=DIR"
        )
    if "root" in spec.options:
        root.mkdir(parents=True, exist_ok=True)
    else:
        make_cache_folder(root)
    write_line(f"{spec.name} is not in {str(root)!r}: fetching it through torchvision")
    try:
        download_with_torchvision(spec.name, root, arguments)
    except DataUnavailableError as error:
        raise DataUnavailableError(
            f"{spec.text!r} is not in {str(root)!r} ({reason}) and cannot be fetched ({error}); "
            "name the folder that holds it with ?root=DIR"
        ) from error
    return _in_order(dataset_class(str(root), download=False, **arguments))


def _in_order(source: Any) -> Any:
    """Sort the files of a dataset that lists them as the disk does (Kitti)."""
    images, targets = (getattr(source, name, None) for name in ("images", "targets"))
    if isinstance(images, list) and isinstance(targets, list) and isinstance(targets[0], str):
        pairs = sorted(zip(images, targets, strict=True))
        source.images, source.targets = ([pair[i] for pair in pairs] for i in (0, 1))
    return source


def _one_line(error: Exception) -> str:
    # torchvision's advice ("You can use download=True") does not apply to our users.
    return " ".join(str(error).split()).partition(" You can use")[0]


def _test_samples(source: Any) -> Iterator[tuple[int, Any]]:
    """Yield the first, middle and last sample; skip those that cannot be decoded."""
    from PIL import Image

    for index in sorted({0, len(source) // 2, len(source) - 1}):
        try:
            sample = source[index]
            if isinstance(sample[0], Image.Image):
                sample[0].load()  # Kitti's images hold their files open until then.
            yield index, sample
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue


def _images(source: Any) -> Any:
    """Return the images in the cheapest form that equals the dataset's own images."""
    for candidate in (_as_array(source), _as_files(source)):
        if candidate is not None and _matches(source, candidate):
            return candidate
    return TorchvisionImages(source, np.arange(len(source)))


def _matches(source: Any, candidate: Any) -> bool:
    return len(candidate) == len(source) and all(
        np.array_equal(_pixels(sample[0]), _pixels(_as_torchvision(candidate, index)))
        for index, sample in _test_samples(source)
    )


def _as_torchvision(candidate: Any, index: int) -> Any:
    """Return an image as torchvision reads it: not turned, and 16-bit grey levels cut to 8 bits."""
    from PIL import Image

    if isinstance(candidate, EncodedImages):
        return Image.open(io.BytesIO(candidate.encoded(index)))
    return candidate[index]


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Return the (height, width, 3) uint8 pixels of an image, or of a grey or RGB array."""
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
    for name in ("samples", "imgs", "_samples", "_image_files", "_images", "images"):
        entries = getattr(source, name, None)
        if not isinstance(entries, Sequence) or len(entries) != len(source):
            continue
        paths = [entry[0] if isinstance(entry, tuple) else entry for entry in entries]
        if isinstance(paths[0], (str, Path)) and Path(paths[0]).is_file():
            return EncodedImages.of_files(Path(path) for path in paths)
    return None


def _labels(source: Any) -> NDArray[np.int64]:
    """Return the class numbers from a list of the dataset; decode every image if it has none."""
    for name in ("targets", "_labels", "labels", "y", "samples", "_samples", "imgs"):
        entries = getattr(source, name, None)
        if entries is None or len(entries) != len(source):
            continue
        if isinstance(entries[0], tuple):
            entries = [entry[1] for entry in entries]
        labels = np.asarray(entries)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            continue
        if all(int(sample[1]) == labels[index] for index, sample in _test_samples(source)):
            return labels.astype(np.int64)
    return np.array([int(source[row][1]) for row in range(len(source))], dtype=np.int64)


def _class_names(source: Any) -> tuple[str, ...] | None:
    classes = getattr(source, "classes", None) or getattr(source, "categories", None)
    if not classes:
        return None
    names = [", ".join(name) if isinstance(name, tuple) else str(name) for name in classes]
    # ImageNet has two classes named crane, the bird and the machine.
    return tuple(
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names)
    )


@dataclass(frozen=True)
class TorchvisionImages(Sequence[Any]):
    """Images that only the torchvision dataset can decode.

    Attributes
    ----------
    source: the dataset.
    rows: (n,) indices of its images in this sequence.
    """

    source: Any
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """Decode one image, or return a slice of the sequence."""
        if isinstance(key, slice):
            return TorchvisionImages(self.source, self.rows[key])
        return to_rgb(self.source[int(self.rows[key])][0])

    def subset(self, rows: NDArray[np.intp]) -> TorchvisionImages:
        """Return some of the images, in the order of ``rows``."""
        return TorchvisionImages(self.source, self.rows[rows])

    @classmethod
    def joined(cls, parts: Sequence[TorchvisionImages]) -> TorchvisionImages:
        """Return several sequences as one."""
        sources = [part.source for part in parts]
        rows = joined_rows(sources, [part.rows for part in parts])
        return cls(JoinedSource[Any](tuple(sources)), rows)

    def content(self) -> Iterable[bytes]:
        """Yield each image's pixels, for the dataset's digest."""
        for image in self:
            array = np.asarray(image)
            yield f"{array.shape}".encode() + array.tobytes()
