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
from criticalmass.extraction.vectors.source import ROWS, Block, Source, Vectors

_COMPARED = 8


def open_faiss(path: Path, column: str | None, other: frozenset[str]) -> Vectors:
    """Open a FAISS index; see ``open_vectors``. Vectors are in the order they were added in.

    Raises
    ------
    MissingExtraError: faiss is not installed.
    CriticalMassError: no index, a binary one, or one that does not give its vectors back.
    """
    if column is not None:
        raise CriticalMassError(f"{str(path)!r} is an index; leave out column={column!r}")
    faiss = import_package("faiss", "data")
    whole = _read(faiss, path)
    index = _unwrapped(faiss, whole)
    shape = (int(index.ntotal), int(index.d))
    if 0 in shape:
        raise CriticalMassError(f"the index in {str(path)!r} holds no vectors")
    block = _flat_block(faiss, index, path, shape)
    if block is not None:
        return Vectors(path.name, {"all": Source.of_block(block, str(path))}, path=path)
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    # One call first: within a parallel loop of its own, FAISS ends the process on an error.
    _reconstruct(index, 0, path)
    kind = type(index).__name__
    notes = (f"the vectors of {path.name} are as its {kind} gives them back",)
    chunks = partial(_chunks, index, path, shape, whole)
    source = Source(shape, np.dtype(np.float32), chunks)
    return Vectors(path.name, {"all": source}, path=path, notes=notes)


def _read(faiss: Any, path: Path) -> Any:
    try:
        try:
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError:
            # Not every kind of index can be mapped.
            return faiss.read_index(str(path))
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise CriticalMassError(f"{str(path)!r} cannot be read as a FAISS index: {said}") from error


def _unwrapped(faiss: Any, index: Any) -> Any:
    """Take the index within a map of ids, which has its vectors in the same order.

    The map owns it, and must live as long.
    """
    while type(index).__name__ in ("IndexIDMap", "IndexIDMap2"):
        index = faiss.downcast_index(index.index)
    return index


def _flat_block(faiss: Any, index: Any, path: Path, shape: tuple[int, int]) -> Block | None:
    """Find the vectors of a flat index in its file: they are its last bytes, or it is no use."""
    if not isinstance(index, faiss.IndexFlat):
        return None
    offset = path.stat().st_size - 4 * shape[0] * shape[1]
    if offset < 0:
        return None
    block = Block(path, offset, np.dtype("<f4"), shape)
    mapped = block.open()
    places = np.unique(np.linspace(0, shape[0] - 1, _COMPARED, dtype=int))
    same = all(np.array_equal(mapped[p], index.reconstruct(int(p))) for p in places)
    return block if same else None


def _reconstruct(index: Any, row: int, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(index.reconstruct(row))
    except RuntimeError as error:
        raise CriticalMassError(
            f"the {type(index).__name__} in {str(path)!r} does not give back its vector {row}; "
            "import the vectors it was made of"
        ) from error


def _chunks(index: Any, path: Path, shape: tuple[int, int], owner: Any) -> Iterator[NDArray[Any]]:
    """Read an index block by block; its owner is handed over to stay alive."""
    for start in range(0, shape[0], ROWS):
        stop = min(start + ROWS, shape[0])
        yield np.stack([_reconstruct(index, row, path) for row in range(start, stop)])
