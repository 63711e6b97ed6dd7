"""Vectors in FAISS indexes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.source import (
    MappedMatrix,
    VectorRequest,
    Vectors,
    VectorSource,
)

_N_COMPARED = 8


def open_faiss(path: Path, request: VectorRequest) -> Vectors:
    """Open a FAISS index; see ``open_vectors``. Vectors are in the order they were added in.

    Raises
    ------
    MissingExtraError: faiss is not installed.
    CriticalMassError: not an index, a binary index, or one that cannot reconstruct its vectors.
    """
    if request.column is not None:
        raise CriticalMassError(f"{str(path)!r} is an index; leave out column={request.column!r}")
    faiss = import_package("faiss", "data")
    outer_index = _read_index(faiss, path)
    index = _unwrap_id_map(faiss, outer_index)
    shape = (int(index.ntotal), int(index.d))
    if 0 in shape:
        raise CriticalMassError(f"the index in {str(path)!r} holds no vectors")
    kind = type(index).__name__
    matrix = _map_flat_index(faiss, index, path, shape)
    if matrix is not None:
        source = VectorSource.from_mapped(matrix, str(path))
        return Vectors(path.name, {"all": source}, files=(path,), origin=kind)
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    # One call before any loop: FAISS ends the process on an error in its own parallel loop.
    _reconstruct(index, 0, path)
    notes = (f"the vectors of {path.name} are as its {kind} gives them back",)
    chunks = partial(_chunks, index, path, shape, outer_index)
    source = VectorSource(shape, np.dtype(np.float32), chunks, name=repr(str(path)))
    return Vectors(path.name, {"all": source}, files=(path,), notes=notes, origin=kind)


def _read_index(faiss: Any, path: Path) -> Any:
    try:
        try:
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError:
            # Some kinds of index cannot be memory-mapped.
            return faiss.read_index(str(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CriticalMassError(
            f"{str(path)!r} cannot be read as a FAISS index: {reason}"
        ) from error


def _unwrap_id_map(faiss: Any, index: Any) -> Any:
    """Return the index inside a map of ids, which holds the vectors in the same order.

    The map owns the inner index and must not be freed before it.
    """
    while type(index).__name__ in ("IndexIDMap", "IndexIDMap2"):
        index = faiss.downcast_index(index.index)
    return index


def _map_flat_index(
    faiss: Any, index: Any, path: Path, shape: tuple[int, int]
) -> MappedMatrix | None:
    """Return the vectors of a flat index as the last bytes of its file; None if they are not."""
    if not isinstance(index, faiss.IndexFlat):
        return None
    offset = path.stat().st_size - 4 * shape[0] * shape[1]
    if offset < 0:
        return None
    matrix = MappedMatrix(path, offset, np.dtype("<f4"), shape)
    values = matrix.open()
    rows = np.unique(np.linspace(0, shape[0] - 1, _N_COMPARED, dtype=int))
    equal = all(np.array_equal(values[row], index.reconstruct(int(row))) for row in rows)
    return matrix if equal else None


def _reconstruct(index: Any, row: int, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(index.reconstruct(row))
    except RuntimeError as error:
        raise CriticalMassError(
            f"the {type(index).__name__} in {str(path)!r} cannot reconstruct its vector {row}; "
            "import the vectors that it was built from"
        ) from error


def _chunks(index: Any, path: Path, shape: tuple[int, int], owner: Any) -> Iterator[NDArray[Any]]:
    """Read an index chunk by chunk; the reference to ``owner`` keeps the index alive."""
    for start in range(0, shape[0], VectorSource.chunk_rows):
        stop = min(start + VectorSource.chunk_rows, shape[0])
        yield np.stack([_reconstruct(index, row, path) for row in range(start, stop)])
