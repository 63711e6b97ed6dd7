"""Which curves are compared with which, and what the two curves of a pair share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from criticalmass.analysis.columns import CurveKey
from criticalmass.analysis.curves import ValueCurve
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

_KEY_NAMES = CurveKey._fields


@dataclass(frozen=True, eq=False)
class CurvePair:
    """Two curves to compare.

    Attributes
    ----------
    a, b: the curves.
    by: what they differ by, e.g. "selector" or "model and dataset".
    names: what the tables and sentences call the two curves.
    same_samples: whether both were scored on the same test samples.
    within_run: whether both belong to one run.
    """

    a: ValueCurve
    b: ValueCurve
    by: str
    names: tuple[str, str]
    same_samples: bool
    within_run: bool = False

    def columns(self) -> dict[str, Any]:
        """Return the columns that are equal in all rows of the pair."""
        shared = {
            name: x if x == y else None
            for name, x, y in zip(_KEY_NAMES, self.a.key, self.b.key, strict=True)
        }
        n_seeds = [int(curve.used["seed"].nunique()) for curve in (self.a, self.b)]
        subsets = [
            (curve.key.model, curve.key.layer, curve.key.selector) for curve in (self.a, self.b)
        ]
        # `bootstrap.selector_rng` depends on these names, so equal subsets draw the same seeds.
        seeds_are_paired = (
            self.same_samples and subsets[0] == subsets[1] and n_seeds[0] == n_seeds[1]
        )
        return shared | {
            "by": self.by,
            "a": self.names[0],
            "b": self.names[1],
            "samples": self._samples(),
            "seeds": "paired" if seeds_are_paired else "independent",
            "n_seeds_a": n_seeds[0],
            "n_seeds_b": n_seeds[1],
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


def has_same_samples(a: Run, b: Run, paired: bool | None) -> bool:
    """Tell whether two runs were scored on the same test samples.

    The labels are the same too, or those of several labels of the same samples.

    Parameters
    ----------
    a, b: the runs.
    paired: the user's answer, or None to compare digests and labels.

    Raises
    ------
    CriticalMassError: if ``paired`` is True and the test labels differ.
    """
    if has_same_inputs(a, b):
        return paired is not False
    equal_labels = np.array_equal(a.labels(), b.labels()) and a.class_names == b.class_names
    if paired is not None:
        if paired and not equal_labels:
            raise CriticalMassError(
                f"paired=True but {a.path} and {b.path} have different test labels; leave it out"
            )
        return paired
    digests = [run.manifest.get("dataset_digest") for run in (a, b)]
    return equal_labels and digests[0] is not None and digests[0] == digests[1]


def has_same_inputs(a: Run, b: Run) -> bool:
    """Tell whether two runs are of several labels of the same test samples."""
    inputs = [run.manifest.get("inputs_digest") for run in (a, b)]
    return inputs[0] is not None and inputs[0] == inputs[1]


def run_names(a: Run, b: Run) -> tuple[str, str]:
    """Name two runs by their folders, or by their paths if the folders have equal names.

    Raises
    ------
    CriticalMassError: if both are the same folder.
    """
    if a.path.resolve() == b.path.resolve():
        raise CriticalMassError(
            f"{a.path} is given twice; give it once to compare the curves inside it"
        )
    if a.path.name != b.path.name:
        return a.path.name, b.path.name
    return str(a.path), str(b.path)


def pairs_within(curves: list[ValueCurve], by: str | None) -> Iterator[CurvePair]:
    """Yield the pairs of curves of one run that differ in one column.

    Parameters
    ----------
    curves: the curves of the run.
    by: the column, or None for the first of selector, layer and measure with several values.

    Raises
    ------
    CriticalMassError: if there is no such pair.
    """
    column = _first_varying(curves) if by is None else by
    n_pairs = 0
    for a, b in itertools.combinations(curves, 2):
        differing = _differing(a, b)
        if not set(differing) <= {column}:
            continue
        n_pairs += 1
        names = getattr(a.key, column), getattr(b.key, column)
        yield CurvePair(a, b, column, names, same_samples=True, within_run=True)
    if not n_pairs:
        raise CriticalMassError(
            f"no two curves differ by {column} alone; there are {_overview(curves)}"
        )


def pairs_between(
    first: list[ValueCurve],
    second: list[ValueCurve],
    by: str | None,
    same_samples: bool,
    names: tuple[str, str],
) -> Iterator[CurvePair]:
    """Yield the pairs of curves of two runs that match.

    Two curves match if they are equal in all columns of which a run has several values. Columns
    of which each run has one value may differ between the runs.

    Parameters
    ----------
    first, second: the curves of the two runs.
    by: a column in which the curves of a pair must differ, and may; None for no such condition.
    same_samples: whether both runs were scored on the same test samples.
    names: names of the runs, used for curves that differ in no column.

    Raises
    ------
    CriticalMassError: if there is no such pair.
    """
    free = {by, *_single_valued(first, second)}
    n_pairs = 0
    for a, b in itertools.product(first, second):
        differing = _differing(a, b)
        if not set(differing) <= free or (by is not None and by not in differing):
            continue
        n_pairs += 1
        if differing:
            pair_names = (
                " ".join(getattr(a.key, name) for name in differing),
                " ".join(getattr(b.key, name) for name in differing),
            )
            yield CurvePair(a, b, " and ".join(differing), pair_names, same_samples)
        else:
            yield CurvePair(a, b, "run", names, same_samples)
    if not n_pairs:
        condition = "match" if by is None else f"differ by {by} alone"
        raise CriticalMassError(
            f"no two curves {condition}; there are {_overview([*first, *second])}"
        )


def _differing(a: ValueCurve, b: ValueCurve) -> list[str]:
    """Names of the key columns in which two curves differ."""
    return [name for name, x, y in zip(_KEY_NAMES, a.key, b.key, strict=True) if x != y]


def _first_varying(curves: list[ValueCurve]) -> str:
    """Return the first of selector, layer and measure with several values."""
    for name in ("selector", "layer", "measure"):
        if len({getattr(curve.key, name) for curve in curves}) > 1:
            return name
    raise CriticalMassError(
        f"the run has {_overview(curves)}: nothing to compare; give a second run, or sweep "
        "another selector, layer or measure into this one"
    )


def _single_valued(first: list[ValueCurve], second: list[ValueCurve]) -> set[str]:
    """Names of the key columns of which each of two runs has one value."""
    return {
        name
        for name in _KEY_NAMES
        if all(
            len({getattr(curve.key, name) for curve in curves}) == 1 for curves in (first, second)
        )
    }


def _overview(curves: list[ValueCurve]) -> str:
    """List the first curves by their keys."""
    if not curves:
        return "no curves"
    listed = ", ".join("/".join(curve.key) for curve in curves[:4])
    return f"{listed} and {len(curves) - 4} more" if len(curves) > 4 else listed
