"""Data classes of this package: a matrix that is read in order, and the file it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

ChunkReader = Callable[[], Iterator[NDArray[Any]]]


@dataclass(frozen=True)
class MappedMatrix:
    """A row-major matrix in a file, stored so that it can be memory-mapped.

    Attributes
    ----------
    path: the file.
    offset: bytes before the first value.
    dtype: type of the values.
    shape: (n_samples, n_neurons).
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int]

    def open(self) -> NDArray[Any]:
        """Memory-map the matrix, (n_samples, n_neurons), read-only."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    @property
    def is_storable(self) -> bool:
        """Whether a feature store can link it without conversion."""
        return self.dtype in (np.dtype("<f4"), np.dtype("<f2")) and 0 not in self.shape


@dataclass(frozen=True)
class VectorSource:
    """A matrix of vectors.

    Attributes
    ----------
    shape: (n_samples, n_neurons).
    dtype: type of the values.
    chunks: reads the matrix once, from the first row to the last, in blocks of rows.
    mapped: the matrix in its file, if it can be memory-mapped.
    chunk_rows: number of rows that all readers read at a time.
    """

    chunk_rows: ClassVar[int] = 8192

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: ChunkReader
    mapped: MappedMatrix | None = None

    @classmethod
    def from_array(
        cls, array: NDArray[Any], what: str, mapped: MappedMatrix | None = None
    ) -> VectorSource:
        """Make a source from an array or a memory-map.

        Raises
        ------
        CriticalMassError: it is not (n_samples, n_neurons) real numbers; the message calls it
            ``what``.
        """
        check_matrix(array.shape, array.dtype, what)
        shape = (int(array.shape[0]), int(array.shape[1]))

        def chunks() -> Iterator[NDArray[Any]]:
            for start in range(0, shape[0], cls.chunk_rows):
                yield array[start : start + cls.chunk_rows]

        return cls(shape, array.dtype, chunks, mapped)

    @classmethod
    def from_mapped(cls, matrix: MappedMatrix, what: str) -> VectorSource:
        """Make a source from a matrix in a file."""
        check_matrix(matrix.shape, matrix.dtype, what)
        return cls.from_array(matrix.open(), what, matrix)


@dataclass(frozen=True)
class Vectors:
    """The vectors of a file, or arrays.

    Attributes
    ----------
    name: name of the file, or "arrays".
    sources: part -> matrix; a single part is called "all".
    labels: part -> (n_samples,), if the file holds labels.
    read_column: reads a column of the same table by its name; None if the file is no table.
    column_names: the columns of that table.
    path: path of the file; None for arrays.
    notes: remarks for the user: columns that were not read, vectors that are not exact.
    """

    name: str
    sources: Mapping[str, VectorSource]
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    read_column: Callable[[str], NDArray[Any] | None] | None = None
    column_names: tuple[str, ...] = ()
    path: Path | None = None
    notes: tuple[str, ...] = ()


def check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> None:
    """Check that a shape and a type are those of (n_samples, n_neurons) real numbers.

    Raises
    ------
    CriticalMassError: they are not; the message begins with ``what``.
    """
    if len(shape) != 2 or 0 in shape:
        raise CriticalMassError(f"{what} has shape {shape}; it must be (n_samples, n_neurons)")
    if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)):
        raise CriticalMassError(f"{what} is of type {dtype}; it must hold real numbers")


def check_vectors(x: NDArray[Any], what: str) -> None:
    """Check that ``x`` is (n_samples, n_neurons) real numbers, all finite.

    Raises
    ------
    CriticalMassError: it is not; the message begins with ``what``.
    """
    check_matrix(x.shape, x.dtype, what)
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise CriticalMassError(
            f"{what} is not finite in {int((~finite).sum())} rows, first in row "
            f"{int(np.argmin(finite))}"
        )
