"""What a database has to offer: tables of vectors that are read in order, and tables of short ones.

An engine is one module with a class of each protocol, and one entry of ``registry.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.databases.url import DatabaseUrl


@dataclass(frozen=True)
class TableRequest:
    """The table that the user named.

    Attributes
    ----------
    table: name of the table or collection; None if the database holds only one with vectors.
    id: column of the ids; None for the primary key.
    where: condition of the rows, in the database's own language.
    limit: largest number of rows.
    """

    table: str | None = None
    id: str | None = None
    where: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Place:
    """Where reading goes on.

    Attributes
    ----------
    row: number of rows before.
    after: the place of the last of these rows, as `Block.places` has it.
    """

    row: int
    after: Any


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table.

    Attributes
    ----------
    places: Arrow array of what the table is ordered by: its key, or the place of each row.
    columns: column -> Arrow array.
    """

    places: Any
    columns: Mapping[str, Any]


class TableReader(Protocol):
    """One table, open for reading in a fixed order.

    Attributes
    ----------
    name: name of the table.
    schema: column -> Arrow type. Lists of float32 or float16 are vectors.
    key: column of distinct ids, if the table has one.
    """

    name: str
    schema: Mapping[str, Any]
    key: str | None

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        """Read blocks of at most ``rows`` rows, from the first one or from a place."""
        ...

    def version(self, columns: Sequence[str]) -> str | None:
        """Return a text that changes with any row or value; None if the database has none."""
        ...


@dataclass(frozen=True)
class ShortTable:
    """A table of short vectors, beside the table of the whole ones.

    Attributes
    ----------
    name: its name.
    whole: name of the table of the whole vectors.
    key: name of its column of ids.
    column: name of its column of vectors.
    width: dimensions of a vector.
    precision: ``float32``, ``float16`` or ``binary``.
    """

    name: str
    whole: str
    key: str
    column: str
    width: int
    precision: str


class ShortWriter(Protocol):
    """Writes short vectors with their ids."""

    def present(self, ids: Any) -> NDArray[np.bool_]:
        """Return for each id of an Arrow array whether the table has it already."""
        ...

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        """Write rows that the table has not, lasting once it returns.

        ``vectors`` are (n, width) float32 or float16, or (n, bytes) uint8 of packed bits.
        """
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


class Connection(Protocol):
    """An open database.

    Attributes
    ----------
    precisions: precisions of short vectors that it stores as they are.
    """

    precisions: tuple[str, ...]

    def tables(self) -> Sequence[str]:
        """Return the names of the tables that hold vectors."""
        ...

    def other_tables(self) -> Sequence[str]:
        """Return the names of the other tables, for suggestions."""
        ...

    def open_table(self, name: str, request: TableRequest) -> TableReader:
        """Open a table for reading."""
        ...

    def create(self, table: ShortTable) -> ShortWriter:
        """Make the table of short vectors, or open it if it exists."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True)
class Database:
    """One entry of the registry.

    Attributes
    ----------
    scheme: the part of the address before the colon.
    title: the name of the product.
    form: form of the address, e.g. ``qdrant:DIR_OR_URL``.
    description: one line for ``criticalmass list databases``.
    package: the module that is imported; empty for one of Python itself.
    install: what ``pip install`` takes.
    connect: opens a database; its second argument is whether for writing too.
    aliases: other schemes with the same meaning.
    can_filter: whether a condition of the rows is understood.
    """

    scheme: str
    title: str
    form: str
    description: str
    package: str
    install: str
    connect: Callable[[DatabaseUrl, bool], Connection]
    aliases: tuple[str, ...] = ()
    can_filter: bool = False
