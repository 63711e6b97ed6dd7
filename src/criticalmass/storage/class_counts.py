"""Samples per class and split, and what they do not suffice for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import warn_user, write_line
from criticalmass.storage.features import UNLABELLED

_MAX_NAMES = 5
_MAJORITY_SHARE = 0.9
_FEW_SHOT = 2


def describe_samples(labels: Mapping[str, NDArray[np.int64]], class_names: Sequence[str]) -> str:
    """Count classes and samples of each split: ``3 classes, 45 train and 15 test samples``."""
    sizes = [f"{len(numbers):,} {split}" for split, numbers in labels.items()]
    samples = f"{', '.join(sizes[:-1])} and {sizes[-1]}" if len(sizes) > 1 else sizes[0]
    if tuple(class_names) == UNLABELLED:
        return f"no labels, {samples} samples"
    return f"{_count(len(class_names), 'class')}, {samples} samples"


@dataclass(frozen=True)
class ClassProblem:
    """What a probe cannot learn, or not be scored on, for lack of samples.

    Attributes
    ----------
    text: the sentence for the user.
    is_serious: whether scores are misleading because of it.
    """

    text: str
    is_serious: bool


def describe_classes(
    labels: Mapping[str, NDArray[np.int64]], class_names: Sequence[str]
) -> list[ClassProblem]:
    """Describe the classes that lack samples, by name.

    Parameters
    ----------
    labels: split -> (n,) class numbers; with ``train`` and ``test``.
    class_names: the name of each class.

    Returns
    -------
    One sentence for each of: a single class, and a class with more than 90 % of the samples; test
    classes without training samples, classes with neither, without test samples, and with one
    training sample. Empty if there is nothing to say, or without labels.
    """
    if tuple(class_names) == UNLABELLED:
        return []
    counts = {
        split: np.bincount(numbers, minlength=len(class_names)) for split, numbers in labels.items()
    }
    none = np.zeros(len(class_names), dtype=np.intp)
    train, test = counts.get("train", none), counts.get("test", none)
    total = np.sum(list(counts.values()), axis=0)
    largest = int(np.argmax(total))
    if np.count_nonzero(total) <= 1:
        text = f"all labels are {class_names[largest]!r}: with a single class nothing is learnt"
        # Measures that need labels refuse a single class.
        return [ClassProblem(text, is_serious=False)]
    problems = []
    share = total[largest] / total.sum()
    if share > _MAJORITY_SHARE:
        text = (
            f"{share:.1%} of the samples are of class {class_names[largest]!r}: always answering "
            f"this majority class has an accuracy of {share:.3f}"
        )
        problems.append(ClassProblem(text, is_serious=True))
    rules = (
        ((test > 0) & (train == 0), "of the test part", "no training sample, not to be predicted"),
        ((test == 0) & (train == 0), "", "neither a training nor a test sample"),
        ((test == 0) & (train > 0), "", "no test sample, not to be scored"),
        ((train > 0) & (train < _FEW_SHOT), "", "a single training sample, hardly to be learnt"),
    )
    for index, (mask, where, lack) in enumerate(rules):
        if mask.any():
            names = [class_names[i] for i in np.flatnonzero(mask).tolist()]
            subject = " ".join(filter(None, (_count(len(names), "class"), where)))
            verb = "has" if len(names) == 1 else "have"
            text = f"{subject} {verb} {lack}: {_name_some(names)}"
            problems.append(ClassProblem(text, is_serious=index == 0))
    return problems


def report_classes(subject: str, problems: Sequence[ClassProblem]) -> None:
    """Write the problems of the classes in one line; it is a warning if one is serious.

    Parameters
    ----------
    subject: what has these classes, e.g. a spec and the counts of its samples.
    problems: of `describe_classes`; nothing is written without any.
    """
    if problems:
        write = warn_user if any(problem.is_serious for problem in problems) else write_line
        write(f"{subject}: {'; '.join(problem.text for problem in problems)}")


def _count(n: int, unit: str) -> str:
    return f"{n:,} {unit}{'' if n == 1 else 'es'}"


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(repr, names[:_MAX_NAMES])) + more
