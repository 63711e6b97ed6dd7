"""Read the weights in a ``model.bin`` of CTranslate2; nothing in it is run.

The format is that of python/ctranslate2/specs/model_spec.py in github.com/OpenNMT/CTranslate2: a
version, the name and revision of the kind of model, and the variables. All numbers are
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

# Versions of the format in which each variable names its type and its number of bytes.
_VERSIONS = (4, 5, 6)
# Types by their number; the last, bfloat16, is the upper half of a float32.
_TYPES = ("<f4", "i1", "<i2", "<i4", "<f2", "<u2")
_BFLOAT16 = 5
_SCALE = "_scale"


@dataclass
class _Reader:
    """A place in the content of a file."""

    content: bytes
    place: int = 0

    def bytes(self, count: int) -> bytes:
        """Read so many bytes."""
        end = self.place + count
        if end > len(self.content):
            raise ValueError("it is truncated")
        part = self.content[self.place : end]
        self.place = end
        return part

    def integers(self, form: str) -> tuple[int, ...]:
        """Read integers in a form of `struct`."""
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))

    def text(self) -> str:
        """Read a text that ends in a zero byte, after its length with that byte."""
        return self.bytes(self.integers("H")[0])[:-1].decode()


def read_ctranslate2(path: Path, kind: str, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Read the variables of a model; floats and quantised weights become float32.

    Parameters
    ----------
    path: the file.
    kind: name of the kind of model, such as ``"WhisperSpec"``.
    prefix: only variables whose names begin with it are returned, without it.

    Raises
    ------
    CriticalMassError: the file is not of this format and kind, or is damaged.
    """
    reader = _Reader(path.read_bytes())
    try:
        [version] = reader.integers("I")
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}, not one of {_VERSIONS}")
        name = reader.text()
        if name != kind:
            raise ValueError(f"it is a {name}")
        _, n_variables = reader.integers("II")
        variables = dict(_read_variable(reader) for _ in range(n_variables))
        return {
            name.removeprefix(prefix): _as_floats(name, variables)
            for name in variables
            if name.startswith(prefix) and not name.endswith(_SCALE)
        }
    except ValueError as error:
        raise CriticalMassError(
            f"{str(path)!r} is no {kind} of CTranslate2 that can be read: {error}"
        ) from error


def _read_variable(reader: _Reader) -> tuple[str, NDArray[Any]]:
    name = reader.text()
    [n_axes] = reader.integers("B")
    shape = reader.integers(f"{n_axes}I")
    kind, n_bytes = reader.integers("BI")
    if kind >= len(_TYPES):
        raise ValueError(f"{name!r} has the unknown type number {kind}")
    values = np.frombuffer(reader.bytes(n_bytes), _TYPES[kind]).reshape(shape)
    if kind == _BFLOAT16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return name, values


def _as_floats(name: str, variables: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Divide quantised values by their scale: one, or one for each row along the second axis."""
    values, scale = variables[name], variables.get(f"{name}{_SCALE}")
    if scale is not None:
        rows = np.expand_dims(scale, 1) if scale.ndim else scale
        return np.asarray(values / rows.astype(np.float32), dtype=np.float32)
    return values.astype(np.float32) if values.dtype.kind == "f" else values
