"""Labels and splits of imported vectors: a column of the same table, or a file beside it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.datasets.arrays import as_numbers
from criticalmass.errors import CriticalMassError
from criticalmass.vectors import Vectors

_WORDS = {"train": "train", "test": "test", "val": "val", "validation": "val", "valid": "val"}


def column_or_file(given: str | Path, vectors: Vectors, what: str) -> tuple[NDArray[Any], str]:
    """Read one value per vector.

    Parameters
    ----------
    given: a column of the vectors' table, an ``.npy`` file, or a ``.txt`` file with a value a
        line. A column comes before a file of the same name.
    vectors: what the values are for.
    what: "label" or "split", for errors.

    Returns
    -------
    (n,) values, and in words where they come from.

    Raises
    ------
    CriticalMassError: neither a column nor a file of that name; a line without a value.
    """
    name = str(given)
    if vectors.columns is not None and isinstance(given, str):
        values = vectors.columns(name)
        if values is not None:
            return values, f"column {name!r}"
    path = Path(given)
    if path.suffix == ".txt" and path.is_file():
        return _lines(path, what), f"file {path.name}"
    if path.suffix == ".npy" and path.is_file():
        try:
            return np.asarray(np.load(path, allow_pickle=False)), f"file {path.name}"
        except (ValueError, OSError, EOFError) as error:
            raise CriticalMassError(f"{name!r} cannot be read as an array: {error}") from error
    if path.is_file():
        raise CriticalMassError(f"{name!r} must be a .npy file, or a .txt file, one {what} a line")
    beside = [p.name for p in path.parent.glob("*") if p.suffix in (".txt", ".npy")]
    close = difflib.get_close_matches(path.name, [*vectors.column_names, *beside], n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    column = "column and no " if vectors.column_names else ""
    raise CriticalMassError(f"no {column}file {name!r} to read a {what} per vector from{hint}")


def _lines(path: Path, what: str) -> NDArray[Any]:
    """Read a value per line; whole numbers if all are."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise CriticalMassError(f"{str(path)!r} is no UTF-8 text: {error}") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise CriticalMassError(
            f"line {lines.index('') + 1} of {str(path)!r} is empty; write one {what} a line"
        )
    if not lines:
        raise CriticalMassError(f"{str(path)!r} is empty; write one {what} a line")
    return as_numbers(np.array(lines))


def split_rows(split: NDArray[Any], n: int) -> dict[str, NDArray[np.intp]]:
    """Turn one word per vector, or a mask of the test samples, into rows of each split.

    Raises
    ------
    CriticalMassError: another length or other words, or no samples to train or to test on.
    """
    if split.shape != (n,):
        raise CriticalMassError(f"split has the shape {split.shape}, but there are {n} samples")
    if split.dtype == np.bool_:
        split = np.where(split, "test", "train")
    words = {str(word) for word in np.unique(split)} if split.dtype.kind in "US" else set()
    if not words or not words <= _WORDS.keys():
        raise CriticalMassError(
            "split must hold 'train' and 'test' (and 'val'), or be a mask of test samples"
        )
    roles = {word: _WORDS[word] for word in words}
    if "test" not in words:
        roles = {word: "test" if role == "val" else role for word, role in roles.items()}
    rows = {
        role: np.flatnonzero(np.isin(split, [word for word in words if roles[word] == role]))
        for role in ("train", "test", "val")
    }
    if not rows["train"].size or not rows["test"].size:
        raise CriticalMassError("split leaves train or test without samples")
    return {role: found for role, found in rows.items() if found.size}
