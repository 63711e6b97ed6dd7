"""Vectors in files of named arrays: ``.npz``, ``.safetensors``, ``.pt``, ``.h5``.

A reader of a format implements `ArrayArchive`; `open_archive` chooses the arrays of vectors and
labels by name and shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.labels import LabelColumn
from criticalmass.extraction.vectors.names import (
    LABEL_NAMES,
    SPLITS,
    find_label_name,
    group_by_split,
    is_label_name,
    is_vector_name,
    simplify,
)
from criticalmass.extraction.vectors.source import VectorRequest, Vectors, VectorSource

_MAX_NAMES = 12
_WEIGHT_ENDS = ("bias", "running_mean")


@dataclass(frozen=True)
class ArrayInfo:
    """Shape and type of a named array.

    Attributes
    ----------
    shape: its shape.
    kind: its type, for messages.
    is_real: whether it holds real numbers that can be read.
    """

    shape: tuple[int, ...]
    kind: str
    is_real: bool

    def __str__(self) -> str:
        return f"{list(self.shape)}"


class ArrayArchive(Protocol):
    """A file of named arrays.

    Attributes
    ----------
    path: the file.
    unit: what the format calls an array.
    arrays: name -> shape and type.
    """

    path: Path
    unit: str
    arrays: Mapping[str, ArrayInfo]

    def source(self, name: str) -> VectorSource:
        """Return a matrix of vectors, which is read later."""
        ...

    def load(self, name: str) -> Any:
        """Read an array of labels."""
        ...


def open_archive(archive: ArrayArchive, request: VectorRequest) -> Vectors:
    """Choose the arrays of vectors and labels.

    Raises
    ------
    CriticalMassError: no such array, or no clear choice; the message lists the arrays.
    """
    path, arrays = archive.path, archive.arrays
    if request.column is not None:
        if request.column not in arrays:
            raise unknown_name(f"{archive.unit} in {str(path)!r}", request.column, arrays)
        vectors = {"all": request.column}
    else:
        vectors = _choose_vectors(archive, request)
    sources = {part: archive.source(name) for part, name in vectors.items()}
    sizes = {part: source.shape[0] for part, source in sources.items()}
    labels: dict[str, str] = {}
    if request.find_labels:
        labels = _find_labels(archive, sizes, set(vectors.values()))
    used = {*vectors.values(), *labels.values(), *request.others}
    unread = tuple(name for name in arrays if name not in used)

    def read_column(name: str) -> dict[str, LabelColumn] | None:
        names = {"all": name} if name in arrays else _parts_of_name(arrays, name)
        if not names or (set(names) == {"all"} and "all" not in sources):
            return None
        return {part: _label_column(archive, member) for part, member in names.items()}

    return Vectors(
        path.name,
        sources,
        {part: _label_column(archive, name) for part, name in labels.items()},
        _label_source(archive, labels),
        read_column,
        column_names=tuple(arrays),
        files=(path,),
        origin=_describe(archive, list(vectors.values())),
        unread=unread,
        unit=archive.unit,
    )


def _describe(archive: ArrayArchive, names: list[str]) -> str:
    unit = archive.unit if len(names) == 1 else f"{archive.unit}s"
    return f"{unit} {' and '.join(map(repr, names))}"


def _label_source(archive: ArrayArchive, labels: Mapping[str, str]) -> str:
    """Describe where labels come from; for ``y`` in ``.npz`` as the first versions did."""
    if not labels:
        return ""
    name = labels.get("all") or _stem(archive, labels)
    if archive.path.suffix == ".npz" and name.lower() == "y":
        return f"as in {archive.path.name}"
    return f"{archive.unit} {name!r}"


def _stem(archive: ArrayArchive, labels: Mapping[str, str]) -> str:
    groups = group_by_split(archive.arrays)
    return next(group.stem for group in groups if group.names.items() >= labels.items())


def _label_column(archive: ArrayArchive, name: str) -> LabelColumn:
    what = f"{archive.unit} {name!r} of {str(archive.path)!r}"
    return LabelColumn(archive.load(name), what)


def _choose_vectors(archive: ArrayArchive, request: VectorRequest) -> dict[str, str]:
    """Return part -> name of the array of its vectors."""
    arrays = {name: info for name, info in archive.arrays.items() if name not in request.others}
    by_lower_name = {name.lower(): name for name in arrays}
    parts = _choose_parts(arrays)
    if "x" in by_lower_name:
        return {"all": by_lower_name["x"]}
    if parts is not None:
        return parts
    if len(arrays) == 1:
        return {"all": next(iter(arrays))}
    matrices = [name for name, info in arrays.items() if _is_matrix(name, info)]
    named = [name for name in matrices if is_vector_name(name)]
    unreadable = [
        name
        for name, info in arrays.items()
        if is_vector_name(name)
        and name not in matrices
        and (len(info.shape) != 1 or info.kind == "object")
    ]
    candidates = matrices if len(matrices) == 1 else named
    if any(name.endswith(_WEIGHT_ENDS) for name in arrays) and not named:
        raise CriticalMassError(
            f"{str(archive.path)!r} seems to hold the weights of a network "
            f"({next(iter(arrays))!r} ...): extract features with them (criticalmass extract "
            f"MODEL DATA --weights FILE), or name the {archive.unit} of the vectors with column= "
            "(--column)"
        )
    if len(candidates) == 1 and not (unreadable and candidates != named):
        return {"all": candidates[0]}
    items = [f"{name!r} {info}" for name, info in archive.arrays.items()]
    listing = ", ".join(items[:_MAX_NAMES])
    more = f" and {len(items) - _MAX_NAMES} more" if len(items) > _MAX_NAMES else ""
    raise CriticalMassError(
        f"which {archive.unit} of {str(archive.path)!r} holds the vectors? It has {listing}{more}; "
        "it must hold one matrix (n_samples, n_neurons), X, or x_train and x_test; or name the "
        f"{archive.unit} with column= (--column)"
    )


def _is_matrix(name: str, info: ArrayInfo) -> bool:
    is_label = is_label_name(name) and info.shape[-1:] == (1,)
    return info.is_real and len(info.shape) == 2 and not is_label


def _choose_parts(arrays: Mapping[str, ArrayInfo]) -> dict[str, str] | None:
    """Return split -> name for names such as ``x_train`` and ``x_test``; None if there are none."""
    groups = [
        group
        for group in group_by_split(arrays)
        if set(group.names) == set(SPLITS) and group.stem not in LABEL_NAMES
    ]
    usual = [group for group in groups if group.stem == "x"]
    named = [group for group in groups if group.stem == "" or is_vector_name(group.stem)]
    matrices = [
        group
        for group in groups
        if all(len(arrays[name].shape) == 2 for name in group.names.values())
    ]
    for choice in (usual, named, matrices):
        if len(choice) == 1:
            return {split: choice[0].names[split] for split in SPLITS}
    return None


def _parts_of_name(arrays: Mapping[str, ArrayInfo], stem: str) -> dict[str, str]:
    """Return split -> name of the arrays ``STEM_train`` and ``STEM_test``."""
    groups = {group.stem: group.names for group in group_by_split(arrays)}
    return groups.get(simplify(stem), {})


def _find_labels(archive: ArrayArchive, sizes: Mapping[str, int], used: set[str]) -> dict[str, str]:
    """Return part -> name of the array of its labels; empty if there are none."""
    owner = f"the {archive.unit}s of {str(archive.path)!r}"
    if set(sizes) == {"all"}:
        names = [n for n in archive.arrays if is_label_name(n) and n not in used]
        fitting = [n for n in names if archive.arrays[n].shape[:1] == (sizes["all"],)]
        if names and not fitting:
            raise _length_error(archive, names[0], sizes["all"])
        name = find_label_name(fitting, owner)
        return {} if name is None else {"all": name}
    groups = {
        group.stem: group.names
        for group in group_by_split(archive.arrays)
        if group.stem in LABEL_NAMES
    }
    stem = find_label_name(groups, owner)
    if stem is None:
        return {}
    labels = groups[stem]
    for part in sizes:
        if part not in labels:
            raise CriticalMassError(
                f"{str(archive.path)!r} has the labels {next(iter(labels.values()))!r}, but none "
                f"of the {part} part; add them, or import the file with labels='none' (--labels "
                "none)"
            )
        if archive.arrays[labels[part]].shape[:1] != (sizes[part],):
            raise _length_error(archive, labels[part], sizes[part])
    return {part: labels[part] for part in sizes}


def _length_error(archive: ArrayArchive, name: str, n: int) -> CriticalMassError:
    return CriticalMassError(
        f"{archive.unit} {name!r} of {str(archive.path)!r} has the shape "
        f"{tuple(archive.arrays[name].shape)}, but there are {n} vectors; give one label per "
        "vector, or import the file with labels='none' (--labels none)"
    )
