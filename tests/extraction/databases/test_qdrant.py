from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path
from typing import Any

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

need("qdrant_client", reason="NOT TESTED: qdrant-client is not installed")
__all__ = ["small_blocks"]
connect = sqlite3.connect


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local mode waits for the disk after each point; a test need not."""

    def quick(*args: Any, **options: Any) -> sqlite3.Connection:
        session = connect(*args, **options)
        session.execute("PRAGMA synchronous = OFF")
        return session

    monkeypatch.setattr(sqlite3, "connect", quick)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    import qdrant_client as client
    from qdrant_client import models

    # Whole numbers and UUIDs are ids of points.
    ids = [str(uuid.UUID(int=n)) if n % 2 else str(n) for n in NUMBERS]
    points = [
        models.PointStruct(
            id=int(name) if name.isdecimal() else name,
            vector={"embedding": vector.tolist(), "second": [1.0, 2.0]},
            payload={"label": label, "nested": {"a": 1}},
        )
        for name, vector, label in zip(ids, VECTORS, LABELS, strict=True)
    ]
    session = client.QdrantClient(path=str(tmp_path / "db"))
    parameters = {
        "embedding": models.VectorParams(size=D, distance=models.Distance.COSINE),
        "second": models.VectorParams(size=2, distance=models.Distance.DOT),
    }
    session.create_collection("items", vectors_config=parameters)
    session.upsert("items", points)
    session.close()

    def change(row: int) -> None:
        session = client.QdrantClient(path=str(tmp_path / "db"))
        points[row].vector["embedding"] = [0.5] * D
        session.upsert("items", [points[row]])
        session.close()

    # The collection scales vectors to length 1, which they nearly have.
    return Engine(f"qdrant:{tmp_path / 'db'}", ids, change, tolerance=1e-6)


def test_import(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_import(engine, tmp_path, monkeypatch)


def test_write_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_write_back(engine, tmp_path, monkeypatch)


def test_errors(engine: Engine, tmp_path: Path) -> None:
    check_errors(engine, tmp_path)

    address = r"^qdrant:http://[*]{3}@127\.0\.0\.1:1: .*refused"
    with (
        pytest.warns(UserWarning, match="insecure"),
        pytest.raises(CriticalMassError, match=address),
    ):
        cm.import_features("qdrant:http://s3cret@127.0.0.1:1", out=tmp_path / "bad")
    with pytest.raises(CriticalMassError, match="where='a' is not understood for Qdrant"):
        cm.import_features(engine.url, where="a", out=tmp_path / "bad")
