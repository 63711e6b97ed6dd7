"""The text of the results: a template whose numbers all come from tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from benchmarks.findings.claims import SMALLEST_DR, Tables, dr_above_chance
from criticalmass.errors import CriticalMassError

TEMPLATE = Path(__file__).with_name("results.md.j2")


def render(folder: Path, images: str) -> str:
    """Fill the template with the tables of a folder.

    Parameters
    ----------
    folder: folder with ``NAME.csv`` for each table.
    images: prefix of the figures' names in the text.

    Raises
    ------
    CriticalMassError: a table is missing.
    """
    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    helpers = {
        "images": images,
        "above_half": lambda control: _n_above_half(tables, control),
        "estimator": str(tables["transfer"]["estimator"].iloc[0]) if "transfer" in tables else "",
    }
    if "networks" in tables:
        networks = tables["networks"].drop_duplicates(["dataset", "model"])
        helpers |= {"useful": _count_useful(networks), "diffuse": _count_diffuse(networks)}
    try:
        return fill(TEMPLATE, tables, helpers)
    except jinja2.UndefinedError as error:
        raise CriticalMassError(
            f"a table is missing in {str(folder)!r} ({error}); run again: "
            "criticalmass study local --out DIR, then python -m benchmarks.findings DIR"
        ) from error


def fill(template: Path, tables: Tables, helpers: Mapping[str, Any]) -> str:
    """Fill a template of Markdown.

    Parameters
    ----------
    template: the file.
    tables: name in the template -> table.
    helpers: further names in the template, beside the functions of this module.

    Raises
    ------
    jinja2.UndefinedError: the template names a table or column that does not exist.
    """
    # The output is Markdown with numbers and names of this package, so nothing is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701
    )
    functions = (rows, one, num, interval, signed, mass, tested, short)
    environment.globals.update({function.__name__: function for function in functions})
    environment.globals.update(helpers)
    return environment.from_string(template.read_text(encoding="utf-8")).render(**tables)


def _n_above_half(tables: Tables, control: bool) -> int:
    """Count the networks whose DR(0.9) relative to chance is above 0.5 by the curve of means."""
    dr = dr_above_chance(tables)
    return int((dr.loc[dr["control"] == control, "dr"] > SMALLEST_DR).sum())


def _count_useful(networks: pd.DataFrame) -> dict[str, int]:
    """Count the networks that need fewer neurons for an accuracy than their untrained controls."""
    keys = ["dataset", "network"]
    known = networks[networks["usefulness"].notna()]
    known = known.assign(network=known["model"].str.removesuffix("-untrained"))
    trained, untrained = (known[known["control"] == one] for one in (False, True))
    both = trained.merge(untrained, on=keys, suffixes=("", "_untrained"))
    fewer = both["usefulness_high"] < both["usefulness_low_untrained"]
    more = both["usefulness_low"] > both["usefulness_high_untrained"]
    return {"cases": len(both), "fewer": int(fewer.sum()), "more": int(more.sum())}


def _count_diffuse(networks: pd.DataFrame) -> dict[str, int]:
    """Count the trained networks whose random directions or neurons are better than the other."""
    rows = networks[networks["diffuseness"].notna()]
    rows = rows[~rows["control"]]
    directions = int((rows["diffuseness_high"] < 1).sum())
    neurons = int((rows["diffuseness_low"] > 1).sum())
    return {"cases": len(rows), "directions": directions, "neurons": neurons}


def short(spec: str, control: bool) -> str:
    """Return the name in a model's spec; of a control with "untrained"."""
    name = spec.partition(":")[2].partition("?")[0]
    return f"{name}, untrained" if control else name


def rows(table: pd.DataFrame, **values: Any) -> list[dict[str, Any]]:
    """Return the rows in which columns have these values, in their order."""
    selected = table
    for column, value in values.items():
        selected = selected[selected[column] == value]
    return [dict(row) for row in selected.to_dict("records")]


def one(table: pd.DataFrame, **values: Any) -> dict[str, Any]:
    """Return the only row in which columns have these values.

    Raises
    ------
    CriticalMassError: there is no such row, or more than one.
    """
    selected = rows(table, **values)
    if len(selected) != 1:
        raise CriticalMassError(f"{len(selected)} rows have {values}; exactly one was expected")
    return selected[0]


def num(value: float | None, digits: int = 2) -> str:
    """Format a number as in papers: .84, 1.00, -.02; a dash for a missing value."""
    if value is None or pd.isna(value):
        return "–"
    text = f"{abs(float(value)):.{digits}f}"
    sign = "-" if float(value) < 0 and float(text) > 0 else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def signed(value: float, digits: int = 2) -> str:
    """Format a difference with its sign."""
    text = num(value, digits)
    return text if text.startswith(("-", "–")) else f"+{text}"


def tested(row: dict[str, Any]) -> int:
    """Return the smallest tested size that reaches the value, of a row of `redundancy`."""
    size = row["smallest_passing"]
    return int(row["critical_mass"] if pd.isna(size) else size)


def mass(row: dict[str, Any]) -> str:
    """Format a critical mass with its interval, and the tested sizes on both sides if known."""
    text = interval(row, "critical_mass", 0)
    if pd.isna(row["smallest_passing"]) or row["estimator"] == "strict":
        return text
    fails = row["largest_failing"]
    failing = "" if pd.isna(fails) else f"{int(fails)} fails, "
    return f"{text}; {failing}{int(row['smallest_passing'])} passes"


def interval(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """Format a number with its interval: .84 [.82, .86].

    Parameters
    ----------
    row: row of a table, with the columns NAME, NAME_low and NAME_high.
    name: column of the number.
    digits: digits after the point; 0 for counts.
    """
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{num(row[name], digits)} [{num(low, digits)}, {num(high, digits)}]"
