"""Stratified splits and samples, each fixed by a recorded seed."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split, row_digests
from criticalmass.extraction.datasets.encoded import EncodedSamples

SPLIT_SEED = 0
TEST_SHARE = 0.25
# Names that publishers give to the parts of a dataset, the most likely first.
_NAMES_OF_ROLES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "train-standard"),
    "test": ("test", "testing"),
    "val": ("val", "validation", "valid", "dev"),
}
_WORDS = re.compile(r"[a-z]+")


def role_in_words(name: str) -> str | None:
    """Return the split that a name of several words names: ``test`` of ``seg_test``; else None."""
    words = _WORDS.findall(name.lower())
    roles = {role for role, names in _NAMES_OF_ROLES.items() if set(words) & set(names)}
    return roles.pop() if len(roles) == 1 else None


def stratified_test_mask(
    labels: NDArray[np.int64], share: float, seed: int, groups: NDArray[np.intp] | None = None
) -> NDArray[np.bool_]:
    """Choose test samples, the same share of every class.

    Parameters
    ----------
    labels: (n,) class numbers.
    share: share of the groups of each class (of its samples without groups), in (0, 1).
    seed: fixes the choice.
    groups: (n,) group numbers; samples of one group (identical texts) stay together. The class
        of a group is that of its first sample.

    Returns
    -------
    (n,) mask of the test samples. The only group of a class is in the training split.

    Raises
    ------
    CriticalMassError: so few samples per class that one of the two splits would be empty.
    """
    if groups is None:
        groups = np.arange(len(labels))
    _, first, group_of_sample = np.unique(groups, return_index=True, return_inverse=True)
    group_labels = labels[first]
    rng = np.random.default_rng(seed)
    is_test_group = np.zeros(len(first), dtype=bool)
    for label in np.unique(group_labels):
        members = np.flatnonzero(group_labels == label)
        n = len(members)
        n_test = 0 if n == 1 else min(n - 1, max(1, round(share * n)))
        is_test_group[rng.permutation(members)[:n_test]] = True
    mask: NDArray[np.bool_] = is_test_group[group_of_sample]
    if not mask.any() or mask.all():
        raise CriticalMassError(
            f"{len(labels)} samples of {len(np.unique(labels))} classes cannot be split into "
            "train and test; give at least two samples of some class"
        )
    return mask


def stratified_sample(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.intp]:
    """Choose ``n`` samples that keep every class's share (largest remainders).

    Every class keeps at least one sample if ``n`` is at least the number of classes.

    Parameters
    ----------
    labels: (n_samples,) class numbers.
    n: number of samples, at most n_samples.
    seed: fixes the choice.

    Returns
    -------
    (n,) row numbers, ascending.
    """
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (n / len(labels))
    quota = np.floor(exact).astype(np.intp)
    if n >= len(classes):
        quota = np.maximum(quota, 1)
    # Add samples to the largest remainders, or remove them where the excess is largest.
    while quota.sum() < n:
        quota[np.argmax(np.where(quota < counts, exact - quota, -np.inf))] += 1
    while quota.sum() > n:
        quota[np.argmax(np.where(quota > 1, quota - exact, -np.inf))] -= 1
    rng = np.random.default_rng(seed)
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[:size]
        for label, size in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(rows))


def take_rows(split: Split, rows: NDArray[np.intp]) -> Split:
    """Return some rows of a split, in the order of ``rows``."""
    tasks = {name: numbers[rows] for name, numbers in split.tasks.items()}
    ids = [split.ids[i] for i in rows]
    return Split(take_items(split.items, rows), split.labels[rows], ids, tasks)


def take_items(items: Sequence[Any] | NDArray[Any], rows: NDArray[np.intp]) -> Any:
    """Return some rows of a sequence of items, without decoding them."""
    if isinstance(items, np.ndarray):
        return items[rows]
    subset = getattr(items, "subset", None)
    if subset is not None:
        return subset(rows)
    return [items[int(row)] for row in rows]


def join_splits(splits: Sequence[Split]) -> Split:
    """Return the samples of several splits of a dataset as one, in their order."""
    first, *others = splits
    if not others:
        return first
    items: Any
    if all(isinstance(split.items, np.ndarray) for split in splits):
        items = np.concatenate([split.items for split in splits])
    elif hasattr(first.items, "joined"):
        items = first.items.joined([split.items for split in splits])
    else:
        items = [item for split in splits for item in split.items]
    tasks = {name: np.concatenate([s.tasks[name] for s in splits]) for name in first.tasks}
    labels = np.concatenate([split.labels for split in splits])
    return Split(items, labels, [name for split in splits for name in split.ids], tasks)


def train_test_split(
    samples: Split, share: float, seed: int, groups: NDArray[np.intp] | None = None
) -> dict[str, Split]:
    """Split samples into ``train`` and ``test``; see :func:`stratified_test_mask`."""
    mask = stratified_test_mask(samples.strata, share, seed, groups)
    return {
        "train": take_rows(samples, np.flatnonzero(~mask)),
        "test": take_rows(samples, np.flatnonzero(mask)),
    }


def split_dataset(
    dataset: Dataset,
    samples: Split,
    *,
    share: float = TEST_SHARE,
    grouped_by: str | None = None,
    groups: Sequence[int] | None = None,
) -> Dataset:
    """Return a dataset with its samples split by class, seed 0, and a note of how.

    Parameters
    ----------
    dataset: the dataset without splits.
    samples: all its samples.
    share: share of every class for the test.
    grouped_by: name of a sample, for the note: samples of equal content then stay in one split.
        None: samples are split one by one.
    groups: number of each sample's group; samples of one group stay in one split, and
        ``grouped_by`` is the name of a group.
    """
    split: dict[str, Any] = {"test_share": share, "seed": SPLIT_SEED, "stratified": True}
    numbers = None if groups is None else np.asarray(groups, dtype=np.intp)
    if grouped_by is not None:
        split["grouped_by"] = grouped_by if groups is not None else f"identical {grouped_by}"
        numbers = _group_identical(samples.items) if numbers is None else numbers
    splits = train_test_split(samples, share, SPLIT_SEED, numbers)
    notes = {**dataset.notes, "split": split}
    return dataclasses.replace(dataset, splits=splits, notes=notes, digest="")


def _group_identical(items: Any) -> NDArray[np.intp]:
    """Return the (n_samples,) number of each sample's distinct text, array or content of a file."""
    if isinstance(items, EncodedSamples):
        items = [hashlib.sha256(content).hexdigest() for content in items.content()]
    elif isinstance(items, np.ndarray):
        items = [digest.hex() for digest in row_digests(items)]
    # Not an array of texts, in which every text takes as much memory as the longest.
    number = {item: index for index, item in enumerate(sorted(set(items)))}
    return np.array([number[item] for item in items], dtype=np.intp)


def default_split_rule(strata: NDArray[np.int64], tasks: Sequence[str] = ()) -> str:
    """Describe the split of a single part: by class, or at random if there is one class.

    Of several labels, ``tasks``, the first one decides.
    """
    method = "stratified" if np.unique(strata).size > 1 else "random"
    by = f" by {tasks[0]!r}" if tasks else ""
    return f"{method}{by}, test share {TEST_SHARE}, seed {SPLIT_SEED}"


def drop_test_copies(dataset: Dataset) -> Dataset:
    """Return a dataset of texts without the test samples that are training samples too.

    Their number is in the note ``test_copies_left_out``.
    """
    train, test = dataset.splits["train"], dataset.splits["test"]
    known = set(train.items)
    rows = np.array([row for row, text in enumerate(test.items) if text not in known], np.intp)
    n_copies = len(test) - len(rows)
    if not n_copies:
        return dataset
    splits = {**dataset.splits, "test": take_rows(test, rows)}
    notes = {**dataset.notes, "test_copies_left_out": n_copies}
    return dataclasses.replace(dataset, splits=splits, notes=notes, digest="")


def arrange_splits(parts: Mapping[str, Split], spec: str) -> tuple[dict[str, Split], str]:
    """Map the parts of a source to ``train`` and ``test`` (and ``val``).

    Published splits are kept. Without a test part, the validation part is the test. A single
    part is split by class: a quarter for the test, seed 0.

    Parameters
    ----------
    parts: the source's name of a part -> its samples.
    spec: the spec that named the dataset, for errors.

    Returns
    -------
    The splits, and a description of how they were made.

    Raises
    ------
    CriticalMassError: several parts, but no training part or no test part.
    """
    if len(parts) == 1:
        samples = next(iter(parts.values()))
        rule = default_split_rule(samples.strata, [*samples.tasks])
        try:
            return train_test_split(samples, TEST_SHARE, SPLIT_SEED), rule
        except CriticalMassError as error:
            raise CriticalMassError(f"{spec!r}: {error}") from error
    by_lower_name = {name.lower(): name for name in parts}
    in_words = {name: role_in_words(name) for name in parts}
    part_of_role: dict[str, str] = {}
    for role, names in _NAMES_OF_ROLES.items():
        usual = [by_lower_name[name] for name in names if name in by_lower_name]
        others = [name for name, role_of_part in in_words.items() if role_of_part == role]
        if usual or len(others) == 1:
            part_of_role[role] = (usual or others)[0]
    if "test" not in part_of_role and "val" in part_of_role:
        part_of_role["test"] = part_of_role.pop("val")
    if not {"train", "test"} <= part_of_role.keys():
        raise CriticalMassError(
            f"{spec!r} has the parts {', '.join(map(repr, parts))}; it needs one called train and "
            "one called test or validation, or a single part, which is then split"
        )
    rule = ", ".join(f"{role} is {name!r}" for role, name in part_of_role.items())
    return {role: parts[name] for role, name in part_of_role.items()}, f"as given: {rule}"
