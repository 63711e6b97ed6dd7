"""Tables in plain text: CSV and JSON.

Plain text has no types. A column is what its first rows are, and every later row must fit.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.csv_files import (
    BadRows,
    QuoteScan,
    check_long_cells,
    check_rows,
    open_unpacked,
    plain_suffix,
    scan_quotes,
)
from criticalmass.extraction.vectors.tables import FileTable, check_distinct

_BLOCK_BYTES = 1 << 23
_HEADER_CHARACTERS = 1 << 20
_TYPE_ROWS = 256
_SEPARATORS = ",;\t|"
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_HEADER_ROWS = 64
# So many ascending numbers in the first line are not likely to be values.
_SCALE = 8
_SHOWN = 40


class CsvTable(FileTable):
    """A CSV file, or another separator: a semicolon, a tab or a bar; also packed (``.gz``).

    Without a first line of names, the columns are called ``column_0``, ``column_1`` ... Between
    other separators than a comma, numbers may have a decimal comma.
    """

    is_untyped = True
    has_text_cells = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.separator, self.columns, self.has_header = self._read_header()
        self.has_decimal_comma = False
        scan = scan_quotes(path, self.separator, self.owner)
        self.n_rows = 0
        first: dict[str, list[str | None]] = {}
        # The first column is enough to count rows, and the first block to judge types.
        for block in self._blocks(self.columns[:1]):
            self.n_rows += block.num_rows
        check_rows(scan, self.n_rows, self.owner)
        if self.n_rows:
            block = next(self._blocks(self.columns))
            first = {
                name: block.column(name).slice(0, _TYPE_ROWS).to_pylist() for name in self.columns
            }
        if self.separator != ",":
            cells = [cell for column in first.values() for cell in column if cell is not None]
            n_commas = sum(bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in cells)
            self.has_decimal_comma = n_commas > sum(
                "." in cell for cell in cells if is_number(cell)
            )
        self.schema: Mapping[str, Any] = {
            name: _type_of_texts([self._plain(cell) for cell in cells])
            for name, cells in first.items()
        }
        self._check_swallowed_rows(scan)

    def _plain(self, cell: str | None) -> str | None:
        """Return a cell with a decimal point."""
        return cell.replace(",", ".") if cell and self.has_decimal_comma else cell

    def _check_swallowed_rows(self, scan: QuoteScan) -> None:
        """Refuse quoted cells that hold rows: two stray quotation marks enclose them."""
        for name, kind in self.schema.items():
            if str(kind) in ("int64", "double"):
                check_long_cells(scan, self.separator, self.columns, name, is_number, self.owner)
                return

    def _read_header(self) -> tuple[str, list[str], bool]:
        """Return the separator, the names of the columns, and whether the first line has them."""
        try:
            with io.TextIOWrapper(open_unpacked(self.path), "utf-8-sig", newline="") as file:
                start = file.read(_HEADER_CHARACTERS)
            outside_quotes = re.sub(r'"[^"]*"', "", start).partition("\n")[0]
            separator = max(_SEPARATORS, key=outside_quotes.count)
            if plain_suffix(self.path) == ".tsv":
                separator = "\t"
            reader = csv.reader(io.StringIO(start, newline=""), delimiter=separator)
            names, *rows = [*islice(reader, _HEADER_ROWS)] or [[]]
        except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
            raise CriticalMassError(
                f"{self.owner} cannot be read as CSV: its first line is not UTF-8 text with the "
                "names of the columns; save it as CSV in UTF-8"
            ) from error
        if not any(names):
            raise CriticalMassError(f"{self.owner} has no first line with the names of its columns")
        if _is_row(names, rows):
            return separator, [f"column_{index}" for index in range(len(names))], False
        names = [name.strip() for name in names]
        check_distinct(names, self.owner)
        return separator, names, True

    def _blocks(self, names: Sequence[str]) -> Iterator[Any]:
        """Read blocks of columns as texts; an empty cell is null."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        bad_rows = BadRows(self.separator, self.owner)
        read = arrow_csv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=self.columns,
            skip_rows_after_names=int(self.has_header),
        )
        parse = arrow_csv.ParseOptions(
            delimiter=self.separator, newlines_in_values=True, invalid_row_handler=bad_rows.note
        )
        convert = arrow_csv.ConvertOptions(
            include_columns=list(names),
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        try:
            with (
                open_unpacked(self.path) as file,
                arrow_csv.open_csv(file, read, parse, convert) as reader,
            ):
                yield from reader
        except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
            raise bad_rows.error() from error

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
                        columns[name] = self._numbers(cells, name, row)
                yield columns
                row += part.num_rows

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        import pyarrow as pa

        return pa.chunked_array([block.column(name) for block in self._blocks([name])], pa.string())

    def _numbers(self, cells: Any, name: str, first_row: int) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = pc.utf8_trim_whitespace(cells)
        if self.has_decimal_comma:
            texts = pc.replace_substring(texts, ",", ".")
        try:
            return texts.cast(pa.float64())
        except pa.ArrowInvalid as error:
            values = cells.to_pylist()
            bad = (r for r, text in enumerate(values) if text and not is_number(self._plain(text)))
            row = next(bad, 0)
            raise CriticalMassError(
                f"column {name!r} of {self.owner} has the text {_shorten(values[row])} in row "
                f"{first_row + row}, but numbers in most rows; a decimal number has a point and "
                "no other separators; drop such rows, or leave the column out with column= "
                "(--column)"
            ) from error


def _is_row(names: list[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line is a row and not the names of the columns.

    It is one if all its cells are numbers (but not 0, 1, 2 ...), or most are and another of its
    cells, such as a label, is in its column again. Many ascending numbers are names: wavelengths.
    """
    numbers = [float(name) for name in names if _NUMBER.fullmatch(name)]
    is_counted = names == [str(index) for index in range(len(names))]
    is_scale = len(numbers) >= _SCALE and numbers in (sorted(numbers), sorted(numbers)[::-1])
    if is_counted or is_scale or 2 * len(numbers) <= len(names):
        return False
    texts = {index: name for index, name in enumerate(names) if not _NUMBER.fullmatch(name)}
    return not texts or any(
        row[index] == text
        for row in rows
        if len(row) == len(names)
        for index, text in texts.items()
    )


def _type_of_texts(cells: Sequence[str | None]) -> Any:
    """Return the type of a column: integers, decimal numbers, or texts.

    If most cells are numbers, it is a column of numbers: the others are then refused.
    """
    import pyarrow as pa

    texts = [cell.strip() for cell in cells if cell is not None]
    if not texts:
        return pa.null()
    numbers = [text for text in texts if is_number(text)]
    if 2 * len(numbers) <= len(texts):
        return pa.string()
    is_whole = all(text.lstrip("+-").isdecimal() for text in numbers)
    return pa.int64() if is_whole else pa.float64()


def is_number(text: str | None) -> bool:
    """Return whether a text is a number."""
    text = text or ""
    return bool(_NUMBER.fullmatch(text)) or text.strip().lower() in ("nan", "inf", "-inf")


class JsonTable(FileTable):
    """JSON: one object per line (``.jsonl``), or all in one document (``.json``); also packed.

    An object is a row. A list of numbers is a row with the column ``vector``. An object with a list
    of objects, such as ``{"data": [{"embedding": ...}]}``, holds a row in each of them. A document
    of lists of equal length has a column in each.
    """

    is_untyped = True
    has_text_cells = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.document = self._read_document() if plain_suffix(path) == ".json" else None
        rows = list(islice(self._rows(), _TYPE_ROWS))
        self.n_rows = self._count_rows()
        names = dict.fromkeys(name for row in rows for name in row)
        self.schema: Mapping[str, Any] = {
            name: _python_column([row.get(name) for row in rows], name, self.owner, None).type
            for name in names
        }

    def _open(self) -> IO[bytes]:
        try:
            return open_unpacked(self.path)
        except OSError as error:
            raise CriticalMassError(f"{self.owner} cannot be read: {error.strerror}") from error

    def _lines(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and the value of each line that is not empty."""
        with self._open() as file:
            try:
                for number, line in enumerate(file, 1):
                    text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                    if not text.isspace():
                        yield number, json.loads(text)
            except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
                raise self._line_error(number) from error

    def _count_rows(self) -> int:
        if self.document is not None:
            return len(self.document)
        if self._is_nested():
            return sum(1 for _ in self._rows())
        with self._open() as file:
            return sum(1 for line in file if not line.isspace())

    def _is_nested(self) -> bool:
        return any(len(_rows_of(value) or ()) != 1 for _, value in islice(self._lines(), 1))

    def _read_document(self) -> list[dict[str, Any]]:
        with self._open() as file:
            try:
                content = json.loads(file.read().removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
                raise CriticalMassError(
                    f"{self.owner} is no JSON document: {' '.join(str(error).split())}"
                ) from error
        rows = _rows_of_columns(content)
        if rows is None:
            items = content if isinstance(content, list) else [content]
            lists = [_rows_of(item) for item in items]
            rows = [row for part in lists if part is not None for row in part]
            if None in lists or not rows:
                raise CriticalMassError(
                    f"{self.owner} holds no list of objects; write a list such as "
                    '[{"embedding": [0.1, 0.2], "label": "a"}]'
                )
        return rows

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.document is not None:
            yield from self.document
            return
        for number, value in self._lines():
            rows = _rows_of(value)
            if rows is None:
                raise self._line_error(number)
            yield from rows

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

    def column(self, name: str) -> Any:
        """Read a column as an Arrow array; values of several kinds become texts."""
        return _python_column(self.values(name), name, self.owner, None)


def _rows_of(value: Any) -> list[dict[str, Any]] | None:
    """Return the rows in a line or in an item of a list; None if there are none."""
    if isinstance(value, list) and value and all(isinstance(x, (int, float)) for x in value):
        return [{"vector": value}]
    if not isinstance(value, dict):
        return None
    lists = [v for v in value.values() if isinstance(v, list) and v]
    objects = [v for v in lists if all(isinstance(item, dict) for item in v)]
    if len(objects) == len(lists) == 1 and any(map(_holds_vector, objects[0])):
        return list(objects[0])
    return [value]


def _holds_vector(row: Mapping[str, Any]) -> bool:
    return any(isinstance(v, list) and v and isinstance(v[0], (int, float)) for v in row.values())


def _rows_of_columns(content: Any) -> list[dict[str, Any]] | None:
    """Return the rows of a document with a list, or an object of equal keys, per column."""
    if not isinstance(content, dict):
        return None
    columns = {name: v for name, v in content.items() if isinstance(v, (list, dict)) and v}
    keys = {tuple(v) if isinstance(v, dict) else len(v) for v in columns.values()}
    first = next(iter(columns.values()), None)
    is_table = len(keys) == 1 and (len(columns) > 1 or _is_matrix(first))
    if not is_table or len({type(v) for v in columns.values()}) != 1:
        return None
    lists = [list(v.values()) if isinstance(v, dict) else v for v in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _is_matrix(value: Any) -> bool:
    rows = value if isinstance(value, list) else ()
    return bool(rows) and all(isinstance(row, list) for row in rows)


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
