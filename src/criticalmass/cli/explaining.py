"""Commands that say what a layer's spectrum means: explain."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import example, given, out, quiet, several, table_format


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


EXPLAIN_COMMANDS: tuple[click.Command, ...] = (explain,)
