"""Datasets of texts or images in CSV, Parquet and JSON Lines files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.arrays import as_integer_labels, encode_labels
from criticalmass.extraction.datasets.columns import COLUMN_OPTIONS, ColumnChoice, choose_columns
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.images import EncodedContent, EncodedImages, FileContent
from criticalmass.extraction.datasets.splits import arrange_splits, take_rows
from criticalmass.extraction.specs import Spec
from criticalmass.storage.features import UNLABELLED

TABLE_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "csv": ("n", *COLUMN_OPTIONS, "sep"),
    "parquet": ("n", *COLUMN_OPTIONS),
    "jsonl": ("n", *COLUMN_OPTIONS),
}
"""The schemes of this module and their options."""


def load_table(spec: Spec) -> Dataset:
    """Load the texts or images of a table.

    Parameters
    ----------
    spec: ``csv:FILE``, ``parquet:FILE`` or ``jsonl:FILE``. Columns are chosen by type and name,
        or by options: ``?text=COLUMN`` or ``?image=COLUMN`` (paths, relative to the file's
        folder, or encoded images), ``label=COLUMN`` (``none``: without labels), ``split=COLUMN``
        (train, test, val); ``sep=`` is the CSV's separator, one character or ``tab``.

    Raises
    ------
    CriticalMassError: no such file or column, an unreadable file, or missing values.
    """
    path = Path(spec.name)
    if not path.is_file():
        raise CriticalMassError(f"no file {spec.name!r}")
    import pyarrow as pa

    try:
        table, columns = _READERS[spec.scheme](path, spec)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowKeyError, OSError) as error:
        raise CriticalMassError(
            f"{spec.name!r} cannot be read as {spec.scheme}: {' '.join(str(error).split())}"
        ) from error
    if not table.num_rows:
        raise CriticalMassError(f"{spec.name!r} has no rows")
    return _dataset(table, columns, spec)


def _dataset(table: Any, columns: ColumnChoice, spec: Spec) -> Dataset:
    path = Path(spec.name)
    names, class_numbers = _read_labels(table, columns, spec)
    items: Any
    if columns.is_image:
        items = _images(table[columns.content], columns.content, spec)
    else:
        items = _texts(table, columns.content, spec)
    ids = [f"row-{number}" for number in range(table.num_rows)]
    samples = Split(items, class_numbers, ids)
    parts = {"all": samples}
    if columns.split is not None:
        parts = split_by_column(samples, _texts(table, columns.split, spec))
    splits, rule = arrange_splits(parts, spec.text)
    roles = {"text": columns.content, "label": columns.label, "split": columns.split}
    if columns.is_image:
        roles["image"] = roles.pop("text")
    notes = {"split": rule, "columns": {role: name for role, name in roles.items() if name}}
    modality: Any = "image" if columns.is_image else "text"
    return Dataset(spec.text, path.stem, modality, splits, names, notes=notes)


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
    _require_values(table, columns.label, spec)
    labels = np.asarray(table[columns.label].to_pylist())
    if spec.scheme == "csv":
        labels = as_integer_labels(labels)
    names, class_numbers = encode_labels([labels])
    return names, class_numbers[0]


@dataclass(frozen=True)
class ArrowImageColumn:
    """Encoded images in a column of bytes, or of `datasets`' structs ``{"bytes", "path"}``."""

    column: Any

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int, /) -> bytes:
        value = self.column[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        return content or b""


def _images(column: Any, name: str, spec: Spec) -> EncodedImages:
    import pyarrow as pa

    source: EncodedContent
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        folder = Path(spec.name).parent
        paths = tuple(folder / (text or "") for text in column.to_pylist())
        source, names = FileContent(paths), [str(path) for path in paths]
    else:
        source = ArrowImageColumn(column)
        names = [f"{name} of row {row}" for row in range(len(column))]
    return EncodedImages(source, names, np.arange(len(column)))


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


def _read_csv(path: Path, spec: Spec) -> tuple[Any, ColumnChoice]:
    import pyarrow as pa
    from pyarrow import csv

    option = spec.options.get("sep", "tab" if path.suffix == ".tsv" else ",")
    separator = "\t" if option == "tab" else option
    if len(separator) != 1:
        raise CriticalMassError(f"sep={option!r} in {spec.text!r} must be one character, or tab")
    parse = csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    # Only an empty cell is a missing value: "NA" and "null" are texts, and may be labels.
    cells: dict[str, Any] = {"null_values": [""], "strings_can_be_null": True}
    convert = csv.ConvertOptions(**cells)
    with csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
        inferred = arrow_kinds(reader.schema)
    # A column that an option names as text is text, even if all its cells are numbers.
    texts = {spec.options[key] for key in ("text", "image", "split") if key in spec.options}
    kinds = {
        name: "text" if name in texts or kind == "null" else kind for name, kind in inferred.items()
    }
    columns = choose_columns(kinds, spec)
    # Arrow infers types from the first block of the file: later cells may be of other types.
    cells["column_types"] = {name: pa.string() for name in columns.names()}
    convert = csv.ConvertOptions(include_columns=columns.names(), **cells)
    return csv.read_csv(path, parse_options=parse, convert_options=convert), columns


def _read_parquet(path: Path, spec: Spec) -> tuple[Any, ColumnChoice]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = choose_columns(arrow_kinds(file.schema_arrow), spec)
        return file.read(columns=columns.names()), columns


def _read_jsonl(path: Path, spec: Spec) -> tuple[Any, ColumnChoice]:
    from pyarrow import json

    table = json.read_json(path)
    columns = choose_columns(arrow_kinds(table.schema), spec)
    return table.select(columns.names()), columns


_READERS = {"csv": _read_csv, "parquet": _read_parquet, "jsonl": _read_jsonl}
