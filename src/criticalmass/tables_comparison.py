"""A comparison as people read it: values side by side, the difference with its interval."""

from __future__ import annotations

from typing import Any

import pandas as pd

from criticalmass.tables import intervals

_SAID_ONCE = ("model", "layer", "dataset", "selector", "measure", "estimator", "samples", "seeds")


def comparison_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Turn a comparison into words and aligned numbers; differences are a minus b.

    DR, values and ratios are shares, critical masses are neurons.

    Parameters
    ----------
    table: rows of `criticalmass.compare`.

    Returns
    -------
    A frame of strings with one row per row of ``table``.
    """
    shown = pd.DataFrame({name: table[name] for name in ("a", "b")})
    for name in _SAID_ONCE:
        if table[name].notna().any():
            words = table[name].astype("string").fillna("")
            shown[name] = f"{name} " + words if name in ("samples", "seeds") else words
    if "estimator" in shown:
        shown["estimator"] = str(table["estimator"].dropna().iloc[0])
    shown["level"] = [f"{level * 100:g} % intervals" for level in table["level"]]
    shown["what"] = [_what(row) for row in table.to_dict("records")]
    whole = (table["quantity"] == "critical_mass").to_numpy(dtype=bool)
    for name in ("value_a", "value_b"):
        shown[name.removeprefix("value_") + "'s"] = [
            "–" if pd.isna(value) else f"{value:,.0f}" if count else f"{value:.3f}"
            for value, count in zip(table[name], whole, strict=True)
        ]
    shown["difference"] = ""
    for count, digits in ((True, 0), (False, 3)):
        rows = table[whole == count]
        marks = [_mark(bound) for bound in rows["bound"]]
        texts = intervals(rows["difference"], rows["low"], rows["high"], digits=digits, marks=marks)
        shown.loc[whole == count, "difference"] = texts
    return shown


def _mark(bound: Any) -> str:
    """Return what stands before a difference that is only bounded."""
    return f"{bound} " if bound in (">=", "<=") else ""


def _what(row: dict[str, Any]) -> str:
    """Name the quantity in a few signs."""
    if row["quantity"] == "dr":
        return f"DR({row['delta']:g})"
    if row["quantity"] == "critical_mass":
        return f"k*({row['delta']:g})"
    if row["quantity"] == "whole layer":
        return "whole layer"
    a, b = row["n_kept_a"], row["n_kept_b"]
    return f"{row['quantity']} at {a:,}" if a == b else f"{row['quantity']} at {a:,} and {b:,}"
