"""Which curves are compared with which, and what two of them share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from criticalmass.analysis.curves import Curve
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

KEY = ("model", "layer", "dataset", "selector", "measure")


@dataclass(frozen=True, eq=False)
class Pair:
    """Two curves to compare, what differs, how each is called, whether they are of one run."""

    a: Curve
    b: Curve
    by: str
    names: tuple[str, str]
    same_samples: bool
    inside: bool = False

    def about(self) -> dict[str, Any]:
        """Columns that all rows of the pair share."""
        shared = {
            name: x if x == y else None
            for name, x, y in zip(KEY, self.a.key, self.b.key, strict=True)
        }
        counts = [int(curve.used["seed"].nunique()) for curve in (self.a, self.b)]
        subsets = [(*curve.key[:2], curve.key[3]) for curve in (self.a, self.b)]
        # `curves_of` draws seeds by these names, so equal subsets are drawn together.
        alike = self.same_samples and subsets[0] == subsets[1] and counts[0] == counts[1]
        return shared | {
            "by": self.by,
            "a": self.names[0],
            "b": self.names[1],
            "samples": self._samples(),
            "seeds": "paired" if alike else "independent",
            "n_seeds_a": counts[0],
            "n_seeds_b": counts[1],
            "level": self.a.level,
        }

    def _samples(self) -> str:
        kinds = [
            {str(ref).partition("/")[0] for ref in curve.used["artifact"].fillna("")}
            for curve in (self.a, self.b)
        ]
        if any("" in kind or not kind for kind in kinds):
            return "not resampled"
        return "paired" if self.same_samples and kinds[0] == kinds[1] else "independent"


def same_samples(a: Run, b: Run, paired: bool | None) -> bool:
    """Whether two runs were scored on the same test samples."""
    labels = np.array_equal(a.labels(), b.labels()) and a.class_names == b.class_names
    if paired is not None:
        if paired and not labels:
            raise CriticalMassError(
                f"paired=True but {a.path} and {b.path} have other test labels; leave it out"
            )
        return paired
    digests = [run.manifest.get("dataset_digest") for run in (a, b)]
    return labels and digests[0] is not None and digests[0] == digests[1]


def folder_names(a: Run, b: Run) -> tuple[str, str]:
    """Name two runs by their folders, as shortly as tells them apart."""
    if a.path.resolve() == b.path.resolve():
        raise CriticalMassError(f"{a.path} is given twice; give it once to compare inside it")
    if a.path.name != b.path.name:
        return a.path.name, b.path.name
    return str(a.path), str(b.path)


def pairs_of(
    first: list[Curve],
    second: list[Curve] | None,
    by: str | None,
    same: bool,
    folders: tuple[str, str] | None,
) -> Iterator[Pair]:
    """Pair curves that are alike in all but what they are compared by."""
    inside = second is None
    by = _several(first) if inside and by is None else by
    free = {by} if inside else {by, *_single(first, second or [])}
    fixed = [i for i, name in enumerate(KEY) if name not in free]
    every = itertools.combinations(first, 2) if second is None else itertools.product(first, second)
    found = False
    for a, b in every:
        if any(a.key[i] != b.key[i] for i in fixed):
            continue
        differs = [i for i, name in enumerate(KEY) if a.key[i] != b.key[i]]
        if by is not None and not inside and KEY.index(by) not in differs:
            continue
        names = " ".join(a.key[i] for i in differs), " ".join(b.key[i] for i in differs)
        found = True
        what = " and ".join(KEY[i] for i in differs)
        if differs or folders is None:
            yield Pair(a, b, what, names, same, inside)
        else:
            yield Pair(a, b, "run", folders, same)
    if not found:
        raise CriticalMassError(
            f"no two curves differ by {by} alone; there are {_overview([*first, *(second or [])])}"
            if by
            else f"no two curves match; there are {_overview([*first, *(second or [])])}"
        )


def _several(curves: list[Curve]) -> str:
    """Find what the curves of one run differ by."""
    for name in ("selector", "layer", "measure"):
        if len({curve.key[KEY.index(name)] for curve in curves}) > 1:
            return name
    raise CriticalMassError(
        f"the run holds {_overview(curves)}: nothing to compare; give a second run, or sweep "
        "another selector, layer or measure into it"
    )


def _single(first: list[Curve], second: list[Curve]) -> set[str]:
    """List what each run has but one of: it may differ between them."""
    return {
        name
        for i, name in enumerate(KEY)
        if all(len({curve.key[i] for curve in curves}) == 1 for curves in (first, second))
    }


def _overview(curves: list[Curve]) -> str:
    """Say what curves there are."""
    return (
        ", ".join("/".join(curve.key) for curve in curves[:4])
        + (f" and {len(curves) - 4} more" if len(curves) > 4 else "")
        if curves
        else "no curves"
    )
