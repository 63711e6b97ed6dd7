from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import criticalmass as cm
from criticalmass.cli.main import cli
from criticalmass.errors import CriticalMassError, MissingExtraError, StoreError
from criticalmass.extraction.databases import opening, registry
from criticalmass.extraction.databases.protocol import Block, Database, Place, TableRequest
from criticalmass.extraction.databases.table import DatabaseTable, vector_lists
from criticalmass.extraction.databases.url import DatabaseUrl

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


class Toy:
    """A database in ten lines: one table of forty vectors."""

    precisions, name, key = ("float32",), "items", "id"
    schema = {"id": pa.int64(), "v": pa.list_(pa.float32())}  # noqa: RUF012

    def __init__(self, url: DatabaseUrl, writable: bool) -> None: ...

    def tables(self) -> list[str]:
        return ["items"]

    other_tables = tables

    def open_table(self, name: str, request: TableRequest) -> Toy:
        return self

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        ids, first = pa.array(np.arange(40) * 5), start.row if start else 0
        cells = {"id": ids, "v": vector_lists(list(X), np.float32)}
        yield Block(ids.slice(first), {name: cells[name].slice(first) for name in names})

    def version(self, columns: Sequence[str]) -> str | None:
        return "1"

    def close(self) -> None: ...


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Database("toy", "Toy", "toy:NAME", "a toy", "", "", Toy)  # type: ignore[arg-type]
    databases = {**registry.DATABASES, "toy": entry}
    monkeypatch.setattr(registry, "DATABASES", databases)
    monkeypatch.setattr(opening, "DATABASES", databases)


def test_documents_of_a_database_and_queries_of_an_array(tmp_path: Path, toy: None) -> None:
    """Another query makes another request, although the database has not changed."""
    qrels = {"0": {"15": 1}, "1": {"0": 1, "195": 2}}
    store = cm.import_features("toy:x", queries=X[:2] + 1, qrels=qrels, out=tmp_path / "f")
    assert store.sample_ids("train")[3] == "15"
    with pytest.raises(StoreError, match="dataset digest"):
        cm.import_features("toy:x", queries=X[:2] + 2, qrels=qrels, out=tmp_path / "f")


def test_one_entry_adds_a_database(tmp_path: Path, toy: None) -> None:
    store = cm.import_features("toy:anything", out=tmp_path / "f")
    for split in store.splits:
        rows = [int(name) // 5 for name in store.sample_ids(split)]
        np.testing.assert_array_equal(store.features(split).array(), X[rows])
    assert "toy:NAME" in CliRunner().invoke(cli, ["list", "databases"]).output


@pytest.mark.parametrize(
    ("text", "shown", "secret"),
    [
        ("postgresql://u:pw@h:5/db?sslmode=require", "postgresql://u@h:5/db?sslmode=require", "pw"),
        ("postgresql://u@h/db", "postgresql://u@h/db", None),
        ("postgres://u:p%40w@/db?host=/run/s", "postgres://u@/db?host=/run/s", "p@w"),
        ("postgresql:///db?user=u&password=pw&port=1", "postgresql:///db?user=u&port=1", "pw"),
        ("qdrant:https://key@h:6333", "qdrant:https://***@h:6333", "key"),
        ("qdrant://key@h:6333", "qdrant://***@h:6333", "key"),
        ("milvus:http://h:1?token=root:pw", "milvus:http://h:1", "root:pw"),
        ("chroma:https://h/path?api_key=k%2Fk", "chroma:https://h/path", "k/k"),
        ("duckdb:folder/items.duckdb", "duckdb:folder/items.duckdb", None),
        ("sqlite:///items.db", "sqlite:///items.db", None),
    ],
)
def test_addresses_without_secrets(text: str, shown: str, secret: str | None) -> None:
    url = DatabaseUrl.parse(text)
    assert url.shown == shown
    assert url.secret() == secret
    if secret is not None:
        assert secret not in repr(url)
        assert secret not in url.redact(f"failed for {text} with {secret}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("postgess://u:pw@h/db", "no database 'postgess'; did you mean 'postgresql'?"),
        ("mongodb://h/db", r"no database 'mongodb'; known: chroma, duckdb"),
        ("qdrnt:folder", "no database 'qdrnt'; did you mean 'qdrant'?"),
        ("lance:missing", "no folder 'missing'"),
        ("duckdb:missing", "no file 'missing'"),
    ],
)
def test_wrong_addresses(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CriticalMassError, match=message.replace("?", "[?]")) as error:
        cm.import_features(text, out="f")
    assert "pw" not in str(error.value)
    result = CliRunner().invoke(cli, ["import", text, "--out", "f"])
    assert isinstance(result.exception, CriticalMassError)


def test_a_client_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'psycopg\[binary\]>=3\.2' \(all"):
        cm.import_features("postgresql://h/db", out=tmp_path / "f")


@pytest.mark.parametrize("option", ["table", "where", "limit"])
def test_options_of_databases_are_refused_for_files(tmp_path: Path, option: str) -> None:
    np.save(tmp_path / "x.npy", X)
    value = 3 if option == "limit" else "a"
    with pytest.raises(CriticalMassError, match=f"{option}=.* is for databases"):
        cm.import_features(tmp_path / "x.npy", out=tmp_path / "f", **{option: value})


def test_a_file_of_a_table_has_ids_too(tmp_path: Path) -> None:
    table = pa.table({"name": [f"n{row}" for row in range(40)], "v": vector_lists(list(X), "f4")})
    store = cm.import_features(table, id="name", out=tmp_path / "f")
    for split in store.splits:
        rows = [int(name.removeprefix("n")) for name in store.sample_ids(split)]
        np.testing.assert_array_equal(store.features(split).array(), X[rows])
    with pytest.raises(CriticalMassError, match="'nam'; did you mean 'name'"):
        cm.import_features(table, id="nam", out=tmp_path / "g")
    twice = table.set_column(0, "name", [["n0", "n0", *map(str, range(38))]])
    with pytest.raises(CriticalMassError, match="the id 'n0' more than once; ids must be distinct"):
        cm.import_features(twice, id="name", out=tmp_path / "g")


class Changing(Toy):
    """A table without snapshots, of which rows come and go between two scans."""

    def __init__(self, later: Sequence[int]) -> None:
        self.places = [list(range(0, 80, 2)), list(later)]

    def scan(self, names: Sequence[str], rows: int, start: Place | None) -> Iterator[Block]:
        places = self.places.pop(0)
        for first in range(0, len(places), 7):
            part = pa.array(places[first : first + 7])
            yield Block(part, dict.fromkeys(names, part))


def test_rows_that_are_inserted_meanwhile_are_counted() -> None:
    later = sorted([*range(0, 80, 2), 3, 5, 41])
    table = DatabaseTable(Changing(later), "toy:x", TableRequest())
    with pytest.warns(UserWarning, match="3 rows were added while it was read; they are left out"):
        blocks = [block["id"].to_pylist() for block in table.batches(["id"], 7)]
    assert [row for block in blocks for row in block] == list(range(0, 80, 2))


@pytest.mark.parametrize("row", [0, 17, 39])
def test_a_row_that_is_deleted_meanwhile_is_an_error(row: int) -> None:
    later = [place for place in range(0, 80, 2) if place != 2 * row]
    table = DatabaseTable(Changing(later), "toy:x", TableRequest())
    with pytest.raises(CriticalMassError, match=f"the row of id '{2 * row}' was deleted or moved"):
        list(table.batches(["id"], 7))


@pytest.mark.parametrize("holes", [(), (0,), (2, 5), tuple(range(6))])
def test_lists_of_vectors(holes: tuple[int, ...]) -> None:
    rows: list[Any] = [None if row in holes else X[row] for row in range(6)]
    cells = vector_lists(rows, np.float32)
    assert [row is None for row in cells.to_pylist()] == [row is None for row in rows]
    kept = [row for row in rows if row is not None]
    if kept:
        values = np.asarray(cells.flatten()).reshape(len(kept), 3)
        np.testing.assert_array_equal(values, kept)
