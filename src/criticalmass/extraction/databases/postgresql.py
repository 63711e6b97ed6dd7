"""PostgreSQL with pgvector: rows in one snapshot, by a cursor of the server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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

#: Type of pgvector -> type of its values as the server sends them, most significant byte first.
_VECTORS: Mapping[str, np.dtype[Any]] = {"vector": np.dtype(">f4"), "halfvec": np.dtype(">f2")}
_LISTS = {"_float4": "float32", "_float8": "float64"}
_NUMBERS = {"int2": "int16", "int4": "int32", "int8": "int64", "float4": "float32"}
_NUMBERS |= {"float8": "float64", "bool": "bool"}
_TYPES = {"float32": "vector", "float16": "halfvec", "binary": "bit"}
_CONNECT_SECONDS = 15
_HEADER_BYTES = 4
_TABLES = """
SELECT DISTINCT n.nspname, c.relname, {is_vector} AS is_vector
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname <> 'information_schema'
ORDER BY 1, 2"""
_IS_VECTOR = """EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND t.typname IN ('vector', 'halfvec', '_float4',
  '_float8'))"""
_COLUMNS = """
SELECT a.attname, t.typname, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
# The primary key goes before other unique indexes.
_KEY = """
SELECT a.attname FROM pg_index i JOIN pg_attribute a
  ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = %s AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
  AND a.attnotnull AND i.indisvalid
ORDER BY i.indisprimary DESC, a.attnum LIMIT 1"""


@dataclass(frozen=True)
class _Column:
    """A column.

    Attributes
    ----------
    kind: name of its type.
    full_kind: its type with parameters, e.g. ``vector(384)``.
    """

    kind: str
    full_kind: str

    def arrow_type(self) -> Any:
        """Return the Arrow type that it is read as."""
        import pyarrow as pa

        if self.kind in _VECTORS:
            return pa.list_(pa.from_numpy_dtype(_VECTORS[self.kind].newbyteorder("=")))
        if self.kind in _LISTS:
            return pa.list_(pa.from_numpy_dtype(np.dtype(_LISTS[self.kind])))
        if self.kind in _NUMBERS:
            return pa.from_numpy_dtype(np.dtype(_NUMBERS[self.kind]))
        return pa.float64() if self.kind == "numeric" else pa.string()

    def expression(self, name: str) -> str:
        """Return how it is selected."""
        quoted = quote(name)
        if self.kind in (*_VECTORS, *_LISTS, *_NUMBERS):
            return quoted
        return f"{quoted}::float8" if self.kind == "numeric" else f"{quoted}::text"

    def to_arrow(self, values: Sequence[Any]) -> Any:
        """Convert the values that the server sent."""
        import pyarrow as pa

        if self.kind in _VECTORS:
            dtype = _VECTORS[self.kind]
            cells = [None if v is None else np.frombuffer(v, dtype, -1, _HEADER_BYTES)
                     for v in values]  # fmt: skip
            return vector_lists(cells, dtype.newbyteorder("="))
        return pa.array(values, self.arrow_type())


def quote(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


class _Connection:
    precisions: tuple[str, ...] = ("float32", "float16", "binary")

    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        import psycopg

        self.url, self.error = url, psycopg.Error
        options: dict[str, Any] = {} if "connect_timeout" in url.options() else {
            "connect_timeout": _CONNECT_SECONDS
        }  # fmt: skip
        self._connect = partial(
            psycopg.connect, url.text, application_name="criticalmass", **options
        )
        with url.errors(psycopg.Error):
            self.session = self._connect()
        # One transaction for all that is read: it sees the rows of one moment.
        self.session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self.session.read_only = True

    def open_session(self) -> Any:
        """Open another session, for writing."""
        with self.url.errors(self.error):
            return self._connect()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return the rows of a short query."""
        with self.url.errors(self.error):
            return list(self.session.execute(query, values or None).fetchall())

    def _names(self, is_vector: bool) -> list[str]:
        schema = self.rows("SELECT current_schema()")[0][0]
        tables = self.rows(_TABLES.format(is_vector=_IS_VECTOR))
        return [
            table if space == schema else f"{space}.{table}"
            for space, table, holds in tables
            if holds == is_vector
        ]

    def tables(self) -> list[str]:
        return self._names(is_vector=True)

    def other_tables(self) -> list[str]:
        full = self.rows(_TABLES.format(is_vector=_IS_VECTOR))
        return [*self._names(is_vector=False), *(f"{row[0]}.{row[1]}" for row in full)]

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        return _Reader(self, name, request)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self, table)

    def close(self) -> None:
        self.session.close()

    def resolve(self, name: str) -> tuple[str, int]:
        """Return a table's name in quotes, and its number."""
        parts = name.split(".")
        for quoted in (quote(name), ".".join(map(quote, parts))):
            oid = self.rows("SELECT to_regclass(%s)::oid", quoted)[0][0]
            if oid is not None:
                return quoted, int(oid)
        raise unknown_name(f"table in {self.url.shown}", name, self.tables())


class _Reader:
    def __init__(self, connection: _Connection, name: str, request: TableRequest) -> None:
        self.name, self._connection, self._where = name, connection, request.where
        self._table, oid = connection.resolve(name)
        self.columns = {
            column: _Column(kind, full) for column, kind, full in connection.rows(_COLUMNS, oid)
        }
        self.schema: Mapping[str, Any] = {n: c.arrow_type() for n, c in self.columns.items()}
        keys = connection.rows(_KEY, oid)
        self.key: str | None = request.id or (keys[0][0] if keys else None)
        kind = connection.rows("SELECT relkind::text FROM pg_class WHERE oid = %s", oid)[0][0]
        self._has_places = kind in ("r", "m")
        if self.key is None and not self._has_places:
            raise CriticalMassError(
                f"{name!r} of {connection.url.shown} is no plain table, so its rows have no order; "
                "name a column of distinct ids with id= (--id)"
            )
        self._order = "ctid" if self.key is None else quote(self.key)
        self._names = (f"criticalmass_{number}" for number in itertools.count())

    def _place_type(self) -> str:
        return "tid" if self.key is None else self.columns[self.key].full_kind

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        import pyarrow as pa

        place = _Column("text", "text") if self.key is None else self.columns[self.key]
        first = "ctid::text" if self.key is None else place.expression(self.key)
        # Names of their own: ORDER BY would sort by a converted column of the same name.
        chosen = [
            f"{expression} AS criticalmass_{number}"
            for number, expression in enumerate(
                [first, *(self.columns[name].expression(name) for name in names)]
            )
        ]
        # Percent signs of the user's condition are no parameters.
        conditions = [] if self._where is None else [f"({self._where})".replace("%", "%%")]
        if start is not None:
            conditions.append(f"{self._order} > %s::text::{self._place_type()}")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        query = (
            f"SELECT {', '.join(chosen)} FROM {self._table}{where} "  # noqa: S608
            f"ORDER BY {self._order}"
        )
        values = [] if start is None else [str(start.after)]
        connection = self._connection
        with (
            connection.url.errors(connection.error, doing=f"table {self.name!r}"),
            connection.session.cursor(next(self._names), binary=True) as cursor,
        ):
            cursor.execute(query, values)
            while block := cursor.fetchmany(rows):
                cells = list(zip(*block, strict=True))
                columns = {
                    name: self.columns[name].to_arrow(values)
                    for name, values in zip(names, cells[1:], strict=True)
                }
                yield Block(pa.array(cells[0], place.arrow_type()), columns)

    def version(self, columns: Sequence[str]) -> str | None:
        # Every version of a row has the number of the transaction that wrote it.
        values = ["xmin"] if self._has_places else list(map(quote, columns))
        cells = " || ' ' || ".join(f"{value}::text" for value in [self._order, *values])
        where = "" if self._where is None else f" WHERE ({self._where})"
        query = (
            f"SELECT count(*), sum(hashtextextended({cells}, 0))::text "  # noqa: S608
            f"FROM {self._table}{where}"
        )
        count, total = self._connection.rows(query)[0]
        return f"{count} rows, {total}"


class _Writer:
    """Writes by COPY, a transaction for each block."""

    def __init__(self, connection: _Connection, table: ShortTable) -> None:
        self._connection, self._width = connection, table.width
        self._is_bits = table.precision == "binary"
        whole, oid = connection.resolve(table.whole)
        kinds = {name: (kind, full) for name, kind, full in connection.rows(_COLUMNS, oid)}
        kind, self._key_type = kinds[table.key]
        self._is_number = kind in ("int2", "int4", "int8")
        space = whole.rpartition(".")[0]
        self._table = f"{space}.{quote(table.name)}" if space else quote(table.name)
        self._key, self._column = quote(table.key), quote(table.column)
        self._session = connection.open_session()
        with connection.url.errors(connection.error, doing=f"table {table.name!r}"):
            self._session.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} ({self._key} {self._key_type} PRIMARY "
                f"KEY, {self._column} {_TYPES[table.precision]}({table.width}) NOT NULL)"
            )
            self._session.commit()

    def present(self, ids: Any) -> NDArray[np.bool_]:
        texts = [str(value) for value in ids.to_pylist()]
        query = (
            f"SELECT {self._key}::text FROM {self._table} "  # noqa: S608
            f"WHERE {self._key} = ANY(%s::text[]::{self._key_type}[])"
        )
        with self._connection.url.errors(self._connection.error):
            known = {row[0] for row in self._session.execute(query, [texts]).fetchall()}
            self._session.rollback()
        return np.array([text in known for text in texts], dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        error = self._connection.error
        with self._connection.url.errors(error, doing=f"table {self._table}"):
            with self._session.cursor() as cursor:
                copy = f"COPY {self._table} ({self._key}, {self._column}) FROM STDIN"
                with cursor.copy(copy) as writer:
                    for key, text in zip(ids.to_pylist(), self._texts(vectors), strict=True):
                        writer.write_row((str(key), text))
            self._session.commit()

    def _texts(self, vectors: NDArray[Any]) -> Iterator[str]:
        if self._is_bits:
            for row in np.unpackbits(vectors, axis=1, count=self._width):
                yield "".join(map(str, row.tolist()))
        else:
            # Nine digits give each float32 back exactly, five each float16.
            digits = 9 if vectors.dtype == np.float32 else 5
            form = ",".join([f"%.{digits}g"] * self._width)
            for row in vectors:
                yield f"[{form % tuple(row.tolist())}]"

    def close(self) -> None:
        self._session.close()


DATABASE = Database(
    scheme="postgresql",
    title="PostgreSQL",
    form="postgresql://USER@HOST/DATABASE",
    description="PostgreSQL with pgvector (vector, halfvec), or arrays of float4 and float8",
    package="psycopg",
    install="psycopg[binary]>=3.2",
    connect=_Connection,
    aliases=("postgres",),
    can_filter=True,
)
