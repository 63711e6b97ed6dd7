"""Scores of a run's rows, test unit by test unit, so that test data can be split and resampled.

A unit is a test sample where predictions or scores were kept, a block of samples where
replicates were; in both cases a row's value is the mean over its units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import resampled_means
from criticalmass.core.moments import FloatArray
from criticalmass.errors import RunError
from criticalmass.storage.run import Run


@dataclass(frozen=True, eq=False)
class Halves:
    """The scores of some rows on two disjoint halves of the test units.

    Attributes
    ----------
    shares: (2,) share of the units in each half.
    means: (2, n_rows) value of every row on each half.
    drawn: (2, resamples, n_rows) the same on resamples within each half, all rows on the same
        ones; the halves are resampled apart.
    """

    shares: FloatArray
    means: FloatArray
    drawn: FloatArray

    def value(self, rows: npt.ArrayLike) -> FloatArray:
        """Value where half h is scored by row ``rows[h]``; with one row for both, that row's.

        Parameters
        ----------
        rows: (2, ...) positions of rows.
        """
        at = np.asarray(rows, dtype=np.intp)
        return np.asarray(
            self.shares[0] * self.means[0][at[0]] + self.shares[1] * self.means[1][at[1]]
        )

    def draws(self, rows: npt.ArrayLike) -> FloatArray:
        """(resamples, ...) of `value` on the resamples."""
        at = np.asarray(rows, dtype=np.intp)
        one, two = self.drawn[0][:, at[0]], self.drawn[1][:, at[1]]
        return np.asarray(self.shares[0] * one + self.shares[1] * two)


def halves_of(run: Run, rows: pd.DataFrame, resamples: int, seed: int) -> Halves:
    """Score rows on two halves of the test units, dealt at random by a fixed seed.

    Parameters
    ----------
    run: the run that the rows are of.
    rows: with artifacts of one kind.
    resamples: bootstrap draws.
    seed: fixes the draws; the halves are the same for all seeds.

    Raises
    ------
    RunError: if what was kept is missing, damaged, or too little to be halved.
    """
    references = rows["artifact"].to_numpy(dtype=str)
    distinct, inverse = np.unique(references, return_inverse=True)
    first = np.zeros(distinct.size, dtype=np.intp)
    first[inverse] = np.arange(len(rows))
    values = rows["value"].to_numpy(dtype=np.float64)[first]
    scores = _unit_scores(run, distinct.tolist(), values)
    n = scores.shape[1]
    if n < 2:
        raise RunError(f"{run.path} has {n} test sample; two halves need at least 2")
    dealt = np.random.default_rng(n).permutation(n)
    parts = (np.sort(dealt[: n // 2]), np.sort(dealt[n // 2 :]))
    pieces = [scores[:, part] for part in parts]
    # Equal seeds and sizes give equal draws, and the halves must not share theirs.
    drawn = [resampled_means(p, resamples, seed=2 * seed + h) for h, p in enumerate(pieces)]
    return Halves(
        shares=np.array([part.size / n for part in parts]),
        means=np.stack([piece.mean(axis=1)[inverse] for piece in pieces]),
        drawn=np.stack([draw[:, inverse] for draw in drawn]),
    )


def _unit_scores(run: Run, references: list[str], values: FloatArray) -> npt.NDArray[np.generic]:
    """(n_rows, n_units) scores whose mean over units is the row's value."""
    kept = run.artifacts(references)
    kind = references[0].partition("/")[0]
    if kind == "predictions":
        labels = run.labels()
        if kept.shape[1:] != labels.shape:
            raise RunError(
                f"{run.path} has {labels.size} labels but predictions of {kept.shape[1]} test "
                "samples; sweep again"
            )
        return np.asarray(kept == labels)
    if kind == "scores":
        return np.asarray(kept, dtype=np.float64)
    # Pseudo-values: the infinitesimal jackknife's influence of each block, scaled as in
    # `bootstrap.resampled_replicates`, around the value on all samples.
    n_blocks = kept.shape[1]
    influence = kept.mean(axis=1, keepdims=True) - kept
    return np.asarray(values[:, None] + influence * np.sqrt(n_blocks * (n_blocks - 1)))
