"""Images in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import arranged
from criticalmass.storage.features import UNLABELLED

_SPLITS = ("train", "test", "val", "validation", "valid")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def load_image_folder(spec: str, folder: str) -> Dataset:
    """Load images whose folder is their class.

    Parameters
    ----------
    spec: what the dataset was asked for with.
    folder: holds ``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*`` (or all three); or
        ``CLASS/*``, which is split (stratified, a quarter for the test, seed 0); or nothing but
        images, which then have no labels.

    Raises
    ------
    CriticalMassError: no such folder, no images, a single class, or classes in the test folder
        that the train folder does not have.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CriticalMassError(f"no folder {folder!r}")
    given = [name for name in _SPLITS if (root / name).is_dir()]
    if "train" in given and len(given) > 1:
        names = _class_names(root / "train")
        parts = {name: _read(root, root / name, names) for name in given}
    else:
        names = _class_names(root)
        parts = {"all": _read(root, root, names)}
    splits, rule = arranged(parts, spec)
    return Dataset(spec, root.resolve().name, "image", splits, names, notes={"split": rule})


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    if not names and any(_images(folder)):
        return UNLABELLED
    if len(names) < 2:
        raise CriticalMassError(
            f"{str(folder)!r} has {len(names)} class folders; it needs one folder per class, "
            "at least two, or nothing but images, which then have no labels"
        )
    return names


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)


def _read(root: Path, folder: Path, names: tuple[str, ...]) -> Split:
    extra = sorted({p.name for p in folder.iterdir() if p.is_dir()} - set(names))
    extra = [name for name in extra if not name.startswith(".")]
    if extra:
        raise CriticalMassError(f"{str(folder)!r} has the class {extra[0]!r}, train has not")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if names == UNLABELLED:
            found = _images(folder)
        else:
            found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise CriticalMassError(f"{str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    ids = [path.relative_to(root).as_posix() for path in paths]
    return Split(EncodedImages.of_files(paths), np.array(labels, dtype=np.int64), ids)
