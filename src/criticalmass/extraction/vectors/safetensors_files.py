"""Vectors in ``.safetensors`` files.

The format: the length of the header (8 bytes, little-endian), the header in JSON (name -> type,
shape, first and last byte), then the values, row-major and little-endian. The format's own
library is not used because it does not return the offset of a tensor in the file.
"""

from __future__ import annotations

import json
import math
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

_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "I8": "i1", "U8": "u1"}
_MAX_HEADER_BYTES = 100_000_000


def open_safetensors(path: Path, column: str | None, other_columns: frozenset[str]) -> Vectors:
    """Open a ``.safetensors`` file; see ``open_vectors``."""
    try:
        tensors, start = _read_header(path)
        matrices = {name: entry for name, entry in tensors.items() if len(entry["shape"]) == 2}
        if column is not None and column not in tensors:
            raise unknown_name(f"tensor in {str(path)!r}", column, tensors)
        if column is None and {"x_train", "x_test"} <= matrices.keys():
            names = {"train": "x_train", "test": "x_test"}
        elif column is None and len(matrices) != 1:
            listing = ", ".join(f"{name!r} {entry['shape']}" for name, entry in tensors.items())
            raise CriticalMassError(
                f"which tensor of {str(path)!r} holds the vectors? It has {listing}; name it with "
                "column= (--column)"
            )
        else:
            names = {"all": column or next(iter(matrices))}
        sources = {part: _source(path, name, tensors, start) for part, name in names.items()}
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, CriticalMassError):
            raise
        raise CriticalMassError(
            f"{str(path)!r} cannot be read as safetensors: {' '.join(str(error).split())}"
        ) from error
    return Vectors(path.name, sources, path=path)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header; return name -> entry, and the offset of the values."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise ValueError(f"its header would have {length} bytes")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _source(path: Path, name: str, tensors: dict[str, Any], start: int) -> VectorSource:
    entry = tensors[name]
    what = f"tensor {name!r} in {str(path)!r}"
    if entry["dtype"] not in _TYPES:
        raise CriticalMassError(
            f"{what} is of type {entry['dtype']}; it must be one of {', '.join(_TYPES)}"
        )
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(int(n) for n in entry["shape"])
    check_matrix(shape, dtype, what)
    first, last = entry["data_offsets"]
    if last - first != math.prod(shape) * dtype.itemsize or start + last > path.stat().st_size:
        raise ValueError(f"{name!r} does not fit into the file")
    matrix = MappedMatrix(path, start + first, dtype, (shape[0], shape[1]))
    if entry["dtype"] != "BF16":
        return VectorSource.from_mapped(matrix, what)
    return VectorSource(matrix.shape, np.dtype(np.float32), lambda: _widen_bfloat16(matrix))


def _widen_bfloat16(matrix: MappedMatrix) -> Iterator[NDArray[Any]]:
    """Yield chunks as float32; the bits of a bfloat16 are the upper half of its float32."""
    values = matrix.open()
    rows = VectorSource.chunk_rows
    for start in range(0, matrix.shape[0], rows):
        yield (values[start : start + rows].astype(np.uint32) << 16).view(np.float32)
