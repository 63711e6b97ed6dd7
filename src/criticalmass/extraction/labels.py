"""Class numbers of labels, judged by their values and not by their type.

Whole numbers of any type (``1``, ``1.0``, ``True``, nullable, decimal) and texts of any type
(``str``, bytes, categories) are labels. Missing values, fractions, and several labels per row are
refused with the first such row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arrays import as_numpy, is_tensor
from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError, shorten

HIDDEN_LABEL = "-1"
"""The class name under which benchmarks publish a test part whose labels are secret."""
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class LabelColumn:
    """Labels as the user gave them.

    Attributes
    ----------
    values: array-like, one label per row: NumPy, torch, pandas, polars, pyarrow or a list.
    source: what holds them, for messages: "labels", "column 'label' of 'table.csv'".
    is_untyped: whether they come from plain text, in which numbers are written as texts.
    """

    values: Any
    source: str = "labels"
    is_untyped: bool = False


@dataclass(frozen=True)
class _Coded:
    """Labels as numbers of their distinct values.

    Attributes
    ----------
    codes: (n,) index into ``values``.
    values: the distinct values: only bool, only int, or only str.
    merged: pairs of texts that differ in spaces at their ends.
    """

    codes: NDArray[np.intp]
    values: list[Any]
    merged: tuple[tuple[str, str], ...] = ()

    @property
    def is_text(self) -> bool:
        return bool(self.values) and isinstance(self.values[0], str)


def encode_labels(
    labels: Sequence[LabelColumn | Any], cure: str = ""
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Assign class numbers to the distinct labels of several parts.

    Numbers are sorted by value and texts by their characters. Texts lose spaces at their ends.
    Where some labels are texts and some numbers, all become texts. The user is informed of both.

    Parameters
    ----------
    labels: the labels of each part.
    cure: end of the message of an error, e.g. how to leave the labels out.

    Returns
    -------
    The class names, and for each part its (n,) class numbers.

    Raises
    ------
    CriticalMassError: labels that are missing, neither whole numbers nor texts, or not one per
        row; the message counts them and names the source and the first row.
    """
    columns = [x if isinstance(x, LabelColumn) else LabelColumn(x) for x in labels]
    try:
        parts = [_code(column) for column in columns]
    except CriticalMassError as error:
        raise CriticalMassError(f"{error}{cure}") from error
    if any(part.is_text for part in parts) and not all(
        part.is_text for part in parts if part.values
    ):
        write_line(f"{columns[0].source}: some parts hold texts and some numbers; all become texts")
        parts = [_Coded(part.codes, [str(v) for v in part.values], part.merged) for part in parts]
    for first, second in dict.fromkeys(pair for part in parts for pair in part.merged):
        write_line(
            f"{columns[0].source}: {first!r} and {second!r} differ in spaces only and are one class"
        )
    distinct = {value for part in parts for value in part.values}
    if not all(isinstance(value, bool) for value in distinct):
        distinct = {int(value) if isinstance(value, bool) else value for value in distinct}
    classes = sorted(distinct)
    number = {value: index for index, value in enumerate(classes)}
    numbers = [
        np.array([number[value] for value in part.values], dtype=np.int64)[part.codes]
        for part in parts
    ]
    return tuple(str(value) for value in classes), numbers


def encode_partial_labels(
    labels: Sequence[LabelColumn],
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Assign class numbers to labels of which some are missing; these get -1.

    Parameters
    ----------
    labels: the labels of each part.

    Raises
    ------
    CriticalMassError: all labels are missing, or as `encode_labels` raises it.
    """
    import pandas as pd

    filled, missing = [], []
    for column in labels:
        values = _as_vector(column)
        is_missing = np.asarray(pd.isna(values), dtype=bool)
        if values.dtype.kind == "O":
            is_missing |= [isinstance(value, str) and not value.strip() for value in values]
        missing.append(is_missing)
        # Any other label takes the place of a missing one, so that errors name the right row.
        known = values[~is_missing]
        values = (
            np.where(is_missing, known[0], values) if is_missing.any() and known.size else values
        )
        kept = LabelColumn(values, column.source, column.is_untyped)
        filled.append(LabelColumn([], column.source) if not known.size else kept)
    if all(one.all() for one in missing):
        raise CriticalMassError(f"{labels[0].source} has no value in any row; use another column")
    names, numbers = encode_labels(filled)
    return names, [
        np.where(is_missing, np.int64(-1), y if y.size else np.int64(0))
        for is_missing, y in zip(missing, numbers, strict=True)
    ]


def read_mask_or_texts(column: LabelColumn) -> NDArray[Any] | None:
    """Return values as a (n,) boolean mask or as (n,) texts; None if they are numbers.

    Raises
    ------
    CriticalMassError: as ``encode_labels``.
    """
    part = _code(column)
    if part.is_text or all(isinstance(value, bool) for value in part.values):
        return np.array(part.values)[part.codes]
    return None


def count_labels(column: LabelColumn) -> int:
    """Return the number of labels."""
    return len(_as_vector(column))


# Labels of any type as distinct bool, int or str values


def _code(column: LabelColumn) -> _Coded:
    values = _as_vector(column)
    kind = values.dtype.kind
    if kind in "biu":
        distinct, codes = np.unique(values, return_inverse=True)
        return _Coded(codes, distinct.tolist())
    if kind == "f":
        return _code_floats(values, column.source)
    if kind in "SU":
        values = values.astype(object)
    elif kind == "T":
        values = np.array(values.tolist(), dtype=object)
    elif kind != "O":
        raise CriticalMassError(
            f"{column.source}: labels are of type {values.dtype}; they must be whole numbers or "
            "texts"
        )
    return _code_objects(values, column)


def _as_vector(column: LabelColumn) -> NDArray[Any]:
    """Convert labels of any library to (n,) values, objects where NumPy has no type for them."""
    values = as_numpy(column.values, column.source)
    if type(values).__module__.startswith("polars"):
        values = values.to_arrow()
    if type(values).__module__.startswith("pyarrow"):
        values = _from_arrow(values)
    elif isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        missing = np.ma.getmaskarray(values).ravel()
        raise _missing_error(missing, column.source)
    elif hasattr(values, "columns"):
        values = np.asarray(values)
    elif hasattr(values, "dtype"):
        is_plain = isinstance(values.dtype, np.dtype)
        values = np.asarray(values) if is_plain else np.asarray(values, dtype=object)
    elif isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
        raise CriticalMassError(
            f"{column.source}={shorten(values)} is not a collection of labels; give one per row"
        )
    else:
        try:
            values = _from_list(list(values))
        except Exception as error:
            raise CriticalMassError(
                f"{column.source}={shorten(values)} of type {type(values).__name__} cannot be read "
                "as a list of labels; give one per row"
            ) from error
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise CriticalMassError(
            f"{column.source}: labels have shape {values.shape}; give one label per row (of "
            "one-hot rows y use y.argmax(axis=1); several labels per row are not supported)"
        )
    return values


def _from_arrow(values: Any) -> NDArray[Any]:
    import pyarrow as pa
    from pyarrow import types

    if not hasattr(values, "null_count"):
        return np.asarray(values)
    if types.is_primitive(values.type) and not values.null_count:
        return np.asarray(values)
    if types.is_string(values.type) or types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    if types.is_large_string(values.type):
        values = values.dictionary_encode()
    if not types.is_dictionary(values.type):
        return _objects(values.to_pylist())
    # Equal texts share one object, so that a million labels take little memory.
    parts = []
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        texts = _objects([*chunk.dictionary.to_pylist(), None])
        parts.append(texts[np.asarray(chunk.indices.fill_null(len(texts) - 1))])
    return np.concatenate(parts) if parts else np.empty(0, dtype=object)


def _from_list(items: list[Any]) -> NDArray[Any]:
    """Convert a list without NumPy's own rules, by which ["a", nan] becomes ["a", "nan"]."""
    kinds = set(map(type, items))
    if kinds <= {bool} or kinds <= {int} or kinds <= {float}:
        try:
            return np.array(items)
        except OverflowError:
            pass
    return _objects(items)


def _objects(items: list[Any]) -> NDArray[Any]:
    return np.fromiter(items, dtype=object, count=len(items))


def _code_floats(values: NDArray[Any], source: str) -> _Coded:
    missing = np.isnan(values)
    if missing.any():
        raise _missing_error(missing, source)
    distinct, codes = np.unique(values, return_inverse=True)
    is_whole = np.isfinite(distinct) & (distinct == np.round(distinct))
    if not is_whole.all():
        row = int(np.argmin(is_whole[codes]))
        raise _fraction_error(values[row], row, source)
    return _Coded(codes, [int(value) for value in distinct.tolist()])


def _code_objects(values: NDArray[Any], column: LabelColumn) -> _Coded:
    import pandas as pd

    kinds = set(map(type, values))
    if not kinds <= {str}:
        values = _objects([_scalar(value, row, column) for row, value in enumerate(values)])
    missing = np.asarray(pd.isna(values), dtype=bool)
    if missing.any():
        raise _missing_error(missing, column.source)
    kinds = set(map(type, values))
    if str in kinds and kinds != {str}:
        write_line(f"{column.source}: texts and numbers are mixed; all become texts")
        values, kinds = _objects([_as_text(value) for value in values]), {str}
    codes, distinct = pd.factorize(values)
    if str in kinds:
        return _code_texts(codes, distinct.tolist(), column)
    if float in kinds:
        return _code_floats(values.astype(np.float64), column.source)
    return _Coded(codes, distinct.tolist())


def _as_text(value: bool | int | float | str) -> str:
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


def _scalar(value: Any, row: int, column: LabelColumn) -> Any:
    """Return a label as None, bool, int, float or str; a list of one label is that label."""
    if is_tensor(value):
        value = as_numpy(value, column.source)
    if isinstance(value, (list, tuple, np.ndarray)):
        items = np.ravel(value) if isinstance(value, np.ndarray) else value
        if len(items) != 1:
            raise _several_error(len(items), row, column)
        return _scalar(items[0], row, column)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise CriticalMassError(
                f"{column.source}: the label in row {row} is {value[:20]!r}, which is not UTF-8 "
                "text; decode the labels"
            ) from error
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (Integral, Decimal, Real)):
        if isinstance(value, Decimal) and value.is_finite() and value % 1 == 0:
            return int(value)
        return int(value) if isinstance(value, Integral) else float(value)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if type(value).__name__ == "Interval":
        # Of pandas.cut.
        return str(value)
    raise CriticalMassError(
        f"{column.source}: the label in row {row} is {shorten(value)} of type "
        f"{type(value).__name__}; labels must be whole numbers or texts"
    )


def _code_texts(codes: NDArray[np.intp], texts: list[str], column: LabelColumn) -> _Coded:
    """Strip texts, and read those of a plain text file as numbers if all are numbers."""
    stripped = [text.strip() for text in texts]
    is_empty = np.array([not text for text in stripped])
    if is_empty.any():
        raise _missing_error(is_empty[codes], column.source)
    values: list[Any] = stripped
    if column.is_untyped:
        values = _numbers_of_texts(codes, stripped, column.source)
    distinct = list(dict.fromkeys(values))
    number = {value: index for index, value in enumerate(distinct)}
    first: dict[str, str] = {}
    merged = [
        (first[text], raw)
        for raw, text in zip(texts, stripped, strict=True)
        if first.setdefault(text, raw) != raw
    ]
    return _Coded(np.array([number[value] for value in values])[codes], distinct, tuple(merged))


def _numbers_of_texts(codes: NDArray[np.intp], texts: list[str], source: str) -> list[Any]:
    """Return integers if all texts are integers, or decimals such as "1.0"; otherwise the texts.

    A text such as "007" is a name and not an integer.
    """
    try:
        integers = [int(text) for text in texts]
    except ValueError:
        integers = []
    if [str(value) for value in integers] == texts:
        return list(integers)
    is_missing = np.array([text.lower() == "nan" for text in texts])
    numbers = [text for text in texts if text.lower() != "nan"]
    is_decimal = any(not text.lstrip("+-").isdecimal() for text in numbers)
    if not is_decimal or not all(_DECIMAL.fullmatch(text) for text in numbers):
        return list(texts)
    if is_missing.any():
        raise _missing_error(is_missing[codes], source)
    values = [float(text) for text in texts]
    is_whole = np.array([value.is_integer() for value in values])
    if not is_whole.all():
        row = int(np.argmin(is_whole[codes]))
        raise _fraction_error(values[codes[row]], row, source)
    return [int(value) for value in values]


# Errors


def _missing_error(missing: NDArray[np.bool_], source: str) -> CriticalMassError:
    return CriticalMassError(
        f"{source}: {int(missing.sum())} of {missing.size} labels are missing, first in row "
        f"{int(np.argmax(missing))}; fill them in or drop these rows"
    )


def _fraction_error(value: float, row: int, source: str) -> CriticalMassError:
    return CriticalMassError(
        f"{source}: the label in row {row} is {float(value)}; labels must be whole numbers or "
        "texts, because regression is not supported (make classes of the values, e.g. with "
        "pandas.cut(values, 5).astype(str))"
    )


def _several_error(n: int, row: int, column: LabelColumn) -> CriticalMassError:
    subject = f"{column.source}: the column"
    if isinstance(column.values, (list, tuple)):
        subject = f"{column.source}={shorten(column.values)}"
    return CriticalMassError(
        f"{subject} cannot be made an array of one label per row: row {row} has {n} labels; "
        "several labels per row are not supported"
    )


# Hidden labels


def check_hidden_labels(
    labels: Mapping[str, NDArray[np.int64]],
    class_names: Sequence[str],
    source: str | Mapping[str, str] = "labels",
) -> None:
    """Refuse the label -1 unless it is a class, with samples for training and for testing.

    Parameters
    ----------
    labels: split -> (n,) class numbers.
    class_names: the name of each class.
    source: what holds the labels, for the message; or one text per split.

    Raises
    ------
    CriticalMassError: -1 occurs in the training split only, or only outside it.
    """
    if HIDDEN_LABEL not in class_names or "train" not in labels:
        return
    hidden = list(class_names).index(HIDDEN_LABEL)
    counts = {split: int((numbers == hidden).sum()) for split, numbers in labels.items()}
    if counts["train"] and counts.get("test", 1):
        return
    split = next(name for name, count in counts.items() if count)
    total = len(labels[split])
    if not isinstance(source, str):
        source = source.get(split, "labels")
    if counts["train"]:
        row = int(np.argmax(labels["train"] == hidden))
        raise CriticalMassError(
            f"{source}: {counts['train']} of {total} labels for training are -1, first in sample "
            f"{row} of the training part, and none for testing: -1 stands for a missing label; "
            "drop these rows, or give this class another name"
        )
    raise CriticalMassError(
        f"{source}: {counts[split]} of {total} labels of the {split} part are -1, and none for "
        "training: -1 stands for a hidden label; leave the part out (a quarter of the rest is then "
        "for the test), or choose the test rows with split (--split)"
    )
