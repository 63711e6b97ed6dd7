"""Elasticsearch and OpenSearch: files of their bulk requests, dumps and answers (NDJSON)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.databases.protocol import (
    Block,
    Database,
    Place,
    ShortTable,
    TableRequest,
)
from criticalmass.extraction.databases.url import DatabaseUrl
from criticalmass.extraction.vectors.arrow_cells import is_number_list
from criticalmass.extraction.vectors.text_files import JsonTable
from criticalmass.storage.digests import file_digest

_ID = "_id"
_WITH_DOCUMENT = ("index", "create", "update")


class _Dump(JsonTable):
    """The documents of a file, as columns: ``_id`` and the fields; inner fields as ``a.b``."""

    def _count_rows(self) -> int:
        # The rows are counted when their ids are listed; a pass over the file takes long.
        return 0

    def _rows(self) -> Iterator[dict[str, Any]]:
        key: Any = None
        is_document = False
        for number, line in self._lines():
            if not isinstance(line, dict):
                raise CriticalMassError(f"line {number} of {self.owner} is no JSON object")
            if is_document:
                yield _row(key, line.get("doc", line))
                is_document = False
                continue
            action = next(iter(line)) if len(line) == 1 else ""
            if action in (*_WITH_DOCUMENT, "delete") and isinstance(line[action], dict):
                key, is_document = line[action].get(_ID), action in _WITH_DOCUMENT
                continue
            answer = line.get("hits")
            hits = answer.get("hits", []) if isinstance(answer, dict) else [line]
            for hit in hits:
                yield _row(hit.get(_ID), hit.get("_source", hit))


def _row(key: Any, source: Mapping[str, Any]) -> dict[str, Any]:
    row = {} if key is None else {_ID: str(key)}
    return row | {name: value for name, value in _fields(source, "") if name != _ID}


def _fields(source: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in source.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class _Connection:
    precisions: tuple[str, ...] = ("float32",)

    def __init__(self, url: DatabaseUrl, writable: bool) -> None:
        if url.location.startswith(("http:", "https:", "//")):
            raise CriticalMassError(
                f"{url.shown}: servers are not read; dump the index into a file first, e.g. with "
                "elasticdump --output=items.ndjson, and name elasticsearch:items.ndjson"
            )
        self.url, self.path = url, url.existing_path("file")

    def tables(self) -> list[str]:
        return [self.path.stem]

    def other_tables(self) -> list[str]:
        return []

    def open_table(self, name: str, request: TableRequest) -> _Reader:
        return _Reader(self.path)

    def create(self, table: ShortTable) -> _Writer:
        return _Writer(self.path, table)

    def close(self) -> None:
        pass


class _Reader:
    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.name, self._path, self._dump = path.stem, path, _Dump(path)
        self.key: str | None = _ID if _ID in self._dump.schema else None
        # A list of whole numbers may be followed by one of decimal numbers.
        self.schema: Mapping[str, Any] = {
            name: pa.list_(pa.float64()) if is_number_list(kind) else kind
            for name, kind in self._dump.schema.items()
        }

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        import pyarrow as pa

        first, row = start.row if start else 0, 0
        for batch in self._dump.batches(list(names) or list(self.schema)[:1], rows):
            n = len(next(iter(batch.values())))
            skipped = max(0, first - row)
            if skipped < n:
                places = pa.array(np.arange(row + skipped, row + n))
                yield Block(places, {name: batch[name].slice(skipped) for name in names})
            row += n

    def version(self, columns: Sequence[str]) -> str | None:
        return file_digest(self._path)


class _Writer:
    """Writes a bulk request that adds a field to the documents, for ``POST /INDEX/_bulk``."""

    def __init__(self, path: Path, table: ShortTable) -> None:
        self._path = path.with_name(f"{table.name}.ndjson")
        self._field = table.name
        self._known: set[str] = set()
        end = 0
        if self._path.exists():
            with self._path.open("rb") as file:
                while (action := file.readline()).endswith(b"\n"):
                    if not file.readline().endswith(b"\n"):
                        break
                    self._known.add(json.loads(action)["update"][_ID])
                    end = file.tell()
        self._file = self._path.open("r+b" if self._path.exists() else "wb")
        # What an interruption left of the last document is written again.
        self._file.truncate(end)
        self._file.seek(end)

    def present(self, ids: Any) -> NDArray[np.bool_]:
        return np.array([str(value) in self._known for value in ids.to_pylist()], dtype=bool)

    def put(self, ids: Any, vectors: NDArray[Any]) -> None:
        # Nine digits give each float32 back exactly.
        form = ",".join(["%.9g"] * vectors.shape[1])
        for value, vector in zip(ids.to_pylist(), vectors, strict=True):
            action = json.dumps({"update": {_ID: str(value)}})
            field = json.dumps(self._field)
            document = f'{{"doc":{{{field}:[{form % tuple(vector.tolist())}]}}}}'
            self._file.write(f"{action}\n{document}\n".encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


DATABASE = Database(
    scheme="elasticsearch",
    title="Elasticsearch and OpenSearch",
    form="elasticsearch:FILE",
    description="NDJSON of Elasticsearch or OpenSearch: bulk requests, elasticdump, answers",
    package="",
    install="",
    connect=_Connection,
    aliases=("opensearch",),
)
