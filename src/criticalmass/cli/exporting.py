"""Commands that carry a slim model elsewhere: export."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import example, given, out, quiet


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


EXPORT_COMMANDS: tuple[click.Command, ...] = (export,)
