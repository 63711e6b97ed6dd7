"""Read CSV files: their separator, and checks of their quotation marks."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.specs import Spec

SEPARATORS = (",", ";", "\t", "|")
# The separator is looked for in this many bytes at the start of a file.
_SAMPLE_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_REMEDY = "write a quotation mark inside a quoted cell twice, and remove a stray one"


def plain_suffix(path: Path) -> str:
    """Return the suffix of a file in lower case, without ``.gz``: ``.csv`` of ``a.CSV.gz``."""
    path = Path(path.name.lower())
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def open_unpacked(path: Path) -> IO[bytes]:
    """Open a file for reading; one that ends in ``.gz`` is unpacked."""
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


@dataclass(frozen=True)
class Separator:
    """The separator of a CSV file.

    Attributes
    ----------
    character: one character.
    is_guessed: whether it was found in the header line and is not the usual one.
    """

    character: str
    is_guessed: bool = False

    def notes(self) -> dict[str, str]:
        """Describe a separator that was guessed, for the notes of a dataset."""
        if not self.is_guessed:
            return {}
        return {"separator": f"{describe(self.character)}, found in the header line"}


def describe(separator: str) -> str:
    """Write a separator as it is named in messages."""
    return "tab" if separator == "\t" else repr(separator)


def option(separator: str) -> str:
    """Write a separator as the option of a spec."""
    return "sep=tab" if separator == "\t" else f"sep={separator}"


def find_separator(path: Path, spec: Spec) -> Separator:
    """Return the separator that the spec names, or find it in the header line.

    A file whose header line holds none of ``, ; tab |`` outside of quotation marks has one column.

    Raises
    ------
    CriticalMassError: a separator of more than one character, or several that are possible.
    """
    name = spec.options.get("sep")
    if name is not None:
        separator = "\t" if name == "tab" else name
        if len(separator) != 1:
            raise CriticalMassError(f"sep={name!r} in {spec.text!r} must be one character, or tab")
        return Separator(separator)
    usual = "\t" if plain_suffix(path) == ".tsv" else ","
    text, is_cut = _first_lines(path)
    candidates = [sep for sep in SEPARATORS if len(_header(text, sep)) > 1]
    if not candidates or candidates == [usual]:
        return Separator(usual)
    matching = [separator for separator in candidates if _is_table(text, separator, is_cut)]
    if usual in matching or (usual in candidates and not matching):
        return Separator(usual)
    if len(matching) == 1:
        return Separator(matching[0], is_guessed=True)
    if matching:
        raise CriticalMassError(
            f"the header line of {spec.name!r} holds {' and '.join(map(describe, matching))}; "
            f"name its separator: '{spec.text}{_joint(spec)}{option(matching[0])}'"
        )
    # No candidate fits all lines: one column of such a name is refused, see `check_header`.
    return Separator(usual)


def check_header(columns: Sequence[str], separator: Separator, spec: Spec) -> None:
    """Refuse a single column whose name holds another separator.

    Raises
    ------
    CriticalMassError: the message names the separator that the header line holds.
    """
    if len(columns) != 1:
        return
    others = [sep for sep in SEPARATORS if sep in columns[0] and sep != separator.character]
    if others:
        raise CriticalMassError(
            f"{spec.name!r} has one column, {columns[0]!r}, if {describe(separator.character)} "
            f"separates its cells; for the separator {describe(others[0])} give it the option "
            f"{option(others[0])}, or rename the column"
        )


def _joint(spec: Spec) -> str:
    return "&" if "?" in spec.text else "?"


def _first_lines(path: Path) -> tuple[str, bool]:
    """Return the first lines without a byte order mark, and whether further lines follow."""
    with open_unpacked(path) as file:
        content = file.read(_SAMPLE_BYTES)
        is_cut = bool(file.read(1))
    if is_cut:
        content = content[: content.rfind(b"\n") + 1] or content
    return content.decode("utf-8-sig", errors="replace").lstrip("\r\n"), is_cut


def _header(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:
        return []


def _is_table(text: str, separator: str, is_cut: bool) -> bool:
    """Whether all rows have as many cells as the header."""
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row
        ]
    except csv.Error:
        return False
    # The last row of a long file can be cut inside of a quoted cell.
    complete = rows[:-1] if is_cut else rows
    return len({len(row) for row in complete if row}) == 1


@dataclass(frozen=True)
class LongCell:
    """A quoted cell with line breaks.

    Attributes
    ----------
    line: number of the line with its opening quotation mark, from 1.
    further_lines: its lines after the first, up to the closing quotation mark.
    """

    line: int
    further_lines: tuple[str, ...]


@dataclass(frozen=True)
class QuoteScan:
    """The quoted cells with line breaks of a CSV file.

    Attributes
    ----------
    cells: these cells, in order.
    n_rows: rows of the file with the header, empty lines left out.
    n_lines: lines of the file, empty ones outside of cells left out.
    """

    cells: list[LongCell] = field(default_factory=list)
    n_rows: int = 0
    n_lines: int = 0

    def notes(self) -> dict[str, str]:
        """Describe the cells with line breaks, for the notes of a dataset."""
        if not self.cells:
            return {}
        return {
            "line_breaks": f"{self.n_lines:,} lines hold {self.n_rows:,} rows with the header: "
            f"{len(self.cells):,} quoted cells have line breaks, the first in line "
            f"{self.cells[0].line}"
        }


def scan_quotes(path: Path, separator: str, owner: str) -> QuoteScan:
    """Check the quotation marks of a CSV file.

    A quotation mark at the start of a cell opens it; the closing one must end the cell. A mark
    inside a cell without quotation marks is a character.

    Raises
    ------
    CriticalMassError: a cell goes on after its closing quotation mark, or is never closed; the
        message names the line of its opening quotation mark.
    """
    scanner = _QuoteScanner(separator.encode(), owner)
    with open_unpacked(path) as file:
        for number, line in enumerate(file, 1):
            scanner.scan(number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line)
    return scanner.result()


class _QuoteScanner:
    """Follows the quotation marks of a CSV file line by line."""

    def __init__(self, separator: bytes, owner: str) -> None:
        self.separator, self.owner = separator, owner
        self.cell_ends = (separator, b"\r", b"\n", b"")
        self.cells: list[LongCell] = []
        self.n_rows = self.n_lines = self.number = 0
        self.is_open = False
        self.opening_line = 0
        # The lines of the open cell after its first one.
        self.further_lines: list[bytes] = []

    def scan(self, number: int, line: bytes) -> None:
        """Read one line with its line break."""
        if not self.is_open and not line.strip(b"\r\n"):
            return
        self.number = number
        if not line.isascii() or b"\0" in line:
            self._check_encoding(line)
        self.n_lines += 1
        self.n_rows += not self.is_open
        position = line.find(b'"')
        while position >= 0:
            position = line.find(b'"', self._mark(line, position))
        if self.is_open and self.opening_line != number:
            self.further_lines.append(line)

    def _check_encoding(self, line: bytes) -> None:
        try:
            is_text = "\0" not in line.decode()
        except UnicodeDecodeError:
            is_text = False
        if not is_text:
            raise CriticalMassError(
                f"line {self.number} of {self.owner} is no UTF-8 text; save the file in UTF-8"
            )

    def _mark(self, line: bytes, position: int) -> int:
        """Read the quotation mark at a position; return where the search goes on."""
        following = line[position + 1 : position + 2]
        if not self.is_open:
            self.is_open = position == 0 or line[position - 1 : position] == self.separator
            if self.is_open:
                self.opening_line, self.further_lines = self.number, []
            return position + 1
        if following == b'"':
            return position + 2
        if following not in self.cell_ends:
            raise CriticalMassError(
                f"the quoted cell that starts in line {self.opening_line} of {self.owner} goes "
                f"on after its closing quotation mark in line {self.number}; {_REMEDY}"
            )
        self.is_open = False
        if self.opening_line != self.number:
            lines = (*self.further_lines, line[:position])
            self.cells.append(LongCell(self.opening_line, tuple(map(_text, lines))))
        return position + 1

    def result(self) -> QuoteScan:
        """Return what was read, after the last line."""
        if self.is_open:
            raise CriticalMassError(
                f"the quotation mark that opens a cell in line {self.opening_line} of "
                f"{self.owner} is never closed (the file has {self.number} lines); {_REMEDY}"
            )
        return QuoteScan(self.cells, self.n_rows, self.n_lines)


class BadRows:
    """The rows of a file that have another number of cells than its header.

    Parameters
    ----------
    separator: the separator of the cells.
    owner: the file, for messages.
    """

    def __init__(self, separator: str, owner: str) -> None:
        self.rows: list[Any] = []
        self._separator, self._owner = separator, owner

    def note(self, row: Any) -> str:
        """Note a row that Arrow cannot read; Arrow calls this, and then raises its error."""
        self.rows.append(row)
        return "error"

    def error(self) -> CriticalMassError:
        """Return the error that names the first bad row, or the file if none is known."""
        if not self.rows:
            return CriticalMassError(
                f"{self._owner} cannot be read as CSV with cells separated by "
                f"{describe(self._separator)}; save it as CSV in UTF-8"
            )
        row = self.rows[0]
        line = f"line {row.number}" if row.number else "a line"
        return CriticalMassError(
            f"{line} of {self._owner} has {row.actual_columns} cells, but there are "
            f"{row.expected_columns} columns; put texts that contain "
            f"{describe(self._separator)} in quotes"
        )


def check_rows(scan: QuoteScan, n_rows: int, owner: str) -> None:
    """Check that as many rows were read as the file has.

    Raises
    ------
    CriticalMassError: fewer rows were read.
    """
    if n_rows < scan.n_rows - 1:
        raise CriticalMassError(
            f"{owner} holds {scan.n_rows - 1} rows in {scan.n_lines} lines, but {n_rows} "
            "rows could be read; check its quotation marks and separators"
        )


def check_long_cells(
    scan: QuoteScan,
    separator: str,
    header: list[str],
    column: str,
    fits: Callable[[str], bool],
    owner: str,
) -> None:
    """Refuse a quoted cell that holds rows of the table: two stray quotation marks enclose them.

    A line of a cell is a row if it has as many cells as the header, none of them empty, and a
    fitting value in one column.

    Parameters
    ----------
    scan: the quoted cells with line breaks.
    separator: the separator of the cells.
    header: the names of all columns.
    column: the column whose values are checked, e.g. that of the labels.
    fits: whether a text can be a value of this column.
    owner: the file, for messages.

    Raises
    ------
    CriticalMassError: the message names the lines of the opening quotation mark and of the row.
    """
    position = header.index(column)
    for cell in scan.cells:
        for offset, line in enumerate(cell.further_lines, 1):
            values = next(csv.reader([line], delimiter=separator), [])
            if len(values) == len(header) and all(values) and fits(values[position]):
                raise CriticalMassError(
                    f"the quoted cell that starts in line {cell.line} of {owner} holds line "
                    f"{cell.line + offset}, which is a row with the "
                    f"{column} {values[position]!r}; {_REMEDY}"
                )


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace").rstrip("\r\n")
