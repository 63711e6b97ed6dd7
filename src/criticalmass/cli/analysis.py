"""Commands about side effects of keeping few neurons: who pays, and who agrees."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import (
    example,
    given,
    level,
    out,
    out_file,
    quiet,
    resamples,
    runs,
    several,
    table_format,
)


@click.command(**example("criticalmass fairness run --format csv"))
@runs
@level
@resamples
@table_format
@out_file
@quiet
def fairness(runs: tuple[str, ...], form: str, out: str | None, **options: Any) -> None:
    """Print how unequal class accuracies are, also at equal accuracy."""
    from criticalmass.analysis.fairness import fairness as compute
    from criticalmass.reporting import tables
    from criticalmass.reporting.table_views import fairness_for_people

    table = compute(runs, **given(options))
    tables.write_table(table, form=form, out=out, people=fairness_for_people(table))


@click.command("class-losses", **example("criticalmass class-losses run --delta 0.9"))
@runs
@several("--delta", "deltas", "Share of the whole layer's accuracy to keep: 0.9.", float)
@level
@resamples
@table_format
@out_file
@quiet
def class_losses(runs: tuple[str, ...], form: str, out: str | None, **options: Any) -> None:
    """Print which classes pay first for a smaller subset.

    A star marks classes that lose more than a class-neutral loss explains, in intervals that
    hold for all classes at once.
    """
    from criticalmass.analysis.fairness import class_losses as compute
    from criticalmass.reporting import tables
    from criticalmass.reporting.table_views import losses_for_people

    table = compute(runs, **given(options))
    tables.write_table(table, form=form, out=out, people=losses_for_people(table))


@click.command(**example("criticalmass agreement run"))
@runs
@level
@resamples
@table_format
@out_file
@quiet
def agreement(runs: tuple[str, ...], form: str, out: str | None, **options: Any) -> None:
    """Print how far subsets of different seeds predict the same."""
    from criticalmass.analysis.agreement import agreement as compute
    from criticalmass.reporting import tables
    from criticalmass.reporting.table_views import agreement_for_people

    table = compute(runs, **given(options))
    tables.write_table(table, form=form, out=out, people=agreement_for_people(table))


@click.command(**example("criticalmass ensembles store --fraction 0.1 --members 4"))
@click.argument("store", type=click.Path())
@several("--fraction", "fractions", "Share of neurons of one member.", float)
@click.option("--members", type=int, help="How many members share no neuron: 4.")
@click.option("--seeds", type=int, help="How many permutations: 5.")
@click.option("--probe", help="Probe of each member: logistic.")
@click.option("--layer", help="Layer of the store: penultimate.")
@level
@resamples
@table_format
@out_file
@quiet
def ensembles(store: str, form: str, out: str | None, **options: Any) -> None:
    """Fit probes on disjoint subsets of STORE and compare their votes."""
    from criticalmass.reporting import tables
    from criticalmass.reporting.table_views import ensembles_for_people
    from criticalmass.sweeps.ensembles import ensembles as compute

    table = compute(store, **given(options))
    tables.write_table(table, form=form, out=out, people=ensembles_for_people(table))


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


COMMANDS: tuple[click.Command, ...] = (
    fairness,
    class_losses,
    agreement,
    ensembles,
    diffuseness,
    pareto,
    compare,
)
