"""Write short vectors into a database, in a table beside that of the whole ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import Progress
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.databases.opening import OpenTable, open_source
from criticalmass.extraction.databases.protocol import ShortTable, TableRequest
from criticalmass.extraction.vectors.source import VectorRequest, check_finite

_BLOCK_ROWS = 2048
Encoder = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class ShortVectors:
    """How whole vectors become short ones.

    Attributes
    ----------
    tag: ends the name of the table; equal for equal short vectors only.
    n_neurons: width of whole vectors.
    width: dimensions of short vectors.
    precision: the type that they are certified in.
    encode: whole vectors -> values in that type, bits packed.
    decode: whole vectors -> the same values as float32.
    """

    tag: str
    n_neurons: int
    width: int
    precision: str
    encode: Encoder
    decode: Encoder


@dataclass(frozen=True)
class WrittenTable:
    """What was written.

    Attributes
    ----------
    database: the address, without secrets.
    whole: table of the whole vectors.
    name: table of the short vectors.
    key, column: its columns.
    precision: type that the short vectors are stored in.
    n_rows: number of rows of the table of whole vectors.
    n_written: number of rows that were written now; the others were there.
    """

    database: str
    whole: str
    name: str
    key: str
    column: str
    precision: str
    n_rows: int
    n_written: int


def write_back(
    text: str,
    table: TableRequest,
    column: str | None,
    short: ShortVectors,
    *,
    usual_table: str | None = None,
) -> WrittenTable:
    """Write the short vectors of all rows that have none yet.

    The table of whole vectors is only read. The new table is called like it, with ``_slim_`` and
    the tag, and has its ids. Rows are written block by block; a later call goes on after an
    interruption, adds the rows that were inserted since, and otherwise does nothing.

    Parameters
    ----------
    text: address of the database.
    table: the table of whole vectors.
    column: their column, if there are several.
    short: how they are shortened.
    usual_table: table to take if there are several and the user named none.

    Raises
    ------
    CriticalMassError: the database cannot be opened or written; no such table or column; vectors of
        another width, missing or not finite; no column of distinct ids.
    """
    request = VectorRequest(column, find_labels=False, id=table.id)
    with open_source(text, request, table, writable=True, usual_table=usual_table) as source:
        return _write(source, short)


def short_name(whole: str, tag: str) -> str:
    """Return the name of the table of short vectors."""
    return f"{whole.rpartition('.')[2]}_slim_{tag}"


def _write(source: OpenTable, short: ShortVectors) -> WrittenTable:
    rows, name = source.rows, source.rows.name
    if len(source.vectors.columns) > 1:
        raise CriticalMassError(
            f"{rows.owner} has a column per dimension; short vectors are written beside a column "
            "of whole vectors only"
        )
    column = source.vectors.columns[0]
    width = source.vectors.sources["all"].shape[1]
    if width != short.n_neurons:
        raise CriticalMassError(
            f"column {column!r} of {rows.owner} has {width} dimensions, but the slim model "
            f"takes vectors of {short.n_neurons}"
        )
    if rows.key is None:
        raise CriticalMassError(
            f"{rows.owner} has no column of distinct ids, which short vectors would be joined by; "
            "add a primary key"
        )
    is_stored = short.precision in source.connection.precisions
    target = ShortTable(
        name=short_name(name, short.tag),
        whole=name,
        key=rows.key,
        column=column,
        width=short.width,
        precision=short.precision if is_stored else "float32",
    )
    shorten = short.encode if is_stored else short.decode
    writer = source.connection.create(target)
    n_written, row = 0, 0
    try:
        with Progress(f"short vectors of {name}", rows.n_rows, "vectors") as bar:
            vectors = source.vectors.sources["all"]
            for chunk in vectors.chunks():
                for start in range(0, len(chunk), _BLOCK_ROWS):
                    block = chunk[start : start + _BLOCK_ROWS]
                    check_finite(block, vectors.name, row, vectors.ids)
                    ids = rows.ids.slice(row, len(block))
                    missing = ~writer.present(ids)
                    if missing.any():
                        writer.put(_filter(ids, missing), shorten(block[missing]))
                    n_written += int(missing.sum())
                    row += len(block)
                    bar.advance(len(block))
    finally:
        writer.close()
    return WrittenTable(
        source.url.shown, name, target.name, rows.key, target.column, target.precision,
        rows.n_rows, n_written,
    )  # fmt: skip


def _filter(ids: Any, mask: NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return ids.filter(pa.array(mask))
