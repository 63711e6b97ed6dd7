"""Stratified splits and samples, each fixed by a recorded seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Split

SPLIT_SEED = 0
TEST_SHARE = 0.25
# What the parts of a dataset are called by those who publish them, the likeliest first.
_TRAIN = ("train", "training", "trainval", "train-standard")
_TEST = ("test", "testing")
_VALIDATION = ("val", "validation", "valid", "dev")


def stratified_test(
    labels: NDArray[np.int64], share: float, seed: int, groups: NDArray[np.intp] | None = None
) -> NDArray[np.bool_]:
    """Choose test samples, the same share of every class.

    Parameters
    ----------
    labels: (n,) class numbers.
    share: of the groups (samples, if there are no groups) of each class, in (0, 1).
    seed: fixes the choice.
    groups: (n,) group numbers; samples of one group (identical texts) stay together, and count
        for the class of the group's first sample.

    Returns
    -------
    (n,) mask of the test samples. A class of one group has it in the training split.

    Raises
    ------
    CriticalMassError: so few samples a class that one of the two splits would be empty.
    """
    if groups is None:
        groups = np.arange(len(labels))
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    group_labels = labels[first]
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(first), dtype=bool)
    for label in np.unique(group_labels):
        mine = np.flatnonzero(group_labels == label)
        n_test = 0 if len(mine) == 1 else min(len(mine) - 1, max(1, round(share * len(mine))))
        chosen[rng.permutation(mine)[:n_test]] = True
    test: NDArray[np.bool_] = chosen[member]
    if not test.any() or test.all():
        raise CriticalMassError(
            f"{len(labels)} samples of {len(np.unique(labels))} classes cannot be split into "
            "train and test; give at least two samples of some class"
        )
    return test


def stratified_sample(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.intp]:
    """Choose ``n`` samples with every class's share kept (largest remainders).

    Every class keeps at least one sample where ``n`` allows it.

    Parameters
    ----------
    labels: (n_samples,) class numbers.
    n: how many to keep, at most n_samples.
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
    # Give what is left to the largest remainders; take back from the most overfull.
    while quota.sum() < n:
        quota[np.argmax(np.where(quota < counts, exact - quota, -np.inf))] += 1
    while quota.sum() > n:
        quota[np.argmax(np.where(quota > 1, quota - exact, -np.inf))] -= 1
    rng = np.random.default_rng(seed)
    kept = [
        rng.permutation(np.flatnonzero(labels == label))[:take]
        for label, take in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def take(split: Split, rows: NDArray[np.intp]) -> Split:
    """Keep some rows of a split, in the order given."""
    return Split(take_items(split.items, rows), split.labels[rows], [split.ids[i] for i in rows])


def take_items(items: Sequence[Any] | NDArray[Any], rows: NDArray[np.intp]) -> Any:
    """Keep some rows of a sequence of items without decoding them."""
    if isinstance(items, np.ndarray):
        return items[rows]
    subset = getattr(items, "subset", None)
    if subset is not None:
        return subset(rows)
    return [items[int(row)] for row in rows]


def split_in_two(
    whole: Split, share: float, seed: int, groups: NDArray[np.intp] | None = None
) -> dict[str, Split]:
    """Cut samples into ``train`` and ``test``; see :func:`stratified_test`."""
    test = stratified_test(whole.labels, share, seed, groups)
    return {
        "train": take(whole, np.flatnonzero(~test)),
        "test": take(whole, np.flatnonzero(test)),
    }


def arranged(parts: Mapping[str, Split], spec: str) -> tuple[dict[str, Split], str]:
    """Bring the parts of a source into ``train`` and ``test`` (and ``val``).

    What is published as split stays so; a validation part stands in for a test part that is not
    there. A single part is split by class, a quarter for the test, seed 0.

    Parameters
    ----------
    parts: name, as the source calls it, -> samples.
    spec: what the dataset was asked for with, for errors.

    Returns
    -------
    The splits, and how they came about.

    Raises
    ------
    CriticalMassError: several parts, but none to train on or none to test on.
    """
    if len(parts) == 1:
        whole = next(iter(parts.values()))
        way = "stratified" if np.unique(whole.labels).size > 1 else "random"
        rule = f"{way}, test share {TEST_SHARE}, seed {SPLIT_SEED}"
        return split_in_two(whole, TEST_SHARE, SPLIT_SEED), rule
    known = {name.lower(): name for name in parts}
    chosen = {
        role: known[next(name for name in names if name in known)]
        for role, names in (("train", _TRAIN), ("test", _TEST), ("val", _VALIDATION))
        if known.keys() & set(names)
    }
    if "test" not in chosen and "val" in chosen:
        chosen["test"] = chosen.pop("val")
    if not {"train", "test"} <= chosen.keys():
        raise CriticalMassError(
            f"{spec!r} has the parts {', '.join(map(repr, parts))}; it needs one called train and "
            "one called test or validation, or one alone, which is then split"
        )
    rule = ", ".join(f"{role} is {name!r}" for role, name in chosen.items())
    return {role: parts[name] for role, name in chosen.items()}, f"as given: {rule}"
