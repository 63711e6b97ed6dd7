"""Tables in plain text: CSV, and JSON Lines with one object per line.

Plain text has no types. A column is what its first rows are, and every later row must fit.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.tables import FileTable, check_distinct

_BLOCK_BYTES = 1 << 23
_HEADER_CHARACTERS = 1 << 20
_TYPE_ROWS = 256
_SEPARATORS = ",;\t|"
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_SHOWN = 40


class CsvTable(FileTable):
    """A CSV file, or another separator: a semicolon, a tab or a bar."""

    is_untyped = True
    has_text_cells = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.separator, self.columns, self.has_header = self._read_header()
        self.n_rows = 0
        first: dict[str, Any] = {}
        # The first column is enough to count rows, and the first block to judge types.
        for block in self._blocks(self.columns[:1]):
            self.n_rows += block.num_rows
        if self.n_rows:
            block = next(self._blocks(self.columns))
            first = {name: block.column(name).slice(0, _TYPE_ROWS) for name in self.columns}
        self.schema: Mapping[str, Any] = {
            name: _type_of_texts(cells.to_pylist()) for name, cells in first.items()
        }

    def _read_header(self) -> tuple[str, list[str], bool]:
        """Return the separator, the names of the columns, and whether the first line has them."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                start = file.read(_HEADER_CHARACTERS)
            outside_quotes = re.sub(r'"[^"]*"', "", start).partition("\n")[0]
            separator = max(_SEPARATORS, key=outside_quotes.count)
            if self.path.suffix == ".tsv":
                separator = "\t"
            names = next(csv.reader(io.StringIO(start, newline=""), delimiter=separator), [])
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise CriticalMassError(
                f"{self.owner} cannot be read as CSV: its first line is not UTF-8 text with the "
                "names of the columns; save it as CSV in UTF-8"
            ) from error
        if not any(names):
            raise CriticalMassError(f"{self.owner} has no first line with the names of its columns")
        is_number = all(_NUMBER.fullmatch(name) for name in names)
        is_counted = names == [str(index) for index in range(len(names))]
        if is_number and not is_counted:
            return separator, [f"column_{index}" for index in range(len(names))], False
        names = [name.strip() for name in names]
        check_distinct(names, self.owner)
        return separator, names, True

    def _blocks(self, names: Sequence[str]) -> Iterator[Any]:
        """Read blocks of columns as texts; an empty cell is null."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        bad_rows: list[Any] = []

        def note_bad_row(row: Any) -> str:
            bad_rows.append(row)
            return "error"

        read = arrow_csv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=self.columns,
            skip_rows_after_names=int(self.has_header),
        )
        parse = arrow_csv.ParseOptions(
            delimiter=self.separator, newlines_in_values=True, invalid_row_handler=note_bad_row
        )
        convert = arrow_csv.ConvertOptions(
            include_columns=list(names),
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        try:
            with arrow_csv.open_csv(self.path, read, parse, convert) as reader:
                yield from reader
        except (pa.ArrowException, OSError) as error:
            raise self._error(bad_rows) from error

    def _error(self, bad_rows: Sequence[Any]) -> CriticalMassError:
        if not bad_rows:
            return CriticalMassError(
                f"{self.owner} cannot be read as CSV with {len(self.columns)} columns separated "
                f"by {self.separator!r}; save it as CSV in UTF-8"
            )
        bad = bad_rows[0]
        line = f"line {bad.number}" if bad.number else "a line"
        return CriticalMassError(
            f"{line} of {self.owner} has {bad.actual_columns} cells, but there are "
            f"{bad.expected_columns} columns; put texts that contain {self.separator!r} in quotes"
        )

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows."""
        from pyarrow import types

        row = 0
        for block in self._blocks(names):
            for start in range(0, block.num_rows, rows):
                part = block.slice(start, rows)
                columns = {name: part.column(name) for name in names}
                for name, cells in columns.items():
                    if types.is_floating(self.schema[name]) or types.is_integer(self.schema[name]):
                        columns[name] = _texts_to_numbers(cells, name, self.owner, row)
                yield columns
                row += part.num_rows

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        import pyarrow as pa

        return pa.chunked_array([block.column(name) for block in self._blocks([name])], pa.string())


def _type_of_texts(cells: Sequence[str | None]) -> Any:
    """Return the type of a column of texts: integers, decimal numbers, or texts."""
    import pyarrow as pa

    texts = [cell for cell in cells if cell is not None]
    if not texts:
        return pa.null()
    if not all(_is_number(text) for text in texts):
        return pa.string()
    is_whole = all(text.strip().lstrip("+-").isdecimal() for text in texts)
    return pa.int64() if is_whole else pa.float64()


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) or text.strip().lower() in ("nan", "inf", "-inf")


def _texts_to_numbers(cells: Any, name: str, owner: str, first_row: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.utf8_trim_whitespace(cells).cast(pa.float64())
    except pa.ArrowInvalid as error:
        texts = cells.to_pylist()
        bad = (r for r, text in enumerate(texts) if text is not None and not _is_number(text))
        row = next(bad, 0)
        raise CriticalMassError(
            f"column {name!r} of {owner} has the text {_shorten(texts[row])} in row "
            f"{first_row + row}, but numbers before; a decimal number has a point, and columns of "
            "texts can be left out with column= (--column)"
        ) from error


class JsonLinesTable(FileTable):
    """A file with one JSON object per line."""

    is_untyped = True
    has_text_cells = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._open() as file:
            self.n_rows = sum(1 for line in file if not line.isspace())
        rows = list(islice(self._rows(), _TYPE_ROWS))
        names = dict.fromkeys(name for row in rows for name in row)
        self.schema: Mapping[str, Any] = {
            name: _python_column([row.get(name) for row in rows], name, self.owner, None).type
            for name in names
        }

    def _open(self) -> Any:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise CriticalMassError(f"{self.owner} cannot be read: {error.strerror}") from error

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self._open() as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise self._line_error(number) from error
                if not isinstance(row, dict):
                    raise self._line_error(number)
                yield row

    def _line_error(self, number: int) -> CriticalMassError:
        return CriticalMassError(
            f"line {number} of {self.owner} is not a JSON object; write one object such as "
            '{"embedding": [0.1, 0.2], "label": "a"} per line'
        )

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows."""
        source, first_row = self._rows(), 0
        while block := list(islice(source, rows)):
            yield {
                name: _python_column(
                    [row.get(name) for row in block], name, self.owner, first_row, self.schema[name]
                )
                for name in names
            }
            first_row += len(block)

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        return [row.get(name) for row in self._rows()]


def _python_column(
    values: list[Any], name: str, owner: str, first_row: int | None, kind: Any = None
) -> Any:
    """Convert the values of a JSON column to Arrow; values of several kinds become texts.

    Raises
    ------
    CriticalMassError: a value that is not of type ``kind``, unless that is text.
    """
    import pyarrow as pa

    plain, kind = kind, _with_decimals(kind)
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
        if kind is None or pa.types.is_string(kind):
            texts = [
                value if isinstance(value, (str, type(None))) else json.dumps(value)
                for value in values
            ]
            return pa.array(texts, pa.string())
        row = next((r for r, value in enumerate(values) if not _fits(value, kind)), 0)
        raise CriticalMassError(
            f"column {name!r} of {owner} has {_shorten(values[row])} in row "
            f"{(first_row or 0) + row}, but {plain} in the first rows; write the same kind in all "
            "rows"
        ) from error


def _with_decimals(kind: Any) -> Any:
    """Return a type with decimal numbers for whole ones: ``[1, 2]`` may be followed by ``[0.5]``.

    Arrow would cut 0.5 to the whole number 0.
    """
    import pyarrow as pa
    from pyarrow import types

    if kind is None:
        return None
    if types.is_integer(kind):
        return pa.float64()
    if types.is_list(kind):
        return pa.list_(_with_decimals(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _with_decimals(field.type)) for field in kind])
    return kind


def _fits(value: Any, kind: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, OverflowError, ValueError):
        return False
    return True


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
