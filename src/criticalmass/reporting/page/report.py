"""The report: one HTML file that answers, shows, and says how sure it is.

The page holds all that it needs. A content policy in it forbids the browser to fetch anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.core.arguments import checked
from criticalmass.errors import CriticalMassError

if TYPE_CHECKING:
    import jinja2

    from criticalmass.reporting.page.parallel_drawing import Drawing, Drawn
    from criticalmass.reporting.page.plot_spec import Plot
    from criticalmass.reporting.page.run_comparison import Beside
    from criticalmass.reporting.page.run_section import Asked, Section
    from criticalmass.reporting.page.slider_data import Words
    from criticalmass.storage.run import Run

__all__ = ["report"]
# Place of a figure in the page, the figure, and the number of the curve it is about.
_Placed = tuple[str, "Plot", "int | None"]
# With more cells or runs a second process is worth its start.
_MANY_CELLS, _SOME_RUNS = 5000, 2
# Figures of more runs are drawn by the page's script alone: it would be too large for a mail.
_MOST_DRAWN = 6


@checked
def report(
    run_or_runs: Any,
    out: str | os.PathLike[str] = "report.html",
    *,
    deltas: Sequence[float] = (0.8, 0.9, 0.95),
    reference: Any = None,
) -> Path:
    """Write one HTML page about one or several runs.

    Parameters
    ----------
    run_or_runs: a Run, the path of one, or a sequence of these; several stand side by side,
        with the differences between the first and each other.
    out: the file to write; replaced as a whole.
    deltas: shares of the whole layer's value to report the critical mass for, each in (0, 1].
    reference: published numbers to draw beside and to list: `ReferencePoint` objects, mappings
        or a DataFrame of their attributes, or the path of a CSV file; see
        `criticalmass.reporting.figures.references`.

    Returns
    -------
    The path written.

    Raises
    ------
    CriticalMassError: no run, a delta out of range, or a run that cannot be read.
    """
    from criticalmass.analysis.curves import curves_kept
    from criticalmass.reporting.figures.references import reference_points
    from criticalmass.storage.files import scratch_beside
    from criticalmass.storage.run import Run
    from criticalmass.storage.run_view import held

    single = isinstance(run_or_runs, (str, os.PathLike, Run))
    runs = [run_or_runs] if single else list(run_or_runs)
    if not runs:
        raise CriticalMassError("report() got no run; name at least one run folder")
    wanted = tuple(sorted({float(delta) for delta in deltas}))
    if not wanted or not all(0 < delta <= 1 for delta in wanted):
        raise CriticalMassError(f"deltas={tuple(deltas)!r}: each must be in (0, 1], e.g. 0.9")
    with curves_kept():
        opened = [held(Run.open(run)) for run in runs]
        page = _page(opened, wanted, reference_points(reference))
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_beside(target)
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, target)
    return target


def _page(runs: Sequence[Run], deltas: tuple[float, ...], references: Any) -> str:
    """Gather and lay out."""
    from criticalmass import __version__
    from criticalmass.reporting.page.assets import as_json, policy, script, styles
    from criticalmass.reporting.page.run_section import Asked
    from criticalmass.reporting.page.slider_data import Words

    words = Words()
    sections, both, placed, drawn = _gathered(runs, Asked(deltas, references, words))
    # In the order of the page, not in that in which two processes were done with them.
    shown = [place for place, _, _ in placed if place in drawn]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            sections=sections,
            beside=both,
            places={id(plot): place for place, plot, _ in placed},
            drawn={place: drawn[place][0] for place in shown},
            data=as_json(_data(sections, placed, words)),
            papers=as_json({place: drawn[place][1] for place in shown}),
            fields=[_field(section) for section in sections],
            stop=_stop(sections),
            policy=policy(),
            script=script(),
            style=styles(),
            version=__version__,
            written=datetime.now(UTC).strftime("%-d %B %Y"),
        )
    )


def _gathered(
    runs: Sequence[Run], asked: Asked
) -> tuple[list[Section], Beside | None, list[_Placed], dict[str, Drawn]]:
    """Work out what the page says, and have its figures drawn meanwhile."""
    from criticalmass.reporting.page.parallel_drawing import Drawing
    from criticalmass.reporting.page.run_comparison import beside
    from criticalmass.reporting.page.run_section import section_of

    sections: list[Section] = []
    placed: list[_Placed] = []
    many = sum(len(run.frame()) for run in runs) > _MANY_CELLS
    large = many or _SOME_RUNS < len(runs) <= _MOST_DRAWN
    with Drawing(aside=large, none=len(runs) > _MOST_DRAWN) as drawing:
        for number, run in enumerate(runs, 1):
            first = sum(len(section.curves) for section in sections)
            sections.append(section_of(run, number, replace(asked, first=first, drawing=drawing)))
            placed += _drawn_soon(_of_section(sections[-1]), drawing)
        sections = [
            replace(one, title=title)
            for one, title in zip(sections, _titles(sections), strict=True)
        ]
        titles = [one.title for one in sections]
        both = beside(runs, titles, asked.deltas) if len(runs) > 1 else None
        placed = [*_drawn_soon(_of_both(both), drawing), *placed]
        return sections, both, placed, drawing.all()


def _titles(sections: list[Section]) -> list[str]:
    """Names that tell runs apart: model and dataset, and the folder where these are the same."""
    titles = [section.title for section in sections]
    return [
        title
        if titles.count(title) == 1
        else f"{title} ({Path(section.path).parent.name}/{Path(section.path).name})"
        for title, section in zip(titles, sections, strict=True)
    ]


def _of_both(both: Beside | None) -> Iterator[_Placed]:
    """Give every figure of the runs together a place of its own."""
    for plot in both.plots if both else ():
        yield f"beside-{plot.name}", plot, None


def _of_section(section: Section) -> Iterator[_Placed]:
    """Give every figure of a run a place of its own."""
    for plot, curve in section.plots:
        yield f"{section.identity}-{plot.name}", plot, curve
    for number, law in enumerate(section.predicted):
        for plot in law.plots:
            yield f"{section.identity}-law-{number}-{plot.name}", plot, None


def _drawn_soon(placed: Iterator[_Placed], drawing: Drawing) -> list[_Placed]:
    """Have figures drawn."""
    found = list(placed)
    for place, plot, _ in found:
        drawing.add((place, plot.drawing, plot.summary))
    return found


def _data(sections: list[Section], placed: list[_Placed], words: Words) -> dict[str, Any]:
    """Collect what the script of the page reads."""
    from criticalmass.reporting.page.slider_data import STOPS
    from criticalmass.reporting.page.svg import field_dots

    curves = [
        {"neurons": curve["neurons"], "rows": curve["rows"]}
        for section in sections
        for curve in section.curves
    ]
    fields = {
        section.identity: field_dots(section.answer.neurons)
        for section in sections
        if section.answer.neurons
    }
    return {
        "grid": list(STOPS),
        "words": words.texts,
        "curves": curves,
        "first": {section.identity: section.chosen for section in sections},
        "fields": fields,
        "plots": {place: {**plot.spec(), "curve": curve} for place, plot, curve in placed},
    }


def _field(section: Section) -> Any:
    from criticalmass.reporting.page.svg import neuron_field

    said = section.answer
    return neuron_field(said.kept, said.neurons) if said.neurons else ""


def _stop(sections: list[Section]) -> int:
    """Where the slider starts: the delta of the first answer."""
    return next((round(s.delta * 1000) for s in sections if s.delta), 900)


@cache
def _templates() -> jinja2.Environment:
    """Open the package's templates; everything that is not markup is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("criticalmass.reporting.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["key"] = id
    return environment
