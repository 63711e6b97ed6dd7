"""Find the files of images or sounds in a folder, and count those that are not read."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Files and folders that systems and tools add to a folder; hidden ones are skipped too.
_SKIPPED = {"__macosx", "__pycache__", "@eadir", "thumbs.db", "desktop.ini"}
# Pillow recognises these formats, but decodes them with a further program or not at all.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_NO_SUFFIX = "no suffix"


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder.

    Attributes
    ----------
    read: the files that are read, sorted by path.
    unread: suffix (``"no suffix"`` without one) -> number of files that are not read.
    """

    read: list[Path] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case with their dot, of the formats that Pillow decodes."""
    from PIL import Image

    Image.init()
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _NOT_DECODED
    )


def is_skipped(name: str) -> bool:
    """Whether a file or folder is hidden or added by a system or a tool."""
    return name.startswith(".") or name.lower() in _SKIPPED


def list_files(folder: Path, suffixes: Collection[str], *, subfolders: bool = True) -> FolderFiles:
    """List the files of a folder.

    Parameters
    ----------
    folder: the folder. Links to folders are followed, each folder is read once, and a link to
        a folder that holds ``folder`` is not followed.
    suffixes: suffixes of the files to read, in lower case.
    subfolders: whether to list the files of its folders too.
    """
    files = FolderFiles()
    start = os.path.realpath(folder)
    visited = {start}
    for current, folder_names, file_names in os.walk(folder, followlinks=True):
        further = []
        for name in sorted(folder_names) if subfolders else ():
            target = os.path.realpath(os.path.join(current, name))
            is_above = start.startswith(os.path.join(target, ""))
            if not is_skipped(name) and target not in visited and not is_above:
                visited.add(target)
                further.append(name)
        folder_names[:] = further
        for name in file_names:
            path = Path(current, name)
            if is_skipped(name):
                continue
            # A link without a target is reported as a sample that cannot be read.
            if path.suffix.lower() in suffixes and (path.is_file() or path.is_symlink()):
                files.read.append(path)
            else:
                files.unread[path.suffix.lower() or _NO_SUFFIX] += 1
    files.read.sort()
    return files


def describe_suffixes(counts: Mapping[str, int]) -> str:
    """Write numbers of files by suffix, the most frequent first: ``3 .txt, 1 .csv``."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {suffix}" for suffix, count in ordered)
