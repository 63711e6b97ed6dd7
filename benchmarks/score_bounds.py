"""How often bounds on mean scores are false: ``python -m benchmarks.score_bounds [--draws N]``.

Compares Student's bound with the betting bound of `shrink` at level .05 on scores from 0 to 1, most
of them skewed: the share of samples in which the bound lies above the true mean, and the distance
of the bound from the mean of the sample, betting over Student. Prints Markdown; docs/shrink.md
quotes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.timing import describe_machine
from criticalmass.shrinking.betting import count_rejected
from criticalmass.shrinking.paired_tests import score_ratio_bound

LEVEL = 0.05
# The betting bound is one of 5,000 ratios; a true mean between two counts as the upper one.
_STEPS = 5000
FloatArray = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], FloatArray]


def zero_one(p: float) -> Draw:
    """Scores that are 1 with probability ``p`` and 0 otherwise."""
    return lambda rng, shape: (rng.random(shape) < p).astype(np.float64)


def recall_like(p: float) -> Draw:
    """Scores that are 1 with probability ``p`` and otherwise 0, 0.1, ... or 0.9."""
    return lambda rng, shape: np.where(rng.random(shape) < p, 1.0, rng.integers(0, 10, shape) / 10)


def beta(a: float, b: float) -> Draw:
    """Scores from a beta distribution."""
    return lambda rng, shape: rng.beta(a, b, shape)


#: Name, sample size, distribution and its mean.
DESIGNS: tuple[tuple[str, int, Draw, float], ...] = (
    ("0/1, p = .97", 100, zero_one(0.97), 0.97),
    ("0/1, p = .99", 300, zero_one(0.99), 0.99),
    ("0/1, p = .97", 1000, zero_one(0.97), 0.97),
    ("recall-like, 2 % below 1", 1000, recall_like(0.98), 0.989),
    ("beta(9, 1)", 50, beta(9, 1), 0.9),
    *(("recall-like, 10 % below 1", n, recall_like(0.9), 0.945) for n in (100, 1000, 4000)),
    *(("beta(8, 2)", n, beta(8, 2), 0.8) for n in (100, 1000, 4000)),
)


def student_bounds(scores: FloatArray) -> FloatArray:
    """Return Student's lower bound of each row, at most Clopper and Pearson's for equal scores."""
    n = scores.shape[1]
    error = scores.std(axis=1, ddof=1) / np.sqrt(n)
    bound = scores.mean(axis=1) - student.ppf(1.0 - LEVEL, n - 1) * error
    return np.asarray(np.minimum(bound, scores.max(axis=1) * LEVEL ** (1.0 / n)))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000, help="samples per design")
    parser.add_argument("--margins", type=int, default=40, help="samples whose margin is compared")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args(argv)
    print(describe_machine())
    print(f"{options.draws} samples per design, level {LEVEL}\n")
    print("| design | n | Student false | betting false | margin, betting / Student |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    rng = np.random.default_rng(options.seed)
    for name, n, draw, mean in DESIGNS:
        scores = draw(rng, (options.draws, n))
        whole = np.ones(n)
        grid = np.array([np.ceil(mean * _STEPS - 1e-9) / _STEPS])
        by_student = student_bounds(scores)
        by_betting = np.mean([count_rejected(grid, row, whole, LEVEL) > 0 for row in scores])
        few = scores[: options.margins]
        bets = np.array([score_ratio_bound(row, whole) for row in few])
        margins = [np.mean(few.mean(axis=1) - one) for one in (by_student[: len(few)], bets)]
        print(
            f"| {name} | {n:,} | {np.mean(by_student > mean):.3f} | {by_betting:.3f} | "
            f"{margins[1] / margins[0]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
