"""``load_dataset``: from a spec to a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from criticalmass.datasets.arrays import load_digits, load_npz
from criticalmass.datasets.dataset import Dataset
from criticalmass.datasets.fashion_mnist import load_fashion_mnist
from criticalmass.datasets.folders import load_image_folder
from criticalmass.datasets.splits import stratified_sample, take
from criticalmass.datasets.wordnet import load_wordnet_nouns
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.specs import Spec, integer_option, parse_spec

SAMPLE_SEED = 0

_NAMED: Mapping[str, Mapping[str, Callable[[str], Dataset]]] = {
    "demo": {"fashion-mnist": load_fashion_mnist, "wordnet-nouns": load_wordnet_nouns},
    "sklearn": {"digits": load_digits},
}
_FROM_PATH: Mapping[str, Callable[[str, str], Dataset]] = {
    "imagefolder": load_image_folder,
    "npz": load_npz,
}


def load_dataset(spec: str | Dataset) -> Dataset:
    """Load a labelled dataset.

    Parameters
    ----------
    spec: a dataset (returned as it is), or one of ``demo:fashion-mnist``, ``demo:wordnet-nouns``,
        ``sklearn:digits``, ``imagefolder:DIR``, ``npz:FILE``; with ``?n=NUMBER`` a stratified
        sample of that many training samples, the other splits cut in proportion.

    Raises
    ------
    CriticalMassError: an unknown spec, a missing path, unreadable content.
    DataUnavailableError: demo data that cannot be had here.
    """
    if isinstance(spec, Dataset):
        return spec
    if not isinstance(spec, str):
        raise CriticalMassError(f"dataset {spec!r} must be a spec (text) or a Dataset")
    schemes = dict.fromkeys([*_NAMED, *_FROM_PATH], ("n",))
    parsed = parse_spec("dataset", spec, schemes)
    dataset = _load(parsed)
    if "n" in parsed.options:
        return _capped(dataset, integer_option(parsed, "n", 0))
    return dataset


def _load(spec: Spec) -> Dataset:
    if spec.scheme in _FROM_PATH:
        return _FROM_PATH[spec.scheme](spec.text, spec.name)
    named = _NAMED[spec.scheme]
    if spec.name not in named:
        raise unknown_name(f"{spec.scheme}: dataset", spec.name, named)
    return named[spec.name](spec.text)


def _capped(dataset: Dataset, n: int) -> Dataset:
    """Keep ``n`` training samples and as large a share of every other split, stratified."""
    total = len(dataset.splits["train"])
    if n >= total:
        raise CriticalMassError(
            f"n={n} in {dataset.spec!r} must be below the {total} training samples there are; "
            "leave it out to take all"
        )
    if n < len(dataset.class_names):
        raise CriticalMassError(
            f"n={n} in {dataset.spec!r} is below the {len(dataset.class_names)} classes"
        )
    splits = {}
    for name, split in dataset.splits.items():
        size = n if name == "train" else max(1, round(n * len(split) / total))
        splits[name] = take(split, stratified_sample(split.labels, size, SAMPLE_SEED))
    sample: dict[str, Any] = {"train": n, "of": total, "seed": SAMPLE_SEED, "stratified": True}
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-n{n}",
        splits=splits,
        digest="",
        notes={**dataset.notes, "sample": sample},
    )
