"""Datasets of texts, images or sounds in CSV, Parquet and JSON Lines files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.csv_files import (
    BadRows,
    check_header,
    check_long_cells,
    check_rows,
    find_separator,
    scan_quotes,
)
from criticalmass.extraction.datasets.audio import EncodedSounds
from criticalmass.extraction.datasets.columns import COLUMN_OPTIONS, ColumnChoice, choose_columns
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.encoded import EncodedContent, EncodedSamples, FileContent
from criticalmass.extraction.datasets.hidden_labels import (
    WITHOUT_LABELS,
    PartLabels,
    drop_hidden_parts,
)
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.sampling import SAMPLING
from criticalmass.extraction.datasets.several_labels import add_tasks, without_labels_option
from criticalmass.extraction.datasets.splits import arrange_splits, take_rows
from criticalmass.extraction.labels import LabelColumn, check_hidden_labels, encode_labels
from criticalmass.extraction.specs import Spec, missing_path
from criticalmass.extraction.vectors.text_files import JsonTable
from criticalmass.storage.features import UNLABELLED

TABLE_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "csv": (*SAMPLING, *COLUMN_OPTIONS, "sep"),
    "parquet": (*SAMPLING, *COLUMN_OPTIONS),
    "jsonl": (*SAMPLING, *COLUMN_OPTIONS),
}
"""The schemes of this module and their options."""


def load_table(spec: Spec) -> Dataset:
    """Load the texts, images or sounds of a table.

    Parameters
    ----------
    spec: ``csv:FILE``, ``parquet:FILE`` or ``jsonl:FILE``. Columns are chosen by type and name,
        or by options: ``?text=COLUMN`` or ``?image=COLUMN`` (paths, relative to the file's
        folder, or encoded images), ``label=COLUMN`` (``none``: without labels), ``split=COLUMN``
        (train, test, val); ``sep=`` is the CSV's separator, one character or ``tab``; without it
        the header line tells ``, ; tab |`` apart.

    Raises
    ------
    CriticalMassError: no such file or column, an unreadable file, or missing values.
    """
    path = Path(spec.name)
    if not path.is_file():
        raise missing_path(path)
    import pyarrow as pa

    try:
        content = _READERS[spec.scheme](path, spec)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowKeyError, OSError) as error:
        raise CriticalMassError(
            f"{spec.name!r} cannot be read as {spec.scheme}: {' '.join(str(error).split())}"
        ) from error
    if not content.table.num_rows:
        raise CriticalMassError(f"{spec.name!r} has no rows")
    return _dataset(content, spec)


@dataclass(frozen=True)
class TableContent:
    """The chosen columns of a table.

    Attributes
    ----------
    table: an Arrow table with these columns.
    columns: what each of them holds.
    notes: how the file was read, for the notes of the dataset.
    """

    table: Any
    columns: ColumnChoice
    notes: Mapping[str, str] = field(default_factory=dict)


def _dataset(content: TableContent, spec: Spec) -> Dataset:
    path = Path(spec.name)
    table, columns = content.table, content.columns
    names, class_numbers = _read_labels(table, columns, spec)
    items: Any
    if columns.is_encoded:
        items = _encoded(table[columns.content], columns, spec)
    else:
        items = _texts(table, columns.content, spec)
    ids = [f"row-{number}" for number in range(table.num_rows)]
    samples = Split(items, class_numbers, ids)
    task_columns = {name: {"all": _label_column(table, name, spec)} for name in columns.labels}
    labelled, task_classes = add_tasks({"all": samples}, task_columns)
    parts = labelled
    if columns.split is not None:
        parts = split_by_column(labelled["all"], _texts(table, columns.split, spec))
    labels = PartLabels(names, {part: split.labels for part, split in parts.items()})
    if columns.label is not None:
        labels = drop_hidden_parts(labels, _label_owner(columns, spec))
    parts = {
        part: dataclasses.replace(parts[part], labels=numbers)
        for part, numbers in labels.class_numbers.items()
    }
    splits, rule = arrange_splits(parts, spec.text)
    split_labels = {name: split.labels for name, split in splits.items()}
    check_hidden_labels(split_labels, labels.class_names, _label_owner(columns, spec))
    notes: dict[str, Any] = {"split": rule, "columns": columns.notes(), **content.notes}
    if labels.unlabelled_parts:
        notes["parts_without_labels"] = labels.unlabelled_parts
    return Dataset(
        without_labels_option(spec),
        path.stem,
        columns.modality,
        splits,
        labels.class_names,
        notes=notes,
        task_classes=task_classes,
    )


def split_by_column(samples: Split, values: list[str]) -> dict[str, Split]:
    """Split samples by the values of a column; return value -> its samples."""
    column = np.asarray(values)
    return {
        str(value): take_rows(samples, np.flatnonzero(column == value))
        for value in np.unique(column)
    }


def _texts(table: Any, column: str, spec: Spec) -> list[str]:
    import pyarrow as pa

    _require_values(table, column, spec)
    texts: list[str] = table[column].cast(pa.string()).to_pylist()
    return texts


def _require_values(table: Any, column: str, spec: Spec) -> None:
    missing = table[column].null_count
    if missing:
        first = int(np.argmax(table[column].is_null().to_numpy()))
        raise CriticalMassError(
            f"column {column!r} of {spec.name!r} has no value in {missing} of {table.num_rows} "
            f"rows, first in row {first}; fill them in or drop these rows"
        )


def _read_labels(
    table: Any, columns: ColumnChoice, spec: Spec
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the class names and the (n,) class numbers."""
    if columns.label is None:
        return UNLABELLED, np.zeros(table.num_rows, dtype=np.int64)
    labels = _label_column(table, columns.label, spec)
    names, class_numbers = encode_labels([labels], WITHOUT_LABELS)
    return names, class_numbers[0]


def _label_column(table: Any, name: str, spec: Spec) -> LabelColumn:
    source = f"column {name!r} of {spec.name!r}"
    return LabelColumn(table[name], source, is_untyped=spec.scheme == "csv")


def _label_owner(columns: ColumnChoice, spec: Spec) -> str:
    return f"column {columns.label!r} of {spec.name!r}"


@dataclass(frozen=True)
class ArrowBytesColumn:
    """Encoded samples in a column of bytes, or of `datasets`' structs ``{"bytes", "path"}``."""

    column: Any

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int, /) -> bytes:
        value = self.column[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        return content or b""


def _encoded(column: Any, columns: ColumnChoice, spec: Spec) -> EncodedSamples[Any]:
    import pyarrow as pa

    source: EncodedContent
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        folder = Path(spec.name).parent
        paths = tuple(folder / (text or "") for text in column.to_pylist())
        source, names = FileContent(paths), [str(path) for path in paths]
    else:
        source = ArrowBytesColumn(column)
        names = [f"{columns.content} of row {row}" for row in range(len(column))]
    kind = EncodedImages if columns.modality == "image" else EncodedSounds
    return kind(source, names, np.arange(len(column)))


def arrow_kinds(schema: Any) -> dict[str, str]:
    """Classify the columns of an Arrow schema for `choose_columns`."""
    return {field.name: _arrow_kind(field.type) for field in schema}


def _arrow_kind(arrow_type: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if types.is_string(arrow_type) or types.is_large_string(arrow_type):
        return "text"
    if types.is_integer(arrow_type) or types.is_boolean(arrow_type):
        return "number"
    if types.is_floating(arrow_type):
        return "decimal"
    if types.is_binary(arrow_type) or types.is_large_binary(arrow_type):
        return "image"
    if types.is_struct(arrow_type) and "bytes" in [field.name for field in arrow_type]:
        return "image"
    list_checks = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if any(is_list(arrow_type) for is_list in list_checks):
        return "vector"
    return str(arrow_type)


def _read_csv(path: Path, spec: Spec) -> TableContent:
    import pyarrow as pa
    from pyarrow import csv

    separator = find_separator(path, spec)
    owner = repr(spec.name)
    scan = scan_quotes(path, separator.character, owner)
    if not scan.n_rows:
        raise CriticalMassError(f"{owner} is empty")
    bad_rows = BadRows(separator.character, owner)
    parse = csv.ParseOptions(
        delimiter=separator.character, newlines_in_values=True, invalid_row_handler=bad_rows.note
    )
    # Only an empty cell is a missing value: "NA" and "null" are texts, and may be labels.
    cells: dict[str, Any] = {"null_values": [""], "strings_can_be_null": True}
    # Only a single thread numbers the rows of an error.
    one_thread = csv.ReadOptions(use_threads=False)
    try:
        with csv.open_csv(path, one_thread, parse, csv.ConvertOptions(**cells)) as reader:
            inferred = arrow_kinds(reader.schema)
        check_header(list(inferred), separator, spec)
        columns = choose_columns(_kinds_of_texts(inferred, spec), spec)
        # Arrow infers types from the first block of the file: later cells may be of other types.
        cells["column_types"] = {name: pa.string() for name in columns.names()}
        convert = csv.ConvertOptions(include_columns=columns.names(), **cells)
        table = csv.read_csv(path, one_thread, parse, convert)
    except pa.ArrowInvalid as error:
        raise bad_rows.error() from error
    check_rows(scan, table.num_rows, owner)
    for name in filter(None, (columns.label, *columns.labels)):
        labels = frozenset(table[name].unique().to_pylist())
        check_long_cells(
            scan, separator.character, list(inferred), name, labels.__contains__, owner
        )
    return TableContent(table, columns, {**separator.notes(), **scan.notes()})


def _kinds_of_texts(inferred: Mapping[str, str], spec: Spec) -> dict[str, str]:
    """Make text of a column that an option names as text, even if all its cells are numbers."""
    keys = ("text", "image", "audio", "split")
    texts = {spec.options[key] for key in keys if key in spec.options}
    return {
        name: "text" if name in texts or kind == "null" else kind for name, kind in inferred.items()
    }


def _read_parquet(path: Path, spec: Spec) -> TableContent:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = choose_columns(arrow_kinds(file.schema_arrow), spec)
        return TableContent(file.read(columns=columns.names()), columns)


def _read_jsonl(path: Path, spec: Spec) -> TableContent:
    import pyarrow as pa

    content = JsonTable(path)
    columns = choose_columns(arrow_kinds(pa.schema(content.schema.items())), spec)
    return TableContent(pa.table({name: content.column(name) for name in columns.names()}), columns)


_READERS = {"csv": _read_csv, "parquet": _read_parquet, "jsonl": _read_jsonl}
