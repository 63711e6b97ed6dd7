"""The format database: short vectors in a table beside the whole ones."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import criticalmass as cm
from criticalmass.cli.main import cli
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.codec import Codec
from criticalmass.shrinking.export.database import short_vectors
from criticalmass.shrinking.slim_model import SlimModel

duckdb = pytest.importorskip("duckdb", reason="NOT TESTED: duckdb is not installed")
N = 50
WHOLE = np.random.default_rng(3).normal(size=(N, 24)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(WHOLE.ravel()), 24)
    with duckdb.connect(str(tmp_path / "items.duckdb")) as session:
        session.register("rows", pa.table({"id": np.arange(N) + 100, "embedding": lists}))
        session.execute("CREATE TABLE items (id BIGINT PRIMARY KEY, embedding FLOAT[24])")
        session.execute("INSERT INTO items SELECT * FROM rows")
    return tmp_path / "items.duckdb"


def read(path: Path, table: str) -> np.ndarray:
    with duckdb.connect(str(path), read_only=True) as session:
        rows = session.execute(f"SELECT id, embedding FROM {table} ORDER BY id").fetchall()  # noqa: S608
    assert [row[0] for row in rows] == list(range(100, 100 + len(rows)))
    return np.array([row[1] for row in rows], np.float32)


def test_the_command(slim: SlimModel, path: Path, tmp_path: Path) -> None:
    """Twice, and again after new rows; queries are shortened by what the folder holds."""
    slim.save(tmp_path / "slim", "")
    command = ["export", str(tmp_path / "slim"), "--format", "database", "--to", f"duckdb:{path}"]
    command += ["--out", str(tmp_path / "out"), "-q"]
    for n_written in (N, 0, 1):
        if n_written == 1:
            with duckdb.connect(str(path)) as session:
                session.execute("INSERT INTO items SELECT 150, embedding FROM items WHERE id = 100")
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0
        facts = json.loads((tmp_path / "out" / "export.json").read_text())
        assert facts["n_written"] == n_written
    short = read(path, facts["name"])
    np.testing.assert_array_equal(short, slim.shorten(np.concatenate([WHOLE, WHOLE[:1]])))
    indices = np.load(tmp_path / "out" / "indices.npy")
    np.testing.assert_array_equal(WHOLE[:, indices], short[:N])
    guide = (tmp_path / "out" / "README.md").read_text()
    assert f"`{facts['name']}`" in guide
    code = guide.split("```python\n")[1].split("```")[0].replace('load("', f'load("{tmp_path}/out/')
    names = {"queries": WHOLE}
    exec(code, names)  # noqa: S102
    np.testing.assert_array_equal(names["short"], short[:N])
    np.testing.assert_array_equal(read(path, "items")[:N], WHOLE)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
def test_what_the_database_does_not_store_is_decoded_and_said(
    at_precision: Callable[[str], SlimModel], path: Path, tmp_path: Path, precision: str
) -> None:
    slim = at_precision(precision)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cm.export(slim, format="database", to=f"duckdb:{path}", out=tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["stored_bytes_per_vector"] == 4 * slim.n_kept
    np.testing.assert_array_equal(read(path, facts["name"]), slim.transform(WHOLE))
    said = [str(w.message) for w in caught if "does not store" in str(w.message)]
    assert [f"does not store {precision} vectors" in text for text in said] == (
        [] if precision == "float32" else [True]
    )


def test_scaled_to_length_1(slim: SlimModel, path: Path, tmp_path: Path) -> None:
    cm.export(slim, format="database", to=f"duckdb:{path}", normalise=True, out=tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    lengths = np.linalg.norm(read(path, facts["name"]), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_two_slim_models_have_two_tables(slim: SlimModel) -> None:
    """A table of one must never be completed by another."""
    other = Codec(slim.precision, slim.codec.offset + 1, slim.codec.step)
    from dataclasses import replace

    models = [slim, replace(slim, codec=other), replace(slim, indices=slim.indices[::-1])]
    tags = {short_vectors(model, None, normalise=n).tag for model in models for n in (True, False)}
    assert len(tags) == 6
    assert short_vectors(slim, "mine", normalise=False).tag == "mine"


def test_errors(slim: SlimModel, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CriticalMassError, match=r"needs the address of the database; pass to=URL"):
        cm.export(slim, format="database", out=out)
    with pytest.raises(CriticalMassError, match="to='postgresql://u@h/db' is for format database"):
        cm.export(slim, format="sql", to="postgresql://u:pw@h/db", out=out)
    with pytest.raises(CriticalMassError, match="did you mean 'items'"):
        cm.export(slim, format="database", to=f"duckdb:{path}", table="itens", out=out)
    with duckdb.connect(str(path)) as session:
        session.execute("CREATE TABLE plain AS SELECT embedding FROM items")
    with pytest.raises(CriticalMassError, match="no column of distinct ids"):
        cm.export(slim, format="database", to=f"duckdb:{path}", table="plain", out=out)
    assert not out.exists()


def test_a_column_of_ids_that_has_the_usual_name_counts_when_it_is_given(
    slim: SlimModel, path: Path, tmp_path: Path
) -> None:
    with duckdb.connect(str(path)) as session:
        session.execute("CREATE TABLE keyed (pk BIGINT PRIMARY KEY, id BIGINT, v FLOAT[24])")
        session.execute("INSERT INTO keyed SELECT id + 1000, id, embedding FROM items")
    options = {"format": "database", "to": f"duckdb:{path}", "table": "keyed"}
    keys = []
    for given in ({}, {"id": "id"}):
        cm.export(slim, **options, **given, suffix=f"by{len(given)}", out=tmp_path / "out")
        facts = json.loads((tmp_path / "out" / "export.json").read_text())
        keys.append(facts["key"])
    assert keys == ["pk", "id"]
