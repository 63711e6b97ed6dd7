"""How many bytes a neuron's value is stored in, and what comes back when it is read again.

float32 and float16 are the types themselves. int8 spreads 256 levels evenly over each neuron's
range on the training rows, as FAISS's 8-bit scalar quantiser does. binary keeps one bit: above or
below the neuron's mean, read back as +1 and -1, so that cosine similarity ranks as the Hamming
distance of the codes does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError, unknown_name

BITS: Mapping[str, int] = MappingProxyType({"float32": 32, "float16": 16, "int8": 8, "binary": 1})
_LEVELS = 255
_CHUNK = 4096


def bytes_per_vector(n_kept: int, precision: str) -> int:
    """Bytes of one stored vector: n_kept values of the precision, rounded up to whole bytes.

    Raises
    ------
    CriticalMassError: for an unknown precision.
    """
    check_precision(precision)
    return math.ceil(n_kept * BITS[precision] / 8)


def most_neurons(budget: int, precision: str) -> int:
    """Most neurons whose vector fits into a budget of bytes; 0 if none does."""
    check_precision(precision)
    return budget * 8 // BITS[precision]


def check_precision(precision: str) -> None:
    """Refuse an unknown precision, with a did-you-mean."""
    if precision not in BITS:
        raise unknown_name("precision", precision, BITS)


@dataclass(frozen=True, eq=False)
class Codec:
    """Writes vectors in a precision and reads them back.

    Attributes
    ----------
    precision: a key of `BITS`.
    offset, step: (n_neurons,) float32; a value of int8 is ``offset + step * code``, a bit is
        whether the value is above ``offset``. Unused by float32 and float16.
    """

    precision: str
    offset: NDArray[np.float32]
    step: NDArray[np.float32]

    @classmethod
    def learn(cls, precision: str, rows: Rows) -> Codec:
        """Learn ranges or thresholds from (n_samples, n_neurons) training rows, read in chunks.

        Raises
        ------
        CriticalMassError: for an unknown precision or no rows.
        """
        check_precision(precision)
        n, d = (int(length) for length in rows.shape)
        if n == 0:
            raise CriticalMassError("no rows to learn a precision from; give at least one")
        low, high = np.full(d, np.inf), np.full(d, -np.inf)
        total = np.zeros(d)
        if precision in ("int8", "binary"):
            for start in range(0, n, _CHUNK):
                block = np.asarray(rows[start : start + _CHUNK], dtype=np.float32)
                np.minimum(low, block.min(axis=0), out=low)
                np.maximum(high, block.max(axis=0), out=high)
                total += block.sum(axis=0, dtype=np.float64)
        if precision == "int8":
            width = (high - low) / _LEVELS
            # A constant neuron has no range; any step reads its one value back.
            step = np.where(width > 0.0, width, 1.0)
            return cls(precision, low.astype(np.float32), step.astype(np.float32))
        offset = (total / n).astype(np.float32)
        return cls(precision, offset, np.ones(d, dtype=np.float32))

    def encode(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return what is stored of (n_samples, n_neurons): bits are packed, 8 to a byte."""
        if self.precision == "int8":
            level = np.rint((x - self.offset) / self.step)
            codes: NDArray[np.uint8] = np.clip(level, 0, _LEVELS).astype(np.uint8)
            return codes
        if self.precision == "binary":
            return np.packbits(x > self.offset, axis=1)
        return np.asarray(x, dtype=self.precision)

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Return the (n_samples, n_neurons) float32 that reading the codes gives."""
        if self.precision == "int8":
            return self.offset + self.step * codes.astype(np.float32)
        if self.precision == "binary":
            bits = np.unpackbits(codes, axis=1, count=self.offset.size)
            return np.where(bits > 0, np.float32(1.0), np.float32(-1.0))
        return codes.astype(np.float32)

    def kept(self, indices: NDArray[np.intp]) -> Codec:
        """Return the codec of some of the neurons."""
        return Codec(self.precision, self.offset[indices], self.step[indices])


@dataclass(frozen=True, eq=False)
class Stored:
    """Rows as they come back from storage in a precision, converted as they are read.

    Attributes
    ----------
    rows: (n_samples, n_neurons).
    codec: of the same neurons.
    """

    rows: Rows
    codec: Codec

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_samples, n_neurons)."""
        return tuple(int(length) for length in self.rows.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Read the rows of a slice or an index array, written and read back."""
        block = np.asarray(self.rows[key], dtype=np.float32)
        return self.codec.decode(self.codec.encode(block))


def stored(rows: Rows, codec: Codec) -> Rows:
    """Rows as a codec's storage returns them; those of float32 stay as they are."""
    return rows if codec.precision == "float32" else Stored(rows, codec)
