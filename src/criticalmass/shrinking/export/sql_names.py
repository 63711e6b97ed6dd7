"""Names of SQL, quoted: the user's table and columns, and what an export creates beside them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from criticalmass.errors import CriticalMassError

# PostgreSQL truncates longer names without an error.
MOST_BYTES = 63
_MOST_SUFFIX = 20
_QUOTED = r'"(?:[^"]|"")+"'
_PART = rf'{_QUOTED}|[^."]+'


@dataclass(frozen=True)
class SqlNames:
    """The table, its columns, and the names of what an export creates; none is quoted.

    Attributes
    ----------
    table: parts of the table's name: (table,) or (schema, table).
    column: column of the whole vectors.
    id: column that names a row.
    suffix: ends the names of what is created, so that two slim models do not meet.
    """

    table: tuple[str, ...]
    column: str
    id: str
    suffix: str

    @property
    def short(self) -> str:
        """Column of the short vectors."""
        return f"{self.column}_slim_{self.suffix}"

    def created(self, ending: str = "") -> str:
        """Name of another thing that is created, with an ending such as ``_hnsw``."""
        name = f"{self.table[-1]}_{self.short}{ending}"
        if len(name.encode()) <= MOST_BYTES:
            return name
        place = hashlib.sha256(repr((self.table[-1], self.column)).encode()).hexdigest()[:8]
        return f"slim_{self.suffix}_{place}{ending}"


def parse_names(table: str, column: str, id: str, suffix: str) -> SqlNames:
    """Check the names that a user gave.

    Parameters
    ----------
    table: ``table`` or ``schema.table``; a part that contains a dot is put in double quotes.
    column, id, suffix: as in `SqlNames`.

    Raises
    ------
    CriticalMassError: if one is no valid name, alone or with its suffix.
    """
    if re.fullmatch(rf"(?:{_PART})(?:\.(?:{_PART}))*", table):
        parts = [
            part[1:-1].replace('""', '"') if part.startswith('"') else part
            for part in re.findall(_PART, table)
        ]
    else:
        parts = table.split(".")
    if len(parts) > 2:
        raise CriticalMassError(
            f"{table!r} is no valid name of a table: give table or schema.table, and put a name "
            "that contains a dot in double quotes"
        )
    if not re.fullmatch(rf"[a-z0-9_]{{1,{_MOST_SUFFIX}}}", suffix):
        raise CriticalMassError(
            f"suffix={suffix!r} is no valid end of a name; give 1 to {_MOST_SUFFIX} of a-z, 0-9, _"
        )
    names = SqlNames(tuple(parts), column, id, suffix)
    for name in (*parts, column, id):
        quote_identifier(name)
    spare = MOST_BYTES - len(names.short.encode()) + len(suffix)
    if spare < 1:
        raise CriticalMassError(
            f"{column!r} is no valid name here: with the suffix it has more than {MOST_BYTES} "
            "bytes; rename the column"
        )
    if spare < len(suffix):
        raise CriticalMassError(
            f"{names.short!r} is no valid name: it has more than {MOST_BYTES} bytes; give a "
            f"suffix of at most {spare} characters (--suffix)"
        )
    return names


def quote_table(parts: tuple[str, ...]) -> str:
    """Quote the parts of the name of a table and join them with dots."""
    return ".".join(quote_identifier(part) for part in parts)


def quote_identifier(name: str) -> str:
    """Quote one identifier so that its content cannot end the quotes.

    Raises
    ------
    CriticalMassError: if it is empty, too long, or contains a character that is not printable.
    """
    if not name or not name.isprintable() or len(name.encode()) > MOST_BYTES:
        raise CriticalMassError(
            f"{name!r} is no valid name of a table or column; give 1 to {MOST_BYTES} "
            "printable bytes"
        )
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Quote a text constant; backslashes stand for themselves under every setting."""
    doubled = text.replace("'", "''")
    return f"E'{doubled}'".replace("\\", "\\\\") if "\\" in text else f"'{doubled}'"


def dollar_quote(body: str) -> str:
    """Quote the body of a function or block with a tag that the body does not contain."""
    tag = "$slim$"
    while tag[:-1] in body:
        tag = f"{tag[:-1]}_$"
    return f"{tag}\n{body}\n{tag}"
