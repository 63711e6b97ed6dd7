"""Two representations compared: paired differences, each with an interval and a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.comparison_pairs import KEY, Pair, folder_names, pairs_of, same_samples
from criticalmass.analysis.comparison_text import sentence
from criticalmass.analysis.curves import Curve, curves_of
from criticalmass.analysis.estimators import check_delta, check_estimator, critical_size, reaches
from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import is_similarity
from criticalmass.storage.run import Run

__all__ = ["COMPARISON_COLUMNS", "compare"]

RunLike = Run | str | os.PathLike[str]
_TEXT, _COUNT, _FLOAT = "string", "Int64", "Float64"
COMPARISON_COLUMNS: dict[str, str] = {
    "by": _TEXT,
    "a": _TEXT,
    "b": _TEXT,
    **dict.fromkeys(KEY, _TEXT),
    "quantity": _TEXT,
    "delta": _FLOAT,
    "estimator": _TEXT,
    "fraction": _FLOAT,
    "n_kept_a": _COUNT,
    "n_kept_b": _COUNT,
    "value_a": _FLOAT,
    "value_b": _FLOAT,
    "difference": _FLOAT,
    "low": _FLOAT,
    "high": _FLOAT,
    "bound": _TEXT,
    "samples": _TEXT,
    "seeds": _TEXT,
    "n_seeds_a": _COUNT,
    "n_seeds_b": _COUNT,
    "level": _FLOAT,
    "sentence": _TEXT,
}


@checked
def compare(
    a: RunLike,
    b: RunLike | None = None,
    *,
    deltas: float | Sequence[float] = (0.9,),
    estimator: str = "interpolated",
    level: float = 0.95,
    by: str | None = None,
    paired: bool | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Difference of DR, critical mass and curve between two representations, a minus b.

    Each draw resamples the seeds of both, and the test samples: the same ones for both
    where both were scored on the same test samples, else each its own. A difference is
    made in every draw; the interval is the percentile interval over draws, pair by pair
    (many pairs are not corrected for). Curves of layers of one width are compared at every
    number of neurons that both tested, of different widths at every fraction.

    The estimator is "interpolated" unless asked otherwise: a strict critical mass lives on
    the tested sizes, so the difference of two would jump by the steps of the grids.

    DR at the smallest tested size is a bound, and so is one that no subset reaches: in
    every draw the critical mass is then all that the grid leaves open, and the interval
    covers it.

    Parameters
    ----------
    a, b: runs or their folders; without ``b`` the curves of ``a`` are compared among them.
    deltas: shares of the whole layer's value, each in (0, 1].
    estimator: of the critical mass, see `diffused_redundancy`.
    level: of the intervals.
    by: what shall differ: "model", "layer", "dataset", "selector" or "measure". Without it,
        in one run the first of selector, layer and measure of which there are several;
        between two runs what differs, all else equal.
    paired: whether both runs have the same test samples; None looks at the dataset's digest
        and the labels. Vectors that were imported have a digest of their own: say
        ``paired=True`` if their rows are the same samples.
    resamples: bootstrap draws.
    seed: fixes the draws.

    Returns
    -------
    One row per pair and quantity, `COMPARISON_COLUMNS`. ``quantity``: "dr", "critical_mass"
    (in neurons), "whole layer", "value" and "ratio" (to the whole layer) at a size.
    ``bound``: "" for a difference, ">=" or "<=" where it is only bounded, "open" where both
    masses are bounds. ``samples``: "paired", "independent", or "not resampled" if a measure
    kept nothing to resample. ``seeds``: "paired" where both have the same subsets.

    Raises
    ------
    CriticalMassError: for an option that is none, nothing to compare, or ``paired=True``
        where the test labels differ.
    """
    wanted = [float(d) for d in np.atleast_1d(np.asarray(deltas, dtype=np.float64))]
    for delta in wanted:
        check_delta(delta)
    check_estimator(estimator)
    if not 0.0 < level < 1.0 or resamples < 1:
        raise CriticalMassError(
            f"level={level} and resamples={resamples}; a level lies in (0, 1), and at least 1 "
            "draw is made: 0.95 and 2000 are usual"
        )
    if by is not None and by not in KEY:
        raise unknown_name("way to compare by", by, KEY)
    one, two = Run.open(a), None if b is None else Run.open(b)
    same = two is None or same_samples(one, two, paired)
    first = list(curves_of(one, level, resamples, seed))
    # Another seed draws other samples: two test sets share nothing, not even their order.
    second = None if two is None else list(curves_of(two, level, resamples, seed + (not same)))
    names = None if two is None else folder_names(one, two)
    rows = [
        row
        for pair in pairs_of(first, second, by, same, names)
        for row in _rows(pair, wanted, estimator)
    ]
    return pd.DataFrame(
        {n: pd.array([row.get(n) for row in rows], dtype=t) for n, t in COMPARISON_COLUMNS.items()}
    )


@dataclass(frozen=True, eq=False)
class _Mass:
    """Critical mass of the curve (entry 0) and of its draws: fewest and most it can be.

    The two differ where the grid leaves it open. ``estimate`` is what the table of
    redundancy says.
    """

    estimate: int
    fewest: FloatArray
    most: FloatArray
    n_neurons: int
    note: str


def _rows(pair: Pair, deltas: Sequence[float], estimator: str) -> Iterator[dict[str, Any]]:
    """All rows of a pair: DR and critical mass, then the whole layer and the curve."""
    about = pair.about()
    usable = [c.full is not None and c.full > 0.0 and c.sizes.size > 0 for c in (pair.a, pair.b)]
    rows: list[dict[str, Any]] = []
    for delta in deltas:
        head = {"delta": delta, "estimator": estimator}
        if all(usable):
            masses = [_mass(curve, delta, estimator) for curve in (pair.a, pair.b)]
            rows += [head | row for row in _mass_rows(masses[0], masses[1], pair.a.level)]
        else:
            rows += [head | {"quantity": name} for name in ("dr", "critical_mass")]
    if all(usable):
        rows += _curve_rows(pair)
    for row in rows:
        whole = about | {"bound": ""} | row
        yield whole | {"sentence": sentence(whole)}


def _mass(curve: Curve, delta: float, estimator: str) -> _Mass:
    """Critical mass of a curve and its draws, with what the grid leaves open."""
    d, sizes = curve.n_neurons, curve.sizes
    means = np.vstack([curve.mean, curve.drawn])
    full = np.concatenate([[curve.full or 0.0], curve.full_drawn])
    found = critical_size(sizes.astype(np.float64), means, full, delta, estimator, float(d))
    mass = np.ceil(found - 1e-9)
    passed = reaches(means, full, delta)
    below = sizes < d
    never = np.logical_not(passed[:, below].any(axis=1))
    tested = int(sizes[below].max()) if below.any() else 0
    floor = passed[:, 0] & ~never
    fewest = np.where(floor, 1.0, np.where(never, float(min(tested + 1, d)), mass))
    most = np.where(never, float(d), mass)
    note = ""
    if floor[0] and sizes[0] > 1:
        note = f"reaches it at the smallest tested size already, {sizes[0]:,} of {d:,} neurons"
    elif never[0] and tested + 1 < d:
        note = f"does not reach it with the largest tested subset, {tested:,} of {d:,} neurons"
    return _Mass(int(mass[0]), fewest, most, d, note)


def _mass_rows(a: _Mass, b: _Mass, level: float) -> list[dict[str, Any]]:
    """Rows of DR and critical mass of one delta."""
    share_a = 1.0 - np.stack([a.most, a.fewest]) / a.n_neurons
    share_b = 1.0 - np.stack([b.most, b.fewest]) / b.n_neurons
    dr: dict[str, Any] = {
        "quantity": "dr",
        "value_a": 1.0 - a.estimate / a.n_neurons,
        "value_b": 1.0 - b.estimate / b.n_neurons,
    } | _enclosed(share_a[0] - share_b[1], share_a[1] - share_b[0], level)
    mass: dict[str, Any] = {
        "quantity": "critical_mass",
        "value_a": float(a.estimate),
        "value_b": float(b.estimate),
    } | _enclosed(a.fewest - b.most, a.most - b.fewest, level)
    # The mass that is reported is the most it can be: DR is a lower bound.
    bounds = {(False, False): ("", ""), (True, False): (">=", "<="), (False, True): ("<=", ">=")}
    kind = bounds.get((bool(a.note), bool(b.note)), ("open", "open"))
    for row, bound in zip((dr, mass), kind, strict=True):
        row |= {"bound": bound, "note_a": a.note, "note_b": b.note}
        row["difference"] = row["value_a"] - row["value_b"] if bound != "open" else None
    return [dr, mass]


def _enclosed(low: FloatArray, high: FloatArray, level: float) -> dict[str, float]:
    """Interval that holds what each draw leaves possible; entry 0 is the estimate, no draw."""
    tail = (1.0 - level) / 2.0
    return {
        "low": float(np.quantile(low[1:], tail, method="lower")),
        "high": float(np.quantile(high[1:], 1.0 - tail, method="higher")),
    }


def _curve_rows(pair: Pair) -> list[dict[str, Any]]:
    """Rows of the whole layer, and of value and ratio at every shared size."""
    a, b = pair.a, pair.b
    similar = [is_similarity(curve.key[4]) for curve in (a, b)]
    # Accuracy and similarity have no common unit; their ratios to the whole layer have.
    units = similar[0] == similar[1] and (not similar[0] or a.key[4] == b.key[4])
    rows: list[dict[str, Any]] = []
    # Two selectors of one layer have the same whole.
    one_whole = pair.inside and (*a.key[:3], a.key[4]) == (*b.key[:3], b.key[4])
    if units and not similar[0] and not one_whole:
        rows.append({"quantity": "whole layer"} | _difference(pair, a.full_drawn, b.full_drawn)
                    | _values(a.full or 0.0, b.full or 0.0))  # fmt: skip
    for fraction, i, j in _shared(a, b):
        place: dict[str, Any] = {
            "fraction": fraction,
            "n_kept_a": int(a.sizes[i]),
            "n_kept_b": int(b.sizes[j]),
        }
        whole = a.sizes[i] == a.n_neurons and b.sizes[j] == b.n_neurons
        repeated = whole and bool(np.allclose([a.mean[i], b.mean[j]], [a.full or 0, b.full or 0]))
        if units and not repeated:
            rows.append(
                place | {"quantity": "value"} | _values(a.mean[i], b.mean[j])
                | _difference(pair, a.drawn[:, i], b.drawn[:, j])
            )  # fmt: skip
        if not whole:
            rows.append(
                place | {"quantity": "ratio"}
                | _values(a.mean[i] / (a.full or 1.0), b.mean[j] / (b.full or 1.0))
                | _difference(pair, a.drawn[:, i] / a.full_drawn, b.drawn[:, j] / b.full_drawn)
            )  # fmt: skip
    return rows


def _values(a: float, b: float) -> dict[str, float]:
    return {"value_a": float(a), "value_b": float(b), "difference": float(a - b)}


def _difference(pair: Pair, a: FloatArray, b: FloatArray) -> dict[str, float]:
    low, high = pair.a.quantiles(a - b)
    return {"low": float(low), "high": float(high)}


def _shared(a: Curve, b: Curve) -> list[tuple[float, int, int]]:
    """(fraction, position in a, position in b) of the sizes at which both were tested."""
    fractions = [
        curve.used.groupby("n_kept")["fraction"].min().to_numpy(dtype=np.float64)
        for curve in (a, b)
    ]
    keys: list[npt.NDArray[Any]] = list(fractions)
    if a.n_neurons == b.n_neurons:
        keys = [a.sizes, b.sizes]
    _, at_a, at_b = np.intersect1d(keys[0], keys[1], return_indices=True)
    return [(float(fractions[0][i]), int(i), int(j)) for i, j in zip(at_a, at_b, strict=True)]
