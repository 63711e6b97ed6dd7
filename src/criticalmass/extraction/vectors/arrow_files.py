"""Tables in Parquet and Arrow files, in memory, and in several files of one format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.arrow_cells import is_text
from criticalmass.extraction.vectors.tables import FileTable, VectorTable, check_distinct

_BUFFER_BYTES = 1 << 16


class ParquetTable(FileTable):
    """A Parquet file."""

    is_untyped = False
    has_text_cells = False

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        super().__init__(path)
        with readable(path, "Parquet"), parquet.ParquetFile(path) as file:
            self.n_rows = int(file.metadata.num_rows)
            self.schema: Mapping[str, Any] = schema_types(file.schema_arrow, self.owner)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows."""
        from pyarrow import parquet

        # By default Arrow holds a whole row group in memory, which may be the whole file.
        with (
            readable(self.path, "Parquet"),
            parquet.ParquetFile(self.path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
        ):
            for batch in file.iter_batches(batch_size=rows, columns=list(names)):
                columns = {name: batch.column(name) for name in names}
                for column in columns.values():
                    if is_text(column.type):
                        column.validate(full=True)
                yield columns

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        from pyarrow import parquet

        with readable(self.path, "Parquet"), parquet.ParquetFile(self.path) as file:
            column = file.read(columns=[name]).column(name)
            column.validate(full=True)
            return column


class ArrowFileTable(FileTable):
    """A file of Arrow's own format: Feather (version 2), ``.arrow``, or a stream of batches."""

    is_untyped = False
    has_text_cells = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.n_rows = 0
        with self._open() as reader:
            self.schema: Mapping[str, Any] = schema_types(reader.schema, self.owner)
            for batch in _record_batches(reader):
                self.n_rows += batch.num_rows

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow as pa

        with readable(self.path, "an Arrow file"), pa.memory_map(str(self.path)) as file:
            try:
                reader = pa.ipc.open_file(file)
            except pa.ArrowInvalid:
                file.seek(0)
                reader = pa.ipc.open_stream(file)
            yield reader

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows."""
        with self._open() as reader:
            for batch in _record_batches(reader):
                columns = {name: batch.column(name) for name in names}
                for column in columns.values():
                    # The offsets of a damaged file could point outside its memory.
                    column.validate(full=True)
                for start in range(0, batch.num_rows, rows):
                    yield {name: column.slice(start, rows) for name, column in columns.items()}

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        import pyarrow as pa

        blocks = [batch[name] for batch in self.batches([name], self.n_rows)]
        return pa.chunked_array(blocks, self.schema[name])


def _record_batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
    else:
        yield from reader


class ArrowTable:
    """A table in memory."""

    is_untyped = False
    has_text_cells = False
    files: tuple[Path, ...] = ()
    key: str | None = None
    name, owner = "arrays", "the table"

    def __init__(self, table: Any) -> None:
        self.table = table
        self.n_rows = int(table.num_rows)
        self.schema: Mapping[str, Any] = schema_types(table.schema, self.owner)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows."""
        import pyarrow as pa

        for start in range(0, self.n_rows, rows):
            part = self.table.slice(start, rows)
            yield {
                name: pa.concat_arrays(part.column(name).chunks)
                if part.column(name).num_chunks != 1
                else part.column(name).chunk(0)
                for name in names
            }

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        return self.table.column(name)

    def check_size(self, n_bytes: int) -> None:
        """Accept any size: the table is in memory already."""


class PartsTable:
    """Tables of the same columns, one after the other.

    Parameters
    ----------
    folder: the folder or pattern that the user named.
    tables: the tables of its files.
    constants: for each table, column -> text of all its rows: the ``key=value`` folders of its
        path; the same columns for all tables.
    """

    key: str | None = None

    def __init__(
        self, folder: Path, tables: Sequence[VectorTable], constants: Sequence[Mapping[str, str]]
    ) -> None:
        import pyarrow as pa

        self.name, self.owner = folder.name, repr(str(folder))
        self.tables, self.constants = tables, constants
        self.files = tuple(file for table in tables for file in table.files)
        self.is_untyped = tables[0].is_untyped
        self.has_text_cells = tables[0].has_text_cells
        self.n_rows = sum(table.n_rows for table in tables)
        for table in tables[1:]:
            _check_same_columns(table, tables[0])
            _check_same_columns(tables[0], table)
            if self.is_untyped:
                # The first rows of the first file decide on the types.
                table.schema = tables[0].schema
        self.schema: Mapping[str, Any] = {
            **tables[0].schema,
            **dict.fromkeys(constants[0], pa.string()),
        }

    def batches(self, names: Sequence[str], rows: int) -> Iterator[Mapping[str, Any]]:
        """Read blocks of at most ``rows`` rows."""
        import pyarrow as pa

        for table, constants in zip(self.tables, self.constants, strict=True):
            stored = [name for name in names if name not in constants]
            for batch in table.batches(stored or list(table.schema)[:1], rows):
                n = len(next(iter(batch.values())))
                texts = {
                    name: pa.array([constants[name]] * n) for name in names if name in constants
                }
                yield {**batch, **texts}

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        import pyarrow as pa

        if name in self.constants[0]:
            sizes = [table.n_rows for table in self.tables]
            return np.repeat([constants[name] for constants in self.constants], sizes)
        parts = [table.values(name) for table in self.tables]
        if all(hasattr(part, "chunks") for part in parts):
            return pa.chunked_array([chunk for part in parts for chunk in part.chunks])
        return [value for part in parts for value in part]

    def check_size(self, n_bytes: int) -> None:
        """Refuse a file that unpacks to far more bytes than it has."""
        for table in self.tables:
            table.check_size(n_bytes * table.n_rows // max(1, self.n_rows))


def _check_same_columns(table: VectorTable, first: VectorTable) -> None:
    for name, kind in first.schema.items():
        if name not in table.schema:
            raise CriticalMassError(
                f"{table.owner} has no column {name!r}, but {first.owner} has; give files of the "
                "same columns"
            )
        if table.schema[name] != kind and not first.is_untyped:
            raise CriticalMassError(
                f"column {name!r} is {table.schema[name]} in {table.owner} and {kind} in "
                f"{first.owner}; give files of the same types"
            )


def schema_types(schema: Any, owner: str) -> dict[str, Any]:
    """Return column -> type of an Arrow schema.

    Raises
    ------
    CriticalMassError: two columns of one name.
    """
    names = list(schema.names)
    check_distinct(names, owner)
    return dict(zip(names, schema.types, strict=True))


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn errors of Arrow into an error in one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Arrow's own texts are for programmers; they remain in the traceback.
        reason = getattr(error, "strerror", None) or "it is damaged, cut off or of another format"
        raise CriticalMassError(
            f"{str(path)!r} cannot be read as {kind}: {reason}; write the file again"
        ) from error
