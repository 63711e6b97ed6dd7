"""Commands that make a layer smaller: shrink and export."""

from __future__ import annotations

import click

from criticalmass.cli.choices import (
    EXPORT_FORMAT,
    MEASURE,
    RELEVANCE,
    SELECTOR,
    STORED_PRECISION,
)
from criticalmass.cli.options import command, drop_unset, option, out, quiet, several, table_format
from criticalmass.errors import CriticalMassError


@command("shrinking.shrink:shrink", "criticalmass shrink features --keep 0.95 --out slim")
@click.argument("store", type=click.Path())
@option("--keep", type=float, help="Share of the whole layer's value to keep.")
@out(required=False, what="Folder of the slim model; without it nothing is written.")
@option("--level", type=float, help="Confidence level of the test.")
@option(
    "--worst-class-drop", type=float, help="Accuracy that each class may lose at most, e.g. 0.05."
)
@option(
    "--measure",
    type=MEASURE,
    metavar="NAME",
    help="Measure to keep, e.g. ridge; without labels retrieval or cka.",
)
@option("--layer", help="Layer of the store, if it has several.")
@several(
    "--selector",
    "selectors",
    "Selector that competes, e.g. random, leverage or greedy-cka.",
    SELECTOR,
    "NAME",
)
@several(
    "--precision", "precisions", "Precision of stored vectors that competes.", STORED_PRECISION
)
@option("--budget-bytes", type=int, help="Most bytes of one stored vector.")
@option("--max-dims", type=int, help="Most neurons to keep, e.g. 2000 for the limit of an index.")
@option("--relevance", type=RELEVANCE, help="What is relevant to a query, for retrieval measures.")
@option("--seed", type=int, help="Seed of the random selectors.")
@option("--price-per-gb", type=float, help="Price of a gigabyte per month, to print the cost.")
@option("--vectors", type=int, help="Number of stored vectors, to print the cost.")
@table_format
@quiet
def shrink(
    store: str,
    keep: float | None,
    out: str | None,
    level: float | None,
    worst_class_drop: float | None,
    measure: str | None,
    layer: str | None,
    selectors: tuple[str, ...],
    precisions: tuple[str, ...],
    budget_bytes: int | None,
    max_dims: int | None,
    relevance: str | None,
    seed: int | None,
    price_per_gb: float | None,
    vectors: int | None,
    form: str,
) -> None:
    """Find the smallest subset of STORE that is safe to use.

    Selectors and precisions compete on a part of the training data. The winner is tested on the
    test split, at a confidence level.
    """
    from criticalmass.reporting.tables import write_table
    from criticalmass.shrinking.shrink import shrink as run_shrink

    if (price_per_gb is None) != (vectors is None):
        raise CriticalMassError(
            "the cost needs both, e.g. --price-per-gb 0.25 --vectors 100000000; "
            f"got {'--vectors' if price_per_gb is None else '--price-per-gb'} alone"
        )
    options = drop_unset(
        keep=keep,
        out=out,
        level=level,
        worst_class_drop=worst_class_drop,
        measure=measure,
        layer=layer,
        selectors=selectors,
        precisions=precisions,
        budget_bytes=budget_bytes,
        max_dims=max_dims,
        relevance=relevance,
        seed=seed,
    )
    plan = run_shrink(store, **options)
    if form != "table":
        write_table(plan.candidates, form=form)
        return
    click.echo(plan.sentence)
    order_effect = plan.slim.record.get("verdict")
    if order_effect:
        click.echo(order_effect["sentence"])
    if price_per_gb is not None and vectors is not None:
        click.echo(plan.cost(price_per_gb, vectors))
    click.echo()
    write_table(plan.tried, form=form)
    if plan.path is not None:
        click.echo(str(plan.path))


@command("shrinking.export.export:export", "criticalmass export slim --format torch --out shipped")
@click.argument("slim", type=click.Path())
@option("--format", "form", type=EXPORT_FORMAT, required=True, help="Format to write.")
@out()
@option(
    "--model",
    help="Backbone to export; 'none' exports the head only (default: the model that was shrunk).",
)
@option("--weights", type=click.Path(), help="State dict of a timm: or module: backbone.")
@option("--cut", is_flag=True, default=None, help="Remove unread channels from the backbone too.")
@option("--index", type=click.Path(), help="FAISS index of whole vectors.")
@option("--table", help="Table of the whole vectors, for sql.")
@option("--column", help="Column of the whole vectors, for sql.")
@option("--normalise", is_flag=True, default=None, help="Scale the short vectors to length 1.")
@quiet
def export(
    slim: str,
    form: str,
    out: str,
    model: str | None,
    weights: str | None,
    cut: bool | None,
    index: str | None,
    table: str | None,
    column: str | None,
    normalise: bool | None,
) -> None:
    """Write SLIM in the format of another program.

    SLIM is a folder that shrink wrote. Each format is a folder of files; none is a pickle.
    """
    from criticalmass.shrinking.export.export import export as run_export

    options = drop_unset(
        model=model,
        weights=weights,
        cut=cut,
        index=index,
        table=table,
        column=column,
        normalise=normalise,
    )
    click.echo(str(run_export(slim, format=form, out=out, **options)))


COMMANDS: tuple[click.Command, ...] = (
    shrink,
    export,
)
