"""Commands about side effects of keeping few neurons: who pays, and who agrees."""

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


COMMANDS: tuple[click.Command, ...] = (fairness, class_losses, agreement, ensembles)
