"""SQL that shortens vectors inside a database: PostgreSQL with pgvector, and DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_bytes

# PostgreSQL truncates longer names without an error.
_MAX_NAME_BYTES = 63
_SUFFIX = "_slim"
_FUNCTION = "kept_neurons"


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``pgvector.sql`` and ``duckdb.sql``.

    Raises
    ------
    CriticalMassError: if the table or column is no valid name, or the slim model's vectors cannot
        be computed or stored in SQL.
    """
    slim = request.slim
    _check_sql(slim)
    positions = (slim.indices + 1).tolist()
    is_stored = slim.short_map is not None
    n_neurons, normalise = slim.n_neurons, request.normalise or is_stored
    if is_stored and slim.precision == "float16":
        text = format_pgvector(
            request.table, request.column, positions, n_neurons=n_neurons, normalise=True,
            short="halfvec",
        )  # fmt: skip
        write_bytes(folder / "pgvector.sql", text.encode())
        return {"files": ["pgvector.sql"], "normalised": True}
    for name, format_sql in (("pgvector.sql", format_pgvector), ("duckdb.sql", format_duckdb)):
        text = format_sql(
            request.table, request.column, positions, n_neurons=n_neurons, normalise=normalise
        )
        write_bytes(folder / name, text.encode())
    return {"files": ["pgvector.sql", "duckdb.sql"], "normalised": normalise}


def _check_sql(slim: SlimModel) -> None:
    """Refuse stored vectors that SQL cannot make."""
    if slim.short_map is None:
        return
    codes = "write their codes with format='vectors' and load them, or shrink"
    if slim.matrix is not None:
        raise CriticalMassError(
            f"a projection of {slim.n_neurons} to {slim.n_kept} dimensions is not computed in SQL; "
            f"{codes} without the selector pca-top"
        )
    if slim.precision in ("int8", "binary"):
        raise CriticalMassError(
            f"{slim.precision} vectors are not made in SQL (pgvector has no 8-bit vectors); "
            f"{codes} with --precision float16, a halfvec"
        )


def format_pgvector(
    table: str,
    column: str,
    positions: Sequence[int],
    *,
    n_neurons: int,
    normalise: bool,
    short: str = "vector",
) -> str:
    """Return the statements for PostgreSQL with pgvector.

    Parameters
    ----------
    table, column: table and column of the whole vectors, not quoted.
    positions: kept dimensions, counted from 1.
    n_neurons: width of the whole vectors.
    normalise: whether short vectors are scaled to length 1.
    short: type of short vectors, ``vector`` or ``halfvec``.
    """
    short_type = f"{short}({len(positions)})"
    value = f"((whole::vector({n_neurons}))::real[])[place]"
    if normalise:
        # Not l2_normalize, which exists since pgvector 0.7 only.
        value = f"{value} / coalesce(nullif(sqrt(sum({value} ^ 2) OVER ()), 0), 1)"
    target, full, new = _quote_names(table, column)
    return f"""\
-- Keeps {len(positions)} of {n_neurons} dimensions. Use the same function on queries:
--   ORDER BY {new} <=> {_FUNCTION}(query) LIMIT 10
BEGIN;
CREATE OR REPLACE FUNCTION {_FUNCTION}(whole vector) RETURNS {short}
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT array_agg(value ORDER BY number)::{short_type} FROM (
    SELECT number, {value} AS value
    FROM unnest(ARRAY[{", ".join(map(str, positions))}]) WITH ORDINALITY AS kept(place, number)
  ) AS short
$$;
ALTER TABLE {target} ADD COLUMN {new} {short_type};
UPDATE {target} SET {new} = {_FUNCTION}({full});
COMMIT;
"""  # noqa: S608 - names are quoted


def format_duckdb(
    table: str, column: str, positions: Sequence[int], *, n_neurons: int, normalise: bool
) -> str:
    """Return the statements for DuckDB; parameters as in `format_pgvector`."""
    short_type = f"FLOAT[{len(positions)}]"
    numbers = ", ".join(map(str, positions))
    value = f"list_select(whole::FLOAT[{n_neurons}]::FLOAT[], [{numbers}])"
    if normalise:
        length = f"sqrt(list_inner_product({value}, {value}))"
        value = f"list_transform({value}, lambda v: v / coalesce(nullif({length}, 0), 1))"
    target, full, short = _quote_names(table, column)
    return f"""\
-- Keeps {len(positions)} of {n_neurons} dimensions. Use the same macro on queries:
--   ORDER BY array_cosine_distance({short}, {_FUNCTION}(query)) LIMIT 10
BEGIN;
CREATE OR REPLACE MACRO {_FUNCTION}(whole) AS
  ({value})::{short_type};
ALTER TABLE {target} ADD COLUMN {short} {short_type};
UPDATE {target} SET {short} = {_FUNCTION}({full});
COMMIT;
"""  # noqa: S608 - names are quoted


def _quote_names(table: str, column: str) -> tuple[str, str, str]:
    """Return the quoted names of the table, the column, and the column of short vectors."""
    return quote_table(table), quote_identifier(column), quote_identifier(column + _SUFFIX)


def quote_table(name: str) -> str:
    """Quote the name of a table; a dot separates schema and table.

    Raises
    ------
    CriticalMassError: if a part is no valid name.
    """
    return ".".join(quote_identifier(part) for part in name.split("."))


def quote_identifier(name: str) -> str:
    """Quote one identifier so that its content cannot end the quotes.

    Raises
    ------
    CriticalMassError: if it is empty, too long, or contains a character that is not printable.
    """
    if not name or not name.isprintable() or len(name.encode()) > _MAX_NAME_BYTES:
        raise CriticalMassError(
            f"{name!r} is no valid name of a table or column; give 1 to {_MAX_NAME_BYTES} "
            "printable bytes"
        )
    return '"' + name.replace('"', '""') + '"'
