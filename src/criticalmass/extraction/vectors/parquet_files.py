"""Vectors in Parquet files, in a column of lists or in a column per neuron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.vectors.source import Vectors, VectorSource
from criticalmass.storage.untrusted import check_unpacked

_BUFFER_BYTES = 1 << 16


def open_parquet(path: Path, column: str | None, other_columns: frozenset[str]) -> Vectors:
    """Open a Parquet file; see ``open_vectors``.

    The vectors are the only column of lists of numbers (of equal length). Without such a column
    they are all columns of decimal numbers, or without those all columns of whole numbers.
    """
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema, n = file.schema_arrow, file.metadata.num_rows
    except _arrow_errors() as error:
        raise _unreadable(path, error) from error
    fields = {field.name: field.type for field in schema}
    if column is not None and column not in fields:
        raise unknown_name(f"column in {str(path)!r}", column, fields)
    if not n:
        raise CriticalMassError(f"{str(path)!r} has no rows")
    columns, is_list = _choose_columns(fields, column, other_columns, path)
    if is_list:
        source = _list_source(path, columns[0], n)
    else:
        source = _wide_source(path, columns, fields, n)
    unread = [name for name in fields if name not in {*columns, *other_columns}]
    notes = (f"not read of {path.name}: {', '.join(map(repr, unread))}",) if unread else ()

    def read_column(name: str) -> NDArray[Any] | None:
        return _read_values(path, name) if name in fields else None

    return Vectors(
        path.name,
        {"all": source},
        read_column=read_column,
        column_names=tuple(fields),
        path=path,
        notes=notes,
    )


def _choose_columns(
    fields: dict[str, Any], column: str | None, other_columns: frozenset[str], path: Path
) -> tuple[list[str], bool]:
    """Choose the columns of the vectors; return them, and whether it is one column of lists."""
    from pyarrow import types

    if column is not None:
        if not _is_list(fields[column]):
            raise CriticalMassError(
                f"column {column!r} of {str(path)!r} is {fields[column]}; the vectors must be a "
                "column of lists of numbers, or a column per neuron (leave out column=)"
            )
        return [column], True
    candidates = {name: kind for name, kind in fields.items() if name not in other_columns}
    lists = [name for name, kind in candidates.items() if _is_list(kind)]
    if len(lists) > 1:
        raise CriticalMassError(
            f"which column of {str(path)!r} holds the vectors, {' or '.join(map(repr, lists))}? "
            "Name it with column= (--column)"
        )
    if lists:
        return lists, True
    wide = [name for name, kind in candidates.items() if types.is_floating(kind)]
    wide = wide or [name for name, kind in candidates.items() if types.is_integer(kind)]
    if not wide:
        listing = ", ".join(f"{name!r} ({kind})" for name, kind in fields.items())
        raise CriticalMassError(
            f"{str(path)!r} holds no vectors: it has neither a column of lists of numbers nor "
            f"columns of numbers; it has {listing}"
        )
    return wide, False


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(
        is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
    )


def _list_source(path: Path, name: str, n: int) -> VectorSource:
    first = next(_batches(path, [name], 1)).column(0)
    width = 0 if first.null_count else len(first[0])
    if not width:
        raise CriticalMassError(f"column {name!r} of {str(path)!r} has no vector in row 0")
    dtype = np.dtype(first.type.value_type.to_pandas_dtype())
    check_unpacked(path, n * width * dtype.itemsize)

    def chunks() -> Iterator[NDArray[Any]]:
        row = 0
        for batch in _batches(path, [name], VectorSource.chunk_rows):
            cells = batch.column(0)
            values = cells.flatten()
            _check_lists(path, name, cells, width, row)
            if values.null_count:
                raise CriticalMassError(
                    f"column {name!r} of {str(path)!r} has vectors that lack a number, in rows "
                    f"{row} to {row + len(cells) - 1}; drop these rows"
                )
            yield values.to_numpy(zero_copy_only=False).reshape(len(cells), width)
            row += len(cells)

    return VectorSource((n, width), dtype, chunks)


def _check_lists(path: Path, name: str, cells: Any, width: int, row: int) -> None:
    """Check that every row of a batch holds ``width`` numbers; its first row is row ``row``."""
    import pyarrow.compute as pc

    if cells.null_count:
        missing = row + _first_null(cells)
        raise CriticalMassError(
            f"column {name!r} of {str(path)!r} has no vector in row {missing}; drop such rows"
        )
    lengths = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    different = np.flatnonzero(lengths != width)
    if different.size:
        index = int(different[0])
        raise CriticalMassError(
            f"column {name!r} of {str(path)!r} has {int(lengths[index])} numbers in row "
            f"{row + index} and {width} in row 0; all vectors must have the same length"
        )


def _first_null(cells: Any) -> int:
    return int(np.argmax(cells.is_null().to_numpy(zero_copy_only=False)))


def _wide_source(path: Path, names: Sequence[str], fields: dict[str, Any], n: int) -> VectorSource:
    dtype = np.result_type(*(np.dtype(fields[name].to_pandas_dtype()) for name in names))
    check_unpacked(path, n * len(names) * dtype.itemsize)

    def chunks() -> Iterator[NDArray[Any]]:
        row = 0
        for batch in _batches(path, names, VectorSource.chunk_rows):
            for name, cells in zip(batch.schema.names, batch.columns, strict=True):
                if cells.null_count:
                    raise CriticalMassError(
                        f"column {name!r} of {str(path)!r} has no number in row "
                        f"{row + _first_null(cells)}; drop such rows"
                    )
            columns = {
                name: cells.to_numpy(zero_copy_only=False)
                for name, cells in zip(batch.schema.names, batch.columns, strict=True)
            }
            yield np.stack([columns[name] for name in names], axis=1)
            row += batch.num_rows

    return VectorSource((n, len(names)), dtype, chunks)


def _batches(path: Path, names: Sequence[str], rows: int) -> Iterator[Any]:
    from pyarrow import parquet

    try:
        # By default Arrow holds a whole row group in memory, which may be the whole file.
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=rows, columns=list(names))
    except _arrow_errors() as error:
        raise _unreadable(path, error) from error


def _read_values(path: Path, name: str) -> NDArray[Any]:
    """Read a column with one value per row."""
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            cells = file.read(columns=[name]).column(0)
    except _arrow_errors() as error:
        raise _unreadable(path, error) from error
    if cells.null_count:
        first = int(np.argmax(cells.is_null().to_numpy()))
        raise CriticalMassError(
            f"column {name!r} of {str(path)!r} has no value in {cells.null_count} rows, first in "
            f"row {first}; fill them in or drop these rows"
        )
    return np.asarray(cells.to_pylist())


def _arrow_errors() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (pa.ArrowException, OSError)


def _unreadable(path: Path, error: Exception) -> CriticalMassError:
    reason = " ".join(str(error).split())
    return CriticalMassError(f"{str(path)!r} cannot be read as Parquet: {reason}")
