"""The report: one HTML file that answers, shows, and says how sure it is.

The page holds all that it needs. A content policy in it forbids the browser to fetch anything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from criticalmass.checking import checked
from criticalmass.errors import CriticalMassError
from criticalmass.report.answers import Answer, answer, headline_row, next_smaller, percent
from criticalmass.report.predicted import Predicted, predicted
from criticalmass.report.record import Caveat, Fact, caveats, facts

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

__all__ = ["report"]

_GROUP = ["model", "layer", "dataset", "selector", "measure"]


@dataclass(frozen=True)
class Drawing:
    """One figure of the page: its SVG, its heading and what to look at."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """All that the page says about one run."""

    identity: str
    title: str
    subtitle: str
    path: str
    answer: Answer
    field: Markup
    blocks: list[dict[str, Any]]
    drawings: list[Drawing]
    predicted: list[Predicted]
    facts: list[Fact]
    caveats: list[Caveat]
    curves: list[dict[str, Any]]


@checked
def report(
    run_or_runs: Any,
    out: str | os.PathLike[str] = "report.html",
    *,
    deltas: Sequence[float] = (0.8, 0.9, 0.95),
) -> Path:
    """Write one HTML page about one or several runs.

    Parameters
    ----------
    run_or_runs: a Run, the path of one, or a sequence of these.
    out: the file to write; replaced as a whole.
    deltas: shares of the whole layer's value to report the critical mass for, each in (0, 1].

    Returns
    -------
    The path written.

    Raises
    ------
    CriticalMassError: no run, a delta out of range, or a run that cannot be read.
    """
    from criticalmass import __version__
    from criticalmass.results import Run

    single = isinstance(run_or_runs, (str, os.PathLike, Run))
    runs = [run_or_runs] if single else list(run_or_runs)
    if not runs:
        raise CriticalMassError("report() got no run; name at least one run folder")
    wanted = tuple(sorted({float(delta) for delta in deltas}))
    if not wanted or not all(0 < delta <= 1 for delta in wanted):
        raise CriticalMassError(f"deltas={tuple(deltas)!r}: each must be in (0, 1], e.g. 0.9")
    sections = [_section(Run.open(run), number, wanted) for number, run in enumerate(runs, 1)]
    page = (
        _templates()
        .get_template("page.html.j2")
        .render(
            sections=sections,
            style=Markup(_styles()),  # noqa: S704 -- our own file
            version=__version__,
            written=datetime.now(UTC).strftime("%-d %B %Y"),
        )
    )
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, target)
    return target


def _section(run: Any, number: int, deltas: tuple[float, ...]) -> Section:
    """Gather what the page says about one run."""
    from criticalmass.figures import DELTAS
    from criticalmass.redundancy import curves as curves_of
    from criticalmass.redundancy import redundancy
    from criticalmass.report.drawing import neuron_field
    from criticalmass.tables import probes_first

    frame = run.frame()
    if frame.empty:
        raise CriticalMassError(f"run {str(run.path)!r} has no rows yet; run a sweep into it first")
    lines = probes_first(curves_of(run))
    every = probes_first(redundancy(run, deltas=tuple(sorted({*DELTAS, *deltas}))))
    table = every[every["delta"].isin(deltas)]
    best = headline_row(table)
    said = answer(best, next_smaller(best, lines))
    layers = frame["layer"].unique()
    return Section(
        identity=f"run-{number}",
        title=f"{_names(frame['model'])} on {_names(frame['dataset'])}",
        subtitle=f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers",
        path=str(run.path),
        answer=said,
        field=neuron_field(said.kept, said.neurons) if said.neurons else Markup(""),
        blocks=_blocks(table),
        drawings=_drawings(lines, every, table, f"run-{number}"),
        predicted=predicted(run, deltas, f"run-{number}"),
        facts=facts(run.manifest, frame),
        caveats=caveats(frame, table),
        curves=_curve_rows(lines),
    )


def _drawings(
    lines: pd.DataFrame, every: pd.DataFrame, table: pd.DataFrame, identity: str
) -> list[Drawing]:
    """Draw each measure's curve, then DR against delta for all of them."""
    from criticalmass import figures
    from criticalmass.report.drawing import inline_svg

    drawings: list[Drawing] = []
    for measure in lines.loc[lines["mean"].notna(), "measure"].unique():
        drawing, ax = figures.new_axes()
        similarity = figures.is_similarity(measure)
        if similarity:
            figures.cka_against_fraction(lines, ax, measure=measure)
        else:
            figures.value_against_fraction(lines, ax, measure=measure)
            if lines.loc[lines["measure"] == measure, _GROUP].drop_duplicates().shape[0] == 1:
                figures.mark_critical_mass(table[table["measure"] == measure], ax)
        title = f"{'Similarity' if similarity else 'Accuracy'} ({measure})"
        svg = inline_svg(drawing, identity=f"{identity}-{len(drawings)}", description=title)
        drawings.append(Drawing(title, _caption(similarity), svg))
    if every["dr"].notna().any():
        drawing, ax = figures.new_axes()
        figures.dr_against_delta(every, ax)
        title = "Diffused redundancy"
        svg = inline_svg(drawing, identity=f"{identity}-dr", description=title)
        caption = (
            "DR is the share of the layer that can go while the share delta of its value stays. "
            "Open triangles are lower bounds: even the smallest tested subset passes there."
        )
        drawings.append(Drawing(title, caption, svg))
    return drawings


def _caption(similarity: bool) -> str:
    """Say what to look at in a curve."""
    if similarity:
        return "Linear CKA between the kept neurons and the whole layer; 1 is the same geometry."
    return (
        "Line: mean over seeds; band: its interval. Dashed: the whole layer. "
        "Diamonds: the critical mass at each delta, with its interval."
    )


def _blocks(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Lay the redundancy table out: one block per curve, one row per delta."""
    varying = [name for name in _GROUP[:-1] if table[name].nunique() > 1]
    blocks = []
    for _, rows in table.groupby(_GROUP, sort=False):
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

    from criticalmass.report.drawing import share_bar

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


def _curve_rows(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """Lay the curves out as plain rows, for those who want the numbers."""
    varying = [name for name in _GROUP if lines[name].nunique() > 1]
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


def _names(column: pd.Series) -> str:
    """Name a column's distinct values, at most two of them."""
    names = [str(name) for name in column.unique()]
    return " and ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


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


@cache
def _templates() -> jinja2.Environment:
    """Open the package's templates; everything that is not markup is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("criticalmass", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _styles() -> str:
    """Read the page's style sheet."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
