"""Several labels of each sample of a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.columns import label_names
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.labels import LabelColumn, encode_labels, encode_partial_labels
from criticalmass.extraction.specs import Spec
from criticalmass.storage.class_counts import describe_classes, describe_samples, report_classes
from criticalmass.storage.features import UNLABELLED
from criticalmass.storage.task_stores import Labelling

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


def choose_labels(
    dataset: Dataset,
    spec: Spec,
    columns: Mapping[str, Mapping[str, LabelColumn]],
    default: str = "",
) -> Dataset:
    """Give a dataset the labels that its spec names: ``label=A`` one, ``labels=A,B`` several.

    Parameters
    ----------
    dataset: the dataset, without these labels.
    spec: its spec.
    columns: every label that it has: name -> split -> values.
    default: the label without such an option; empty: those that the dataset has already.

    Raises
    ------
    CriticalMassError: no such label, or labels that are neither whole numbers nor texts.
    """
    names = label_names(spec)
    single = spec.options.get("label", "" if names else default)
    for name in names or filter(None, (single,)):
        if name not in columns:
            raise unknown_name(f"label of {spec.text!r}:", name, columns)
    text = without_labels_option(spec)
    if names:
        unlabelled = {
            part: dataclasses.replace(split, labels=np.zeros(len(split), dtype=np.int64))
            for part, split in dataset.splits.items()
        }
        splits, classes = add_tasks(unlabelled, {name: columns[name] for name in names})
        return dataclasses.replace(
            dataset,
            spec=text,
            splits=splits,
            class_names=UNLABELLED,
            task_classes=classes,
            digest="",
        )
    if not single:
        return dataset
    class_names, numbers = encode_labels([columns[single][part] for part in dataset.splits])
    splits = {
        part: dataclasses.replace(split, labels=y)
        for (part, split), y in zip(dataset.splits.items(), numbers, strict=True)
    }
    name = f"{dataset.name}-{single}" if "label" in spec.options else dataset.name
    return dataclasses.replace(
        dataset, spec=text, name=name, splits=splits, class_names=class_names, digest=""
    )


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
        report_labelling(labelling, repr(dataset.spec), "samples")


def report_labelling(labelling: Labelling, source: str, unit: str) -> None:
    """Say which samples lack one of several labels, and which of its classes lack samples."""
    labels = labelling.labelled()
    subject = f"label {labelling.name!r} of {source}"
    missing = labelling.n_missing()
    if missing:
        counts = " and ".join(
            f"{count:,} of {len(labelling.labels[split]):,} {split} {unit}"
            for split, count in missing.items()
        )
        warn_user(
            f"{subject} is missing in {counts}: they are left out of this label only, so that "
            "other labels have other samples"
        )
    if {"train", "test"} <= labels.keys():
        counts = describe_samples(labels, labelling.class_names)
        report_classes(f"{subject} has {counts}", describe_classes(labels, labelling.class_names))
