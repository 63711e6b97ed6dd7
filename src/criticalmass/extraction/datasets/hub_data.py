"""Datasets of the Hugging Face `datasets` library, from a folder or from its hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.datasets.audio import EncodedSounds
from criticalmass.extraction.datasets.columns import ColumnChoice, choose_columns
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.encoded import EncodedSamples
from criticalmass.extraction.datasets.hidden_labels import (
    WITHOUT_LABELS,
    PartLabels,
    drop_hidden_parts,
)
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.sampling import SAMPLING
from criticalmass.extraction.datasets.several_labels import add_tasks, without_labels_option
from criticalmass.extraction.datasets.splits import arrange_splits
from criticalmass.extraction.labels import LabelColumn, check_hidden_labels, encode_labels
from criticalmass.extraction.models.hub import hub_or_cache
from criticalmass.extraction.specs import LIVE, Spec
from criticalmass.storage.features import UNLABELLED

HUB_OPTIONS = (*SAMPLING, "text", "image", "audio", "label", "labels", "config")
"""The options of ``hf:``."""


def load_hub_data(spec: Spec) -> Dataset:
    """Load texts or images of the `datasets` library.

    Parameters
    ----------
    spec: ``hf:FOLDER`` (written by ``save_to_disk``) or ``hf:NAME`` of the hub; ``?config=`` names
        one of several configurations; ``text=``, ``image=`` and ``label=`` name columns that
        cannot be chosen by their type.

    Raises
    ------
    MissingExtraError: the library is not installed.
    CriticalMassError: no such column, or missing values.
    DataUnavailableError: no such folder, and the hub does not have it or cannot be reached.
    """
    library = import_package("datasets", "data")
    folder = Path(spec.name)
    loaded = _load_folder(library, spec) if folder.is_dir() else _load_from_hub(library, spec)
    parts: Mapping[str, Any] = loaded if isinstance(loaded, dict) else {"all": loaded}
    name = (folder.resolve().name if folder.is_dir() else spec.name).replace("/", "-")
    return _read_parts(library, spec, name, parts)


def is_hub_data(value: Any) -> bool:
    """Whether a value is a dataset of the library, read into memory or mapped from files."""
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(value).mro()}
    return "datasets.Dataset" in kinds


def read_hub_data(
    spec: str, name: str, parts: Mapping[str, Any], tasks: Sequence[str] = ()
) -> Dataset:
    """Read the columns of samples and labels of live datasets of the library.

    Parameters
    ----------
    spec, name: under which the dataset is recorded.
    parts: part -> dataset.
    tasks: columns of several labels of each sample.

    Raises
    ------
    CriticalMassError: the columns cannot be chosen, or values are missing.
    """
    options = {"labels": ",".join(tasks)} if tasks else {}
    parsed = Spec(spec, LIVE, name, options)
    return _read_parts(import_package("datasets", "data"), parsed, name, parts)


def _read_parts(library: Any, spec: Spec, name: str, parts: Mapping[str, Any]) -> Dataset:
    features = next(iter(parts.values())).features
    kinds = {name: _feature_kind(library, feature) for name, feature in features.items()}
    columns = choose_columns(kinds, spec)
    labels = _read_labels(parts, columns, features, spec)
    samples = {}
    for part, class_numbers in labels.class_numbers.items():
        ids = [f"{part}-{row}" for row in range(len(class_numbers))]
        items: Any
        if columns.is_encoded:
            items = _encoded(library, parts[part], columns, ids)
        else:
            items = _texts(parts[part], columns.content, spec)
        samples[part] = Split(items, class_numbers, ids)
    tasks = {name: _label_columns(parts, name, features, spec) for name in columns.labels}
    samples, task_classes = add_tasks(samples, tasks)
    splits, rule = arrange_splits(samples, spec.text)
    split_labels = {split: part.labels for split, part in splits.items()}
    source = f"column {columns.label!r} of {spec.name!r}"
    check_hidden_labels(split_labels, labels.class_names, source)
    notes: dict[str, Any] = {"split": rule, "columns": columns.notes()}
    if labels.unlabelled_parts:
        notes["parts_without_labels"] = labels.unlabelled_parts
    return Dataset(
        without_labels_option(spec),
        name,
        columns.modality,
        splits,
        labels.class_names,
        notes=notes,
        task_classes=task_classes,
    )


def _label_columns(
    parts: Mapping[str, Any], name: str, features: Any, spec: Spec
) -> dict[str, LabelColumn]:
    """Return part -> the values of one of several labels, as class names where they are known.

    A class number of -1 stands for a missing label.
    """
    class_names = getattr(features[name], "names", None)
    columns = {}
    for part, samples in parts.items():
        values = list(samples[name])
        if class_names is not None:
            values = [None if number in (None, -1) else class_names[number] for number in values]
        columns[part] = LabelColumn(values, f"column {name!r} of {spec.name!r}, part {part!r}")
    return columns


def _load_folder(library: Any, spec: Spec) -> Any:
    if "config" in spec.options:
        raise CriticalMassError(f"config in {spec.text!r} is for datasets of the hub; leave it out")
    try:
        return library.load_from_disk(spec.name)
    except (OSError, ValueError, KeyError) as error:
        raise CriticalMassError(
            f"{spec.name!r} holds no dataset written by save_to_disk "
            f"({' '.join(str(error).split())}); for images in folders use imagefolder:, for a "
            "table parquet:, csv: or jsonl:"
        ) from error


def _load_from_hub(library: Any, spec: Spec) -> Any:
    config = spec.options.get("config")
    try:
        with hub_or_cache():
            return library.load_dataset(spec.name, config)
    except (OSError, ValueError, RuntimeError) as error:
        # The library's errors for a missing dataset, configuration or network are subclasses of
        # these; their texts have several lines.
        reason = " ".join(str(error).split())
        raise DataUnavailableError(
            f"no folder {spec.name!r}, and no dataset of that name from the hub ({reason})"
        ) from error


def _feature_kind(library: Any, feature: Any) -> str:
    """Classify a feature for `choose_columns`."""
    if isinstance(feature, library.ClassLabel):
        return "class"
    if isinstance(feature, library.Image):
        return "image"
    if isinstance(feature, getattr(library, "Audio", ())):
        return "audio"
    if isinstance(feature, library.Value):
        if feature.dtype in ("string", "large_string"):
            return "text"
        return "number" if feature.dtype.startswith(("int", "uint", "bool")) else feature.dtype
    if isinstance(feature, (list, library.Sequence, library.LargeList)):
        return "vector"
    return type(feature).__name__


def _read_labels(
    parts: Mapping[str, Any], columns: ColumnChoice, features: Any, spec: Spec
) -> PartLabels:
    if columns.label is None:
        zeros = {name: np.zeros(len(part), np.int64) for name, part in parts.items()}
        return PartLabels(UNLABELLED, zeros)
    class_names = getattr(features[columns.label], "names", None)
    if class_names is None:
        source = f"column {columns.label!r} of {spec.name!r}"
        label_columns = [
            LabelColumn(list(part[columns.label]), f"{source}, part {name!r}")
            for name, part in parts.items()
        ]
        encoded_names, class_numbers = encode_labels(label_columns, WITHOUT_LABELS)
        numbers_of_parts = dict(zip(parts, class_numbers, strict=True))
        return drop_hidden_parts(PartLabels(encoded_names, numbers_of_parts), source)
    values = {name: np.asarray(part[columns.label][:]) for name, part in parts.items()}
    # Competitions publish their test part with -1 for every label.
    unlabelled = [name for name, labels in values.items() if len(labels) and (labels == -1).all()]
    labelled = {
        name: labels.astype(np.int64) for name, labels in values.items() if name not in unlabelled
    }
    for name, labels in labelled.items():
        if (labels < 0).any():
            raise CriticalMassError(
                f"{int((labels < 0).sum())} of {len(labels)} samples in the part {name!r} of "
                f"{spec.name!r} have no label (-1); drop them, or use label=none"
            )
    if not labelled:
        raise CriticalMassError(
            f"column {columns.label!r} of {spec.name!r} is -1 (no label) in all rows; "
            "use another column, or label=none"
        )
    return PartLabels(tuple(class_names), labelled, unlabelled)


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
class HubBytesColumn:
    """The encoded images or sounds in a column of a part."""

    part: Any
    column: str

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, row: int, /) -> bytes:
        """Return one sample's bytes, from the cell or from the file that it names."""
        cell = self.part[row][self.column] or {}
        content = cell.get("bytes")
        if content is None and cell.get("path"):
            content = Path(cell["path"]).read_bytes()
        return content or b""


def _encoded(library: Any, part: Any, columns: ColumnChoice, ids: list[str]) -> EncodedSamples[Any]:
    name = columns.content
    column = part.select_columns([name]) if hasattr(part, "select_columns") else part
    is_image = columns.modality == "image"
    feature = library.Image(decode=False) if is_image else library.Audio(decode=False)
    column = column.cast_column(name, feature)
    kind = EncodedImages if is_image else EncodedSounds
    names = [f"{name} of {sample_id}" for sample_id in ids]
    return kind(HubBytesColumn(column, name), names, np.arange(len(column)))
