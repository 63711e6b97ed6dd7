"""Vectors in tables: one column that holds vectors in any form, or one column per neuron.

A reader of a format implements `VectorTable`; `open_table` chooses the columns and reads them.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.labels import LabelColumn
from criticalmass.extraction.vectors.arrow_cells import (
    CellError,
    holds_numbers,
    is_number_list,
    is_text,
    read_vectors,
    to_number_lists,
)
from criticalmass.extraction.vectors.names import (
    find_label_name,
    is_key_name,
    is_surely_vector_name,
    is_vector_name,
    name_pattern,
)
from criticalmass.extraction.vectors.source import VectorRequest, Vectors, VectorSource
from criticalmass.storage.untrusted import check_unpacked

#: The column in which the files of a folder named ``train...`` and ``test...`` differ.
SPLIT_COLUMN = "split by the names of the files"
_SAMPLE_ROWS = 16
_LONG_WORD = 20
_MAX_NAMES = 10


class VectorTable(Protocol):
    """A table of any format.

    Attributes
    ----------
    name: name for the manifest: of the file, or "arrays".
    owner: name for messages: the path in quotes, or "the table".
    files: the files; empty for a table in memory.
    schema: column -> Arrow type.
    n_rows: number of rows.
    is_untyped: whether the file states no types, so that they are those of the first rows.
    has_text_cells: whether all cells are texts, also numbers.
    key: column of distinct ids, if the table declares one.
    """

    name: str
    owner: str
    files: tuple[Path, ...]
    schema: Mapping[str, Any]
    n_rows: int
    is_untyped: bool
    has_text_cells: bool
    key: str | None

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows; column -> Arrow array. Untyped numbers: float64."""
        ...

    def values(self, name: str) -> Any:
        """Read a column, one value per row: an Arrow array, a NumPy array or a list."""
        ...

    def check_size(self, n_bytes: int) -> None:
        """Refuse a file that unpacks to far more bytes than it has."""
        ...


class FileTable:
    """The names of a table in one file, and the check of its size.

    Attributes
    ----------
    path: the file.
    name, owner, files: see `VectorTable`.
    """

    key: str | None = None

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.owner = path, path.name, repr(str(path))
        self.files: tuple[Path, ...] = (path,)

    def check_size(self, n_bytes: int) -> None:
        """Refuse a file that unpacks to far more bytes than it has."""
        check_unpacked(self.path, n_bytes)


def check_distinct(names: Sequence[str], owner: str) -> None:
    """Check that all columns have different names.

    Raises
    ------
    CriticalMassError: several columns of one name.
    """
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise CriticalMassError(f"{owner} has {count} columns {name!r}; rename all but one")


@dataclass(frozen=True)
class _Choice:
    """The columns of the vectors.

    Attributes
    ----------
    names: one column of vectors, or a column per neuron.
    is_wide: whether they are a column per neuron.
    is_usual: whether the first versions of this package chose the same columns; the manifest
        must then stay the same.
    """

    names: tuple[str, ...]
    is_wide: bool
    is_usual: bool


def open_table(table: VectorTable, request: VectorRequest) -> Vectors:
    """Choose the columns of vectors and labels, and describe how to read them.

    Raises
    ------
    CriticalMassError: no rows, no such column, or no clear choice; the message lists the columns.
    """
    if not table.n_rows:
        raise CriticalMassError(f"{table.owner} has no rows")
    fields = table.schema
    label, split = request.labels, request.split
    if split is None and SPLIT_COLUMN in fields:
        split = SPLIT_COLUMN
    if request.find_labels:
        excluded = {request.column, split, *_coordinates(fields)}
        label = find_label_name(
            [name for name in fields if name not in excluded], f"the columns of {table.owner}"
        )
    key = _key(table, request)
    others = {name for name in (label, split, key) if name is not None} | request.others
    choice = _Chooser(table, others).choose(request.column)
    source = _wide_source(table, choice) if choice.is_wide else _cell_source(table, choice)
    unread = tuple(name for name in fields if name not in {*choice.names, *others})
    origin = _describe_columns(table, choice)

    def read_column(name: str) -> Mapping[str, LabelColumn] | None:
        if name not in fields:
            return None
        what = f"column {name!r} of {table.owner}"
        return {"all": LabelColumn(table.values(name), what, table.has_text_cells)}

    labels = read_column(label) if request.find_labels and label is not None else None
    if key is not None:
        source = replace(source, ids=_read_ids(table, key))
    return Vectors(
        table.name,
        {"all": source},
        labels or {},
        f"column {label!r}",
        read_column,
        column_names=tuple(fields),
        files=table.files,
        notes=_notes(table, choice, origin, unread),
        origin=origin,
        unread=unread,
        split_column=split if split in fields else None,
        columns=choice.names,
        id_column=key,
    )


def _key(table: VectorTable, request: VectorRequest) -> str | None:
    """Return the column of the ids: the one that the user named, or the table's key."""
    if request.id is not None and request.id not in table.schema:
        raise unknown_name(f"column in {table.owner}", request.id, table.schema)
    return request.id or table.key


def _read_ids(table: VectorTable, name: str) -> Any:
    """Read the ids of the rows as an Arrow array.

    Raises
    ------
    CriticalMassError: missing ids, or an id of two rows.
    """
    import pyarrow as pa

    values = table.values(name)
    cells = values if hasattr(values, "null_count") else pa.array(values)
    cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
    problem = describe_ids(cells)
    if problem:
        raise CriticalMassError(
            f"column {name!r} of {table.owner} has {problem}; ids must be distinct: name another "
            "column with id= (--id)"
        )
    return cells


def describe_ids(cells: Any) -> str:
    """Return why an Arrow array holds no distinct ids; empty if it does."""
    import pyarrow.compute as pc

    if cells.null_count:
        return f"no id in row {int(np.argmax(np.asarray(cells.is_null())))}"
    if pc.count_distinct(cells).as_py() == len(cells):
        return ""
    counts = pc.value_counts(cells)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    return f"the id {str(twice[0]['values'])!r} more than once"


def _coordinates(fields: Mapping[str, Any]) -> list[str]:
    """Return the columns ``x`` and ``y`` of decimal numbers: ``y`` is then no label."""
    from pyarrow import types

    names = [n for n, kind in fields.items() if n.lower() in ("x", "y") and types.is_floating(kind)]
    return names if len(names) == 2 else []


def _notes(
    table: VectorTable, choice: _Choice, origin: str, unread: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the remarks of the manifest.

    Those of inputs that the first versions could read must never change: the notes are a part of
    the request by which an existing store is recognised.
    """
    if not table.files and choice.is_usual and len(choice.names) == len(table.schema):
        return ()
    names = [file.name for file in table.files if file.suffix.lower() == ".parquet"]
    notes = (
        () if choice.is_usual and names == [table.name] else (f"read of {table.name}: {origin}",)
    )
    if unread:
        notes = (*notes, f"not read of {table.name}: {', '.join(map(repr, unread))}")
    return notes


def _describe_columns(table: VectorTable, choice: _Choice) -> str:
    if not choice.is_wide:
        return f"column {choice.names[0]!r} ({_describe_type(table.schema[choice.names[0]])})"
    return f"{len(choice.names)} columns of numbers, {name_some(choice.names)}"


def _describe_type(kind: Any) -> str:
    if is_number_list(kind):
        return f"lists of {kind.value_type}"
    if is_text(kind):
        return "texts"
    return str(kind).partition("<")[0] if "extension" not in str(kind) else "tensors"


def name_some(names: Sequence[str]) -> str:
    """List names in quotes, at most ten."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(repr, names[:_MAX_NAMES])) + more


class _Chooser:
    """Chooses the columns of the vectors.

    A column can hold vectors by its type (lists of numbers, tensors, nested lists, structs with
    one list, texts that are lists of numbers) or by its name. Columns with one number per cell
    are neurons only where no column can hold vectors.
    """

    def __init__(self, table: VectorTable, others: set[str]) -> None:
        self.table = table
        self.fields = {name: kind for name, kind in table.schema.items() if name not in others}
        self._samples: Mapping[str, Any] | None = None

    def choose(self, column: str | None) -> _Choice:
        """Choose the columns, or check the one that the user named."""
        if column is not None:
            return self._named(column)
        usual = [name for name, kind in self.fields.items() if is_number_list(kind)]
        unusual, unreadable = self._judge(set(usual))
        candidates = [*usual, *unusual]
        named = [name for name in candidates if is_vector_name(name)]
        named_unreadable = [
            name for name in unreadable if is_vector_name(name) or is_surely_vector_name(name)
        ]
        if len(usual) == 1 and (named == usual or not (named or named_unreadable)):
            return _Choice((usual[0],), is_wide=False, is_usual=not self.table.is_untyped)
        if len(named) == 1 and not (named_unreadable and named != usual):
            return _Choice((named[0],), is_wide=False, is_usual=False)
        wide, is_usual = self._wide()
        if named_unreadable or (unreadable and not candidates):
            name = (named_unreadable or list(unreadable))[0]
            raise self._unreadable_error(name, unreadable[name], wide)
        if len(candidates) == 1 and len(wide) < 2:
            return _Choice((candidates[0],), is_wide=False, is_usual=False)
        if candidates:
            raise self._ambiguous_error(candidates, wide if len(candidates) == 1 else ())
        if not wide:
            raise self._nothing_error()
        return _Choice(wide, is_wide=True, is_usual=is_usual)

    def _named(self, column: str) -> _Choice:
        owner = self.table.owner
        if column not in self.table.schema:
            if not set("*?[") & set(column):
                raise unknown_name(f"column in {owner}", column, self.table.schema)
            names = tuple(n for n in fnmatch.filter(self.fields, column) if self._is_number(n))
            if not names:
                raise CriticalMassError(
                    f"column={column!r} matches no column of numbers in {owner}; "
                    f"it has {self._listing()}"
                )
            self._check_series(names)
            return _Choice(names, is_wide=True, is_usual=False)
        kind = self.table.schema[column]
        if is_number_list(kind):
            return _Choice((column,), is_wide=False, is_usual=not self.table.is_untyped)
        if not (holds_numbers(kind) or is_text(kind)):
            raise CriticalMassError(
                f"column {column!r} of {owner} is {kind}; the vectors must be a column of lists "
                "of numbers, or a column per neuron (leave out column=, or give a pattern such as "
                "column='d*')"
            )
        reason = self._problem(column)
        if reason is not None:
            raise self._unreadable_error(column, reason, ())
        return _Choice((column,), is_wide=False, is_usual=False)

    def _judge(self, usual: set[str]) -> tuple[list[str], dict[str, str]]:
        """Return columns of vectors in unusual forms, and name -> what an unreadable one has."""
        from pyarrow import types

        readable: list[str] = []
        unreadable: dict[str, str] = {}
        for name, kind in self.fields.items():
            if name in usual or self._is_number(name):
                continue
            if not (holds_numbers(kind) or is_text(kind)):
                is_blob = types.is_binary(kind) or types.is_large_binary(kind)
                if is_vector_name(name) or (is_blob and is_surely_vector_name(name)):
                    unreadable[name] = "no numbers"
                continue
            reason = self._problem(name)
            if reason is None:
                readable.append(name)
            elif holds_numbers(kind) or (is_vector_name(name) and self._may_be_encoded(name)):
                unreadable[name] = reason
        return readable, unreadable

    def _may_be_encoded(self, name: str) -> bool:
        """Return whether a column of texts could hold vectors in a form that is not known.

        A column called ``features`` may as well hold sentences.
        """
        if is_surely_vector_name(name) or self._samples is None:
            return True
        first = next((text for text in self._samples[name].to_pylist() if text), "")
        n_digits = sum(letter.isdigit() for letter in first)
        return n_digits > len(first) / 3 or (len(first) > _LONG_WORD and " " not in first)

    def _problem(self, name: str) -> str | None:
        """Return why the first cells of a column hold no vectors; None if they do."""
        if self._samples is None:
            names = [n for n, k in self.table.schema.items() if holds_numbers(k) or is_text(k)]
            self._samples = next(self.table.batches(names, _SAMPLE_ROWS))
        cells = self._samples[name]
        cells = cells.filter(cells.is_valid())
        if not len(cells):
            return "no value"
        # A cell further down that holds no vector is reported with its row when it is read.
        reasons = [_cell_problem(cells.slice(row, 1)) for row in range(len(cells))]
        problems = [reason for reason in reasons if reason is not None]
        return problems[0] if 2 * len(problems) > len(reasons) else None

    def _is_number(self, name: str) -> bool:
        from pyarrow import types

        kind = self.table.schema[name]
        checks = (types.is_floating, types.is_integer, types.is_decimal)
        return any(check(kind) for check in checks)

    def _wide(self) -> tuple[tuple[str, ...], bool]:
        """Choose a column per neuron: decimal numbers, or without those whole numbers.

        A column of whole numbers that is named like the others (``d7`` among ``d0``, ``d1``) is a
        neuron too. Columns named like keys, labels and prices are none.
        """
        from pyarrow import types

        floats = [name for name, kind in self.fields.items() if types.is_floating(kind)]
        whole = [name for name, kind in self.fields.items() if types.is_integer(kind)]
        usual = tuple(floats or whole)
        numbers = [name for name in self.fields if self._is_number(name)]
        coordinates = _coordinates(self.fields)
        neurons = [n for n in numbers if n in coordinates or not is_key_name(n)]
        decimals = [name for name in neurons if name not in whole]
        patterns = {name_pattern(name) for name in decimals if name_pattern(name) != name}
        if decimals and not self.table.is_untyped:
            neurons = [n for n in neurons if n in decimals or name_pattern(n) in patterns]
        chosen = tuple(neurons)
        self._check_series(chosen)
        return chosen, chosen == usual and not self.table.is_untyped

    def _check_series(self, chosen: Sequence[str]) -> None:
        """Refuse a column without numbers that is named like the neurons: ``d2`` with ``d1``."""
        patterns = {name_pattern(name) for name in chosen if name_pattern(name) != name}
        for name, kind in self.fields.items():
            if name_pattern(name) in patterns and not self._is_number(name):
                raise CriticalMassError(
                    f"column {name!r} of {self.table.owner} is named like the neurons, "
                    f"{name_some(chosen)}, but is of type {kind}; write numbers into it, or rename "
                    "it"
                )

    def _listing(self) -> str:
        items = [f"{name!r} ({kind})" for name, kind in self.table.schema.items()]
        more = f" and {len(items) - _MAX_NAMES} more" if len(items) > _MAX_NAMES else ""
        return ", ".join(items[:_MAX_NAMES]) + more

    def _unreadable_error(self, name: str, reason: str, wide: Sequence[str]) -> CriticalMassError:
        cure = "write it as a column of lists of numbers, or name another column with column="
        if wide:
            pattern = f"{name_pattern(wide[0]).partition('#')[0]}*"
            cure += f" (--column), column={pattern!r} for the {len(wide)} columns of numbers"
        else:
            cure += " (--column)"
        return CriticalMassError(
            f"column {name!r} of {self.table.owner} could hold the vectors but cannot be read: it "
            f"is of type {self.table.schema[name]} and has {reason} in its first rows; {cure}"
        )

    def _ambiguous_error(self, candidates: Sequence[str], wide: Sequence[str]) -> CriticalMassError:
        names = [repr(name) for name in candidates]
        cure = "Name it with column= (--column)"
        if wide:
            names.append(f"the {len(wide)} columns of numbers {name_some(wide)}")
            cure += ", a pattern such as 'd*' for several"
        return CriticalMassError(
            f"which column of {self.table.owner} holds the vectors, {' or '.join(names)}? {cure}"
        )

    def _nothing_error(self) -> CriticalMassError:
        keys = [name for name in self.fields if self._is_number(name)]
        cure = ""
        if keys:
            cure = (
                f"; if {name_some(keys)} are neurons in spite of their names, use column='*' "
                "(--column)"
            )
        return CriticalMassError(
            f"{self.table.owner} holds no vectors: it has neither a column of lists of numbers nor "
            f"columns of numbers; it has {self._listing()}{cure}"
        )


def _cell_problem(cells: Any) -> str | None:
    try:
        to_number_lists(cells)
    except CellError as error:
        return error.reason
    return None


def _cell_source(table: VectorTable, choice: _Choice) -> VectorSource:
    (name,) = choice.names
    what = f"column {name!r} of {table.owner}"
    ids = getattr(table, "ids", None)
    first = next(table.batches([name], 1))[name]
    try:
        lists = to_number_lists(first)
        width = len(lists[0])
    except CellError as error:
        raise CriticalMassError(error.describe(what, ids)) from error
    if not width:
        raise CriticalMassError(f"{what} has no vector in row 0")
    dtype = np.dtype(lists.type.value_type.to_pandas_dtype())
    if table.is_untyped:
        dtype = np.dtype(np.float64)
    table.check_size(table.n_rows * width * dtype.itemsize)

    batches_from = getattr(table, "batches_from", None)

    def chunks_from(row: int) -> Iterator[NDArray[Any]]:
        rows = VectorSource.chunk_rows
        batches = batches_from([name], rows, row) if batches_from else table.batches([name], rows)
        try:
            yield from read_vectors((batch[name] for batch in batches), width, dtype, row)
        except CellError as error:
            raise CriticalMassError(error.describe(what, ids)) from error

    return VectorSource(
        (table.n_rows, width), dtype, partial(chunks_from, 0), name=what, ids=ids,
        chunks_from=chunks_from if batches_from else None,
    )  # fmt: skip


def _wide_source(table: VectorTable, choice: _Choice) -> VectorSource:
    from pyarrow import types

    names = choice.names
    what = f"column {names[0]!r} of {table.owner}"
    if len(names) > 1:
        what = f"columns {names[0]!r} to {names[-1]!r} of {table.owner}"
    kinds = [table.schema[name] for name in names]
    dtype = np.dtype(np.float64)
    if not table.is_untyped and not any(types.is_decimal(kind) for kind in kinds):
        dtype = np.result_type(*(np.dtype(kind.to_pandas_dtype()) for kind in kinds))
    table.check_size(table.n_rows * len(names) * dtype.itemsize)

    def chunks() -> Iterator[NDArray[Any]]:
        row = 0
        for batch in table.batches(names, VectorSource.chunk_rows):
            for name in names:
                if batch[name].null_count:
                    missing = row + int(np.argmax(np.asarray(batch[name].is_null())))
                    raise CriticalMassError(
                        f"column {name!r} of {table.owner} has no number in row {missing}; drop "
                        "such rows"
                    )
            columns = [batch[name].to_numpy(zero_copy_only=False) for name in names]
            block = np.stack([column.astype(dtype, copy=False) for column in columns], axis=1)
            yield block
            row += len(block)

    return VectorSource((table.n_rows, len(names)), dtype, chunks, name=what)
