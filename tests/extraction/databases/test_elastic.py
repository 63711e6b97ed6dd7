from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.extraction.databases.engine import (
    LABELS,
    VECTORS,
    WIDTH,
    Engine,
    N,
    check_import,
    interrupting,
    shorten,
    small_blocks,
    write,
)

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.databases import write_back as writing

__all__ = ["small_blocks"]
IDS = [f"doc-{row}" for row in range(N)]


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, vector, label in zip(IDS, VECTORS, LABELS, strict=True):
        yield name, {"meta": {"vector": vector.tolist(), "size": 1}, "label": label}


def bulk() -> Iterator[Any]:
    for name, document in documents():
        yield {"index": {"_index": "items", "_id": name}}
        yield document
        yield {"delete": {"_id": f"old {name}"}}


def dump() -> Iterator[Any]:
    for name, document in documents():
        yield {"_index": "items", "_id": name, "_score": 1, "_source": document}


def answer() -> Iterator[Any]:
    hits = list(dump())
    for first in range(0, N, 100):
        yield {"took": 3, "hits": {"total": N, "hits": hits[first : first + 100]}}


def make(folder: Path, lines: Callable[[], Iterator[Any]]) -> Engine:
    path = folder / "items.ndjson"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines()))

    def change(row: int) -> None:
        path.write_text(path.read_text().replace(IDS[row], "another"))

    return Engine(f"elasticsearch:{path}", IDS, change)


@pytest.mark.parametrize("lines", [bulk, dump, answer])
def test_import(
    lines: Callable[[], Iterator[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_import(make(tmp_path, lines), tmp_path, monkeypatch)


def test_write_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file adds a field to each document, once, also after an interruption."""
    engine = make(tmp_path, bulk)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "check_finite", interrupting(writing.check_finite, 4))
        with pytest.raises(RuntimeError):
            write(engine)
    path = tmp_path / "items_slim_a1b2.ndjson"
    path.write_bytes(path.read_bytes()[:-20])
    result = write(engine)
    assert 0 < result.n_written < N
    assert write(engine).n_written == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["update"]["_id"] for line in lines[::2]] == IDS
    values = [line["doc"]["items_slim_a1b2"] for line in lines[1::2]]
    np.testing.assert_array_equal(np.array(values, np.float32), shorten(VECTORS))
    assert len(values[0]) == WIDTH


def test_errors(tmp_path: Path) -> None:
    engine = make(tmp_path, dump)
    with pytest.raises(CriticalMassError, match="servers are not read; dump the index"):
        cm.import_features("elasticsearch:http://localhost:9200", out=tmp_path / "f")
    with pytest.raises(CriticalMassError, match=r"known: items|did you mean"):
        cm.import_features(engine.url, table="other", out=tmp_path / "f")
    path = Path(engine.url.partition(":")[2])
    path.write_text(path.read_text().replace('"doc-3"', '"doc-2"', 1))
    with pytest.raises(CriticalMassError, match="has the id 'doc-2' more than once"):
        cm.import_features(engine.url, out=tmp_path / "f")
    path.write_text("[1, 2]\n")
    with pytest.raises(CriticalMassError, match=r"line 1 of .* is no JSON object"):
        cm.import_features(engine.url, out=tmp_path / "f")
