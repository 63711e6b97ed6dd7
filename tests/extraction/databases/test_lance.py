from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
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
    write,
)
from tests.installed import need

import criticalmass as cm

need("lancedb", reason="NOT TESTED: lancedb is not installed")
__all__ = ["small_blocks"]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    import lancedb

    lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), D)
    rows = pa.table({"id": NUMBERS, "embedding": lists, "label": LABELS})
    session = lancedb.connect(str(tmp_path / "db"))
    table = session.create_table("items", rows.slice(0, 150))
    table.add(rows.slice(150))

    def change(row: int) -> None:
        table.update(where=f"id = {NUMBERS[row]}", values={"embedding": [0.5] * D})

    return Engine(
        f"lance:{tmp_path / 'db'}", list(map(str, NUMBERS)), change, precision="float16", skips=True
    )


def test_import(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_import(engine, tmp_path, monkeypatch)


def test_write_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_write_back(engine, tmp_path, monkeypatch)


def test_errors(engine: Engine, tmp_path: Path) -> None:
    check_errors(engine, tmp_path)


def test_rows_are_chosen(engine: Engine, tmp_path: Path) -> None:
    store = cm.import_features(engine.url, where="label = 'red'", out=tmp_path / "f")
    reds = [str(number) for number, label in zip(NUMBERS, LABELS, strict=True) if label == "red"]
    assert set(by_id(store)) == set(reds)


def test_bits(engine: Engine) -> None:
    result = write(engine, "binary")
    import lancedb

    table = lancedb.connect(engine.url.removeprefix("lance:")).open_table(result.name).to_arrow()
    bits = dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    expected = np.packbits(VECTORS[:, :3] > 0, axis=1)
    assert bits == {n: row.tolist() for n, row in zip(NUMBERS, expected, strict=True)}
