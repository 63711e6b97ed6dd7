"""Limits for files of unknown origin: what they would unpack to, and where they may point."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from criticalmass.errors import CriticalMassError

#: A file that unpacks to more than this many bytes, and to more than so many times its own size,
#: is taken for one that was made to fill the memory. Features, labels and weights hardly compress.
MOST_UNPACKED = 2**30

MOST_EXPANSION = 100


def check_unpacked(path: Path, unpacked: int) -> None:
    """Refuse a file that says it unpacks to far more than it holds.

    Parameters
    ----------
    path: the file.
    unpacked: bytes that it says it unpacks to.

    Raises
    ------
    CriticalMassError: it is over both limits.
    """
    stored = max(1, path.stat().st_size)
    if unpacked > MOST_UNPACKED and unpacked > MOST_EXPANSION * stored:
        raise CriticalMassError(
            f"{str(path)!r} of {stored:,} bytes would unpack to {unpacked:,}, which looks like an "
            "archive made to fill the memory; if you trust it, store its arrays uncompressed"
        )


def check_zip(path: Path) -> None:
    """Refuse a zip archive (NumPy's, PyTorch's) that unpacks to far more than it holds.

    The sizes of a zip's directory are a promise that Python's reader holds members to: it reads
    no further. A file that is no zip passes; who reads it says so.

    Raises
    ------
    CriticalMassError: the archive is over the limits, or an array in it says it is larger than
        the bytes that stand for it.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_unpacked(path, sum(info.file_size for info in members))
            for info in members:
                if info.filename.endswith(".npy"):
                    _check_array(path, archive, info)
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise CriticalMassError(f"{str(path)!r} is no readable archive: {error}") from error


def _check_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    from criticalmass.storage.untrusted import read_header

    try:
        with archive.open(info) as file:
            shape, _, dtype = read_header(file)
            held = info.file_size - file.tell()
    except (ValueError, OSError, SyntaxError) as error:
        raise CriticalMassError(
            f"{info.filename!r} in {str(path)!r} is no NumPy array: {error}"
        ) from error
    asked = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and asked != held:
        raise CriticalMassError(
            f"{info.filename!r} in {str(path)!r} says it has {asked:,} bytes and has {held:,}; "
            "it is damaged, save it again"
        )


def check_beside(folder: Path, location: str, owner: Path) -> Path:
    """Resolve a path that a file names; it may not leave the file's folder.

    Parameters
    ----------
    folder: the folder of the file.
    location: the path, relative to it.
    owner: the file, for the message.

    Raises
    ------
    CriticalMassError: it is absolute, climbs out, or goes through a link that does.
    """
    path = (folder / location).resolve()
    if location and path.is_relative_to(folder.resolve()):
        return path
    raise CriticalMassError(
        f"{str(owner)!r} keeps data in {location!r}, outside its folder, which is refused; put "
        "the data beside it and save the file again"
    )


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an ``.npy`` file; -> shape, whether column-major, and type.

    Raises
    ------
    ValueError: it has none.
    """
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    # Version 3 differs in the encoding of the names of fields, which vectors do not have.
    return npy.read_array_header_2_0(file)
