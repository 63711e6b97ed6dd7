"""Inputs as a network takes them: arrays of any shape, several named inputs, and their storage."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arrays import as_numpy
from criticalmass.errors import CriticalMassError

#: Bytes of inputs that are held in memory; further ones are written to a temporary file.
MEMORY_BYTES = 2 * 2**30
_MASK = "attention_mask"


def to_inputs(values: Any, name: str) -> NDArray[Any]:
    """Convert a batch of inputs to an array: floats as float32, whole numbers as they are.

    Parameters
    ----------
    values: tensor or array (n, ...), or a mapping of several of them, which become the fields of
        one structured array.
    name: what holds them, for errors.

    Raises
    ------
    CriticalMassError: no numbers, or different numbers of samples.
    """
    if isinstance(values, Mapping):
        fields = {str(key): to_inputs(value, f"{name}[{key!r}]") for key, value in values.items()}
        counts = {len(array) for array in fields.values()}
        if len(counts) != 1:
            raise CriticalMassError(
                f"{name} has {' and '.join(map(str, sorted(counts)))} samples in its inputs "
                f"{', '.join(map(repr, fields))}; give as many in each"
            )
        dtype = np.dtype([(key, array.dtype, array.shape[1:]) for key, array in fields.items()])
        joined = np.empty(counts.pop(), dtype)
        for key, array in fields.items():
            joined[key] = array
        return joined
    array = np.asarray(as_numpy(values, name))
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise CriticalMassError(
            f"{name} has type {array.dtype} and shape {array.shape}; give numbers, (n, ...)"
        )
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def without_padding(inputs: NDArray[Any]) -> list[tuple[NDArray[np.intp], NDArray[Any]]]:
    """Remove the padding of tokens, so that the mean over tokens is one over those of the text.

    Parameters
    ----------
    inputs: a batch; padding is where its field ``attention_mask`` is 0.

    Returns
    -------
    Pairs of row numbers and their inputs, of equal length in each pair.
    """
    names = inputs.dtype.names or ()
    if _MASK not in names or inputs[_MASK].ndim != 2 or inputs[_MASK].all():
        return [(np.arange(len(inputs)), inputs)]
    mask = inputs[_MASK] != 0
    mask[~mask.any(axis=1)] = True
    lengths = mask.sum(axis=1)
    groups = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        fields = {
            name: (
                inputs[name][rows][mask[rows]].reshape(len(rows), length, *inputs[name].shape[2:])
                if inputs[name].shape[1:2] == mask.shape[1:]
                else inputs[name][rows]
            )
            for name in names
        }
        groups.append((rows, to_inputs(fields, "the inputs")))
    return groups


@dataclass(frozen=True, eq=False)
class StoredTensors(Sequence[NDArray[Any]]):
    """Inputs of a network, read once.

    Attributes
    ----------
    parts: arrays (n, ...) of one or several batches; structured for several named inputs.
    places: (n_samples, 2) part, and row of the part, of each sample.
    """

    parts: tuple[NDArray[Any], ...]
    places: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, key: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: slice) -> StoredTensors: ...
    def __getitem__(self, key: int | slice) -> NDArray[Any] | StoredTensors:
        """Return the inputs of one sample, or a slice of the sequence."""
        if isinstance(key, slice):
            return StoredTensors(self.parts, self.places[key])
        part, row = self.places[key]
        return np.asarray(self.parts[part][row])

    def subset(self, rows: NDArray[np.intp]) -> StoredTensors:
        """Return some of the samples, in the order of ``rows``."""
        return StoredTensors(self.parts, self.places[rows])

    def content(self) -> Iterator[bytes]:
        """Yield each sample's type, shape and bytes, for the dataset's digest."""
        heads = [f"{part.dtype.descr}{part.shape[1:]}".encode() for part in self.parts]
        for part, row in self.places:
            yield heads[part] + np.ascontiguousarray(self.parts[part][row]).tobytes()

    @cached_property
    def _kinds(self) -> NDArray[np.intp]:
        """Return the (n_samples,) number of each sample's shape and type."""
        number: dict[str, int] = {}
        kinds = [f"{part.dtype.descr}{part.shape[1:]}" for part in self.parts]
        of_parts = np.array([number.setdefault(kind, len(number)) for kind in kinds], np.intp)
        return of_parts[self.places[:, 0]]

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
        """Yield (row numbers, inputs) of samples of equal shape."""
        for kind in np.unique(self._kinds):
            members = np.flatnonzero(self._kinds == kind)
            for start in range(0, len(members), size):
                rows = members[start : start + size]
                yield rows, self._gather(rows)

    def _gather(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        places = self.places[rows]
        first = self.parts[places[0, 0]]
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for part in np.unique(places[:, 0]):
            here = places[:, 0] == part
            out[here] = self.parts[part][places[here, 1]]
        return out


class TensorWriter:
    """Collects batches of inputs, in memory up to `MEMORY_BYTES` and then in a temporary file."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._places: list[NDArray[np.intp]] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, inputs: NDArray[Any]) -> None:
        """Add a batch of inputs from `to_inputs`, without its padding."""
        places = np.empty((len(inputs), 2), np.intp)
        for rows, part in without_padding(inputs):
            places[rows, 0], places[rows, 1] = len(self._parts), np.arange(len(rows))
            self._parts.append(self._store(part))
        self._places.append(places)

    def __len__(self) -> int:
        return sum(map(len, self._places))

    def finish(self) -> StoredTensors:
        """Return all samples in the order in which they were added."""
        if self._file is not None:
            # The memory maps keep its content.
            self._file.close()
        return StoredTensors(tuple(self._parts), np.concatenate(self._places))

    def _store(self, part: NDArray[Any]) -> NDArray[Any]:
        self._bytes += part.nbytes
        if self._bytes <= MEMORY_BYTES:
            # Copied: a loader may fill the same memory again for its next batch.
            return np.array(part)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
            offset = self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(part).tobytes())
            self._file.flush()
        except OSError as error:
            raise CriticalMassError(
                f"the inputs take more than {self._bytes / 1e9:.1f} GB and the folder of temporary "
                f"files {tempfile.gettempdir()!r} cannot hold them ({error.strerror}); set TMPDIR "
                "to a larger one"
            ) from error
        return np.memmap(self._file, part.dtype, "r", offset, part.shape)
