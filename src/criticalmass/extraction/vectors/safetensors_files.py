"""Vectors in ``.safetensors`` files.

The format: the length of the header (8 bytes, little-endian), the header in JSON (name -> type,
shape, first and last byte), then the values, row-major and little-endian. The format's own
library is not used because it does not return the offset of a tensor in the file.
"""

from __future__ import annotations

import json
import math
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

_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}
_INTEGERS = {f"{sign}{8 * n}": f"<{kind}{n}" for sign, kind in (("I", "i"), ("U", "u"))
             for n in (1, 2, 4, 8)}  # fmt: skip
_TYPES = {**_FLOATS, **_INTEGERS, "BOOL": "?"}
_MAX_HEADER_BYTES = 100_000_000


def open_safetensors(path: Path, request: VectorRequest) -> Vectors:
    """Open a ``.safetensors`` file; see ``open_vectors``."""
    try:
        archive = _SafetensorsArchive(path)
    except (AttributeError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise CriticalMassError(
            f"{str(path)!r} cannot be read as safetensors: {' '.join(str(error).split())}; save it "
            "again"
        ) from error
    return open_archive(archive, request)


class _SafetensorsArchive:
    """The tensors of a file, which are memory-mapped."""

    unit = "tensor"

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise ValueError(f"its header would have {length} bytes")
            self.entries = json.loads(file.read(length))
        self.entries.pop("__metadata__", None)
        self.start = 8 + length
        self.arrays: Mapping[str, ArrayInfo] = {name: self._info(name) for name in self.entries}

    def _info(self, name: str) -> ArrayInfo:
        entry = self.entries[name]
        shape = tuple(int(n) for n in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
        kind = entry["dtype"]
        if kind in _TYPES:
            n_bytes = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
            is_inside = first >= 0 and self.start + last <= self.path.stat().st_size
            if min(shape, default=0) < 0 or last - first != n_bytes or not is_inside:
                raise ValueError(f"{name!r} does not fit into the file")
        return ArrayInfo(shape, kind, is_real=kind in _TYPES and kind != "BOOL")

    def source(self, name: str) -> VectorSource:
        """Return a matrix of vectors, which is read later."""
        what = f"tensor {name!r} in {str(self.path)!r}"
        kind, shape = self.entries[name]["dtype"], self.arrays[name].shape
        if kind not in _TYPES:
            raise CriticalMassError(
                f"{what} is of type {kind}; it must be one of {', '.join(_TYPES)}"
            )
        check_matrix(shape, np.dtype(_TYPES[kind]), what)
        matrix = self._matrix(name, (shape[0], shape[1]))
        if kind != "BF16":
            return VectorSource.from_mapped(matrix, what)
        dtype = np.dtype(np.float32)
        return VectorSource(matrix.shape, dtype, lambda: _widen_bfloat16(matrix), name=what)

    def _matrix(self, name: str, shape: tuple[int, int]) -> MappedMatrix:
        entry = self.entries[name]
        offset = self.start + int(entry["data_offsets"][0])
        return MappedMatrix(self.path, offset, np.dtype(_TYPES[entry["dtype"]]), shape)

    def load(self, name: str) -> NDArray[Any]:
        """Read an array of labels."""
        info = self.arrays[name]
        if info.kind not in _TYPES or 0 in info.shape:
            raise CriticalMassError(
                f"tensor {name!r} in {str(self.path)!r} of type {info.kind} and shape "
                f"{list(info.shape)} cannot be labels; they must be whole numbers"
            )
        matrix = self._matrix(name, (1, math.prod(info.shape)))
        values = matrix.open() if info.kind != "BF16" else next(_widen_bfloat16(matrix))
        return np.asarray(values).reshape(info.shape)


def _widen_bfloat16(matrix: MappedMatrix) -> Iterator[NDArray[Any]]:
    """Yield chunks as float32; the bits of a bfloat16 are the upper half of its float32."""
    values = matrix.open()
    rows = VectorSource.chunk_rows
    for start in range(0, matrix.shape[0], rows):
        yield (values[start : start + rows].astype(np.uint32) << 16).view(np.float32)
