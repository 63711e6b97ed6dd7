"""Judgements of relevance (qrels) as files, tables and mappings name them, by ids.

`read_judgements` reads BEIR's files (query-id, corpus-id, score), TREC's (query, iteration,
document, grade, without a header), tables, arrays and mappings. `match_judgements` finds the rows
of documents and queries, and counts what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.specs import missing_path
from criticalmass.storage.qrels import Qrels

#: What columns are called, in lower case.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query-id", "query_id", "qid", "query", "topic"),
    "document": ("corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "docno", "document", "pid"),
    "grade": ("score", "grade", "relevance", "rel", "label"),
}
_FORM = (
    "give the columns query-id, corpus-id and score (BEIR), or query, iteration, document and "
    "grade without a header (TREC)"
)
_SHAPE = "it must be (n, 3): query, document and grade"


@dataclass(frozen=True, eq=False)
class Judgements:
    """Judgements by ids.

    Attributes
    ----------
    queries, documents: (n,) ids as texts.
    grades: (n,) finite numbers.
    source: what holds them, for messages.
    """

    queries: NDArray[np.object_]
    documents: NDArray[np.object_]
    grades: NDArray[np.float64]
    source: str


@dataclass(frozen=True, eq=False)
class MatchedQrels:
    """Qrels by rows, and what they cover.

    Attributes
    ----------
    qrels: of the kept queries and documents, by their new row numbers.
    documents, queries: (n,) rows that are kept, ascending: the first of each id, and queries that
        have a relevant document.
    sentence: what is left and what was left out.
    """

    qrels: Qrels
    documents: NDArray[np.intp]
    queries: NDArray[np.intp]
    sentence: str


def read_judgements(source: Any, owner: str = "qrels") -> Judgements:
    """Read judgements.

    Parameters
    ----------
    source: a file (``.parquet``, ``.jsonl``, ``.npy``, else text separated by tabs, spaces or, in
        ``.csv``, commas); a table of pandas; ``{query: {document: grade}}``; or an array (n, 2) or
        (n, 3) of query, document and grade, 1 without it.
    owner: name of what is not a file, for messages.

    Raises
    ------
    CriticalMassError: no such file, other columns, or a grade that is not a number.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise missing_path(path)
        return _judgements(_read_file(path), repr(str(path)))
    if isinstance(source, Mapping):
        rows = [
            (query, document, grade)
            for query, graded in source.items()
            for document, grade in _graded(graded, query, owner)
        ]
        frame = pd.DataFrame(rows, columns=list(_NAMES), dtype=object)
    elif isinstance(source, pd.DataFrame):
        frame = _named(source, owner)
    else:
        try:
            array = np.asarray(source)
        except (TypeError, ValueError) as error:
            raise CriticalMassError(f"{owner} is no array ({error}); {_SHAPE}") from error
        frame = _of_array(array, owner)
    return _judgements(frame, owner)


def _graded(graded: Any, query: Any, owner: str) -> list[tuple[Any, Any]]:
    if isinstance(graded, Mapping):
        return list(graded.items())
    if isinstance(graded, (str, bytes)) or not isinstance(graded, Iterable):
        raise CriticalMassError(
            f"{owner} has {graded!r} for query {query!r}; give {{document: grade}} or a list of "
            "documents"
        )
    return [(document, 1) for document in graded]


def _of_array(array: NDArray[Any], owner: str) -> pd.DataFrame:
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise CriticalMassError(f"{owner} has shape {array.shape}; {_SHAPE}")
    if array.dtype.kind == "c":
        raise CriticalMassError(f"{owner} has complex numbers; {_SHAPE}")
    columns = [array[:, 0], array[:, 1]]
    if array.dtype.kind == "f":
        is_row = np.isfinite(array[:, :2]) & (array[:, :2] == np.rint(array[:, :2]))
        if not is_row.all():
            row = int(np.argmin(is_row.all(axis=1)))
            raise CriticalMassError(
                f"{owner}: judgement {row + 1} names {array[row, :2].tolist()}, and queries and "
                "documents of an array are whole numbers of rows"
            )
        columns = [column.astype(np.int64) for column in columns]
    grades = array[:, 2] if array.shape[1] == 3 else np.ones(len(array))
    return pd.DataFrame(dict(zip(_NAMES, [*columns, grades], strict=True)))


def _read_file(path: Path) -> pd.DataFrame:
    """Read a file into the columns query, document and grade."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return _of_array(np.load(path, allow_pickle=False), repr(str(path)))
        if suffix == ".parquet":
            return _named(pd.read_parquet(path), repr(str(path)))
        if suffix in (".jsonl", ".ndjson"):
            frame = pd.read_json(path, lines=True, dtype=False)
            return _named(frame, repr(str(path)))
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
        separator = "," if suffix == ".csv" else "\t" if "\t" in first else r"\s+"
        frame = pd.read_csv(
            path,
            sep=separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            quoting=0 if suffix == ".csv" else 3,
        )
    except (ValueError, OSError, ImportError) as error:
        text = " ".join(str(error).split())
        raise CriticalMassError(f"{str(path)!r} cannot be read as qrels ({text}); {_FORM}") from (
            error
        )
    header = [str(cell).strip().lower() for cell in frame.iloc[0]]
    if any(cell in names for cell in header for names in _NAMES.values()):
        frame = frame.iloc[1:].set_axis(header, axis=1)
        return _named(frame, repr(str(path)))
    if frame.shape[1] not in (3, 4):
        raise CriticalMassError(f"{str(path)!r} has {frame.shape[1]} columns; {_FORM}")
    kept = frame.iloc[:, [0, 1, 2] if frame.shape[1] == 3 else [0, 2, 3]]
    return kept.set_axis(list(_NAMES), axis=1)


def _named(frame: pd.DataFrame, owner: str) -> pd.DataFrame:
    """Choose the columns by their names; without grades all are 1."""
    lower = {str(name).strip().lower(): name for name in frame.columns}
    chosen = {}
    for role, names in _NAMES.items():
        of_role = [lower[name] for name in names if name in lower]
        if of_role:
            chosen[role] = frame[of_role[0]]
        elif role != "grade":
            raise CriticalMassError(
                f"{owner} has the columns {', '.join(map(str, frame.columns))} and none for the "
                f"{role}; {_FORM}"
            )
    return pd.DataFrame(chosen if "grade" in chosen else chosen | {"grade": 1})


def _judgements(frame: pd.DataFrame, source: str) -> Judgements:
    grades = pd.to_numeric(frame["grade"], errors="coerce").to_numpy(dtype=np.float64)
    is_bad = ~np.isfinite(grades)
    if is_bad.any():
        row = int(np.argmax(is_bad))
        raise CriticalMassError(
            f"{source}: grade {frame['grade'].iloc[row]!r} of judgement {row + 1} is no number; "
            f"{_FORM}"
        )
    queries, documents = (as_ids(frame[name]) for name in ("query", "document"))
    return Judgements(queries, documents, grades, source)


def as_ids(values: Any) -> NDArray[np.object_]:
    """Return ids as texts; a whole number is written without a point."""
    series = pd.Series(values)
    if series.dtype.kind == "f" and (series == np.rint(series)).all():
        series = series.astype(np.int64)
    return np.array([str(value) for value in series.tolist()], dtype=object)


@dataclass(frozen=True)
class CollectionSource:
    """What holds documents, queries and qrels.

    Attributes
    ----------
    owner: what holds the documents, for messages.
    qrels_name: name of the qrels.
    skips_own_id: whether a document with the id of the query does not count as retrieved.
    remarks: phrases of the sentence on what is left.
    """

    owner: str
    qrels_name: str
    skips_own_id: bool = False
    remarks: Sequence[str] = ()


def match_judgements(
    judgements: Judgements,
    document_ids: Sequence[str],
    query_ids: Sequence[str],
    source: CollectionSource,
) -> MatchedQrels:
    """Find the rows that judgements name.

    Parameters
    ----------
    judgements: by ids. Of two judgements of one pair the last holds.
    document_ids, query_ids: ids of all rows.
    source: what holds them.

    Raises
    ------
    CriticalMassError: no query has a relevant document.
    """
    documents, queries = _first_rows(document_ids), _first_rows(query_ids)
    kept, counts = _relevant_pairs(judgements, documents, queries)
    query_rows = np.unique(kept["query"].to_numpy(dtype=np.intp))
    counts = {
        "documents with the id of an earlier one": len(document_ids) - len(documents),
        "queries with the id of an earlier one": len(query_ids) - len(queries),
        **counts,
        "queries without a relevant document": len(queries) - query_rows.size,
    }
    left_out = "; ".join(f"{what}: {count:,}" for what, count in counts.items() if count)
    if not query_rows.size:
        raise CriticalMassError(
            f"no query of {source.owner} has a relevant document in {judgements.source} "
            f"({judgements.grades.size:,} judgements; {left_out}); check that the ids are those "
            "of the documents and queries"
        )
    document_rows = np.fromiter(documents.values(), dtype=np.intp)
    own = np.full(query_rows.size, -1, dtype=np.int64)
    if source.skips_own_id:
        position = {name: number for number, name in enumerate(documents)}
        own[:] = [position.get(query_ids[row], -1) for row in query_rows.tolist()]
    pairs = (
        np.searchsorted(query_rows, kept["query"].to_numpy()),
        np.searchsorted(document_rows, kept["document"].to_numpy()),
        kept["grade"].to_numpy(dtype=np.float64),
    )
    shape = query_rows.size, document_rows.size
    qrels = Qrels.of_pairs(pairs, shape, own, source.qrels_name)
    parts = [f"{source.owner}: {qrels.describe()}", *source.remarks]
    parts += [f"left out ({left_out})"] if left_out else []
    n_own = int((own >= 0).sum())
    if n_own:
        parts.append(
            f"queries with the id of a document, which does not count as retrieved: {n_own:,}"
        )
    return MatchedQrels(qrels, document_rows, query_rows, "; ".join(parts))


def _relevant_pairs(
    judgements: Judgements, documents: Mapping[str, int], queries: Mapping[str, int]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return query, document and grade of relevant pairs by rows, and counts of the others."""
    pairs = pd.DataFrame(
        {
            "query": [queries.get(name, -1) for name in judgements.queries],
            "document": [documents.get(name, -1) for name in judgements.documents],
            "grade": judgements.grades,
        }
    )
    lacks_query, lacks_document = pairs["query"] < 0, pairs["document"] < 0
    is_known = ~lacks_query & ~lacks_document
    is_replaced = is_known & pairs.duplicated(["query", "document"], keep="last")
    holds = is_known & ~is_replaced
    kept = pairs[holds & (pairs["grade"] > 0.0)]
    return kept, {
        "judgements of queries that are absent": int(lacks_query.sum()),
        "judgements of documents that are absent": int((lacks_document & ~lacks_query).sum()),
        "judgements that a later one of the same pair replaces": int(is_replaced.sum()),
        "judgements with a grade of 0 or below": int(holds.sum()) - len(kept),
    }


def _first_rows(ids: Sequence[str]) -> dict[str, int]:
    """Return id -> the first row that has it, in the order of rows."""
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        rows.setdefault(name, row)
    return rows
