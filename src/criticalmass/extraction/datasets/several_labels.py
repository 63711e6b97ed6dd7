"""Several labels of each sample of a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.labels import LabelColumn, encode_partial_labels
from criticalmass.extraction.specs import Spec
from criticalmass.storage.class_counts import describe_classes, describe_samples, report_classes

TaskClasses = dict[str, tuple[str, ...]]


def add_tasks(
    parts: Mapping[str, Split], columns: Mapping[str, Mapping[str, LabelColumn]]
) -> tuple[dict[str, Split], TaskClasses]:
    """Give the samples of some parts several labels.

    Parameters
    ----------
    parts: part -> its samples.
    columns: name of the label -> part -> its values; missing ones are allowed.

    Returns
    -------
    The parts with labels, and the class names of each label.

    Raises
    ------
    CriticalMassError: labels that are neither whole numbers nor texts, or all missing.
    """
    classes: TaskClasses = {}
    tasks: dict[str, dict[str, NDArray[np.int64]]] = {part: {} for part in parts}
    for name, values in columns.items():
        classes[name], numbers = encode_partial_labels([values[part] for part in parts])
        for part, y in zip(parts, numbers, strict=True):
            tasks[part][name] = y
    return {
        part: dataclasses.replace(samples, tasks=tasks[part]) for part, samples in parts.items()
    }, classes


def without_labels_option(spec: Spec) -> str:
    """Return a spec's text without the option ``labels``: that of the samples alone."""
    head, _, query = spec.text.rpartition("?")
    pairs = [pair for pair in query.split("&") if not pair.startswith("labels=")]
    if "labels" not in spec.options:
        return spec.text
    return f"{head}?{'&'.join(pairs)}" if pairs else head


def with_labels(spec: str, labels: Sequence[str]) -> str:
    """Write the names of several labels into a dataset's spec.

    Raises
    ------
    CriticalMassError: the spec has labels already, or a name has a character that separates
        options.
    """
    for name in labels:
        if set(name) & set("?&,") or not name:
            raise CriticalMassError(
                f"labels: {name!r} is empty or contains one of '?', '&' and ','; rename this column"
            )
    if not labels:
        return spec
    if "labels=" in spec.rpartition("?")[2]:
        raise CriticalMassError(f"dataset {spec!r} already sets labels; name them once")
    return f"{spec}{'&' if '?' in spec else '?'}labels={','.join(labels)}"


def labels_of(dataset: Any, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the several labels that a dataset is loaded with: of its spec, or ``labels``."""
    if isinstance(dataset, Dataset):
        return tuple(dataset.task_classes)
    if not isinstance(dataset, str) or labels:
        return tuple(labels)
    pairs = dataset.rpartition("?")[2].split("&")
    names = [pair.removeprefix("labels=") for pair in pairs if pair.startswith("labels=")]
    return tuple(names[0].split(",")) if names else ()


def report_tasks(dataset: Dataset) -> None:
    """Say which samples lack a label, and which classes lack samples."""
    for labelling in dataset.labellings():
        labels = labelling.labelled()
        subject = f"label {labelling.name!r} of {dataset.spec!r}"
        missing = labelling.n_missing()
        if missing:
            counts = " and ".join(
                f"{count:,} of {len(dataset.splits[split]):,} {split} samples"
                for split, count in missing.items()
            )
            warn_user(
                f"{subject} is missing in {counts}: they are left out of this label only, so that "
                "other labels have other samples"
            )
        if {"train", "test"} <= labels.keys():
            counts = describe_samples(labels, labelling.class_names)
            report_classes(
                f"{subject} has {counts}", describe_classes(labels, labelling.class_names)
            )
