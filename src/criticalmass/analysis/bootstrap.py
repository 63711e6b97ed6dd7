"""Hierarchical bootstrap over seeds and test samples.

Seeds and test samples are drawn with replacement. A draw of test samples is a vector of counts,
so the means of all rows on all draws are one matrix product and no sample is copied.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from threading import Lock

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray
from criticalmass.core.quantiles import normal_quantile, student_quantile

# Entries of one block of counts; with its integer intermediates a block takes less than 100 MB.
_BLOCK_ENTRIES = 4_000_000
# Counts of up to 100 MB are cached: every layer of a run uses the same ones.
_CACHED_ENTRIES = 25_000_000
_COUNTED_ENTRIES = 1 << 16
_CACHE_LOCK = Lock()
_Counts = npt.NDArray[np.float32]


def resampled_means(
    scores: npt.NDArray[np.generic],
    resamples: int,
    *,
    seed: int,
    block_entries: int = _BLOCK_ENTRIES,
) -> FloatArray:
    """Compute the mean score of every row on resampled test samples.

    Parameters
    ----------
    scores: (n_rows, n_test) score of every test sample; booleans for right or wrong.
    resamples: number of draws.
    seed: seed of the draws. Calls with the same seed, ``resamples`` and ``n_test`` use the same
        draws, so layers, measures and selectors are compared on the same test samples.
    block_entries: size of a work array of counts; it limits memory and does not change the result.

    Returns
    -------
    (resamples, n_rows) means; all rows of a draw use the same samples.
    """
    n_rows, n_test = scores.shape
    means = np.empty((resamples, n_rows))
    block_rows = max(1, 4 * block_entries // n_test)
    if n_rows <= block_rows:
        scores = scores.astype(np.float32)
    for start, counts in _counts(n_test, resamples, seed, block_entries):
        for first in range(0, n_rows, block_rows):
            # Counts times booleans are whole numbers below 2^24: exact in single precision.
            block = scores[first : first + block_rows].astype(np.float32, copy=False)
            means[start : start + len(counts), first : first + block_rows] = counts @ block.T
    return np.asarray(means / n_test)


def with_discordant_samples(
    scores: npt.NDArray[np.float32], is_full: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Add two samples on which the whole layer and the subsets differ, one in favour of each.

    A subset that keeps nearly all of the accuracy differs from the whole layer on few samples.
    Where few of 100 are seen, the difference is too small and its interval too short, both at
    once. Half a sample more of either kind repairs that (Agresti and Min 2005, Simple improved
    confidence intervals for comparing matched proportions). Here a difference of sqrt(1/2) on a
    whole sample has the variance of half a sample.

    Parameters
    ----------
    scores: (n_rows, n_test) right or wrong.
    is_full: (n_rows,) marks the rows of the whole layer.

    Returns
    -------
    (n_rows, n_test + 2) scores.
    """
    share = np.where(is_full, 0.5 + np.sqrt(0.125), 0.5 - np.sqrt(0.125)).astype(np.float32)
    return np.hstack([scores, share[:, None], 1.0 - share[:, None]])


def resampled_replicates(
    values: FloatArray, replicates: FloatArray, resamples: int, *, seed: int, level: float
) -> FloatArray:
    """Resample a measure that is not a mean over samples, from its delete-a-block values.

    The measure is treated as linear in the counts of the blocks (infinitesimal jackknife, Efron
    and Tibshirani 1993, ch. 21). The draws are scaled to the variance of the delete-one
    jackknife, (B - 1)/B sum (value_b - mean)^2, and stretched by the ratio of Student's quantile
    with B - 1 degrees of freedom to the normal one, because B values estimate it.

    Parameters
    ----------
    values: (n_rows,) the measure on all samples.
    replicates: (n_rows, n_blocks) the measure without block b, at least 2 blocks.
    resamples: number of draws.
    seed: seed of the draws, as in `resampled_means`.
    level: confidence level of the interval.

    Returns
    -------
    (resamples, n_rows) values.
    """
    n_blocks = replicates.shape[1]
    influence = replicates.mean(axis=1, keepdims=True) - replicates
    influence *= np.sqrt((n_blocks - 1) / n_blocks) * student_ratio(n_blocks - 1, level)
    changes = np.empty((resamples, len(values)))
    for start, counts in _counts(n_blocks, resamples, seed, _BLOCK_ENTRIES):
        changes[start : start + len(counts)] = counts.astype(np.float64) @ influence.T
    return changes + values


def selector_rng(seed: int, model: str, layer: str, selector: str) -> np.random.Generator:
    """Return the generator that draws the seeds of a selector.

    It does not depend on the measure: all measures of the same subsets draw the same seeds.
    """
    return np.random.default_rng([seed, zlib.crc32(f"{model}/{layer}/{selector}".encode())])


def seed_counts(n_seeds: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draw the seeds with replacement: (resamples, n_seeds) number of times each is drawn."""
    return rng.multinomial(n_seeds, np.full(n_seeds, 1.0 / n_seeds), resamples).astype(np.float64)


@dataclass(frozen=True, eq=False)
class SubsetNoise:
    """How the mean over seeds scatters, where the spread of the subsets is known.

    Attributes
    ----------
    std: (n_sizes,) standard deviation of single subsets on the run's test samples.
    normals: (resamples, n_sizes) standard normal draws, see `nested_normals`.
    is_mean: whether values are means over test samples, so that ``std`` has the responses of
        single subsets to the samples in it, which the draws of samples have too. CKA is no mean:
        its spread hardly depends on the number of samples (mean over layers of
        `benchmarks.designs` at 4 of 40 neurons: .105 on 30 rows, .098 on 100, .095 on all).
    """

    std: FloatArray
    normals: FloatArray
    is_mean: bool

    def changes(self, size: int, n_seeds: int, explained: float) -> FloatArray:
        """(resamples,) changes of the mean over seeds of one size.

        ``explained`` is the variance of a seed that the test samples explain.
        """
        counted_twice = explained if self.is_mean else 0.0
        variance = max(0.0, float(self.std[size]) ** 2 - counted_twice) / n_seeds
        return np.asarray(np.sqrt(variance) * self.normals[:, size])


def nested_normals(
    sizes: npt.NDArray[np.int64], n_neurons: int, resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Draw standard normal values that are correlated as means over nested random subsets are.

    The sums over the first k of d values in random order have the correlation
    sqrt(k (d - l) / (l (d - k))) for k < l, that of a Brownian motion at the times k / (d - k)
    over its standard deviation. It is exact for a value that is linear in the neurons, one that
    a single neuron decides included.

    Parameters
    ----------
    sizes: (n_sizes,) ascending.
    n_neurons: size of the whole layer, whose value has no spread.
    resamples: number of draws.
    rng: the generator.

    Returns
    -------
    (resamples, n_sizes) values.
    """
    k = np.minimum(sizes.astype(np.float64), n_neurons - 0.5)
    times = k / (n_neurons - k)
    steps = np.sqrt(np.diff(times, prepend=0.0)) * rng.standard_normal((resamples, sizes.size))
    return np.asarray(np.cumsum(steps, axis=1) / np.sqrt(times))


def averaged_over_seeds(
    draws: FloatArray,
    row_index: npt.NDArray[np.intp],
    counts: FloatArray,
    level: float,
    noise: SubsetNoise | None = None,
) -> FloatArray:
    """Average draws over the drawn seeds, size by size.

    A draw is the mean over all seeds on the test samples of that draw, plus the deviation of the
    drawn seeds on all test samples. Seeds and samples are crossed, and a seed's own response to a
    sample counts both in the spread between seeds and in the spread over samples. Resampling
    both at once would count it three times (Owen 2007, The pigeonhole bootstrap). Therefore the
    deviations of the seeds are shrunk to the part of their spread that the test samples do not
    explain, a variance component.

    A few seeds, drawn with replacement, show too little spread. Their deviations are stretched by
    sqrt(S/(S-1)) t/z, as in the expanded percentile interval of Hesterberg (2015), where t and z
    are the quantiles of Student's and of the normal distribution at ``level``.

    Parameters
    ----------
    draws: (resamples, n_rows) draws of every row.
    row_index: (n_sizes, n_seeds) row of each size and seed; -1 if there is no row.
    counts: (resamples, n_seeds) number of times a seed is drawn. All sizes use the same counts,
        because the subsets of a seed are nested.
    level: confidence level of the interval.
    noise: the spread of the subsets, where it is known; it takes the place of the drawn seeds.

    Returns
    -------
    (resamples, n_sizes) means over seeds.
    """
    means = np.empty((len(draws), len(row_index)))
    for size, rows in enumerate(row_index):
        has_row = rows >= 0
        values = draws[:, rows[has_row]]
        centre = values.mean(axis=0)
        deviation = centre - centre.mean()
        shares = values - values.mean(axis=1, keepdims=True) - deviation
        explained = float(np.sum(shares**2)) / len(draws)
        means[:, size] = values.mean(axis=1) + _seed_changes(
            deviation, explained, counts[:, has_row], level, noise, size
        )
    return means


def _seed_changes(
    deviation: FloatArray,
    explained: float,
    counts: FloatArray,
    level: float,
    noise: SubsetNoise | None,
    size: int,
) -> FloatArray:
    """(resamples,) changes of the mean over seeds of one size, by drawing seeds.

    ``deviation`` (n_seeds,) are the means of the seeds less their mean. ``explained`` is the sum
    of the variances of ``deviation`` that the test samples explain.
    """
    n_seeds = deviation.size
    if noise is not None and n_seeds > 1:
        return noise.changes(size, n_seeds, explained / (n_seeds - 1))
    between = float(deviation @ deviation)
    share = min(1.0, explained / between) if between else 1.0
    scale = _stretch(n_seeds, level) * np.sqrt(1.0 - share)
    return np.asarray(_excess_share(counts) @ (scale * deviation))


def averaged_scores(
    scores: npt.NDArray[np.float32],
    row_index: list[npt.NDArray[np.intp]],
    mean_draws: FloatArray,
    counts: FloatArray,
    level: float,
    noise: SubsetNoise | None = None,
) -> FloatArray:
    """Do what `averaged_over_seeds` does for scores whose mean over seeds was resampled.

    The result is the same up to the noise of the draws: the share of the variance between seeds
    that the test samples explain is computed and not drawn. The mean of n resampled scores g has
    the variance var(g)/n.

    Parameters
    ----------
    scores: (n_rows, n_test) score of every test sample.
    row_index: for each size the row of every seed, (n_seeds,); -1 if there is no row.
    mean_draws: (resamples, n_sizes) draws of the mean over the seeds of a size.
    counts, level, noise: as in `averaged_over_seeds`.

    Returns
    -------
    (resamples, n_sizes) means over seeds.
    """
    means = np.empty(mean_draws.shape)
    for size, rows in enumerate(row_index):
        has_row = rows >= 0
        values = scores[rows[has_row]].astype(np.float64)
        seed_means = values.mean(axis=1)
        deviation = seed_means - seed_means.mean()
        centred = np.subtract(values, seed_means[:, None], out=values)
        explained = _deviation_variance(centred) / values.shape[1]
        means[:, size] = mean_draws[:, size] + _seed_changes(
            deviation, explained, counts[:, has_row], level, noise, size
        )
    return means


def _deviation_variance(centred: FloatArray) -> float:
    """Sum over seeds of the variance of a seed's scores minus the mean score of the seeds.

    ``centred`` (n_seeds, n_test) has rows of mean 0, so sum_s var(g_s - mean_s g) equals
    sum_s mean(g_s^2) - mean((sum_s g_s)^2) / n_seeds. This form needs no second array.
    """
    flat, total = centred.ravel(), centred.sum(axis=0)
    squares: float = float(flat @ flat) - float(total @ total) / len(centred)
    return max(0.0, squares) / float(centred.shape[1])


def _excess_share(counts: FloatArray) -> FloatArray:
    """(resamples, n_seeds) share of each seed in a draw minus its equal share 1/n_seeds."""
    equal = 1.0 / counts.shape[1]
    total = counts.sum(axis=1, keepdims=True)
    # If a draw contains none of the seeds that have this size, all of them count equally.
    share = np.where(total > 0.0, counts / np.maximum(total, 1.0), equal)
    return np.asarray(share - equal)


def student_ratio(freedom: int, level: float) -> float:
    """Ratio of Student's quantile to the normal one at the ends of an interval."""
    upper = (1.0 + level) / 2.0
    return student_quantile(freedom, upper) / normal_quantile(upper)


@cache
def _stretch(n_seeds: int, level: float) -> float:
    """Factor on the deviations of a few seeds; 1 for a single seed."""
    if n_seeds < 2:
        return 1.0
    return float(np.sqrt(n_seeds / (n_seeds - 1))) * student_ratio(n_seeds - 1, level)


def _counts(n: int, resamples: int, seed: int, block_entries: int) -> Iterator[tuple[int, _Counts]]:
    """Yield (first draw, counts (n_draws, n)) of drawing n of n with replacement."""
    if n * resamples > _CACHED_ENTRIES:
        yield from _draw_counts(n, resamples, seed, block_entries)
        return
    # Layers are resampled in parallel; the first one draws and the others wait for the cache.
    with _CACHE_LOCK:
        blocks = _cached_counts(n, resamples, seed, block_entries)
    yield from blocks


@lru_cache(maxsize=2)
def _cached_counts(
    n: int, resamples: int, seed: int, block_entries: int
) -> tuple[tuple[int, _Counts], ...]:
    """Cache the counts: the next layer has the same test samples and uses the same draws."""
    return tuple(_draw_counts(n, resamples, seed, block_entries))


def _draw_counts(
    n: int, resamples: int, seed: int, block_entries: int
) -> Iterator[tuple[int, _Counts]]:
    rng = np.random.default_rng([seed, n])
    step = max(1, min(resamples, block_entries // n))
    for start in range(0, resamples, step):
        yield start, counts_with_replacement(n, min(step, resamples - start), rng)


def counts_with_replacement(n: int, n_draws: int, rng: np.random.Generator) -> _Counts:
    """(n_draws, n) number of times each of n samples occurs among n drawn with replacement."""
    counts = np.empty((n_draws, n), dtype=np.float32)
    # Few draws at a time, so that their counts stay in the cache; the generator does not notice.
    step = max(1, _COUNTED_ENTRIES // n)
    for start in range(0, n_draws, step):
        part = counts[start : start + step]
        indices = rng.integers(0, n, size=part.shape, dtype=np.int32)
        indices += np.arange(0, part.size, n, dtype=np.int32)[:, None]
        part[:] = np.bincount(indices.ravel(), minlength=part.size).reshape(part.shape)
    return counts
