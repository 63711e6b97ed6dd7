"""Vectors in Parquet files: a column of lists, or a column per neuron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.vectors.source import ROWS, Source, Vectors
from criticalmass.storage.untrusted import check_unpacked

_BUFFER = 1 << 16


def open_parquet(path: Path, column: str | None, other: frozenset[str]) -> Vectors:
    """Open a Parquet file; see ``open_vectors``.

    The vectors are the one column of lists of numbers (of equal length), or, where there is none,
    all columns of decimal numbers (of whole numbers if there are no others).
    """
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema, n = file.schema_arrow, file.metadata.num_rows
    except _errors() as error:
        raise _unreadable(path, error) from error
    fields = {field.name: field.type for field in schema}
    if column is not None and column not in fields:
        raise unknown_name(f"column in {str(path)!r}", column, fields)
    if not n:
        raise CriticalMassError(f"{str(path)!r} has no rows")
    chosen, is_list = _choose(fields, column, other, path)
    source = _list_source(path, chosen[0], n) if is_list else _wide_source(path, chosen, fields, n)
    left = [name for name in fields if name not in {*chosen, *other}]
    notes = (f"not read of {path.name}: {', '.join(map(repr, left))}",) if left else ()

    def read(name: str) -> NDArray[Any] | None:
        return _values(path, name) if name in fields else None

    names = tuple(fields)
    return Vectors(path.name, {"all": source}, {}, read, names, path, notes)


def _choose(
    fields: dict[str, Any], column: str | None, other: frozenset[str], path: Path
) -> tuple[list[str], bool]:
    """Find the columns of the vectors; -> names, and whether it is one column of lists."""
    import pyarrow.types as types

    if column is not None:
        if not _is_list(fields[column]):
            raise CriticalMassError(
                f"column {column!r} of {str(path)!r} is {fields[column]}; the vectors must be a "
                "column of lists of numbers, or a column per neuron (leave out column=)"
            )
        return [column], True
    free = {name: kind for name, kind in fields.items() if name not in other}
    lists = [name for name, kind in free.items() if _is_list(kind)]
    if len(lists) > 1:
        raise CriticalMassError(
            f"which column of {str(path)!r} holds the vectors, {' or '.join(map(repr, lists))}? "
            "Say so with column= (--column)"
        )
    if lists:
        return lists, True
    wide = [name for name, kind in free.items() if types.is_floating(kind)]
    wide = wide or [name for name, kind in free.items() if types.is_integer(kind)]
    if not wide:
        listed = ", ".join(f"{name!r} ({kind})" for name, kind in fields.items())
        raise CriticalMassError(
            f"{str(path)!r} holds no vectors: no column of lists of numbers, no numbers; it has "
            f"{listed}"
        )
    return wide, False


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(
        is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
    )


def _list_source(path: Path, name: str, n: int) -> Source:
    first = next(_batches(path, [name], 1)).column(0)
    width = 0 if first.null_count else len(first[0])
    if not width:
        raise CriticalMassError(f"column {name!r} of {str(path)!r} has no vector in row 0")
    dtype = np.dtype(first.type.value_type.to_pandas_dtype())
    check_unpacked(path, n * width * dtype.itemsize)

    def chunks() -> Iterator[NDArray[Any]]:
        row = 0
        for batch in _batches(path, [name], ROWS):
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

    return Source((n, width), dtype, chunks)


def _check_lists(path: Path, name: str, cells: Any, width: int, row: int) -> None:
    """Require vectors of one length in every row of a batch, whose first row is ``row``."""
    import pyarrow.compute as pc

    if cells.null_count:
        at = int(np.argmax(cells.is_null().to_numpy(zero_copy_only=False)))
        raise CriticalMassError(
            f"column {name!r} of {str(path)!r} has no vector in row {row + at}; drop such rows"
        )
    lengths = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(lengths != width)
    if odd.size:
        raise CriticalMassError(
            f"column {name!r} of {str(path)!r} has {int(lengths[odd[0]])} numbers in row "
            f"{row + int(odd[0])} and {width} in row 0; all vectors must be of one length"
        )


def _wide_source(path: Path, names: Sequence[str], fields: dict[str, Any], n: int) -> Source:
    kinds = [np.dtype(fields[name].to_pandas_dtype()) for name in names]
    dtype = np.result_type(*kinds)
    check_unpacked(path, n * len(names) * dtype.itemsize)

    def chunks() -> Iterator[NDArray[Any]]:
        row = 0
        for batch in _batches(path, names, ROWS):
            for name, cells in zip(batch.schema.names, batch.columns, strict=True):
                if cells.null_count:
                    at = int(np.argmax(cells.is_null().to_numpy(zero_copy_only=False)))
                    raise CriticalMassError(
                        f"column {name!r} of {str(path)!r} has no number in row {row + at}; drop "
                        "such rows"
                    )
            columns = {
                name: cells.to_numpy(zero_copy_only=False)
                for name, cells in zip(batch.schema.names, batch.columns, strict=True)
            }
            yield np.stack([columns[name] for name in names], axis=1)
            row += batch.num_rows

    return Source((n, len(names)), dtype, chunks)


def _batches(path: Path, names: Sequence[str], rows: int) -> Iterator[Any]:
    from pyarrow import parquet

    try:
        # Arrow's defaults hold a whole row group in memory, which may be the whole file.
        with parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=rows, columns=list(names))
    except _errors() as error:
        raise _unreadable(path, error) from error


def _values(path: Path, name: str) -> NDArray[Any]:
    """Read a column of one value a row."""
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            cells = file.read(columns=[name]).column(0)
    except _errors() as error:
        raise _unreadable(path, error) from error
    if cells.null_count:
        at = int(np.argmax(cells.is_null().to_numpy()))
        raise CriticalMassError(
            f"column {name!r} of {str(path)!r} has no value in {cells.null_count} rows, first in "
            f"row {at}; fill them in or drop these rows"
        )
    return np.asarray(cells.to_pylist())


def _errors() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (pa.ArrowException, OSError)


def _unreadable(path: Path, error: Exception) -> CriticalMassError:
    said = " ".join(str(error).split())
    return CriticalMassError(f"{str(path)!r} cannot be read as Parquet: {said}")
