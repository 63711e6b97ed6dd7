"""Scores of a run's rows on two disjoint halves of the test units.

A unit is a test sample if predictions or scores were stored, and a block of samples if
replicates were. In both cases the value of a row is the mean over its units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import resampled_means
from criticalmass.analysis.predictions import is_correct
from criticalmass.core.moments import FloatArray
from criticalmass.errors import RunError
from criticalmass.storage.run import Run


@dataclass(frozen=True, eq=False)
class SplitScores:
    """The values of some rows on two disjoint halves of the test units.

    Attributes
    ----------
    shares: (2,) share of the units in each half.
    means: (2, n_rows) value of every row on each half.
    mean_draws: (2, resamples, n_rows) bootstrap draws of ``means``. The halves are resampled
        independently; within a half all rows use the same units.
    """

    shares: FloatArray
    means: FloatArray
    mean_draws: FloatArray

    def value(self, rows: npt.ArrayLike) -> FloatArray:
        """Value if half h is scored by row ``rows[h]``, the halves weighted by their shares.

        Parameters
        ----------
        rows: (2, ...) positions of rows; with equal positions the result is the row's value.
        """
        index = np.asarray(rows, dtype=np.intp)
        return np.asarray(
            self.shares[0] * self.means[0][index[0]] + self.shares[1] * self.means[1][index[1]]
        )

    def value_draws(self, rows: npt.ArrayLike) -> FloatArray:
        """(resamples, ...) bootstrap draws of `value`."""
        index = np.asarray(rows, dtype=np.intp)
        first, second = self.mean_draws[0][:, index[0]], self.mean_draws[1][:, index[1]]
        return np.asarray(self.shares[0] * first + self.shares[1] * second)


def score_halves(run: Run, rows: pd.DataFrame, resamples: int, seed: int) -> SplitScores:
    """Score rows on two halves of the test units; the split is random but always the same.

    Parameters
    ----------
    run: the run that the rows belong to.
    rows: rows with artifacts of one kind.
    resamples: number of bootstrap draws.
    seed: seed of the draws; the split does not depend on it.

    Raises
    ------
    RunError: if artifacts are missing or damaged, or there are fewer than 2 units.
    """
    references = rows["artifact"].to_numpy(dtype=str)
    distinct, inverse = np.unique(references, return_inverse=True)
    first_row = np.zeros(distinct.size, dtype=np.intp)
    first_row[inverse] = np.arange(len(rows))
    values = rows["value"].to_numpy(dtype=np.float64)[first_row]
    scores = _unit_scores(run, distinct.tolist(), values)
    n = scores.shape[1]
    if n < 2:
        raise RunError(f"{run.path} has {n} test sample; two halves need at least 2")
    order = np.random.default_rng(n).permutation(n)
    halves = (np.sort(order[: n // 2]), np.sort(order[n // 2 :]))
    half_scores = [scores[:, half] for half in halves]
    # Equal seeds and sizes give equal draws; the halves must not share theirs.
    mean_draws = [
        resampled_means(part, resamples, seed=2 * seed + i) for i, part in enumerate(half_scores)
    ]
    return SplitScores(
        shares=np.array([half.size / n for half in halves]),
        means=np.stack([part.mean(axis=1)[inverse] for part in half_scores]),
        mean_draws=np.stack([draws[:, inverse] for draws in mean_draws]),
    )


def _unit_scores(run: Run, references: list[str], values: FloatArray) -> npt.NDArray[np.generic]:
    """(n_rows, n_units) scores whose mean over units is the row's value."""
    artifacts = run.artifacts(references)
    kind = references[0].partition("/")[0]
    if kind == "predictions":
        return is_correct(run, artifacts)
    if kind == "scores":
        return np.asarray(artifacts, dtype=np.float64)
    # Pseudo-values: the influence of each block in the infinitesimal jackknife, scaled as in
    # `bootstrap.resampled_replicates`, around the value on all samples.
    n_blocks = artifacts.shape[1]
    influence = artifacts.mean(axis=1, keepdims=True) - artifacts
    return np.asarray(values[:, None] + influence * np.sqrt(n_blocks * (n_blocks - 1)))
