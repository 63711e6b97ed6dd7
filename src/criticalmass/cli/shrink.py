"""Commands that make a layer or stored vectors smaller: advise, shrink, verify and export."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from criticalmass.cli.choices import (
    EXPORT_FORMAT,
    INDEX_TYPE,
    MEASURE,
    RELEVANCE,
    SELECTOR,
    SQL_METRIC,
    STORED_PRECISION,
)
from criticalmass.cli.options import command, drop_unset, option, out, quiet, several, table_format
from criticalmass.errors import CriticalMassError

#: Exit code of `shrink --fail-if-unsafe` and `verify` if there is no promise, or it fails.
UNSAFE = 3
fail_if_unsafe = click.option(
    "--fail-if-unsafe",
    is_flag=True,
    help=f"Exit with code {UNSAFE} if nothing smaller than the whole layer is safe.",
)


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
    help="Measure to keep, e.g. ridge; without labels retrieval or cka; with qrels ndcg, recall or "
    "mrr.",
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
@several(
    "--rerank",
    "reranks",
    "For retrieval: sort the best 10 times this many by whole vectors; 0 for none.",
    int,
    "N",
)
@option("--budget-bytes", type=int, help="Most bytes of one vector in the index.")
@option("--max-dims", type=int, help="Most neurons to keep, e.g. 2000 for the limit of an index.")
@option("--relevance", type=RELEVANCE, help="What is relevant to a query, for retrieval measures.")
@option("--seed", type=int, help="Seed of the random selectors.")
@option(
    "--blind-spots",
    is_flag=True,
    default=None,
    help="Search for changes of images that the kept neurons do not see; a warning with numbers.",
)
@option("--price-per-gb", type=float, help="Price of a gigabyte per month, to print the cost.")
@option("--vectors", type=int, help="Number of stored vectors, to print the cost.")
@fail_if_unsafe
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
    reranks: tuple[int, ...],
    budget_bytes: int | None,
    max_dims: int | None,
    relevance: str | None,
    seed: int | None,
    blind_spots: bool | None,
    price_per_gb: float | None,
    vectors: int | None,
    fail_if_unsafe: bool,
    form: str,
) -> None:
    """Find the smallest form of STORE that is safe to use.

    Selectors and precisions compete on a part of the training data. The winner is tested on the
    test split, at a confidence level. By a retrieval measure the vectors themselves are shrunk:
    projections and re-ranking compete too, and a table shows what takes how many bytes.
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
        reranks=reranks,
        budget_bytes=budget_bytes,
        max_dims=max_dims,
        relevance=relevance,
        seed=seed,
        blind_spots=blind_spots,
    )
    plan = run_shrink(store, **options)
    if form == "json":
        _echo_json(plan.as_dict())
    elif form != "table":
        write_table(plan.candidates, form=form)
    else:
        click.echo("\n".join([plan.sentence, *plan.verdict["advice"]]))
        order_effect = plan.slim.record.get("verdict")
        if order_effect:
            click.echo(order_effect["sentence"])
        if price_per_gb is not None and vectors is not None:
            click.echo(plan.cost(price_per_gb, vectors))
        click.echo()
        write_table(plan.tried if plan.front.empty else plan.front, form=form)
        if plan.path is not None:
            click.echo(str(plan.path))
    if fail_if_unsafe and not plan.safe:
        sys.exit(UNSAFE)


@command(
    "studies.advice:advise",
    "criticalmass advise vectors.parquet --keep 0.95 --price 0.25 --out slim",
)
@click.argument("vectors", type=click.Path())
@option("--keep", type=float, help="Share to keep of what a search with whole vectors finds.")
@out(required=False, what="Folder of the slim model; without it nothing is written.")
@option("--level", type=float, help="Confidence level of the promise.")
@option("--measure", type=MEASURE, metavar="NAME", help="Measure of searches to keep.")
@option("--relevance", type=RELEVANCE, help="What is relevant to a query.")
@option("--column", help="Column of the vectors, if there are several.")
@option("--table", help="Table or collection of a database, if there are several.")
@option("--queries", help="File of the vectors of queries, with --qrels.")
@option("--qrels", help="File of the documents that are relevant to the queries.")
@several("--precision", "precisions", "Precision that competes.", STORED_PRECISION)
@several(
    "--rerank",
    "reranks",
    "Sort the best 10 times this many by whole vectors; 0 for none.",
    int,
    "N",
)
@option("--max-bytes", type=int, help="Most bytes of one vector in the index.")
@option("--max-dims", type=int, help="Most dimensions, e.g. 2000 for the limit of an index.")
@option("--price", type=float, help="Price of a gigabyte per month, to print the cost.")
@option("--vectors", "n_vectors", type=int, help="Vectors in the whole table, if this is a sample.")
@option("--seed", type=int, help="Seed of the random selectors.")
@fail_if_unsafe
@table_format
@quiet
def advise(
    vectors: str,
    keep: float | None,
    out: str | None,
    level: float | None,
    measure: str | None,
    relevance: str | None,
    column: str | None,
    table: str | None,
    queries: str | None,
    qrels: str | None,
    precisions: tuple[str, ...],
    reranks: tuple[int, ...],
    max_bytes: int | None,
    max_dims: int | None,
    price: float | None,
    n_vectors: int | None,
    seed: int | None,
    fail_if_unsafe: bool,
    form: str,
) -> None:
    """Say how many dimensions VECTORS need, in which precision.

    VECTORS is what import reads: a file, a folder or quoted pattern of tables, the address of a
    database, or a feature store. A file that can be linked is not copied. The answer has bytes,
    what is kept at least, plain float16 beside it, whether the dimensions are ordered as after
    Matryoshka training, and the next command.
    """
    from criticalmass.reporting.tables import write_table
    from criticalmass.studies.advice import advise as run_advise

    advice = run_advise(
        vectors,
        **drop_unset(
            keep=keep,
            out=out,
            level=level,
            measure=measure,
            relevance=relevance,
            column=column,
            table=table,
            queries=queries,
            qrels=qrels,
            precisions=precisions,
            reranks=reranks,
            max_bytes=max_bytes,
            max_dims=max_dims,
            price=price,
            n_vectors=n_vectors,
            seed=seed,
        ),
    )
    if form == "json":
        _echo_json(advice.as_dict())
    elif form == "table":
        click.echo(str(advice))
    else:
        write_table(advice.plan.front, form=form)
    if fail_if_unsafe and not advice.safe:
        sys.exit(UNSAFE)


def _echo_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


@command("shrinking.verify:verify", "criticalmass verify slim new-features")
@click.argument("slim", type=click.Path())
@click.argument("store", type=click.Path())
@option("--level", type=float, help="Confidence level of the test; that of the promise without it.")
@table_format
@quiet
def verify(slim: str, store: str, level: float | None, form: str) -> None:
    """Test the promise of SLIM on the new data in STORE.

    Exit code 0: the promise holds there, at its level. Exit code 3: the test does not show it.
    """
    import pandas as pd

    from criticalmass.reporting.tables import write_table
    from criticalmass.shrinking.verify import verify as run_verify

    result = run_verify(slim, store, **drop_unset(level=level))
    if form == "json":
        _echo_json(asdict(result))
    elif form == "table":
        click.echo(result.sentence)
    else:
        write_table(pd.DataFrame([asdict(result)]), form=form)
    if not result.holds:
        sys.exit(UNSAFE)


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
@option("--index", type=click.Path(), help="FAISS index of whole vectors, for faiss.")
@option("--index-type", type=INDEX_TYPE, help="Type of index to build.  [default: that of --index]")
@option("--queries", type=click.Path(), help="Whole queries that measure the recall, for faiss.")
@option("--to", help="Address of the database to write to, e.g. qdrant:FOLDER, for database.")
@option("--table", help="Table of the whole vectors, for sql (items without it) and database.")
@option("--column", help="Column of the whole vectors, for sql (embedding) and database.")
@option("--id", help="Column that names a row, for sql (id) and database (the key).")
@option("--suffix", help="End of the names that are created, for sql.  [default: a digest]")
@option("--metric", type=SQL_METRIC, help="How whole vectors are compared, for sql.")
@option(
    "--new-column",
    is_flag=True,
    default=None,
    help="Write a column of short vectors even where an index suffices, for sql.",
)
@option("--normalise", is_flag=True, default=None, help="Scale the short vectors to length 1.")
@option(
    "--vectors", type=click.Path(), help="Whole vectors to encode: a feature store or a .npy file."
)
@quiet
def export(
    slim: str,
    form: str,
    out: str,
    model: str | None,
    weights: str | None,
    cut: bool | None,
    index: str | None,
    index_type: str | None,
    queries: str | None,
    to: str | None,
    table: str | None,
    column: str | None,
    id: str | None,
    suffix: str | None,
    metric: str | None,
    new_column: bool | None,
    normalise: bool | None,
    vectors: str | None,
) -> None:
    """Write SLIM in the format of another program.

    SLIM is a folder that shrink wrote. Each format is a folder of files; none is a pickle.
    """
    from criticalmass.shrinking.export.export import export as run_export
    from criticalmass.shrinking.export.folder import read_description
    from criticalmass.shrinking.export.readme import recall_lines

    options = drop_unset(
        model=model,
        weights=weights,
        cut=cut,
        index=index,
        index_type=index_type,
        queries=queries,
        to=to,
        table=table,
        column=column,
        id=id,
        suffix=suffix,
        metric=metric,
        new_column=new_column,
        normalise=normalise,
        vectors=vectors,
    )
    path = run_export(slim, format=form, out=out, **options)
    for line in recall_lines(read_description(path)):
        click.echo(line)
    click.echo(str(path))


COMMANDS: tuple[click.Command, ...] = (
    advise,
    shrink,
    verify,
    export,
)
