"""A table of a database as the readers of vectors see it: columns, rows in a fixed order, ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.databases.protocol import Block, Place, TableReader, TableRequest
from criticalmass.extraction.vectors.tables import describe_ids

#: Names of a column that is taken for the ids where a table states no key.
_ID_NAMES = ("id", "_id", "uuid", "pk")
_BLOCK_ROWS = 8192


class DatabaseTable:
    """The rows that a table has when it is opened.

    Its places and ids are read once, before the vectors. Rows that are inserted later are skipped
    and counted; a row that is deleted later is an error.

    Attributes
    ----------
    key: column of the ids; None if the rows have none.
    n_rows: number of rows.
    other attributes: see `VectorTable`.
    """

    is_untyped = False
    has_text_cells = False
    files: tuple[Path, ...] = ()

    def __init__(self, reader: TableReader, shown: str, request: TableRequest) -> None:
        self.reader, self.name = reader, reader.name
        self.owner = f"table {reader.name!r} of {shown}"
        self.schema = reader.schema
        if request.id is not None and request.id not in self.schema:
            raise unknown_name(f"column in {self.owner}", request.id, self.schema)
        if not self.schema:
            raise CriticalMassError(f"{self.owner} has no columns that can be read")
        self.key = request.id or reader.key or _usual_key(self.schema)
        self._limit = request.limit
        self._places, self.ids = self._list_rows()
        self.n_rows = len(self._places)
        is_guess = request.id is None and reader.key is None
        problem = describe_ids(self.ids) if is_guess and self.ids is not None else ""
        if problem:
            warn_user(f"column {self.key!r} of {self.owner} has {problem}: the ids are row numbers")
            self.key, self.ids = None, None

    def _list_rows(self) -> tuple[Any, Any]:
        """Read places and ids."""
        import pyarrow as pa

        names = [self.key] if self.key else []
        places: list[Any] = []
        ids: list[Any] = []
        left = self._limit
        for block in self.reader.scan(names, _BLOCK_ROWS, None):
            n = len(block.places) if left is None else min(left, len(block.places))
            places.append(block.places.slice(0, n))
            ids += [block.columns[name].slice(0, n) for name in names]
            left = None if left is None else left - n
            if left == 0:
                break
        if not places:
            raise CriticalMassError(f"{self.owner} has no rows")
        return pa.concat_arrays(places), pa.concat_arrays(ids) if ids else None

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows."""
        return self.batches_from(names, rows, 0)

    def batches_from(
        self, names: Sequence[str], rows: int, first: int
    ) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows, from row ``first`` on."""
        start = Place(first, self._places[first - 1].as_py()) if first else None
        row, n_added = first, 0
        for block in self.reader.scan(names, rows, start):
            block, added = self._listed(block, row)
            n_added += added
            if len(block.places):
                yield block.columns
            row += len(block.places)
            if row == self.n_rows:
                break
        if row < self.n_rows:
            raise self._deleted_error(row)
        if n_added:
            warn_user(
                f"{self.owner}: {n_added:,} rows were added while it was read; they are left out"
            )

    def _listed(self, block: Block, row: int) -> tuple[Block, int]:
        """Return the rows of a block that were listed, and the number of the others."""
        import pyarrow.compute as pc

        expected = self._places.slice(row, len(block.places))
        if block.places.equals(expected):
            return block, 0
        if self._limit is not None and len(expected) < len(block.places):
            n = len(expected)
            block = Block(block.places.slice(0, n), _each(block, lambda cells: cells.slice(0, n)))
            return self._listed(block, row)
        mask = pc.is_in(block.places, value_set=self._places.slice(row))
        block = Block(block.places.filter(mask), _each(block, lambda cells: cells.filter(mask)))
        expected = self._places.slice(row, len(block.places))
        if not block.places.equals(expected):
            places = zip(block.places.to_pylist(), expected.to_pylist(), strict=True)
            raise self._deleted_error(row + next(i for i, (a, b) in enumerate(places) if a != b))
        return block, len(mask) - len(block.places)

    def _deleted_error(self, row: int) -> CriticalMassError:
        what = f"row {row}" if self.ids is None else f"the row of id {str(self.ids[row])!r}"
        return CriticalMassError(
            f"{self.owner} has changed while it was read: {what} was deleted or moved; run the "
            "command again"
        )

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        import pyarrow as pa

        if name == self.key:
            return self.ids
        blocks = [block[name] for block in self.batches([name], _BLOCK_ROWS)]
        return pa.chunked_array(blocks)

    def check_size(self, n_bytes: int) -> None:
        """Accept any size: rows are read in blocks."""


def _each(block: Block, change: Any) -> dict[str, Any]:
    return {name: change(cells) for name, cells in block.columns.items()}


def _usual_key(schema: Mapping[str, Any]) -> str | None:
    names = {name.lower(): name for name in schema}
    return next((names[name] for name in _ID_NAMES if name in names), None)


def vector_lists(vectors: Sequence[NDArray[Any] | None], dtype: Any) -> Any:
    """Return vectors, or None, as an Arrow array of lists.

    Parameters
    ----------
    vectors: one (width,) array per row, or None.
    dtype: type of their values, float32 or float16.
    """
    import pyarrow as pa

    widths = {None if vector is None else len(vector) for vector in vectors}
    if len(widths) == 1 and widths != {None} and widths != {0}:
        values = np.concatenate([np.asarray(v, dtype) for v in vectors if v is not None])
        return pa.FixedSizeListArray.from_arrays(pa.array(values), int(widths.pop() or 0))
    lengths = [0 if vector is None else len(vector) for vector in vectors]
    parts = [np.asarray(vector, dtype) for vector in vectors if vector is not None]
    values = np.concatenate(parts) if parts else np.empty(0, dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = pa.array([vector is None for vector in vectors])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values), mask=mask)
