"""Vectors in ``.fvecs``, ``.bvecs`` and ``.ivecs`` files (of TEXMEX, e.g. SIFT1M).

Each row is its length (int32, little-endian) and then its values: float32, uint8 or int32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.source import VectorRequest, Vectors, VectorSource

_TYPES = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
_LENGTH_BYTES = 4


def open_vecs(path: Path, request: VectorRequest) -> Vectors:
    """Open a file of vectors with lengths; see ``open_vectors``."""
    if request.column is not None:
        raise CriticalMassError(
            f"{str(path)!r} holds one matrix; leave out column={request.column!r}"
        )
    dtype = np.dtype(_TYPES[path.suffix.lower()])
    size = path.stat().st_size
    with path.open("rb") as file:
        width = int.from_bytes(file.read(_LENGTH_BYTES), "little", signed=True)
    row_bytes = _LENGTH_BYTES + width * dtype.itemsize
    if width < 1 or size % row_bytes:
        raise CriticalMassError(
            f"{str(path)!r} is no {path.suffix} file: row 0 would have {width} numbers, which does "
            f"not fit {size:,} bytes; write the file again"
        )
    shape = (size // row_bytes, width)
    layout = np.dtype([("length", "<i4"), ("values", dtype, (width,))])

    def chunks() -> Iterator[NDArray[Any]]:
        rows = np.memmap(path, layout, "r")
        for start in range(0, shape[0], VectorSource.chunk_rows):
            block = rows[start : start + VectorSource.chunk_rows]
            different = np.flatnonzero(block["length"] != width)
            if different.size:
                row = int(different[0])
                raise CriticalMassError(
                    f"{str(path)!r} has {block['length'][row]} numbers in row {start + row} and "
                    f"{width} in row 0; all vectors must have the same length"
                )
            yield np.ascontiguousarray(block["values"])

    source = VectorSource(shape, dtype, chunks, name=repr(str(path)))
    return Vectors(path.name, {"all": source}, files=(path,), origin=f"{width} values per row")
