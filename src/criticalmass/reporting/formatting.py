"""Numbers, shares, durations and lists as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def percent(share: float) -> str:
    """Write a share in per cent, the sign kept on the line of its number."""
    return f"{share * 100:.6g}\N{NO-BREAK SPACE}%"


def _decimal(value: Any, digits: int) -> str:
    """Write a number with a fixed count of decimals, or a dash where there is none."""
    import pandas as pd

    return "–" if pd.isna(value) else f"{float(value):.{digits}f}"


def _number(value: Any) -> str:
    """Write a count, or a dash where there is none."""
    import pandas as pd

    return "–" if pd.isna(value) else f"{round(float(value)):,}"


def _share(value: Any, neurons: int) -> float:
    """Turn a count into a share of the layer; the whole where there is none."""
    import pandas as pd

    return 1.0 if pd.isna(value) else float(value) / neurons


def _listed(column: pd.Series) -> str:
    """Name each distinct value once."""
    return ", ".join(str(value) for value in column.dropna().unique())


def _counts(column: pd.Series) -> str:
    """Write the distinct counts of a column, most first."""
    known = sorted({int(value) for value in column.dropna() if value > 0}, reverse=True)
    return " or ".join(f"{value:,}" for value in known) or "–"


def _duration(seconds: float) -> str:
    """Write seconds as people do."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
