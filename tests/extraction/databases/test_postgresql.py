from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.extraction.databases.engine import (
    LABELS,
    NUMBERS,
    VECTORS,
    WIDTH,
    D,
    Engine,
    N,
    by_id,
    check_errors,
    check_import,
    check_write_back,
    shorten,
    small_blocks,
    write,
)
from tests.postgres import Database

import criticalmass as cm
from criticalmass.core.progress import display
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.databases.postgresql import _Column
from criticalmass.storage.features_writer import StoreWriter

pytest.importorskip("psycopg", reason="NOT TESTED: psycopg is not installed")
__all__ = ["small_blocks"]


def text(vector: np.ndarray[Any, Any]) -> str:
    return f"[{','.join(map(repr, vector.tolist()))}]"


@pytest.fixture
def engine(postgres: Database) -> Engine:
    with postgres.connect() as connection:
        connection.execute(
            f"CREATE TABLE items (id int PRIMARY KEY, embedding vector({D}), label text, "
            "created timestamptz DEFAULT now())"
        )
        connection.execute("CREATE TABLE others (id int, name text)")
        with connection.cursor().copy("COPY items (id, embedding, label) FROM STDIN") as copy:
            for number, vector, label in zip(NUMBERS, VECTORS, LABELS, strict=True):
                copy.write_row((number, text(vector), label))

    def change(row: int) -> None:
        with postgres.connect() as connection:
            query = "UPDATE items SET embedding = embedding + embedding WHERE id = %s"
            connection.execute(query, (NUMBERS[row],))

    return Engine(postgres.url, list(map(str, NUMBERS)), change, precision="float16", skips=True)


def test_import(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_import(engine, tmp_path, monkeypatch)


def test_write_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_write_back(engine, tmp_path, monkeypatch)


def test_errors(engine: Engine, tmp_path: Path) -> None:
    check_errors(engine, tmp_path)


@pytest.mark.parametrize("precision", ["float32", "binary"])
def test_precisions(engine: Engine, postgres: Database, precision: str) -> None:
    result = write(engine, precision)
    assert result.precision == precision
    with postgres.connect() as connection:
        query = f"SELECT id, embedding::text FROM {result.name}"  # noqa: S608
        cells = dict(connection.execute(query).fetchall())
    for number, vector in zip(NUMBERS, shorten(VECTORS), strict=True):
        if precision == "binary":
            assert cells[number] == "".join(str(int(value > 0)) for value in vector)
        else:
            values = np.array(cells[number].strip("[]").split(","), dtype=np.float32)
            np.testing.assert_array_equal(values, vector)
    assert len(cells) == N


def test_a_table_that_changes_is_read_as_it_was(
    engine: Engine, postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = _Column.to_arrow

    def meanwhile(self: _Column, values: Any) -> Any:
        with postgres.connect() as connection:
            connection.execute("DELETE FROM items WHERE id > 300")
            connection.execute("UPDATE items SET embedding = embedding + embedding")
        return convert(self, values)

    monkeypatch.setattr(_Column, "to_arrow", meanwhile)
    vectors = by_id(cm.import_features(engine.url, out=tmp_path / "f"))
    for name, vector in zip(engine.ids, VECTORS, strict=True):
        np.testing.assert_array_equal(vectors[name], vector)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("UPDATE items SET embedding = NULL WHERE id = 1", r"no vector in row 0 \(id '1'\); drop"),
        ("ALTER TABLE items ALTER embedding TYPE vector; UPDATE items SET embedding = '[1,2]' "
         "WHERE id = 4", rf"has 2 numbers in row 1 \(id '4'\) and {D} in row 0"),
        ("ALTER TABLE items ALTER embedding TYPE real[] USING embedding::real[]; UPDATE items SET "
         "embedding[2] = 'NaN' WHERE id = 4", r"is not finite .* row 1 \(id '4'\); drop such rows"),
        ("ALTER TABLE items RENAME embedding TO a; ALTER TABLE items ADD b vector(2)",
         "which column of .* 'a' or 'b'"),
    ],
)  # fmt: skip
def test_unusable_rows(
    engine: Engine, postgres: Database, tmp_path: Path, query: str, message: str
) -> None:
    with postgres.connect() as connection:
        connection.execute(query)
    with pytest.raises(CriticalMassError, match=message):
        cm.import_features(engine.url, out=tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("kind", ["halfvec", "real[]", "double precision[]"])
def test_other_columns(engine: Engine, postgres: Database, tmp_path: Path, kind: str) -> None:
    """In another schema, and without a key: rows are then numbered."""
    with postgres.connect() as connection:
        connection.execute("CREATE SCHEMA own")
        query = "CREATE TABLE own.plain AS SELECT embedding::real[]::"
        connection.execute(
            f"{query}{kind} AS e FROM items ORDER BY array_position(%s, id)", (NUMBERS,)
        )
    store = cm.import_features(engine.url, table="own.plain", out=tmp_path / "f")
    vectors = by_id(store)
    dtype = np.float16 if kind == "halfvec" else np.float32
    assert store.features("train").dtype == dtype
    for row, vector in enumerate(VECTORS):
        np.testing.assert_array_equal(vectors[f"all-{row}"], vector.astype(dtype))


def test_conditions(engine: Engine, tmp_path: Path) -> None:
    store = cm.import_features(
        engine.url, where="label LIKE 'r%' AND id % 2 = 0", limit=20, out=tmp_path / "f",
        labels="none",
    )  # fmt: skip
    reds = [n for n, label in zip(NUMBERS, LABELS, strict=True) if label == "red" and n % 2 == 0]
    assert set(by_id(store)) == set(map(str, sorted(reds)[:20]))


def test_the_password_is_written_nowhere(
    engine: Engine, postgres: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "s3cr%40et"  # noqa: S105
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 's3cr@et'")
        connection.execute("GRANT SELECT ON items TO reader")
    url = engine.url.replace("postgres@", f"reader:{secret}@")
    wrong = f"postgresql://reader:{secret}@127.0.0.1:1/db?connect_timeout=3&sslpassword={secret}"
    shown = ""
    with display():
        cm.import_features(url, out=tmp_path / "f")
        for address, options in ((wrong, {}), (url, {"table": "itemz"}), (url, {"where": "a b"})):
            with pytest.raises(CriticalMassError) as error:
                cm.import_features(address, out=tmp_path / "g", **options)
            assert "\n" not in str(error.value)
            shown += "".join(traceback.format_exception(error.value))
    output = capsys.readouterr()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for word in (secret, "s3cr@et"):
        assert word not in shown + output.out + output.err
        assert not any(word.encode() in content for content in files)
    assert "reader@" in (tmp_path / "f" / "manifest.json").read_text()


def test_short_vectors_have_the_width_of_the_slim_model(engine: Engine, postgres: Database) -> None:
    result = write(engine)
    with postgres.connect() as connection:
        kind = connection.execute(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = "
            "%s::regclass AND attname = 'embedding'", (result.name,)
        ).fetchone()[0]  # fmt: skip
    assert kind == f"halfvec({WIDTH})"


def test_a_lost_server_leaves_what_was_read(
    engine: Engine, postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the session in the middle; the command then continues."""
    put, calls = StoreWriter.put, iter(range(3))

    def losing(self: StoreWriter, *arguments: Any) -> None:
        put(self, *arguments)
        if next(calls, None) is None:
            with postgres.connect() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'criticalmass'"
                )

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "put", losing)
        with pytest.raises(CriticalMassError, match=r"table 'items': .*terminat") as error:
            cm.import_features(engine.url, out=tmp_path / "f")
    assert "\n" not in str(error.value)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").rglob("*-0*.npy")}
    assert shards
    assert len(by_id(cm.import_features(engine.url, out=tmp_path / "f"))) == N
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


def test_a_wrong_password_is_one_line_without_it(
    engine: Engine, postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.connect() as connection:
        (file,) = connection.execute("SHOW hba_file").fetchone() or ()
        role = f"reader_of_{postgres.name}"
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right'")
        connection.execute(f"GRANT SELECT ON items TO {role}")
        before = Path(file).read_text()
        Path(file).write_text(f"local all {role} scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        try:
            url = engine.url.replace("postgres@", f"{role}:wr0ng@")
            with pytest.raises(CriticalMassError, match="password authentication failed") as caught:
                cm.import_features(url, table="items", out=tmp_path / "f")
            assert "\n" not in str(caught.value)
            assert "wr0ng" not in str(caught.value)
            assert not (tmp_path / "f").exists()
            monkeypatch.setenv("PGPASSWORD", "right")
            store = cm.import_features(
                engine.url.replace("postgres@", f"{role}@"), table="items", out=tmp_path / "f"
            )
            assert "right" not in (tmp_path / "f" / "manifest.json").read_text()
            assert sum(len(store.labels(split)) for split in store.splits) == N
        finally:
            Path(file).write_text(before)
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")
