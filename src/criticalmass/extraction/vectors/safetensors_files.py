"""Vectors in ``.safetensors`` files.

The format: the length of the header (8 bytes, little-endian), the header in JSON (name -> type,
shape, first and last byte), then the values, row-major and little-endian. Read here and not by
the format's own library because that one does not say where in the file a tensor lies.
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
from criticalmass.extraction.vectors.source import ROWS, Block, Source, Vectors, check_form

_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "I8": "i1", "U8": "u1"}
_LONGEST_HEADER = 100_000_000


def open_safetensors(path: Path, column: str | None, other: frozenset[str]) -> Vectors:
    """Open a ``.safetensors`` file; see ``open_vectors``."""
    try:
        tensors, start = _header(path)
        matrices = {name: e for name, e in tensors.items() if len(e["shape"]) == 2}
        if column is not None and column not in tensors:
            raise unknown_name(f"tensor in {str(path)!r}", column, tensors)
        if column is None and {"x_train", "x_test"} <= matrices.keys():
            chosen = {"train": "x_train", "test": "x_test"}
        elif column is None and len(matrices) != 1:
            listed = ", ".join(f"{name!r} {e['shape']}" for name, e in tensors.items())
            raise CriticalMassError(
                f"which tensor of {str(path)!r} holds the vectors? It has {listed}; say so with "
                "column= (--column)"
            )
        else:
            chosen = {"all": column or next(iter(matrices))}
        sources = {part: _source(path, name, tensors, start) for part, name in chosen.items()}
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, CriticalMassError):
            raise
        raise CriticalMassError(
            f"{str(path)!r} cannot be read as safetensors: {' '.join(str(error).split())}"
        ) from error
    return Vectors(path.name, sources, path=path)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header; -> name -> entry, and where the values begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
            raise ValueError(f"its header would have {length} bytes")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _source(path: Path, name: str, tensors: dict[str, Any], start: int) -> Source:
    entry = tensors[name]
    what = f"tensor {name!r} in {str(path)!r}"
    if entry["dtype"] not in _TYPES:
        raise CriticalMassError(
            f"{what} is of type {entry['dtype']}; it must be one of {', '.join(_TYPES)}"
        )
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(int(n) for n in entry["shape"])
    check_form(shape, dtype, what)
    first, last = entry["data_offsets"]
    if last - first != math.prod(shape) * dtype.itemsize or start + last > path.stat().st_size:
        raise ValueError(f"{name!r} does not fit into the file")
    block = Block(path, start + first, dtype, (shape[0], shape[1]))
    if entry["dtype"] != "BF16":
        return Source.of_block(block, what)
    return Source(block.shape, np.dtype(np.float32), lambda: _from_bfloat16(block))


def _from_bfloat16(block: Block) -> Iterator[NDArray[Any]]:
    """Widen bfloat16 to float32, of which it is the upper half."""
    values = block.open()
    for start in range(0, block.shape[0], ROWS):
        yield (values[start : start + ROWS].astype(np.uint32) << 16).view(np.float32)
