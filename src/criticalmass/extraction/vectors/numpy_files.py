"""Vectors in NumPy's ``.npy`` and ``.npz`` files."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.vectors.source import (
    MappedMatrix,
    Vectors,
    VectorSource,
    check_matrix,
)
from criticalmass.storage.untrusted import check_zip, read_header

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def open_npy(path: Path, column: str | None, other_columns: frozenset[str]) -> Vectors:
    """Open an ``.npy`` file; see ``open_vectors``."""
    if column is not None:
        raise CriticalMassError(f"{str(path)!r} holds one array; leave out column={column!r}")
    return Vectors(path.name, {"all": _npy_source(path)}, path=path)


def _npy_source(path: Path) -> VectorSource:
    what = f"the array in {str(path)!r}"
    try:
        with path.open("rb") as file:
            shape, column_major, dtype = read_header(file)
            offset = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if path.stat().st_size < offset + math.prod(shape) * dtype.itemsize:
            raise ValueError("it is truncated")
    except (ValueError, OSError, EOFError) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as an array: {error}") from error
    check_matrix(shape, dtype, what)
    if column_major:
        return VectorSource.from_array(np.load(path, mmap_mode="r"), what)
    return VectorSource.from_mapped(MappedMatrix(path, offset, dtype, (shape[0], shape[1])), what)


def open_npz(path: Path, column: str | None, other_columns: frozenset[str]) -> Vectors:
    """Open an ``.npz`` file with ``X``, or ``x_train`` and ``x_test``; see ``open_vectors``."""
    check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as NumPy arrays: {error}") from error
    names = {name.lower(): name for name in members}
    if column is not None:
        if column not in members:
            raise unknown_name(f"array in {str(path)!r}", column, members)
        pairs = {"all": (column, "y")}
    elif "x" in names:
        pairs = {"all": ("x", "y")}
    elif {"x_train", "x_test"} <= names.keys():
        pairs = {split: (f"x_{split}", f"y_{split}") for split in ("train", "test")}
    elif len(members) == 1:
        pairs = {"all": (next(iter(names)), "y")}
    else:
        raise CriticalMassError(
            f"{str(path)!r} holds {sorted(members)}; it must hold X, or x_train and x_test; or "
            "name the array with column= (--column)"
        )
    arrays = {part: (names.get(x.lower(), x), names.get(y)) for part, (x, y) in pairs.items()}
    sources = {part: _member_source(path, members[x]) for part, (x, _) in arrays.items()}
    labels = {part: _load_member(path, y) for part, (_, y) in arrays.items() if y is not None}
    return Vectors(path.name, sources, labels, path=path)


def _load_member(path: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as NumPy arrays: {error}") from error


def _member_source(path: Path, info: zipfile.ZipInfo) -> VectorSource:
    what = f"array {info.filename.removesuffix('.npy')!r} in {str(path)!r}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            shape, column_major, dtype = read_header(file)
            header = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as NumPy arrays: {error}") from error
    check_matrix(shape, dtype, what)
    if column_major:
        return VectorSource.from_array(_load_member(path, info.filename.removesuffix(".npy")), what)
    matrix_shape = (shape[0], shape[1])
    if info.compress_type == zipfile.ZIP_STORED:
        offset = _data_offset(path, info) + header
        return VectorSource.from_mapped(MappedMatrix(path, offset, dtype, matrix_shape), what)
    return VectorSource(
        matrix_shape, dtype, lambda: _read_compressed(path, info, matrix_shape, dtype)
    )


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the offset of a member's bytes: its local header can be longer than the central."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        fields = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + int(fields[-2]) + int(fields[-1])


def _read_compressed(
    path: Path, info: zipfile.ZipInfo, shape: tuple[int, int], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    rows = VectorSource.chunk_rows
    row_bytes = shape[1] * dtype.itemsize
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            read_header(file)
            for start in range(0, shape[0], rows):
                content = file.read(min(rows, shape[0] - start) * row_bytes)
                yield np.frombuffer(content, dtype).reshape(-1, shape[1])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as NumPy arrays: {error}") from error
