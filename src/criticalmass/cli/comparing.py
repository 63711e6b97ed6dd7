"""The command that compares two representations."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import example, given, out, quiet, several, table_format


@click.command(**example("criticalmass compare run --by selector --delta 0.9"))
@click.argument("a", metavar="RUN", type=click.Path())
@click.argument("b", metavar="[RUN]", required=False, type=click.Path())
@several("--delta", "deltas", "Share of the whole layer's value to keep: 0.9.", float)
@click.option("--by", help="What differs: model, layer, dataset, selector or measure.")
@click.option("--estimator", help="interpolated (default), strict or nearest.")
@click.option("--level", type=float, help="Level of the intervals: 0.95.")
@click.option(
    "--paired/--independent",
    default=None,
    help="Whether both runs have the same test samples; found out by default.",
)
@click.option("--resamples", type=int, help="Bootstrap draws: 2000.")
@table_format
@out(required=False, what="File to write instead of standard output.")
@quiet
def compare(a: str, b: str | None, form: str, out: str | None, **options: Any) -> None:
    """Compare two runs, or the curves of one.

    Differences are the first minus the second, with intervals, and in words. Where both were
    scored on the same test samples, they are resampled together.
    """
    from criticalmass.analysis.comparison import compare as run_compare
    from criticalmass.reporting.table_views import comparison_for_people
    from criticalmass.reporting.tables import write_table

    table = run_compare(a, b, **given(options))
    people = comparison_for_people(table) if form == "table" else None
    write_table(table, form=form, out=out, people=people)
    if form == "table":
        for said in table["sentence"][~table["quantity"].isin(["value", "ratio"])]:
            click.echo(said)


COMPARE_COMMANDS: tuple[click.Command, ...] = (compare,)
