"""The command that runs a study."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import example, given, out, quiet, several, where
from criticalmass.errors import CriticalMassError


@click.command(**example("criticalmass study transfer-local --out studies"))
@click.argument("name", metavar="NAME|FILE")
@out()
@click.option("--features", type=click.Path(), help="Folder of features to share between studies.")
@several("--weights", "weights", "Weights that the study asks for: NAME=FILE.")
@click.option("--data", type=click.Path(), help="Root folder of torchvision's datasets.")
@click.option("--protocol", help="exact or paper, instead of what the study says.")
@click.option("--device", help="auto, cpu or cuda.")
@where
@click.option("--no-pages", "pages", flag_value=False, default=None, help="Write tables alone.")
@quiet
def study(name: str, out: str, weights: tuple[str, ...], **options: Any) -> None:
    """Run a study: a grid of models, data, layers, selectors and measures.

    NAME is one of those that 'criticalmass list studies' shows, FILE one of your own. What is
    there is not computed again. What cannot be had is told, the rest runs; the exit status is 2
    then.
    """
    from criticalmass.studies import study as run_study

    files = dict(_pair(text) for text in weights)
    made = run_study(name, out=out, **given({**options, "weights": files or None}))
    for folder in made.folders.values():
        click.echo(str(folder))
    for one in made.missing:
        click.echo(f"missing{' (optional)' if one.optional else ''}: {one}", err=True)
    if not made.whole:
        count = sum(not one.optional for one in made.missing)
        raise CriticalMassError(f"missing of {name}: {count}, see above; the rest is done")


def _pair(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise CriticalMassError(f"--weights {text!r} is not of the form NAME=FILE")
    return name, path


STUDY_COMMANDS: tuple[click.Command, ...] = (study,)
