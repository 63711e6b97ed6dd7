"""Tables of the page: critical masses, and the numbers behind the curves, written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from criticalmass.reporting.formatting import _decimal, _number, _share, percent
from criticalmass.reporting.page.curve_plots import KEY
from criticalmass.reporting.page.svg import share_bar

if TYPE_CHECKING:
    import pandas as pd


def blocks(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Lay the redundancy table out: one block per curve, one row per delta."""
    varying = [name for name in KEY[:-1] if table[name].nunique() > 1]
    blocks = []
    for _, rows in table.groupby(list(KEY), sort=False):
        first = rows.iloc[0]
        names = [str(first["measure"]), *(str(first[name]) for name in varying)]
        blocks.append(
            {
                "name": " · ".join(names),
                "full": _decimal(first["value_full"], 3),
                "neurons": f"{int(first['n_neurons']):,}",
                "level": percent(first["level"]),
                "estimator": first["estimator"],
                "rows": [_block_row(row) for row in rows.sort_values("delta").itertuples()],
            }
        )
    return blocks


def _block_row(row: Any) -> dict[str, Any]:
    """Write one row of the redundancy table."""
    import pandas as pd

    if pd.isna(row.dr):
        return {"delta": percent(row.delta), "known": False}
    ends = (row.critical_mass_low, row.critical_mass, row.critical_mass_high)
    low, mass, high = (_number(end) for end in ends)
    return {
        "delta": percent(row.delta),
        "known": True,
        "reached": bool(row.reached),
        "mass": ("≤ " if row.at_floor else "") + mass,
        "mass_interval": f"{low} to {high}",
        "dr": ("≥ " if row.at_floor else "") + f"{row.dr:.2f}",
        "dr_interval": f"{_decimal(row.dr_low, 2)} to {_decimal(row.dr_high, 2)}",
        "bar": share_bar(*(_share(end, row.n_neurons) for end in ends)),
    }


def curve_rows(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """Lay the curves out as plain rows, for those who want the numbers."""
    varying = [name for name in KEY if lines[name].nunique() > 1]
    return [
        {
            "name": " · ".join(str(row[name]) for name in varying) or str(row["selector"]),
            "kept": f"{int(row['n_kept']):,}",
            "fraction": percent(float(row["n_kept"]) / float(row["n_neurons"])),
            "mean": f"{row['mean']:.4f}",
            "interval": f"{_decimal(row['low'], 4)} to {_decimal(row['high'], 4)}",
            "ratio": _decimal(row["ratio"], 3),
        }
        for row in lines[lines["mean"].notna()].to_dict(orient="records")
    ]
