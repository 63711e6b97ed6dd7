"""``open_database``: the vectors of a table, by the address of its database."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from criticalmass.errors import CriticalMassError, MissingExtraError, unknown_name
from criticalmass.extraction.databases.protocol import Connection, Database, TableRequest
from criticalmass.extraction.databases.registry import DATABASES, find_database
from criticalmass.extraction.databases.table import DatabaseTable
from criticalmass.extraction.databases.url import DatabaseUrl, scheme_of
from criticalmass.extraction.vectors.source import DatabaseState, VectorRequest, Vectors
from criticalmass.extraction.vectors.tables import name_some, open_table

_SHORT = re.compile(r"_slim_[0-9a-z]+$")


def is_database(text: str) -> bool:
    """Return whether a text is the address of a database, and not a path.

    Raises
    ------
    CriticalMassError: it is an address of an unknown kind, ``name://...``.
    """
    scheme = scheme_of(text)
    if scheme is None:
        return False
    if scheme in {name for entry in DATABASES.values() for name in (entry.scheme, *entry.aliases)}:
        return True
    is_slip = difflib.get_close_matches(scheme, DATABASES, cutoff=0.75)
    if "://" in text or (is_slip and not Path(text).exists()):
        raise unknown_name("database", scheme, DATABASES)
    return False


@dataclass(frozen=True, eq=False)
class OpenTable:
    """A table that is open for reading.

    Attributes
    ----------
    url, connection, rows, vectors: the address, the open database, the rows and their vectors.
    """

    url: DatabaseUrl
    connection: Connection
    rows: DatabaseTable
    vectors: Vectors


@contextmanager
def open_source(
    text: str,
    request: VectorRequest,
    table: TableRequest,
    *,
    writable: bool = False,
    usual_table: str | None = None,
) -> Iterator[OpenTable]:
    """Open a table, and close the database at the end of the block.

    Parameters
    ----------
    text: the address of the database.
    request: the columns that the user named.
    table: the table and rows that the user named.
    writable: whether a table is written too.
    usual_table: table to take if there are several and the user named none.

    Raises
    ------
    CriticalMassError: the database cannot be opened; no such table or column, or no clear choice.
    MissingExtraError: the client of the database is not installed.
    """
    url = DatabaseUrl.parse(text)
    entry = find_database(url.scheme)
    with closing(_connect(entry, url, writable)) as connection:
        name = _choose_table(connection, url, table.table, usual_table)
        rows = _open_rows(entry, connection, url, replace(table, table=name))
        vectors = open_table(rows, request)
        yield OpenTable(url, connection, rows, vectors)


@contextmanager
def open_database(text: str, request: VectorRequest, table: TableRequest) -> Iterator[Vectors]:
    """Open the vectors of a table; parameters and errors as in `open_source`."""
    with open_source(text, request, table) as source:
        version = source.rows.reader.version(source.vectors.columns)
        state = DatabaseState(f"{source.url.shown} {source.rows.name}", version)
        sources = source.vectors.sources.items()
        yield replace(
            source.vectors,
            sources={part: replace(matrix, database=state) for part, matrix in sources},
        )


def _connect(entry: Database, url: DatabaseUrl, writable: bool) -> Connection:
    """Connect to a database.

    Raises
    ------
    CriticalMassError: there is no such server, file or user.
    MissingExtraError: the client is not installed.
    """
    if entry.package:
        try:
            importlib.import_module(entry.package)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != entry.package:
                raise
            raise MissingExtraError(
                f"{entry.package!r}, the client of {entry.title}, is not installed; install it "
                f"with: pip install '{entry.install}' (all databases: the extra [databases])"
            ) from error
    return entry.connect(url, writable)


def _choose_table(
    connection: Connection, url: DatabaseUrl, name: str | None, usual: str | None
) -> str:
    """Return the table that the user named, or the only one with vectors.

    Raises
    ------
    CriticalMassError: no such table, or several.
    """
    every = list(connection.tables())
    if name is not None:
        if name not in every and name not in connection.other_tables():
            raise unknown_name(f"table in {url.shown}", name, [*every, *connection.other_tables()])
        return name
    # Without those that this package wrote beside a table that has them all.
    tables = [name for name in every if _SHORT.sub("", name) not in {*every} - {name}]
    if len(tables) == 1:
        return tables[0]
    if usual in tables:
        return str(usual)
    if not tables:
        others = list(connection.other_tables())
        has = f"its tables are {name_some(others)}" if others else "it has no tables"
        raise CriticalMassError(f"{url.shown} has no table with a column of vectors: {has}")
    raise CriticalMassError(
        f"which table of {url.shown} holds the vectors, {' or '.join(map(repr, tables[:10]))}? "
        "Name it with table= (--table)"
    )


def _open_rows(
    entry: Database, connection: Connection, url: DatabaseUrl, request: TableRequest
) -> DatabaseTable:
    """Open a table for reading.

    Raises
    ------
    CriticalMassError: the condition of the rows is not understood, or there are no rows.
    """
    if request.where is not None and not entry.can_filter:
        raise CriticalMassError(
            f"where={request.where!r} is not understood for {entry.title}; leave it out (--where)"
        )
    reader = connection.open_table(str(request.table), request)
    return DatabaseTable(reader, url.shown, request)
