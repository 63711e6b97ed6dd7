"""Whole vectors to export, from a feature store or a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.features import FeatureStore

VectorPath = str | os.PathLike[str]
_NUMBERED = re.compile(r"(.*?)(\d{1,18})")


@dataclass(frozen=True, eq=False)
class JoinedRows:
    """Rows of several matrices, in an order of their own.

    Attributes
    ----------
    parts: matrices of the same width.
    order: (n,) row numbers in the joined parts.
    """

    parts: tuple[Rows, ...]
    order: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, width)."""
        return self.order.size, int(self.parts[0].shape[1])

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Return the rows of a slice or an index array."""
        numbers = self.order[key]
        rows, start = np.empty((numbers.size, self.shape[1]), np.float32), 0
        for part in self.parts:
            is_here = (numbers >= start) & (numbers < start + int(part.shape[0]))
            if is_here.any():
                rows[is_here] = part[numbers[is_here] - start]
            start += int(part.shape[0])
        return rows


@dataclass(frozen=True, eq=False)
class WholeVectors:
    """Vectors with their numbers.

    Attributes
    ----------
    rows: (n, n_neurons) vectors, by ascending ids.
    ids: (n,) numbers of the vectors in the file that a store was made from; None if they are
        0 to n - 1.
    names: (n,) sample ids, where they contain no such numbers; empty otherwise.
    test_rows: rows of the test split; None without one.
    """

    rows: Rows
    ids: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    test_rows: NDArray[np.int64] | None = None


def open_parts(path: VectorPath, slim: SlimModel) -> Mapping[str, Rows]:
    """Open vectors, by the splits of a feature store or as one part ``vectors``.

    Raises
    ------
    CriticalMassError: if there are no vectors, or they have another width.
    """
    folder = Path(path)
    if folder.is_dir():
        store, layer = FeatureStore.open(folder), str(slim.record["layer"])
        parts: dict[str, Rows] = {split: store.features(split, layer) for split in store.splits}
    elif folder.suffix != ".npy" or not folder.is_file():
        raise CriticalMassError(
            f"{str(folder)!r} is neither a feature store nor a .npy file; criticalmass import "
            "makes a store of other files"
        )
    else:
        try:
            parts = {"vectors": np.load(folder, mmap_mode="r", allow_pickle=False)}
        except ValueError as error:
            raise CriticalMassError(
                f"{str(folder)!r} is no readable .npy file ({error})"
            ) from error
    for rows in parts.values():
        if len(rows.shape) != 2 or rows.shape[1] != slim.n_neurons:
            raise CriticalMassError(
                f"the vectors in {str(folder)!r} have shape {tuple(rows.shape)}; give "
                f"(n, {slim.n_neurons}), the vectors that the slim model was made from"
            )
    return parts


def open_joined(path: VectorPath, slim: SlimModel) -> WholeVectors:
    """Open the vectors of all splits in the order of the file that they were imported from.

    Raises
    ------
    CriticalMassError: as `open_parts`, or if there are no rows.
    """
    parts = open_parts(path, slim)
    sizes = [int(rows.shape[0]) for rows in parts.values()]
    n = sum(sizes)
    if not n:
        raise CriticalMassError(f"{str(Path(path))!r} holds no vectors; give at least one")
    order, ids = np.arange(n), None
    names: tuple[str, ...] = ()
    if Path(path).is_dir():
        store = FeatureStore.open(Path(path))
        names = tuple(name for split in parts for name in store.sample_ids(split))
        numbers = _file_numbers(names)
        if numbers is not None:
            order, names = np.argsort(numbers, kind="stable"), ()
            ids = None if np.array_equal(numbers[order], np.arange(n)) else numbers[order]
    test_rows = None
    if "test" in parts:
        start = sum(sizes[: list(parts).index("test")])
        is_test = (order >= start) & (order < start + int(parts["test"].shape[0]))
        test_rows = np.flatnonzero(is_test)
    return WholeVectors(JoinedRows(tuple(parts.values()), order), ids, names, test_rows)


def _file_numbers(names: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Return the numbers in ids such as "all-12", if all have them after the same text, once."""
    matches = [_NUMBERED.fullmatch(name) for name in names]
    if not all(matches) or len({match[1] for match in matches if match}) != 1:
        return None
    numbers = np.asarray([int(match[2]) for match in matches if match], dtype=np.int64)
    return numbers if np.unique(numbers).size == numbers.size else None
