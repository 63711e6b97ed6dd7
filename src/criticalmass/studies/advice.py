"""`advise`: from stored vectors to the answer how to store them smaller, in one call."""

from __future__ import annotations

import html
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError, shorten, unknown_name
from criticalmass.extraction.databases.opening import is_database
from criticalmass.extraction.databases.url import DatabaseUrl
from criticalmass.extraction.import_writer import NotLinkableError
from criticalmass.extraction.importing import NO_LABELS, import_features
from criticalmass.measures.registry import MEASURES, measure_quantity
from criticalmass.reporting.tables import as_text
from criticalmass.shrinking.data_parts import DataParts, split_data
from criticalmass.shrinking.evaluators import make_stored_evaluator, unused_queries
from criticalmass.shrinking.order_effect import PrefixTest, measure_prefix
from criticalmass.shrinking.probe_evaluator import QueryScores
from criticalmass.shrinking.retrieval_evaluator import RetrievalEvaluator
from criticalmass.shrinking.shrink import ShrinkPlan, check_goal, shrink
from criticalmass.shrinking.stored_search import Encoding, StoredEvaluator
from criticalmass.shrinking.stored_vectors import ALL, PCA
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import MANIFEST

# Vectors that are held out as queries, at most a quarter.
N_QUERIES = 10_000
_MAP_WORDS = {
    ALL: "all dimensions",
    PCA: "principal directions",
    f"{PCA}, rotated": "principal directions, rotated",
    "first": "the first dimensions",
}
# Bytes that the graph of an HNSW index with m = 16 adds to a vector: 32 links and some of the upper
# levels in FAISS and hnswlib; of pgvector, measured on 82,115 vectors of 282 and 384 dimensions.
_GRAPH_BYTES, _PGVECTOR_BYTES = 150, 400


@dataclass(frozen=True)
class Confirmation:
    """The chosen form, searched by queries that took no part in any choice or test."""

    n_queries: int
    ratio: float
    bound: float


@dataclass(frozen=True, eq=False)
class Advice:
    """The result of `advise`.

    Attributes
    ----------
    plan: the chosen form, its promise and the table of all forms.
    prefix: whether the dimensions are ordered, as after Matryoshka training.
    confirmation: the chosen form on more queries; None if there are no more.
    n_vectors: vectors in the whole table.
    bytes_now: bytes of one vector as it is stored now.
    price: of a gigabyte (10^9 bytes) per month, or None.
    commands: what to type next.
    """

    plan: ShrinkPlan
    prefix: PrefixTest
    confirmation: Confirmation | None
    n_vectors: int
    bytes_now: int
    price: float | None
    commands: tuple[str, ...]

    @property
    def safe(self) -> bool:
        """Whether a smaller form passed its tests."""
        return self.plan.safe

    @property
    def answer(self) -> tuple[str, str, str]:
        """How to store the vectors, what is kept, and how plain float16 compares."""
        record = self.plan.slim.record
        if not self.safe:
            promise = record["promise"]
            kept = (
                f"Keep all {record['n_neurons']:,} dimensions: no smaller form keeps "
                f"{promise['keep']:.4g} of the {self._measure} with "
                f"{promise['level']:.0%} confidence."
            )
            return kept, self._measured(), self._plain()
        chosen = self._chosen
        again = ", without re-ranking"
        if chosen["rerank"]:
            again = (
                f"; re-rank the best {chosen['rerank'] * record['stored']['n_neighbours']} by "
                f"whole vectors, which stay stored ({chosen['bytes_total']:,} bytes in total)"
            )
        store = (
            f"Store {self._form(chosen)}: {chosen['bytes']:,} bytes a vector instead of "
            f"{self.bytes_now:,}, {_size(self.n_vectors * chosen['bytes'])} instead of "
            f"{_size(self.n_vectors * self.bytes_now)} for {self.n_vectors:,} vectors{again}."
        )
        return store, self._measured(), self._plain()

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether the dimensions are ordered, what it costs, and how to switch over."""
        lines = [self.prefix.sentence]
        if self.safe:
            lines += [self._confirmed(), self._smaller(), self._cost(), self._switch()]
        if self.plan.slim.record["relevance"] == "neighbours":
            lines.append(
                "Neighbour agreement: the 10 nearest of whole vectors count as right. Relevance "
                "that people judged is another question; give queries and qrels to measure it."
            )
        return tuple(line for line in lines if line)

    @property
    def table(self) -> pd.DataFrame:
        """The forms in the words of a database, by bytes; `plan.front` has all columns."""
        front = self.plan.front
        view = pd.DataFrame(
            {
                "stored": [self._form(row) for _, row in front.iterrows()],
                "re-ranked": [f"{r} x 10" if r else "" for r in front["rerank"]],
                "bytes a vector": [f"{b:,}" for b in front["bytes"]],
                "index": [_size(self.n_vectors * b) for b in front["bytes"]],
                "recall@10": [f"{value:.4f}" for value in front["recall"]],
                "nDCG@10": [f"{value:.4f}" for value in front["ndcg"]],
                "at least": [f"{value:.4f}" for value in front["bound_all"]],
                "chosen": ["yes" if chosen else "" for chosen in front["chosen"]],
            }
        )
        return view if front["rerank"].any() else view.drop(columns="re-ranked")

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict, the table and the commands; JSON-able."""
        plain = self._plain_row
        more = self.confirmation
        return {
            **self.plan.as_dict(),
            "n_vectors": self.n_vectors,
            "bytes_now": self.bytes_now,
            "table_bytes": self.n_vectors * self.plan.slim.bytes_per_vector,
            "table_bytes_now": self.n_vectors * self.bytes_now,
            "float16_is_better": self._plain_is_better,
            "float16": {name: plain[name] for name in ("bytes", "recall", "ndcg", "bound")},
            "matryoshka": {
                "answer": self.prefix.answer,
                "sizes": self.prefix.table.to_dict("records"),
            },
            "confirmation": None if more is None else vars(more),
            "price_per_gb": self.price,
            "answer": list(self.answer),
            "notes": list(self.notes),
            "next_commands": list(self.commands),
        }

    def __str__(self) -> str:
        table = as_text(self.table, colour=False)
        lines = [*self.answer, "", table, "", *self.notes, "", "Next:"]
        return "\n".join([*lines, *(f"  {command}" for command in self.commands)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        answer, notes = (
            "".join(f"<p>{html.escape(line)}</p>" for line in lines)
            for lines in (self.answer, self.notes)
        )
        commands = html.escape("\n".join(self.commands))
        table = self.table.to_html(index=False, border=0)
        return f"{answer}{table}{notes}<pre>{commands}</pre>"

    @property
    def _measure(self) -> str:
        record = self.plan.slim.record
        if record["relevance"] == "neighbours":
            return measure_quantity(str(record["measure"]), "stored vectors")
        return str(record["value_name"])

    @property
    def _chosen(self) -> dict[str, Any]:
        front = self.plan.front
        return dict(front[front["chosen"]].iloc[0].to_dict())

    @property
    def _plain_row(self) -> dict[str, Any]:
        front = self.plan.front
        is_plain = (front["selector"] == ALL) & (front["precision"] == "float16")
        return dict(front[is_plain & (front["rerank"] == 0)].iloc[0].to_dict())

    @property
    def _plain_is_better(self) -> bool:
        """Whether all dimensions as float16 are no larger, or nothing smaller is safe."""
        plain = self._plain_row
        if not self.safe:
            return bool(plain["bound"] >= self.plan.slim.record["promise"]["keep"])
        chosen = self._chosen
        return bool(plain["bytes"] <= chosen["bytes"] and plain["recall"] >= chosen["recall"])

    def _form(self, row: Any) -> str:
        name = _MAP_WORDS.get(row["selector"], f"chosen dimensions ({row['selector']})")
        count = f"{row['n_kept']:,}"
        if row["selector"] == ALL:
            return f"all {count} dimensions as {row['precision']}"
        return f"{count} of {self.plan.slim.n_neurons:,} as {row['precision']} ({name})"

    def _measured(self) -> str:
        record = self.plan.slim.record
        promise, measured = record["promise"], record["measured"]
        stored = record.get("stored")
        searched = f" among all {stored['n_stored']:,} stored vectors" if stored else ""
        recall = f", recall@10 {stored['recall']:.4f}" if stored else ""
        return (
            f"Kept of the {self._measure}: {measured['ratio']:.4f}, with "
            f"{promise['level']:.0%} confidence at least {promise['ratio_bound']:.4f}{recall} "
            f"({record['n_judged']:,} queries{searched}, exact search)."
        )

    def _plain(self) -> str:
        plain = self._plain_row
        whole = (
            f"All {plain['n_kept']:,} dimensions as float16 (halfvec) take {plain['bytes']:,} "
            f"bytes a vector and have a recall@10 of {plain['recall']:.4f}"
        )
        if self._plain_is_better:
            return f"{whole}: the better deal, and it needs no map."
        times = plain["bytes"] / self.plan.slim.bytes_per_vector
        return f"{whole}: {times:.3g} times as many bytes, and no map to keep."

    def _confirmed(self) -> str:
        more = self.confirmation
        if more is None:
            return ""
        return (
            f"On {more.n_queries:,} other queries, which took no part in the choice or the "
            f"promise: {more.ratio:.4f} kept, at least {more.bound:.4f}."
        )

    def _smaller(self) -> str:
        """Name the rows that are smaller in the index and safe too, the smallest of each kind.

        The chosen candidate is compared among fewer vectors than there are, so another one can be
        better among all. The bound of all rows at once allows this choice after the test.
        """
        front, keep = self.plan.front, self.plan.slim.record["promise"]["keep"]
        is_safe = (front["bytes"] < self._chosen["bytes"]) & (front["bound_all"] >= keep)
        forms = []
        for rows in (
            front[is_safe & (front["rerank"] == 0)],
            front[is_safe & (front["rerank"] > 0)],
        ):
            if len(rows):
                row = rows.sort_values("bytes", kind="stable").iloc[0]
                again = (
                    f", re-ranked {row['rerank']} x 10 by whole vectors" if row["rerank"] else ""
                )
                forms.append(
                    f"{self._form(row)}{again}: {row['bytes']:,} bytes a vector, "
                    f"at least {row['bound_all']:.4f}"
                )
        if not forms:
            return ""
        return (
            f"Smaller in the index and safe, by the bound that holds for all rows at once: "
            f"{'; '.join(forms)}. Restrict the choice to one by --precision, --rerank or "
            "--max-bytes."
        )

    def _cost(self) -> str:
        record, chosen = self.plan.slim.record, self._chosen
        saved = 1.0 - chosen["bytes_total"] / self.bytes_now
        graph = self.n_vectors * (chosen["bytes"] + _GRAPH_BYTES)
        lost = f"{1.0 - record['measured']['ratio']:.2%} of the {self._measure}"
        if record["relevance"] == "neighbours" and record["measure"] != "retrieval-recall":
            lost += f" and {1.0 - chosen['recall']:.2%} of the 10 nearest"
        gain = f"saves {saved:.0%} of the bytes of the vectors"
        if saved < 0.0:
            gain = f"takes {-saved:.0%} more bytes in total, for a smaller index"
        cost = (
            f"It costs {lost}, and {gain}. An HNSW graph (m = 16) adds about {_GRAPH_BYTES} bytes "
            f"a vector in FAISS or hnswlib (then {_size(graph)} in all) and {_PGVECTOR_BYTES} in "
            "pgvector, whatever the dimensions."
        )
        if self.price is None:
            return cost
        now, then = (
            self.price * self.n_vectors * size / 1e9
            for size in (self.bytes_now, chosen["bytes_total"])
        )
        return f"{cost} At {self.price:g} a GB and month: {then:,.2f} instead of {now:,.2f}."

    def _switch(self) -> str:
        chosen, slim = self._chosen, self.plan.slim
        if chosen["selector"] == ALL and chosen["precision"] == "float16":
            return "To switch over, convert the column to half precision; queries stay as they are."
        rest = (
            "Whole vectors stay for re-ranking."
            if chosen["rerank"]
            else "Drop the old column or index when the new one is in use: only that saves bytes."
        )
        what = "the same map" if slim.matrix is not None else "the same dimensions"
        return (
            f"To switch over, write the short vectors to a new column or index, and send queries "
            f"through {what} before they are compared by inner products. {rest}"
        )


def _size(n_bytes: float) -> str:
    """Write bytes as MB or GB of powers of ten."""
    if n_bytes < 1e9:
        return f"{n_bytes / 1e6:.3g} MB"
    return f"{n_bytes / 1e9:,.3g} GB"


@validate_arguments
def advise(
    vectors: FeatureStore | str | Path | ArrayLike,
    *,
    keep: float = 0.95,
    out: str | os.PathLike[str] | None = None,
    level: float = 0.95,
    measure: str | None = None,
    relevance: str = "neighbours",
    column: str | None = None,
    table: str | None = None,
    queries: str | Path | ArrayLike | None = None,
    qrels: str | Path | ArrayLike | None = None,
    precisions: Sequence[str] | None = None,
    reranks: Sequence[int] | None = None,
    max_bytes: int | None = None,
    max_dims: int | None = None,
    price: float | None = None,
    n_vectors: int | None = None,
    seed: int = 0,
) -> Advice:
    """Say how many dimensions of stored vectors are needed, in which precision.

    The vectors are read by `import_features`; a file that can be linked is not copied, and any
    other is copied to a temporary folder. Of one table, 10,000 vectors (at most a quarter) are
    held out at random as queries. `shrink` chooses on 500 other queries among at most 20,000
    vectors, and tests on 2,000 of the queries that search all other vectors. If there are more
    queries, they search the chosen form once more.

    Parameters
    ----------
    vectors: what `import_features` reads (a file, a folder or pattern of tables, arrays, the URL of
        a database), or a feature store, whose test split holds the queries.
    keep: share to keep of what a search with whole vectors finds, in (0, 1].
    out: folder of the slim model to write, as `shrink` writes it, or None.
    level: confidence of the promise, in [0.5, 1).
    measure: ``retrieval`` (nDCG@10 of the neighbours that whole vectors find),
        ``retrieval-recall`` (recall@10), or another measure of searches. Default: ``retrieval``,
        or with qrels the nDCG@10 of the documents that they name.
    relevance: what is relevant to a query, as `shrink` takes it.
    column: the column of the vectors, if there are several.
    table: the table or collection of a database, if there are several.
    queries, qrels: vectors of queries and the documents that are relevant to them, as
        `import_features` takes them.
    precisions, reranks, seed: as `shrink` takes them.
    max_bytes: most bytes of one vector in the index.
    max_dims: most dimensions.
    price: of 10^9 bytes per month, in any currency.
    n_vectors: vectors in the whole table, if this is a sample of them.

    Returns
    -------
    The advice, which prints as text and shows itself in a notebook.

    Raises
    ------
    CriticalMassError: if the vectors cannot be read, a limit cannot be met, or as `shrink` raises
        it.
    """
    searches = [name for name, entry in MEASURES.items() if entry.query_score is not None]
    if measure is not None and measure not in searches:
        raise unknown_name("measure of searches", measure, searches)
    check_goal(keep, level, None, max_bytes, max_dims)
    given = {"column": column, "table": table, "queries": queries, "qrels": qrels}
    options = {
        "measure": measure, "relevance": relevance if relevance != "neighbours" else None,
        **given, "precision": precisions, "rerank": reranks,
        "max-bytes": max_bytes, "max-dims": max_dims,
    }  # fmt: skip
    with _opened(vectors, given, has_labels=relevance == "labels") as (store, is_ours):
        measure = measure or ("ndcg" if store.is_collection else "retrieval")
        plan = _shrink(
            store, max_bytes, keep=keep, out=out, level=level, measure=measure, max_dims=max_dims,
            relevance=relevance, precisions=precisions, reranks=reranks, seed=seed,
        )  # fmt: skip
        parts = split_data(store, None)
        reference = make_stored_evaluator("retrieval", parts, True).reference
        n_rows = parts.sizes()["train"] + (parts.sizes()["certified"] if is_ours else 0)
        return Advice(
            plan=plan,
            prefix=measure_prefix(reference),
            confirmation=_confirm(plan, parts),
            n_vectors=n_rows if n_vectors is None else n_vectors,
            bytes_now=parts.n_neurons * np.dtype(parts.train.rows.dtype).itemsize,
            price=price,
            commands=next_commands(vectors, plan, out, options),
        )


@contextmanager
def _opened(
    vectors: Any, given: dict[str, Any], *, has_labels: bool
) -> Iterator[tuple[FeatureStore, bool]]:
    """Open a feature store, or import the vectors to a temporary one; yield whether it is that."""
    is_path = isinstance(vectors, (str, Path))
    if isinstance(vectors, FeatureStore) or (is_path and (Path(vectors) / MANIFEST).is_file()):
        for name, value in given.items():
            if value is not None:
                raise CriticalMassError(
                    f"{name}={shorten(value)} is for vectors that are read first; a feature store "
                    f"has its queries and columns, so leave out {name}"
                )
        yield FeatureStore.open(vectors), False
        return
    options = {name: value for name, value in given.items() if value is not None}
    if "qrels" not in options:
        options |= {"labels": None if has_labels else NO_LABELS, "split": N_QUERIES}
    with tempfile.TemporaryDirectory(prefix="criticalmass-") as folder:
        out = Path(folder) / "features"
        try:
            store = import_features(
                vectors, out=out, link=is_path and "qrels" not in options, **options
            )
        except NotLinkableError:
            store = import_features(vectors, out=out, **options)
        yield store, not store.is_collection


def _shrink(store: FeatureStore, max_bytes: int | None, **options: Any) -> ShrinkPlan:
    """Shrink the vectors; errors call the limit of bytes by its name here."""
    try:
        return shrink(store, budget_bytes=max_bytes, **options)
    except CriticalMassError as error:
        raise CriticalMassError(str(error).replace("budget_bytes", "max_bytes")) from error


def _confirm(plan: ShrinkPlan, parts: DataParts) -> Confirmation | None:
    """Search the chosen form by the queries that are left; None if there are none."""
    slim, record = plan.slim, plan.slim.record
    queries = unused_queries(parts)
    if queries is None or record["relevance"] != "neighbours" or slim.short_map is None:
        return None
    reference = RetrievalEvaluator(record["measure"], parts.train, queries)
    encoding = Encoding(slim.short_map, slim.codec)
    rerank = int(record["stored"]["rerank"])
    ((ids,),) = StoredEvaluator(reference).neighbours([(encoding, (rerank,))])
    scores = QueryScores((slim.n_kept,), reference.score(ids)[None], reference.scores_full)
    bound = scores.bound(0, float(record["promise"]["level"]))
    ratio = float(scores.values[0]) / scores.value_full
    return Confirmation(int(scores.scores_full.size), ratio, bound)


def next_commands(
    vectors: Any, plan: ShrinkPlan, out: Any, options: dict[str, Any]
) -> tuple[str, ...]:
    """Return the commands that write the short vectors; options are those that were given."""
    keep = plan.slim.record["promise"]["keep"]
    slim = "slim" if out is None else os.fspath(out)
    if isinstance(vectors, FeatureStore):
        vectors = vectors.path
    read = (vectors, options.get("queries"), options.get("qrels"))
    if not all(value is None or isinstance(value, (str, Path)) for value in read):
        return (
            f"plan = cm.advise(x, keep={keep:g}, out={slim!r}).plan",
            "codes = plan.slim.encode(x)",
        )
    words = [
        f"--{name} {shlex.quote(str(value))}"
        for name, values in options.items()
        if values is not None
        for value in ([values] if isinstance(values, (str, int, Path)) else list(values))
    ]
    is_table = is_database(str(vectors))
    # An address may hold a password, which is not printed.
    shown = DatabaseUrl.parse(str(vectors)).shown if is_table else str(vectors)
    slim, source, suffix = shlex.quote(slim), shlex.quote(shown), Path(vectors).suffix
    again = " ".join(["criticalmass advise", source, *words, "--keep"])
    if not plan.safe:
        return (f"{again} {max(0.5, keep - 0.05):g}",)
    commands = [] if out else [f"{again} {keep:g} --out {slim}"]
    if suffix.lower() in (".faiss", ".index"):
        export = f"--format faiss --index {source}"
    elif is_table:
        place = "".join(
            f" --{name} {shlex.quote(str(options[name]))}"
            for name in ("table", "column")
            if options.get(name) is not None
        )
        export = f"--format database --to {source}{place}"
    else:
        if suffix.lower() != ".npy" and not (Path(vectors) / MANIFEST).is_file():
            commands.append(
                " ".join(["criticalmass import", source, *_files(options), "--out features"])
            )
            source = "features"
        export = f"--format vectors --vectors {source}"
    return (*commands, f"criticalmass export {slim} {export} --out short")


def _files(options: dict[str, Any]) -> list[str]:
    """Return the options that say what is read."""
    names = ("column", "table", "queries", "qrels")
    return [f"--{n} {shlex.quote(str(options[n]))}" for n in names if options.get(n) is not None]
