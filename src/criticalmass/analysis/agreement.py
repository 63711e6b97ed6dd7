"""How far different subsets predict the same: shared predictions and shared errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import (
    averaged_over_seeds,
    resampled_means,
    seed_counts,
    selector_rng,
)
from criticalmass.analysis.columns import (
    COUNT,
    CURVE_KEY_COLUMNS,
    FLOAT,
    NOTE_COLUMN,
    SIZE_COLUMNS,
    STATUS_COLUMNS,
    TEXT,
    Draws,
    RunLike,
    interval_columns,
    open_runs,
    percentile_interval,
    seed_note,
    typed_table,
    with_note,
)
from criticalmass.analysis.predictions import Predictions, SelectorPredictions, predictions_of
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.selectors.registry import SELECTORS

__all__ = ["AGREEMENT_COLUMNS", "agreement"]

AGAINST_SEEDS, AGAINST_FULL = "other seeds", "whole layer"
# Pairs whose samples are resampled together; with 10,000 test samples they take about 50 MB.
_PAIR_BLOCK = 400
_STATISTICS = ("agreement", "kappa", "error_consistency", "error_overlap", "same_wrong")
AGREEMENT_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | {"against": TEXT}
    | SIZE_COLUMNS
    | {"accuracy": FLOAT}
    | interval_columns(*_STATISTICS)
    | dict.fromkeys(("agreement_chance", "error_overlap_chance", "same_wrong_chance"), FLOAT)
    | NOTE_COLUMN
    | {"level": FLOAT, "n_pairs": COUNT, "n_seeds": COUNT, "n_test": COUNT}
    | STATUS_COLUMNS
)
_RowPairs = npt.NDArray[np.intp]


@validate_arguments
def agreement(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how far subsets predict the same as each other and as the whole layer.

    A value is the mean over pairs of seeds, or over seeds paired with the whole layer. The
    intervals come from the bootstrap over test samples and seeds. With 3 seeds or more, a mean
    over pairs enters the bootstrap as the contributions of the seeds, the jackknife pseudo-values
    of a U-statistic (Arvesen 1969), so pairs that share a seed do not count as independent.
    Subsets of different seeds overlap: two subsets of k of d neurons share k^2/d on average. For
    disjoint subsets see `criticalmass.ensembles`.

    Parameters
    ----------
    run: a run, its path, or several of them. Measures without predictions are left out.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws.
    seed: seed of the draws.

    Returns
    -------
    Per model x layer x dataset x selector x measure x n_kept one row ``against`` "whole
    layer" (if the whole layer was measured) and one against "other seeds" (if there are two
    seeds or more, below the whole layer), `AGREEMENT_COLUMNS`:

    - ``agreement``: share of test samples with the same prediction, right or wrong;
      ``agreement_chance``: its expectation from the class shares of the two predictors;
      ``kappa``: (agreement - chance) / (1 - chance), Cohen 1960;
    - ``error_consistency``: the same formula for being right or wrong instead of for classes;
      two accuracies a and b agree by chance with a b + (1 - a)(1 - b) (Geirhos et al. 2020). It
      is 0 for independent errors and 1 for errors on the same samples;
    - ``error_overlap``: samples that both get wrong over samples that at least one gets wrong;
      ``error_overlap_chance``: its value for independent errors;
    - ``same_wrong``: of the samples that both get wrong, the share with the same wrong answer;
      ``same_wrong_chance``: its expectation if each predictor chose its wrong answer at random,
      with the frequencies of its wrong answers to that class.

    A value is missing if it is not defined: there are no errors, or chance agreement is 1.

    Raises
    ------
    CriticalMassError: if level or resamples is out of range, or a run has no predictions.
    """
    draws = Draws(level, resamples, seed)
    rows = [
        row
        for one in open_runs(run)
        for source in predictions_of(one)
        for row in _layer_rows(source, draws)
    ]
    return typed_table(rows, AGREEMENT_COLUMNS)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """The pairs behind one row of the table.

    Attributes
    ----------
    subsets: the predictions of the selector.
    size: position of the size in ``subsets.sizes``.
    against: the other predictor of each pair.
    pairs: (n_pairs, 2) rows of `Predictions.classes`.
    """

    subsets: SelectorPredictions
    size: int
    against: str
    pairs: _RowPairs


def _layer_rows(source: Predictions, draws: Draws) -> list[dict[str, Any]]:
    """Rows of all selectors of one layer and measure."""
    comparisons = [
        _Comparison(subsets, size, against, pairs)
        for subsets in source.selectors
        for size in range(subsets.sizes.size)
        for against, pairs in _row_pairs(source, subsets, size)
    ]
    if not comparisons:
        return []
    all_pairs = np.concatenate([comparison.pairs for comparison in comparisons])
    values = pair_agreement(source, all_pairs)
    value_draws = _pair_draws(source, all_pairs, draws)
    table, start = [], 0
    for comparison in comparisons:
        part = slice(start, start + len(comparison.pairs))
        start = part.stop
        table.append(
            _row(
                source,
                comparison,
                {name: value[part] for name, value in values.items()},
                {name: value_draws[name][:, part] for name in _STATISTICS},
                draws,
            )
        )
    return table


def _row(
    source: Predictions,
    comparison: _Comparison,
    values: dict[str, FloatArray],
    value_draws: dict[str, FloatArray],
    draws: Draws,
) -> dict[str, Any]:
    """Row of one comparison, from the values of its pairs and their draws."""
    subsets, against = comparison.subsets, comparison.against
    class_rows = subsets.row_index[comparison.size]
    has_row = class_rows >= 0
    rng = selector_rng(draws.seed, source.key.model, source.key.layer, subsets.selector)
    counts = seed_counts(subsets.seeds.size, draws.resamples, rng)[:, has_row]
    contributions = seed_contributions(against, int(has_row.sum()))
    info = SELECTORS.get(subsets.selector)
    size = int(subsets.sizes[comparison.size])
    is_random = info is not None and info.is_random and size < int(subsets.used["n_neurons"].max())
    row = (
        source.key_columns(subsets.selector)
        | subsets.size_columns(int(subsets.sizes[comparison.size]), draws.level)
        | {
            "against": against,
            "n_pairs": len(comparison.pairs),
            "n_test": source.labels.size,
            "accuracy": float(source.correct[class_rows[has_row]].mean()),
        }
        | _mean_and_interval(values, value_draws, contributions, counts, draws.level)
    )
    return with_note(row, seed_note(int(has_row.sum())) if is_random else "")


def _row_pairs(
    source: Predictions, subsets: SelectorPredictions, size: int
) -> list[tuple[str, _RowPairs]]:
    """(against, (n_pairs, 2) rows of the predictions) for one size."""
    rows = subsets.row_index[size][subsets.row_index[size] >= 0]
    pairs: list[tuple[str, _RowPairs]] = []
    if source.full_row is not None:
        pairs.append((AGAINST_FULL, np.stack([rows, np.full_like(rows, source.full_row)], axis=1)))
    if rows.size > 1 and np.unique(rows).size == rows.size:
        seed_pairs = np.array(list(itertools.combinations(rows, 2)), dtype=np.intp)
        pairs.append((AGAINST_SEEDS, seed_pairs))
    return pairs


def pair_agreement(source: Predictions, pairs: _RowPairs) -> dict[str, FloatArray]:
    """Compute the agreement statistics of pairs of predictors on all test samples.

    Parameters
    ----------
    source: the predictions.
    pairs: (n_pairs, 2) rows of ``source.classes``.

    Returns
    -------
    Column of `AGREEMENT_COLUMNS` -> (n_pairs,) values.
    """
    samples = _PairSamples.of(source, pairs)
    accuracy = source.correct.mean(axis=1)
    values = _PairShares(
        agree=samples.agree.mean(axis=1),
        chance=samples.chance.mean(axis=1) / 2.0,
        both_right=samples.both_right.mean(axis=1),
        first=accuracy[pairs[:, 0]],
        second=accuracy[pairs[:, 1]],
    ).statistics()
    values["same_wrong_chance"] = np.array([_same_wrong_chance(source, a, b) for a, b in pairs])
    return values


@dataclass(frozen=True, eq=False)
class _PairShares:
    """Shares of test samples from which the statistics of pairs of predictors follow.

    All have the shape (n_pairs,) or (resamples, n_pairs).

    Attributes
    ----------
    agree: share of samples with equal predictions.
    chance: expected ``agree`` of independent predictors with these class shares.
    both_right: share of samples that both get right.
    first, second: accuracies.
    """

    agree: FloatArray
    chance: FloatArray
    both_right: FloatArray
    first: FloatArray
    second: FloatArray

    def statistics(self) -> dict[str, FloatArray]:
        """Return name -> value of every pair; NaN if the value is not defined."""
        both_wrong = 1.0 - self.first - self.second + self.both_right
        same = self.both_right + both_wrong
        expected = self.first * self.second + (1.0 - self.first) * (1.0 - self.second)
        return {
            "agreement": self.agree,
            "agreement_chance": self.chance,
            "kappa": _divide(self.agree - self.chance, 1.0 - self.chance),
            "error_consistency": _divide(same - expected, 1.0 - expected),
            "error_overlap": _divide(both_wrong, 1.0 - self.both_right),
            "error_overlap_chance": _divide(
                (1.0 - self.first) * (1.0 - self.second), 1.0 - self.first * self.second
            ),
            "same_wrong": _divide(self.agree - self.both_right, both_wrong),
        }


@dataclass(frozen=True, eq=False)
class _PairSamples:
    """Agreement of pairs of predictors on every test sample, each (n_pairs, n_test).

    Attributes
    ----------
    agree: whether the predictions are equal.
    both_right: whether both predictions are correct.
    chance: share of samples to which the first predictor gives the second one's answer, plus
        the reverse. Its mean is twice the chance of agreement. On a resample it changes as the
        chance of agreement does, to first order in the counts; the remainder is of order
        1/n_test.
    """

    agree: npt.NDArray[np.bool_]
    both_right: npt.NDArray[np.bool_]
    chance: npt.NDArray[np.float32]

    @classmethod
    def of(cls, source: Predictions, pairs: _RowPairs) -> _PairSamples:
        """Compare the predictions of (n_pairs, 2) rows sample by sample."""
        a, b = source.classes[pairs[:, 0]], source.classes[pairs[:, 1]]
        n_classes = len(source.class_names)
        shares = {
            int(row): np.bincount(source.classes[row], minlength=n_classes) / source.labels.size
            for row in np.unique(pairs)
        }
        chance = np.empty(a.shape, dtype=np.float32)
        for i, (first, second) in enumerate(pairs):
            chance[i] = shares[int(first)][b[i]] + shares[int(second)][a[i]]
        agree = np.asarray(a == b)
        return cls(agree, agree & (a == source.labels), chance)


def _pair_draws(source: Predictions, pairs: _RowPairs, draws: Draws) -> dict[str, FloatArray]:
    """Statistics of every pair on resampled test samples, each (resamples, n_pairs)."""
    values = {name: np.empty((draws.resamples, len(pairs))) for name in _STATISTICS}
    accuracy = resampled_means(source.correct, draws.resamples, seed=draws.seed)
    for start in range(0, len(pairs), _PAIR_BLOCK):
        block = pairs[start : start + _PAIR_BLOCK]
        samples = _PairSamples.of(source, block)
        stacked = np.concatenate([samples.agree, samples.both_right, samples.chance])
        means = resampled_means(stacked, draws.resamples, seed=draws.seed)
        agree, both_right, chance = np.split(means, 3, axis=1)
        # Linear in the counts: the changes of the two class shares add up.
        chance = chance - samples.chance.mean(axis=1) / 2.0
        first, second = accuracy[:, block[:, 0]], accuracy[:, block[:, 1]]
        statistics = _PairShares(agree, chance, both_right, first, second).statistics()
        for name in _STATISTICS:
            values[name][:, start : start + len(block)] = statistics[name]
    return values


def seed_contributions(against: str, n_seeds: int) -> Callable[[FloatArray], FloatArray]:
    """Return the function from values of pairs to contributions of seeds.

    Parameters
    ----------
    against: other predictor of each pair, "other seeds" or "whole layer".
    n_seeds: number of seeds. Two seeds make a single pair; both contribute its value.

    Returns
    -------
    A function from (..., n_pairs) values to (..., n_seeds) contributions with the same mean.
    """
    if against == AGAINST_FULL:
        return lambda values: values
    first, second = np.array(list(itertools.combinations(range(n_seeds), 2))).T
    member = np.zeros((first.size, n_seeds))
    member[np.arange(first.size), first] = member[np.arange(first.size), second] = 1.0
    if n_seeds == 2:
        return lambda values: np.repeat(values, 2, axis=-1)
    without = (1.0 - member) / (0.5 * (n_seeds - 1.0) * (n_seeds - 2.0))
    weights = n_seeds / first.size - (n_seeds - 1.0) * without
    return lambda values: np.asarray(values @ weights)


def _mean_and_interval(
    values: dict[str, FloatArray],
    value_draws: dict[str, FloatArray],
    contributions: Callable[[FloatArray], FloatArray],
    counts: FloatArray,
    level: float,
) -> dict[str, Any]:
    """Mean of every statistic over pairs; with an interval if every draw of it is defined."""
    row_index = np.arange(counts.shape[1], dtype=np.intp)[None]
    row: dict[str, Any] = {}
    for name, value in values.items():
        row[name] = float(value.mean())
        if name not in value_draws:
            continue
        row |= {f"{name}_low": None, f"{name}_high": None}
        if np.isfinite(value_draws[name]).all():
            seed_draws = contributions(value_draws[name])
            means = averaged_over_seeds(seed_draws, row_index, counts, level)[:, 0]
            low, high = np.clip(percentile_interval(means, level), -1.0, 1.0)
            row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _same_wrong_chance(source: Predictions, first: int, second: int) -> float:
    """Return the expected share of equal answers among samples that both get wrong.

    Each predictor's wrong answers depend on the true class alone, with the frequencies of its
    own wrong answers; NaN if there is no sample that both get wrong.
    """
    n = len(source.class_names)
    wrong_shares = []
    for row in (first, second):
        flat = source.labels * n + source.classes[row].astype(np.int64)
        wrong = np.bincount(flat, minlength=n * n).reshape(n, n).astype(np.float64)
        np.fill_diagonal(wrong, 0.0)
        wrong_shares.append(wrong / np.maximum(wrong.sum(axis=1, keepdims=True), 1.0))
    both_wrong = ~source.correct[first] & ~source.correct[second]
    if not both_wrong.any():
        return float("nan")
    counts = np.bincount(source.labels[both_wrong], minlength=n)
    equal = (wrong_shares[0] * wrong_shares[1]).sum(axis=1)
    return float(counts @ equal / counts.sum())


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide; NaN if the denominator is 0 up to rounding."""
    is_nonzero = np.abs(denominator) > 1e-12
    return np.where(is_nonzero, numerator / np.where(is_nonzero, denominator, 1.0), np.nan)
