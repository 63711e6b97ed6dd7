"""dSprites and small NORB from the files that their authors publish, split as VTAB splits them.

VTAB (Zhai et al. 2019, arXiv:1910.04867) takes two labels of each: dSprites' horizontal position
and orientation in 16 groups each, and small NORB's azimuth and elevation. Its code reads
TensorFlow Datasets, whose order fixes its splits; here a random order with seed 0 does.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.cache import cache_folder
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.label_schemes import groups_of_levels
from criticalmass.extraction.datasets.sampling import SAMPLING
from criticalmass.extraction.datasets.several_labels import choose_labels
from criticalmass.extraction.datasets.splits import SPLIT_SEED, take_rows
from criticalmass.extraction.labels import LabelColumn
from criticalmass.extraction.specs import Spec
from criticalmass.storage.features import UNLABELLED

VTAB_OPTIONS = (*SAMPLING, "root", "label", "labels")
"""The options of ``vtab:``."""

VTAB_DATASETS = {
    "dsprites": "737,280 sprites; ?root=DIR, ?label=location, orientation, shape or size",
    "smallnorb": "48,600 toys; ?root=DIR, ?label=azimuth, elevation or category",
}
"""Name -> description."""

DSPRITES_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
# Columns of dSprites' classes: colour, shape, scale, orientation, x, y.
_SHAPE, _SCALE, _ORIENTATION, _X = 1, 2, 3, 4
_N_ORIENTATIONS, _N_POSITIONS, _N_GROUPS = 40, 32, 16

NORB_FILES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
# Type of the values by the number that begins a file of NORB.
_NORB_TYPES: Mapping[int, np.dtype[Any]] = {
    0x1E3D4C55: np.dtype("u1"),
    0x1E3D4C54: np.dtype("<i4"),
}
# Columns of NORB's info: instance, elevation, azimuth (even numbers), lighting.
_ELEVATION, _AZIMUTH = 1, 2

_SOURCES = {
    "dsprites": "https://github.com/google-deepmind/dsprites-dataset",
    "smallnorb": "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
}
_Parts = dict[str, Split]
_Columns = Mapping[str, Mapping[str, LabelColumn]]


def load_vtab(spec: Spec) -> Dataset:
    """Load a dataset of VTAB from its authors' files.

    Parameters
    ----------
    spec: ``vtab:dsprites`` (labels ``location``, ``orientation``, ``shape``, ``size``) or
        ``vtab:smallnorb`` (``azimuth``, ``elevation``, ``category``); ``root=DIR`` is the folder
        that holds the folder ``dsprites`` or ``smallnorb``.

    Raises
    ------
    CriticalMassError: an unknown label, or files of another form.
    DataUnavailableError: the files are not there.
    """
    readers: dict[str, Callable[[Path], tuple[_Parts, _Columns, str]]] = {
        "dsprites": _read_dsprites,
        "smallnorb": _read_smallnorb,
    }
    folder = Path(spec.options.get("root", cache_folder() / "vtab")) / spec.name
    if not folder.is_dir():
        raise _not_there(spec, folder, "no such folder")
    try:
        splits, columns, rule = readers[spec.name](folder)
    except FileNotFoundError as error:
        raise _not_there(spec, folder, f"no file {Path(str(error.filename)).name!r}") from error
    dataset = Dataset(spec.text, spec.name, "image", splits, UNLABELLED, "-", notes={"split": rule})
    return choose_labels(dataset, spec, columns, default=next(iter(columns)))


def _not_there(spec: Spec, folder: Path, reason: str) -> DataUnavailableError:
    return DataUnavailableError(
        f"{spec.text!r} is not in {str(folder)!r} ({reason}); download it from "
        f"{_SOURCES[spec.name]} and name the folder around it with ?root=DIR"
    )


def _read_dsprites(folder: Path) -> tuple[_Parts, _Columns, str]:
    """Read the archive: 0/1 images, and the class of each latent factor; 80 + 10 + 10 %."""
    path = folder / DSPRITES_FILE
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, factors = archive["imgs"], archive["latents_classes"]
    except (KeyError, ValueError) as error:
        raise CriticalMassError(f"{str(path)!r} is not dSprites ({error}); get it again") from error
    images *= np.uint8(255)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    ends = [len(order) * 80 // 100, len(order) * 90 // 100]
    rows = dict(zip(("train", "val", "test"), np.split(order, ends), strict=True))
    values = {
        "location": groups_of_levels(factors[:, _X], _N_POSITIONS, _N_GROUPS),
        "orientation": groups_of_levels(factors[:, _ORIENTATION], _N_ORIENTATIONS, _N_GROUPS),
        "shape": factors[:, _SHAPE],
        "size": factors[:, _SCALE],
    }
    samples = _samples(images, "dsprites")
    parts = {part: take_rows(samples, np.sort(chosen)) for part, chosen in rows.items()}
    columns = {
        name: {part: LabelColumn(column[np.sort(rows[part])], name) for part in rows}
        for name, column in values.items()
    }
    return parts, columns, f"80 + 10 + 10 % at random, seed {SPLIT_SEED}"


def _samples(images: NDArray[np.uint8], prefix: str) -> Split:
    ids = [f"{prefix}-{row}" for row in range(len(images))]
    return Split(images, np.zeros(len(images), dtype=np.int64), ids)


def _read_smallnorb(folder: Path) -> tuple[_Parts, _Columns, str]:
    """Read the left images of both parts; half of the test part is the validation part."""
    parts: _Parts = {}
    columns: dict[str, dict[str, LabelColumn]] = {"azimuth": {}, "elevation": {}, "category": {}}
    for part, stem in NORB_FILES.items():
        images = read_norb(_norb_file(folder, f"{stem}-dat.mat"))[:, 0]
        info = read_norb(_norb_file(folder, f"{stem}-info.mat"))
        category = read_norb(_norb_file(folder, f"{stem}-cat.mat"))
        samples = _samples(images, part)
        rows = {part: np.arange(len(samples))}
        if part == "test":
            order = np.random.default_rng(SPLIT_SEED).permutation(len(samples))
            val, test = np.split(order, [len(order) // 2])
            rows = {"val": np.sort(val), "test": np.sort(test)}
        values = {"azimuth": info[:, _AZIMUTH], "elevation": info[:, _ELEVATION]}
        for name, chosen in rows.items():
            parts[name] = take_rows(samples, chosen)
            for label, column in {**values, "category": category}.items():
                columns[label][name] = LabelColumn(column[chosen], label)
    return parts, columns, f"as given; half of the test part at random, seed {SPLIT_SEED}, is val"


def _norb_file(folder: Path, name: str) -> Path:
    """Return the file, packed or not."""
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name


def read_norb(path: Path) -> NDArray[Any]:
    """Read a file of NORB: magic number, number of dimensions, at least three sizes, values.

    All numbers are little-endian integers of 32 bits, the values bytes or such integers.

    Raises
    ------
    CriticalMassError: another form, or truncated.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if len(content) < 20:
        raise CriticalMassError(f"{str(path)!r} is no file of NORB; get it again")
    magic, n_dimensions = (int(number) for number in np.frombuffer(content, "<i4", count=2))
    if magic not in _NORB_TYPES or not 1 <= n_dimensions <= 4:
        raise CriticalMassError(f"{str(path)!r} is no file of NORB; get it again")
    shape = np.frombuffer(content, "<i4", count=n_dimensions, offset=8).tolist()
    kind, header = _NORB_TYPES[magic], 8 + 4 * max(3, n_dimensions)
    if len(content) != header + int(np.prod(shape)) * kind.itemsize:
        raise CriticalMassError(f"{str(path)!r} does not hold {shape} values; get it again")
    values: NDArray[Any] = np.frombuffer(content, kind, offset=header).reshape(shape)
    return values
