"""How much the choice of neurons matters: random subsets between the best and the worst rule."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import averaged_over_seeds, seed_counts
from criticalmass.analysis.columns import RunLike, check_interval, percentiles, runs_of, typed
from criticalmass.analysis.split_scores import Halves, halves_of
from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.run import Run

_TEXT, _COUNT, _FLOAT = "string", "Int64", "Float64"
_KEY = ("model", "layer", "dataset", "measure")
_ENDS = ("", "_low", "_high")
DIFFUSENESS_COLUMNS: dict[str, str] = (
    dict.fromkeys(_KEY, _TEXT)
    | {"fraction": _FLOAT, "n_kept": _COUNT, "n_neurons": _COUNT}
    | {f"random{end}": _FLOAT for end in (*_ENDS, "_std")}
    | {"best": _TEXT}
    | {f"best_value{end}": _FLOAT for end in _ENDS}
    | {"worst": _TEXT}
    | {f"worst_value{end}": _FLOAT for end in _ENDS}
    | {f"{name}{end}": _FLOAT for name in ("gain", "loss") for end in _ENDS}
    | {"value_full": _FLOAT, "level": _FLOAT}
    | dict.fromkeys(("n_selectors", "n_seeds", "n_test"), _COUNT)
)
SUMMARY_COLUMNS: dict[str, str] = (
    dict.fromkeys(_KEY, _TEXT)
    | {f"{name}{end}": _FLOAT for name in ("choice", "gain", "loss") for end in _ENDS}
    | {"value_full": _FLOAT, "smallest_fraction": _FLOAT, "n_neurons": _COUNT, "level": _FLOAT}
    | dict.fromkeys(("n_sizes", "n_selectors", "n_seeds", "n_test"), _COUNT)
)


@checked
def diffuseness(
    run: RunLike | Sequence[RunLike],
    *,
    measure: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Set random subsets between those of the best and the worst rule, size by size.

    The best of many rules on some test samples owes part of its lead to these samples. So the
    test samples are halved; on each half the rule is scored that was best (worst) on the other
    half, and both halves count by their size. No sample takes part in choosing the rule that it
    scores, so the lead is neither flattered nor, with ties aside, biased. Intervals are those
    of the bootstrap within the halves, random subsets on the same resampled samples, their
    seeds resampled too; the picked rules stay fixed. Where a measure is no mean over samples
    (CKA), its halves are the infinitesimal jackknife's linear estimate.

    Rules are all selectors of the run that order neurons without chance; projections mix all
    neurons and are left out.

    Parameters
    ----------
    run: a run, its path, or several of them; of each: random subsets and at least one rule.
    measure: one of the run; all by default.
    level: of the percentile intervals.
    resamples: bootstrap draws.
    seed: fixes the draws.

    Returns
    -------
    One row per model x layer x dataset x measure x n_kept below the whole layer,
    `DIFFUSENESS_COLUMNS`: ``random`` is the mean over seeds and ``random_std`` their spread;
    ``best`` and ``worst`` name the rules picked ("a | b" where the halves disagree);
    ``gain`` is best_value - random, ``loss`` random - worst_value, both paired.

    Raises
    ------
    CriticalMassError: for an unknown measure, a level that is none, or a run without random
        subsets or without rules to set beside them.
    """
    rows = [
        row for field in _fields(run, measure, (level, resamples, seed)) for row in field.rows()
    ]
    return typed(rows, DIFFUSENESS_COLUMNS)


@checked
def diffuseness_summary(
    run: RunLike | Sequence[RunLike],
    *,
    measure: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Say in one number how much the choice of neurons matters over all sizes.

    ``gain`` is the area between best and random over the logarithm of n_kept, from the
    smallest tested size to the whole layer (where all are equal), divided by the length of
    that axis and by the whole layer's value: the lead of a good choice at a typical size, as a
    share of what the layer can do. ``loss`` is the same of random - worst, and ``choice`` =
    gain + loss. Trapezoids between the tested sizes; picks and intervals as in `diffuseness`.

    Returns
    -------
    One row per model x layer x dataset x measure, `SUMMARY_COLUMNS`.

    Raises
    ------
    CriticalMassError: as `diffuseness`.
    """
    fields = _fields(run, measure, (level, resamples, seed))
    return typed([field.summary() for field in fields], SUMMARY_COLUMNS)


@dataclass(frozen=True, eq=False)
class _Field:
    """One layer under one measure: random subsets and the picked rules, on all draws.

    Attributes
    ----------
    key: model, layer, dataset and measure.
    used: rows with a value, of random subsets, rules and the whole layer.
    sizes: (n_sizes,) ascending, all below n_neurons.
    names: best and worst rule per size.
    value: "random", "best" and "worst" to (n_sizes,).
    drawn: the same to (resamples, n_sizes).
    full: value of the whole layer, and (resamples,) draws.
    level: of the intervals.
    """

    key: tuple[str, ...]
    used: pd.DataFrame
    sizes: npt.NDArray[np.int64]
    names: dict[str, list[str]]
    value: dict[str, FloatArray]
    drawn: dict[str, FloatArray]
    full: tuple[float, FloatArray]
    level: float

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows of `diffuseness`."""
        gaps = self._gaps()
        for i, size in enumerate(self.sizes):
            here = self.used[self.used["n_kept"] == size]
            chance = here[here["selector"] == "random"]
            spread = chance["value"].to_numpy(dtype=np.float64)
            row = dict(zip(_KEY, self.key, strict=True)) | self._common(here)
            row |= {"fraction": float(here["fraction"].min()), "n_kept": int(size)}
            row |= self._ends("random", self.value["random"][i], self.drawn["random"][:, i])
            row["random_std"] = float(spread.std(ddof=1)) if spread.size > 1 else None
            for which in ("best", "worst"):
                row[which] = self.names[which][i]
                row |= self._ends(f"{which}_value", self.value[which][i], self.drawn[which][:, i])
            for name, (value, drawn) in gaps.items():
                row |= self._ends(name, value[i], drawn[:, i])
            yield row

    def summary(self) -> dict[str, Any]:
        """Row of `diffuseness_summary`."""
        n_neurons = int(self.used["n_neurons"].max())
        weights = axis_shares(self.sizes, n_neurons)
        full, full_drawn = self.full
        row = dict(zip(_KEY, self.key, strict=True)) | self._common(self.used)
        row |= {"n_sizes": int(self.sizes.size)}
        row |= {"smallest_fraction": float(self.sizes[0]) / n_neurons}
        gaps = self._gaps()
        both = [sum(gaps[name][part] for name in ("gain", "loss")) for part in (0, 1)]
        for name, (value, drawn) in {**gaps, "choice": (both[0], both[1])}.items():
            row |= self._ends(name, float(weights @ value) / full, drawn @ weights / full_drawn)
        return row

    def _gaps(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        return {
            name: (self.value[one] - self.value[two], self.drawn[one] - self.drawn[two])
            for name, one, two in (("gain", "best", "random"), ("loss", "random", "worst"))
        }

    def _ends(self, name: str, value: float, drawn: FloatArray) -> dict[str, float]:
        low, high = percentiles(drawn, self.level)
        return {name: float(value), f"{name}_low": low, f"{name}_high": high}

    def _common(self, rows: pd.DataFrame) -> dict[str, Any]:
        rules = rows[~rows["selector"].isin(["random", "full"])]
        return {
            "value_full": self.full[0],
            "level": self.level,
            "n_neurons": int(rows["n_neurons"].max()),
            "n_selectors": int(rules["selector"].nunique()),
            "n_seeds": int(rows[rows["selector"] == "random"]["seed"].nunique()),
            "n_test": int(rows["n_test"].max()),
        }


def axis_shares(sizes: npt.NDArray[np.int64], n_neurons: int) -> FloatArray:
    """(n_sizes,) weight of each size in a mean over the logarithmic axis up to the whole layer.

    Trapezoids; the whole layer closes the axis with a gap of 0, so the weights sum to less
    than 1.
    """
    x = np.log(np.append(sizes, n_neurons).astype(np.float64))
    steps = np.diff(x)
    weights = steps.copy()
    weights[1:] += steps[:-1]
    return np.asarray(weights / 2.0 / (x[-1] - x[0]))


def _fields(
    run: RunLike | Sequence[RunLike], measure: str | None, draws: tuple[float, int, int]
) -> list[_Field]:
    """Gather every layer and measure that has random subsets and rules beside them."""
    check_interval(draws[0], draws[1])
    found: list[_Field] = []
    for one in runs_of(run):
        frame = one.frame()
        known = list(dict.fromkeys(frame["measure"].astype(str)))
        if measure is not None and measure not in known:
            raise unknown_name("measure", measure, known)
        wanted = frame if measure is None else frame[frame["measure"] == measure]
        fields = list(_fields_of(one, wanted, draws))
        if not fields:
            raise CriticalMassError(
                f"{one.path} has no random subsets with another selector's beside them; sweep it "
                "with e.g. selectors=('random', 'greedy-lda', 'leverage', 'norm-low')"
            )
        found += fields
    return found


def _fields_of(run: Run, frame: pd.DataFrame, draws: tuple[float, int, int]) -> Iterator[_Field]:
    level, resamples, seed = draws
    # A failed cell keeps nothing.
    usable = frame["artifact"].notna()
    chosen = frame["selector"].map(_orders_neurons).astype(bool)
    for key, part in frame[usable & chosen].groupby(list(_KEY), sort=True):
        used = part.reset_index(drop=True)
        sizes = _sizes(used)
        if sizes.size:
            halves = halves_of(run, used, resamples, seed)
            yield _field(tuple(str(k) for k in key), used, sizes, halves, (level, seed))


def _field(
    key: tuple[str, ...],
    used: pd.DataFrame,
    sizes: npt.NDArray[np.int64],
    halves: Halves,
    how: tuple[float, int],
) -> _Field:
    names: dict[str, list[str]] = {"best": [], "worst": []}
    picks: dict[str, list[tuple[int, int]]] = {"best": [], "worst": []}
    for size in sizes:
        rules = np.flatnonzero(
            (used["n_kept"] == size) & ~used["selector"].isin(["random", "full"])
        )
        for which, sign in (("best", 1.0), ("worst", -1.0)):
            pair = picked(sign * halves.means[:, rules])
            picks[which].append((int(rules[pair[0]]), int(rules[pair[1]])))
            told = dict.fromkeys(str(used["selector"][i]) for i in picks[which][-1])
            names[which].append(" | ".join(told))
    value, drawn = _chance(key, used, sizes, halves, how)
    values, draws = {"random": value}, {"random": drawn}
    for which, pairs in picks.items():
        values[which] = halves.value(np.array(pairs).T)
        draws[which] = halves.draws(np.array(pairs).T)
    whole = np.flatnonzero(used["selector"] == "full")
    if whole.size:
        both = np.array([whole[0], whole[0]])
        full = (float(halves.value(both)), halves.draws(both))
    else:
        told_full = float(used["value_full"].mean())
        full = (told_full, np.full(len(drawn), told_full))
    return _Field(key, used, sizes, names, values, draws, full, how[0])


def picked(scores: FloatArray) -> tuple[int, int]:
    """Which of some rules scores each half: the one that is best on the other half.

    Parameters
    ----------
    scores: (2, n_rules) on each half, higher is better; of equals the first.
    """
    return int(np.argmax(scores[1])), int(np.argmax(scores[0]))


def _chance(
    key: tuple[str, ...],
    used: pd.DataFrame,
    sizes: npt.NDArray[np.int64],
    halves: Halves,
    how: tuple[float, int],
) -> tuple[FloatArray, FloatArray]:
    """Mean of the random subsets at every size, and on draws of seeds and samples."""
    level, seed = how
    mine = np.flatnonzero((used["selector"] == "random") & used["n_kept"].isin(sizes))
    seeds, seed_at = np.unique(used["seed"][mine].to_numpy(dtype=np.int64), return_inverse=True)
    size_at = np.searchsorted(sizes, used["n_kept"][mine].to_numpy(dtype=np.int64))
    columns = np.full((sizes.size, seeds.size), -1, dtype=np.intp)
    columns[size_at, seed_at] = np.arange(mine.size)
    each = halves.value(np.stack([mine, mine]))
    mean = np.array([each[row[row >= 0]].mean() for row in columns])
    rng = np.random.default_rng([seed, zlib.crc32(f"{key[0]}/{key[1]}/random".encode())])
    drawn = halves.draws(np.stack([mine, mine]))
    counts = seed_counts(seeds.size, len(drawn), rng)
    return mean, averaged_over_seeds(drawn, columns, counts, level)


def _orders_neurons(selector: str) -> bool:
    """Whether a selector's subsets are compared: the random one, the layer, and fixed orders."""
    if selector in ("random", "full"):
        return True
    info = SELECTORS.get(selector)
    return info is None or not (info.is_projection or info.is_random)


def _sizes(used: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Sizes below the whole layer that random subsets and a rule both have."""
    below = used[used["n_kept"] < used["n_neurons"]]
    chance = below["selector"] == "random"
    both = np.intersect1d(below["n_kept"][chance], below["n_kept"][~chance])
    return np.asarray(both, dtype=np.int64)
