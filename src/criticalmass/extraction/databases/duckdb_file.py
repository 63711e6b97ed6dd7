"""DuckDB: vectors as ``FLOAT[n]`` or ``FLOAT[]`` in a file of DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import unknown_name
from criticalmass.extraction.databases.protocol import (
    Block,
    Database,
    Place,
    ShortTable,
    TableRequest,
)
from criticalmass.extraction.databases.table import vector_lists
from criticalmass.extraction.databases.url import DatabaseUrl

_COLUMNS = """
SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns
WHERE table_catalog = current_database() ORDER BY 1, 2, ordinal_position"""
_KEY = """
SELECT constraint_column_names[1] FROM duckdb_constraints()
WHERE schema_name = ? AND table_name = ? AND constraint_type IN ('PRIMARY KEY', 'UNIQUE')
  AND len(constraint_column_names) = 1 ORDER BY constraint_type"""
#: Of the blocks of its file that DuckDB keeps; by default four fifths of the machine's memory.
_MEMORY = "1GB"
_NUMBERS = ("FLOAT", "DOUBLE", "HALF")


def quote(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


class _Connection:
    precisions: tuple[str, ...] = ("float32",)

    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        import duckdb

        self.url, self.error = url, duckdb.Error
        path = url.existing_path("file")
        with url.errors(duckdb.Error):
            self.session = duckdb.connect(str(path), read_only=not writable)
            self.session.execute(
                f"SET memory_limit = '{_MEMORY}'; SET preserve_insertion_order = true"
            )
            # One transaction: all that is read is of one moment.
            self.session.execute("BEGIN")
            self.columns: dict[str, dict[str, str]] = {}
            for space, table, column, kind in self.session.execute(_COLUMNS).fetchall():
                name = table if space == "main" else f"{space}.{table}"
                self.columns.setdefault(name, {})[column] = kind

    def tables(self) -> list[str]:
        return [
            name for name, kinds in self.columns.items() if any(map(_is_vector, kinds.values()))
        ]

    def other_tables(self) -> list[str]:
        return [name for name in self.columns if name not in self.tables()]

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        if name not in self.columns:
            raise unknown_name(f"table in {self.url.shown}", name, self.columns)
        return _Reader(self, name, request)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self, table)

    def close(self) -> None:
        self.session.close()


def _is_vector(kind: str) -> bool:
    return kind.endswith("]") and kind.partition("[")[0] in _NUMBERS


def _full_name(name: str) -> tuple[str, str]:
    space, _, table = name.rpartition(".")
    return space or "main", table


class _Reader:
    def __init__(self, connection: _Connection, name: str, request: TableRequest) -> None:
        self.name, self._connection, self._where = name, connection, request.where
        space, table = _full_name(name)
        self._table = f"{quote(space)}.{quote(table)}"
        keys = connection.session.execute(_KEY, [space, table]).fetchall()
        self.key: str | None = keys[0][0] if keys else None
        with connection.url.errors(connection.error, doing=f"table {name!r}"):
            query = f"SELECT * FROM {self._table} LIMIT 0"  # noqa: S608
            fields = connection.session.sql(query).to_arrow_table().schema
        self.schema: Mapping[str, Any] = dict(zip(fields.names, fields.types, strict=True))

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        conditions = [] if self._where is None else [f"({self._where})"]
        if start is not None:
            conditions.append(f"rowid > {int(start.after)}")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        chosen = ", ".join(["rowid", *map(quote, names)])
        # DuckDB keeps the order of the rows; to sort them, it would hold the table in memory.
        query = f"SELECT {chosen} FROM {self._table}{where}"  # noqa: S608
        with self._connection.url.errors(self._connection.error, doing=f"table {self.name!r}"):
            for batch in self._connection.session.sql(query).to_arrow_reader(rows):
                columns = [batch.column(1 + number) for number in range(len(names))]
                yield Block(batch.column(0), dict(zip(names, columns, strict=True)))

    def version(self, columns: Sequence[str]) -> str | None:
        where = "" if self._where is None else f" WHERE ({self._where})"
        values = ", ".join(["rowid", *map(quote, columns)])
        query = f"SELECT count(*), sum(hash({values})) FROM {self._table}{where}"  # noqa: S608
        with self._connection.url.errors(self._connection.error, doing=f"table {self.name!r}"):
            count, total = self._connection.session.execute(query).fetchall()[0]
        return f"{count} rows, {total}"


class _Writer:
    def __init__(self, connection: _Connection, table: ShortTable) -> None:
        self._connection, self._name = connection, table.name
        # A session of its own, beside the transaction of the reader.
        self._session = connection.session.cursor()
        space, _ = _full_name(table.whole)
        self._table = f"{quote(space)}.{quote(table.name)}"
        self._key, self._column = quote(table.key), quote(table.column)
        self._kind = connection.columns[table.whole][table.key]
        self._width = table.width
        self._execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} ({self._key} {self._kind} PRIMARY KEY, "
            f"{self._column} FLOAT[{table.width}] NOT NULL)"
        )

    def _execute(self, query: str, table: Any = None) -> Any:
        with self._connection.url.errors(self._connection.error, doing=f"table {self._name!r}"):
            if table is None:
                return self._session.execute(query)
            self._session.register("criticalmass_block", table)
            try:
                return self._session.execute(query).fetchall()
            finally:
                self._session.unregister("criticalmass_block")

    def present(self, ids: Any) -> NDArray[np.bool_]:
        import pyarrow as pa

        query = (
            f"SELECT t.{self._key} IS NOT NULL FROM criticalmass_block b "  # noqa: S608
            f"LEFT JOIN {self._table} t ON t.{self._key} = b.id ORDER BY b.number"
        )
        block = pa.table({"id": ids, "number": np.arange(len(ids))})
        return np.array([row[0] for row in self._execute(query, block)], dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        import pyarrow as pa

        block = pa.table({"id": ids, "vector": vector_lists(list(vectors), np.float32)})
        self._execute(
            f"INSERT INTO {self._table} SELECT id, vector::FLOAT[{self._width}] "  # noqa: S608
            "FROM criticalmass_block",
            block,
        )

    def close(self) -> None:
        self._session.close()


DATABASE = Database(
    scheme="duckdb",
    title="DuckDB",
    form="duckdb:FILE",
    description="a file of DuckDB with FLOAT[n], FLOAT[] or DOUBLE[] columns",
    package="duckdb",
    install="duckdb>=1.5",
    connect=_Connection,
    can_filter=True,
)
