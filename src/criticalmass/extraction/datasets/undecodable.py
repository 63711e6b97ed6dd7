"""Broken images of a dataset: named and counted, or left out before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from criticalmass.core.progress import notice
from criticalmass.extraction.datasets.dataset import Dataset, Fault
from criticalmass.extraction.datasets.images import BrokenImageError, EncodedImages, all_faults
from criticalmass.extraction.datasets.splits import take

_SHOWN = 3


def refuse_broken(dataset: Dataset, faults: Sequence[Fault]) -> None:
    """Stop at broken images.

    Raises
    ------
    BrokenImageError: there are some; they are counted, the first ones named.
    """
    if not faults:
        return
    total = sum(len(split) for split in dataset.splits.values())
    named = "; ".join(f"{fault.name!r} ({fault.reason})" for fault in faults[:_SHOWN])
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    it = "it" if len(faults) == 1 else "them"
    raise BrokenImageError(
        f"{len(faults)} of {total} images of {dataset.spec!r} cannot be read: {named}{more}; "
        f"remove or repair {it}, or leave {it} out (--skip-broken, skip_broken=True)"
    )


def without_broken(dataset: Dataset) -> Dataset:
    """Leave out every image that cannot be decoded; each is, once, to find that out.

    What was left out stands in the dataset's notes, and so in the manifest of a feature store.
    The split is made before: who repairs an image finds it where it would have been.
    """
    faults = find_broken(dataset)
    if not faults:
        return dataset
    splits = {}
    for name, split in dataset.splits.items():
        out = {fault.place for fault in faults if fault.split == name}
        splits[name] = take(split, np.array([i for i in range(len(split)) if i not in out], int))
    skipped = {
        "count": len(faults),
        "images": [
            {"split": fault.split, "id": fault.id, "reason": fault.reason} for fault in faults
        ],
    }
    names = ", ".join(fault.id for fault in faults[:_SHOWN])
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    count = "1 image" if len(faults) == 1 else f"{len(faults)} images"
    notice(f"left out {count} that cannot be read: {names}{more}")
    return dataclasses.replace(
        dataset, splits=splits, digest="", notes={**dataset.notes, "skipped": skipped}
    )


def find_broken(dataset: Dataset) -> list[Fault]:
    """Decode every encoded image of a dataset; -> those that cannot be."""
    return [
        Fault(name, place, split.ids[place], split.items.name(place), reason)
        for name, split in dataset.splits.items()
        if isinstance(split.items, EncodedImages)
        for place, reason in all_faults(split.items).items()
    ]


@contextmanager
def all_broken_named(dataset: Dataset) -> Iterator[None]:
    """Look through all images when one of them turns out to be broken, and name them together.

    Raises
    ------
    BrokenImageError: for all of them, instead of the first that was met.
    """
    try:
        yield
    except BrokenImageError:
        refuse_broken(dataset, find_broken(dataset))
        raise
