"""The nouns of this room: a matrix that is read in order, and the file it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

ROWS = 8192
"""Rows that are read at a time."""

Chunks = Callable[[], Iterator[NDArray[Any]]]


@dataclass(frozen=True)
class Block:
    """A row-major matrix that lies in a file as it is, so that it can be memory-mapped.

    Attributes
    ----------
    path: the file.
    offset: bytes before the first value.
    dtype: of the values.
    shape: (n_samples, n_neurons).
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int]

    def open(self) -> NDArray[Any]:
        """Map the matrix, (n_samples, n_neurons), read-only."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    @property
    def is_storable(self) -> bool:
        """Whether a feature store can use it as it is."""
        return self.dtype in (np.dtype("<f4"), np.dtype("<f2")) and 0 not in self.shape


@dataclass(frozen=True)
class Source:
    """A matrix of vectors.

    Attributes
    ----------
    shape: (n_samples, n_neurons).
    dtype: of the values.
    chunks: reads it once, from the first row to the last, in blocks of rows.
    block: where it lies in a file, if it does as it is.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: Chunks
    block: Block | None = None

    @classmethod
    def of_array(cls, array: NDArray[Any], what: str, block: Block | None = None) -> Source:
        """Take an array or a memory-map.

        Raises
        ------
        CriticalMassError: it is not (n_samples, n_neurons) real numbers; it is called ``what``.
        """
        check_form(array.shape, array.dtype, what)
        shape = (int(array.shape[0]), int(array.shape[1]))

        def chunks() -> Iterator[NDArray[Any]]:
            for start in range(0, shape[0], ROWS):
                yield array[start : start + ROWS]

        return cls(shape, array.dtype, chunks, block)

    @classmethod
    def of_block(cls, block: Block, what: str) -> Source:
        """Take a matrix in a file."""
        check_form(block.shape, block.dtype, what)
        return cls.of_array(block.open(), what, block)


@dataclass(frozen=True)
class Vectors:
    """What was found in a file, or handed in.

    Attributes
    ----------
    name: of the file, or "arrays".
    sources: part -> matrix; the part is "all" where there is but one.
    labels: part -> (n_samples,), if they lie beside the vectors.
    columns: reads a column of the same table by its name; None if it is no table.
    column_names: of that table.
    path: of the file.
    notes: what a reader should know: what was not read, what is no exact vector.
    """

    name: str
    sources: Mapping[str, Source]
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    columns: Callable[[str], NDArray[Any] | None] | None = None
    column_names: tuple[str, ...] = ()
    path: Path | None = None
    notes: tuple[str, ...] = ()


def check_form(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> None:
    """Check that a matrix is (n_samples, n_neurons) real numbers.

    Raises
    ------
    CriticalMassError: it is not; the message begins with ``what``.
    """
    if len(shape) != 2 or 0 in shape:
        raise CriticalMassError(f"{what} has the shape {shape}; it must be (n_samples, n_neurons)")
    if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)):
        raise CriticalMassError(f"{what} is of type {dtype}; it must hold real numbers")
