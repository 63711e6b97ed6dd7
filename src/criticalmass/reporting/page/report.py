"""``report``: one HTML file about one or several runs.

The file contains everything that it shows. Its content security policy forbids all requests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.arguments import sorted_deltas

if TYPE_CHECKING:
    from criticalmass.reporting.figures.references import ReferencePoint
    from criticalmass.reporting.page.rendering import RenderedFigure
    from criticalmass.reporting.page.run_comparison import RunComparison
    from criticalmass.reporting.page.run_section import RunSection
    from criticalmass.reporting.page.slider_data import StringTable
    from criticalmass.reporting.plots import Plot
    from criticalmass.storage.run import Run

__all__ = ["report"]
# With more cells or runs, a second process for rendering saves more time than its start costs.
_MAX_SERIAL_CELLS, _MAX_SERIAL_RUNS = 5000, 2
# With more runs only the page's script draws the figures, which keeps the file small.
_MAX_DRAWN_RUNS = 6


@dataclass(frozen=True, eq=False)
class _PagePlot:
    """A figure in the page.

    Attributes
    ----------
    plot_id: its id in the page.
    plot: the figure.
    curve: number of the curve whose critical mass it marks, None for none.
    """

    plot_id: str
    plot: Plot
    curve: int | None


@dataclass(frozen=True)
class _PageContent:
    """Sections, comparison and figures of the page; ``rendered`` is by id of the figure."""

    sections: list[RunSection]
    comparison: RunComparison | None
    plots: list[_PagePlot]
    rendered: dict[str, RenderedFigure]
    strings: StringTable


@validate_arguments
def report(
    run_or_runs: Any,
    out: str | os.PathLike[str] = "report.html",
    *,
    deltas: Sequence[float] = (0.8, 0.9, 0.95),
    reference: Any = None,
    control: str | os.PathLike[str] | Run | None = None,
    notes: Sequence[str] = (),
    figures: Sequence[Any] = (),
) -> Path:
    """Write one HTML page about one or several runs, or about an inversion.

    Parameters
    ----------
    run_or_runs: a Run, the path of one, or a sequence of these. With several, the page also shows
        the differences between the first run and each other. Or the folder of `invert`, which
        needs none of the other parameters but ``out``.
    out: file to write, atomically.
    deltas: shares of the whole layer's value to report critical masses for, each in (0, 1].
    reference: published numbers to draw and to list: `ReferencePoint` objects, mappings or a
        DataFrame of their attributes, or the path of a CSV file; see
        `criticalmass.reporting.figures.references`.
    control: a run on the same test samples as the others, such as that of the untrained network;
        the page then says how many neurons reach its accuracy, as `criticalmass.redundancy` does.
    notes: sentences to print beside the comparison of several runs.
    figures: descriptions of figures (`criticalmass.reporting.plots.Plot`) that come before those
        of the comparison of several runs.

    Returns
    -------
    The path written.

    Raises
    ------
    CriticalMassError: if there is no run, a delta is out of range, a run cannot be read or has no
        rows, or the control has other test samples.
    """
    from criticalmass.analysis.curves import CachedRun
    from criticalmass.reporting.figures.references import reference_points
    from criticalmass.storage.files import write_bytes
    from criticalmass.storage.run import Run

    single = isinstance(run_or_runs, (str, os.PathLike, Run))
    runs = [run_or_runs] if single else list(run_or_runs)
    if not runs:
        raise CriticalMassError("report() got no run; name at least one run folder")
    if _is_inversion(runs[0]):
        return _report_inversion(runs, Path(out))
    deltas = sorted_deltas(deltas)
    opened = [CachedRun.of(Run.open(run)) for run in runs]
    opened_control = None if control is None else CachedRun.of(Run.open(control))
    references = reference_points(reference)
    content = _collect(opened, deltas, references, opened_control, figures)
    if content.comparison is not None:
        comparison = content.comparison
        comparison = replace(comparison, notes=[*notes, *comparison.notes])
        content = replace(content, comparison=comparison)
    page = _render_page(content)
    target = Path(out)
    write_bytes(target, page.encode())
    return target


def _is_inversion(source: Any) -> bool:
    from criticalmass.storage.files import INVERSION, is_kind

    return is_kind(Path(getattr(source, "path", source)), INVERSION)


def _report_inversion(sources: Sequence[Any], target: Path) -> Path:
    from criticalmass.probing.invert import Inversion
    from criticalmass.reporting.page.inversion_page import render_inversion
    from criticalmass.storage.files import write_bytes

    if len(sources) > 1:
        raise CriticalMassError(
            f"a page shows one inversion; got {len(sources)}: report each to a file of its own"
        )
    write_bytes(target, render_inversion(Inversion.open(sources[0])).encode())
    return target


def _collect(
    runs: Sequence[Run],
    deltas: tuple[float, ...],
    references: tuple[ReferencePoint, ...],
    control: Run | None,
    figures: Sequence[Plot] = (),
) -> _PageContent:
    """Compute the content of the page and render its figures."""
    from criticalmass.reporting.page.rendering import render_all, second_process
    from criticalmass.reporting.page.run_comparison import compare_runs
    from criticalmass.reporting.page.run_section import SectionOptions, run_section
    from criticalmass.reporting.page.slider_data import StringTable

    sections: list[RunSection] = []
    plots: list[_PagePlot] = []
    strings = StringTable()
    options = SectionOptions(deltas, references, strings, control=control)
    is_drawn = len(runs) <= _MAX_DRAWN_RUNS
    many_cells = sum(len(run.frame()) for run in runs) > _MAX_SERIAL_CELLS
    is_large = many_cells or len(runs) > _MAX_SERIAL_RUNS
    with second_process(wanted=is_drawn and is_large) as process:
        for number, run in enumerate(runs, 1):
            first_curve = sum(len(section.curves) for section in sections)
            section = run_section(run, number, replace(options, first_curve=first_curve))
            sections.append(section)
            plots += _section_plots(section)
        titles = _unique_titles(sections)
        sections = [
            replace(section, title=title) for section, title in zip(sections, titles, strict=True)
        ]
        comparison = compare_runs(runs, titles, deltas) if len(runs) > 1 else None
        if comparison is not None:
            comparison = replace(comparison, plots=[*figures, *comparison.plots])
            plots = [*_comparison_plots(comparison), *plots]
        drawn = {entry.plot_id: entry.plot for entry in plots} if is_drawn else {}
        return _PageContent(sections, comparison, plots, render_all(drawn, process), strings)


def _render_page(content: _PageContent) -> str:
    """Fill the template."""
    from criticalmass import __version__
    from criticalmass.reporting.page.assets import (
        as_json,
        content_policy,
        page_template,
        script,
        styles,
    )
    from criticalmass.reporting.page.svg import neuron_field

    sections = content.sections
    headlines = [section.headline for section in sections]
    return page_template("page.html.j2").render(
        sections=sections,
        comparison=content.comparison,
        plot_ids={id(entry.plot): entry.plot_id for entry in content.plots},
        svgs={plot_id: figure.svg for plot_id, figure in content.rendered.items()},
        data=as_json(_script_data(content)),
        pdfs=as_json({plot_id: figure.pdf for plot_id, figure in content.rendered.items()}),
        fields=[
            neuron_field(one.n_kept, one.n_neurons) if one.n_neurons else "" for one in headlines
        ],
        stop=_initial_stop(sections),
        policy=content_policy(),
        script=script(),
        style=styles(),
        version=__version__,
        written=datetime.now(UTC).strftime("%-d %B %Y"),
    )


def _unique_titles(sections: list[RunSection]) -> list[str]:
    """Return the titles; equal ones are followed by the folders of their runs."""
    titles = [section.title for section in sections]
    return [
        title
        if titles.count(title) == 1
        else f"{title} ({Path(section.path).parent.name}/{Path(section.path).name})"
        for title, section in zip(titles, sections, strict=True)
    ]


def _comparison_plots(comparison: RunComparison) -> Iterator[_PagePlot]:
    for plot in comparison.plots:
        yield _PagePlot(f"comparison-{plot.name}", plot, None)


def _section_plots(section: RunSection) -> Iterator[_PagePlot]:
    for plot, curve in section.plots:
        yield _PagePlot(f"{section.identity}-{plot.name}", plot, curve)
    for number, prediction in enumerate(section.predictions):
        for plot in prediction.plots:
            yield _PagePlot(f"{section.identity}-prediction-{number}-{plot.name}", plot, None)


def _script_data(content: _PageContent) -> dict[str, Any]:
    """Return the data of the page's script."""
    from criticalmass.reporting.page.slider_data import STOPS
    from criticalmass.reporting.page.svg import dot_layout

    sections = content.sections
    return {
        "stops": list(STOPS),
        "strings": content.strings.texts,
        "curves": [
            {"neurons": curve.slider.n_neurons, "rows": curve.slider.rows}
            for section in sections
            for curve in section.curves
        ],
        "headlineCurves": {section.identity: section.headline_curve for section in sections},
        "fields": {
            section.identity: dot_layout(section.headline.n_neurons)
            for section in sections
            if section.headline.n_neurons
        },
        "plots": {
            entry.plot_id: {**entry.plot.spec(), "curve": entry.curve} for entry in content.plots
        },
    }


def _initial_stop(sections: list[RunSection]) -> int:
    """Return the first stop of the slider: the delta of the first headline, in thousandths."""
    return next((round(section.delta * 1000) for section in sections if section.delta), 900)
