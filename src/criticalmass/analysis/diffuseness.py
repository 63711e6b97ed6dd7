"""Effect of choosing neurons: random subsets against those of the best and worst selector.

A selector counts as a rule if it orders neurons without randomness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import averaged_over_seeds, seed_counts, selector_rng
from criticalmass.analysis.columns import (
    COUNT,
    FLOAT,
    LAYER_KEY_COLUMNS,
    NOTE_COLUMN,
    SIZE_COLUMNS,
    TEXT,
    Draws,
    LayerKey,
    RunLike,
    interval_columns,
    open_runs,
    percentile_interval,
    seed_note,
    typed_table,
    with_note,
)
from criticalmass.analysis.split_scores import SplitScores, score_halves
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.run import Run

DIFFUSENESS_COLUMNS: dict[str, str] = (
    LAYER_KEY_COLUMNS
    | SIZE_COLUMNS
    | interval_columns("random")
    | {"random_std": FLOAT, "best": TEXT}
    | interval_columns("best_value")
    | {"worst": TEXT}
    | interval_columns("worst_value", "gain", "loss")
    | {"value_full": FLOAT, "level": FLOAT}
    | NOTE_COLUMN
    | dict.fromkeys(("n_selectors", "n_seeds", "n_test"), COUNT)
)
SUMMARY_COLUMNS: dict[str, str] = (
    LAYER_KEY_COLUMNS
    | interval_columns("choice", "gain", "loss")
    | {"value_full": FLOAT, "smallest_fraction": FLOAT, "n_neurons": COUNT, "level": FLOAT}
    | NOTE_COLUMN
    | dict.fromkeys(("n_sizes", "n_selectors", "n_seeds", "n_test"), COUNT)
)
_NOT_RULES = ("random", "full")


@validate_arguments
def diffuseness(
    run: RunLike | Sequence[RunLike],
    *,
    measure: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare random subsets with those of the best and the worst rule, size by size.

    The best of many rules on some test samples owes part of its lead to these samples. Therefore
    the test samples are split into two halves. Each half scores the rule that was best (worst) on
    the other half, and both halves count by their size. No sample helps to choose the rule that it
    scores, so the lead is not biased by the choice, except for ties. Intervals come from the
    bootstrap within the halves. Random subsets use the same resampled samples and resampled
    seeds; the chosen rules stay fixed. For a measure that is not a mean over samples (CKA) the
    halves are linear estimates by the infinitesimal jackknife.

    Rules are all selectors of the run that order neurons without randomness. Projections mix all
    neurons and are left out.

    Parameters
    ----------
    run: a run, its path, or several of them; each needs random subsets and at least one rule.
    measure: one measure of the run; all by default.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws.
    seed: seed of the draws.

    Returns
    -------
    One row per model x layer x dataset x measure x n_kept below the whole layer,
    `DIFFUSENESS_COLUMNS`: ``random`` is the mean over seeds and ``random_std`` the standard
    deviation over seeds; ``best`` and ``worst`` name the chosen rules ("a | b" if the halves
    chose different ones); ``gain`` is best_value - random, ``loss`` is random - worst_value, both
    paired.

    Raises
    ------
    CriticalMassError: if the measure is unknown, level or resamples is out of range, or a run has
        no random subsets or no rules at the same sizes.
    """
    draws = Draws(level, resamples, seed)
    rows = [row for effect in _effects(run, measure, draws) for row in effect.rows()]
    return typed_table(rows, DIFFUSENESS_COLUMNS)


@validate_arguments
def diffuseness_summary(
    run: RunLike | Sequence[RunLike],
    *,
    measure: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Summarise the effect of choosing neurons over all sizes in one number.

    ``gain`` is the area between best and random over the logarithm of n_kept, from the smallest
    tested size to the whole layer (where all are equal), divided by the length of that axis and by
    the whole layer's value. It is the lead of a good choice at a typical size, as a share of the
    whole layer's value. ``loss`` is the same for random - worst, and ``choice`` = gain + loss.
    The area uses trapezoids between the tested sizes; choices and intervals are those of
    `diffuseness`.

    Parameters
    ----------
    run, measure, level, resamples, seed: as in `diffuseness`.

    Returns
    -------
    One row per model x layer x dataset x measure, `SUMMARY_COLUMNS`.

    Raises
    ------
    CriticalMassError: as in `diffuseness`.
    """
    draws = Draws(level, resamples, seed)
    rows = [effect.summary() for effect in _effects(run, measure, draws)]
    return typed_table(rows, SUMMARY_COLUMNS)


@dataclass(frozen=True, eq=False)
class _Series:
    """Values at every size, (n_sizes,), and their bootstrap draws, (resamples, n_sizes)."""

    value: FloatArray
    draws: FloatArray

    def minus(self, other: _Series) -> _Series:
        return _Series(self.value - other.value, self.draws - other.draws)

    def plus(self, other: _Series) -> _Series:
        return _Series(self.value + other.value, self.draws + other.draws)


@dataclass(frozen=True, eq=False)
class _ChoiceEffect:
    """Random subsets and chosen rules of one layer under one measure.

    Attributes
    ----------
    key: model, layer, dataset and measure.
    used: rows with an artifact, of random subsets, rules and the whole layer.
    sizes: (n_sizes,) ascending, all below n_neurons.
    names: "best" and "worst" -> name of the rule at every size.
    series: "random", "best" and "worst" -> values.
    full: value of the whole layer.
    full_draws: (resamples,) bootstrap draws of ``full``.
    level: confidence level of the intervals.
    """

    key: LayerKey
    used: pd.DataFrame
    sizes: npt.NDArray[np.int64]
    names: dict[str, list[str]]
    series: dict[str, _Series]
    full: float
    full_draws: FloatArray
    level: float

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of `diffuseness`."""
        series = {
            "random": self.series["random"],
            "best_value": self.series["best"],
            "worst_value": self.series["worst"],
        } | self._leads()
        for i, size in enumerate(self.sizes):
            rows = self.used[self.used["n_kept"] == size]
            random_values = rows.loc[rows["selector"] == "random", "value"].to_numpy(np.float64)
            row = self.key._asdict() | self._support(rows)
            row |= {"fraction": float(rows["fraction"].min()), "n_kept": int(size)}
            row["random_std"] = float(random_values.std(ddof=1)) if random_values.size > 1 else None
            row |= {which: self.names[which][i] for which in ("best", "worst")}
            for name, values in series.items():
                row |= self._with_interval(name, values.value[i], values.draws[:, i])
            # The rules have no seeds, and keep their intervals.
            rules = {name: cell for name, cell in row.items() if name.startswith(("best", "worst"))}
            yield with_note(row, seed_note(row["n_seeds"])) | rules

    def summary(self) -> dict[str, Any]:
        """Return the row of `diffuseness_summary`."""
        n_neurons = int(self.used["n_neurons"].max())
        weights = log_size_weights(self.sizes, n_neurons)
        row = self.key._asdict() | self._support(self.used)
        row |= {"n_sizes": int(self.sizes.size)}
        row |= {"smallest_fraction": float(self.sizes[0]) / n_neurons}
        leads = self._leads()
        leads["choice"] = leads["gain"].plus(leads["loss"])
        for name, lead in leads.items():
            value = float(weights @ lead.value) / self.full
            row |= self._with_interval(name, value, lead.draws @ weights / self.full_draws)
        return with_note(row, seed_note(row["n_seeds"]))

    def _leads(self) -> dict[str, _Series]:
        best, random, worst = (self.series[name] for name in ("best", "random", "worst"))
        return {"gain": best.minus(random), "loss": random.minus(worst)}

    def _with_interval(self, name: str, value: float, draws: FloatArray) -> dict[str, float]:
        low, high = percentile_interval(draws, self.level)
        return {name: float(value), f"{name}_low": low, f"{name}_high": high}

    def _support(self, rows: pd.DataFrame) -> dict[str, Any]:
        return {
            "value_full": self.full,
            "level": self.level,
            "n_neurons": int(rows["n_neurons"].max()),
            "n_selectors": int(rows.loc[_is_rule(rows), "selector"].nunique()),
            "n_seeds": int(rows.loc[rows["selector"] == "random", "seed"].nunique()),
            "n_test": int(rows["n_test"].max()),
        }


def log_size_weights(sizes: npt.NDArray[np.int64], n_neurons: int) -> FloatArray:
    """(n_sizes,) weights of a mean over the logarithmic size axis, by the trapezoidal rule.

    The axis runs from the smallest size to the whole layer, which counts with a value of 0, so the
    weights sum to less than 1.
    """
    x = np.log(np.append(sizes, n_neurons).astype(np.float64))
    steps = np.diff(x)
    weights = steps.copy()
    weights[1:] += steps[:-1]
    return np.asarray(weights / 2.0 / (x[-1] - x[0]))


def _effects(
    run: RunLike | Sequence[RunLike], measure: str | None, draws: Draws
) -> list[_ChoiceEffect]:
    """Compute the effect on every layer and measure with random subsets and rules."""
    effects: list[_ChoiceEffect] = []
    for one in open_runs(run):
        frame = one.frame()
        measures = list(dict.fromkeys(frame["measure"].astype(str)))
        if measure is not None:
            if measure not in measures:
                raise unknown_name("measure", measure, measures)
            frame = frame[frame["measure"] == measure]
        run_effects = list(_run_effects(one, frame, draws))
        if not run_effects:
            raise CriticalMassError(
                f"{one.path} has no random subsets with another selector's at the same size; "
                "sweep it with e.g. selectors=('random', 'greedy-lda', 'leverage', 'norm-low')"
            )
        effects += run_effects
    return effects


def _run_effects(run: Run, frame: pd.DataFrame, draws: Draws) -> Iterator[_ChoiceEffect]:
    # Failed cells have no artifact.
    has_artifact = frame["artifact"].notna()
    is_compared = frame["selector"].map(_is_compared).astype(bool)
    for key, part in frame[has_artifact & is_compared].groupby(list(LayerKey._fields), sort=True):
        used = part.reset_index(drop=True)
        sizes = _shared_sizes(used)
        if sizes.size:
            scores = score_halves(run, used, draws.resamples, draws.seed)
            yield _choice_effect(LayerKey(*map(str, key)), used, sizes, scores, draws)


def _choice_effect(
    key: LayerKey,
    used: pd.DataFrame,
    sizes: npt.NDArray[np.int64],
    scores: SplitScores,
    draws: Draws,
) -> _ChoiceEffect:
    names: dict[str, list[str]] = {"best": [], "worst": []}
    choices: dict[str, list[tuple[int, int]]] = {"best": [], "worst": []}
    for size in sizes:
        rules = np.flatnonzero((used["n_kept"] == size) & _is_rule(used))
        for which, sign in (("best", 1.0), ("worst", -1.0)):
            first, second = best_on_other_half(sign * scores.means[:, rules])
            choice = int(rules[first]), int(rules[second])
            choices[which].append(choice)
            chosen_names = dict.fromkeys(str(used["selector"][i]) for i in choice)
            names[which].append(" | ".join(chosen_names))
    series = {"random": _random_series(key, used, sizes, scores, draws)}
    for which, pairs in choices.items():
        rows = np.array(pairs).T
        series[which] = _Series(scores.value(rows), scores.value_draws(rows))
    full_rows = np.flatnonzero(used["selector"] == "full")
    if full_rows.size:
        both = np.array([full_rows[0], full_rows[0]])
        full, full_draws = float(scores.value(both)), scores.value_draws(both)
    else:
        full = float(used["value_full"].mean())
        full_draws = np.full(draws.resamples, full)
    return _ChoiceEffect(key, used, sizes, names, series, full, full_draws, draws.level)


def best_on_other_half(scores: FloatArray) -> tuple[int, int]:
    """Return the rule that scores each half: the one that is best on the other half.

    Parameters
    ----------
    scores: (2, n_rules) score of every rule on each half, higher is better; the first of equals
        is chosen.
    """
    return int(np.argmax(scores[1])), int(np.argmax(scores[0]))


def _random_series(
    key: LayerKey,
    used: pd.DataFrame,
    sizes: npt.NDArray[np.int64],
    scores: SplitScores,
    draws: Draws,
) -> _Series:
    """Mean of the random subsets at every size, and on draws of seeds and samples."""
    rows = np.flatnonzero((used["selector"] == "random") & used["n_kept"].isin(sizes))
    seeds, seed_index = np.unique(used["seed"][rows].to_numpy(dtype=np.int64), return_inverse=True)
    size_index = np.searchsorted(sizes, used["n_kept"][rows].to_numpy(dtype=np.int64))
    row_index = np.full((sizes.size, seeds.size), -1, dtype=np.intp)
    row_index[size_index, seed_index] = np.arange(rows.size)
    both_halves = np.stack([rows, rows])
    values = scores.value(both_halves)
    mean = np.array([values[index[index >= 0]].mean() for index in row_index])
    rng = selector_rng(draws.seed, key.model, key.layer, "random")
    counts = seed_counts(seeds.size, draws.resamples, rng)
    value_draws = scores.value_draws(both_halves)
    return _Series(mean, averaged_over_seeds(value_draws, row_index, counts, draws.level))


def _is_rule(rows: pd.DataFrame) -> pd.Series:
    return ~rows["selector"].isin(_NOT_RULES)


def _is_compared(selector: str) -> bool:
    """Tell whether a selector is the random one, the whole layer, or a rule."""
    if selector in _NOT_RULES:
        return True
    info = SELECTORS.get(selector)
    return info is None or not (info.is_projection or info.is_random)


def _shared_sizes(used: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Sizes below the whole layer that random subsets and a rule both have."""
    below = used[used["n_kept"] < used["n_neurons"]]
    is_random = below["selector"] == "random"
    both = np.intersect1d(below["n_kept"][is_random], below["n_kept"][~is_random])
    return np.asarray(both, dtype=np.int64)
