"""Datasets of images or sounds in class folders."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.core.progress import warn_user, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.audio import SUFFIXES, EncodedSounds
from criticalmass.extraction.datasets.dataset import UNITS, Dataset, Modality, Split
from criticalmass.extraction.datasets.encoded import EncodedSamples
from criticalmass.extraction.datasets.folder_files import (
    FolderFiles,
    describe_suffixes,
    image_suffixes,
    is_skipped,
    list_files,
)
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import arrange_splits, role_in_words
from criticalmass.extraction.specs import missing_path
from criticalmass.storage.features import UNLABELLED

_ROLES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
_ROLE_OF_NAME = {name: role for role, names in _ROLES.items() for name in names}
_MAX_NAMED = 5


@dataclass(frozen=True)
class _FileKind:
    """The files of one modality.

    Attributes
    ----------
    modality: of the dataset.
    reader: the library that decodes them, for messages.
    suffixes: returns their suffixes, in lower case.
    items: makes the samples of files.
    """

    modality: Modality
    reader: str
    suffixes: Callable[[], Collection[str]]
    items: Callable[[Iterable[Path]], EncodedSamples[Any]]

    @property
    def units(self) -> str:
        """Plural name of the samples."""
        return UNITS[self.modality]


_IMAGES = _FileKind("image", "Pillow", image_suffixes, EncodedImages.of_files)
_SOUNDS = _FileKind("audio", "soundfile", lambda: SUFFIXES, EncodedSounds.of_files)


def load_image_folder(spec: str, folder: str) -> Dataset:
    """Load images whose folder is their class; the folders are as `_load_folder` says."""
    return _load_folder(spec, folder, _IMAGES)


def load_sound_folder(spec: str, folder: str) -> Dataset:
    """Load sounds whose folder is their class; the folders are as `_load_folder` says."""
    return _load_folder(spec, folder, _SOUNDS)


def _load_folder(spec: str, folder: str, kind: _FileKind) -> Dataset:
    """Load images or sounds whose folder is their class.

    Parameters
    ----------
    spec: the spec that named the dataset.
    folder: holds ``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*`` (or all three; also
        ``Training``, ``Testing``, ``valid`` and ``validation``, in any case, and names such as
        ``train_set`` and ``seg_test``); or ``CLASS/*``, which is split (stratified, a quarter for
        the test, seed 0); or only files, which then have no labels. A folder that holds nothing but
        one folder of class folders stands for it. Hidden files and folders are skipped. Files of
        other suffixes and empty class folders are left out, which the user is informed of.
    kind: the files to read.

    Raises
    ------
    CriticalMassError: no such folder, no files, a single class, two folders for one split, or a
        class in the test folder that the train folder does not have.
    """
    root = Path(folder)
    if not root.is_dir():
        cure = "; unpack it" if root.is_file() else ""
        raise CriticalMassError(f"{missing_path(root, 'folder')}{cure}")
    start = _unwrap(root)
    part_folders = _part_folders(start)
    if not part_folders:
        part_folders = {"all": start}
    contents = {
        part: _ClassFolders(_unwrap(part_folder), kind)
        for part, part_folder in part_folders.items()
    }
    names = next(iter(contents.values())).class_names()
    parts = {part: content.split(root, names) for part, content in contents.items()}
    splits, rule = arrange_splits(parts, spec)
    omissions = _omissions(start, part_folders, contents)
    notes = {"split": rule, **omissions}
    return Dataset(spec, root.resolve().name, kind.modality, splits, names, notes=notes)


def _unwrap(folder: Path) -> Path:
    """Follow folders that hold nothing but one folder of folders: ``data`` of ``data/train``."""
    while True:
        folders, files = _visible(folder)
        if len(folders) != 1 or files:
            return folder
        inner_folders, inner_files = _visible(folders[0])
        if inner_files or not inner_folders:
            return folder
        folder = folders[0]


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files in a folder, without hidden ones."""
    paths = [path for path in sorted(folder.iterdir()) if not is_skipped(path.name)]
    return [path for path in paths if path.is_dir()], [path for path in paths if path.is_file()]


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the published splits, the training one first; empty without them.

    Names with further words (``train_set``, ``seg_test``) count if all folders have such names.
    """
    folders, _ = _visible(root)
    by_role: dict[str, list[Path]] = defaultdict(list)
    for path in folders:
        role = _ROLE_OF_NAME.get(path.name.lower())
        if role is not None:
            by_role[role].append(path)
    if not by_role:
        for path in folders:
            by_role[role_in_words(path.name) or ""].append(path)
    if "train" not in by_role or len(by_role) < 2 or "" in by_role:
        return {}
    for role, paths in by_role.items():
        if len(paths) > 1:
            raise CriticalMassError(
                f"{str(root)!r} has the {_ROLES[role][-1]} folders "
                f"{' and '.join(repr(path.name) for path in paths)}; merge them or remove one"
            )
    return {by_role[role][0].name: by_role[role][0] for role in _ROLES if role in by_role}


class _ClassFolders:
    """The class folders of one split.

    Attributes
    ----------
    folder: the folder of the split.
    kind: the files that are read.
    classes: class name -> its files.
    loose: the files of the folder itself.
    """

    def __init__(self, folder: Path, kind: _FileKind) -> None:
        self.folder = folder
        self.kind = kind
        folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and not is_skipped(p.name)]
        suffixes = kind.suffixes()
        self.classes = {path.name: list_files(path, suffixes) for path in folders}
        self.loose = list_files(folder, suffixes, subfolders=False)

    @property
    def names(self) -> list[str]:
        """Names of the classes with files, sorted."""
        return sorted(name for name, files in self.classes.items() if files.read)

    @property
    def empty(self) -> dict[str, FolderFiles]:
        """The class folders without files."""
        return {name: files for name, files in self.classes.items() if not files.read}

    def class_names(self) -> tuple[str, ...]:
        """Return the classes of a training folder; ``UNLABELLED`` if it holds only files."""
        if not self.names and self.loose.read:
            return UNLABELLED
        if len(self.classes) < 2:
            raise CriticalMassError(
                f"{str(self.folder)!r} has {len(self.classes)} class folders{self._unread()}; it "
                f"needs one folder per class, at least two, or only {self.kind.units}, which then "
                "have no labels"
            )
        if not self.names:
            raise self._no_images()
        if len(self.names) < 2:
            raise CriticalMassError(
                f"{str(self.folder)!r} has {self.kind.units} in one class folder, "
                f"{self.names[0]!r}, and none in {_name_some(list(self.empty))}{self._unread()}; "
                "it needs at least two"
            )
        return tuple(self.names)

    def split(self, root: Path, names: tuple[str, ...]) -> Split:
        """Return the files of these classes; their ids are paths relative to ``root``."""
        if names == UNLABELLED:
            files = [self.loose.read]
            unknown = self.names
        else:
            files = [self.classes[name].read if name in self.classes else [] for name in names]
            unknown = sorted(set(self.names) - set(names))
        if unknown:
            raise CriticalMassError(
                f"{str(self.folder)!r} has the class {unknown[0]!r}, the train folder does not; "
                "remove it or add it to the train folder"
            )
        paths = [path for images in files for path in images]
        if not paths:
            raise self._no_images()
        labels = np.repeat(np.arange(len(names)), [len(images) for images in files])
        ids = [path.relative_to(root).as_posix() for path in paths]
        return Split(self.kind.items(paths), labels.astype(np.int64), ids)

    def _no_images(self) -> CriticalMassError:
        return CriticalMassError(
            f"{str(self.folder)!r} holds no {self.kind.units} that {self.kind.reader} can read"
            f"{self._unread()}"
        )

    def _unread(self) -> str:
        text = describe_suffixes(self.unread())
        return f" (files not read: {text})" if text else ""

    def unread(self) -> Counter[str]:
        """Count the files that are not read: suffix -> number."""
        counts = Counter(self.loose.unread)
        for files in self.classes.values():
            counts.update(files.unread)
        return counts


def _omissions(
    root: Path, part_folders: Mapping[str, Path], contents: Mapping[str, _ClassFolders]
) -> dict[str, Any]:
    """Inform the user of what is not read; return it as notes."""
    notes: dict[str, Any] = {}
    unread: Counter[str] = Counter()
    empty: list[str] = []
    without_class, units = 0, ""
    for content in contents.values():
        unread.update(content.unread())
        empty += [(content.folder / name).relative_to(root).as_posix() for name in content.empty]
        without_class += len(content.loose.read) if content.names else 0
        units = content.kind.units
    if unread:
        notes["files_not_read"] = dict(sorted(unread.items()))
        write_line(f"files in {str(root)!r} that are not read: {describe_suffixes(unread)}")
    if empty:
        notes[f"folders_without_{units}"] = empty
        warn_user(f"folders in {str(root)!r} without {units} are no classes: {_name_some(empty)}")
    if without_class:
        notes[f"{units}_without_class"] = without_class
        warn_user(
            f"{without_class:,} {units} in {str(root)!r} are in no class folder and are not read"
        )
    others = _other_folders(root, part_folders) if "all" not in part_folders else []
    if others:
        notes["folders_not_read"] = others
        warn_user(
            f"folders in {str(root)!r} other than {', '.join(map(repr, part_folders))} are not "
            f"read: {_name_some(others)}"
        )
    return notes


def _other_folders(root: Path, part_folders: Mapping[str, Path]) -> list[str]:
    return [
        path.name
        for path in sorted(root.iterdir())
        if path.is_dir() and path.name not in part_folders and not is_skipped(path.name)
    ]


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(map(repr, names[:_MAX_NAMED])) + more
