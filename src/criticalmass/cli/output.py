"""Commands that show something: tables, figures, the report, what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from criticalmass.cli.options import example, given, out, quiet, runs, several, table_format

_reference = click.option(
    "--reference",
    type=click.Path(),
    help="CSV of published numbers to draw beside: columns source, measure, x, y, figure, ...",
)


def show_redundancy(
    runs: Sequence[Any], form: str, *, out: str | None = None, **options: Any
) -> None:
    """Print the redundancy table; people get a sparkline of each curve with it."""
    from criticalmass.analysis.redundancy import curves, redundancy
    from criticalmass.reporting import tables

    table = redundancy(runs, **options)
    people = None
    if form == "table":
        people = tables.redundancy_for_people(table, curves(runs))
    tables.write_table(table, form=form, out=out, people=people)


@click.command(**example("criticalmass redundancy run --delta 0.9 --delta 0.95 --format csv"))
@runs
@several("--delta", "deltas", "Share of the whole layer's value to keep: 0.9.", float)
@click.option("--estimator", help="strict (default), interpolated or nearest.")
@click.option("--level", type=float, help="Level of the intervals: 0.95.")
@table_format
@out(required=False, what="File to write instead of standard output.")
@quiet
def redundancy(runs: tuple[str, ...], form: str, out: str | None, **options: Any) -> None:
    """Print critical mass and DR, with intervals."""
    show_redundancy(runs, form, out=out, **given(options))


@click.command(**example("criticalmass figure value run --out curve.pdf"))
@click.argument("name")
@click.argument("run", type=click.Path())
@out(what="File to write: .pdf, .svg or .png.")
@several("--measure", "measures", "Measure to draw; all that fit by default.")
@several("--delta", "deltas", "Critical mass to mark on the value figure: 0.9.", float)
@several("--layer", "layers", "Layer to draw; all by default.")
@several("--selector", "selectors", "Selector to draw; all by default.")
@click.option("--width", type=float, help="Width in inches: 3.35, one column; a page has 7.")
@_reference
@quiet
def figure(name: str, run: str, out: str, **options: Any) -> None:
    """Draw a figure of RUN for a paper.

    NAME is value, cka, dr, layers, classes, gini, agreement, matrix, diffuseness or pareto; the
    figure is one column wide, its fonts are embedded.
    """
    from criticalmass.reporting.figures.figure import figure as draw

    click.echo(str(draw(name, run, out=out, **given(options))))


@click.command(**example("criticalmass report run --out report.html"))
@runs
@click.option(
    "--out", type=click.Path(), default="report.html", show_default=True, help="File to write."
)
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@_reference
@quiet
def report(runs: tuple[str, ...], out: str, **options: Any) -> None:
    """Write one offline page about runs.

    Several runs stand side by side, with their paired differences.
    """
    from criticalmass.reporting.page.report import report as write

    click.echo(str(write(runs, out, **given(options))))


@click.command("list", **example("criticalmass list selectors"))
@click.argument("what")
@click.argument("model", required=False)
@table_format
@quiet
def list_(what: str, model: str | None, form: str) -> None:
    """List what can be named.

    WHAT is models, datasets, selectors, measures, studies, or layers (of MODEL).
    """
    from criticalmass.cli.catalogue import listing
    from criticalmass.reporting.tables import write_table

    write_table(listing(what, model), form=form)


@click.command(**example("criticalmass info run"))
@click.argument("path", type=click.Path())
@table_format
@quiet
def info(path: str, form: str) -> None:
    """Say what lies in PATH: a feature store or a run."""
    from criticalmass.cli.catalogue import describe
    from criticalmass.reporting.tables import write_table

    write_table(describe(path), form=form)


@click.command(**example("criticalmass explain features --delta 0.9 --seeds 10"))
@click.argument("store", type=click.Path())
@click.option("--layer", help="Layer of the store, if it has several.")
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@click.option("--seeds", type=int, help="Subsets whose mean the intervals are about: 5.")
@click.option("--level", type=float, help="Level of the intervals: 0.95.")
@click.option("--run", type=click.Path(), help="Run of the same features, to compare with.")
@table_format
@out(required=False, what="Folder for tables and figures; a run's folder gets the prediction.")
@quiet
def explain(store: str, form: str, **options: Any) -> None:
    """Predict critical mass and DR of STORE without a sweep.

    The law of CKA and, with labels, that of ridge probes; intervals are over random subsets.
    With --run, predicted beside measured, and the diffuseness test.
    """
    from criticalmass.reporting.explain import explain as predict
    from criticalmass.reporting.table_views import compared_for_people, masses_for_people
    from criticalmass.reporting.tables import write_table

    made = predict(store, **given(options))
    beside = made.compared_masses
    if form != "table":
        write_table(made.masses if beside is None else beside, form=form)
        return
    click.echo(made.paragraph)
    click.echo()
    write_table(made.masses, people=masses_for_people(made))
    if beside is not None:
        click.echo()
        write_table(beside, people=compared_for_people(made))


COMMANDS: tuple[click.Command, ...] = (
    redundancy,
    figure,
    report,
    list_,
    info,
    explain,
)
