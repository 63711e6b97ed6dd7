"""Differences between trained networks, paired by training seed, with their intervals.

Of one pair of networks, the difference of ln k* scatters because another training seed gives
other networks, and because few subsets and test samples measured it. All that is independent from
one training seed to the next is in the variance s^2 between the pairs. What the training seeds
share is not: all of them are scored on the same test samples, and by the same permutations of
neurons, which matter where training gives a neuron its place (Matryoshka, nested dropout). The
variance of the mean over T pairs is therefore s^2/T plus the mean covariance of two pairs, of
which the part of the samples comes from bootstrap draws with common samples and the part of the
subsets from the jackknife over common subset seeds.

With three pairs s^2 has two degrees of freedom, so it is sometimes tiny by chance: three pairs may
agree to a percent although each of their critical masses is known to ten. But the mean over pairs
cannot be known better than these very networks were measured. That error is estimated without the
pairs: the variance of the mean itself over bootstrap draws of the test samples, plus its jackknife
over subset seeds. It has what the training seeds share and the independent rest, and of both it is
a lower bound, since networks differ as well. The interval is therefore the wider of two: that of
Student between the pairs, and that of the measurement alone, which is right if the networks of all
training seeds are equal. In the meta-analysis of a few studies the same is done to the interval of
Hartung and Knapp (Knapp and Hartung 2003, Statistics in Medicine 22, 2693-2710; Roever, Knapp and
Friede 2015, BMC Medical Research Methodology 15:99). Being wider than Student's, it covers as often
or more often. The scatter of single subsets on single test samples is in both of its variances, and
so counted twice: in benchmarks/training_seeds.py, with 500 test samples, its standard error is a
tenth too large.

The critical value is that of Cochran (1964, Approximate significance levels of the Behrens-Fisher
test, Biometrics 20, 191-195): the mean of the quantiles of Student's distribution with the degrees
of freedom of the parts, weighted by their variances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import FEWEST_SEEDS, Draws
from criticalmass.analysis.curves import draw_rows
from criticalmass.analysis.estimators import DEFAULT_ESTIMATOR, critical_size, reaches
from criticalmass.core.moments import FloatArray
from criticalmass.storage.run import Run

#: Fewer pairs of training seeds have no interval.
FEWEST_PAIRS = 3


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number that one network, or one pair of networks, was measured to have.

    Attributes
    ----------
    value: the number. A critical mass is infinite if the whole layer misses the value to reach;
        a difference of two such ones is NaN, and one of one such is the bound that is known.
    lowest, highest: the range that the tested sizes leave open; ``value`` where they do not.
    draws: (resamples,) on resampled test samples. A draw that misses the value to reach has the
        critical mass of the whole layer.
    without: subset seed -> without the subsets of this seed, likewise.
    """

    value: float
    lowest: float
    highest: float
    draws: FloatArray
    without: Mapping[int, float]

    def log(self) -> Estimate:
        """Return the natural logarithm."""
        without = {seed: float(np.log(value)) for seed, value in self.without.items()}
        value, lowest, highest = (float(np.log(x)) for x in (self.value, self.lowest, self.highest))
        return Estimate(value, lowest, highest, np.log(self.draws), without)

    def redundancy(self, n_neurons: int) -> Estimate:
        """Return DR for a critical mass: one less its share of the neurons."""

        def share(size: float) -> float:
            return 1.0 - size / n_neurons

        without = {seed: share(size) for seed, size in self.without.items()}
        lowest, highest = share(self.highest), share(self.lowest)
        return Estimate(share(self.value), lowest, highest, 1.0 - self.draws / n_neurons, without)

    def minus(self, other: Estimate) -> Estimate:
        """Return the difference, with the common subset seeds; a bound where one is infinite."""
        lowest, highest = self.lowest - other.highest, self.highest - other.lowest
        if np.isinf(self.value):
            value = np.nan if np.isinf(other.value) else lowest
        else:
            value = highest if np.isinf(other.value) else self.value - other.value
        return Estimate(
            value=value,
            lowest=lowest,
            highest=highest,
            draws=self.draws - other.draws,
            without={
                seed: self.without[seed] - other.without[seed]
                for seed in sorted(self.without.keys() & other.without.keys())
            },
        )


@dataclass(frozen=True, eq=False)
class NetworkCurve:
    """Mean value over subsets against size, of one network.

    Attributes
    ----------
    rows: the rows of the run's table, with those of the whole layer and the failed ones.
    sizes: (n_sizes,) neurons kept, ascending.
    values: (n_sizes, n_seeds) value of every subset; NaN where there is none.
    seeds: (n_seeds,) subset seeds.
    mean_draws: (resamples, n_sizes) mean over subsets on resampled test samples.
    full: value of the whole layer.
    full_draws: (resamples,) that on resampled test samples.
    n_neurons: size of the whole layer.
    """

    rows: pd.DataFrame
    sizes: npt.NDArray[np.int64]
    values: FloatArray
    seeds: npt.NDArray[np.int64]
    mean_draws: FloatArray
    full: float
    full_draws: FloatArray
    n_neurons: int

    @classmethod
    def of(cls, run: Run, rows: pd.DataFrame, draws: Draws) -> NetworkCurve | None:
        """Read one curve; None if no size below the whole layer or no whole layer has a value.

        Parameters
        ----------
        run: the run.
        rows: its rows of one layer, dataset, measure and selector, and of the whole layer.
        draws: settings of the bootstrap. Runs with equally many test samples draw the same ones.
        """
        used = rows[rows["status"] != "failed"]
        is_full = (used["selector"] == "full").to_numpy(dtype=bool)
        n_neurons = int(rows["n_neurons"].max())
        # Without a row of its own, the whole layer has the value that its subsets name.
        wholes = used.loc[is_full, "value"] if is_full.any() else used["value_full"].dropna()
        subsets = np.flatnonzero(~is_full)
        own = used.iloc[subsets]
        sizes, size_index = np.unique(own["n_kept"].to_numpy(np.int64), return_inverse=True)
        if not len(wholes) or not (sizes < n_neurons).any():
            return None
        seeds, seed_index = np.unique(own["seed"].to_numpy(np.int64), return_inverse=True)
        grid = np.full((sizes.size, seeds.size), np.nan)
        grid[size_index, seed_index] = own["value"].to_numpy(np.float64)
        row_draws = draw_rows(run, used, draws)
        mean_draws = [row_draws[:, subsets[size_index == i]].mean(axis=1) for i in range(len(grid))]
        full = float(wholes.mean())
        full_draws = np.full(draws.resamples, full)
        if is_full.any():
            full_draws = row_draws[:, is_full].mean(axis=1)
        return cls(
            rows=rows,
            sizes=sizes,
            values=grid,
            seeds=seeds,
            mean_draws=np.stack(mean_draws, axis=1),
            full=full,
            full_draws=full_draws,
            n_neurons=n_neurons,
        )

    @cached_property
    def mean(self) -> FloatArray:
        """(n_sizes,) mean over subsets."""
        return np.asarray(np.nanmean(self.values, axis=1))

    @cached_property
    def means_without(self) -> FloatArray:
        """(n_seeds, n_sizes) mean without one subset seed; with it where a size has no other."""
        rows = []
        for seed in range(self.seeds.size):
            others = np.delete(self.values, seed, axis=1)
            counts = np.sum(~np.isnan(others), axis=1)
            means = np.nansum(others, axis=1) / np.maximum(counts, 1)
            rows.append(np.where(counts > 0, means, self.mean))
        return np.stack(rows)

    @property
    def is_resampled(self) -> bool:
        """Whether the scores of the test samples were stored."""
        used = self.rows[self.rows["status"] != "failed"]
        return bool((used["artifact"].fillna("") != "").all())

    def mass(self, bar: float, bar_draws: FloatArray) -> Estimate:
        """Return the critical mass for a value to reach, in neurons and not rounded.

        Parameters
        ----------
        bar: value to reach.
        bar_draws: (resamples,) that on resampled test samples.
        """
        d, sizes = self.n_neurons, self.sizes
        estimate = float(self._crossing(self.mean[None], np.array([bar]))[0])
        is_below = sizes < d
        passes = reaches(self.mean[is_below], np.array(bar), 1.0)
        lowest = highest = estimate
        if not passes.any():
            lowest = float(sizes[is_below][-1] + 1)
            if not reaches(np.array([self.full]), np.array(bar), 1.0).any():
                lowest, estimate, highest = float(d), np.inf, np.inf
        elif passes[0]:
            lowest = 1.0
        without: dict[int, float] = {}
        if self.seeds.size > 1:
            crossings = self._crossing(self.means_without, np.full(self.seeds.size, bar))
            without = dict(zip(self.seeds.tolist(), crossings.tolist(), strict=True))
        draws = self._crossing(self.mean_draws, bar_draws)
        return Estimate(estimate, lowest, highest, draws, without)

    def rows_behind(self, delta: float) -> pd.DataFrame:
        """Return the rows that the critical mass of a share depends on.

        They are those of the whole layer and of the two tested sizes on either side of the
        critical mass, through which the cubic goes.
        """
        passes = reaches(self.mean, np.array(delta * self.full), 1.0)
        right = int(np.argmax(passes)) if passes.any() else self.sizes.size
        around = self.sizes[max(right - 2, 0) : right + 2]
        return self.rows[(self.rows["selector"] == "full") | self.rows["n_kept"].isin(around)]

    def bar(self, delta: float) -> tuple[float, FloatArray]:
        """Return a share of this layer's own value, and that of each draw, (resamples,)."""
        return delta * self.full, delta * self.full_draws

    def _crossing(self, means: FloatArray, bars: FloatArray) -> FloatArray:
        sizes, d = self.sizes.astype(np.float64), float(self.n_neurons)
        return critical_size(sizes, means, bars, 1.0, DEFAULT_ESTIMATOR, d)


@dataclass(frozen=True)
class MeanInterval:
    """The mean of a difference over training seeds, with its interval.

    Attributes
    ----------
    value: the mean; NaN without a pair that has one.
    low, high: ends of the interval; NaN for fewer than `FEWEST_PAIRS` pairs. An end is infinite
        where a pair is not bounded on that side.
    bound: "" for a number, ">=" or "<=" if it is only bounded, "open" if it may be either way.
    p: two-sided p-value of no difference; NaN without an interval.
    std: standard deviation between pairs; NaN for one.
    shared_std: standard error of what the training seeds share: test samples and subsets.
    """

    value: float
    low: float
    high: float
    bound: str
    p: float
    std: float
    shared_std: float

    @classmethod
    def of(cls, pairs: Sequence[Estimate], level: float) -> MeanInterval:
        """Average the differences of the pairs of networks, one for each training seed."""
        values = np.array([pair.value for pair in pairs])
        std = float(values.std(ddof=1)) if len(pairs) > 1 else np.nan
        centre = float(values.mean()) if len(pairs) else np.nan
        variances = _Variances.of(pairs)
        shared_std = float(np.sqrt(_sum(variances.shared)))
        known = cls(centre, np.nan, np.nan, _bound(pairs), np.nan, std, shared_std)
        if len(pairs) < FEWEST_PAIRS:
            return known
        lowest, highest = ([getattr(p, name) for p in pairs] for name in ("lowest", "highest"))
        low, high = _End.of(lowest, variances), _End.of(highest, variances)
        p = 1.0
        if low.mean > 0.0 or low.mean == high.mean:
            p = low.p_value()
        elif high.mean < 0.0:
            p = high.p_value()
        ends = low.mean - low.half_width(level), high.mean + high.half_width(level)
        return replace(known, low=ends[0], high=ends[1], p=p)


@dataclass(frozen=True)
class _Part:
    """A part of the variance of a mean.

    Attributes
    ----------
    variance: the part. An estimated covariance may be negative; see `_sum`.
    freedom: degrees of freedom of its estimate; infinite for many.
    """

    variance: float
    freedom: float


@dataclass(frozen=True)
class _Error:
    """An error of a mean.

    Attributes
    ----------
    variance: its square.
    parts: what it is made of; those below 0 have no say in the critical value.
    """

    variance: float
    parts: tuple[_Part, ...]

    def reach(self, tail: float) -> float:
        """Return the distance beyond which lies ``tail``, by Cochran's critical value."""
        from scipy.special import ndtri, stdtrit

        parts = [part for part in self.parts if part.variance > 0.0]
        if not parts:
            return 0.0
        weighted = sum(
            part.variance
            * -(ndtri(tail) if np.isinf(part.freedom) else stdtrit(part.freedom, tail))
            for part in parts
        )
        return float(np.sqrt(self.variance) * weighted / _sum(parts))


@dataclass(frozen=True)
class _Variances:
    """Parts of the variance of the mean over pairs that draws and subsets show.

    Attributes
    ----------
    shared: what the variance between the pairs does not show: common test samples and subsets.
    measured: those of the mean over these very networks, shared or not.
    """

    shared: tuple[_Part, ...]
    measured: tuple[_Part, ...]

    @classmethod
    def of(cls, pairs: Sequence[Estimate]) -> _Variances:
        """Take them from bootstrap draws, and from the jackknife over common subset seeds."""
        if len(pairs) < 2:
            return cls((), ())
        tables = [(np.stack([pair.draws for pair in pairs]), 1.0 / len(pairs[0].draws), np.inf)]
        seeds = common_subset_seeds(pairs)
        if len(seeds) >= FEWEST_SEEDS:
            without = np.array([[pair.without[seed] for seed in seeds] for pair in pairs])
            tables.append((without, 1.0 - 1.0 / len(seeds), len(seeds) - 1.0))
        return cls(
            tuple(_Part(_mean_covariance(rows) * by, freedom) for rows, by, freedom in tables),
            tuple(_Part(_variation(rows.mean(axis=0)) * by, free) for rows, by, free in tables),
        )


@dataclass(frozen=True)
class _End:
    """The mean over training seeds of one end of the ranges that the tested sizes leave open.

    Attributes
    ----------
    mean: the mean; it may be infinite.
    errors: its error by the pairs and what they share, and that of the measurement alone. The
        larger one counts.
    """

    mean: float
    errors: tuple[_Error, ...]

    @classmethod
    def of(cls, values: Sequence[float], variances: _Variances) -> _End:
        """Average (n_pairs,) values."""
        if not np.isfinite(values).all():
            return cls(float(np.sum(values)), ())
        between = _Part(float(np.var(values, ddof=1)) / len(values), len(values) - 1.0)
        shared, measured = variances.shared, variances.measured
        by_pairs = _Error(between.variance + _sum(shared), (between, *shared))
        return cls(float(np.mean(values)), (by_pairs, _Error(_sum(measured), measured)))

    def half_width(self, level: float) -> float:
        """Return the half width of the interval."""
        return self._reach((1.0 - level) / 2.0)

    def p_value(self) -> float:
        """Return the two-sided p-value of a mean of 0: one less the level that just excludes it."""
        if self._reach(0.25) == 0.0:
            return float(self.mean == 0.0)
        low, high = 0.0, 0.5
        for _ in range(60):
            tail = 0.5 * (low + high)
            low, high = (low, tail) if self._reach(tail) < abs(self.mean) else (tail, high)
        return 2.0 * high

    def _reach(self, tail: float) -> float:
        return max((error.reach(tail) for error in self.errors), default=0.0)


def _sum(parts: Sequence[_Part]) -> float:
    """Sum of variances, 0 if it is negative.

    Not each part by itself: the covariance over a few subset seeds is as often too small as too
    large, and leaving out those below 0 alone would add to the variance on average.
    """
    return max(0.0, sum(part.variance for part in parts))


def common_subset_seeds(pairs: Sequence[Estimate]) -> list[int]:
    """Return the subset seeds that all networks of all pairs have."""
    return sorted(set.intersection(*(set(pair.without) for pair in pairs))) if pairs else []


def _mean_covariance(values: FloatArray) -> float:
    """Mean over pairs of rows of their sum of products around the mean."""
    n = len(values)
    total = _variation(values.sum(axis=0)) - sum(map(_variation, values))
    return total / (n * (n - 1))


def _variation(values: FloatArray) -> float:
    """Sum of squares around the mean."""
    return float(np.sum((values - values.mean()) ** 2))


def _bound(pairs: Sequence[Estimate]) -> str:
    """Return in which direction the pairs are only bounded."""
    is_less = any(np.isnan(pair.value) or pair.lowest < pair.value for pair in pairs)
    is_more = any(np.isnan(pair.value) or pair.highest > pair.value for pair in pairs)
    return {(False, False): "", (True, False): "<=", (False, True): ">="}.get(
        (is_less, is_more), "open"
    )
