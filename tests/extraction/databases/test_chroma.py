from __future__ import annotations

from pathlib import Path

import pytest
from tests.extraction.databases.engine import (
    LABELS,
    NUMBERS,
    VECTORS,
    D,
    Engine,
    check_errors,
    check_import,
    check_write_back,
    small_blocks,
)
from tests.installed import need

import criticalmass as cm
from criticalmass.errors import CriticalMassError

need("chromadb", reason="NOT TESTED: chromadb is not installed")
__all__ = ["small_blocks"]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    import chromadb

    settings = chromadb.config.Settings(anonymized_telemetry=False)
    ids = [f"item-{number}" for number in NUMBERS]

    def collection(client: object):
        return client.get_or_create_collection("items", embedding_function=None)

    client = chromadb.PersistentClient(path=str(tmp_path), settings=settings)
    labels = [{"label": label} for label in LABELS]
    collection(client).add(ids=ids, embeddings=VECTORS, metadatas=labels)
    client.close()

    def change(row: int) -> None:
        client = chromadb.PersistentClient(path=str(tmp_path), settings=settings)
        collection(client).update(ids=[ids[row]], embeddings=[[0.5] * D])
        client.close()

    return Engine(f"chroma:{tmp_path}", ids, change)


def test_import(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_import(engine, tmp_path, monkeypatch)


def test_write_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_write_back(engine, tmp_path, monkeypatch)


def test_errors(engine: Engine, tmp_path: Path) -> None:
    check_errors(engine, tmp_path)

    with pytest.raises(CriticalMassError, match=r"the folder has no chroma\.sqlite3$"):
        cm.import_features("chroma:.", out=tmp_path / "bad")
