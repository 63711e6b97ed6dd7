"""Qdrant: collections of a server, or of a folder that the client itself reads."""

from __future__ import annotations

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

_PAGE_ROWS = 1024
_SAMPLE_ROWS = 256
_TIMEOUT_SECONDS = 60
_UNNAMED = "vector"
_ID = "id"


class _Connection:
    precisions: tuple[str, ...] = ("float32", "float16")

    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ApiException

        self.url = url
        # The local mode raises ValueError and RuntimeError.
        self.kinds = (ApiException, ValueError, RuntimeError, OSError)
        with url.errors(*self.kinds):
            if url.is_remote:
                key = url.secret() or os.environ.get("QDRANT_API_KEY")
                self.client = QdrantClient(
                    url=url.server(), api_key=key, timeout=_TIMEOUT_SECONDS,
                    check_compatibility=False,
                )  # fmt: skip
                self.client.get_collections()
            else:
                self.client = QdrantClient(path=str(url.existing_path("folder")))

    def tables(self) -> list[str]:
        with self.url.errors(*self.kinds):
            return [entry.name for entry in self.client.get_collections().collections]

    def other_tables(self) -> list[str]:
        return []

    def vector_params(self, name: str) -> dict[str, Any]:
        """Return the parameters of a collection's dense vectors, by name."""
        with self.url.errors(*self.kinds, doing=f"collection {name!r}"):
            vectors = self.client.get_collection(name).config.params.vectors
        if vectors is None:
            return {}
        named = vectors if isinstance(vectors, dict) else {_UNNAMED: vectors}
        return {key: value for key, value in named.items() if value.multivector_config is None}

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        if name not in self.tables():
            raise unknown_name(f"collection in {self.url.shown}", name, self.tables())
        return _Reader(self, name)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self, table)

    def close(self) -> None:
        self.client.close()


def _point_id(text: str) -> int | str:
    """Return the id of a point: a whole number, or a UUID, which has hyphens."""
    return int(text) if text.isdecimal() else text


class _Reader:
    key: str | None = _ID

    def __init__(self, connection: _Connection, name: str) -> None:
        import pyarrow as pa

        self.name, self._connection = name, connection
        self._params = connection.vector_params(name)
        if not self._params:
            raise CriticalMassError(
                f"collection {name!r} of {connection.url.shown} has no dense vectors, one per point"
            )
        self._is_named = list(self._params) != [_UNNAMED]
        with connection.url.errors(*connection.kinds, doing=f"collection {name!r}"):
            points, _ = connection.client.scroll(name, limit=_SAMPLE_ROWS, with_payload=True)
        payload = types_of([point.payload or {} for point in points])
        self.schema: Mapping[str, Any] = {
            _ID: pa.string(),
            **{vector: pa.list_(pa.float32()) for vector in self._params},
            **{key: kind for key, kind in payload.items() if key not in (_ID, *self._params)},
        }

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        import pyarrow as pa

        client, url = self._connection.client, self._connection.url
        vectors = [name for name in names if name in self._params]
        payload = [name for name in names if name not in (_ID, *self._params)]
        offset: Any = None if start is None else _point_id(start.after)
        is_first = start is not None
        while True:
            with url.errors(*self._connection.kinds, doing=f"collection {self.name!r}"):
                points, following = client.scroll(
                    self.name,
                    limit=min(rows, _PAGE_ROWS) + is_first,
                    offset=offset,
                    with_payload=payload or False,
                    with_vectors=(vectors if self._is_named else True) if vectors else False,
                )
            if is_first and points and str(points[0].id) == str(offset):
                points = points[1:]
            is_first, offset = False, following
            if points:
                places = pa.array([str(point.id) for point in points], pa.string())
                columns = {name: self._column(name, points, places) for name in names}
                yield Block(places, columns)
            if following is None:
                return

    def _column(self, name: str, points: Sequence[Any], places: Any) -> Any:
        if name == _ID:
            return places
        if name in self._params:
            cells = [
                point.vector.get(name) if isinstance(point.vector, dict) else point.vector
                for point in points
            ]
            arrays = [None if cell is None else np.asarray(cell, np.float32) for cell in cells]
            return vector_lists(arrays, np.float32)
        values = [(point.payload or {}).get(name) for point in points]
        return column_of(values, self.schema[name])

    def version(self, columns: Sequence[str]) -> str | None:
        return None


class _Writer:
    def __init__(self, connection: _Connection, table: ShortTable) -> None:
        from qdrant_client import models

        self._connection, self._name = connection, table.name
        params = connection.vector_params(table.whole)
        params = {name: value for name, value in params.items() if value is not None}
        distance = next(iter(params.values())).distance
        datatype = models.Datatype.FLOAT16 if table.precision == "float16" else None
        with connection.url.errors(*connection.kinds, doing=f"collection {table.name!r}"):
            if not connection.client.collection_exists(table.name):
                connection.client.create_collection(
                    table.name,
                    vectors_config=models.VectorParams(
                        size=table.width, distance=distance, datatype=datatype
                    ),
                )

    def present(self, ids: Any) -> NDArray[np.bool_]:
        texts = ids.to_pylist()
        known: set[str] = set()
        with self._connection.url.errors(*self._connection.kinds):
            for first in range(0, len(texts), _PAGE_ROWS):
                part = [_point_id(text) for text in texts[first : first + _PAGE_ROWS]]
                points = self._connection.client.retrieve(
                    self._name, part, with_payload=False, with_vectors=False
                )
                known |= {str(point.id) for point in points}
        return np.array([text in known for text in texts], dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        from qdrant_client import models

        texts = ids.to_pylist()
        with self._connection.url.errors(*self._connection.kinds, doing=f"{self._name!r}"):
            for first in range(0, len(texts), _PAGE_ROWS):
                part = slice(first, first + _PAGE_ROWS)
                self._connection.client.upsert(
                    self._name,
                    models.Batch(
                        ids=[_point_id(text) for text in texts[part]],
                        vectors=vectors[part].astype(np.float32).tolist(),
                    ),
                    wait=True,
                )

    def close(self) -> None:
        pass


DATABASE = Database(
    scheme="qdrant",
    title="Qdrant",
    form="qdrant:DIR_OR_URL",
    description="a server of Qdrant (key: QDRANT_API_KEY), or the folder of its local mode",
    package="qdrant_client",
    install="qdrant-client>=1.14",
    connect=_Connection,
)
