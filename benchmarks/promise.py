"""How often the guarantee of `shrink` holds on new data: ``python -m benchmarks.promise``.

Synthetic populations: every repetition draws new data, and the resulting head is tested on 20,000
new samples. A real store (``--store``): the candidates are ranked once, then the held-out rows are
drawn with replacement from the test split, and the ratio on the whole test split is the truth.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

import criticalmass as cm
from benchmarks.timing import describe_machine
from criticalmass.measures.logistic.sklearn_probe import LogisticProbe
from criticalmass.shrinking.candidates import Candidate, Goal, rank_candidates
from criticalmass.shrinking.certify import passes, sizes_to_test
from criticalmass.shrinking.data_parts import split_data
from criticalmass.shrinking.evaluators import make_evaluator
from criticalmass.shrinking.paired_tests import count_passes
from criticalmass.shrinking.probe_evaluator import Evaluator, PairedCorrect
from criticalmass.shrinking.shrink import make_orders, shrink
from criticalmass.theory import synthetic

POPULATIONS: dict[str, Callable[[], synthetic.Population]] = {
    "diffuse, 32 neurons of 6 factors": lambda: synthetic.diffuse(32, 6),
    "nested, 32 neurons": lambda: synthetic.nested(32),
    "duplicated, 8 x 4": lambda: synthetic.duplicated(8, 4),
}
N_NEW_SAMPLES = 20_000
SELECTORS = ("random", "leverage", "first")


@dataclass
class Tally:
    """Counts over the repetitions of one case.

    Attributes
    ----------
    n_given: repetitions with a guarantee.
    n_held: those in which it held on new data.
    n_neurons: sum of the neurons kept.
    n_repeats: repetitions.
    """

    n_given: int = 0
    n_held: int = 0
    n_neurons: int = 0
    n_repeats: int = 0

    def row(self, name: str) -> str:
        """Return one row of the table."""
        if not self.n_given:
            return f"| {name} | 0 of {self.n_repeats} | - | - |"
        share = binomtest(self.n_held, self.n_given).proportion_ci()
        return (
            f"| {name} | {self.n_given} of {self.n_repeats} | {self.n_held / self.n_given:.3f} "
            f"[{share.low:.3f}, {share.high:.3f}] | {self.n_neurons / self.n_given:.1f} |"
        )


def tally_new_samples(name: str, keep: float, repeats: int) -> Tally:
    """Shrink on samples of a population and test the head on new samples."""
    tally = Tally(n_repeats=repeats)
    for seed in range(repeats):
        sample = synthetic.draw(POPULATIONS[name](), n_train=800, n_test=1000, seed=2 * seed)
        new = synthetic.draw(
            POPULATIONS[name](), n_train=2, n_test=N_NEW_SAMPLES, seed=2 * seed + 1
        )
        with tempfile.TemporaryDirectory() as folder:
            store = synthetic.to_store(sample, Path(folder) / "store")
            plan = shrink(store, keep=keep, selectors=SELECTORS)
        if not plan.safe:
            continue
        full_probe = LogisticProbe(l2=1e-2).fit(sample.x_train, sample.y_train)
        accuracy_full = np.mean(full_probe.predict(new.x_test) == new.y_test)
        accuracy = np.mean(plan.slim.predict(new.x_test) == new.y_test)
        tally.n_given += 1
        tally.n_held += int(accuracy >= keep * accuracy_full)
        tally.n_neurons += plan.n_kept
        log(f"{name}: {seed + 1} of {repeats}")
    return tally


def tally_resampled_rows(path: Path, goal: Goal, n_rows: int, repeats: int) -> Iterator[Tally]:
    """Certify on resampled test rows of a store; the truth is the ratio on all test rows."""
    parts = split_data(cm.FeatureStore.open(path), None)
    orders = make_orders(parts, ("random", "leverage"), 0)
    chooser = make_evaluator("logistic", parts, certifying=False)
    evaluator = make_evaluator("logistic", parts, certifying=True)
    for keep in (0.9, 0.95, 0.99):
        this_goal = replace(goal, keep=keep)
        winner = rank_candidates(chooser, orders, ("float32",), this_goal)[0]
        log(f"keep {keep}: {winner.selector} needs {winner.n_needed}")
        yield _tally_resampled(evaluate_candidate(evaluator, winner), this_goal, n_rows, repeats)


def evaluate_candidate(evaluator: Evaluator, winner: Candidate) -> PairedCorrect:
    """Score the winner's sizes on all test rows."""
    sizes = sizes_to_test(winner, winner.order.size)
    scores = evaluator.evaluate(winner.order, sizes, "float32")
    assert isinstance(scores, PairedCorrect)
    return scores


def _tally_resampled(hits: PairedCorrect, goal: Goal, n_rows: int, repeats: int) -> Tally:
    tally, rng = Tally(n_repeats=repeats), np.random.default_rng(0)
    for _ in range(repeats):
        rows = rng.integers(0, hits.labels.size, n_rows)
        sample = PairedCorrect(
            hits.sizes, hits.correct[:, rows], hits.correct_full[rows], hits.labels[rows],
            hits.n_classes,
        )  # fmt: skip
        passed = [passes(sample, index, goal) for index in range(len(hits.sizes))]
        n_passed = count_passes(passed[::-1])
        if n_passed:
            index = len(passed) - n_passed
            tally.n_given += 1
            tally.n_held += int(hits.values[index] >= goal.keep * hits.value_full)
            tally.n_neurons += hits.sizes[index]
    return tally


def log(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--keep", type=float, default=0.95)
    parser.add_argument("--store", type=Path, help="a feature store with train and test")
    parser.add_argument(
        "--rows", type=int, default=2000, help="held-out rows drawn from its test split"
    )
    options = parser.parse_args()
    write = sys.stdout.write
    write(f"{describe_machine()}\n\n")
    write("| case | guarantees given | held on new data | neurons kept |\n")
    write("| --- | --- | --- | ---: |\n")
    if options.store is None:
        for name in POPULATIONS:
            tally = tally_new_samples(name, options.keep, options.repeats)
            write(tally.row(f"{name}, keep {options.keep}") + "\n")
        return
    goal = Goal(0.9, 0.95)
    for keep, tally in zip(
        (0.9, 0.95, 0.99),
        tally_resampled_rows(options.store, goal, options.rows, options.repeats),
        strict=True,
    ):
        write(tally.row(f"{options.store.name}, {options.rows:,} rows, keep {keep}") + "\n")


if __name__ == "__main__":
    main()
