"""Undecodable images and sounds of a dataset: raise an error that names them, or leave them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from criticalmass.core.progress import warn_user
from criticalmass.errors import BrokenSampleError
from criticalmass.extraction.datasets.dataset import UNITS, Dataset, SampleFault
from criticalmass.extraction.datasets.encoded import EncodedSamples, decode_faults
from criticalmass.extraction.datasets.splits import take_rows

_MAX_NAMED = 3


def raise_if_broken(dataset: Dataset, faults: Sequence[SampleFault]) -> None:
    """Raise if there are broken images or sounds.

    Raises
    ------
    BrokenSampleError: ``faults`` is not empty; the message counts them and names the first ones.
    """
    if not faults:
        return
    total = sum(len(split) for split in dataset.splits.values())
    names = "; ".join(f"{fault.name!r} ({fault.reason})" for fault in faults[:_MAX_NAMED])
    pronoun = "it" if len(faults) == 1 else "them"
    items = dataset.splits[faults[0].split].items
    error = items.error if isinstance(items, EncodedSamples) else BrokenSampleError
    units = UNITS[dataset.modality]
    raise error(
        f"{len(faults)} of {total} {units} of {dataset.spec!r} cannot be read: {names}"
        f"{_and_more(faults)}; remove or repair {pronoun}, or leave {pronoun} out "
        "(--skip-broken, skip_broken=True)"
    )


def drop_broken(dataset: Dataset) -> Dataset:
    """Decode every image or sound once; return the dataset without those that cannot be decoded.

    The dataset's notes, and so the manifest of a feature store, list the samples left out. The
    split does not depend on them: a repaired sample is in the split that it would have been in.
    """
    faults = find_broken(dataset)
    if not faults:
        return dataset
    splits = {}
    for name, split in dataset.splits.items():
        broken = [fault.index for fault in faults if fault.split == name]
        splits[name] = take_rows(split, np.setdiff1d(np.arange(len(split)), broken))
    skipped = {
        "count": len(faults),
        UNITS[dataset.modality]: [
            {"split": fault.split, "id": fault.id, "reason": fault.reason} for fault in faults
        ],
    }
    names = ", ".join(fault.id for fault in faults[:_MAX_NAMED])
    units = UNITS[dataset.modality]
    count = f"1 {units.removesuffix('s')}" if len(faults) == 1 else f"{len(faults)} {units}"
    warn_user(f"left out {count} that cannot be read: {names}{_and_more(faults)}")
    return dataclasses.replace(
        dataset, splits=splits, digest="", notes={**dataset.notes, "skipped": skipped}
    )


def find_broken(dataset: Dataset) -> list[SampleFault]:
    """Decode every encoded sample of a dataset; return those that cannot be decoded."""
    return [
        SampleFault(name, index, split.ids[index], split.items.name(index), reason)
        for name, split in dataset.splits.items()
        if isinstance(split.items, EncodedSamples)
        for index, reason in decode_faults(split.items).items()
    ]


def _and_more(faults: Sequence[SampleFault]) -> str:
    return f" and {len(faults) - _MAX_NAMED} more" if len(faults) > _MAX_NAMED else ""


@contextmanager
def report_all_broken(dataset: Dataset) -> Iterator[None]:
    """If a sample turns out to be broken inside this block, decode all and report all broken ones.

    Raises
    ------
    BrokenSampleError: for all broken samples, instead of the first one.
    """
    try:
        yield
    except BrokenSampleError:
        raise_if_broken(dataset, find_broken(dataset))
        raise
