"""Vectors in the cells of an Arrow column, in any form: lists, tensors, structs, texts ..."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.vectors.source import describe_row

_SHOWN = 40
_BRACKETS = "[](){} \t\r\n"


class CellError(Exception):
    """A cell, or a type of cells, that holds no vector.

    Attributes
    ----------
    row: row of the cell in the column; None if no cell of the type holds a vector.
    reason: what the cell holds, or the type.
    cure: the end of the message.
    """

    def __init__(self, row: int | None, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.row, self.reason, self.cure = row, reason, cure

    def describe(self, column: str, ids: Any = None) -> str:
        """Return the message: what the column holds, where, and the cure."""
        where = "" if self.row is None else f" in {describe_row(self.row, ids)}"
        return f"{column} has {self.reason}{where}{self.cure}"


def is_number_list(kind: Any) -> bool:
    """Return whether a type is a list of numbers, the usual form."""
    from pyarrow import types

    return is_list(kind) and (
        types.is_floating(kind.value_type) or types.is_integer(kind.value_type)
    )


def is_list(kind: Any) -> bool:
    """Return whether a type is a list, of fixed or variable length."""
    from pyarrow import types

    checks = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(check(kind) for check in checks) or _is_list_view(kind)


def _is_list_view(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list_view(kind) or types.is_large_list_view(kind))


def is_text(kind: Any) -> bool:
    """Return whether a type is text, plain or as a dictionary."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def holds_numbers(kind: Any) -> bool:
    """Return whether a type holds several numbers in one cell, at any depth."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(kind, pa.BaseExtensionType):
        return holds_numbers(kind.storage_type)
    if types.is_dictionary(kind):
        return holds_numbers(kind.value_type)
    if is_list(kind):
        value = kind.value_type
        is_number = types.is_floating(value) or types.is_integer(value) or types.is_decimal(value)
        return bool(is_number or types.is_boolean(value) or holds_numbers(value))
    if types.is_struct(kind):
        return any(holds_numbers(field.type) for field in kind)
    return bool(types.is_map(kind) and types.is_floating(kind.item_type))


def to_number_lists(cells: Any) -> Any:
    """Convert a column to lists of numbers, one level at a time.

    Parameters
    ----------
    cells: Arrow array, one cell per row.

    Returns
    -------
    An Arrow array of lists of numbers, one per row, without null rows.

    Raises
    ------
    CellError: a cell that holds no vector, or a type that cannot hold vectors.
    """
    import pyarrow as pa
    from pyarrow import types

    while True:
        kind = cells.type
        if cells.null_count:
            raise CellError(_first(cells.is_null()), "no vector", "; drop such rows")
        if isinstance(kind, pa.BaseExtensionType):
            shape = getattr(kind, "shape", None) or ()
            if sum(side > 1 for side in shape) > 1:
                raise CellError(None, f"tensors of shape {tuple(shape)}")
            cells = cells.storage
        elif types.is_dictionary(kind):
            cells = cells.dictionary_decode()
        elif is_text(kind):
            cells = _parse_texts(cells.cast(pa.large_string()))
        elif types.is_struct(kind):
            lists = [i for i in range(kind.num_fields) if holds_numbers(kind.field(i).type)]
            if len(lists) != 1:
                raise CellError(None, f"structs with {len(lists)} lists of numbers")
            cells = cells.flatten()[lists[0]]
        elif _is_list_view(kind):
            cells = cells.cast(pa.large_list(kind.value_type))
        elif is_number_list(kind):
            return cells
        elif is_list(kind) and types.is_decimal(kind.value_type):
            return _with_values(cells, cells.flatten().cast(pa.float64()))
        elif is_list(kind) and holds_numbers(kind.value_type):
            cells = _remove_level(cells)
        else:
            raise CellError(None, f"values of type {kind}")


def _remove_level(cells: Any) -> Any:
    """Remove one level of lists of lists, if there is one list per row or one number per list."""
    lengths = _lengths(cells)
    inner = cells.flatten()
    if (lengths == 1).all():
        return inner
    if is_number_list(inner.type) and not inner.null_count and (_lengths(inner) == 1).all():
        return _with_values(cells, inner.flatten())
    row = int(np.argmax(lengths != 1))
    cure = "; a row must hold one vector: average them, or write one row each"
    raise CellError(row, f"{lengths[row]} vectors", cure)


def _lengths(cells: Any) -> NDArray[np.int64]:
    import pyarrow.compute as pc

    return np.asarray(pc.list_value_length(cells)).astype(np.int64)


def _with_values(cells: Any, values: Any) -> Any:
    """Return lists of the same lengths with other values."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(_lengths(cells))])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)


def _parse_texts(cells: Any) -> Any:
    """Read texts such as ``[0.1, 0.2]`` (JSON, pgvector), ``[0.1 0.2]`` or ``{0.1,0.2}``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    has_bracket = np.asarray(pc.match_substring_regex(cells, r"^\s*[\[({]"))
    if not has_bracket.all():
        raise _text_error(cells, int(np.argmin(has_bracket)))
    inner = pc.ascii_trim(cells, characters=_BRACKETS)
    has_comma = len(inner) > 0 and "," in inner[0].as_py()
    lists = pc.split_pattern(inner, ",") if has_comma else pc.ascii_split_whitespace(inner)
    numbers = pc.ascii_trim_whitespace(lists.flatten())
    try:
        return _with_values(lists, numbers.cast(pa.float64()))
    except pa.ArrowInvalid as error:
        raise _text_error(cells, _first_unparsable(numbers, _lengths(lists))) from error


def _first_unparsable(numbers: Any, lengths: NDArray[np.int64]) -> int:
    import pyarrow as pa

    ends = np.cumsum(lengths)
    for row, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True)):
        try:
            numbers.slice(end - length, length).cast(pa.float64())
        except pa.ArrowInvalid:
            return row
    return 0


def _text_error(cells: Any, row: int) -> CellError:
    text = cells[row].as_py()
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return CellError(row, f"the text {shown!r}", "; write lists of numbers such as [0.1, 0.2]")


def _first(mask: Any) -> int:
    """Return the position of the first True in an Arrow array."""
    return int(np.argmax(np.asarray(mask)))


def read_vectors(
    blocks: Iterable[Any], width: int, dtype: np.dtype[Any], first_row: int = 0
) -> Iterator[NDArray[Any]]:
    """Read blocks of a column, whose first is row ``first_row``, as (n_rows, width) matrices.

    Raises
    ------
    CellError: a cell that holds no vector of this width.
    """
    for cells in blocks:
        try:
            yield _read_block(cells, width, dtype)
        except CellError as error:
            raise CellError(first_row + (error.row or 0), error.reason, error.cure) from error
        first_row += len(cells)


def _read_block(cells: Any, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    lists = to_number_lists(cells)
    lengths = _lengths(lists)
    if (lengths != width).any():
        row = int(np.argmax(lengths != width))
        cure = f" and {width} in row 0; all vectors must have the same length"
        raise CellError(row, f"{lengths[row]} numbers", cure)
    values = lists.flatten()
    if values.null_count:
        row = _first(values.is_null()) // width
        raise CellError(row, "vectors that lack a number, first", "; drop such rows")
    matrix: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(lists), width)
    return matrix.astype(dtype, copy=False)
