"""Tables of the page: critical masses, and the values of the curves."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from criticalmass.analysis.columns import CurveKey
from criticalmass.reporting.figures.curves import rows_by_curve
from criticalmass.reporting.formatting import decimal, integer, is_missing, percent, records
from criticalmass.reporting.page.svg import share_bar
from criticalmass.reporting.tables import tested_sizes_text

if TYPE_CHECKING:
    import pandas as pd


def critical_mass_blocks(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the redundancy table as text: one block per curve, one row per delta."""
    key = list(CurveKey._fields)
    varying = [name for name in key if name != "measure" and table[name].nunique() > 1]
    blocks = []
    for rows in rows_by_curve(table).values():
        first = rows[0]
        names = [str(first["measure"]), *(str(first[name]) for name in varying)]
        blocks.append(
            {
                "name": " · ".join(names),
                "full": decimal(first["value_full"], 3),
                "neurons": integer(first["n_neurons"]),
                "level": percent(first["level"]),
                "estimator": first["estimator"],
                "rows": [_block_row(row) for row in sorted(rows, key=itemgetter("delta"))],
            }
        )
    return blocks


def _block_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return one row of the redundancy table as text."""
    if is_missing(row["dr"]):
        return {"delta": percent(row["delta"]), "has_value": False}
    masses = (row["critical_mass_low"], row["critical_mass"], row["critical_mass_high"])
    low, mass, high = (integer(value) for value in masses)
    interval = f"{low} to {high}"
    if is_missing(row["critical_mass_low"]):
        interval = f"no interval: {row['interval_note']}"
    # Without an interval the whisker ends at the whole layer.
    shares = (1.0 if is_missing(m) else float(m) / row["n_neurons"] for m in masses)
    return {
        "delta": percent(row["delta"]),
        "has_value": True,
        "reached": bool(row["reached"]),
        "mass": ("≤ " if row["at_floor"] else "") + mass,
        "mass_interval": f"{interval}; {tested_sizes_text(row)}",
        "dr": ("≥ " if row["at_floor"] else "") + decimal(row["dr"], 2),
        "dr_interval": ""
        if is_missing(row["dr_low"])
        else f"{decimal(row['dr_low'], 2)} to {decimal(row['dr_high'], 2)}",
        "bar": share_bar(*shares),
    }


def curve_rows(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the values of all curves as text."""
    varying = [name for name in CurveKey._fields if lines[name].nunique() > 1]
    return [
        {
            "name": " · ".join(str(row[name]) for name in varying) or str(row["selector"]),
            "kept": integer(row["n_kept"]),
            "fraction": percent(float(row["n_kept"]) / float(row["n_neurons"])),
            "mean": decimal(row["mean"], 4),
            "interval": f"{decimal(row['low'], 4)} to {decimal(row['high'], 4)}",
            "ratio": decimal(row["ratio"], 3),
        }
        for row in records(lines[lines["mean"].notna()])
    ]
