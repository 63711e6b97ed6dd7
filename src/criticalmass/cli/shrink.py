"""Commands that make a layer smaller: shrink."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import example, given, out, quiet, several, table_format


@click.command(**example("criticalmass shrink features --keep 0.95 --out slim"))
@click.argument("store", type=click.Path())
@click.option("--keep", type=float, help="Share of the whole layer's value to keep: 0.95.")
@out(required=False, what="Folder of the slim model to write.")
@click.option("--level", type=float, help="Confidence of the promise: 0.95.")
@click.option("--worst-class-drop", type=float, help="Accuracy that no class may lose, e.g. 0.05.")
@click.option("--measure", help="logistic (default), ridge, ...; retrieval or cka without labels.")
@click.option("--layer", help="Layer of the store, if it has several.")
@several("--selector", "selectors", "Rule that competes, e.g. random, leverage, greedy-cka.")
@several("--precision", "precisions", "float32 (default), float16, int8 or binary.")
@click.option("--budget-bytes", type=int, help="Most bytes of one stored vector.")
@click.option("--max-dims", type=int, help="Most neurons kept, e.g. 2000 for an index's limit.")
@click.option("--relevance", help="Of retrieval: neighbours (default) or labels.")
@click.option("--seed", type=int, help="Of the random selector: 0.")
@click.option("--price-per-gb", type=float, help="Price of a gigabyte a month, to tell the cost.")
@click.option("--vectors", type=int, help="How many vectors are stored, for the cost.")
@table_format
@quiet
def shrink(
    store: str, form: str, price_per_gb: float | None, vectors: int | None, **options: Any
) -> None:
    """Find the smallest subset of STORE that is safe to ship.

    Selectors and precisions compete on a part of the training data; what the winner keeps is
    promised on the test split, with a confidence. Without --out nothing is written.
    """
    from criticalmass.errors import CriticalMassError
    from criticalmass.reporting.tables import write_table
    from criticalmass.shrinking.shrink import shrink as run_shrink

    if (price_per_gb is None) != (vectors is None):
        raise CriticalMassError(
            "the cost needs both, e.g. --price-per-gb 0.25 --vectors 100000000; "
            f"got {'--vectors' if price_per_gb is None else '--price-per-gb'} alone"
        )
    plan = run_shrink(store, **given(options))
    if form != "table":
        write_table(plan.candidates, form=form)
        return
    click.echo(plan.sentence)
    verdict = plan.slim.record.get("verdict")
    if verdict:
        click.echo(verdict["sentence"])
    if price_per_gb is not None and vectors is not None:
        click.echo(plan.cost(price_per_gb, vectors))
    click.echo()
    write_table(plan.tried, form=form)
    if plan.path is not None:
        click.echo(str(plan.path))


@click.command(**example("criticalmass export slim --format torch --out shipped"))
@click.argument("slim", type=click.Path())
@click.option(
    "--format",
    "form",
    required=True,
    help="indices, sklearn, torch, onnx, sentence-transformers, faiss or sql.",
)
@out()
@click.option("--model", help="Backbone, by default the one that was shrunk; none: without it.")
@click.option("--weights", type=click.Path(), help="State dict of a timm: or module: backbone.")
@click.option("--cut", is_flag=True, default=None, help="Take unread channels out of it too.")
@click.option("--index", type=click.Path(), help="FAISS index on whole vectors.")
@click.option("--table", help="Table of the whole vectors: items.")
@click.option("--column", help="Column of the whole vectors: embedding.")
@click.option("--normalise", is_flag=True, default=None, help="Scale short vectors to length 1.")
@quiet
def export(slim: str, form: str, out: str, **options: Any) -> None:
    """Write SLIM for the program that is to use it.

    SLIM is a folder that shrink wrote; each format is a folder of files, none of them pickled.
    """
    from criticalmass.shrinking.export.export import export as run_export

    click.echo(str(run_export(slim, format=form, out=out, **given(options))))


COMMANDS: tuple[click.Command, ...] = (
    shrink,
    export,
)
