"""The section of the page that compares several runs: curves and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.analysis.columns import CurveKey
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.formatting import MISSING, decimal, is_missing, percent, with_minus_sign
from criticalmass.reporting.plots import Plot, Rule, Series, look, plain_axis, share_axis

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.storage.run import Run

_QUANTITY_LABELS = {"dr": "DR", "critical_mass": "critical mass"}
# Further differences are in the CSV file of the figure of differences.
_MAX_SENTENCES, _MAX_ROWS = 8, 24


@dataclass(frozen=True)
class RunComparison:
    """The section about several runs.

    Attributes
    ----------
    sentences: differences with their intervals, in words.
    rows: differences as text.
    plots: the curves of all runs, and their differences.
    notes: runs that cannot be compared, and why.
    """

    sentences: list[str]
    rows: list[dict[str, str]]
    plots: list[Plot]
    notes: list[str]


def compare_runs(
    runs: Sequence[Run], titles: Sequence[str], deltas: Sequence[float]
) -> RunComparison:
    """Compare the first run with each of the others.

    Parameters
    ----------
    runs: two or more.
    titles: their titles in the page.
    deltas: shares of the whole layer's value at which they are compared.
    """
    import pandas as pd

    from criticalmass.analysis.comparison import (
        ComparisonOptions,
        comparison_rows,
        corrected_tables,
    )

    options = ComparisonOptions(tuple(deltas))
    rows, others, notes = [], [], []
    for other, title in zip(runs[1:], titles[1:], strict=True):
        try:
            rows.append(comparison_rows(runs[0], other, options))
        except CriticalMassError as error:
            # The page is also useful for runs that have nothing in common.
            notes.append(f"{titles[0]} and {title} cannot be compared: {error}")
            continue
        others.append(title)
    overlays = _overlay_plots(runs, titles)
    if not rows:
        return RunComparison([], [], overlays, notes)
    tables = zip(corrected_tables(rows), others, strict=True)
    differences = pd.concat(
        [table.assign(other=title) for table, title in tables], ignore_index=True
    )
    summary = differences[~differences["quantity"].isin(["value", "ratio"])]
    delta = min(deltas, key=lambda delta: abs(delta - 0.9))
    dr_rows = summary[(summary["quantity"] == "dr") & (summary["delta"] == delta)]
    difference_plot = _difference_plot(differences, titles)
    return RunComparison(
        sentences=[f"{sentence}." for sentence in dr_rows["sentence"]][:_MAX_SENTENCES],
        rows=[_row(row) for row in summary.head(_MAX_ROWS).to_dict("records")],
        plots=[*overlays, *([difference_plot] if difference_plot else [])],
        notes=notes,
    )


def _row(row: dict[Any, Any]) -> dict[str, str]:
    """Return one difference as text."""
    quantity = str(row["quantity"])
    digits = 0 if quantity == "critical_mass" else 3

    def number(value: Any, sign: str = "") -> str:
        if is_missing(value):
            return MISSING
        return with_minus_sign(f"{float(value):{sign},.{digits}f}")

    return {
        "other": str(row["other"]),
        "measure": str(row["measure"]),
        "quantity": _QUANTITY_LABELS.get(quantity, quantity),
        "delta": "" if is_missing(row["delta"]) else percent(float(row["delta"])),
        "a": number(row["value_a"]),
        "b": number(row["value_b"]),
        "difference": f"{row['bound'] or ''} {number(row['difference'], '+')}".strip(),
        "interval": f"{number(row['low'], '+')} to {number(row['high'], '+')}",
        "p": decimal(row["p_holm"], 3),
        "samples": str(row["samples"]),
    }


def _overlay_plots(runs: Sequence[Run], titles: Sequence[str]) -> list[Plot]:
    """Draw the curves of all runs, one figure per measure that two runs have."""
    import pandas as pd

    from criticalmass.analysis.redundancy import curves
    from criticalmass.reporting.tables import probes_first

    tables = [curves(run).assign(run=title) for run, title in zip(runs, titles, strict=True)]
    table = probes_first(pd.concat(tables, ignore_index=True))
    table = table[table["ratio"].notna()]
    n_runs = table.groupby("measure", sort=False)["run"].nunique()
    return [
        _overlay_plot(table[table["measure"] == measure], str(measure))
        for measure in n_runs[n_runs > 1].index
    ]


def _overlay_plot(table: pd.DataFrame, measure: str) -> Plot:
    """Draw one measure of all runs: one selector and one layer of each."""
    import pandas as pd

    lines = [(str(title), _main_curve(rows)) for title, rows in table.groupby("run", sort=False)]
    series = [
        Series(
            name=title,
            x=(line["n_kept"] / line["n_neurons"]).tolist(),
            y=line["ratio"].tolist(),
            low=line["ratio_low"].tolist(),
            high=line["ratio_high"].tolist(),
            style=number,
        )
        for number, (title, line) in enumerate(lines)
    ]
    smallest = min(float(line.x[0]) for line in series)
    return Plot(
        name=f"together-{measure}",
        title=f"Side by side ({measure})",
        caption="Each run relative to its own whole layer; random subsets if the run has some.",
        summary=f"Share of the whole layer's {measure} kept by {len(series)} runs.",
        table=pd.concat([line for _, line in lines], ignore_index=True),
        x=share_axis(smallest, 0),
        y=plain_axis(
            _all_values(series), f"share of the whole layer’s value ({measure})", form="percent"
        ),
        series=tuple(series),
        rules=(Rule("y", 1.0, dashed=True),),
    )


def _main_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the curve of a run to draw: "random" and "penultimate" if present."""
    is_random = rows["selector"] == "random"
    rows = rows[is_random] if is_random.any() else rows
    layers = rows["layer"].unique()
    rows = rows[rows["layer"] == ("penultimate" if "penultimate" in layers else layers[-1])]
    return rows[rows["selector"] == rows["selector"].iloc[0]].sort_values("n_kept")


def _difference_plot(differences: pd.DataFrame, titles: Sequence[str]) -> Plot | None:
    """Draw the difference of the shares kept, by size; None if no sizes are shared."""
    rows = differences[(differences["quantity"] == "ratio") & differences["difference"].notna()]
    rows = rows.assign(share=rows["fraction"].astype(float)).sort_values("share", kind="stable")
    rows = rows[rows["share"].notna()]
    if rows.empty:
        return None
    columns = ("other", *CurveKey._fields, "a", "b")
    varying = [name for name in columns if rows[name].nunique() > 1] or ["other"]
    lines = list(rows.groupby(varying, sort=False))
    series = [
        Series(
            name=", ".join(dict.fromkeys(str(part) for part in key)),
            x=line["share"].tolist(),
            y=line["difference"].tolist(),
            low=line["low"].tolist(),
            high=line["high"].tolist(),
            **look(number, len(lines)),
        )
        for number, (key, line) in enumerate(lines)
    ]
    return Plot(
        name="differences",
        title="Difference by size",
        caption=(
            f"Share of its whole layer’s value that {titles[0]} keeps, minus that of the other run."
        ),
        summary=f"Difference of the shares kept by {titles[0]} and the others.",
        table=rows.reset_index(drop=True),
        x=share_axis(float(rows["share"].min()), 0),
        y=plain_axis(_all_values(series), "difference of the shares kept", form="percent"),
        series=tuple(series),
        rules=(Rule("y", 0.0),),
    )


def _all_values(series: Sequence[Series]) -> list[Any]:
    """Return all values and ends of intervals."""
    return [value for line in series for value in (*line.y, *line.low, *line.high)]
