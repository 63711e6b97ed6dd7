"""Resampling of seeds and test samples, by counts instead of copies.

The hierarchical bootstrap draws seeds and test samples with replacement. A draw of test
samples is a vector of counts, so all draws of all rows are one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from threading import Lock

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray

# Entries of one work array of counts; with its integer twins a pass stays below 100 MB.
_ENTRIES = 4_000_000
# Draws of at most 100 MB are kept: every layer of a run asks for the same.
_KEPT_ENTRIES = 25_000_000
_DRAWING = Lock()
_Counts = npt.NDArray[np.float32]


def resampled_means(scores: npt.NDArray[np.generic], resamples: int, *, seed: int) -> FloatArray:
    """Mean score of every row on resampled test samples; all rows see the same samples.

    Parameters
    ----------
    scores: (n_rows, n_test) score of every test sample; booleans for hit or miss.
    resamples: number of draws.
    seed: fixes the draws. Equal seeds and ``n_test`` give equal draws, so that layers,
        measures and selectors are compared on the same test samples.

    Returns
    -------
    (resamples, n_rows) means.
    """
    n_rows, n_test = scores.shape
    means = np.empty((resamples, n_rows))
    rows = max(1, 4 * _ENTRIES // n_test)
    if n_rows <= rows:
        scores = scores.astype(np.float32)
    for start, counts in _counts(n_test, resamples, seed):
        for a in range(0, n_rows, rows):
            # Counts times hits are whole numbers below 2^24: exact in single precision.
            block = scores[a : a + rows].astype(np.float32, copy=False)
            means[start : start + len(counts), a : a + rows] = counts @ block.T
    return np.asarray(means / n_test)


def resampled_replicates(
    values: FloatArray, replicates: FloatArray, resamples: int, *, seed: int
) -> FloatArray:
    """Resample a measure that is no mean, from its values with one block of samples left out.

    The measure is taken as linear in the blocks' counts (infinitesimal jackknife, Efron and
    Tibshirani 1993, ch. 21). The scale is such that the draws have the variance of the
    delete-one jackknife, (B - 1)/B sum (value_b - mean)^2.

    Parameters
    ----------
    values: (n_rows,) the measure on all samples.
    replicates: (n_rows, n_blocks) the measure without block b, at least 2 blocks.
    resamples: number of draws.
    seed: fixes the draws, as in `resampled_means`.

    Returns
    -------
    (resamples, n_rows) values.
    """
    n_blocks = replicates.shape[1]
    influence = replicates.mean(axis=1, keepdims=True) - replicates
    influence *= np.sqrt((n_blocks - 1) / n_blocks)
    drawn = np.empty((resamples, len(values)))
    for start, counts in _counts(n_blocks, resamples, seed):
        drawn[start : start + len(counts)] = counts.astype(np.float64) @ influence.T
    return drawn + values


def seed_counts(n_seeds: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """(resamples, n_seeds) how often every seed is drawn."""
    return rng.multinomial(n_seeds, np.full(n_seeds, 1.0 / n_seeds), resamples).astype(np.float64)


def averaged_over_seeds(
    drawn: FloatArray, columns: npt.NDArray[np.intp], counts: FloatArray, level: float
) -> FloatArray:
    """Average draws over drawn seeds, size by size.

    A draw is the mean over all seeds on that draw's test samples, plus the deviation that
    the drawn seeds have on all test samples. Seeds and samples are crossed, and what is
    peculiar to a seed on a sample shows up twice: in the spread between seeds and in that
    over samples. Resampling both at once counts it three times (Owen 2007, The pigeonhole
    bootstrap), so the seeds' deviations are shrunk to the spread that the test samples do
    not explain, a variance component (`_explained`).

    A handful of seeds, drawn with replacement, shows too little spread: their deviations
    are stretched by sqrt(S/(S-1)) t/z, as in Hesterberg's (2015) expanded percentile
    interval, with t and z the quantiles of Student's and the normal law at ``level``.

    Parameters
    ----------
    drawn: (resamples, n_rows) draws of every row.
    columns: (n_sizes, n_seeds) which row belongs to a size and seed; -1 where none does.
    counts: (resamples, n_seeds) how often a seed is drawn, the same for all sizes, whose
        subsets are nested.
    level: of the interval.

    Returns
    -------
    (resamples, n_sizes) means over seeds.
    """
    means = np.empty((len(drawn), len(columns)))
    for size, rows in enumerate(columns):
        there = rows >= 0
        mine = drawn[:, rows[there]]
        deviation = mine.mean(axis=0) - mine.mean()
        deviation *= _stretch(mine.shape[1], level) * np.sqrt(1.0 - _explained(mine))
        means[:, size] = mine.mean(axis=1) + _uneven(counts[:, there]) @ deviation
    return means


def averaged_scores(
    scores: npt.NDArray[np.float32],
    groups: list[npt.NDArray[np.intp]],
    drawn: FloatArray,
    counts: FloatArray,
    level: float,
) -> FloatArray:
    """As `averaged_over_seeds`, for rows that are means of scores, without drawing every row.

    The mean over seeds is drawn as one row; how much the test samples explain of the spread
    between seeds is computed instead of drawn: resampling n samples gives the mean of scores g
    the variance var(g)/n.

    Parameters
    ----------
    scores: (n_rows, n_test) score of every test sample.
    groups: per size the row of every seed, (n_seeds,); -1 where there is none.
    drawn: (resamples, n_sizes) draws of the mean over the seeds of a size.
    counts, level: as in `averaged_over_seeds`.

    Returns
    -------
    (resamples, n_sizes) means over seeds.
    """
    means = np.empty(drawn.shape)
    for size, rows in enumerate(groups):
        there = rows >= 0
        mine = scores[rows[there]].astype(np.float64)
        own = mine.mean(axis=1)
        deviation = own - own.mean()
        between = float(deviation @ deviation)
        moved = _moved(np.subtract(mine, own[:, None], out=mine)) / mine.shape[1]
        explained = min(1.0, moved / between) if between else 1.0
        deviation *= _stretch(len(own), level) * np.sqrt(1.0 - explained)
        means[:, size] = drawn[:, size] + _uneven(counts[:, there]) @ deviation
    return means


def _moved(centred: FloatArray) -> float:
    """Sum over seeds of the variance of a seed's scores less the seeds' mean score.

    ``centred`` (n_seeds, n_test) has rows of mean 0, so sum_s var(g_s - mean_s g) is
    sum_s mean(g_s^2) - mean((sum_s g_s)^2) / n_seeds: no array of that size is made.
    """
    flat, together = centred.ravel(), centred.sum(axis=0)
    summed: float = float(flat @ flat) - float(together @ together) / len(centred)
    return max(0.0, summed) / float(centred.shape[1])


def _uneven(counts: FloatArray) -> FloatArray:
    """(resamples, n_seeds) by how much the share of a seed in a draw differs from an even one."""
    even = 1.0 / counts.shape[1]
    total = counts.sum(axis=1, keepdims=True)
    # A draw that holds none of the seeds which have this size falls back on all of them.
    share = np.where(total > 0.0, counts / np.maximum(total, 1.0), even)
    return np.asarray(share - even)


def _explained(drawn: FloatArray) -> float:
    """Share of the variance between seeds that their test samples explain, in [0, 1].

    ``drawn`` (resamples, n_seeds): how much the seeds' differences move from one draw of
    test samples to the next, over how much they differ.
    """
    centre = drawn.mean(axis=0)
    between = float(np.sum((centre - centre.mean()) ** 2))
    if between == 0.0:
        return 1.0
    moved = drawn - drawn.mean(axis=1, keepdims=True) - (centre - centre.mean())
    return min(1.0, float(np.sum(moved**2)) / len(drawn) / between)


@cache
def _stretch(n_seeds: int, level: float) -> float:
    """How much the deviations of a few seeds are stretched; 1 seed has none."""
    if n_seeds < 2:
        return 1.0
    from scipy.special import ndtri, stdtrit

    upper = (1.0 + level) / 2.0
    ratio = stdtrit(n_seeds - 1, upper) / ndtri(upper)
    return float(np.sqrt(n_seeds / (n_seeds - 1)) * ratio)


def _counts(n: int, resamples: int, seed: int) -> Iterator[tuple[int, _Counts]]:
    """Yield (first draw, counts (draws, n)) of drawing n of n with replacement."""
    if n * resamples > _KEPT_ENTRIES:
        yield from _drawn(n, resamples, seed)
        return
    # Layers that are resampled side by side wait for the first to draw.
    with _DRAWING:
        kept = _kept(n, resamples, seed)
    yield from kept


@lru_cache(maxsize=2)
def _kept(n: int, resamples: int, seed: int) -> tuple[tuple[int, _Counts], ...]:
    """Keep the draws that the next layer, of the same test samples, asks for again."""
    return tuple(_drawn(n, resamples, seed))


def _drawn(n: int, resamples: int, seed: int) -> Iterator[tuple[int, _Counts]]:
    rng = np.random.default_rng([seed, n])
    step = max(1, min(resamples, _ENTRIES // n))
    for start in range(0, resamples, step):
        draws = min(step, resamples - start)
        picked = rng.integers(0, n, size=(draws, n), dtype=np.int32).astype(np.intp)
        picked += np.arange(0, draws * n, n)[:, None]
        flat = np.bincount(picked.ravel(), minlength=draws * n)
        yield start, flat.reshape(draws, n).astype(np.float32)
