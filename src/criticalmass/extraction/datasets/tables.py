"""Texts and images in tables: CSV, Parquet and JSON Lines files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.arrays import as_numbers, encode_labels
from criticalmass.extraction.datasets.columns import OPTIONS, Columns, choose_columns
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.images import EncodedContent, EncodedImages, FileContent
from criticalmass.extraction.datasets.splits import arranged, take
from criticalmass.extraction.specs import Spec
from criticalmass.storage.features import UNLABELLED

TABLE_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "csv": ("n", *OPTIONS, "sep"),
    "parquet": ("n", *OPTIONS),
    "jsonl": ("n", *OPTIONS),
}
"""The schemes of this module and their options."""


def load_table(spec: Spec) -> Dataset:
    """Load the texts or images of a table.

    Parameters
    ----------
    spec: ``csv:FILE``, ``parquet:FILE`` or ``jsonl:FILE``. Columns are found by type and name, or
        told: ``?text=COLUMN`` or ``?image=COLUMN`` (paths, relative to the file's folder, or
        encoded images), ``label=COLUMN`` (``none``: without labels), ``split=COLUMN`` (train,
        test, val); ``sep=`` is the CSV's separator, one character or ``tab``.

    Raises
    ------
    CriticalMassError: no such file or column, an unreadable file, values that are missing.
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


def _dataset(table: Any, columns: Columns, spec: Spec) -> Dataset:
    path = Path(spec.name)
    names, codes = _classes(table, columns, spec)
    items: Any
    if columns.is_image:
        items = _images(table[columns.content], columns.content, spec)
    else:
        items = _texts(table, columns.content, spec)
    ids = [f"row-{number}" for number in range(table.num_rows)]
    whole = Split(items, codes, ids)
    parts = {"all": whole}
    if columns.split is not None:
        parts = parts_by_word(whole, _texts(table, columns.split, spec))
    splits, rule = arranged(parts, spec.text)
    read = {"text": columns.content, "label": columns.label, "split": columns.split}
    if columns.is_image:
        read["image"] = read.pop("text")
    notes = {"split": rule, "columns": {key: name for key, name in read.items() if name}}
    modality: Any = "image" if columns.is_image else "text"
    return Dataset(spec.text, path.stem, modality, splits, names, notes=notes)


def parts_by_word(whole: Split, words: list[str]) -> dict[str, Split]:
    """Cut samples by the word that says what each is for."""
    labels = np.asarray(words)
    return {str(word): take(whole, np.flatnonzero(labels == word)) for word in np.unique(labels)}


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


def _classes(table: Any, columns: Columns, spec: Spec) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if columns.label is None:
        return UNLABELLED, np.zeros(table.num_rows, dtype=np.int64)
    _require_values(table, columns.label, spec)
    labels = np.asarray(table[columns.label].to_pylist())
    if spec.scheme == "csv":
        labels = as_numbers(labels)
    names, codes = encode_labels([labels])
    return names, codes[0]


@dataclass(frozen=True)
class ColumnContent:
    """Encoded images in a column of bytes, or of ``{"bytes", "path"}`` as `datasets` writes it."""

    column: Any

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int, /) -> bytes:
        """Read one cell."""
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
        source = ColumnContent(column)
        names = [f"{name} of row {row}" for row in range(len(column))]
    return EncodedImages(source, names, np.arange(len(column)))


def arrow_kinds(schema: Any) -> dict[str, str]:
    """Say of each column of an Arrow schema what it can be; see ``choose_columns``."""
    return {field.name: _kind(field.type) for field in schema}


def _kind(kind: Any) -> str:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind) or types.is_boolean(kind):
        return "number"
    if types.is_floating(kind):
        return "decimal"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    if types.is_struct(kind) and "bytes" in [field.name for field in kind]:
        return "image"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "vector"
    return str(kind)


def _read_csv(path: Path, spec: Spec) -> tuple[Any, Columns]:
    import pyarrow as pa
    from pyarrow import csv

    given = spec.options.get("sep", "tab" if path.suffix == ".tsv" else ",")
    separator = "\t" if given == "tab" else given
    if len(separator) != 1:
        raise CriticalMassError(f"sep={given!r} in {spec.text!r} must be one character, or tab")
    how = csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    # Only an empty cell is a missing one: "NA" and "null" are words, and somebody's label.
    cells: dict[str, Any] = {"null_values": [""], "strings_can_be_null": True}
    options = csv.ConvertOptions(**cells)
    with csv.open_csv(path, parse_options=how, convert_options=options) as reader:
        known = arrow_kinds(reader.schema)
    # A column that the user calls text is one, though its cells may all be digits.
    told = {spec.options[key]: "text" for key in ("text", "image", "split") if key in spec.options}
    known = {
        name: told.get(name, "text" if kind == "null" else kind) for name, kind in known.items()
    }
    columns = choose_columns(known, spec)
    # The types are a guess from the first block of the file: a later cell may be no number.
    cells["column_types"] = {name: pa.string() for name in columns.names()}
    options = csv.ConvertOptions(include_columns=columns.names(), **cells)
    return csv.read_csv(path, parse_options=how, convert_options=options), columns


def _read_parquet(path: Path, spec: Spec) -> tuple[Any, Columns]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = choose_columns(arrow_kinds(file.schema_arrow), spec)
        return file.read(columns=columns.names()), columns


def _read_jsonl(path: Path, spec: Spec) -> tuple[Any, Columns]:
    from pyarrow import json

    table = json.read_json(path)
    columns = choose_columns(arrow_kinds(table.schema), spec)
    return table.select(columns.names()), columns


_READERS = {"csv": _read_csv, "parquet": _read_parquet, "jsonl": _read_jsonl}
