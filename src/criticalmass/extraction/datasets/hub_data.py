"""Datasets of the Hugging Face `datasets` library: saved in a folder, or from its hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.datasets.arrays import encode_labels
from criticalmass.extraction.datasets.columns import Columns, choose_columns
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import arranged
from criticalmass.extraction.models.hub import offline, reachable
from criticalmass.extraction.specs import Spec
from criticalmass.storage.features import UNLABELLED

HUB_OPTIONS = ("n", "text", "image", "label", "config")
"""The options of ``hf:``."""


def load_hub_data(spec: Spec) -> Dataset:
    """Load texts or images of the `datasets` library.

    Parameters
    ----------
    spec: ``hf:FOLDER`` (written by ``save_to_disk``) or ``hf:NAME`` of the hub; ``?config=`` names
        one of several configurations, ``text=``, ``image=`` and ``label=`` name columns that are
        not found by their type.

    Raises
    ------
    MissingExtraError: the library is not installed.
    CriticalMassError: no such column, values that are missing.
    DataUnavailableError: not on this disk, and the hub does not have it or cannot be reached.
    """
    library = import_package("datasets", "data")
    folder = Path(spec.name)
    found = _from_folder(library, spec) if folder.is_dir() else _from_hub(library, spec)
    parts: Mapping[str, Any] = found if isinstance(found, dict) else {"all": found}
    features = next(iter(parts.values())).features
    columns = choose_columns({name: _kind(library, kind) for name, kind in features.items()}, spec)
    labelled, left_out = _labels(parts, columns, features, spec)
    names, codes = labelled
    splits = {}
    for name, code in codes.items():
        ids = [f"{name}-{row}" for row in range(len(code))]
        items: Any
        if columns.is_image:
            items = _images(library, parts[name], columns.content, ids)
        else:
            items = _texts(parts[name], columns.content, spec)
        splits[name] = Split(items, code, ids)
    arranged_splits, rule = arranged(splits, spec.text)
    notes: dict[str, Any] = {"split": rule, "columns": _read(columns)}
    if left_out:
        notes["parts_without_labels"] = left_out
    modality: Any = "image" if columns.is_image else "text"
    name = (folder.resolve().name if folder.is_dir() else spec.name).replace("/", "-")
    return Dataset(spec.text, name, modality, arranged_splits, names, notes=notes)


def _read(columns: Columns) -> dict[str, str]:
    read = {"image" if columns.is_image else "text": columns.content}
    return {**read, "label": columns.label} if columns.label is not None else read


def _from_folder(library: Any, spec: Spec) -> Any:
    if "config" in spec.options:
        raise CriticalMassError(f"config in {spec.text!r} is for datasets of the hub; leave it out")
    try:
        return library.load_from_disk(spec.name)
    except (OSError, ValueError, KeyError) as error:
        raise CriticalMassError(
            f"{spec.name!r} holds no dataset written by save_to_disk "
            f"({' '.join(str(error).split())}); for pictures in folders use imagefolder:, for a "
            "table parquet:, csv: or jsonl:"
        ) from error


def _from_hub(library: Any, spec: Spec) -> Any:
    config = spec.options.get("config")
    try:
        if reachable():
            return library.load_dataset(spec.name, config)
        with offline():
            return library.load_dataset(spec.name, config)
    except (OSError, ValueError, RuntimeError) as error:
        # The library's errors for an absent dataset, configuration or network are children of
        # these, worded over several lines.
        said = " ".join(str(error).split())
        raise DataUnavailableError(
            f"no folder {spec.name!r}, and the hub does not give a dataset of that name ({said})"
        ) from error


def _kind(library: Any, feature: Any) -> str:
    if isinstance(feature, library.ClassLabel):
        return "class"
    if isinstance(feature, library.Image):
        return "image"
    if isinstance(feature, library.Value):
        if feature.dtype in ("string", "large_string"):
            return "text"
        return "number" if feature.dtype.startswith(("int", "uint", "bool")) else feature.dtype
    if isinstance(feature, (list, library.Sequence, library.LargeList)):
        return "vector"
    return type(feature).__name__


def _labels(
    parts: Mapping[str, Any], columns: Columns, features: Any, spec: Spec
) -> tuple[tuple[tuple[str, ...], dict[str, NDArray[np.int64]]], list[str]]:
    """Read the class numbers of each part; parts that were published without any are left out."""
    if columns.label is None:
        zeros = {name: np.zeros(len(part), np.int64) for name, part in parts.items()}
        return (UNLABELLED, zeros), []
    given = {name: np.asarray(part[columns.label][:]) for name, part in parts.items()}
    named = getattr(features[columns.label], "names", None)
    if named is None:
        classes, codes = encode_labels(list(given.values()))
        return (classes, dict(zip(given, codes, strict=True))), []
    # Competitions publish their test part with the class -1.
    hidden = [name for name, labels in given.items() if len(labels) and (labels == -1).all()]
    kept = {name: labels.astype(np.int64) for name, labels in given.items() if name not in hidden}
    for name, labels in kept.items():
        if (labels < 0).any():
            raise CriticalMassError(
                f"{int((labels < 0).sum())} of {len(labels)} samples in the part {name!r} of "
                f"{spec.name!r} have no label (-1); drop them, or take label=none"
            )
    if not kept:
        raise CriticalMassError(
            f"column {columns.label!r} of {spec.name!r} says -1 (no label) throughout; "
            "take another column, or label=none"
        )
    return (tuple(named), kept), hidden


def _texts(part: Any, column: str, spec: Spec) -> list[str]:
    texts: list[str] = list(part[column])
    missing = sum(text is None for text in texts)
    if missing:
        raise CriticalMassError(
            f"column {column!r} of {spec.name!r} has no value in {missing} of {len(texts)} rows, "
            f"first in row {texts.index(None)}; fill them in or drop these rows"  # type: ignore[arg-type]
        )
    return texts


@dataclass(frozen=True)
class HubImages:
    """Encoded images of a part, as they were stored."""

    part: Any
    column: str

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, row: int, /) -> bytes:
        """Read one image's bytes, or the file that it names."""
        cell = self.part[row][self.column] or {}
        content = cell.get("bytes")
        if content is None and cell.get("path"):
            content = Path(cell["path"]).read_bytes()
        return content or b""


def _images(library: Any, part: Any, column: str, ids: list[str]) -> EncodedImages:
    plain = part.select_columns([column]) if hasattr(part, "select_columns") else part
    plain = plain.cast_column(column, library.Image(decode=False))
    names = [f"{column} of {name}" for name in ids]
    return EncodedImages(HubImages(plain, column), names, np.arange(len(plain)))
