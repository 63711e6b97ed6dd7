"""Checks of files of unknown origin: their unpacked size, and the paths that they name."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from criticalmass.errors import CriticalMassError

#: A file is refused if it unpacks to more bytes than the first limit and to more than the second
#: limit times its own size. Features, labels and weights hardly compress.
MAX_UNPACKED_BYTES = 2**30
MAX_EXPANSION = 100


def check_unpacked(path: Path, unpacked: int) -> None:
    """Refuse a file that unpacks to far more bytes than it has.

    Parameters
    ----------
    path: the file.
    unpacked: number of bytes that it declares to unpack to.

    Raises
    ------
    CriticalMassError: if it is over both limits.
    """
    size = max(1, path.stat().st_size)
    if unpacked > MAX_UNPACKED_BYTES and unpacked > MAX_EXPANSION * size:
        raise CriticalMassError(
            f"{str(path)!r} has {size:,} bytes but would unpack to {unpacked:,}, like an archive "
            "made to fill the memory; if you trust it, store its arrays uncompressed"
        )


def check_zip(path: Path) -> None:
    """Refuse a zip archive (of NumPy or PyTorch) that unpacks to far more bytes than it has.

    The sizes in the directory of a zip file are binding: Python's reader reads no more. A file
    that is not a zip archive passes; its reader reports that.

    Raises
    ------
    CriticalMassError: if the archive is over the limits, or an array in it declares another size
        than it has.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_unpacked(path, sum(info.file_size for info in members))
            for info in members:
                if info.filename.endswith(".npy"):
                    _check_array(path, archive, info)
    except (zipfile.BadZipFile, RuntimeError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise CriticalMassError(
            f"{str(path)!r} is not a readable archive ({error}); save it again"
        ) from error


def _check_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    try:
        with archive.open(info) as file:
            shape, _, dtype = read_header(file)
            size = info.file_size - file.tell()
    except (ValueError, OSError, SyntaxError) as error:
        raise CriticalMassError(
            f"{info.filename!r} in {str(path)!r} is not a NumPy array ({error}); save it again"
        ) from error
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and declared != size:
        raise CriticalMassError(
            f"{info.filename!r} in {str(path)!r} declares {declared:,} bytes but has {size:,}; "
            "it is damaged, save it again"
        )


def check_inside_folder(folder: Path, location: str, owner: Path) -> Path:
    """Return the path that a file names, relative to its folder.

    Parameters
    ----------
    folder: the folder of the file.
    location: the path, relative to the folder.
    owner: the file, for the message.

    Raises
    ------
    CriticalMassError: if the path leaves the folder: it is absolute, climbs out, or follows a
        link out.
    """
    path = (folder / location).resolve()
    if location and path.is_relative_to(folder.resolve()):
        return path
    raise CriticalMassError(
        f"{str(owner)!r} stores data in {location!r}, outside its folder, which is refused; put "
        "the data into the folder and save the file again"
    )


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an ``.npy`` file; -> shape, whether column-major, and type.

    Raises
    ------
    ValueError: if there is no valid header.
    """
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    # Version 3 differs in the encoding of field names only, which vectors do not have.
    return npy.read_array_header_2_0(file)
