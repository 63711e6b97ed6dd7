"""Columns and files that say something of each imported vector: labels, several labels, splits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.labels import (
    LabelColumn,
    count_labels,
    encode_partial_labels,
    read_mask_or_texts,
)
from criticalmass.extraction.vectors import Vectors, VectorSource
from criticalmass.extraction.vectors.names import SPLIT_NAMES, split_roles
from criticalmass.extraction.vectors.tables import name_some
from criticalmass.storage.task_stores import Labelling

Tasks = Sequence[str] | Mapping[str, Any]


def check_length(source: VectorSource, column: LabelColumn) -> None:
    """Raise if there is not one label per vector."""
    n = count_labels(column)
    if n != source.shape[0]:
        raise CriticalMassError(
            f"there are {source.shape[0]} vectors ({source.name}) but {n} labels "
            f"({column.source}); give one label per vector"
        )


def read_tasks(vectors: Vectors, tasks: Tasks) -> list[Labelling]:
    """Read several labels of each vector.

    Parameters
    ----------
    vectors: the vectors.
    tasks: columns of their table, arrays of their file, or files as `read_column_or_file` reads
        them; or name -> labels, one array or one per part.

    Returns
    -------
    For each label its classes and part -> (n,) class numbers.

    Raises
    ------
    CriticalMassError: a label without a name or named twice, no such column, not one label per
        vector, or labels that are neither whole numbers nor texts.
    """
    given = tasks if isinstance(tasks, Mapping) else {name: name for name in map(str, tasks)}
    if len(given) != len(tasks) or not all(given):
        raise CriticalMassError(
            f"tasks={list(tasks)!r} must name each label once, and none may be empty"
        )
    labellings = []
    for name, values in given.items():
        columns = _read_task(vectors, name, values)
        if set(columns) != set(vectors.sources):
            raise CriticalMassError(
                f"features have the splits {sorted(vectors.sources)}, the label {name!r} "
                f"{sorted(columns)}; give both the same splits"
            )
        for part, source in vectors.sources.items():
            check_length(source, columns[part])
        classes, numbers = encode_partial_labels([columns[part] for part in vectors.sources])
        labels = dict(zip(vectors.sources, numbers, strict=True))
        labellings.append(Labelling(_task_name(vectors, name), classes, labels))
    names = [one.name for one in labellings]
    if len(set(names)) != len(names):
        raise CriticalMassError(f"the labels {names} have equal names; rename one of the files")
    return labellings


def _read_task(vectors: Vectors, name: str, values: Any) -> Mapping[str, LabelColumn]:
    if isinstance(values, (str, Path)):
        return read_column_or_file(values, vectors, "label")[0]
    if isinstance(values, Mapping):
        roles = split_roles(map(str, values))
        return {
            roles[str(part)]: LabelColumn(column, f"label {name!r} of {str(part)!r}")
            for part, column in values.items()
        }
    return {"all": LabelColumn(values, f"label {name!r}")}


def _task_name(vectors: Vectors, name: str) -> str:
    """Return the name of a label; of a file without its folder and suffix."""
    is_file = vectors.read_column(name) is None and Path(name).suffix in (".txt", ".npy")
    return Path(name).stem if is_file else name


def read_column_or_file(
    column_or_path: str | Path, vectors: Vectors, what: str
) -> tuple[Mapping[str, LabelColumn], str]:
    """Read one value per vector.

    Parameters
    ----------
    column_or_path: a column of the vectors' table, an array of their file, an ``.npy`` file, or a
        ``.txt`` file with one value per line. A column takes precedence over a file of the same
        name.
    vectors: the vectors that the values belong to.
    what: "label" or "split", for errors.

    Returns
    -------
    Part -> (n,) values, and a description of their source.

    Raises
    ------
    CriticalMassError: neither a column nor a file of that name, or a line without a value.
    """
    name = str(column_or_path)
    if isinstance(column_or_path, str):
        columns = vectors.read_column(name)
        if columns is not None:
            return columns, f"{vectors.unit} {name!r}"
    path = Path(column_or_path)
    if path.suffix == ".txt" and path.is_file():
        return {"all": LabelColumn(_read_lines(path, what), repr(name), True)}, f"file {path.name}"
    if path.suffix == ".npy" and path.is_file():
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise CriticalMassError(
                f"{name!r} cannot be read as an array of numbers or texts; save it again, objects "
                "as texts: np.save(path, labels.astype(str))"
            ) from error
        return {"all": LabelColumn(values, repr(name))}, f"file {path.name}"
    if path.is_file():
        raise CriticalMassError(
            f"{name!r} must be a .npy file, or a .txt file with one {what} per line"
        )
    files = [p.name for p in path.parent.glob("*") if p.suffix in (".txt", ".npy")]
    close = difflib.get_close_matches(path.name, [*vectors.column_names, *files], n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    column = "column and no " if vectors.column_names else ""
    raise CriticalMassError(f"no {column}file {name!r} to read a {what} per vector from{hint}")


def _read_lines(path: Path, what: str) -> list[str]:
    """Read one value per line."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise CriticalMassError(f"{str(path)!r} is no UTF-8 text; save it as UTF-8") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise CriticalMassError(
            f"line {lines.index('') + 1} of {str(path)!r} is empty; write one {what} per line"
        )
    if not lines:
        raise CriticalMassError(f"{str(path)!r} is empty; write one {what} per line")
    return lines


def rows_by_split(split: LabelColumn, n: int) -> dict[str, NDArray[np.intp]]:
    """Convert one split name per vector, or a mask of the test samples, to rows of each split.

    Raises
    ------
    CriticalMassError: another length or other names, or no samples for training or testing.
    """
    size = count_labels(split)
    if size != n:
        raise CriticalMassError(
            f"{split.source} has {size} values, but there are {n} samples; give one per sample"
        )
    values = read_mask_or_texts(split)
    if values is not None and values.dtype == np.bool_:
        values = np.where(values, "test", "train")
    elif values is not None:
        values = np.char.lower(values)
    names = set() if values is None else {str(name) for name in np.unique(values)}
    if values is None or not names or not names <= SPLIT_NAMES.keys():
        others = sorted(names - SPLIT_NAMES.keys())
        hint = f", and not {name_some(others)}" if others else ""
        raise CriticalMassError(
            f"{split.source} must hold 'train' and 'test' (and 'val'), or be a mask of test "
            f"samples{hint}"
        )
    roles = {name: SPLIT_NAMES[name] for name in names}
    if "test" not in roles.values():
        roles = {name: "test" if role == "val" else role for name, role in roles.items()}
    rows = {
        role: np.flatnonzero(np.isin(values, [name for name in names if roles[name] == role]))
        for role in ("train", "test", "val")
    }
    if not rows["train"].size or not rows["test"].size:
        raise CriticalMassError(f"{split.source} leaves train or test without samples")
    return {role: indices for role, indices in rows.items() if indices.size}
