from __future__ import annotations

from pathlib import Path

import pytest
from tests.extraction.databases.engine import (
    LABELS,
    NUMBERS,
    VECTORS,
    D,
    Engine,
    by_id,
    check_errors,
    check_import,
    check_write_back,
    small_blocks,
)

import criticalmass as cm

pymilvus = pytest.importorskip("pymilvus", reason="NOT TESTED: pymilvus is not installed")
pytest.importorskip("milvus_lite", reason="NOT TESTED: milvus-lite is not installed")
__all__ = ["small_blocks"]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    path = str(tmp_path / "items.db")
    ids = [f"item {number:04}" for number in NUMBERS]
    client = pymilvus.MilvusClient(path)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("name", pymilvus.DataType.VARCHAR, is_primary=True, max_length=32)
    schema.add_field("embedding", pymilvus.DataType.FLOAT_VECTOR, dim=D)
    client.create_collection("items", schema=schema)
    rows = [
        {"name": name, "embedding": vector, "label": label}
        for name, vector, label in zip(ids, VECTORS, LABELS, strict=True)
    ]
    client.insert("items", rows)
    client.close()

    def change(row: int) -> None:
        client = pymilvus.MilvusClient(path)
        client.upsert("items", [{**rows[row], "embedding": [0.5] * D}])
        client.close()

    return Engine(f"milvus:{path}", ids, change)


def test_import(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_import(engine, tmp_path, monkeypatch)


def test_write_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_write_back(engine, tmp_path, monkeypatch)


def test_errors(engine: Engine, tmp_path: Path) -> None:
    check_errors(engine, tmp_path)


def test_rows_are_chosen(engine: Engine, tmp_path: Path) -> None:
    store = cm.import_features(
        engine.url, where='name > "item 0500"', limit=30, labels="none", out=tmp_path / "f"
    )
    assert sorted(by_id(store)) == sorted(name for name in engine.ids if name > "item 0500")[:30]
