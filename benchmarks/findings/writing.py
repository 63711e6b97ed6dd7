"""The findings as text: a template of words, every number of which comes out of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from criticalmass.errors import CriticalMassError

TEMPLATE = Path(__file__).with_name("results.md.j2")


def template() -> str:
    """Return the text with places for numbers."""
    return TEMPLATE.read_text(encoding="utf-8")


def render(folder: Path, images: str) -> str:
    """Fill the template with the tables of a folder.

    Parameters
    ----------
    folder: holds ``NAME.csv`` as `evidence` made them, and ``claims.csv``.
    images: where the text finds its figures, as a prefix of their names.

    Raises
    ------
    CriticalMassError: a table is missing.
    """
    import jinja2

    found = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    # Markdown, of numbers and of names that this package gave.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701
    )
    environment.globals.update(
        images=images, rows=rows, one=one, num=num, interval=interval, signed=signed
    )
    try:
        return environment.from_string(template()).render(**found)
    except jinja2.UndefinedError as error:
        raise CriticalMassError(
            f"{str(folder)!r} lacks what the findings are written from ({error}); run again: "
            "criticalmass study local --out DIR, then python -m benchmarks.findings DIR"
        ) from error


def rows(table: pd.DataFrame, **values: Any) -> list[dict[str, Any]]:
    """Pick the rows in which columns have these values, in their order."""
    kept = table
    for column, value in values.items():
        kept = kept[kept[column] == value]
    return [dict(row) for row in kept.to_dict("records")]


def one(table: pd.DataFrame, **values: Any) -> dict[str, Any]:
    """Pick the only row in which columns have these values.

    Raises
    ------
    CriticalMassError: there is none, or more than one.
    """
    found = rows(table, **values)
    if len(found) != 1:
        raise CriticalMassError(f"{len(found)} rows, not one, have {values} in the findings")
    return found[0]


def num(value: float | None, digits: int = 2) -> str:
    """Write a number as papers do: .84, 1.00, –.02; a dash where there is none."""
    if value is None or pd.isna(value):
        return "–"
    text = f"{abs(float(value)):.{digits}f}"
    sign = "-" if float(value) < 0 and float(text) > 0 else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def signed(value: float, digits: int = 2) -> str:
    """Write a difference with its sign."""
    text = num(value, digits)
    return text if text.startswith(("-", "–")) else f"+{text}"


def interval(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """Write a number with its interval: .84 [.82, .86].

    Parameters
    ----------
    row: of a table, with the columns NAME, NAME_low and NAME_high.
    name: the column of the number.
    digits: after the point; 0 for counts.
    """
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{num(row[name], digits)} [{num(low, digits)}, {num(high, digits)}]"
