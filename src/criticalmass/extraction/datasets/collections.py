"""Retrieval collections of texts: BEIR folders, and tasks of mteb.

The documents are the split ``train`` and the queries the split ``test``; `Dataset.qrels` says which
documents are relevant. The text of a document is its title and its text, as in BEIR and MTEB.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.judgements import (
    CollectionSource,
    Judgements,
    match_judgements,
    read_judgements,
)
from criticalmass.extraction.specs import Spec, missing_path
from criticalmass.storage.features import UNLABELLED
from criticalmass.storage.qrels import DOCUMENTS, QUERIES

#: Options of ``beir:FOLDER``.
BEIR_OPTIONS = ("split",)
DEFAULT_QRELS = "test"
COLLECTION_NOTE = "collection"
"""The note that says what a collection has, and what was left out of it."""
_Texts = tuple[list[str], list[str]]


def load_beir(spec: Spec) -> Dataset:
    """Load a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/NAME.tsv``.

    Parameters
    ----------
    spec: ``beir:FOLDER``; ``?split=dev`` names other qrels than ``test``. The texts may be packed
        (``.jsonl.gz``).

    Raises
    ------
    CriticalMassError: a file is missing or unreadable, or no query has a relevant document.
    """
    folder = Path(spec.name)
    if not folder.is_dir():
        raise missing_path(folder, "folder")
    documents, queries = (_read_texts(folder, name) for name in ("corpus", "queries"))
    files = {
        file.stem: file
        for pattern in ("*.parquet", "*.jsonl", "*.txt", "*.tsv")
        for file in sorted((folder / "qrels").glob(pattern))
    }
    if not files:
        raise CriticalMassError(
            f"{str(folder / 'qrels')!r} holds no qrels; it needs a file such as test.tsv with the "
            "columns query-id, corpus-id and score"
        )
    name = _choose_qrels(list(files), spec.options.get("split"), repr(spec.text))
    # As in BEIR's evaluation, a document with the query's own id does not count as retrieved.
    return _collection(
        spec.text, folder.resolve().name, documents, queries, read_judgements(files[name]), name,
        skips_own_id=True,
    )  # fmt: skip


def is_task(value: object) -> bool:
    """Whether a value is a retrieval task of mteb."""
    return hasattr(value, "metadata") and hasattr(value, "load_data")


def read_task(task: Any, *, split: str | None = None, subset: str | None = None) -> Dataset:
    """Read a retrieval task of mteb, of version 1 or 2; its data are loaded if they are not.

    Parameters
    ----------
    task: has ``dataset[subset][split]`` with corpus, queries and relevant_docs, or the attributes
        ``corpus``, ``queries`` and ``relevant_docs`` by split.
    split: name of the split; ``test`` by default, or the only one.
    subset: name of the subset, if the task has several.

    Raises
    ------
    CriticalMassError: no such split or subset, or no texts.
    """
    name = str(task.metadata.name)
    if not getattr(task, "data_loaded", False):
        task.load_data()
    parts = _parts_of_task(task, name, split, subset)
    chosen, corpus, queries, relevant = parts
    judgements = read_judgements(relevant, f"relevant_docs of {name!r}")
    return _collection(
        f"mteb:{name}?split={chosen}", name, _rows_of(corpus, name), _rows_of(queries, name),
        judgements, chosen, skips_own_id=bool(getattr(task, "ignore_identical_ids", False)),
    )  # fmt: skip


def _parts_of_task(
    task: Any, name: str, split: str | None, subset: str | None
) -> tuple[str, Any, Any, Any]:
    """Return the name of the split, and its corpus, queries and relevant documents."""
    names = ("corpus", "queries", "relevant_docs")
    if all(hasattr(task, attribute) for attribute in names):
        tables = [getattr(task, attribute) for attribute in names]
        if getattr(task.metadata, "is_multilingual", False):
            tables = [table[_choose(table, subset, "subset", name)] for table in tables]
        chosen = _choose_qrels(list(tables[2]), split, f"task {name!r}")
        corpus, queries, relevant = (table[chosen] for table in tables)
        return chosen, corpus, queries, relevant
    data = task.dataset[_choose(task.dataset, subset, "subset", name)]
    chosen = _choose_qrels(list(data), split, f"task {name!r}")
    corpus, queries, relevant = (data[chosen][key] for key in names)
    return chosen, corpus, queries, relevant


def _choose(table: Mapping[str, Any], name: str | None, kind: str, task: str) -> str:
    names = list(table)
    if name is None and len(names) == 1:
        return names[0]
    if name in names:
        return str(name)
    raise unknown_name(f"{kind} of task {task!r}", str(name), names)


def _choose_qrels(names: list[str], name: str | None, owner: str) -> str:
    """Choose qrels by name: ``test``, or the only ones, if none is named."""
    if name is None and len(names) == 1:
        name = names[0]
    name = DEFAULT_QRELS if name is None else name
    if name not in names:
        raise unknown_name(f"qrels in {owner}; name one with split=NAME:", name, names)
    others = [other for other in names if other != name]
    if others:
        write_line(f"{owner}: qrels {name!r}; not read: {', '.join(map(repr, others))}")
    return name


def _read_texts(folder: Path, name: str) -> _Texts:
    """Read the ids and texts of ``NAME.jsonl``."""
    paths = [folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise missing_path(paths[0])
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig") as file
    ):
        return _unzip(_parse_lines(file, path))


def _parse_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield _text_of(row, str(row["_id"] if "_id" in row else row["id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CriticalMassError(
                f"line {number} of {str(path)!r} is no JSON object with _id and text ({error})"
            ) from error


def _text_of(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    title, text = row.get("title") or "", row["text"] or ""
    if not isinstance(title, str) or not isinstance(text, str):
        raise TypeError("title and text must be texts")
    return name, f"{title} {text}".strip()


def _rows_of(table: Any, task: str) -> _Texts:
    """Read ids and texts of a mapping by id, or of rows with id, title and text."""
    try:
        if isinstance(table, Mapping):
            return _unzip(
                _text_of({"text": row} if isinstance(row, str) else row, str(name))
                for name, row in table.items()
            )
        return _unzip(_text_of(row, str(row["id"])) for row in table)
    except (KeyError, TypeError) as error:
        raise CriticalMassError(
            f"task {task!r} has no ids and texts to embed ({error!r}); only retrieval tasks of "
            "texts can be read"
        ) from error


def _unzip(pairs: Iterable[tuple[str, str]]) -> _Texts:
    ids, texts = [], []
    for name, text in pairs:
        ids.append(name)
        texts.append(text)
    return ids, texts


def _collection(
    spec: str,
    name: str,
    documents: _Texts,
    queries: _Texts,
    judgements: Judgements,
    qrels_name: str,
    *,
    skips_own_id: bool,
) -> Dataset:
    """Keep what the judgements cover, and say what was left out."""
    empty = {
        "documents": sum(not text for text in documents[1]),
        "queries": sum(not text for text in queries[1]),
    }
    remarks = [f"{kind} without text: {count:,}" for kind, count in empty.items() if count]
    source = CollectionSource(repr(spec), qrels_name, skips_own_id, remarks)
    matched = match_judgements(judgements, documents[0], queries[0], source)
    write_line(matched.sentence)
    splits = {
        split: Split(
            [texts[row] for row in rows],
            np.zeros(len(rows), dtype=np.int64),
            [ids[row] for row in rows],
        )
        for split, (ids, texts), rows in (
            (DOCUMENTS, documents, matched.documents.tolist()),
            (QUERIES, queries, matched.queries.tolist()),
        )
    }
    notes = {COLLECTION_NOTE: matched.sentence}
    return Dataset(spec, name, "text", splits, UNLABELLED, notes=notes, qrels=matched.qrels)
