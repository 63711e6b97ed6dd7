"""Intervals over training seeds: `python -m benchmarks.training_seeds`.

Every repetition trains two recipes again: simulated networks whose critical masses differ between
training seeds, measured by simulated probes on common test samples and subset seeds. It counts how
often the intervals hold the true mean over training seeds: of ln(k*/k* of the baseline), of the
same for the bar of the baseline, and of the difference in DR. See docs/coverage.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from benchmarks.timing import describe_machine, limit_to_one_thread, map_in_processes
from criticalmass.analysis.bootstrap import resampled_means
from criticalmass.analysis.columns import percentile_interval
from criticalmass.analysis.training_seed_intervals import MeanInterval, NetworkCurve

LEVEL, DELTA, RESAMPLES, D = 0.95, 0.9, 500, 512
#: Accuracy of the whole layer of the recipe and of the baseline, and exponent of the curves.
FULLS, EXPONENT = (0.88, 0.9), 0.7
#: ln(k*/k* of the baseline), and k* of the baseline for a scale of 1.
TRUTH = float(np.log(3.0))
SIZES = np.array([1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 150, 250, 400])
#: Shares of the variance of a right answer: the sample, the sample in one network, and the rest.
SAMPLE, NETWORK_SAMPLE = 0.4, 0.3
#: Standard deviation of ln k* that both networks of a pair share.
PAIR_SPREAD = 0.3
_Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """How networks, subsets and samples scatter.

    Attributes
    ----------
    between: standard deviation of ln k* of a recipe between training seeds.
    subsets: that of the probit of a subset's accuracy, apart in every network.
    order: the same, where the subsets of a seed are alike in all networks of the recipe.
    n_test: test samples.
    n_subsets: subset seeds.
    """

    between: float
    subsets: float = 0.15
    order: float = 0.0
    n_test: int = 500
    n_subsets: int = 5


CASES = {
    "networks that differ": Case(0.2),
    "networks that differ little": Case(0.03),
    "equal networks": Case(0.0),
    "equal networks, 3 subset seeds": Case(0.0, n_subsets=3),
    "ordered neurons": Case(0.1, order=0.15),
    "ordered neurons, 8 subset seeds": Case(0.1, order=0.15, n_subsets=8),
    "strongly ordered neurons": Case(0.1, order=0.4),
    "100 test samples": Case(0.1, n_test=100),
}


@dataclass(frozen=True, eq=False)
class Shared:
    """What all networks of one repetition have in common.

    Attributes
    ----------
    samples: (n_test,) difficulty of the test samples.
    order: (n_subsets,) shift of the subsets of one seed in an ordered layer.
    """

    samples: NDArray[np.float64]
    order: NDArray[np.float64]


def size_for(share: float) -> float:
    """Return the neurons that reach a share of the whole layer's accuracy, for a scale of 1."""
    return float((-np.log1p(-share)) ** (1.0 / EXPONENT))


def network(case: Case, rng: _Rng, shared: Shared, scale: float, full: float) -> NetworkCurve:
    """Measure one network, whose accuracy at k neurons is full (1 - exp(-(k / scale)^0.7)).

    A critical mass is ``scale`` times that of `size_for`.
    """
    accuracy = full * -np.expm1(-((SIZES / scale) ** EXPONENT))
    shift = case.subsets * rng.standard_normal(case.n_subsets) + shared.order
    difficulty = np.sqrt(SAMPLE) * shared.samples
    difficulty += np.sqrt(NETWORK_SAMPLE) * rng.standard_normal(case.n_test)
    rest = np.sqrt(1.0 - SAMPLE - NETWORK_SAMPLE)
    # The subsets of a seed are nested: one draw for each sample serves all sizes.
    own = difficulty + rest * rng.standard_normal((case.n_subsets, case.n_test))
    latent = own + shift[:, None]
    scale_up = np.sqrt(1.0 + case.subsets**2 + case.order**2)
    right = latent < scale_up * ndtri(accuracy)[:, None, None]
    whole = difficulty + rest * rng.standard_normal(case.n_test) < ndtri(full)
    scores = np.vstack([right.mean(axis=1), whole])
    draws = resampled_means(scores, RESAMPLES, seed=0)
    return NetworkCurve(
        rows=pd.DataFrame(),
        sizes=SIZES,
        values=right.mean(axis=2),
        seeds=np.arange(case.n_subsets),
        mean_draws=draws[:, :-1],
        full=float(whole.mean()),
        full_draws=draws[:, -1],
        n_neurons=D,
    )


@dataclass(frozen=True)
class Repeat:
    """What one repetition says of the true values.

    Attributes
    ----------
    hits: whether the intervals of the ratio, of the ratio at the fixed bar and of the difference
        in DR hold them.
    naive: whether the percentile interval of the means of training seeds drawn with replacement
        holds that of the ratio, and whether Student's over the pairs alone does.
    width: of the interval of the ratio.
    """

    hits: tuple[bool, bool, bool]
    naive: tuple[bool, bool]
    width: float


def measure_once(name: str, n_pairs: int, repeat: int) -> Repeat:
    """Train and measure both recipes with every training seed."""
    case, rng = CASES[name], np.random.default_rng([repeat, n_pairs])
    samples = rng.standard_normal(case.n_test)
    orders = [case.order * rng.standard_normal(case.n_subsets) for _ in range(2)]
    ratios, at_bar, differences = [], [], []
    for _ in range(n_pairs):
        both = PAIR_SPREAD * rng.standard_normal()
        curves = []
        for centre, order, full in zip((TRUTH, 0.0), orders, FULLS, strict=True):
            scale = float(3.0 * np.exp(centre + both + case.between * rng.standard_normal()))
            curves.append(network(case, rng, Shared(samples, order), scale, full))
        bar = curves[1].bar(DELTA)
        own, other = (curve.mass(*curve.bar(DELTA)) for curve in curves)
        ratios.append(own.log().minus(other.log()))
        at_bar.append(curves[0].mass(*bar).log().minus(other.log()))
        differences.append(own.redundancy(D).minus(other.redundancy(D)))
    spread = np.exp((PAIR_SPREAD**2 + case.between**2) / 2.0)
    truths = (
        TRUTH,
        TRUTH + np.log(size_for(DELTA * FULLS[1] / FULLS[0]) / size_for(DELTA)),
        -3.0 * size_for(DELTA) * spread * (np.exp(TRUTH) - 1.0) / D,
    )
    intervals = [MeanInterval.of(pairs, LEVEL) for pairs in (ratios, at_bar, differences)]
    values = np.array([pair.value for pair in ratios])
    drawn = values[rng.integers(0, n_pairs, (1000, n_pairs))].mean(axis=1)
    low, high = percentile_interval(drawn, LEVEL)
    student = stdtrit(n_pairs - 1.0, 0.5 + LEVEL / 2.0) * values.std(ddof=1) / np.sqrt(n_pairs)
    held = [one.low <= truth <= one.high for one, truth in zip(intervals, truths, strict=True)]
    return Repeat(
        hits=(held[0], held[1], held[2]),
        naive=(bool(low <= TRUTH <= high), bool(abs(values.mean() - TRUTH) <= student)),
        width=intervals[0].high - intervals[0].low,
    )


def table_row(name: str, n_pairs: int, repeats: int, workers: int) -> str:
    """Return the row of a case."""
    work = partial(measure_once, name, n_pairs)
    with limit_to_one_thread():
        results = map_in_processes(work, range(repeats), workers, chunk=20)
    shares = np.mean([(*one.hits, *one.naive) for one in results], axis=0)
    width = np.mean([one.width for one in results])
    columns = [name, str(n_pairs), *(f"{share:.3f}" for share in shares), f"{width:.2f}"]
    return f"| {' | '.join(columns)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--pairs", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    print(f"{describe_machine()}. {options.repeats:,} repetitions, {RESAMPLES} resamples.\n")
    print(
        "| networks | training seeds | ratio | at the fixed bar | DR | ratio, percentile bootstrap "
        "| ratio, Student's between pairs | width of ln ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.only or CASES:
        for n_pairs in options.pairs:
            print(table_row(name, n_pairs, options.repeats, options.workers), flush=True)


if __name__ == "__main__":
    main()
