"""Chroma: collections of a folder or of a server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

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
from criticalmass.extraction.databases.values import column_of, types_of

_PAGE_ROWS = 1024
_SAMPLE_ROWS = 256
_ID, _VECTOR, _TEXT = "id", "embedding", "document"
_FILE = "chroma.sqlite3"


class _Connection:
    precisions: tuple[str, ...] = ("float32",)

    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import ChromaError

        self.url = url
        self.kinds = (ChromaError, ValueError, RuntimeError, OSError)
        settings = Settings(anonymized_telemetry=False)
        with url.errors(*self.kinds):
            if url.is_remote:
                parts = urlsplit(url.server())
                key = url.secret() or os.environ.get("CHROMA_API_KEY")
                self.client = chromadb.HttpClient(
                    host=parts.hostname or "localhost",
                    port=parts.port or (443 if parts.scheme == "https" else 8000),
                    ssl=parts.scheme == "https",
                    headers={"x-chroma-token": key} if key else None,
                    settings=settings,
                )
            else:
                folder = url.existing_path("folder")
                if not (folder / _FILE).is_file():
                    # The client would make a new database.
                    raise ValueError(f"the folder has no {_FILE}")
                self.client = chromadb.PersistentClient(path=str(folder), settings=settings)

    def tables(self) -> list[str]:
        with self.url.errors(*self.kinds):
            return sorted(collection.name for collection in self.client.list_collections())

    def other_tables(self) -> list[str]:
        return []

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        if name not in self.tables():
            raise unknown_name(f"collection in {self.url.shown}", name, self.tables())
        return _Reader(self, name)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self, table)

    def close(self) -> None:
        client: Any = self.client
        client.close()


class _Reader:
    key: str | None = _ID

    def __init__(self, connection: _Connection, name: str) -> None:
        import pyarrow as pa

        self.name, self._connection = name, connection
        with connection.url.errors(*connection.kinds, doing=f"collection {name!r}"):
            # Without its embedding function, which could load a model.
            self._collection = connection.client.get_collection(name, embedding_function=None)
            sample = self._collection.get(limit=_SAMPLE_ROWS, include=["metadatas"])
        fields = types_of([entry or {} for entry in sample["metadatas"] or ()])
        own = {_ID: pa.string(), _VECTOR: pa.list_(pa.float32()), _TEXT: pa.string()}
        self.schema: Mapping[str, Any] = {**fields, **own}

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        import pyarrow as pa

        include: dict[str, Any] = {_VECTOR: "embeddings", _TEXT: "documents", _ID: None}
        fields: set[Any] = {include.get(name, "metadatas") for name in names} - {None}
        offset, page = start.row if start else 0, min(rows, _PAGE_ROWS)
        while True:
            with self._connection.url.errors(
                *self._connection.kinds, doing=f"collection {self.name!r}"
            ):
                part = self._collection.get(limit=page, offset=offset, include=sorted(fields))
            if not part["ids"]:
                return
            places = pa.array(part["ids"], pa.string())
            yield Block(places, {name: self._column(name, part, places) for name in names})
            offset += len(part["ids"])

    def _column(self, name: str, part: Mapping[str, Any], places: Any) -> Any:
        if name == _ID:
            return places
        if name == _VECTOR:
            cells = [None if v is None else np.asarray(v, np.float32) for v in part["embeddings"]]
            return vector_lists(cells, np.float32)
        if name == _TEXT:
            return column_of(part["documents"], self.schema[name])
        values = [(entry or {}).get(name) for entry in part["metadatas"]]
        return column_of(values, self.schema[name])

    def version(self, columns: Sequence[str]) -> str | None:
        return None


class _Writer:
    def __init__(self, connection: _Connection, table: ShortTable) -> None:
        self._connection, self._name = connection, table.name
        client = connection.client
        with connection.url.errors(*connection.kinds, doing=f"collection {table.name!r}"):
            self._page = min(_PAGE_ROWS, client.get_max_batch_size())
            whole = client.get_collection(table.whole, embedding_function=None)
            space = (whole.configuration.get("hnsw") or {}).get("space", "l2")
            self._collection = client.get_or_create_collection(
                table.name, embedding_function=None, configuration={"hnsw": {"space": space}}
            )

    def present(self, ids: Any) -> NDArray[np.bool_]:
        texts = ids.to_pylist()
        known: set[str] = set()
        with self._connection.url.errors(*self._connection.kinds):
            for first in range(0, len(texts), self._page):
                part = texts[first : first + self._page]
                known |= set(self._collection.get(ids=part, include=[])["ids"])
        return np.array([text in known for text in texts], dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        texts = ids.to_pylist()
        with self._connection.url.errors(*self._connection.kinds, doing=f"{self._name!r}"):
            for first in range(0, len(texts), self._page):
                part = slice(first, first + self._page)
                self._collection.upsert(ids=texts[part], embeddings=vectors[part])

    def close(self) -> None:
        pass


DATABASE = Database(
    scheme="chroma",
    title="Chroma",
    form="chroma:DIR_OR_URL",
    description="the folder of a persistent client of Chroma, or a server (key: CHROMA_API_KEY)",
    package="chromadb",
    install="chromadb>=1.5.2",
    connect=_Connection,
    aliases=("chromadb",),
)
