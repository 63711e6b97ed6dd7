"""SQLite: vectors as blobs of float32, as texts, or in a table of sqlite-vec."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.databases.protocol import (
    Block,
    Database,
    Place,
    ShortTable,
    TableRequest,
)
from criticalmass.extraction.databases.table import vector_lists
from criticalmass.extraction.databases.url import DatabaseUrl
from criticalmass.extraction.vectors.names import is_vector_name

_SAMPLE_ROWS = 16
_BUSY_SECONDS = 30.0
_TABLES = """SELECT name, sql LIKE '%using vec0%' FROM sqlite_master
WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name"""
#: Largest number of parameters that every version of SQLite takes.
_MOST_VALUES = 900


def quote(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


class _Connection:
    precisions: tuple[str, ...] = ("float32", "binary")

    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        self.url = url
        path = url.existing_path("file").resolve()
        mode = "rw" if writable else "ro"
        with url.errors(sqlite3.Error):
            self.session = sqlite3.connect(
                f"{path.as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS,
                isolation_level=None,
            )  # fmt: skip
            try:
                virtual_of = dict(self.session.execute(_TABLES).fetchall())
                if any(virtual_of.values()):
                    _load_extension(self.session, url)
                if not writable:
                    # One transaction: all that is read is of one moment.
                    self.session.execute("BEGIN")
            except (sqlite3.Error, CriticalMassError):
                self.session.close()
                raise
        virtual = tuple(f"{name}_" for name, is_virtual in virtual_of.items() if is_virtual)
        # A table of sqlite-vec keeps its content in others.
        self.names = [name for name in virtual_of if not (virtual and name.startswith(virtual))]

    def tables(self) -> list[str]:
        with self.url.errors(sqlite3.Error):
            return [name for name in self.names if any(_vector_columns(self.session, name))]

    def other_tables(self) -> list[str]:
        return list(self.names)

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        if name not in self.names:
            raise unknown_name(f"table in {self.url.shown}", name, self.names)
        with self.url.errors(sqlite3.Error, doing=f"table {name!r}"):
            return _Reader(self, name, request)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self, table)

    def close(self) -> None:
        self.session.close()


def _load_extension(session: sqlite3.Connection, url: DatabaseUrl) -> None:
    """Load sqlite-vec, unless this SQLite has it."""
    if _has_extension(session):
        return
    reason = "pip install 'sqlite-vec>=0.1.6'"
    if hasattr(session, "enable_load_extension"):
        try:
            import sqlite_vec
        except ModuleNotFoundError:
            pass
        else:
            session.enable_load_extension(True)
            sqlite_vec.load(session)
            session.enable_load_extension(False)
            return
    else:
        reason = "use a Python whose sqlite3 loads extensions, such as python.org's or conda's"
    raise CriticalMassError(
        f"{url.shown} has a table of sqlite-vec, which cannot be read here: {reason}"
    )


def _has_extension(session: sqlite3.Connection) -> bool:
    try:
        session.execute("SELECT vec_version()")
    except sqlite3.OperationalError:
        return False
    return True


def _samples(session: sqlite3.Connection, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    cursor = session.execute(f"SELECT * FROM {quote(name)} LIMIT {_SAMPLE_ROWS}")  # noqa: S608
    return [field[0] for field in cursor.description], cursor.fetchall()


def _is_blob_of_vectors(cells: Sequence[Any]) -> bool:
    """Return whether cells are blobs of the same number of finite float32 values."""
    blobs = [cell for cell in cells if cell is not None]
    if not blobs or not all(isinstance(blob, bytes) for blob in blobs):
        return False
    sizes = {len(blob) for blob in blobs}
    if len(sizes) > 1 or sizes == {0} or next(iter(sizes)) % 4:
        return False
    values = np.frombuffer(b"".join(blobs), "<f4")
    # Bytes of pictures or codes are huge, tiny or no numbers when read as float32.
    size = np.abs(values[values != 0])
    with np.errstate(invalid="ignore"):
        is_usual = np.isfinite(size) & (size > 1e-12) & (size < 1e12)
    return bool(is_usual.mean() > 0.99) if size.size else True


def _vector_columns(session: sqlite3.Connection, name: str) -> list[str]:
    """Return the columns that can hold vectors: blobs, or texts that begin with a bracket."""
    names, rows = _samples(session, name)
    columns = []
    for position, column in enumerate(names):
        cells = [row[position] for row in rows]
        texts = [cell for cell in cells if isinstance(cell, str)]
        is_text = bool(texts) and all(text.startswith("[") for text in texts)
        if is_text or _is_blob_of_vectors(cells) or (
            is_vector_name(column) and any(isinstance(cell, bytes) for cell in cells)
        ):  # fmt: skip
            columns.append(column)
    return columns


class _Reader:
    def __init__(self, connection: _Connection, name: str, request: TableRequest) -> None:
        import pyarrow as pa

        self.name, self._connection, self._where = name, connection, request.where
        session = connection.session
        names, rows = _samples(session, name)
        blobs = set(_vector_columns(session, name))
        schema: dict[str, Any] = {}
        for position, column in enumerate(names):
            kinds = {type(row[position]) for row in rows if row[position] is not None}
            kind: Any = pa.string()
            if kinds == {bytes}:
                kind = pa.list_(pa.float32()) if column in blobs else pa.binary()
            elif kinds and kinds <= {int, float}:
                kind = pa.float64() if float in kinds else pa.int64()
            schema[column] = kind
        self.schema: Mapping[str, Any] = schema
        info = session.execute(f"PRAGMA table_info({quote(name)})").fetchall()
        keys = [row[1] for row in info if row[5]]
        self.key: str | None = keys[0] if len(keys) == 1 else None
        self._order = "rowid"
        try:
            session.execute(f"SELECT rowid FROM {quote(name)} LIMIT 0")  # noqa: S608
        except sqlite3.OperationalError:
            # Of a view, of sqlite-vec, or WITHOUT ROWID.
            key = request.id or self.key
            if key is None:
                raise CriticalMassError(
                    f"the rows of table {name!r} of {connection.url.shown} have no order; name a "
                    "column of distinct ids with id= (--id)"
                ) from None
            self._order = quote(key)

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        import pyarrow as pa

        chosen = ", ".join([self._order, *map(quote, names)])
        # Page by page: an open cursor would keep a writer out.
        after, row = (start.after, start.row) if start else (None, 0)
        while True:
            conditions = [] if self._where is None else [f"({self._where})"]
            conditions += [] if after is None else [f"{self._order} > :after"]
            where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
            query = (
                f"SELECT {chosen} FROM {quote(self.name)}{where} "  # noqa: S608
                f"ORDER BY {self._order} LIMIT {rows}"
            )
            with self._connection.url.errors(sqlite3.Error, doing=f"table {self.name!r}"):
                block = self._connection.session.execute(query, {"after": after}).fetchall()
            if not block:
                return
            cells = list(zip(*block, strict=True))
            columns = {
                name: self._to_arrow(name, values, row)
                for name, values in zip(names, cells[1:], strict=True)
            }
            yield Block(pa.array(cells[0]), columns)
            after, row = cells[0][-1], row + len(block)

    def _to_arrow(self, name: str, values: Sequence[Any], first_row: int) -> Any:
        import pyarrow as pa

        kind = self.schema[name]
        if pa.types.is_list(kind):
            cells = []
            for row, value in enumerate(values, first_row):
                if value is not None and (not isinstance(value, bytes) or len(value) % 4):
                    raise CriticalMassError(
                        f"column {name!r} of table {self.name!r} of {self._connection.url.shown} "
                        f"has no blob of float32 in row {row}; write the vectors in one form"
                    )
                cells.append(None if value is None else np.frombuffer(value, "<f4"))
            return vector_lists(cells, np.float32)
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, TypeError):
            # SQLite lets a column hold values of several types.
            return pa.array([None if value is None else str(value) for value in values])

    def version(self, columns: Sequence[str]) -> str | None:
        return None


class _Writer:
    def __init__(self, connection: _Connection, table: ShortTable) -> None:
        self._connection, self._name, self._table = connection, table.name, quote(table.name)
        self._key, self._column = quote(table.key), quote(table.column)
        with connection.url.errors(sqlite3.Error, doing=f"table {table.name!r}"):
            connection.session.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} ({self._key} PRIMARY KEY, "
                f"{self._column} BLOB NOT NULL)"
            )

    def present(self, ids: Any) -> NDArray[np.bool_]:
        values = ids.to_pylist()
        known: set[Any] = set()
        with self._connection.url.errors(sqlite3.Error, doing=f"table {self._name!r}"):
            for first in range(0, len(values), _MOST_VALUES):
                part = values[first : first + _MOST_VALUES]
                marks = ", ".join("?" * len(part))
                query = f"SELECT {self._key} FROM {self._table} WHERE {self._key} IN ({marks})"  # noqa: S608
                known |= {row[0] for row in self._connection.session.execute(query, part)}
        return np.array([value in known for value in values], dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        session = self._connection.session
        query = f"INSERT INTO {self._table} VALUES (?, ?)"  # noqa: S608
        with self._connection.url.errors(sqlite3.Error, doing=f"table {self._name!r}"):
            session.execute("BEGIN IMMEDIATE")
            try:
                blobs = (row.tobytes() for row in np.ascontiguousarray(vectors))
                session.executemany(query, zip(ids.to_pylist(), blobs, strict=True))
                session.execute("COMMIT")
            except sqlite3.Error:
                session.execute("ROLLBACK")
                raise

    def close(self) -> None:
        pass


DATABASE = Database(
    scheme="sqlite",
    title="SQLite",
    form="sqlite:FILE",
    description="a file of SQLite: blobs of float32, texts of numbers, or a table of sqlite-vec",
    package="",
    install="sqlite-vec>=0.1.6",
    connect=_Connection,
    can_filter=True,
)
