"""Vectors in HDF5 files, such as those of ann-benchmarks (datasets ``train`` and ``test``)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, MissingExtraError
from criticalmass.extraction.vectors.archives import ArrayInfo, open_archive
from criticalmass.extraction.vectors.source import (
    VectorRequest,
    Vectors,
    VectorSource,
    check_matrix,
)
from criticalmass.storage.untrusted import check_unpacked

_MAX_DEPTH = 8
# What h5py raises for damaged files.
_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError)


def open_hdf5(path: Path, request: VectorRequest) -> Vectors:
    """Open an HDF5 file; see ``open_vectors``. Datasets in groups are named ``group/dataset``.

    Raises
    ------
    MissingExtraError: h5py is not installed.
    CriticalMassError: the file is damaged, or its values are in other files.
    """
    try:
        importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{str(path)!r} needs h5py, which is not installed; install it with: pip install h5py"
        ) from error
    return open_archive(_Hdf5Archive(path), request)


class _Hdf5Archive:
    """The datasets of a file; the file is open only while they are read."""

    unit = "dataset"

    def __init__(self, path: Path) -> None:
        self.path = path
        arrays: dict[str, ArrayInfo] = {}
        with self._open() as file:
            try:
                self._list(file, "", set(), arrays)
            except _ERRORS as error:
                if isinstance(error, CriticalMassError):
                    raise
                raise self._unreadable_error() from error
        self.arrays: Mapping[str, ArrayInfo] = arrays

    def _open(self) -> Any:
        h5py = importlib.import_module("h5py")
        try:
            return h5py.File(self.path, "r")
        except _ERRORS as error:
            raise self._unreadable_error() from error

    def _unreadable_error(self) -> CriticalMassError:
        return CriticalMassError(
            f"{str(self.path)!r} cannot be read as HDF5: it is damaged, cut off or of another "
            "format; write the file again"
        )

    def _list(
        self, group: Any, prefix: str, visited: set[int], arrays: dict[str, ArrayInfo]
    ) -> None:
        """List the datasets of a group once each; links to other files are refused."""
        h5py = importlib.import_module("h5py")
        for key in group:
            if isinstance(group.get(key, getlink=True), h5py.ExternalLink):
                raise self._elsewhere_error(f"{prefix}{key}")
            try:
                item = group[key]
            except _ERRORS as error:
                raise self._damaged_error(f"{prefix}{key}") from error
            address = int(h5py.h5o.get_info(item.id).addr)
            if address in visited:
                continue
            visited.add(address)
            if isinstance(item, h5py.Group) and prefix.count("/") < _MAX_DEPTH:
                self._list(item, f"{prefix}{key}/", visited, arrays)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise self._elsewhere_error(f"{prefix}{key}")
                is_real = item.dtype.kind in "fiu" and item.shape is not None
                kind = str(item.dtype)
                arrays[f"{prefix}{key}"] = ArrayInfo(tuple(item.shape or ()), kind, is_real)

    def _elsewhere_error(self, name: str) -> CriticalMassError:
        return CriticalMassError(
            f"dataset {name!r} of {str(self.path)!r} has its values in another file, which is "
            "refused; write them into this file"
        )

    def _damaged_error(self, name: str) -> CriticalMassError:
        return CriticalMassError(
            f"dataset {name!r} of {str(self.path)!r} cannot be read: it is damaged, or compressed "
            "by a filter that is not installed; write the file again, e.g. with gzip"
        )

    def source(self, name: str) -> VectorSource:
        """Return a matrix of vectors, which is read later."""
        info, what = self.arrays[name], f"dataset {name!r} of {str(self.path)!r}"
        dtype = np.dtype(info.kind) if info.is_real else np.dtype(object)
        check_matrix(info.shape, dtype, what)
        check_unpacked(self.path, math.prod(info.shape) * dtype.itemsize)
        shape = (info.shape[0], info.shape[1])

        def chunks() -> Iterator[NDArray[Any]]:
            rows = VectorSource.chunk_rows
            with self._open() as file:
                for start in range(0, shape[0], rows):
                    yield self._read(file, name, slice(start, min(start + rows, shape[0])))

        return VectorSource(shape, dtype, chunks, name=what)

    def load(self, name: str) -> Any:
        """Read an array of labels."""
        info = self.arrays[name]
        check_unpacked(self.path, math.prod(info.shape) * 8)
        with self._open() as file:
            return self._read(file, name, ...)

    def _read(self, file: Any, name: str, rows: Any) -> NDArray[Any]:
        try:
            return np.asarray(file[name][rows])
        except _ERRORS as error:
            raise self._damaged_error(name) from error
