"""LanceDB: tables of a folder or bucket, read at one version."""

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
from criticalmass.extraction.vectors.arrow_cells import is_list

_KINDS = (ValueError, RuntimeError, OSError, KeyError)
_PLACE = "_rowid"
_DTYPES = {"float32": np.float32, "float16": np.float16, "binary": np.uint8}


class _Connection:
    precisions: tuple[str, ...] = ("float32", "float16", "binary")

    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        import lancedb

        self.url = url
        location = url.location
        is_bucket = "://" in location
        with url.errors(*_KINDS):
            path = location if is_bucket else str(url.existing_path("folder"))
            self.session = lancedb.connect(path)

    def names(self) -> list[str]:
        """Return the names of all tables."""
        names: list[str] = []
        token: str | None = None
        with self.url.errors(*_KINDS):
            while True:
                page = self.session.list_tables(page_token=token)
                names += page.tables
                token = page.page_token
                if not token:
                    return names

    def tables(self) -> list[str]:
        return [name for name in self.names() if any(map(is_list, self.fields(name).values()))]

    def fields(self, name: str) -> dict[str, Any]:
        """Return column -> Arrow type of a table."""
        with self.url.errors(*_KINDS, doing=f"table {name!r}"):
            schema = self.session.open_table(name).schema
        return dict(zip(schema.names, schema.types, strict=True))

    def other_tables(self) -> list[str]:
        return self.names()

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        if name not in self.names():
            raise unknown_name(f"table in {self.url.shown}", name, self.names())
        return _Reader(self, name, request)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self, table)

    def close(self) -> None:
        pass


class _Reader:
    key: str | None = None

    def __init__(self, connection: _Connection, name: str, request: TableRequest) -> None:
        self.name, self._connection, self._where = name, connection, request.where
        self.schema: Mapping[str, Any] = connection.fields(name)
        with connection.url.errors(*_KINDS, doing=f"table {name!r}"):
            self._table = connection.session.open_table(name)
            self._version = self._table.version
            # All that is read is of this version.
            self._table.checkout(self._version)

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        # Without columns LanceDB reads all: the smallest one, if none is asked for.
        smallest = min(self.schema, key=lambda name: is_list(self.schema[name]))
        with self._connection.url.errors(*_KINDS, doing=f"table {self.name!r}"):
            query = self._table.search().with_row_id(True).select(list(names) or [smallest])
            if self._where is not None:
                query = query.where(self._where)
            if start is not None:
                query = query.offset(start.row)
            for batch in query.to_batches(rows):
                if batch.num_rows:
                    yield Block(batch.column(_PLACE), {name: batch.column(name) for name in names})

    def version(self, columns: Sequence[str]) -> str | None:
        with self._connection.url.errors(*_KINDS, doing=f"table {self.name!r}"):
            entry = next(v for v in self._table.list_versions() if v["version"] == self._version)
        return f"version {self._version} of {entry['timestamp'].isoformat()}"


class _Writer:
    def __init__(self, connection: _Connection, table: ShortTable) -> None:
        import pyarrow as pa

        self._url, self._key, self._column = connection.url, table.key, table.column
        self._dtype = np.dtype(_DTYPES[table.precision])
        width = -(-table.width // 8) if table.precision == "binary" else table.width
        kind = pa.list_(pa.from_numpy_dtype(self._dtype), width)
        key_type = connection.fields(table.whole)[table.key]
        self._schema = pa.schema([(table.key, key_type), (table.column, kind)])
        with self._url.errors(*_KINDS, doing=f"table {table.name!r}"):
            self._table = connection.session.create_table(
                table.name, schema=self._schema, exist_ok=True
            )
            known = [] if not self._table.count_rows() else [
                batch.column(self._key)
                for batch in self._table.search().select([self._key]).to_batches(1 << 16)
            ]  # fmt: skip
        self._known = pa.chunked_array(known, key_type).combine_chunks()

    def present(self, ids: Any) -> NDArray[np.bool_]:
        import pyarrow.compute as pc

        return np.asarray(pc.is_in(ids, value_set=self._known), dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        import pyarrow as pa

        cells = vector_lists(list(vectors), self._dtype)
        with self._url.errors(*_KINDS, doing="writing"):
            self._table.add(pa.table([ids, cells], schema=self._schema))

    def close(self) -> None:
        pass


DATABASE = Database(
    scheme="lance",
    title="LanceDB",
    form="lance:DIR",
    description="a folder of LanceDB, or a bucket (lance:s3://...)",
    package="lancedb",
    install="lancedb>=0.30",
    connect=_Connection,
    aliases=("lancedb",),
    can_filter=True,
)
