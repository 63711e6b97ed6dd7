"""The long table of a run: its columns, the checks of a row, and how rows are added."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from criticalmass.errors import RunError
from criticalmass.storage.digests import forget_file_digests, is_table_intact

TABLE = "results.parquet"
LABELS = "labels.npy"

# A missing value is pandas NA in every nullable type; the table contains no NaN.
_COLUMN_TYPES: dict[str, str] = {
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
COLUMNS: tuple[str, ...] = tuple(_COLUMN_TYPES)
STATUSES: tuple[str, ...] = ("ok", "not_converged", "failed")
_NULLABLE = frozenset(
    ("value", "value_full", "l2", "gap", "passes", "seconds", "error", "artifact")
)
_CURE = "restore it, or delete it and sweep again"
_SORT_COLUMNS = ["layer", "selector", "measure", "seed", "n_kept", "cell"]


def empty_table() -> pd.DataFrame:
    """Return a table without rows, with every column in its type."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in _COLUMN_TYPES.items()})


def to_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Check rows and convert them to a table.

    Parameters
    ----------
    rows: one mapping per cell with the keys of `COLUMNS`; value, value_full, l2, gap, passes,
        seconds, error and artifact may be missing.

    Raises
    ------
    RunError: if a key is missing or unknown, a status is unknown, a cell occurs twice, a failed
        cell has a value, or another cell has none.
    """
    checked = [_check_row(row) for row in rows]
    cells = [row["cell"] for row in checked]
    if len(set(cells)) < len(cells):
        duplicate = next(cell for cell in cells if cells.count(cell) > 1)
        raise RunError(f"cell {duplicate!r} occurs twice in one append; give each cell one row")
    if not checked:
        return empty_table()
    columns = {name: [row[name] for row in checked] for name in COLUMNS}
    return pd.DataFrame(
        {name: pd.array(columns[name], dtype=_COLUMN_TYPES[name]) for name in COLUMNS}
    )


def merge_rows(table: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Add rows to a table; rows of the same cell are replaced.

    The order of rows depends on their content, not on the order of arrival.
    """
    unchanged = table[~table["cell"].isin(new["cell"])]
    tables = [rows for rows in (unchanged, new) if len(rows)]
    merged = pd.concat(tables, ignore_index=True) if tables else empty_table()
    return merged.sort_values(_SORT_COLUMNS, kind="stable", ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read the table of a run; without a file the table is empty.

    Returns
    -------
    A copy; an unchanged file is read and checked only once.

    Raises
    ------
    RunError: if the file is damaged or has other columns.
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return empty_table()
    return _cached_table(path, stat.st_mtime_ns, stat.st_size, stat.st_ino).copy()


def forget_tables() -> None:
    """Read every table again; for a writer, whose files may come within one tick of the clock."""
    _cached_table.cache_clear()
    forget_file_digests()


@lru_cache(maxsize=4)
def _cached_table(path: Path, changed: int, size: int, inode: int) -> pd.DataFrame:
    """Read the table once per content of the path, which the other arguments identify."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_table(path)
        table = stored.to_pandas()
        is_intact = is_table_intact(table, stored.schema.metadata)
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}); {_CURE}") from error
    if list(table.columns) != list(COLUMNS):
        raise RunError(f"{path} has other columns than a run of this version; {_CURE}")
    if not is_intact:
        raise RunError(f"{path} is damaged (its digest differs from its rows); {_CURE}")
    types = table.dtypes
    outdated = {name: type_ for name, type_ in _COLUMN_TYPES.items() if types[name] != type_}
    return table.astype(outdated) if outdated else table


def missing_cells(table: pd.DataFrame, cells: Sequence[str]) -> list[str]:
    """Return the cells that have no row or a failed one, in the given order."""
    finished = set(table.loc[table["status"] != "failed", "cell"])
    return [cell for cell in cells if cell not in finished]


def _check_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Check a row and return it with every column, None where a value is missing."""
    unknown = sorted(set(row) - set(COLUMNS))
    missing = [name for name in COLUMNS if name not in _NULLABLE and row.get(name) is None]
    if unknown or missing:
        fault = f"unknown columns {unknown}" if unknown else f"no {missing}"
        raise RunError(f"a row of cell {row.get('cell')!r} has {fault}")
    full = {name: _none_if_missing(row.get(name)) for name in COLUMNS}
    if full["status"] not in STATUSES:
        raise RunError(
            f"cell {full['cell']!r} has status {full['status']!r}; use {', '.join(STATUSES)}"
        )
    is_failed = full["status"] == "failed"
    if is_failed != (full["value"] is None) or (is_failed and not full["error"]):
        raise RunError(
            f"cell {full['cell']!r} has status {full['status']!r}, value {full['value']} and "
            f"error {full['error']!r}; a failed cell has an error and no value, others have a value"
        )
    return full


def _none_if_missing(value: Any) -> Any:
    """Map NA and NaN to None."""
    if value is None or value is pd.NA:
        return None
    return None if isinstance(value, float) and math.isnan(value) else value
