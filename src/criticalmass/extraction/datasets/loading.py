"""``load_dataset``: load a dataset from its spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.arrays import load_digits, load_npz
from criticalmass.extraction.datasets.dataset import Dataset
from criticalmass.extraction.datasets.demo_images import (
    load_fashion_mnist,
    load_mnist,
    load_openclipart,
    load_pv_cells,
)
from criticalmass.extraction.datasets.demo_texts import load_fortunes, load_wordnet_nouns
from criticalmass.extraction.datasets.folders import load_image_folder
from criticalmass.extraction.datasets.hub_data import HUB_OPTIONS, load_hub_data
from criticalmass.extraction.datasets.splits import stratified_sample, take_rows
from criticalmass.extraction.datasets.tables import TABLE_OPTIONS, load_table
from criticalmass.extraction.datasets.torchvision_data import TORCHVISION_OPTIONS, load_torchvision
from criticalmass.extraction.datasets.undecodable import drop_broken, raise_if_broken
from criticalmass.extraction.specs import Spec, integer_option, parse_spec

SAMPLE_SEED = 0

_BY_NAME: Mapping[str, Mapping[str, Callable[[str], Dataset]]] = {
    "demo": {
        "fashion-mnist": load_fashion_mnist,
        "fortunes": load_fortunes,
        "mnist": load_mnist,
        "openclipart": load_openclipart,
        "pv-cells": load_pv_cells,
        "wordnet-nouns": load_wordnet_nouns,
    },
    "sklearn": {"digits": load_digits},
}
_FROM_PATH: Mapping[str, Callable[[str, str], Dataset]] = {
    "imagefolder": load_image_folder,
    "npz": load_npz,
}
_FROM_SPEC: Mapping[str, Callable[[Spec], Dataset]] = {
    **dict.fromkeys(TABLE_OPTIONS, load_table),
    "hf": load_hub_data,
    "torchvision": load_torchvision,
}
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys([*_BY_NAME, *_FROM_PATH], ("n",)),
    **TABLE_OPTIONS,
    "hf": HUB_OPTIONS,
    "torchvision": TORCHVISION_OPTIONS,
}


@validate_arguments
def load_dataset(spec: str | Dataset, *, skip_broken: bool = False) -> Dataset:
    """Load a labelled dataset.

    Parameters
    ----------
    spec: a dataset (returned unchanged), or one of ``demo:fashion-mnist``, ``demo:wordnet-nouns``,
        ``demo:mnist``, ``demo:openclipart``, ``demo:pv-cells``, ``demo:fortunes``,
        ``sklearn:digits``, ``imagefolder:DIR``, ``torchvision:NAME``, ``hf:NAME_OR_DIR``,
        ``csv:FILE``, ``parquet:FILE``, ``jsonl:FILE``, ``npz:FILE``. ``?n=NUMBER`` takes a
        stratified sample of that many training samples and the same share of the other splits.
    skip_broken: leave out images that cannot be decoded and list them in the dataset's notes;
        every image is decoded once for this. By default, images with a broken header are an
        error.

    Raises
    ------
    CriticalMassError: an unknown spec, a missing path, or unreadable content.
    BrokenImageError: broken images; the message counts them and names the first ones.
    DataUnavailableError: the data are not available here.
    MissingExtraError: the library that reads the data is not installed.
    """
    if not isinstance(spec, (str, Dataset)):
        raise CriticalMassError(f"dataset {spec!r} must be a spec (text) or a Dataset")
    if isinstance(spec, Dataset):
        return _check_images(spec, skip_broken)
    parsed = parse_spec("dataset", spec, _OPTIONS)
    dataset = _check_images(_load(parsed), skip_broken)
    if "n" in parsed.options:
        return _sample(dataset, integer_option(parsed, "n", 0))
    return dataset


def check_dataset_spec(text: str) -> None:
    """Check a spec without reading any data.

    Raises
    ------
    CriticalMassError: not in the form of a spec, or an unknown scheme, option or name.
    """
    spec = parse_spec("dataset", text, _OPTIONS)
    if spec.scheme in _BY_NAME and spec.name not in _BY_NAME[spec.scheme]:
        raise unknown_name(f"{spec.scheme}: dataset", spec.name, _BY_NAME[spec.scheme])


def _check_images(dataset: Dataset, skip_broken: bool) -> Dataset:
    """Leave out broken images, or raise if there are any."""
    if skip_broken:
        return drop_broken(dataset)
    raise_if_broken(dataset, dataset.faults)
    return dataset


def _load(spec: Spec) -> Dataset:
    if spec.scheme in _FROM_SPEC:
        return _FROM_SPEC[spec.scheme](spec)
    if spec.scheme in _FROM_PATH:
        return _FROM_PATH[spec.scheme](spec.text, spec.name)
    loaders = _BY_NAME[spec.scheme]
    if spec.name not in loaders:
        raise unknown_name(f"{spec.scheme}: dataset", spec.name, loaders)
    return loaders[spec.name](spec.text)


def _sample(dataset: Dataset, n: int) -> Dataset:
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
        splits[name] = take_rows(split, stratified_sample(split.labels, size, SAMPLE_SEED))
    notes: dict[str, Any] = {"train": n, "of": total, "seed": SAMPLE_SEED, "stratified": True}
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-n{n}",
        splits=splits,
        digest="",
        notes={**dataset.notes, "sample": notes},
    )
