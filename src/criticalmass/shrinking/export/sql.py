"""SQL that shortens vectors inside a database: PostgreSQL with pgvector, and DuckDB."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.shrinking.codec import bytes_per_vector
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import USUAL_TABLE, ExportRequest
from criticalmass.shrinking.export.sql_names import parse_names, quote_identifier, quote_table
from criticalmass.shrinking.export.sql_postgres import (
    INDEX_LIMITS,
    METRICS,
    WHOLE_LIMIT,
    PostgresPlan,
    make_readme,
    make_scripts,
)
from criticalmass.shrinking.model_card import summarise
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_bytes

#: Types of pgvector; it has none of 8 bits.
_KINDS = {"float32": "vector", "float16": "halfvec", "int8": "halfvec", "binary": "bit"}
_SMALLER = {"vector": "float16", "halfvec": "binary"}


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write the scripts for PostgreSQL, ``duckdb.sql`` where DuckDB can, and ``README.md``.

    Raises
    ------
    CriticalMassError: if a name or the metric is not valid, or pgvector cannot index the vectors.
    """
    slim, plan = request.slim, _plan(request)
    files = make_scripts(plan)
    has_duckdb = slim.matrix is None and (slim.short_map is None or slim.precision == "float32")
    if has_duckdb:
        files["duckdb.sql"] = format_duckdb(plan)
    difference = _differences(slim, plan, has_duckdb=has_duckdb)
    if difference:
        warn_user(difference)
    steps = [name for name in files if name[0].isdigit()]
    files["README.md"] = make_readme(plan, steps, summarise(slim.record), difference)
    for name, text in files.items():
        write_bytes(folder / name, text.encode())
    return {
        "files": sorted(files),
        "normalised": plan.is_unit,
        "table": plan.table,
        "column": plan.column,
        "short_column": quote_identifier(plan.names.short) if plan.has_column else None,
        "short": plan.stored(),
        "short_query": plan.short_of("$1"),
        "type": plan.type,
        "bytes_per_vector": plan.value_bytes,
        "certified_bytes_per_vector": slim.bytes_per_vector,
        "index": plan.created("_hnsw"),
        "operator_class": plan.operator_class,
        "search": plan.search(),
    }


def _plan(request: ExportRequest) -> PostgresPlan:
    slim, is_stored = request.slim, request.slim.short_map is not None
    if request.metric not in METRICS:
        raise unknown_name("metric", request.metric, METRICS)
    if is_stored and request.metric != "cosine":
        raise CriticalMassError(
            f"metric={request.metric!r}, but these stored vectors were certified for the cosine; "
            "leave it out"
        )
    kind, is_unit = _KINDS[slim.precision], request.normalise or is_stored
    _check_widths(slim, kind)
    digest = _digest(slim, request.metric, is_unit=is_unit)
    suffix = digest[:8] if request.suffix is None else request.suffix
    given = (request.table, USUAL_TABLE), (request.column, "embedding"), (request.id, "id")
    table, column, name = (usual if value is None else value for value, usual in given)
    plan = PostgresPlan(
        names=parse_names(table, column, name, suffix),
        digest=digest,
        n_neurons=slim.n_neurons,
        n_kept=slim.n_kept,
        kind=kind,
        indices=slim.indices,
        matrix=slim.matrix,
        thresholds=slim.codec.offset if kind == "bit" else None,
        is_unit=is_unit,
        metric=request.metric,
        rerank=int(slim.record["stored"]["rerank"]) if is_stored else 0,
        has_column=True,
    )
    # Where whole vectors must stay for re-ranking, a column beside them saves nothing.
    needs_column = slim.matrix is not None or not (plan.is_prefix or plan.rerank)
    return replace(plan, has_column=request.new_column or needs_column)


def _check_widths(slim: SlimModel, kind: str) -> None:
    if slim.n_neurons > WHOLE_LIMIT:
        raise CriticalMassError(
            f"whole vectors of {slim.n_neurons:,} dimensions do not fit in a column of type vector "
            f"(at most {WHOLE_LIMIT:,}); use format='vectors'"
        )
    if slim.n_kept > INDEX_LIMITS[kind]:
        smaller = _SMALLER.get(kind)
        most = INDEX_LIMITS[kind]
        cure = f"shrink with --max-dims {most}"
        if smaller is not None:
            cure += f", or with --precision {smaller} (up to {INDEX_LIMITS[_KINDS[smaller]]:,})"
        raise CriticalMassError(
            f"{slim.n_kept:,} dimensions, but an index of pgvector takes at most {most:,} of type "
            f"{kind}; {cure}"
        )


def _digest(slim: SlimModel, metric: str, *, is_unit: bool) -> str:
    """Return 16 hexadecimal digits that name what short vectors are and how they are compared."""
    rerank = slim.record["stored"]["rerank"] if slim.short_map is not None else 0
    facts = (slim.n_neurons, slim.precision, metric, is_unit, rerank)
    content = hashlib.sha256(repr(facts).encode())
    content.update(np.ascontiguousarray(slim.indices, dtype="<i8").tobytes())
    if slim.matrix is not None:
        content.update(np.ascontiguousarray(slim.matrix, dtype="<f4").tobytes())
    if slim.precision == "binary":
        content.update(np.ascontiguousarray(slim.codec.offset, dtype="<f4").tobytes())
    return content.hexdigest()[:16]


def _differences(slim: SlimModel, plan: PostgresPlan, *, has_duckdb: bool) -> str:
    """Return what is stored otherwise than certified, in one line; empty if nothing is."""
    certified = f"{slim.bytes_per_vector} bytes a vector were certified as {slim.precision}"
    lines = []
    if slim.precision == "int8":
        lines.append(
            f"pgvector has no 8-bit vectors: {plan.type} takes {plan.value_bytes} bytes, but "
            f"{certified}; shrink with --precision float16 or --precision binary to certify what "
            "PostgreSQL stores"
        )
    if has_duckdb and slim.precision != "float32":
        stored = bytes_per_vector(slim.n_kept, "float32")
        lines.append(f"duckdb.sql stores float32, {stored} bytes a vector; {certified}")
    return "; ".join(lines)


def format_duckdb(plan: PostgresPlan) -> str:
    """Return the statements for DuckDB: a macro, and a column of float32 short vectors."""
    short_type = f"FLOAT[{plan.n_kept}]"
    numbers = ", ".join(str(i + 1) for i in plan.indices)
    value = f"list_select(whole::FLOAT[{plan.n_neurons}]::FLOAT[], [{numbers}])"
    if plan.is_unit:
        length = f"sqrt(list_inner_product({value}, {value}))"
        value = f"list_transform({value}, lambda v: v / coalesce(nullif({length}, 0), 1))"
    # The schema that PostgreSQL has by default has another name in DuckDB.
    parts = plan.names.table
    table = quote_table(parts[-1:] if parts[0] == "public" else parts)
    short, macro = quote_identifier(plan.names.short), plan.created()
    distance = {"cosine": "array_cosine_distance", "l2": "array_distance"}
    by = distance.get(plan.metric, "array_negative_inner_product")
    return f"""\
-- Keeps {plan.n_kept} of {plan.n_neurons} dimensions. Can be run again, also for new rows.
-- Use the same macro on queries:
--   ORDER BY {by}({short}, {macro}(query)) LIMIT 10
-- Undo: ALTER TABLE {table} DROP COLUMN {short}; DROP MACRO {macro};
BEGIN;
CREATE OR REPLACE MACRO {macro}(whole) AS
  ({value})::{short_type};
ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {short} {short_type};
UPDATE {table} SET {short} = {macro}({plan.column}) WHERE {short} IS NULL;
COMMIT;
"""  # noqa: S608 - names are quoted
