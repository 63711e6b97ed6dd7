"""Import of a retrieval collection: vectors of documents, vectors of queries, and qrels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.import_writer import SplitRows
from criticalmass.extraction.judgements import (
    CollectionSource,
    MatchedQrels,
    match_judgements,
    read_judgements,
)
from criticalmass.extraction.labels import encode_labels
from criticalmass.extraction.vectors import Vectors, VectorSource
from criticalmass.extraction.vectors.names import simplify
from criticalmass.storage.qrels import DOCUMENTS, QUERIES

#: What columns and arrays of ids are called, the first that exists is used.
_ID_NAMES = (
    *("id", "ids", "doc_id", "docid", "document_id", "corpus_id", "query_id", "qid", "pid"),
    *("docno", "key", "uuid"),
)


@dataclass(frozen=True, eq=False)
class ImportedCollection:
    """Vectors of documents and queries as the parts of one source.

    Attributes
    ----------
    vectors: with the parts "documents" and "queries".
    splits: split -> its rows.
    ids: part -> the id of every row.
    matched: the qrels, and a sentence on what they cover.
    """

    vectors: Vectors
    splits: Mapping[str, SplitRows]
    ids: Mapping[str, Sequence[str]]
    matched: MatchedQrels


def join_queries(documents: Vectors, queries: Vectors, qrels: Any) -> ImportedCollection:
    """Join documents and queries, and find the rows that the qrels name.

    Ids are those of a column or array called ``id``, ``_id``, ``ids``, ``doc_id``, ``query_id`` or
    the like. Without it they are row numbers, from 0.

    Parameters
    ----------
    documents, queries: vectors of one matrix each, of equal width.
    qrels: what `read_judgements` reads.

    Raises
    ------
    CriticalMassError: several matrices, another width, or no query with a relevant document.
    """
    sources: dict[str, VectorSource] = {}
    ids, origins = {}, []
    for part, vectors in (("documents", documents), ("queries", queries)):
        if set(vectors.sources) != {"all"}:
            raise CriticalMassError(
                f"{vectors.name} has the parts {', '.join(sorted(vectors.sources))}; give one "
                f"matrix of {part}"
            )
        source = vectors.sources["all"]
        sources[part] = replace(source, is_array=not vectors.files and source.database is None)
        ids[part], origin = _read_ids(vectors)
        origins.append(f"ids of {part}: {origin}")
    widths = {part: source.shape[1] for part, source in sources.items()}
    if len(set(widths.values())) > 1:
        raise CriticalMassError(
            f"documents have {widths['documents']} dimensions, queries {widths['queries']}; embed "
            "both with one model"
        )
    origin_of_all = CollectionSource(documents.name, _name_of(qrels), remarks=origins)
    judgements = read_judgements(qrels)
    matched = match_judgements(judgements, ids["documents"], ids["queries"], origin_of_all)
    write_line(matched.sentence)
    joined = replace(
        documents,
        sources=sources,
        labels={},
        files=(*documents.files, *queries.files),
        notes=(*documents.notes, *queries.notes),
    )
    splits = {
        DOCUMENTS: SplitRows("documents", matched.documents),
        QUERIES: SplitRows("queries", matched.queries),
    }
    return ImportedCollection(joined, splits, ids, matched)


def _read_ids(vectors: Vectors) -> tuple[list[str], str]:
    """Return the id of every row, and where they come from."""
    by_name = {simplify(name): name for name in reversed(vectors.column_names)}
    usual = next((by_name[name] for name in _ID_NAMES if name in by_name), None)
    name = vectors.id_column or usual
    column = None if name is None else (vectors.read_column(name) or {}).get("all")
    n = vectors.sources["all"].shape[0]
    if column is None:
        return [str(row) for row in range(n)], "row numbers"
    texts, (numbers,) = encode_labels([column])
    if numbers.size != n:
        raise CriticalMassError(f"{column.source} has {numbers.size} ids for {n} vectors")
    return np.array(texts, dtype=object)[numbers].tolist(), f"{vectors.unit} {name!r}"


def _name_of(qrels: Any) -> str:
    """Return the name of a file without its suffixes, else "given"."""
    return Path(qrels).name.partition(".")[0] if isinstance(qrels, (str, Path)) else "given"
