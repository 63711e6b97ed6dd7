"""Statements that shorten vectors inside a database: PostgreSQL with pgvector, and DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.folder import Facts
from criticalmass.shrinking.export.request import Request
from criticalmass.storage.files import write_bytes

# PostgreSQL cuts longer names silently.
_LONGEST = 63
_SUFFIX = "_slim"
_FUNCTION = "kept_neurons"


def write(request: Request, folder: Path) -> Facts:
    """Write ``pgvector.sql`` and ``duckdb.sql``.

    Raises
    ------
    CriticalMassError: a table or column that no database takes as a name.
    """
    places = (request.slim.indices + 1).tolist()
    table, column = request.table, request.column
    shape = (request.slim.n_neurons, request.normalise)
    write_bytes(folder / "pgvector.sql", pgvector(table, column, places, shape).encode())
    write_bytes(folder / "duckdb.sql", duckdb(table, column, places, shape).encode())
    return {"files": ["pgvector.sql", "duckdb.sql"], "normalised": request.normalise}


def pgvector(table: str, column: str, places: Sequence[int], shape: tuple[int, bool]) -> str:
    """Word the statements for PostgreSQL with pgvector.

    Parameters
    ----------
    table, column: where the whole vectors are, as the user wrote them.
    places: kept dimensions, counted from 1.
    shape: width of the whole vectors, and whether short ones are scaled to length 1.
    """
    n_neurons, normalise = shape
    kept = f"vector({len(places)})"
    value = f"((whole::vector({n_neurons}))::real[])[place]"
    if normalise:
        # Not l2_normalize, which pgvector has since 0.7 only.
        value = f"{value} / coalesce(nullif(sqrt(sum({value} ^ 2) OVER ()), 0), 1)"
    at, whole, new = qualified(table), quoted(column), quoted(column + _SUFFIX)
    return f"""\
-- Keeps {len(places)} of {n_neurons} dimensions. Use the same function on queries:
--   ORDER BY {new} <=> {_FUNCTION}(query) LIMIT 10
BEGIN;
CREATE OR REPLACE FUNCTION {_FUNCTION}(whole vector) RETURNS vector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT array_agg(value ORDER BY number)::{kept} FROM (
    SELECT number, {value} AS value
    FROM unnest(ARRAY[{", ".join(map(str, places))}]) WITH ORDINALITY AS kept(place, number)
  ) AS short
$$;
ALTER TABLE {at} ADD COLUMN {new} {kept};
UPDATE {at} SET {new} = {_FUNCTION}({whole});
COMMIT;
"""  # noqa: S608 - names are quoted


def duckdb(table: str, column: str, places: Sequence[int], shape: tuple[int, bool]) -> str:
    """Word the statements for DuckDB; parameters as in `pgvector`."""
    n_neurons, normalise = shape
    kept = f"FLOAT[{len(places)}]"
    short = f"list_select(whole::FLOAT[{n_neurons}]::FLOAT[], [{', '.join(map(str, places))}])"
    if normalise:
        length = f"sqrt(list_inner_product({short}, {short}))"
        short = f"list_transform({short}, lambda v: v / coalesce(nullif({length}, 0), 1))"
    at, whole, new = qualified(table), quoted(column), quoted(column + _SUFFIX)
    return f"""\
-- Keeps {len(places)} of {n_neurons} dimensions. Use the same macro on queries:
--   ORDER BY array_cosine_distance({new}, {_FUNCTION}(query)) LIMIT 10
BEGIN;
CREATE OR REPLACE MACRO {_FUNCTION}(whole) AS
  ({short})::{kept};
ALTER TABLE {at} ADD COLUMN {new} {kept};
UPDATE {at} SET {new} = {_FUNCTION}({whole});
COMMIT;
"""  # noqa: S608 - names are quoted


def qualified(name: str) -> str:
    """Quote a table's name; a dot stands between schema and table.

    Raises
    ------
    CriticalMassError: a part that no database takes as a name.
    """
    return ".".join(quoted(part) for part in name.split("."))


def quoted(name: str) -> str:
    """Quote one identifier, so that whatever it holds it stays a name.

    Raises
    ------
    CriticalMassError: it is empty, too long, or holds a character that cannot be printed.
    """
    if not name or not name.isprintable() or len(name.encode()) > _LONGEST:
        raise CriticalMassError(
            f"{name!r} is no name for a table or column; it must have 1 to {_LONGEST} printable "
            "bytes"
        )
    return '"' + name.replace('"', '""') + '"'
