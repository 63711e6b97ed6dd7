"""Codecs: the types that the values of a neuron are stored in.

float32 and float16 are stored as they are. int8 spreads 256 levels evenly over each neuron's
range on the training rows, as FAISS's 8-bit scalar quantiser does. binary stores one bit per
value: whether it is above the neuron's mean. Bits are decoded to +1 and -1, so that cosine
similarity ranks vectors as the Hamming distance of their codes does.
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
#: Rows that are read at a time.
CHUNK_ROWS = 4096


def bytes_per_vector(n_kept: int, precision: str) -> int:
    """Return the bytes of one stored vector of ``n_kept`` values, rounded up to whole bytes.

    Raises
    ------
    CriticalMassError: for an unknown precision.
    """
    check_precision(precision)
    return math.ceil(n_kept * BITS[precision] / 8)


def neurons_in_budget(budget: int, precision: str) -> int:
    """Return the largest number of neurons whose vector fits into ``budget`` bytes, or 0."""
    check_precision(precision)
    return budget * 8 // BITS[precision]


def check_precision(precision: str) -> None:
    """Raise CriticalMassError with a suggestion if the precision is unknown."""
    if precision not in BITS:
        raise unknown_name("precision", precision, BITS)


@dataclass(frozen=True, eq=False)
class Codec:
    """Encodes vectors in a precision and decodes them.

    Attributes
    ----------
    precision: a key of `BITS`.
    offset, step: (n_neurons,) float32. An int8 code stands for ``offset + step * code``; a bit
        says whether the value is above ``offset``. Not used by float32 and float16.
    """

    precision: str
    offset: NDArray[np.float32]
    step: NDArray[np.float32]

    @classmethod
    def learn(cls, precision: str, rows: Rows) -> Codec:
        """Learn ranges or thresholds from (n_samples, n_neurons) training rows, read in chunks.

        Raises
        ------
        CriticalMassError: if the precision is unknown or there are no rows.
        """
        check_precision(precision)
        n, d = (int(length) for length in rows.shape)
        if n == 0:
            raise CriticalMassError("no rows to learn a precision from; give at least one")
        values = ValueRange.nothing(d)
        if precision in ("int8", "binary"):
            for start in range(0, n, CHUNK_ROWS):
                block = np.asarray(rows[start : start + CHUNK_ROWS], dtype=np.float32)
                values = values.merge(ValueRange.of(block))
        return values.codec(precision)

    def encode(self, x: NDArray[Any]) -> NDArray[Any]:
        """Encode (n_samples, n_neurons) values; bits are packed, 8 to a byte."""
        if self.precision == "int8":
            levels = np.rint((x - self.offset) / self.step)
            codes: NDArray[np.uint8] = np.clip(levels, 0, _LEVELS).astype(np.uint8)
            return codes
        if self.precision == "binary":
            return np.packbits(x > self.offset, axis=1)
        return np.asarray(x, dtype=self.precision)

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Decode to (n_samples, n_neurons) float32."""
        if self.precision == "int8":
            return self.offset + self.step * codes.astype(np.float32)
        if self.precision == "binary":
            bits = np.unpackbits(codes, axis=1, count=self.offset.size)
            return np.where(bits > 0, np.float32(1.0), np.float32(-1.0))
        return codes.astype(np.float32)

    def subset(self, indices: NDArray[np.intp]) -> Codec:
        """Return the codec of some neurons."""
        return Codec(self.precision, self.offset[indices], self.step[indices])


@dataclass(frozen=True, eq=False)
class ValueRange:
    """What a codec learns of n rows: lowest and highest value and sum of each neuron."""

    n: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    total: NDArray[np.float64]

    @classmethod
    def nothing(cls, n_neurons: int) -> ValueRange:
        """Return the range of no rows."""
        infinite = np.full(n_neurons, np.inf, dtype=np.float32)
        return cls(0, infinite, -infinite, np.zeros(n_neurons))

    @classmethod
    def of(cls, block: NDArray[np.float32]) -> ValueRange:
        """Return the range of (n, n_neurons) values, n at least 1."""
        total = block.sum(axis=0, dtype=np.float64)
        return cls(len(block), block.min(axis=0), block.max(axis=0), total)

    def merge(self, other: ValueRange) -> ValueRange:
        """Return the range of both sets of rows."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return ValueRange(self.n + other.n, low, high, self.total + other.total)

    def codec(self, precision: str) -> Codec:
        """Return the codec of a precision; float32 and float16 need no rows."""
        if precision == "int8":
            width = ((self.high.astype(np.float64) - self.low) / _LEVELS).astype(np.float32)
            # A neuron that is constant up to float32 has no range; any step decodes its value.
            return Codec(precision, self.low, np.where(width > 0.0, width, np.float32(1.0)))
        offset = (self.total / max(1, self.n)).astype(np.float32)
        return Codec(precision, offset, np.ones(offset.size, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows that are encoded and decoded when they are read.

    Attributes
    ----------
    rows: (n_samples, n_neurons) values.
    codec: codec of the same neurons.
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
        """Return the rows of a slice or an index array, encoded and decoded."""
        block = np.asarray(self.rows[key], dtype=np.float32)
        return self.codec.decode(self.codec.encode(block))


def round_trip(rows: Rows, codec: Codec) -> Rows:
    """Return rows as they are after encoding and decoding; float32 rows are returned unchanged."""
    return rows if codec.precision == "float32" else StoredRows(rows, codec)
