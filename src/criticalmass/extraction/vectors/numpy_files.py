"""Vectors in NumPy's ``.npy`` and ``.npz`` files, and in ``.npz`` files of scipy.sparse."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.archives import ArrayInfo, open_archive
from criticalmass.extraction.vectors.source import (
    MappedMatrix,
    VectorRequest,
    Vectors,
    VectorSource,
    check_matrix,
)
from criticalmass.extraction.vectors.sparse import is_sparse_archive, open_sparse
from criticalmass.storage.untrusted import check_zip, read_header

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# What damaged archives raise: RuntimeError for encrypted ones and unknown compressions.
_ERRORS = (
    *(ValueError, OSError, EOFError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
_OBJECTS = "it holds Python objects, and reading these could run code; save numbers or texts"


def open_npy(path: Path, request: VectorRequest) -> Vectors:
    """Open an ``.npy`` file; see ``open_vectors``."""
    if request.column is not None:
        raise CriticalMassError(
            f"{str(path)!r} holds one array; leave out column={request.column!r}"
        )
    return Vectors(path.name, {"all": _npy_source(path)}, files=(path,), origin="an array")


def _npy_source(path: Path) -> VectorSource:
    what = f"the array in {str(path)!r}"
    try:
        with path.open("rb") as file:
            shape, column_major, dtype = read_header(file)
            offset = file.tell()
        if dtype.hasobject:
            raise ValueError(_OBJECTS)
        if path.stat().st_size < offset + math.prod(shape) * dtype.itemsize:
            raise ValueError("it is truncated")
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise CriticalMassError(f"{str(path)!r} cannot be read as an array: {error}") from error
    check_matrix(shape, dtype, what)
    if column_major:
        return VectorSource.from_array(np.load(path, mmap_mode="r"), what)
    return VectorSource.from_mapped(MappedMatrix(path, offset, dtype, (shape[0], shape[1])), what)


def open_npz(path: Path, request: VectorRequest) -> Vectors:
    """Open an ``.npz`` file of named arrays, or of a sparse matrix; see ``open_vectors``."""
    check_zip(path)
    archive = _NpzArchive(path)
    if is_sparse_archive(archive.arrays) and request.column is None:
        return open_sparse(path)
    return open_archive(archive, request)


class _NpzArchive:
    """The arrays of an ``.npz`` file; uncompressed ones are memory-mapped."""

    unit = "array"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, zipfile.ZipInfo] = {}
        arrays: dict[str, ArrayInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        name = info.filename.removesuffix(".npy")
                        with archive.open(info) as file:
                            shape, _, dtype = read_header(file)
                        self.members[name] = info
                        arrays[name] = ArrayInfo(shape, str(dtype), dtype.kind in "fiu")
        except _ERRORS as error:
            raise _unreadable(path, error) from error
        self.arrays: Mapping[str, ArrayInfo] = arrays

    def source(self, name: str) -> VectorSource:
        """Return a matrix of vectors, which is read later."""
        return _member_source(self.path, name, self.members[name])

    def load(self, name: str) -> NDArray[Any]:
        """Read an array of labels."""
        return _load_member(self.path, name)


def _load_member(path: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except _ERRORS as error:
        if "allow_pickle" in str(error):
            raise CriticalMassError(
                f"array {name!r} of {str(path)!r} cannot be read: {_OBJECTS}, e.g. with "
                f"{name}.astype(str)"
            ) from error
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CriticalMassError:
    return CriticalMassError(f"{str(path)!r} cannot be read as NumPy arrays: {error}")


def _member_source(path: Path, name: str, info: zipfile.ZipInfo) -> VectorSource:
    what = f"array {name!r} in {str(path)!r}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            shape, column_major, dtype = read_header(file)
            header = file.tell()
    except _ERRORS as error:
        raise _unreadable(path, error) from error
    if dtype.hasobject:
        raise CriticalMassError(f"{what} cannot be read: {_OBJECTS}")
    check_matrix(shape, dtype, what)
    if column_major:
        return VectorSource.from_array(_load_member(path, name), what)
    matrix_shape = (shape[0], shape[1])
    if info.compress_type == zipfile.ZIP_STORED:
        offset = _data_offset(path, info) + header
        return VectorSource.from_mapped(MappedMatrix(path, offset, dtype, matrix_shape), what)
    return VectorSource(
        matrix_shape, dtype, lambda: _read_compressed(path, info, matrix_shape, dtype), name=what
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
    except _ERRORS as error:
        raise _unreadable(path, error) from error
