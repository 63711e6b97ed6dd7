"""Vectors in memory: arrays, tensors, sparse matrices, data frames and Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arrays import as_numpy, is_sparse
from criticalmass.errors import CriticalMassError, shorten
from criticalmass.extraction.labels import LabelColumn
from criticalmass.extraction.vectors.arrow_cells import CellError, read_vectors, to_number_lists
from criticalmass.extraction.vectors.arrow_files import ArrowTable
from criticalmass.extraction.vectors.names import (
    SPLIT_NAMES,
    find_label_name,
    is_key_name,
    is_label_name,
    split_roles,
)
from criticalmass.extraction.vectors.source import (
    VectorRequest,
    Vectors,
    VectorSource,
    check_vectors,
)
from criticalmass.extraction.vectors.sparse import sparse_source
from criticalmass.extraction.vectors.tables import name_some, open_table

_NAME = "arrays"


def open_objects(values: Any, request: VectorRequest) -> Vectors:
    """Open vectors in memory.

    Parameters
    ----------
    values: (n_samples, n_neurons) array of NumPy, torch or scipy.sparse, a list of vectors, a
        column of vectors of pandas, polars or pyarrow; a table of pandas, polars, pyarrow,
        datasets, or any that has Arrow's stream interface; or one of these per split.
    request: columns of a table.

    Raises
    ------
    CriticalMassError: not (n_samples, n_neurons) finite real numbers.
    """
    values = _as_known(values)
    if _is_frame(values):
        return _open_frame(values, request)
    if isinstance(values, Mapping) and not is_sparse(values):
        return _open_splits(values, request)
    if request.column is not None:
        raise CriticalMassError(
            f"column={request.column!r} is for files and tables; leave it out for arrays"
        )
    return Vectors(_NAME, {"all": _array_source(values, "the array of vectors")})


def _open_splits(values: Mapping[Any, Any], request: VectorRequest) -> Vectors:
    """Open vectors, or a table, per split; a single split is split like other vectors."""
    roles = split_roles(map(str, values))
    if not values or not set(roles.values()) <= {"all", *SPLIT_NAMES.values()}:
        raise CriticalMassError(
            f"a mapping holds the vectors of each split, 'train' and 'test', and not "
            f"{name_some(list(roles)) or 'nothing'}; give labels as labels="
        )
    parts = {}
    for name, value in values.items():
        one = _as_known(value)
        if _is_frame(one):
            opened = _open_frame(one, request)
        else:
            opened = Vectors(_NAME, {"all": _array_source(one, f"the vectors of {str(name)!r}")})
        parts[roles[str(name)]] = opened
    first = next(iter(parts.values()))
    if len({bool(part.labels) for part in parts.values()}) > 1:
        unlabelled = next(name for name, part in parts.items() if not part.labels)
        raise CriticalMassError(
            f"the table of {unlabelled!r} has no labels and another one has; give labels to all, "
            "or labels='none'"
        )

    def read_column(name: str) -> Mapping[str, LabelColumn] | None:
        columns = {part: opened.read_column(name) for part, opened in parts.items()}
        return {
            part: column["all"] for part, column in columns.items() if column is not None
        } or None

    return replace(
        first,
        sources={part: opened.sources["all"] for part, opened in parts.items()},
        labels={part: opened.labels["all"] for part, opened in parts.items() if opened.labels},
        read_column=read_column,
        split_column=None if len(parts) > 1 else first.split_column,
    )


def _as_known(values: Any) -> Any:
    """Turn tables and streams of other libraries into those of pyarrow, by their own interfaces."""
    import pyarrow as pa

    library = type(values).__module__.partition(".")[0]
    try:
        if hasattr(values, "read_all") and library == "pyarrow":
            return values.read_all()
        if hasattr(values, "__next__"):
            return list(values)
        if isinstance(values, pa.Tensor):
            return values.to_numpy()
        if library == "datasets" and not isinstance(values, Mapping):
            return values.with_format("arrow")[:]
        if library in ("pandas", "polars", "pyarrow"):
            return values
        if hasattr(values, "__arrow_c_stream__"):
            try:
                return pa.table(values)
            except (pa.ArrowException, TypeError, ValueError):
                return pa.chunked_array(values)
    except Exception as error:
        raise _foreign_error(values, error) from error
    return values


def _foreign_error(values: Any, error: Exception) -> CriticalMassError:
    reason = " ".join(str(error).split())[:160]
    return CriticalMassError(
        f"vectors of type {type(values).__module__}.{type(values).__name__} cannot be read "
        f"({type(error).__name__}: {reason}); give an array, a table or a file"
    )


def _array_source(values: Any, name: str) -> VectorSource:
    if is_sparse(values):
        return sparse_source(values, name)
    array = as_matrix(values, name)
    check_vectors(array, name)
    return VectorSource.from_array(array, name)


def as_matrix(values: Any, name: str = "features") -> NDArray[Any]:
    """Convert vectors of any library to an array.

    Raises
    ------
    CriticalMassError: the rows differ in length, or hold no numbers.
    """
    values = as_numpy(values, name)
    if np.ma.is_masked(values):
        n_masked = int(np.ma.getmaskarray(values).sum())
        raise CriticalMassError(f"{name} has {n_masked} masked values; fill them in, or drop rows")
    kind = type(values).__module__.partition(".")[0]
    if kind == "polars" and hasattr(values, "to_arrow"):
        values, kind = values.to_arrow(), "pyarrow"
    if kind == "pyarrow":
        return _arrow_matrix(values, name)
    if isinstance(values, tuple) and len({np.ndim(part) for part in values}) > 1:
        raise CriticalMassError(
            f"a tuple of {len(values)} arrays of different shapes is no matrix of vectors; give "
            "labels as labels="
        )
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _ragged_error(values) from error
    except Exception as error:
        raise _foreign_error(values, error) from error
    if array.ndim == 0:
        raise CriticalMassError(
            f"{name} is {shorten(values)} of type {type(values).__name__}; give (n_samples, "
            "n_neurons) numbers, a table or a file"
        )
    if array.dtype.kind in "OU" and array.ndim == 1 and array.size:
        return _stack(array.astype(object), name)
    if array.dtype == object and array.ndim == 2:
        return _to_numbers(array, name)
    return array


def _to_numbers(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Convert (n, d) objects of Python to numbers: mixed columns, decimals, fractions."""
    kinds = set(map(type, array.ravel()))
    others = {kind for kind in kinds if kind is bool or not issubclass(kind, (Real, Decimal))}
    if others:
        place = next(i for i, value in enumerate(array.ravel()) if type(value) in others)
        raise CriticalMassError(
            f"{name} has {shorten(array.ravel()[place])} in row {place // array.shape[1]}; all "
            "values must be real numbers"
        )
    return array.astype(np.float64)


def _stack(rows: NDArray[Any], name: str) -> NDArray[Any]:
    """Stack a column of objects, one vector each: lists, arrays, tensors or texts."""
    import pyarrow as pa

    first = next((row for row in rows if row is not None), None)
    if isinstance(first, str):
        try:
            return _arrow_matrix(pa.array(rows, pa.string()), name)
        except pa.ArrowException as error:
            raise CriticalMassError(f"{name} mixes texts and other values") from error
    vectors: list[NDArray[Any]] = []
    for row, value in enumerate(rows):
        try:
            vector = np.asarray(as_numpy(value, name))
        except CriticalMassError:
            raise
        except Exception as error:
            raise CriticalMassError(
                f"{name} has {shorten(value)} in row {row}; give a list of numbers per row"
            ) from error
        if vector.size == max(vector.shape, default=0):
            vector = vector.ravel()
        if vector.dtype.kind not in "fiu" or vector.ndim != 1:
            raise CriticalMassError(
                f"{name} has {shorten(value)} in row {row}; give a list of numbers per row"
            )
        if vectors and len(vector) != len(vectors[0]):
            raise CriticalMassError(
                f"{name} has {len(vector)} numbers in row {row} and {len(vectors[0])} in row 0; "
                "all vectors must have the same length"
            )
        vectors.append(vector)
    return np.stack(vectors)


def _arrow_matrix(values: Any, name: str) -> NDArray[Any]:
    import pyarrow as pa

    if not hasattr(values, "type") or not hasattr(values, "__len__"):
        raise CriticalMassError(f"{name} is {shorten(values)}; give a column of vectors or a table")
    cells = values.combine_chunks() if hasattr(values, "combine_chunks") else values
    if isinstance(cells, pa.ChunkedArray):
        cells = pa.concat_arrays(cells.chunks)
    if not len(cells):
        raise CriticalMassError(f"{name} has no rows")
    try:
        first = to_number_lists(cells.slice(0, 1))
        dtype = np.dtype(first.type.value_type.to_pandas_dtype())
        return np.concatenate(list(read_vectors([cells], len(first[0]), dtype)))
    except CellError as error:
        raise CriticalMassError(error.describe(name)) from error


def _ragged_error(values: Any) -> CriticalMassError:
    return CriticalMassError(
        f"features={shorten(values)} cannot be made an array; all rows must have the same length"
    )


# Tables


def _is_frame(values: Any) -> bool:
    """Return whether a value is a table of pandas, polars or pyarrow."""
    module = type(values).__module__.partition(".")[0]
    if module not in ("pandas", "polars", "pyarrow"):
        return False
    return hasattr(values, "collect") or hasattr(values, "columns")


def _open_frame(frame: Any, request: VectorRequest) -> Vectors:
    module = type(frame).__module__.partition(".")[0]
    if hasattr(frame, "collect"):
        raise CriticalMassError("the table is lazy; give it collected, e.g. frame.collect()")
    if module == "pyarrow":
        import pyarrow as pa

        is_batch = isinstance(frame, pa.RecordBatch)
        return open_table(ArrowTable(pa.table(frame) if is_batch else frame), request)
    if module == "pandas":
        frame = _with_named_index(frame, request)
    numbers = _number_columns(frame)
    if request.column is None and len(numbers) == len(frame.columns):
        return _open_numbers(frame, numbers, request)
    if module == "polars":
        return open_table(ArrowTable(frame.to_arrow()), request)
    return open_table(_FrameTable(frame), request)


def _with_named_index(frame: Any, request: VectorRequest) -> Any:
    """Make columns of an index that holds the labels or the splits."""
    names = set(map(str, frame.columns))
    levels = [
        level
        for level in frame.index.names
        if level is not None
        and str(level) not in names
        and (level in request.others or (request.find_labels and is_label_name(str(level))))
    ]
    return frame.reset_index(levels) if levels else frame


class _FrameTable(ArrowTable):
    """A data frame of pandas; labels keep the values that they have there."""

    def __init__(self, frame: Any) -> None:
        super().__init__(_pandas_to_arrow(frame))
        self._positions = {str(name): position for position, name in enumerate(frame.columns)}
        self._frame = frame

    def values(self, name: str) -> Any:
        """Read a column, one value per row."""
        return self._frame.iloc[:, self._positions[name]]


def _number_columns(frame: Any) -> list[Any]:
    """Return the columns of real numbers of a data frame."""
    if type(frame).__module__.startswith("polars"):
        return [name for name, kind in frame.schema.items() if kind.is_numeric()]
    return [
        name
        for name, kind in zip(frame.columns, frame.dtypes, strict=True)
        if getattr(kind, "kind", "") in tuple("fiu")
    ]


def _open_numbers(frame: Any, numbers: list[Any], request: VectorRequest) -> Vectors:
    """Open a data frame of numbers only, a neuron per column except keys and labels."""
    names = {str(name): name for name in numbers}
    label = request.labels
    if request.find_labels:
        label = find_label_name([n for n in names if n != request.split], "the table's columns")
    others = {label} | request.others
    neurons = [name for name in names if name not in others and not is_key_name(name)]
    unread = tuple(name for name in names if name not in {*neurons, *others})
    if not neurons:
        raise CriticalMassError(
            f"the table holds no vectors: its columns are {name_some(list(names))}; give the "
            "columns of the vectors, e.g. frame[['d0', 'd1']]"
        )

    def read_column(name: str) -> Mapping[str, LabelColumn] | None:
        if name not in names:
            return None
        return {"all": LabelColumn(frame[names[name]], f"column {name!r} of the table")}

    labels = read_column(label) if request.find_labels and label is not None else None
    is_whole = len(neurons) == len(names)
    rows = frame if is_whole else frame[[names[name] for name in neurons]]
    source = _array_source(rows, "the table")
    origin = f"{len(neurons)} columns of numbers, {name_some(neurons)}"
    notes = () if is_whole else (f"read of {_NAME}: {origin}",)
    if unread:
        notes = (*notes, f"not read of {_NAME}: {', '.join(map(repr, unread))}")
    vectors = Vectors(_NAME, {"all": source}, labels or {}, f"column {label!r}", read_column)
    return replace(vectors, column_names=tuple(names), notes=notes, origin=origin, unread=unread)


def _pandas_to_arrow(frame: Any) -> Any:
    """Convert a data frame column by column, so that an error names its column."""
    import pyarrow as pa

    names = [str(name) for name in frame.columns]
    columns = []
    for position in range(len(names)):
        series = frame.iloc[:, position]
        try:
            columns.append(pa.array(_plain_objects(series), from_pandas=True))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            # Values of several types: texts of them, which the choice of columns can name.
            columns.append(pa.array([_as_text(value) for value in series], pa.string()))
    return pa.Table.from_arrays(columns, names=names)


def _as_text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - any object may lie in a column
        return shorten(value)


def _plain_objects(series: Any) -> Any:
    """Return a column of tensors as a column of arrays; any other column unchanged."""
    if series.dtype != object:
        return series
    return [as_numpy(value, str(series.name)) for value in series]
