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
    N,
    by_id,
    check_errors,
    check_import,
    check_write_back,
    small_blocks,
)

import criticalmass as cm
from criticalmass.errors import CriticalMassError

duckdb = pytest.importorskip("duckdb", reason="NOT TESTED: duckdb is not installed")
__all__ = ["small_blocks"]


def run(path: Path, *queries: str) -> None:
    with duckdb.connect(str(path)) as session:
        for query in queries:
            session.execute(query)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    path = tmp_path / "items.duckdb"
    with duckdb.connect(str(path)) as session:
        session.execute(
            f"CREATE TABLE items (key INT PRIMARY KEY, embedding FLOAT[{D}], label VARCHAR)"
        )
        lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), D)
        session.register("rows", pa.table({"k": NUMBERS, "e": lists, "l": LABELS}))
        session.execute("INSERT INTO items SELECT * FROM rows")
        session.execute("CREATE TABLE others (id INT, name VARCHAR)")

    def change(row: int) -> None:
        vector = "list_transform(embedding::FLOAT[], lambda v: v + 1)"
        run(path, f"UPDATE items SET embedding = {vector} WHERE key = {NUMBERS[row]}")  # noqa: S608

    return Engine(f"duckdb:{path}", list(map(str, NUMBERS)), change, skips=True)


def test_import(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_import(engine, tmp_path, monkeypatch)


def test_write_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_write_back(engine, tmp_path, monkeypatch)


def test_errors(engine: Engine, tmp_path: Path) -> None:
    check_errors(engine, tmp_path)
    with pytest.raises(CriticalMassError, match=r"no file .*items.duckdc'; did you mean"):
        cm.import_features(engine.url[:-1] + "c", out=tmp_path / "bad")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("UPDATE items SET embedding = NULL WHERE key = 1", r"has no vector in row \d+ \(id '1'\)"),
        (
            "UPDATE items SET embedding = list_transform(embedding::FLOAT[], "
            "lambda v: 'nan'::FLOAT) WHERE key = 1",
            r"is not finite in 1 of .* first in row \d+ \(id '1'\); drop such rows",
        ),
        ("DELETE FROM items", "has no rows"),
        ("ALTER TABLE items ADD COLUMN second FLOAT[2]; UPDATE items SET second = [1, 2]", ""),
        (
            "CREATE TABLE more AS FROM items",
            "which table .* 'items' or 'more'[?] Name it with table= [(]--table[)]",
        ),
    ],
)
def test_unusable_rows(engine: Engine, tmp_path: Path, query: str, message: str) -> None:
    run(Path(engine.url.removeprefix("duckdb:")), query)
    if not message:
        # Only one of two columns is called like vectors.
        assert cm.import_features(engine.url, out=tmp_path / "f").features("train").shape[1] == D
        return
    with pytest.raises(CriticalMassError, match=message):
        cm.import_features(engine.url, out=tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_rows_are_chosen(engine: Engine, tmp_path: Path) -> None:
    store = cm.import_features(
        engine.url, where="label = 'red'", limit=20, labels="none", out=tmp_path / "f"
    )
    names = {name for split in store.splits for name in store.sample_ids(split)}
    reds = [str(number) for number, label in zip(NUMBERS, LABELS, strict=True) if label == "red"]
    assert names == set(reds[:20])
    with pytest.raises(CriticalMassError, match=r"does not exist|syntax|not found"):
        cm.import_features(engine.url, where="colour = 1", out=tmp_path / "g")


@pytest.mark.parametrize("kind", [f"DOUBLE[{D}]", "FLOAT[]", "VARCHAR"])
def test_other_columns(engine: Engine, tmp_path: Path, kind: str) -> None:
    query = f"CREATE TABLE other AS SELECT embedding::{kind} AS embedding FROM items"  # noqa: S608
    run(Path(engine.url.removeprefix("duckdb:")), query)
    rows = by_id(cm.import_features(engine.url, table="other", out=tmp_path / "f"))
    assert len(rows) == N
    for row, vector in enumerate(VECTORS):
        np.testing.assert_allclose(rows[f"all-{row}"], vector, rtol=1e-6)
