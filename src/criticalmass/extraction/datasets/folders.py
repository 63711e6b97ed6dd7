"""Datasets of images in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import arrange_splits
from criticalmass.storage.features import UNLABELLED

_SPLIT_FOLDERS = ("train", "test", "val", "validation", "valid")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def load_image_folder(spec: str, folder: str) -> Dataset:
    """Load images whose folder is their class.

    Parameters
    ----------
    spec: the spec that named the dataset.
    folder: holds ``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*`` (or all three); or
        ``CLASS/*``, which is split (stratified, a quarter for the test, seed 0); or only images,
        which then have no labels.

    Raises
    ------
    CriticalMassError: no such folder, no images, a single class, or a class in the test folder
        that the train folder does not have.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CriticalMassError(f"no folder {folder!r}")
    split_folders = [name for name in _SPLIT_FOLDERS if (root / name).is_dir()]
    if "train" in split_folders and len(split_folders) > 1:
        names = _class_names(root / "train")
        parts = {name: _read_classes(root, root / name, names) for name in split_folders}
    else:
        names = _class_names(root)
        parts = {"all": _read_classes(root, root, names)}
    splits, rule = arrange_splits(parts, spec)
    return Dataset(spec, root.resolve().name, "image", splits, names, notes={"split": rule})


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    if not names and _image_files(folder):
        return UNLABELLED
    if len(names) < 2:
        raise CriticalMassError(
            f"{str(folder)!r} has {len(names)} class folders; it needs one folder per class, "
            "at least two, or only images, which then have no labels"
        )
    return names


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)


def _read_classes(root: Path, folder: Path, names: tuple[str, ...]) -> Split:
    unknown = sorted({p.name for p in folder.iterdir() if p.is_dir()} - set(names))
    unknown = [name for name in unknown if not name.startswith(".")]
    if unknown:
        raise CriticalMassError(
            f"{str(folder)!r} has the class {unknown[0]!r}, the train folder does not; "
            "remove it or add it to the train folder"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if names == UNLABELLED:
            files = _image_files(folder)
        else:
            files = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise CriticalMassError(f"{str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    ids = [path.relative_to(root).as_posix() for path in paths]
    return Split(EncodedImages.of_files(paths), np.array(labels, dtype=np.int64), ids)
