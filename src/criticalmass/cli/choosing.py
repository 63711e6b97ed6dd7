"""Commands about the choice of neurons: how much it matters, and what gives most for its size."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import (
    example,
    given,
    level,
    out_file,
    quiet,
    resamples,
    runs,
    table_format,
)

_measure = click.option("--measure", help="One measure of the runs; all by default.")


@click.command(**example("criticalmass diffuseness run --measure ridge --format csv"))
@runs
@click.option("--summary", is_flag=True, help="One row per measure: the leads over all sizes.")
@_measure
@level
@resamples
@table_format
@out_file
@quiet
def diffuseness(
    runs: tuple[str, ...], summary: bool, form: str, out: str | None, **options: Any
) -> None:
    """Print how much the choice of neurons matters.

    Random subsets stand between those of the best and the worst selector of the run, each
    picked on one half of the test samples and scored on the other.
    """
    from criticalmass.analysis.diffuseness import diffuseness as by_size
    from criticalmass.analysis.diffuseness import diffuseness_summary
    from criticalmass.reporting import table_views, tables

    if summary:
        table = diffuseness_summary(runs, **given(options))
        people = table_views.summary_for_people(table)
    else:
        table = by_size(runs, **given(options))
        people = table_views.diffuseness_for_people(table)
    tables.write_table(table, form=form, out=out, people=people)


@click.command(**example("criticalmass pareto run other-run --no-projections"))
@runs
@click.option(
    "--projections/--no-projections", default=None, help="Whether projections compete: they do."
)
@_measure
@level
@resamples
@table_format
@out_file
@quiet
def pareto(runs: tuple[str, ...], form: str, out: str | None, **options: Any) -> None:
    """Print which subsets no smaller one beats, per task.

    "perhaps": another has a higher value at no larger size, but by no more than noise. The
    other formats hold all subsets.
    """
    from criticalmass.analysis.pareto import pareto as compute
    from criticalmass.reporting import tables
    from criticalmass.reporting.table_views import pareto_for_people

    table = compute(runs, **given(options))
    tables.write_table(table, form=form, out=out, people=pareto_for_people(table))


SELECTOR_COMMANDS: tuple[click.Command, ...] = (diffuseness, pareto)
