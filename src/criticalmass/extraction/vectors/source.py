"""Data classes of this package: a matrix that is read in order, and the file it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.labels import LabelColumn

ChunkReader = Callable[[], Iterator[NDArray[Any]]]


@dataclass(frozen=True)
class VectorRequest:
    """What the user asks of a file or table.

    Attributes
    ----------
    column: name of the column, array or tensor of the vectors; a pattern with ``*`` or ``?``
        names the columns of a table with one column per neuron. None: choose by name and type.
    labels: name of the column or array of the labels, or of a file.
    split: name of the column of the splits, or of a file.
    find_labels: whether to use a column or array with a usual name of labels.
    id: name of the column of a table that holds the ids of the rows.
    tasks: names of the columns or arrays of several labels.
    """

    column: str | None = None
    labels: str | None = None
    split: str | None = None
    find_labels: bool = True
    id: str | None = None
    tasks: tuple[str, ...] = ()

    @property
    def others(self) -> set[str]:
        """The columns and arrays that the user named and that hold no vectors."""
        return {name for name in (self.labels, self.split, *self.tasks) if name is not None}


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

    def open(self) -> np.memmap[Any, Any]:
        """Memory-map the matrix, (n_samples, n_neurons), read-only."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    @property
    def is_storable(self) -> bool:
        """Whether a feature store can link it without conversion."""
        return self.dtype in (np.dtype("<f4"), np.dtype("<f2")) and 0 not in self.shape


@dataclass(frozen=True)
class DatabaseState:
    """Where vectors of a database come from.

    Attributes
    ----------
    address: the database and table, without secrets.
    version: a text that changes with any row; None if the database has none.
    """

    address: str
    version: str | None


@dataclass(frozen=True)
class VectorSource:
    """A matrix of vectors.

    Attributes
    ----------
    shape: (n_samples, n_neurons).
    dtype: type of the values.
    chunks: reads the matrix once, from the first row to the last, in blocks of rows.
    mapped: the matrix in its file, if it can be memory-mapped.
    name: what holds the vectors, for messages: "column 'vector' of 'table.parquet'".
    ids: Arrow array of the ids of the rows, if they have any.
    chunks_from: reads the matrix from a row on, where that saves reading the rows before it.
    database: the database that holds the vectors; None for files and arrays.
    is_array: whether it is an array beside others that come from files.
    chunk_rows: number of rows that all readers read at a time.
    """

    chunk_rows: ClassVar[int] = 8192

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: ChunkReader
    mapped: MappedMatrix | None = None
    name: str = "the vectors"
    ids: Any = None
    chunks_from: Callable[[int], Iterator[NDArray[Any]]] | None = None
    database: DatabaseState | None = None
    is_array: bool = False

    @classmethod
    def from_array(
        cls, array: NDArray[Any], name: str, mapped: MappedMatrix | None = None
    ) -> VectorSource:
        """Make a source from an array or a memory-map.

        Raises
        ------
        CriticalMassError: it is not (n_samples, n_neurons) real numbers; the message calls it
            ``name``.
        """
        check_matrix(array.shape, array.dtype, name)
        shape = (int(array.shape[0]), int(array.shape[1]))

        def chunks() -> Iterator[NDArray[Any]]:
            for start in range(0, shape[0], cls.chunk_rows):
                yield array[start : start + cls.chunk_rows]

        return cls(shape, array.dtype, chunks, mapped, name)

    @classmethod
    def from_mapped(cls, matrix: MappedMatrix, name: str) -> VectorSource:
        """Make a source from a matrix in a file."""
        check_matrix(matrix.shape, matrix.dtype, name)
        return cls.from_array(matrix.open(), name, matrix)


def _no_column(_: str) -> None:
    return None


@dataclass(frozen=True)
class Vectors:
    """The vectors of a file, or arrays.

    Attributes
    ----------
    name: name of the file, or "arrays".
    sources: part -> matrix; a single part is called "all".
    labels: part -> labels that were chosen by their name.
    label_source: what holds these labels, for the manifest.
    read_column: reads a column or array by its name; returns part -> its values, or None.
    column_names: the names that ``read_column`` knows.
    files: the files; empty for arrays.
    notes: remarks for the manifest: columns that were not read, vectors that are not exact.
    origin: the columns or arrays of the vectors, for the user: "column 'vector'".
    unread: names of columns or arrays that were not read.
    split_column: name of the column of the splits, if the table has one.
    unit: what the format calls a column or array.
    columns: names of the columns of the vectors, of a table.
    id_column: name of the column of the ids of its rows.
    """

    name: str
    sources: Mapping[str, VectorSource]
    labels: Mapping[str, LabelColumn] = field(default_factory=dict)
    label_source: str = ""
    read_column: Callable[[str], Mapping[str, LabelColumn] | None] = _no_column
    column_names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    origin: str = ""
    unread: tuple[str, ...] = ()
    split_column: str | None = None
    unit: str = "column"
    columns: tuple[str, ...] = ()
    id_column: str | None = None


def check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Check that a shape and a type are those of (n_samples, n_neurons) real numbers.

    Raises
    ------
    CriticalMassError: they are not; the message begins with ``name``.
    """
    if len(shape) != 2 or 0 in shape:
        cure = ""
        if len(shape) > 2:
            cure = "; average or flatten the other axes, e.g. x.reshape(len(x), -1)"
        raise CriticalMassError(
            f"{name} has shape {shape}; it must be (n_samples, n_neurons){cure}"
        )
    if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)):
        raise CriticalMassError(f"{name} is of type {dtype}; it must hold real numbers")


def describe_row(row: int, ids: Any) -> str:
    """Return "row 12", with the id of the row if there is an Arrow array of ids."""
    return f"row {row}" if ids is None else f"row {row} (id {str(ids[row])!r})"


def check_finite(x: NDArray[Any], name: str, first_row: int | None = None, ids: Any = None) -> None:
    """Check that vectors are finite, also as float32.

    Parameters
    ----------
    x: (n_rows, n_neurons).
    name: what holds them, for the message.
    first_row: row number of the first of these rows; None if these are all rows.
    ids: Arrow array of the ids of all rows, if they have any.

    Raises
    ------
    CriticalMassError: a value is NaN, infinite or beyond float32; the message names the first row.
    """
    if x.dtype.kind != "f" or not x.size:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        # If the sum is finite, so are all values. If it is not, check each: it may have overflowed.
        total = x.sum(dtype=np.float64)
        largest = np.abs(x).max() if x.dtype.itemsize > 4 else 0.0
    if not np.isfinite(total):
        finite = np.isfinite(x).all(axis=1)
        row = (first_row or 0) + int(np.argmin(finite))
        n_bad = int((~finite).sum())
        count = f" in {n_bad} {'row' if n_bad == 1 else 'rows'}"
        if first_row is not None:
            count = f" in {n_bad} of the rows {first_row} to {first_row + len(x) - 1}"
        if not finite.all():
            raise CriticalMassError(
                f"{name} is not finite{count}, first in {describe_row(row, ids)}; drop such rows, "
                "or fill in their values"
            )
    if largest > np.finfo(np.float32).max:
        row = (first_row or 0) + int(np.argmax(np.abs(x).max(axis=1)))
        raise CriticalMassError(
            f"{name} has a value of {largest:.3g} in {describe_row(row, ids)}, which is too "
            "large for float32; scale the vectors"
        )


def check_vectors(x: NDArray[Any], name: str) -> None:
    """Check that ``x`` is (n_samples, n_neurons) real numbers, all finite.

    Raises
    ------
    CriticalMassError: it is not; the message begins with ``name``.
    """
    check_matrix(x.shape, x.dtype, name)
    check_finite(x, name)
