"""Several runs side by side: their curves in one figure, and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures import style
from criticalmass.reporting.figures.axes import fraction_axis, plain_axis, share_axis
from criticalmass.reporting.page.plot_spec import Plot, Series

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.storage.run import Run

_WORDS = {"dr": "DR", "critical_mass": "critical mass", "whole layer": "whole layer"}
# Differences beyond these are in the CSV alone.
_SENTENCES, _ROWS = 8, 24


@dataclass(frozen=True)
class Beside:
    """The section on several runs.

    Attributes
    ----------
    told: sentences, with differences and their intervals.
    rows: the differences, written out.
    plots: curves together, and their difference.
    notes: which runs could not be compared, and why.
    """

    told: list[str]
    rows: list[dict[str, str]]
    plots: list[Plot]
    notes: list[str]


def beside(runs: Sequence[Run], titles: Sequence[str], deltas: Sequence[float]) -> Beside:
    """Compare the first run with each of the others.

    Parameters
    ----------
    runs: two or more.
    titles: what the page calls them.
    deltas: shares of the whole layer's value that are compared.
    """
    import pandas as pd

    from criticalmass.analysis.comparison import compare

    tables, notes = [], []
    for other, title in zip(runs[1:], titles[1:], strict=True):
        try:
            table = compare(runs[0], other, deltas=tuple(deltas))
        except CriticalMassError as error:
            # Runs with nothing in common are still worth a page; the reader is told why.
            notes.append(f"{titles[0]} and {title} cannot be compared: {error}")
            continue
        tables.append(table.assign(other=title))
    if not tables:
        return Beside([], [], _together(runs, titles), notes)
    every = pd.concat(tables, ignore_index=True)
    big = every[~every["quantity"].isin(["value", "ratio"])]
    usual = min(deltas, key=lambda delta: abs(delta - 0.9))
    said = big[(big["quantity"] == "dr") & (big["delta"] == usual)]
    told = [f"{sentence}." for sentence in said["sentence"]]
    differences = _difference(every, titles)
    return Beside(
        told=told[:_SENTENCES],
        rows=[_row(row) for row in big.head(_ROWS).to_dict("records")],
        plots=[*_together(runs, titles), *([differences] if differences else [])],
        notes=notes,
    )


def _row(row: dict[str, object]) -> dict[str, str]:
    """Write one difference."""
    import pandas as pd

    quantity = str(row["quantity"])
    digits = 0 if quantity == "critical_mass" else 3

    def number(value: object, sign: str = "") -> str:
        return "–" if pd.isna(value) else f"{float(value):{sign},.{digits}f}".replace("-", "−")  # type: ignore[arg-type]

    delta = row["delta"]
    return {
        "other": str(row["other"]),
        "measure": str(row["measure"]),
        "quantity": _WORDS.get(quantity, quantity),
        "delta": "" if pd.isna(delta) else f"{100 * float(delta):g}\N{NO-BREAK SPACE}%",  # type: ignore[arg-type]
        "a": number(row["value_a"]),
        "b": number(row["value_b"]),
        "difference": f"{row['bound'] or ''} {number(row['difference'], '+')}".strip(),
        "interval": f"{number(row['low'], '+')} to {number(row['high'], '+')}",
        "samples": str(row["samples"]),
    }


def _together(runs: Sequence[Run], titles: Sequence[str]) -> list[Plot]:
    """Draw what all runs keep, each against its own whole layer, measure by measure."""
    import pandas as pd

    from criticalmass.analysis.redundancy import curves
    from criticalmass.reporting.tables import probes_first

    tables = [curves(run).assign(run=title) for run, title in zip(runs, titles, strict=True)]
    every = probes_first(pd.concat(tables, ignore_index=True))
    every = every[every["ratio"].notna()]
    shared = every.groupby("measure", sort=False)["run"].nunique()
    return [
        _overlay(every[every["measure"] == measure], str(measure))
        for measure in shared[shared > 1].index
    ]


def _overlay(rows: pd.DataFrame, measure: str) -> Plot:
    """Draw one measure of all runs, the usual selector and layer of each."""
    lines = []
    for title, part in rows.groupby("run", sort=False):
        usual = part[part["selector"] == "random"]
        part = usual if len(usual) else part
        last = part["layer"].unique()[-1]
        layer = "penultimate" if "penultimate" in set(part["layer"]) else last
        part = part[(part["layer"] == layer)]
        part = part[part["selector"] == part["selector"].iloc[0]].sort_values("n_kept")
        lines.append((str(title), part))
    series = [
        Series(
            name=title,
            x=(part["n_kept"] / part["n_neurons"]).tolist(),
            y=part["ratio"].tolist(),
            low=part["ratio_low"].tolist(),
            high=part["ratio_high"].tolist(),
            style=number,
        )
        for number, (title, part) in enumerate(lines)
    ]
    drawing, ax = style.new_axes()
    _draw(series, ax, f"share of the whole layer's value ({measure})", 1.0)
    smallest = min(float(one.x[0]) for one in series)
    values = [float(v) for one in series for v in (*one.y, *one.low, *one.high)]
    return Plot(
        name=f"together-{measure}",
        title=f"Side by side ({measure})",
        caption="Each run against its own whole layer; random subsets where there are some.",
        summary=f"Share of the whole layer's {measure} kept by {len(series)} runs.",
        table=_stacked(lines),
        drawing=drawing,
        x=share_axis(smallest, 0),
        y=plain_axis(values, f"share of the whole layer’s value ({measure})", form="percent"),
        series=tuple(series),
        rules=(("y", 1.0, "", True),),
    )


def _stacked(lines: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([part for _, part in lines], ignore_index=True)


def _difference(every: pd.DataFrame, titles: Sequence[str]) -> Plot | None:
    """Draw the difference of what both keep, size by size."""
    rows = every[(every["quantity"] == "ratio") & every["difference"].notna()]
    rows = rows.assign(share=rows["fraction"].astype(float)).sort_values("share", kind="stable")
    rows = rows[rows["share"].notna()]
    if rows.empty:
        return None
    varying = [name for name in ("other", "measure", "a", "b") if rows[name].nunique() > 1]
    varying = varying or ["other"]
    series = [
        Series(
            name=", ".join(dict.fromkeys(str(part) for part in key)),
            x=line["share"].tolist(),
            y=line["difference"].tolist(),
            low=line["low"].tolist(),
            high=line["high"].tolist(),
            style=number if number < style.MANY else None,
        )
        for number, (key, line) in enumerate(rows.groupby(varying, sort=False))
    ]
    drawing, ax = style.new_axes()
    _draw(series, ax, "difference of the shares kept", 0.0)
    values = [float(v) for one in series for v in (*one.y, *one.low, *one.high) if v == v]
    return Plot(
        name="differences",
        title="Difference, size by size",
        caption=f"What {titles[0]} keeps less what the other keeps, as a share of its whole layer.",
        summary=f"Difference of the shares kept by {titles[0]} and the others.",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(float(rows["share"].min()), 0),
        y=plain_axis(values, "difference of the shares kept", form="percent"),
        series=tuple(series),
        rules=(("y", 0.0, "", False),),
    )


def _draw(series: Sequence[Series], ax: object, label: str, level: float) -> None:
    """Draw the same lines for paper."""
    from typing import Any, cast

    axes = cast(Any, ax)
    for number, one in enumerate(series):
        colour = style.COLOURS[number % len(style.COLOURS)]
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            one.x,
            one.y,
            color=colour,
            marker=style.MARKERS[number % len(style.MARKERS)],
            linestyle=style.DASHES[number % len(style.DASHES)],
            markersize=4,
            label=one.name.replace("$", r"\$"),
        )
    axes.axhline(level, color=style.FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    fraction_axis(axes, min(float(one.x[0]) for one in series))
    axes.set_ylabel(label)
    style.dress(axes)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize="x-small")
