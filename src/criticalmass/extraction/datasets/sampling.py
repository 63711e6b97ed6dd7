"""Parts of a dataset that options of its spec choose: some classes, some samples."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.dataset import Dataset
from criticalmass.extraction.datasets.splits import stratified_sample, take_rows
from criticalmass.extraction.specs import Spec, integer_option

SAMPLE_SEED = 0
SAMPLING = ("n", "classes")
"""The options, which every labelled source accepts."""


def apply_sampling(dataset: Dataset, spec: Spec) -> Dataset:
    """Take the classes and the sample that a spec asks for.

    ``classes=0-4,7`` or ``classes=cat,dog`` keeps some classes, which get new numbers in the
    order of the dataset; ``n=NUMBER`` then takes a stratified sample of so many training samples
    and the same share of the other splits.

    Raises
    ------
    CriticalMassError: an unknown class, fewer than two classes, or no sample of that size.
    """
    if "classes" in spec.options:
        dataset = _take_classes(dataset, spec.options["classes"])
    if "n" in spec.options:
        dataset = _take_sample(dataset, integer_option(spec, "n", 0))
    return dataset


def _take_classes(dataset: Dataset, text: str) -> Dataset:
    if dataset.task_classes:
        raise CriticalMassError(
            f"classes={text} in {dataset.spec!r} are of one label, but it has the labels "
            f"{', '.join(map(repr, dataset.task_classes))}; leave classes= out"
        )
    numbers = sorted({number for item in text.split(",") for number in _classes(dataset, item)})
    if len(numbers) < 2:
        raise CriticalMassError(
            f"classes={text} in {dataset.spec!r} leaves {len(numbers)} class; choose at least two"
        )
    new_number = np.full(len(dataset.class_names), -1)
    new_number[numbers] = np.arange(len(numbers))
    splits = {}
    for name, split in dataset.splits.items():
        rows = np.flatnonzero(np.isin(split.labels, numbers))
        if not len(rows):
            raise CriticalMassError(
                f"split {name!r} of {dataset.spec!r} has no sample of the classes {text}"
            )
        taken = take_rows(split, rows)
        splits[name] = dataclasses.replace(taken, labels=new_number[taken.labels])
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-classes-{re.sub(r'[^A-Za-z0-9-]+', '.', text)}",
        splits=splits,
        class_names=tuple(dataset.class_names[number] for number in numbers),
        digest="",
        notes={**dataset.notes, "chosen_classes": text},
    )


def _classes(dataset: Dataset, item: str) -> range:
    """Return the numbers that one item of the option names: a class, a number or a range.

    Names come before numbers, also as the ends of a range: the class "1" may be the first.
    """
    names = dataset.class_names
    number_of = {name: number for number, name in enumerate(names)}
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
    if item in number_of:
        ends = [number_of[item]]
    elif match is not None:
        texts = [text for text in match.groups() if text is not None]
        are_names = all(text in number_of for text in texts)
        ends = [number_of[text] if are_names else int(text) for text in texts]
    else:
        raise unknown_name(f"class in {dataset.spec!r}", item, names)
    first, last = ends[0], ends[-1]
    if not first <= last < len(names):
        raise CriticalMassError(
            f"classes={item} in {dataset.spec!r} must be numbers from 0 to {len(names) - 1}"
        )
    return range(first, last + 1)


def _take_sample(dataset: Dataset, n: int) -> Dataset:
    """Take a stratified sample: ``n`` training samples and the same share of other splits."""
    total = len(dataset.splits["train"])
    if n >= total:
        raise CriticalMassError(
            f"n={n} in {dataset.spec!r} must be below the {total} training samples; "
            "leave it out to use all"
        )
    if n < len(dataset.class_names):
        raise CriticalMassError(
            f"n={n} in {dataset.spec!r} is below the {len(dataset.class_names)} classes; "
            "take at least one sample per class"
        )
    splits = {}
    for name, split in dataset.splits.items():
        size = n if name == "train" else max(1, round(n * len(split) / total))
        splits[name] = take_rows(split, stratified_sample(split.strata, size, SAMPLE_SEED))
    notes: dict[str, Any] = {"train": n, "of": total, "seed": SAMPLE_SEED, "stratified": True}
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-n{n}",
        splits=splits,
        digest="",
        notes={**dataset.notes, "sample": notes},
    )
