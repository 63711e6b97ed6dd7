from __future__ import annotations

import contextlib
import ctypes
import sqlite3
import sys
from pathlib import Path

import numpy as np
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
    write,
)

import criticalmass as cm
from criticalmass.errors import CriticalMassError

__all__ = ["small_blocks"]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    path = tmp_path / "items.db"

    def run(query: str, *rows: tuple[object, ...]) -> None:
        with contextlib.closing(sqlite3.connect(path)) as session, session:
            session.executemany(query, rows or [()])

    run("CREATE TABLE items (id INTEGER PRIMARY KEY, embedding BLOB, label TEXT, picture BLOB)")
    blobs = [vector.tobytes() for vector in VECTORS]
    pictures = [b"\xff\xd8\xff\xe0" + bytes(range(row % 200)) for row in range(N)]
    run(
        "INSERT INTO items VALUES (?, ?, ?, ?)", *zip(NUMBERS, blobs, LABELS, pictures, strict=True)
    )
    run("CREATE TABLE others (id INTEGER, name TEXT)")

    def change(row: int) -> None:
        run("UPDATE items SET embedding = ? WHERE id = ?", (bytes(4 * D), NUMBERS[row]))

    return Engine(f"sqlite:{path}", list(map(str, NUMBERS)), change)


def test_import(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_import(engine, tmp_path, monkeypatch)


def test_write_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_write_back(engine, tmp_path, monkeypatch)


def test_errors(engine: Engine, tmp_path: Path) -> None:
    check_errors(engine, tmp_path)

    path = Path(engine.url.removeprefix("sqlite:"))
    with contextlib.closing(sqlite3.connect(path)) as session, session:
        session.execute("UPDATE items SET embedding = x'00' WHERE id = 4")
    with pytest.raises(CriticalMassError, match=r"has no blob of float32 in row 1;"):
        cm.import_features(engine.url, out=tmp_path / "bad")


def test_addresses_of_sqlalchemy(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:items.db", "sqlite:///items.db", f"sqlite:///{tmp_path}/items.db"):
        store = cm.import_features(url, out=tmp_path / f"f{len(url)}")
        assert len(by_id(store)) == N


def test_a_table_of_sqlite_vec(tmp_path: Path) -> None:
    """Where Python's SQLite loads no extensions, its library is given this one."""
    extension = pytest.importorskip("sqlite_vec", reason="NOT TESTED: sqlite-vec is missing")
    with contextlib.closing(sqlite3.connect(tmp_path / "vec.db")) as session:
        if hasattr(session, "enable_load_extension"):
            session.enable_load_extension(True)
            extension.load(session)
        else:
            _give_extension(extension.loadable_path())
    with contextlib.closing(sqlite3.connect(tmp_path / "vec.db")) as session, session:
        if hasattr(session, "enable_load_extension"):
            session.enable_load_extension(True)
            extension.load(session)
        session.execute(
            f"CREATE VIRTUAL TABLE items USING vec0(item INTEGER PRIMARY KEY, v float[{D}])"
        )
        rows = zip(NUMBERS, [vector.tobytes() for vector in VECTORS], strict=True)
        session.executemany("INSERT INTO items VALUES (?, ?)", rows)
    vectors = by_id(cm.import_features(f"sqlite:{tmp_path / 'vec.db'}", out=tmp_path / "f"))
    for number, vector in zip(NUMBERS, VECTORS, strict=True):
        np.testing.assert_array_equal(vectors[str(number)], vector)


def _give_extension(path: str) -> None:
    """Let every connection of this process that is opened from now on have sqlite-vec."""
    import _sqlite3

    library = ctypes.CDLL(_sqlite3.__file__)
    if not hasattr(library, "sqlite3_auto_extension"):
        pytest.skip("NOT TESTED: this SQLite takes no extensions")
    suffix = {"linux": "so", "darwin": "dylib"}.get(sys.platform, "dll")
    library.sqlite3_auto_extension(ctypes.CDLL(f"{path}.{suffix}").sqlite3_vec_init)


def test_a_table_of_sqlite_vec_without_the_extension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "vec.db")) as session, session:
        session.execute("CREATE TABLE items (id, v)")
        session.execute("PRAGMA writable_schema = 1")
        session.execute(
            "UPDATE sqlite_master SET sql = 'CREATE VIRTUAL TABLE items USING vec0(v float[3])'"
        )

    module = "criticalmass.extraction.databases.sqlite_file._has_extension"
    monkeypatch.setattr(module, lambda session: False)
    monkeypatch.setitem(sys.modules, "sqlite_vec", None)
    with pytest.raises(CriticalMassError, match=r"a table of sqlite-vec, which cannot be read"):
        cm.import_features(f"sqlite:{tmp_path / 'vec.db'}", out=tmp_path / "f")


def test_bits(engine: Engine) -> None:
    result = write(engine, "binary")
    with contextlib.closing(sqlite3.connect(engine.url.removeprefix("sqlite:"))) as session:
        bits = dict(session.execute(f"SELECT id, embedding FROM {result.name}"))  # noqa: S608
    expected = np.packbits(VECTORS[:, :3] > 0, axis=1)
    assert bits == {n: row.tobytes() for n, row in zip(NUMBERS, expected, strict=True)}
