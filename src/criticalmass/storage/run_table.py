"""The long table of a Run: its columns, what a row must say, and how rows are joined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from criticalmass.errors import RunError
from criticalmass.storage.digests import is_sealed

TABLE = "results.parquet"
LABELS = "labels.npy"

# A missing value is pandas NA in every nullable type; NaN never enters the table.
_DTYPES: dict[str, str] = {
    "model": "string",
    "layer": "string",
    "dataset": "string",
    "split": "string",
    "selector": "string",
    "measure": "string",
    "fraction": "float64",
    "n_kept": "int64",
    "n_neurons": "int64",
    "seed": "int64",
    "value": "Float64",
    "value_full": "Float64",
    "n_train": "int64",
    "n_test": "int64",
    "l2": "Float64",
    "gap": "Float64",
    "passes": "Int64",
    "seconds": "Float64",
    "status": "string",
    "error": "string",
    "cell": "string",
    "artifact": "string",
}
COLUMNS: tuple[str, ...] = tuple(_DTYPES)
STATUSES: tuple[str, ...] = ("ok", "not_converged", "failed")
_NULLABLE = frozenset(
    ("value", "value_full", "l2", "gap", "passes", "seconds", "error", "artifact")
)
_CURE = "restore it, or delete it and sweep again"
_SORT = ["layer", "selector", "measure", "seed", "n_kept", "cell"]


def empty_table() -> pd.DataFrame:
    """Return a table without rows but with every column in its type."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in _DTYPES.items()})


def to_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Check rows and turn them into a table.

    Parameters
    ----------
    rows: one mapping per cell with the keys of `COLUMNS`; those that may be missing are
        value, value_full, l2, gap, passes, seconds, error and artifact.

    Raises
    ------
    RunError: for a key that is missing or unknown, a status that is none, a cell twice, a
        value where the status is "failed" or none where it is not.
    """
    checked = [_check(row) for row in rows]
    cells = [row["cell"] for row in checked]
    if len(set(cells)) < len(cells):
        twice = next(cell for cell in cells if cells.count(cell) > 1)
        raise RunError(f"cell {twice!r} comes twice in one append; give each cell one row")
    if not checked:
        return empty_table()
    columns = {name: [row[name] for row in checked] for name in COLUMNS}
    return pd.DataFrame({n: pd.array(columns[n], dtype=_DTYPES[n]) for n in COLUMNS})


def join(table: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Add rows to a table; a cell that is there already is replaced.

    The order of rows depends on their content alone, not on when they arrived.
    """
    kept = table[~table["cell"].isin(new["cell"])]
    parts = [part for part in (kept, new) if len(part)]
    joined = pd.concat(parts, ignore_index=True) if parts else empty_table()
    return joined.sort_values(_SORT, kind="stable", ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read the table of a run, empty if nothing was written yet.

    Raises
    ------
    RunError: if the file is damaged or has other columns.
    """
    if not path.exists():
        return empty_table()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_table(path)
        table = stored.to_pandas()
        whole = is_sealed(table, stored.schema.metadata)
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}); {_CURE}") from error
    if list(table.columns) != list(COLUMNS):
        raise RunError(f"{path} has other columns than a run of this version; {_CURE}")
    if not whole:
        raise RunError(f"{path} is damaged (its rows are not those written); {_CURE}")
    return table.astype(_DTYPES)


def missing_cells(table: pd.DataFrame, cells: Sequence[str]) -> list[str]:
    """Return the cells, in the order asked, that have no row or only a failed one."""
    done = set(table.loc[table["status"] != "failed", "cell"])
    return [cell for cell in cells if cell not in done]


def _check(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with every column, None where a value is missing."""
    unknown = sorted(set(row) - set(COLUMNS))
    absent = [name for name in COLUMNS if name not in _NULLABLE and row.get(name) is None]
    if unknown or absent:
        what = f"unknown columns {unknown}" if unknown else f"no {absent}"
        raise RunError(f"a row of cell {row.get('cell')!r} has {what}")
    full = {name: _none_if_missing(row.get(name)) for name in COLUMNS}
    if full["status"] not in STATUSES:
        raise RunError(
            f"cell {full['cell']!r} has status {full['status']!r}; known: {', '.join(STATUSES)}"
        )
    failed = full["status"] == "failed"
    if failed != (full["value"] is None) or (failed and not full["error"]):
        raise RunError(
            f"cell {full['cell']!r} has status {full['status']!r}, value {full['value']} and "
            f"error {full['error']!r}; a failed cell has an error and no value, others a value"
        )
    return full


def _none_if_missing(value: Any) -> Any:
    """Map NA and NaN to None."""
    if value is None or value is pd.NA:
        return None
    return None if isinstance(value, float) and math.isnan(value) else value
