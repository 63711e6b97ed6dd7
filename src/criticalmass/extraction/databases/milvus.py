"""Milvus: collections of a server, or of a file of Milvus Lite."""

from __future__ import annotations

import json
import os
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
from criticalmass.extraction.databases.values import column_of, types_of

#: A server answers at most 16,384 rows and 64 MB at a time.
_PAGE_ROWS = 1000
_LIST_ROWS = 16_000
_TIMEOUT_SECONDS = 60
_VECTORS = {"FLOAT_VECTOR": "float32", "FLOAT16_VECTOR": "float16"}
_NUMBERS = {"INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64"}
_NUMBERS |= {"FLOAT": "float32", "DOUBLE": "float64", "BOOL": "bool"}


class _Connection:
    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        self.url, self.is_lite = url, not url.is_remote
        # Milvus Lite 3.2 has no other vectors.
        self.precisions: tuple[str, ...] = (
            ("float32",) if self.is_lite else ("float32", "float16", "binary")
        )
        self.kinds = (MilvusException, ValueError, RuntimeError, OSError)
        doing = "which only one process can open" if self.is_lite else ""
        with url.errors(*self.kinds, doing=doing):
            if self.is_lite:
                # Milvus Lite keeps a folder under the name of a file.
                path = url.location
                kind = "folder" if os.path.isdir(path) else "file"
                self.client = MilvusClient(str(url.existing_path(kind)))
            else:
                token = url.secret() or os.environ.get("MILVUS_TOKEN") or ""
                self.client = MilvusClient(url.server(), token=token, timeout=_TIMEOUT_SECONDS)

    def tables(self) -> list[str]:
        with self.url.errors(*self.kinds):
            return sorted(self.client.list_collections())

    def other_tables(self) -> list[str]:
        return []

    def fields(self, name: str) -> list[dict[str, Any]]:
        """Return the description of a collection's fields."""
        with self.url.errors(*self.kinds, doing=f"collection {name!r}"):
            fields: list[dict[str, Any]] = self.client.describe_collection(name)["fields"]
        return fields

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        if name not in self.tables():
            raise unknown_name(f"collection in {self.url.shown}", name, self.tables())
        return _Reader(self, name, request)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self, table)

    def close(self) -> None:
        self.client.close()


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value)


class _Reader:
    def __init__(self, connection: _Connection, name: str, request: TableRequest) -> None:
        import pyarrow as pa

        self.name, self._connection, self._where = name, connection, request.where
        fields = connection.fields(name)
        self.key: str | None = next(f["name"] for f in fields if f.get("is_primary"))
        self._vectors: dict[str, np.dtype[Any]] = {}
        schema: dict[str, Any] = {}
        for field in fields:
            kind = field["type"].name
            if kind in _VECTORS:
                dtype = self._vectors[field["name"]] = np.dtype(_VECTORS[kind])
                schema[field["name"]] = pa.list_(pa.from_numpy_dtype(dtype))
            elif not kind.endswith("VECTOR"):
                number = _NUMBERS.get(kind)
                schema[field["name"]] = (
                    pa.from_numpy_dtype(np.dtype(number)) if number else pa.string()
                )
        if not self._vectors:
            raise CriticalMassError(
                f"collection {name!r} of {connection.url.shown} has no vectors of float32 or "
                "float16"
            )
        with connection.url.errors(*connection.kinds, doing=f"collection {name!r}"):
            connection.client.load_collection(name)
            # Fields that the schema does not declare are read off the first rows.
            sample = connection.client.query(name, filter="", limit=16, output_fields=["*"])
        extra = types_of([{k: v for k, v in row.items() if k not in schema} for row in sample])
        declared = {field["name"] for field in fields}
        self.schema: Mapping[str, Any] = {
            **schema, **{k: v for k, v in extra.items() if k not in declared}
        }  # fmt: skip

    def _query(self, **options: Any) -> list[dict[str, Any]]:
        connection = self._connection
        with connection.url.errors(*connection.kinds, doing=f"collection {self.name!r}"):
            return list(connection.client.query(self.name, **options))

    def _keys(self, start: Place | None) -> list[Any]:
        """Return the keys after a place, ascending."""
        key = str(self.key)
        is_text = str(self.schema[key]) == "string"
        after: Any = start.after if start else None
        keys: list[Any] = []
        while True:
            lowest = "is not null" if is_text else f">= {np.iinfo(np.int64).min}"
            lowest = '>= ""' if is_text else lowest
            conditions = [f"{key} {lowest}" if after is None else f"{key} > {_literal(after)}"]
            if self._where is not None:
                conditions.append(f"({self._where})")
            # Milvus Lite does not sort by the key, so that its rows are read at once.
            limit = {} if self._connection.is_lite else {"limit": _LIST_ROWS}
            rows = self._query(filter=" and ".join(conditions), output_fields=[key], **limit)
            keys += sorted(row[key] for row in rows)
            if self._connection.is_lite or len(rows) < _LIST_ROWS:
                return keys
            after = keys[-1]

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        import pyarrow as pa

        key, keys = str(self.key), self._keys(start)
        page = min(rows, _PAGE_ROWS)
        for first in range(0, len(keys), page):
            part = keys[first : first + page]
            rows_of_key: dict[Any, dict[str, Any]] = {}
            if set(names) - {key}:
                rows_of_key = {
                    row[key]: row
                    for row in self._query(ids=part, output_fields=list({key, *names}))
                }
                part = [value for value in part if value in rows_of_key]
            places = pa.array(part, self.schema[key])
            documents = [rows_of_key.get(value, {key: value}) for value in part]
            yield Block(places, {name: self._column(name, documents) for name in names})

    def _column(self, name: str, documents: Sequence[Mapping[str, Any]]) -> Any:
        values = [document.get(name) for document in documents]
        dtype = self._vectors.get(name)
        if dtype is None:
            return column_of(values, self.schema[name])
        cells = [
            None if v is None
            else np.frombuffer(v if isinstance(v, bytes) else v[0], dtype)
            if isinstance(v, bytes) or (len(v) and isinstance(v[0], bytes))
            else np.asarray(v, dtype)
            for v in values
        ]  # fmt: skip
        return vector_lists(cells, dtype)

    def version(self, columns: Sequence[str]) -> str | None:
        return None


class _Writer:
    def __init__(self, connection: _Connection, table: ShortTable) -> None:
        from pymilvus import DataType

        self._connection, self._table = connection, table
        client, fields = connection.client, connection.fields(table.whole)
        key = next(field for field in fields if field["name"] == table.key)
        kinds = {"float32": "FLOAT_VECTOR", "float16": "FLOAT16_VECTOR", "binary": "BINARY_VECTOR"}
        self._key_kind = key["type"].name
        with connection.url.errors(*connection.kinds, doing=f"collection {table.name!r}"):
            if not client.has_collection(table.name):
                schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
                options = {"max_length": 512} if self._key_kind == "VARCHAR" else {}
                options |= {k: v for k, v in (key.get("params") or {}).items() if k == "max_length"}
                schema.add_field(table.key, key["type"], is_primary=True, **options)
                is_bits = table.precision == "binary"
                schema.add_field(
                    table.column,
                    DataType[kinds[table.precision]],
                    # Milvus takes whole bytes of bits; those that are added are 0 everywhere.
                    dim=-(-table.width // 8) * 8 if is_bits else table.width,
                )
                index = client.prepare_index_params()
                index.add_index(
                    table.column,
                    index_type="BIN_FLAT" if is_bits else "AUTOINDEX",
                    metric_type="HAMMING" if is_bits else "COSINE",
                )
                client.create_collection(table.name, schema=schema, index_params=index)
            client.load_collection(table.name)

    def present(self, ids: Any) -> NDArray[np.bool_]:
        values, key = ids.to_pylist(), self._table.key
        known: set[Any] = set()
        with self._connection.url.errors(*self._connection.kinds):
            for first in range(0, len(values), _PAGE_ROWS):
                part = values[first : first + _PAGE_ROWS]
                rows = self._connection.client.query(
                    self._table.name, ids=part, output_fields=[key]
                )
                known |= {row[key] for row in rows}
        return np.array([value in known for value in values], dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        values = ids.to_pylist()
        is_bits = self._table.precision == "binary"
        with self._connection.url.errors(*self._connection.kinds):
            for first in range(0, len(values), _PAGE_ROWS):
                part = slice(first, first + _PAGE_ROWS)
                rows = [
                    {self._table.key: value, self._table.column: v.tobytes() if is_bits else v}
                    for value, v in zip(values[part], vectors[part], strict=True)
                ]
                self._connection.client.upsert(self._table.name, rows)

    def close(self) -> None:
        with self._connection.url.errors(*self._connection.kinds):
            self._connection.client.flush(self._table.name)


DATABASE = Database(
    scheme="milvus",
    title="Milvus",
    form="milvus:FILE_OR_URL",
    description="a file of Milvus Lite, or a server of Milvus (key: MILVUS_TOKEN)",
    package="pymilvus",
    install="pymilvus[milvus-lite]>=3.0",
    connect=_Connection,
    can_filter=True,
)
