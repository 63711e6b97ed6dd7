"""Whether different subsets say the same: overlap of predictions and of errors, beyond chance."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import averaged_over_seeds, resampled_means, seed_counts
from criticalmass.analysis.columns import RunLike, check_interval, percentiles, runs_of, typed
from criticalmass.analysis.predictions import Line, Predictions, counted, predictions_of
from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray

__all__ = ["AGREEMENT_COLUMNS", "agreement"]

SEEDS, WHOLE = "other seeds", "whole layer"
# Pairs whose samples are resampled together; of 10,000 samples they take about 50 MB.
_PAIRS_AT_ONCE = 400
_TEXT, _COUNT, _FLOAT = "string", "Int64", "Float64"
_FIGURES = ("agreement", "kappa", "error_consistency", "error_overlap", "same_wrong")
AGREEMENT_COLUMNS: dict[str, str] = (
    dict.fromkeys(("model", "layer", "dataset", "selector", "measure"), _TEXT)
    | {"against": _TEXT, "fraction": _FLOAT, "n_kept": _COUNT, "n_neurons": _COUNT}
    | {"accuracy": _FLOAT}
    | {f"{name}{end}": _FLOAT for name in _FIGURES for end in ("", "_low", "_high")}
    | dict.fromkeys(("agreement_chance", "error_overlap_chance", "same_wrong_chance"), _FLOAT)
    | {"level": _FLOAT, "n_pairs": _COUNT, "n_seeds": _COUNT, "n_test": _COUNT}
    | {"n_failed": _COUNT, "n_not_converged": _COUNT}
)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """What pairs of predictors have in common; shapes (n_pairs,) or (resamples, n_pairs).

    Attributes
    ----------
    agree: share of samples with equal predictions.
    chance: the same for predictors of these class shares that know nothing of the sample.
    right: share that both get right.
    first, second: accuracies.
    """

    agree: FloatArray
    chance: FloatArray
    right: FloatArray
    first: FloatArray
    second: FloatArray

    def figures(self) -> dict[str, FloatArray]:
        """Name -> figure of every pair; NaN where there is nothing to compare."""
        wrong = 1.0 - self.first - self.second + self.right
        same = self.right + wrong
        expected = self.first * self.second + (1.0 - self.first) * (1.0 - self.second)
        return {
            "agreement": self.agree,
            "agreement_chance": self.chance,
            "kappa": _divided(self.agree - self.chance, 1.0 - self.chance),
            "error_consistency": _divided(same - expected, 1.0 - expected),
            "error_overlap": _divided(wrong, 1.0 - self.right),
            "error_overlap_chance": _divided(
                (1.0 - self.first) * (1.0 - self.second), 1.0 - self.first * self.second
            ),
            "same_wrong": _divided(self.agree - self.right, wrong),
        }


@checked
def agreement(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How far subsets predict the same as other subsets of their size, and as the whole layer.

    Figures are means over pairs of seeds, or over seeds against the whole layer. Intervals
    come from the bootstrap over test samples and seeds; a mean over pairs enters it through
    what each of 3 seeds or more contributes, the jackknife's pseudo-values of a U-statistic
    (Arvesen 1969), so that pairs sharing a seed do not count as independent. Subsets of
    different seeds overlap: of k of d neurons they share k^2/d on average. For subsets with
    no neuron in common see `criticalmass.ensembles`.

    Parameters
    ----------
    run: a run, its path, or several of them. Measures without predictions are left out.
    level: of the percentile intervals.
    resamples: bootstrap draws.
    seed: fixes the draws.

    Returns
    -------
    Per model x layer x dataset x selector x measure x n_kept one row ``against`` "whole
    layer" (where it was measured) and one against "other seeds" (from two seeds on, below
    the whole layer), `AGREEMENT_COLUMNS`:

    - ``agreement``: share of test samples with the same prediction, right or wrong;
      ``agreement_chance``: expected from the two predictors' class shares alone;
      ``kappa``: (agreement - chance) / (1 - chance), Cohen 1960;
    - ``error_consistency``: the same for being right or wrong instead of for classes, with
      the chance that two accuracies leave, a b + (1 - a)(1 - b) (Geirhos et al. 2020): 0 for
      errors on independent samples, 1 for errors on the same;
    - ``error_overlap``: samples both get wrong over samples either gets wrong;
      ``error_overlap_chance``: for errors on independent samples;
    - ``same_wrong``: of the samples both get wrong, the share with the same wrong answer;
      ``same_wrong_chance``: expected from how often each of the two gives which wrong answer
      to that class.

    A figure is missing where it is not defined: no errors, or nothing left to chance.

    Raises
    ------
    CriticalMassError: for a level or number of resamples that is none, or no predictions.
    """
    check_interval(level, resamples)
    rows = [
        row
        for one in runs_of(run)
        for source in predictions_of(one)
        for row in _rows(source, level, resamples, seed)
    ]
    return typed(rows, AGREEMENT_COLUMNS)


def _rows(source: Predictions, level: float, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of all selectors of one layer and measure."""
    asked = [
        (line, i, against, pairs)
        for line in source.lines
        for i in range(line.sizes.size)
        for against, pairs in _pairings(source, line, i)
    ]
    if not asked:
        return []
    every = np.concatenate([pairs for *_, pairs in asked])
    found, drawn = compared(source, every), _on_draws(source, every, resamples, seed)
    table, start = [], 0
    for line, i, against, pairs in asked:
        mine = slice(start, start + len(pairs))
        start = mine.stop
        used = line.columns[i] >= 0
        row = source.row_key(line) | counted(line, int(line.sizes[i]), level)
        row |= {"against": against, "n_pairs": len(pairs), "n_test": source.labels.size}
        row["accuracy"] = float(source.hits[line.columns[i][used]].mean())
        subsets = f"{source.key[0]}/{source.key[1]}/{line.selector}"
        rng = np.random.default_rng([seed, zlib.crc32(subsets.encode())])
        counts = seed_counts(line.seeds.size, resamples, rng)[:, used]
        gather = _per_seed(against, int(used.sum()))
        here = {name: values[mine] for name, values in found.items()}
        there = {name: drawn[name][:, mine] for name in _FIGURES}
        table.append(row | _summary(here, there, gather, (counts, level)))
    return table


def _pairings(source: Predictions, line: Line, size: int) -> list[tuple[str, npt.NDArray[np.intp]]]:
    """(against, (n_pairs, 2) rows of the predictions) for one size."""
    mine = line.columns[size][line.columns[size] >= 0]
    found = []
    if source.whole is not None:
        found.append((WHOLE, np.stack([mine, np.full_like(mine, source.whole)], axis=1)))
    if mine.size > 1 and np.unique(mine).size == mine.size:
        found.append((SEEDS, np.array(list(itertools.combinations(mine, 2)), dtype=np.intp)))
    return found


def compared(source: Predictions, pairs: npt.NDArray[np.intp]) -> dict[str, FloatArray]:
    """Figures of every pair on all test samples, each (n_pairs,)."""
    samples = _Samples.of(source, pairs)
    accuracy = source.hits.mean(axis=1)
    found = _Pairs(
        samples.agree.mean(axis=1),
        samples.chance.mean(axis=1) / 2.0,
        samples.right.mean(axis=1),
        accuracy[pairs[:, 0]],
        accuracy[pairs[:, 1]],
    ).figures()
    found["same_wrong_chance"] = np.array([_wrong_by_chance(source, a, b) for a, b in pairs])
    return found


@dataclass(frozen=True, eq=False)
class _Samples:
    """What pairs do on every test sample, each (n_pairs, n_test).

    ``chance`` is the sum of how often the one predictor gives the other's answer to this
    sample; its mean is twice the chance of agreement, and to first order in the counts of a
    resample it moves as that does (the remainder is of the order of 1/n_test).
    """

    agree: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    chance: npt.NDArray[np.float32]

    @classmethod
    def of(cls, source: Predictions, pairs: npt.NDArray[np.intp]) -> _Samples:
        a, b = source.classes[pairs[:, 0]], source.classes[pairs[:, 1]]
        n_classes = len(source.names)
        shares = {
            int(row): np.bincount(source.classes[row], minlength=n_classes) / source.labels.size
            for row in np.unique(pairs)
        }
        chance = np.empty(a.shape, dtype=np.float32)
        for i, (first, second) in enumerate(pairs):
            chance[i] = shares[int(first)][b[i]] + shares[int(second)][a[i]]
        agree = np.asarray(a == b)
        return cls(agree, agree & (a == source.labels), chance)


def _on_draws(
    source: Predictions, pairs: npt.NDArray[np.intp], resamples: int, seed: int
) -> dict[str, FloatArray]:
    """Figures of every pair on resampled test samples, each (resamples, n_pairs)."""
    drawn = {name: np.empty((resamples, len(pairs))) for name in _FIGURES}
    right = resampled_means(source.hits, resamples, seed=seed)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        mine = pairs[start : start + _PAIRS_AT_ONCE]
        samples = _Samples.of(source, mine)
        stacked = np.concatenate([samples.agree, samples.right, samples.chance])
        means = resampled_means(stacked, resamples, seed=seed)
        agree, both, chance = np.split(means, 3, axis=1)
        # Linear in the counts: a change of the two class shares adds up.
        chance = chance - samples.chance.mean(axis=1) / 2.0
        first, second = right[:, mine[:, 0]], right[:, mine[:, 1]]
        figures = _Pairs(agree, chance, both, first, second).figures()
        for name in _FIGURES:
            drawn[name][:, start : start + len(mine)] = figures[name]
    return drawn


def _per_seed(against: str, n_seeds: int) -> Callable[[FloatArray], FloatArray]:
    """Return what turns figures of pairs (..., n_pairs) into contributions (..., n_seeds).

    Two seeds make one pair, which says nothing about how pairs differ.
    """
    if against == WHOLE:
        return lambda figure: figure
    first, second = np.array(list(itertools.combinations(range(n_seeds), 2))).T
    member = np.zeros((first.size, n_seeds))
    member[np.arange(first.size), first] = member[np.arange(first.size), second] = 1.0
    if n_seeds == 2:
        return lambda figure: np.repeat(figure, 2, axis=-1)
    without = (1.0 - member) / (0.5 * (n_seeds - 1.0) * (n_seeds - 2.0))
    share = n_seeds / first.size - (n_seeds - 1.0) * without
    return lambda figure: np.asarray(figure @ share)


def _summary(
    found: dict[str, FloatArray],
    drawn: dict[str, FloatArray],
    gather: Callable[[FloatArray], FloatArray],
    interval: tuple[FloatArray, float],
) -> dict[str, Any]:
    """Mean of every figure over pairs, with its interval where all pairs and draws have one."""
    counts, level = interval
    columns = np.arange(counts.shape[1], dtype=np.intp)[None]
    row: dict[str, Any] = {}
    for name, values in found.items():
        row[name] = float(values.mean())
        if name not in drawn:
            continue
        row |= {f"{name}_low": None, f"{name}_high": None}
        if np.isfinite(drawn[name]).all():
            means = averaged_over_seeds(gather(drawn[name]), columns, counts, level)[:, 0]
            low, high = np.clip(percentiles(means, level), -1.0, 1.0)
            row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _wrong_by_chance(source: Predictions, first: int, second: int) -> float:
    """Share of equal answers among samples both get wrong, if answers hung on the class alone."""
    n = len(source.names)
    tables = []
    for row in (first, second):
        flat = source.labels * n + source.classes[row].astype(np.int64)
        wrong = np.bincount(flat, minlength=n * n).reshape(n, n).astype(np.float64)
        np.fill_diagonal(wrong, 0.0)
        tables.append(wrong / np.maximum(wrong.sum(axis=1, keepdims=True), 1.0))
    both = ~source.hits[first] & ~source.hits[second]
    if not both.any():
        return float("nan")
    counts = np.bincount(source.labels[both], minlength=n)
    return float(counts @ (tables[0] * tables[1]).sum(axis=1) / counts.sum())


def _divided(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """Divide; NaN where the bottom is 0 up to rounding."""
    there = np.abs(bottom) > 1e-12
    return np.where(there, top / np.where(there, bottom, 1.0), np.nan)
