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
    keys = _map_lists(faiss, index, path)
    # One call before any loop: FAISS ends the process on an error in its own parallel loop.
    _reconstruct(index, 0 if keys is None else int(keys[0]), path)
    notes = (f"the vectors of {path.name} are as its {kind} gives them back",)
    chunks = partial(_chunks, index, path, shape, keys, outer_index)
    source = VectorSource(
        shape, np.dtype(np.float32), chunks, name=repr(str(path)),
        ids=None if keys is None else _as_arrow(keys),
    )  # fmt: skip
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


def _map_lists(faiss: Any, index: Any, path: Path) -> NDArray[np.int64] | None:
    """Let an index of inverted lists find its vectors; return their ids if they are its own.

    Raises
    ------
    CriticalMassError: an id of two vectors.
    """
    lists_index = faiss.try_extract_index_ivf(index)
    if lists_index is None:
        return None
    lists = lists_index.invlists
    ids = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)).copy()
        for number in range(lists.nlist)
        if lists.list_size(number)
    ]
    keys: NDArray[np.int64] = np.sort(np.concatenate(ids))
    if np.array_equal(keys, np.arange(len(keys))):
        lists_index.make_direct_map()
        return None
    if len(np.unique(keys)) < len(keys):
        raise CriticalMassError(
            f"the index in {str(path)!r} has an id of two vectors; import the vectors that it was "
            "built from"
        )
    lists_index.set_direct_map_type(faiss.DirectMap.Hashtable)
    return keys


def _as_arrow(keys: NDArray[np.int64]) -> Any:
    import pyarrow as pa

    return pa.array(keys)


def _reconstruct(index: Any, row: int, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(index.reconstruct(row))
    except RuntimeError as error:
        raise CriticalMassError(
            f"the {type(index).__name__} in {str(path)!r} cannot reconstruct its vector {row}; "
            "import the vectors that it was built from"
        ) from error


def _chunks(
    index: Any, path: Path, shape: tuple[int, int], keys: NDArray[np.int64] | None, owner: Any
) -> Iterator[NDArray[Any]]:
    """Read an index chunk by chunk; the reference to ``owner`` keeps the index alive."""
    for start in range(0, shape[0], VectorSource.chunk_rows):
        stop = min(start + VectorSource.chunk_rows, shape[0])
        rows = range(start, stop) if keys is None else keys[start:stop].tolist()
        yield np.stack([_reconstruct(index, row, path) for row in rows])
