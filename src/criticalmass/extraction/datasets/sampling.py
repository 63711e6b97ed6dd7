"""Parts of a dataset that options of its spec choose: some classes, some samples."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.dataset import Dataset
from criticalmass.extraction.datasets.splits import join_splits, stratified_sample, take_rows
from criticalmass.extraction.specs import Spec, integer_option

SAMPLE_SEED = 0
SAMPLING = ("n", "classes", "examples")
"""The options, which every labelled source accepts."""
ALL = "all"
"""The value of ``examples`` that takes all training samples."""


def apply_sampling(dataset: Dataset, spec: Spec) -> Dataset:
    """Take the classes and the sample that a spec asks for.

    ``classes=0-4,7`` or ``classes=cat,dog`` keeps some classes, which get new numbers in the
    order of the dataset; ``n=NUMBER`` then takes a stratified sample of so many training samples
    and the same share of the other splits. ``examples=NUMBER`` takes so many samples of training
    and validation part together, stratified, and leaves the test split whole: with 1,000, of which
    probes hold out a fifth to choose their strength by, this is the protocol of VTAB (Zhai et al.
    2019, arXiv:1910.04867: 800 + 200). ``examples=all`` takes all of both parts.

    Raises
    ------
    CriticalMassError: an unknown class, fewer than two classes, or no sample of that size.
    """
    if "classes" in spec.options:
        dataset = _take_classes(dataset, spec.options["classes"])
    if "n" in spec.options:
        dataset = _take_sample(dataset, integer_option(spec, "n", 0))
    if "examples" in spec.options:
        dataset = _take_examples(dataset, spec)
    return dataset


def _take_examples(dataset: Dataset, spec: Spec) -> Dataset:
    """Train on samples of the training and the validation part; keep the test split whole."""
    parts = [name for name in ("train", "val") if name in dataset.splits]
    train = join_splits([dataset.splits[name] for name in parts])
    total, text = len(train), spec.options["examples"]
    n = total if text == ALL else integer_option(spec, "examples", 0)
    if n > total:
        raise CriticalMassError(
            f"examples={n} in {dataset.spec!r} must be at most the {total} samples of "
            f"{' and '.join(parts)}, or {ALL}"
        )
    _check_size("examples", n, dataset)
    if n < total:
        train = take_rows(train, stratified_sample(train.strata, n, SAMPLE_SEED))
    others = {name: split for name, split in dataset.splits.items() if name not in parts}
    notes = {"train": n, "of": total, "parts": parts, "seed": SAMPLE_SEED, "stratified": True}
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-{text}-examples",
        splits={"train": train, **others},
        digest="",
        notes={**dataset.notes, "examples": notes},
    )


def _check_size(option: str, n: int, dataset: Dataset) -> None:
    """Raise if a sample is smaller than the number of classes."""
    if n < len(dataset.class_names):
        raise CriticalMassError(
            f"{option}={n} in {dataset.spec!r} is below the {len(dataset.class_names)} classes; "
            "take at least one sample per class"
        )


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
    _check_size("n", n, dataset)
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
