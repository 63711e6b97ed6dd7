"""Tables of a PostgreSQL server and exported scripts, for the tests of the format sql."""

from __future__ import annotations

# ruff: noqa: S608 - names are those of this file
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.postgres import Database

from criticalmass.shrinking.slim_model import SlimModel

WIDTH = 24


@dataclass(frozen=True)
class Export:
    """One exported slim model and its folder."""

    slim: SlimModel
    folder: Path

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "export.json").read_text())
        return facts

    @property
    def steps(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]_*.sql"))

    def statements(self, script: Path) -> Iterator[str]:
        """As the guide says how a driver sends them."""
        for statement in script.read_text().split("\n\n"):
            if not statement.startswith("\\"):
                yield statement

    def apply(self, database: Database) -> None:
        for script in self.steps:
            database.psql(script)

    def read(self, database: Database, table: str = "items") -> NDArray[Any]:
        """Return the short vectors by id, as they are stored."""
        with database.connect() as connection:
            rows = connection.execute(
                f"SELECT ({self.facts['short']})::text FROM {table} ORDER BY id"
            ).fetchall()
        if self.slim.precision == "binary":
            return np.packbits([[int(bit) for bit in row[0]] for row in rows], axis=1)
        return np.array([json.loads(row[0]) for row in rows], dtype=np.float32)


def literal(vector: NDArray[np.float32]) -> str:
    return f"[{','.join(map(str, vector.tolist()))}]"


def fill(database: Database, x: NDArray[np.float32], table: str = "items") -> None:
    with database.connect() as connection:
        connection.execute(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text, embedding vector({WIDTH}))"
        )
        with connection.cursor().copy(f"COPY {table} (id, embedding) FROM STDIN") as copy:
            for number, vector in enumerate(x):
                copy.write_row((number, literal(vector)))


def schema(database: Database) -> list[Any]:
    """All that the scripts may create: columns, indexes, functions, triggers and tables."""
    queries = (
        "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod) FROM "
        "pg_attribute WHERE attnum > 0 AND NOT attisdropped",
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index",
        "SELECT oid::regprocedure::text FROM pg_proc",
        "SELECT tgname FROM pg_trigger",
        "SELECT oid::regclass::text FROM pg_class",
    )
    with database.connect() as connection:
        return [sorted(connection.execute(query).fetchall()) for query in queries]


def wanted(slim: SlimModel, x: NDArray[np.float32]) -> NDArray[Any]:
    """What the slim model stores of rows."""
    if slim.precision == "binary":
        return slim.encode(x)
    short = slim.shorten(x)
    return (
        short.astype(np.float16).astype(np.float32)
        if slim.precision == "int8"
        else slim.transform(x)
    )


def agree(slim: SlimModel, got: NDArray[Any], x: NDArray[np.float32]) -> None:
    """A subset is the same bit by bit; sums of a projection are rounded in another order."""
    expected = wanted(slim, x)
    assert got.shape == expected.shape
    if slim.matrix is None:
        np.testing.assert_array_equal(got, expected)
    elif slim.precision == "binary":
        assert np.mean(np.unpackbits(got ^ expected)) < 2e-3
    else:
        np.testing.assert_allclose(got, expected, atol=1e-3)
        assert np.mean(got != expected) < 2e-3


def nearest(scores: NDArray[Any], n: int = 10) -> NDArray[np.intp]:
    """Return the columns of the largest scores; of equal ones, the first by its text."""
    columns = np.array(sorted(range(scores.shape[1]), key=str))
    return columns[np.argsort(-scores[:, columns], axis=1, kind="stable")[:, :n]]


def expected_recall(scores: NDArray[Any], best: NDArray[np.intp], n: int) -> float:
    """Return the recall of the n largest scores, on average over the ways to break ties.

    Parameters
    ----------
    scores: (n_queries, n_rows).
    best: (n_queries, 10) relevant rows.
    n: rows that are listed.
    """
    last = np.sort(scores, axis=1)[:, -n][:, None]
    above, equal = scores > last, scores == last
    chance = (n - above.sum(axis=1)) / equal.sum(axis=1)
    return float(np.take_along_axis(above + chance[:, None] * equal, best, axis=1).mean())


def locks(connection: Any, *, mode: str, granted: bool | None = None, relation: bool = True) -> Any:
    """Return the locks of a mode on the table, or on transactions."""
    on = "relation = 'items'::regclass" if relation else "locktype = 'transactionid'"
    query = f"SELECT pid FROM pg_locks WHERE {on} AND mode = %s AND (%s OR granted = %s)"
    return connection.execute(query, (mode, granted is None, granted)).fetchall()
