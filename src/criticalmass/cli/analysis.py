"""Commands that print tables of runs: fairness, agreement, choice of neurons, comparison."""

from __future__ import annotations

import click

from criticalmass.cli.choices import COMPARABLE_COLUMN, ESTIMATOR, PROBE
from criticalmass.cli.options import (
    command,
    drop_unset,
    option,
    out_file,
    quiet,
    runs,
    several,
    table_format,
    tabulated,
)

_measure = option("--measure", help="One measure of the runs; all by default.")


@command("analysis.fairness:fairness", "criticalmass fairness run --format csv")
@runs
@tabulated
def fairness(
    runs: tuple[str, ...],
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print the inequality of class accuracies, also at equal accuracy."""
    from criticalmass.analysis.fairness import fairness as compute_fairness
    from criticalmass.reporting.table_views import fairness_view
    from criticalmass.reporting.tables import write_table

    table = compute_fairness(runs, **drop_unset(level=level, resamples=resamples))
    write_table(table, form=form, out=out, view=fairness_view(table))


@command(
    "analysis.fairness:class_losses",
    "criticalmass class-losses run --delta 0.9",
    name="class-losses",
)
@runs
@several("--delta", "deltas", "Share of the whole layer's accuracy to keep.", float)
@tabulated
def class_losses(
    runs: tuple[str, ...],
    deltas: tuple[float, ...],
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print the classes that lose most accuracy on a subset.

    The subset is the smallest that keeps --delta of the accuracy. A star marks classes that lose
    more than the proportional-odds baseline explains, by intervals that hold for all classes at
    once.
    """
    from criticalmass.analysis.fairness import class_losses as compute_class_losses
    from criticalmass.reporting.table_views import class_losses_view
    from criticalmass.reporting.tables import write_table

    options = drop_unset(deltas=deltas, level=level, resamples=resamples)
    table = compute_class_losses(runs, **options)
    write_table(table, form=form, out=out, view=class_losses_view(table))


@command("analysis.agreement:agreement", "criticalmass agreement run")
@runs
@tabulated
def agreement(
    runs: tuple[str, ...],
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print how far subsets of different seeds predict the same."""
    from criticalmass.analysis.agreement import agreement as compute_agreement
    from criticalmass.reporting.table_views import agreement_view
    from criticalmass.reporting.tables import write_table

    table = compute_agreement(runs, **drop_unset(level=level, resamples=resamples))
    write_table(table, form=form, out=out, view=agreement_view(table))


@command("sweeps.calibration:calibration", "criticalmass calibration store --seeds 3")
@click.argument("store", type=click.Path())
@several("--fraction", "fractions", "Share of neurons of a subset.", float)
@option("--seeds", type=int, help="Number of permutations.")
@option("--layer", help="Layer of the store.")
@tabulated
def calibration(
    store: str,
    fractions: tuple[float, ...],
    seeds: int | None,
    layer: str | None,
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Compare confidence and accuracy of logistic probes on random subsets of STORE."""
    from criticalmass.reporting.table_views import calibration_view
    from criticalmass.reporting.tables import write_table
    from criticalmass.sweeps.calibration import calibration as compute_calibration

    options = drop_unset(
        fractions=fractions, seeds=seeds, layer=layer, level=level, resamples=resamples
    )
    table = compute_calibration(store, **options)
    write_table(table, form=form, out=out, view=calibration_view(table))


@command("sweeps.ensembles:ensembles", "criticalmass ensembles store --fraction 0.1 --members 4")
@click.argument("store", type=click.Path())
@several("--fraction", "fractions", "Share of neurons of one member.", float)
@option("--members", type=int, help="Number of members; no two share a neuron.")
@option("--seeds", type=int, help="Number of permutations.")
@option("--probe", type=PROBE, help="Probe of each member.")
@option("--layer", help="Layer of the store.")
@tabulated
def ensembles(
    store: str,
    fractions: tuple[float, ...],
    members: int | None,
    seeds: int | None,
    probe: str | None,
    layer: str | None,
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Fit probes on disjoint subsets of STORE and compare votes."""
    from criticalmass.reporting.table_views import ensembles_view
    from criticalmass.reporting.tables import write_table
    from criticalmass.sweeps.ensembles import ensembles as compute_ensembles

    options = drop_unset(
        fractions=fractions,
        members=members,
        seeds=seeds,
        probe=probe,
        layer=layer,
        level=level,
        resamples=resamples,
    )
    table = compute_ensembles(store, **options)
    write_table(table, form=form, out=out, view=ensembles_view(table))


@command(
    "sweeps.degrading:degrading_neurons",
    "criticalmass degrading-neurons features --fdr 0.05",
    name="degrading-neurons",
)
@click.argument("store", type=click.Path())
@option("--layer", help="Layer of the store.")
@option("--fdr", type=float, help="Largest expected share of false discoveries.")
@option("--seed", type=int, help="Seed of the division of the test samples.")
@table_format
@out_file
@quiet
def degrading_neurons(
    store: str,
    layer: str | None,
    fdr: float | None,
    seed: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print the neurons that are better removed from a probe.

    The probe is the logistic one of the whole layer of STORE. A removed neuron is at its training
    mean. Neurons are selected on one half of the test samples and tested on the other. The table
    for the terminal has at most 20 rows; the formats for programs have all neurons.
    """
    from criticalmass.reporting.table_views import degrading_neurons_view
    from criticalmass.reporting.tables import write_table
    from criticalmass.sweeps.degrading import degrading_neurons as find_degrading_neurons

    table = find_degrading_neurons(store, **drop_unset(layer=layer, fdr=fdr, seed=seed))
    write_table(table, form=form, out=out, view=degrading_neurons_view(table))


@command(
    "analysis.diffuseness:diffuseness",
    "criticalmass diffuseness run --measure ridge --format csv",
)
@runs
@option("--summary", is_flag=True, help="Print one row per measure, with leads over all sizes.")
@_measure
@tabulated
def diffuseness(
    runs: tuple[str, ...],
    summary: bool,
    measure: str | None,
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print how much the choice of neurons matters.

    Random subsets are compared with those of the best and the worst selector of the run. Each of
    these is chosen on one half of the test samples and scored on the other.
    """
    from criticalmass.analysis.diffuseness import diffuseness as compute_diffuseness
    from criticalmass.analysis.diffuseness import diffuseness_summary
    from criticalmass.reporting import table_views
    from criticalmass.reporting.tables import write_table

    options = drop_unset(measure=measure, level=level, resamples=resamples)
    if summary:
        table = diffuseness_summary(runs, **options)
        view = table_views.diffuseness_summary_view(table)
    else:
        table = compute_diffuseness(runs, **options)
        view = table_views.diffuseness_view(table)
    write_table(table, form=form, out=out, view=view)


@command(
    "analysis.shared_subsets:shared_subsets",
    "criticalmass shared-subsets run-of-one-task run-of-another --delta 0.9",
    name="shared-subsets",
)
@runs
@several("--delta", "deltas", "Share of each whole layer's value to keep.", float)
@several("--accuracy", "accuracies", "Accuracy that a task needs, one for each run.", float)
@option("--correlations", is_flag=True, help="Print the rank correlation of subsets across tasks.")
@option("--estimator", type=ESTIMATOR, help="Estimator of the critical mass.")
@tabulated
def shared_subsets(
    runs: tuple[str, ...],
    deltas: tuple[float, ...],
    accuracies: tuple[float, ...],
    correlations: bool,
    estimator: str | None,
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print how many neurons one subset needs for several tasks.

    The runs are of one layer of one model on different data, with the same seeds. A subset counts
    by the task on which it keeps least.
    """
    from criticalmass.analysis.shared_subsets import shared_subsets as compute_shared_subsets
    from criticalmass.analysis.shared_subsets import subset_correlations
    from criticalmass.reporting import table_views
    from criticalmass.reporting.tables import write_table

    if correlations:
        table = subset_correlations(runs, **drop_unset(level=level))
        view = table_views.subset_correlations_view(table)
    else:
        options = drop_unset(
            deltas=deltas,
            accuracies=accuracies,
            estimator=estimator,
            level=level,
            resamples=resamples,
        )
        table = compute_shared_subsets(runs, **options)
        view = table_views.shared_subsets_view(table)
    write_table(table, form=form, out=out, view=view)


@command(
    "analysis.train_sizes:train_sizes",
    "criticalmass train-sizes run --delta 0.9",
    name="train-sizes",
)
@runs
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@option("--estimator", type=ESTIMATOR, help="Estimator of the critical mass.")
@tabulated
def train_sizes(
    runs: tuple[str, ...],
    deltas: tuple[float, ...],
    estimator: str | None,
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print critical mass and DR against the number of training samples.

    The run was swept with --train-size. Subsets and test samples are the same for all numbers.
    """
    from criticalmass.analysis.train_sizes import train_sizes as compute_train_sizes
    from criticalmass.reporting.table_views import train_sizes_view
    from criticalmass.reporting.tables import write_table

    options = drop_unset(deltas=deltas, estimator=estimator, level=level, resamples=resamples)
    table = compute_train_sizes(runs, **options)
    write_table(table, form=form, out=out, view=train_sizes_view(table))


@command("analysis.pareto:pareto", "criticalmass pareto run other-run --no-projections")
@runs
@option("--projections/--no-projections", default=None, help="Include projection selectors.")
@_measure
@tabulated
def pareto(
    runs: tuple[str, ...],
    projections: bool | None,
    measure: str | None,
    level: float | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Print the subsets that no smaller one beats, per task.

    "perhaps" marks subsets that another beats at no larger size, but by no more than noise. The
    formats for programs contain all subsets.
    """
    from criticalmass.analysis.pareto import pareto as compute_pareto
    from criticalmass.reporting.table_views import pareto_view
    from criticalmass.reporting.tables import write_table

    options = drop_unset(measure=measure, level=level, resamples=resamples, projections=projections)
    table = compute_pareto(runs, **options)
    write_table(table, form=form, out=out, view=pareto_view(table))


@command("analysis.comparison:compare", "criticalmass compare run --by selector --delta 0.9")
@click.argument("a", metavar="RUN", type=click.Path())
@click.argument("b", metavar="[RUN]", required=False, type=click.Path())
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@option(
    "--by",
    type=COMPARABLE_COLUMN,
    help="Column that differs; by default the first that has several values.",
)
@option("--estimator", type=ESTIMATOR, help="Estimator of the critical mass.")
@option(
    "--paired/--independent",
    default=None,
    help="Whether both runs have the same test samples; by default the datasets are compared.",
)
@tabulated
def compare(
    a: str,
    b: str | None,
    deltas: tuple[float, ...],
    by: str | None,
    estimator: str | None,
    level: float | None,
    paired: bool | None,
    resamples: int | None,
    form: str,
    out: str | None,
) -> None:
    """Compare two runs, or the curves of one run.

    Differences are the first minus the second, with intervals and a sentence each. If both were
    scored on the same test samples, these are resampled together.
    """
    from criticalmass.analysis.comparison import compare as compute_comparison
    from criticalmass.reporting.table_views import comparison_view
    from criticalmass.reporting.tables import write_table

    options = drop_unset(
        deltas=deltas,
        by=by,
        estimator=estimator,
        level=level,
        paired=paired,
        resamples=resamples,
    )
    table = compute_comparison(a, b, **options)
    if form != "table":
        write_table(table, form=form, out=out)
        return
    write_table(table, form=form, out=out, view=comparison_view(table))
    for sentence in table.loc[~table["quantity"].isin(["value", "ratio"]), "sentence"]:
        click.echo(sentence)


COMMANDS: tuple[click.Command, ...] = (
    fairness,
    class_losses,
    agreement,
    calibration,
    ensembles,
    degrading_neurons,
    diffuseness,
    pareto,
    shared_subsets,
    train_sizes,
    compare,
)
