"""Parts of a dataset that were published without labels: their labels are all -1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.labels import HIDDEN_LABEL

WITHOUT_LABELS = "; or use another column, or label=none"
"""The end of the message of labels that cannot be read."""


@dataclass(frozen=True)
class PartLabels:
    """The labels of a dataset's parts.

    Attributes
    ----------
    class_names: the name of each class.
    class_numbers: part -> (n,) class numbers, for the parts with labels.
    unlabelled_parts: parts that were published without labels.
    """

    class_names: tuple[str, ...]
    class_numbers: Mapping[str, NDArray[np.int64]]
    unlabelled_parts: list[str] = field(default_factory=list)


def drop_hidden_parts(labels: PartLabels, source: str) -> PartLabels:
    """Leave out the parts whose labels are all -1, if no other part has this label.

    Parameters
    ----------
    labels: the labels of all parts.
    source: what holds them, for messages: "column 'label' of 'table.csv'".

    Raises
    ------
    CriticalMassError: all labels of all parts are -1.
    """
    if HIDDEN_LABEL not in labels.class_names:
        return labels
    number = labels.class_names.index(HIDDEN_LABEL)
    if len(labels.class_names) == 1:
        raise CriticalMassError(
            f"{source} is -1 (no label) in all rows; use another column, or label=none"
        )
    shares = {
        part: float(np.mean(numbers == number))
        for part, numbers in labels.class_numbers.items()
        if len(numbers)
    }
    hidden = [part for part, share in shares.items() if share == 1]
    if not hidden or any(0 < share < 1 for share in shares.values()):
        return labels
    write_line(f"{source} is -1 in all rows of {', '.join(map(repr, hidden))}: left out")
    return PartLabels(
        tuple(name for name in labels.class_names if name != HIDDEN_LABEL),
        {
            part: numbers - (numbers > number)
            for part, numbers in labels.class_numbers.items()
            if part not in hidden
        },
        hidden,
    )
