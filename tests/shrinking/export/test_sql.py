"""SQL: run by DuckDB in a separate process; names are quoted; what PostgreSQL cannot hold."""

from __future__ import annotations

import dataclasses
import json
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
from criticalmass.shrinking.codec import Codec
from criticalmass.shrinking.export.sql_names import (
    dollar_quote,
    parse_names,
    quote_identifier,
    quote_text,
)
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
    base.executemany(f"INSERT INTO {{quoted}} VALUES (?, ?)", list(enumerate(x[:10].tolist())))
    for start in (10, 11):
        base.execute(open(f"{{number}}/duckdb.sql").read())
        rows = list(enumerate(x.tolist()))[start:] if start == 10 else []
        for row in rows:
            base.execute(f"INSERT INTO {{quoted}} (id, embedding) VALUES (?, ?)", row)
    shorts = base.execute(f"SELECT embedding_slim_v1 FROM {{quoted}} ORDER BY id").fetchall()
    np.save(f"{{number}}.npy", np.array([row[0] for row in shorts], np.float32))
    macro = base.execute("SELECT function_name FROM duckdb_functions() "
                         "WHERE function_name LIKE '%_slim_v1'").fetchone()[0]
    macro = '"' + macro.replace('"', '""') + '"'
    query = base.execute(f"SELECT {{macro}}(?)", [x[0].tolist()]).fetchone()[0]
    assert np.allclose(query, shorts[0][0])
    assert base.execute("SELECT count(*) FROM precious").fetchone()[0] == 0
    try:
        base.execute(f"SELECT {{macro}}([1.0, 2.0])").fetchone()
    except duckdb.Error:
        continue
    raise AssertionError("a vector of another width was taken")
"""


def test_duckdb(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path, fresh: Callable[..., str]
) -> None:
    """Run twice, and with a table in PostgreSQL's default schema, which DuckDB lacks."""
    x = np.concatenate([whole[:20], np.zeros((1, 24), np.float32)])
    np.save(tmp_path / "x.npy", x)
    cm.export(slim, format="sql", out=tmp_path / "0", table="public.items", suffix="v1")
    cm.export(slim, format="sql", out=tmp_path / "1", table=NASTY, suffix="v1", normalise=True)
    fresh(RUN_DUCKDB.format(names=[("items", 24), (NASTY, "")]), tmp_path)
    short = slim.transform(x)
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), short)
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    scaled = short / np.where(lengths > 0, lengths, 1)
    np.testing.assert_allclose(np.load(tmp_path / "1.npy"), scaled, rtol=1e-6, atol=1e-7)


@given(st.text(min_size=1, max_size=15).filter(str.isprintable))
def test_a_name_cannot_end_its_quotes(name: str) -> None:
    """Read as SQL reads it: one quoted identifier, text or body, and nothing after it."""
    written = quote_identifier(name)
    assert re.fullmatch(r'"(?:[^"]|"")*"', written)
    assert written[1:-1].replace('""', '"') == name
    text = quote_text(name)
    inside = text[2:-1].replace("\\\\", "\\") if text.startswith("E") else text[1:-1]
    assert re.fullmatch(r"E?'(?:[^']|'')*'", text)
    assert inside.replace("''", "'") == name
    body = dollar_quote(f"$slim$ {name}$slim")
    tag = body.split("\n")[0]
    assert body.count(tag) == 2


def test_names_of_tables() -> None:
    names = [parse_names(name, "e", "id", "v1").table for name in ("a.b", '"a.b"', '"a""b".c d')]
    assert names == [("a", "b"), ("a.b",), ('a"b', "c d")]
    long = parse_names("t" * 63, "embedding", "id", "v1")
    assert len(long.created("_matrix").encode()) <= 63
    assert long.created() != parse_names("u" * 63, "embedding", "id", "v1").created()


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        *(
            ({"table": name}, r"no valid name of a table|must be a text")
            for name in ("", "a\nb", "a\0b", "x" * 64, "a..b", "a.b.c")
        ),
        ({"column": ""}, "no valid name"),
        ({"id": "é" * 32}, "no valid name"),
        ({"column": "e" * 50}, r"more than 63 bytes; give a suffix of at most 7 characters"),
        ({"column": "e" * 60}, "more than 63 bytes; rename the column"),
        ({"suffix": "V 1"}, "give 1 to 20 of a-z, 0-9, _"),
        ({"suffix": ""}, "give 1 to 20 of a-z, 0-9, _"),
        ({"metric": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_invalid_names(options: dict[str, str], cure: str, slim: SlimModel, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match=cure):
        cm.export(slim, format="sql", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("precision", "n", "cure"),
    [
        ("float32", 2001, r"at most 2,000 of type vector; .*--max-dims 2000.*float16 .*4,000"),
        ("float16", 4001, r"at most 4,000 of type halfvec; .*binary \(up to 64,000\)"),
        ("int8", 4001, "at most 4,000 of type halfvec"),
        ("binary", 16001, r"16,001 dimensions do not fit in a column .*format='vectors'"),
    ],
)
def test_more_dimensions_than_pgvector_takes(
    precision: str, n: int, cure: str, slim: SlimModel, tmp_path: Path
) -> None:
    codec = Codec(precision, np.zeros(n, np.float32), np.ones(n, np.float32))
    record = {**slim.record, "n_neurons": n}
    wide = dataclasses.replace(slim, indices=np.arange(n), codec=codec, record=record)
    with pytest.raises(CriticalMassError, match=cure):
        cm.export(wide, format="sql", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("precision", "type_name", "line"),
    [
        ("int8", "halfvec", r"no 8-bit vectors: halfvec\(\d+\) takes \d+ bytes, but \d+ bytes"),
        ("float16", "halfvec", r"duckdb.sql stores float32"),
        ("binary", "bit", r"duckdb.sql stores float32"),
    ],
)
def test_other_bytes_than_certified_are_said(
    precision: str,
    type_name: str,
    line: str,
    at_precision: Callable[[str], SlimModel],
    tmp_path: Path,
) -> None:
    slim = at_precision(precision)
    with pytest.warns(UserWarning, match=line):
        cm.export(slim, format="sql", out=tmp_path)
    facts = json.loads((tmp_path / "export.json").read_text())
    assert facts["type"] == f"{type_name}({slim.n_kept})"
    assert (facts["bytes_per_vector"] == slim.bytes_per_vector) == (precision != "int8")
    assert re.search(line, (tmp_path / "README.md").read_text())
