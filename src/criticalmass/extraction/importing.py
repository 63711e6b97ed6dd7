"""Import existing vectors, from arrays or files, into a feature store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.progress import warn_user, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.databases.opening import is_database, open_database
from criticalmass.extraction.databases.protocol import TableRequest
from criticalmass.extraction.datasets.collections import COLLECTION_NOTE
from criticalmass.extraction.datasets.dataset import CLASSES_NOTE
from criticalmass.extraction.datasets.several_labels import report_labelling
from criticalmass.extraction.datasets.splits import (
    SPLIT_SEED,
    TEST_SHARE,
    default_split_rule,
    stratified_test_mask,
)
from criticalmass.extraction.import_collection import join_queries
from criticalmass.extraction.import_columns import (
    Tasks,
    check_length,
    read_column_or_file,
    read_tasks,
    rows_by_split,
)
from criticalmass.extraction.import_writer import (
    CollectionEntry,
    ImportPlan,
    SplitRows,
    check_linkable,
    write_store,
)
from criticalmass.extraction.labels import (
    LabelColumn,
    check_hidden_labels,
    encode_labels,
)
from criticalmass.extraction.prompts import prompts_of_mapping, read_prompt_vectors
from criticalmass.extraction.vectors import (
    VectorRequest,
    Vectors,
    open_objects,
    open_vectors,
)
from criticalmass.extraction.vectors.names import split_roles
from criticalmass.extraction.vectors.tables import SPLIT_COLUMN, name_some
from criticalmass.storage.class_counts import describe_classes, describe_samples, report_classes
from criticalmass.storage.digests import file_digest
from criticalmass.storage.features import UNLABELLED, FeatureStore
from criticalmass.storage.features_writer import attach_prompts
from criticalmass.storage.prompts import Prompts
from criticalmass.storage.task_stores import Labelling, write_task_store

LAYER = "penultimate"
NO_LABELS = "none"
_ID_ROWS = 8192


@validate_arguments
def import_features(
    path_or_arrays: str | Path | ArrayLike | Mapping[str, ArrayLike],
    *,
    out: str | Path,
    labels: str | Path | ArrayLike | Mapping[str, ArrayLike] | None = None,
    split: str | Path | ArrayLike | None = None,
    column: str | None = None,
    link: bool = False,
    queries: str | Path | ArrayLike | None = None,
    qrels: str | Path | ArrayLike | Mapping[str, Any] | None = None,
    id: str | None = None,
    table: str | None = None,
    where: str | None = None,
    limit: int | None = None,
    prompts: str | Path | ArrayLike | Mapping[str, ArrayLike] | None = None,
    tasks: Sequence[str] | Mapping[str, Any] = (),
) -> FeatureStore:
    """Make a feature store from existing vectors; its layer is ``penultimate``.

    Files are read in chunks of rows, never as a whole, and copied. With ``link`` the store has no
    copy, but the path of the file, its size, its time, its digests and an index of the rows of each
    split. Opening it is an error if the file is missing or its vectors have changed.

    A column or array that could hold the vectors, by its name or type, is read or refused; it is
    never replaced by another one. One line says what was read and what was not, and another one
    counts samples and classes. Classes with too few samples are a warning.

    Parameters
    ----------
    path_or_arrays: (n_samples, n_neurons) vectors, or one such array per split
        (``{"train": X, "test": X}``): NumPy, torch, scipy.sparse, lists; a table of pandas,
        polars or pyarrow; or a file. Tables (``.parquet``, ``.csv``, ``.tsv``, ``.jsonl``,
        ``.ndjson``, ``.feather``, ``.arrow``, and a folder or pattern of files of one of these)
        have a column of vectors in any form (lists, tensors, texts such as ``[0.1, 0.2]``), or a
        column per neuron. Named arrays (``.npz``, ``.safetensors``, ``.pt``, ``.pth``, ``.h5``,
        ``.hdf5``) have one matrix, ``X``, or ``x_train`` and ``x_test``. Single matrices:
        ``.npy``, ``.npz`` of scipy.sparse, ``.fvecs``, ``.bvecs``, ``.ivecs``, and ``.faiss`` or
        ``.index`` (quantised indexes return approximate vectors). Or the address of a database,
        such as ``"postgresql://user@host/db"``, ``"qdrant:folder"`` or ``"duckdb:file"``
        (``criticalmass list databases``). Passwords and keys come from the address or the
        environment and are never stored.
    out: the folder of the store.
    labels: (n_samples,) whole numbers or texts of any type, or one array per split; the name of a
        column or array of the file; an ``.npy`` file, or a ``.txt`` file with one label per line.
        By default the column or array called ``label``, ``labels``, ``target``, ``class`` or
        ``y``, in any case (in split files ``y_train`` and ``y_test`` ...). ``"none"``, or no such
        column: there is one class, and only measures that need no labels apply.
    split: (n_samples,) texts ``"train"`` and ``"test"`` (``"val"``), a boolean mask of the test
        samples, or a column or file of either; by default a single matrix is split by class (at
        random without labels), a quarter for the test, seed 0. A whole number: if nothing else
        splits the vectors, so many are drawn at random for the test, at most a quarter.
    column: the column, array or tensor of the vectors, if there are several; a pattern such as
        ``"d*"`` names the columns of a table that has a column per neuron.
    link: refer to the file instead of copying it. It must hold one row-major float32 or float16
        matrix, uncompressed: ``.npy``, ``.npz``, ``.safetensors``, a flat FAISS index.
    queries: (n_queries, n_neurons) vectors of queries, in any of these forms. The vectors are then
        the documents of a retrieval collection: the split ``train`` has the documents, ``test`` the
        queries, and there are no labels. Needs ``qrels``.
    qrels: which documents are relevant to which queries: a file with the columns query-id,
        corpus-id and score (BEIR) or of TREC's form, a table, ``{query: {document: grade}}``, or
        an (n, 3) array. Ids are those of a column or array called ``id``, ``_id``, ``doc_id``,
        ``query_id`` ..., else row numbers. What is left out is counted in one line: repeated ids,
        unknown ids, grades of 0 or below, queries without a relevant document.
    id: column of a table or database that holds distinct ids, which the store then keeps. By
        default the key of a database's table, else numbers of the rows.
    table: table or collection of a database, if several have vectors.
    where: condition of the rows to read, in the database's own language.
    limit: largest number of rows to read from a database.
    prompts: vectors of class prompts in the space of the samples, for the measure ``zero-shot``:
        a file or table whose label column names the class of each row, class name -> (n_prompts,
        n_neurons), or one row for each class in their order. They replace those of a store that
        exists.
    tasks: several labels of each vector instead of ``labels``: names of columns, arrays or files,
        or name -> labels. The vectors are stored once, and each label has a store of its own beside
        them (`FeatureStore.task`). A single part is split by the classes of the first one; rows
        without a value are left out of that label only.

    Raises
    ------
    CriticalMassError: no such file, column or tensor; no clear choice; values that are not
        finite; missing labels, or labels that are neither whole numbers nor texts; shapes that do
        not fit;
        too little free space for a copy; ``link`` of a file that cannot be linked.
    StoreError: ``out`` holds another request's features.
    MissingExtraError: the library that reads the file is not installed.
    """
    rows = TableRequest(table, id, where, limit)
    with ExitStack() as opened:
        if queries is not None or qrels is not None:
            if prompts is not None:
                raise CriticalMassError("prompts name classes, and a collection has none")
            for name, value in (("link", link), ("tasks", tasks)):
                if value:
                    raise CriticalMassError(
                        f"documents and queries are copied into one store; leave out {name}"
                    )
            return _import_collection(
                path_or_arrays, queries, qrels, Path(out), labels, split, column, rows, opened
            )
        if tasks and labels is not None:
            raise CriticalMassError("labels and tasks are given; give the first of them in tasks")
        if tasks:
            labels = NO_LABELS
        vectors = _open_input(path_or_arrays, labels, split, column, rows, opened, tasks)
        labellings = read_tasks(vectors, tasks) if tasks else []
        store = _import_vectors(vectors, Path(out), labels, split, column, link, labellings)
        if prompts is None:
            return store
        return attach_prompts(store, _open_prompts(prompts, store, opened))


def _open_prompts(prompts: Any, store: FeatureStore, opened: ExitStack) -> Prompts:
    """Read the prompts of the classes of a store.

    Raises
    ------
    CriticalMassError: the store has no classes, or a class has no prompt.
    """
    if store.class_names == UNLABELLED:
        raise CriticalMassError("prompts name classes, and the vectors have no labels; give labels")
    if isinstance(prompts, Mapping):
        read = prompts_of_mapping(prompts, LAYER)
    else:
        vectors = _open_input(
            prompts, None, None, None, TableRequest(None, None, None, None), opened
        )
        read = read_prompt_vectors(vectors, store.class_names, LAYER)
    read.for_classes(store.class_names)
    return read


def _import_vectors(
    vectors: Vectors, out: Path, labels: Any, split: Any, column: str | None, link: bool,
    labellings: Sequence[Labelling] = (),
) -> FeatureStore:  # fmt: skip
    """Make the store of vectors, and those of several labels of them."""
    if link:
        check_linkable(vectors)
    given = _read_labels(vectors, labels, column) if not labellings else _several(labellings)
    _write_summary(vectors, given.source)
    class_names, class_numbers = _encode_classes(vectors, given)
    if len({source.shape[1] for source in vectors.sources.values()}) != 1:
        shapes = ", ".join(f"{name} {source.shape}" for name, source in vectors.sources.items())
        raise CriticalMassError(f"the splits differ in width: {shapes}")
    splits, rule = _assign_rows(vectors, class_numbers, split, labellings)
    labels_of_splits = {name: class_numbers[rows.part][rows.rows] for name, rows in splits.items()}
    owners = {name: given.source_of(rows.part) for name, rows in splits.items()}
    check_hidden_labels(labels_of_splits, class_names, owners)
    notes = {"split": rule, "labels": given.source}
    if vectors.id_column is not None:
        notes["ids"] = f"column {vectors.id_column!r}"
    if vectors.notes:
        notes["vectors"] = "; ".join(vectors.notes)
    problems = describe_classes(labels_of_splits, class_names)
    if problems:
        notes[CLASSES_NOTE] = "; ".join(problem.text for problem in problems)
    header = _manifest_header(vectors, class_numbers, class_names, notes)
    store = write_store(out, ImportPlan(LAYER, vectors, class_numbers, splits, header, link))
    _write_counts(store, vectors, labels_of_splits, class_names)
    report_classes(vectors.name, problems)
    for one in labellings:
        numbers = {name: one.labels[rows.part][rows.rows] for name, rows in splits.items()}
        labelling = replace(one, labels=numbers)
        report_labelling(labelling, vectors.name, "vectors")
        write_task_store(store, labelling)
    return store


def _several(labellings: Sequence[Labelling]) -> _GivenLabels:
    return _GivenLabels(None, ", ".join(repr(one.name) for one in labellings))


def _import_collection(
    documents: Any, queries: Any, qrels: Any, out: Path, labels: Any, split: Any,
    column: str | None, rows: TableRequest, opened: ExitStack,
) -> FeatureStore:  # fmt: skip
    """Make the store of a retrieval collection."""
    if queries is None or qrels is None:
        missing = "queries" if queries is None else "qrels"
        raise CriticalMassError(f"a retrieval collection needs queries and qrels; give {missing}")
    is_unlabelled = labels is None or (isinstance(labels, str) and labels == NO_LABELS)
    if not is_unlabelled or split is not None:
        raise CriticalMassError(
            "with queries and qrels there are no labels, and the queries are the test split; leave "
            f"out {'split' if is_unlabelled else 'labels'}"
        )
    stored, asked = (
        _open_input(source, NO_LABELS, None, column, rows, opened)
        for source in (documents, queries)
    )
    joined = join_queries(stored, asked, qrels)
    vectors, matched = joined.vectors, joined.matched
    numbers = {name: np.zeros(s.shape[0], np.int64) for name, s in vectors.sources.items()}
    notes = {"split": "documents and queries", "labels": "none", COLLECTION_NOTE: matched.sentence}
    header = _manifest_header(vectors, numbers, UNLABELLED, notes)
    dataset = header["dataset"]
    dataset["digest"] = hashlib.sha256(
        f"{dataset['digest']} {matched.qrels.digest}".encode()
    ).hexdigest()
    entry = CollectionEntry(joined.ids, matched.qrels)
    plan = ImportPlan(LAYER, vectors, numbers, joined.splits, header, link=False, collection=entry)
    return write_store(out, plan)


def _write_counts(
    store: FeatureStore,
    vectors: Vectors,
    labels: Mapping[str, NDArray[np.int64]],
    class_names: tuple[str, ...],
) -> None:
    """Write counts and the place of the vectors in one line."""
    rows = sum(len(numbers) for numbers in labels.values())
    width = next(iter(vectors.sources.values())).shape[1]
    counts = describe_samples(labels, class_names)
    link = store.manifest["layers"][LAYER].get("linked")
    place = "copied" if link is None else f"linked to {link['path']}"
    write_line(f"{store.path}: {rows:,} rows, {width:,} neurons, {counts}; vectors {place}")


def _open_input(
    path_or_arrays: Any, labels: Any, split: Any, column: str | None, rows: TableRequest,
    opened: ExitStack, tasks: Tasks = (),
) -> Vectors:  # fmt: skip
    """Open the database or file, or wrap the arrays; ``opened`` closes the database."""
    request = VectorRequest(
        column,
        labels if isinstance(labels, str) else None,
        split if isinstance(split, str) else None,
        find_labels=labels is None,
        id=rows.id,
        tasks=tuple(value for value in _named_columns(tasks) if isinstance(value, str)),
    )
    if isinstance(path_or_arrays, str) and is_database(path_or_arrays):
        return opened.enter_context(open_database(path_or_arrays, request, rows))
    for name, value in (("table", rows.table), ("where", rows.where), ("limit", rows.limit)):
        if value is not None:
            raise CriticalMassError(f"{name}={value!r} is for databases; leave it out (--{name})")
    if isinstance(path_or_arrays, (str, Path)):
        vectors = open_vectors(Path(path_or_arrays), request)
    else:
        vectors = open_objects(path_or_arrays, request)
    parts = set(vectors.sources)
    if parts != {"all"} and not {"train", "test"} <= parts <= {"train", "test", "val"}:
        raise CriticalMassError(f"splits must be 'train' and 'test', got {sorted(parts)}")
    return vectors


def _named_columns(tasks: Tasks) -> Iterable[Any]:
    return tasks.values() if isinstance(tasks, Mapping) else tasks


@dataclass(frozen=True)
class _GivenLabels:
    """The labels of all parts, as given.

    Attributes
    ----------
    columns: part -> labels; None without labels.
    source: where they come from, for the manifest.
    are_chosen: whether they were chosen by their name, and not named by the user.
    """

    columns: Mapping[str, LabelColumn] | None
    source: str
    are_chosen: bool = False

    def source_of(self, part: str) -> str:
        """Return what holds the labels of a part, for messages."""
        return self.columns[part].source if self.columns else "labels"


def _read_labels(vectors: Vectors, labels: Any, column: str | None) -> _GivenLabels:
    """Read the labels of every part."""
    if labels == NO_LABELS if isinstance(labels, str) else labels is None and not vectors.labels:
        named = vectors.read_column(NO_LABELS) if labels == NO_LABELS else None
        if named is None:
            write_line(
                f"{vectors.name} without labels: measures such as cka and retrieval need none"
            )
            return _GivenLabels(None, "none")
        return _GivenLabels(named, f"{vectors.unit} {NO_LABELS!r}")
    if labels is None:
        is_usual = vectors.unit == "column" or vectors.label_source == f"as in {vectors.name}"
        if column is not None and not is_usual:
            warn_user(
                f"{vectors.name}: the labels are {vectors.label_source}; labels='none' (--labels "
                "none) leaves them out"
            )
        return _GivenLabels(vectors.labels, vectors.label_source, are_chosen=True)
    if isinstance(labels, (str, Path)):
        columns, source = read_column_or_file(labels, vectors, "label")
    elif isinstance(labels, Mapping):
        roles = split_roles(map(str, labels))
        columns = {
            roles[str(part)]: LabelColumn(values, f"labels of {str(part)!r}")
            for part, values in labels.items()
        }
        source = "as given"
    else:
        columns, source = {"all": LabelColumn(labels)}, "as given"
    if set(columns) != set(vectors.sources):
        raise CriticalMassError(
            f"features have the splits {sorted(vectors.sources)}, labels {sorted(columns)}; "
            "give both the same splits"
        )
    return _GivenLabels(columns, source)


def _write_summary(vectors: Vectors, label_source: str) -> None:
    """Write in one line what was read and what was not."""
    if not vectors.origin:
        return
    rows = sum(source.shape[0] for source in vectors.sources.values())
    width = next(iter(vectors.sources.values())).shape[1]
    line = f"{vectors.name}: {rows:,} rows of {width:,} numbers from {vectors.origin}"
    line += f"; labels: {label_source}"
    if vectors.id_column is not None:
        line += f"; ids: column {vectors.id_column!r}"
    if vectors.unread:
        line += f"; not read: {name_some(vectors.unread)}"
    exact = [note for note in vectors.notes if not note.startswith(("read of", "not read of"))]
    write_line("; ".join([line, *exact]))


def _encode_classes(
    vectors: Vectors, labels: _GivenLabels
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Return the class names, and part -> (n,) class numbers."""
    sources = vectors.sources
    if labels.columns is None:
        return UNLABELLED, {n: np.zeros(s.shape[0], np.int64) for n, s in sources.items()}
    for part, source in sources.items():
        check_length(source, labels.columns[part])
    cure = "; or leave the labels out with labels='none' (--labels none)"
    columns = [labels.columns[part] for part in sources]
    class_names, numbers = encode_labels(columns, cure if labels.are_chosen else "")
    return class_names, dict(zip(sources, numbers, strict=True))


def _assign_rows(
    vectors: Vectors,
    labels: Mapping[str, NDArray[np.int64]],
    split: Any,
    labellings: Sequence[Labelling] = (),
) -> tuple[dict[str, SplitRows], str]:
    """Assign rows to splits; return split -> its rows, and a description of the rule."""
    if "all" not in vectors.sources:
        if split is not None and not isinstance(split, int):
            raise CriticalMassError("the vectors are split already; leave out split=")
        splits = {
            name: SplitRows(name, np.arange(source.shape[0]))
            for name, source in vectors.sources.items()
        }
        return splits, "as given"
    if (split is None or isinstance(split, int)) and vectors.split_column == SPLIT_COLUMN:
        values, rule = vectors.read_column(SPLIT_COLUMN), "by the names of the files"
    elif split is None:
        strata = labellings[0].labels["all"] + 1 if labellings else labels["all"]
        mask = stratified_test_mask(strata, TEST_SHARE, SPLIT_SEED)
        rule = default_split_rule(strata, [one.name for one in labellings])
        rows = {"train": np.flatnonzero(~mask), "test": np.flatnonzero(mask)}
        return {name: SplitRows("all", indices) for name, indices in rows.items()}, rule
    elif isinstance(split, int):
        n = vectors.sources["all"].shape[0]
        values, rule = {"all": LabelColumn(_random_mask(n, split), "split")}, f"{split} at random"
    elif isinstance(split, (str, Path)):
        values, rule = read_column_or_file(split, vectors, "split")
    else:
        values, rule = {"all": LabelColumn(split, "split")}, "as given"
    rows = rows_by_split((values or {})["all"], vectors.sources["all"].shape[0])
    return {name: SplitRows("all", indices) for name, indices in rows.items()}, rule


def _random_mask(n: int, n_test: int) -> NDArray[np.bool_]:
    """Return the (n,) mask of ``n_test`` random samples, or of a quarter if that is fewer."""
    if n_test < 1 or n < round(1 / TEST_SHARE):
        raise CriticalMassError(
            f"split={n_test} of {n} vectors: give a whole number of at least 1, and at least "
            f"{round(1 / TEST_SHARE)} vectors"
        )
    mask = np.zeros(n, dtype=np.bool_)
    size = min(n_test, int(n * TEST_SHARE))
    mask[np.random.default_rng(SPLIT_SEED).choice(n, size, replace=False)] = True
    return mask


def _manifest_header(
    vectors: Vectors,
    labels: Mapping[str, NDArray[np.int64]],
    class_names: tuple[str, ...],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """Describe the import for the manifest; equal headers mean equal content."""
    digest = hashlib.sha256()
    for file in vectors.files:
        digest.update(file_digest(file).encode())
    for name, source in vectors.sources.items():
        digest.update(f"{name}{source.dtype.str}{source.shape}".encode())
        if source.ids is not None:
            for row in range(0, len(source.ids), _ID_ROWS):
                digest.update(repr(source.ids[row : row + _ID_ROWS].to_pylist()).encode())
        if source.database is not None:
            digest.update(repr(source.database).encode())
        elif source.is_array or not vectors.files:
            for chunk in source.chunks():
                digest.update(np.ascontiguousarray(chunk).tobytes())
        digest.update(labels[name].tobytes())
    digest.update(repr(class_names).encode())
    is_half = all(source.dtype == np.float16 for source in vectors.sources.values())
    first = next(iter(vectors.sources.values()))
    return {
        "model": {"spec": "imported", "name": "imported", "modality": "vector"},
        "dataset": {
            "spec": first.database.address if first.database else vectors.name,
            "name": vectors.name if first.database else Path(vectors.name).stem,
            "modality": "vector",
            "digest": digest.hexdigest(),
            "class_names": list(class_names),
            "notes": dict(notes),
        },
        "layers": {
            LAYER: {
                "place": "imported",
                "pooling": "none",
                "dtype": "float16" if is_half else "float32",
                "shape": [first.shape[1]],
            }
        },
        "engine": {"name": "imported"},
        "versions": {name: version(name) for name in ("criticalmass", "numpy")},
    }
