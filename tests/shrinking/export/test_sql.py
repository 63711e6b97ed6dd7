"""SQL: run by DuckDB in a separate process; names are quoted; parts of the pgvector text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.sql import format_pgvector, quote_identifier, quote_table
from criticalmass.shrinking.slim_model import SlimModel

NASTY = 'a"; DROP TABLE precious; --'
RUN_DUCKDB = """
import duckdb, numpy as np
x, names = np.load("x.npy"), {names}
for number, (name, width) in enumerate(names):
    base = duckdb.connect()
    quoted = '"' + name.replace('"', '""') + '"'
    base.execute("CREATE TABLE precious (n INTEGER)")
    base.execute(f"CREATE TABLE {{quoted}} (id INTEGER, embedding FLOAT[{{width}}])")
    base.executemany(f"INSERT INTO {{quoted}} VALUES (?, ?)", list(enumerate(x.tolist())))
    base.execute(open(f"{{number}}/duckdb.sql").read())
    found = base.execute(f"SELECT embedding_slim FROM {{quoted}} ORDER BY id").fetchall()
    np.save(f"{{number}}.npy", np.array([row[0] for row in found], np.float32))
    query = base.execute("SELECT kept_neurons(?)", [x[0].tolist()]).fetchone()[0]
    assert np.allclose(query, found[0][0])
    assert base.execute("SELECT count(*) FROM precious").fetchone()[0] == 0
    try:
        base.execute("SELECT kept_neurons([1.0, 2.0])").fetchone()
    except duckdb.Error:
        continue
    raise AssertionError("a vector of another width was taken")
"""


def test_duckdb(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path, fresh: Callable[..., str]
) -> None:
    x = np.concatenate([whole[:20], np.zeros((1, 24), np.float32)])
    np.save(tmp_path / "x.npy", x)
    cm.export(slim, format="sql", out=tmp_path / "0")
    cm.export(slim, format="sql", out=tmp_path / "1", table=NASTY, normalise=True)
    fresh(RUN_DUCKDB.format(names=[("items", 24), (NASTY, "")]), tmp_path)
    short = slim.transform(x)
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), short)
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    scaled = short / np.where(lengths > 0, lengths, 1)
    np.testing.assert_allclose(np.load(tmp_path / "1.npy"), scaled, rtol=1e-6, atol=1e-7)


def test_pgvector_counts_from_one() -> None:
    text = format_pgvector("public.items", "embedding", [1, 4, 24], n_neurons=24, normalise=False)
    assert "ARRAY[1, 4, 24]" in text
    assert "whole::vector(24)" in text
    assert 'ALTER TABLE "public"."items" ADD COLUMN "embedding_slim" vector(3);' in text
    scaled = format_pgvector("items", "embedding", [1], n_neurons=2, normalise=True)
    assert "sqrt(sum(" in scaled


@given(st.text(min_size=1, max_size=15).filter(str.isprintable))
def test_a_name_cannot_end_its_quotes(name: str) -> None:
    """Read as SQL reads it: one quoted identifier and nothing after it."""
    written = quote_identifier(name)
    assert re.fullmatch(r'"(?:[^"]|"")*"', written)
    assert written[1:-1].replace('""', '"') == name


def test_invalid_names(slim: SlimModel, tmp_path: Path) -> None:
    assert quote_table("a.b") == '"a"."b"'
    for name in ("", "a\nb", "a\0b", "x" * 64, "a..b"):
        with pytest.raises(CriticalMassError, match=r"is no valid name of a table|must be a text"):
            cm.export(slim, format="sql", out=tmp_path / "out", table=name)
    with pytest.raises(CriticalMassError, match="is no valid name"):
        cm.export(slim, format="sql", out=tmp_path / "out", column="e" * 60)
