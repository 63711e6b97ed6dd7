"""Intervals over training seeds: `python -m benchmarks.training_seeds`.

Every repetition trains two recipes again: simulated networks whose critical masses differ between
training seeds, measured by simulated probes on common test samples and subset seeds. It counts how
often the interval of ln(k*/k* of the baseline) holds the true mean over training seeds. See
docs/coverage.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks.timing import describe_machine, limit_to_one_thread
from criticalmass.analysis.bootstrap import resampled_means
from criticalmass.analysis.columns import percentile_interval
from criticalmass.analysis.training_seed_intervals import Estimate, MeanInterval, NetworkCurve

LEVEL, DELTA, RESAMPLES, D, FULL = 0.95, 0.9, 500, 512, 0.9
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


def network(case: Case, rng: _Rng, shared: Shared, scale: float) -> NetworkCurve:
    """Measure one network, whose accuracy at k neurons is FULL (1 - exp(-(k / scale)^0.7)).

    A critical mass is a multiple of ``scale``, the same for all networks, since the accuracy of
    the whole layer does not depend on it.
    """
    accuracy = FULL * -np.expm1(-((SIZES / scale) ** 0.7))
    shift = case.subsets * rng.standard_normal(case.n_subsets) + shared.order
    difficulty = np.sqrt(SAMPLE) * shared.samples
    difficulty += np.sqrt(NETWORK_SAMPLE) * rng.standard_normal(case.n_test)
    rest = np.sqrt(1.0 - SAMPLE - NETWORK_SAMPLE)
    # The subsets of a seed are nested: one draw for each sample serves all sizes.
    own = difficulty + rest * rng.standard_normal((case.n_subsets, case.n_test))
    latent = own + shift[:, None]
    scale_up = np.sqrt(1.0 + case.subsets**2 + case.order**2)
    right = latent < scale_up * ndtri(accuracy)[:, None, None]
    whole = difficulty + rest * rng.standard_normal(case.n_test) < ndtri(FULL)
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


def measure_once(name: str, n_pairs: int, repeat: int) -> tuple[bool, bool, float]:
    """Return whether two intervals hold the truth, and the width of the first.

    The second is the percentile interval of the means of training seeds drawn with replacement.
    """
    case, rng = CASES[name], np.random.default_rng([repeat, n_pairs])
    n = case.n_subsets
    samples = rng.standard_normal(case.n_test)
    orders = [case.order * rng.standard_normal(n) for _ in range(2)]
    truth, pairs = np.log(3.0), []
    for _ in range(n_pairs):
        both = PAIR_SPREAD * rng.standard_normal()
        masses: list[Estimate] = []
        for i, centre in enumerate((truth, 0.0)):
            scale = float(3.0 * np.exp(centre + both + case.between * rng.standard_normal()))
            curve = network(case, rng, Shared(samples, orders[i]), scale)
            masses.append(curve.mass(*curve.bar(DELTA)))
        pairs.append(masses[0].log().minus(masses[1].log()))
    interval = MeanInterval.of(pairs, LEVEL)
    values = np.array([pair.value for pair in pairs])
    drawn = values[rng.integers(0, n_pairs, (1000, n_pairs))].mean(axis=1)
    low, high = percentile_interval(drawn, LEVEL)
    width = interval.high - interval.low
    return bool(interval.low <= truth <= interval.high), bool(low <= truth <= high), width


def table_row(name: str, n_pairs: int, repeats: int, workers: int) -> str:
    """Return the row of a case."""
    with limit_to_one_thread(), ProcessPoolExecutor(workers) as pool:
        results = list(pool.map(partial(measure_once, name, n_pairs), range(repeats), chunksize=20))
    hits, naive, widths = (np.array(column) for column in zip(*results, strict=True))
    return f"| {name} | {n_pairs} | {hits.mean():.3f} | {naive.mean():.3f} | {widths.mean():.2f} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--pairs", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    print(f"{describe_machine()}. {options.repeats:,} repetitions, {RESAMPLES} resamples.\n")
    print("| networks | training seeds | coverage | percentile bootstrap | width of ln ratio |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.only or CASES:
        for n_pairs in options.pairs:
            print(table_row(name, n_pairs, options.repeats, options.workers), flush=True)


if __name__ == "__main__":
    main()
