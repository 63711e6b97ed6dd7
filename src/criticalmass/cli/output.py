"""Commands that show results: tables, figures, reports, lists."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from criticalmass.cli.choices import ESTIMATOR, FIGURE, LIST
from criticalmass.cli.options import (
    command,
    drop_unset,
    level,
    option,
    out,
    out_file,
    quiet,
    runs,
    several,
    table_format,
)

if TYPE_CHECKING:
    from criticalmass.analysis.columns import RunLike

_reference = option(
    "--reference",
    type=click.Path(),
    help="CSV of published numbers to draw in the figures: columns source, measure, x, y, ...",
)


def show_redundancy(
    runs: Sequence[RunLike],
    *,
    form: str = "table",
    out: str | None = None,
    options: Mapping[str, Any],
) -> None:
    """Print the table of redundancy; in the terminal each row has a sparkline of its curve.

    ``options``: parameters of `criticalmass.redundancy`.
    """
    from criticalmass.analysis.curves import CachedRun
    from criticalmass.analysis.redundancy import curves, redundancy
    from criticalmass.analysis.training_sets import training_set_note
    from criticalmass.core.progress import write_line
    from criticalmass.reporting.basis_numbers import missing_numbers
    from criticalmass.reporting.tables import redundancy_view, write_table
    from criticalmass.storage.run import Run

    # Two tables of one run: what is read and drawn for the first serves the second.
    opened = [CachedRun.of(Run.open(run)) for run in runs]
    table = redundancy(opened, **options)
    view = redundancy_view(table, curves(opened)) if form == "table" else None
    write_table(table, form=form, out=out, view=view)
    note = training_set_note(table)
    if form == "table" and out is None and note:
        click.echo(note)
    if form == "table" and len(runs) == 1:
        for line in missing_numbers(table, os.fspath(runs[0])):
            write_line(line)


@command(
    "analysis.redundancy:redundancy",
    "criticalmass redundancy run --delta 0.9 --delta 0.95 --format csv",
)
@runs
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@several(
    "--accuracy",
    "accuracy",
    "Accuracy to reach, whatever the whole layer's; more rows for each probe.",
    float,
)
@option(
    "--chance-corrected",
    is_flag=True,
    default=None,
    help="Take delta of the accuracy above that of the largest class.",
)
@option(
    "--control",
    type=click.Path(),
    help="Run on the same test samples; more rows, for delta of its whole layer's value.",
)
@option("--estimator", type=ESTIMATOR, help="Estimator of the critical mass.")
@option("--pass-share", type=float, help="Share of random subsets that the last size is for.")
@level
@table_format
@out_file
@quiet
def redundancy(
    runs: tuple[str, ...],
    deltas: tuple[float, ...],
    accuracy: tuple[float, ...],
    chance_corrected: bool | None,
    control: str | None,
    estimator: str | None,
    pass_share: float | None,
    level: float | None,
    form: str,
    out: str | None,
) -> None:
    """Print critical mass and DR, with intervals."""
    options = drop_unset(
        deltas=deltas,
        accuracy=accuracy,
        chance_corrected=chance_corrected,
        control=control,
        estimator=estimator,
        pass_share=pass_share,
        level=level,
    )
    show_redundancy(runs, form=form, out=out, options=options)


@command("reporting.figures.figure:figure", "criticalmass figure value run --out curve.pdf")
@click.argument("name", type=FIGURE)
@click.argument("run", type=click.Path())
@out(what="File to write: .pdf, .svg or .png.")
@several("--measure", "measures", "Measure to draw; all that fit by default.")
@several("--delta", "deltas", "Critical mass to mark on the figure 'value'.", float)
@several("--layer", "layers", "Layer to draw; all by default.")
@several("--selector", "selectors", "Selector to draw; all by default.")
@option("--width", type=float, help="Width in inches; a full page is 7 wide.")
@_reference
@quiet
def figure(
    name: str,
    run: str,
    out: str,
    measures: tuple[str, ...],
    deltas: tuple[float, ...],
    layers: tuple[str, ...],
    selectors: tuple[str, ...],
    width: float | None,
    reference: str | None,
) -> None:
    """Draw one figure of RUN for a paper.

    By default the figure is one column wide. Its fonts are embedded.
    """
    from criticalmass.reporting.figures.figure import figure as draw_figure

    options = drop_unset(
        measures=measures,
        deltas=deltas,
        layers=layers,
        selectors=selectors,
        width=width,
        reference=reference,
    )
    click.echo(str(draw_figure(name, run, out=out, **options)))


@command("reporting.page.report:report", "criticalmass report run --out report.html")
@runs
@out(required=False, what="File to write.")
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@_reference
@option(
    "--control",
    type=click.Path(),
    help="Run on the same test samples, whose accuracy the neurons are to reach.",
)
@quiet
def report(
    runs: tuple[str, ...],
    out: str | None,
    deltas: tuple[float, ...],
    reference: str | None,
    control: str | None,
) -> None:
    """Write one offline HTML page about runs.

    Several runs are shown side by side, with their differences.
    """
    from criticalmass.reporting.page.report import report as write_report

    options = drop_unset(out=out, deltas=deltas, reference=reference, control=control)
    click.echo(str(write_report(runs, **options)))


@command("cli.catalogue:listing", "criticalmass list selectors", name="list")
@click.argument("what", type=LIST)
@click.argument("model", required=False)
@table_format
@quiet
def list_(what: str, model: str | None, form: str) -> None:
    """List the names that the other commands accept.

    MODEL is needed for layers only: they are the layers of this model.
    """
    from criticalmass.cli.catalogue import listing
    from criticalmass.reporting.tables import write_table

    write_table(listing(what, model), form=form)


@command("cli.catalogue:describe", "criticalmass info run")
@click.argument("path", type=click.Path())
@table_format
@quiet
def info(path: str, form: str) -> None:
    """Describe the feature store, run, slim model or training in PATH."""
    from criticalmass.cli.catalogue import describe
    from criticalmass.reporting.tables import write_table

    write_table(describe(path), form=form)


@command("reporting.explain:explain", "criticalmass explain features --delta 0.9 --seeds 10")
@click.argument("store", type=click.Path())
@option("--layer", help="Layer of the store; needed if it has several and no penultimate.")
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@option("--seeds", type=int, help="Number of random subsets whose mean the intervals cover.")
@level
@option("--run", type=click.Path(), help="Run of the same features, to compare with.")
@table_format
@out(required=False, what="Folder for tables and figures; a run's folder gets the prediction.")
@quiet
def explain(
    store: str,
    layer: str | None,
    deltas: tuple[float, ...],
    seeds: int | None,
    level: float | None,
    run: str | None,
    form: str,
    out: str | None,
) -> None:
    """Predict critical mass and DR of STORE without a sweep.

    CKA is predicted, and with labels the accuracy of ridge probes. The intervals are over random
    subsets. With --run, predicted and measured values are compared, and the diffuseness test is
    made.
    """
    from criticalmass.reporting.explain import explain as predict
    from criticalmass.reporting.table_views import (
        critical_masses_view,
        predicted_and_measured_view,
    )
    from criticalmass.reporting.tables import write_table

    options = drop_unset(layer=layer, deltas=deltas, seeds=seeds, level=level, run=run, out=out)
    explanation = predict(store, **options)
    comparison = explanation.compared_masses
    if form != "table":
        write_table(explanation.masses if comparison is None else comparison, form=form)
        return
    click.echo(explanation.paragraph)
    click.echo()
    write_table(explanation.masses, view=critical_masses_view(explanation))
    if comparison is not None:
        click.echo()
        write_table(comparison, view=predicted_and_measured_view(explanation))


COMMANDS: tuple[click.Command, ...] = (
    redundancy,
    figure,
    report,
    list_,
    info,
    explain,
)
