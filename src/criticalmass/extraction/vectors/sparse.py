"""Sparse matrices of scipy, in memory and in ``.npz`` files of ``scipy.sparse.save_npz``."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.source import Vectors, VectorSource, check_matrix
from criticalmass.storage.untrusted import MAX_EXPANSION, MAX_UNPACKED_BYTES

_STORED_BYTES = 4
# What scipy raises if arrays are missing, of the wrong type, or do not fit together.
_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, OSError, IndexError, OverflowError),
    *(EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error),
)


def is_sparse_archive(names: Collection[str]) -> bool:
    """Return whether the arrays of an ``.npz`` file are those of a sparse matrix."""
    return {"format", "shape", "data"} <= set(names)


def open_sparse(path: Path) -> Vectors:
    """Open a file of ``scipy.sparse.save_npz``.

    Raises
    ------
    CriticalMassError: indices outside the matrix, or a matrix too large to be stored dense.
    """
    from scipy import sparse

    try:
        matrix = sparse.load_npz(path)
        if hasattr(matrix, "check_format"):
            # Indices outside the matrix would write outside its memory.
            matrix.check_format(full_check=True)
        source = sparse_source(matrix, f"the sparse matrix in {str(path)!r}", path.stat().st_size)
    except _ERRORS as error:
        if isinstance(error, CriticalMassError):
            raise
        raise CriticalMassError(
            f"{str(path)!r} cannot be read as a sparse matrix: it is damaged; save it again with "
            "scipy.sparse.save_npz"
        ) from error
    return Vectors(path.name, {"all": source}, files=(path,), origin=f"a {matrix.format} matrix")


def sparse_source(matrix: Any, name: str, n_bytes: int | None = None) -> VectorSource:
    """Make a source from a sparse matrix; blocks of rows become dense.

    Parameters
    ----------
    matrix: (n_samples, n_neurons), of any sparse format.
    name: what holds it, for messages.
    n_bytes: size of its file; None for the size in memory.
    """
    shape = tuple(int(side) for side in matrix.shape)
    check_matrix(shape, matrix.dtype, name)
    dense_bytes = shape[0] * shape[1] * _STORED_BYTES
    rows = matrix.tocsr()
    n_bytes = rows.data.nbytes + rows.indices.nbytes if n_bytes is None else n_bytes
    if dense_bytes > MAX_UNPACKED_BYTES and dense_bytes > MAX_EXPANSION * max(1, n_bytes):
        raise CriticalMassError(
            f"{name} has the shape {shape} and would take {dense_bytes:,} bytes with its zeros; "
            "reduce its columns first, e.g. with sklearn.decomposition.TruncatedSVD"
        )

    def chunks() -> Iterator[NDArray[Any]]:
        for start in range(0, shape[0], VectorSource.chunk_rows):
            yield np.asarray(rows[start : start + VectorSource.chunk_rows].toarray())

    return VectorSource((shape[0], shape[1]), matrix.dtype, chunks, name=name)
