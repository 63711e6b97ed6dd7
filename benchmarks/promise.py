"""How often a promise of `shrink` holds on fresh data: ``python -m benchmarks.promise``.

Synthetic populations: everything is drawn anew in every repetition, and the head that was shipped
is judged on 20,000 fresh samples. A real store (``--store``): the competition runs once, then the
held-out rows are drawn with replacement from the test split, whose own ratio is the truth. Prints
Markdown.
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
from benchmarks.timing import machine
from criticalmass.measures.logistic.sklearn_probe import LogisticProbe
from criticalmass.shrinking.candidates import Candidate, Goal, compete
from criticalmass.shrinking.certify import holds, sequence
from criticalmass.shrinking.data_parts import parts_of
from criticalmass.shrinking.evaluators import judge_for
from criticalmass.shrinking.paired_tests import descend
from criticalmass.shrinking.probe_evaluator import Hits
from criticalmass.shrinking.shrink import orders_of, shrink
from criticalmass.theory import synthetic

POPULATIONS: dict[str, Callable[[], synthetic.Population]] = {
    "diffuse, 32 neurons of 6 factors": lambda: synthetic.diffuse(32, 6),
    "nested, 32 neurons": lambda: synthetic.nested(32),
    "duplicated, 8 x 4": lambda: synthetic.duplicated(8, 4),
}
FRESH = 20_000
SELECTORS = ("random", "leverage", "first")


@dataclass
class Tally:
    """What the repetitions of one case gave."""

    made: int = 0
    kept: int = 0
    neurons: int = 0
    repeats: int = 0

    def row(self, name: str) -> str:
        """One line of the table."""
        if not self.made:
            return f"| {name} | 0 of {self.repeats} | - | - |"
        share = binomtest(self.kept, self.made).proportion_ci()
        return (
            f"| {name} | {self.made} of {self.repeats} | {self.kept / self.made:.3f} "
            f"[{share.low:.3f}, {share.high:.3f}] | {self.neurons / self.made:.1f} |"
        )


def on_fresh_data(name: str, keep: float, repeats: int) -> Tally:
    """Shrink fresh samples of a population and judge what was shipped on more of them."""
    tally = Tally(repeats=repeats)
    for seed in range(repeats):
        drawn = synthetic.draw(POPULATIONS[name](), n_train=800, n_test=1000, seed=2 * seed)
        fresh = synthetic.draw(POPULATIONS[name](), n_train=2, n_test=FRESH, seed=2 * seed + 1)
        with tempfile.TemporaryDirectory() as folder:
            store = synthetic.to_store(drawn, Path(folder) / "store")
            plan = shrink(store, keep=keep, selectors=SELECTORS)
        if not plan.safe:
            continue
        whole = LogisticProbe(l2=1e-2).fit(drawn.x_train, drawn.y_train)
        full = np.mean(whole.predict(fresh.x_test) == fresh.y_test)
        mine = np.mean(plan.slim.predict(fresh.x_test) == fresh.y_test)
        tally.made += 1
        tally.kept += int(mine >= keep * full)
        tally.neurons += plan.n_kept
        tell(f"{name}: {seed + 1} of {repeats}")
    return tally


def on_redrawn_rows(path: Path, goal: Goal, n_rows: int, repeats: int) -> Iterator[Tally]:
    """Certify on redrawn test rows of a store; the truth is the ratio on all of them."""
    parts = parts_of(cm.FeatureStore.open(path), None)
    orders = orders_of(parts, ("random", "leverage"), 0)
    chooser = judge_for("logistic", parts, certifying=False)
    judge = judge_for("logistic", parts, certifying=True)
    for keep in (0.9, 0.95, 0.99):
        asked = replace(goal, keep=keep)
        winner = compete(chooser, orders, ("float32",), asked)[0]
        tell(f"keep {keep}: {winner.selector} needs {winner.needed}")
        yield _redrawn(judge_hits(judge, winner), asked, n_rows, repeats)


def judge_hits(judge: object, winner: Candidate) -> Hits:
    """Score the winner's sizes on all test rows."""
    sizes = sequence(winner, winner.order.size)
    found = judge.judge(winner.order, sizes, "float32")  # type: ignore[attr-defined]
    assert isinstance(found, Hits)
    return found


def _redrawn(hits: Hits, goal: Goal, n_rows: int, repeats: int) -> Tally:
    tally, rng = Tally(repeats=repeats), np.random.default_rng(0)
    for _ in range(repeats):
        rows = rng.integers(0, hits.labels.size, n_rows)
        sample = Hits(
            hits.sizes, hits.right[:, rows], hits.right_full[rows], hits.labels[rows],
            hits.n_classes,
        )  # fmt: skip
        held = [holds(sample, place, goal) for place in range(len(hits.sizes))]
        n_held = descend(held[::-1])
        if n_held:
            place = len(held) - n_held
            tally.made += 1
            tally.kept += int(hits.values[place] >= goal.keep * hits.value_full)
            tally.neurons += hits.sizes[place]
    return tally


def tell(line: str) -> None:
    """Say on stderr what is being done."""
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--repeats", type=int, default=200)
    asked.add_argument("--keep", type=float, default=0.95)
    asked.add_argument("--store", type=Path, help="a feature store with train and test")
    asked.add_argument("--rows", type=int, default=2000, help="held-out rows drawn from its test")
    options = asked.parse_args()
    write = sys.stdout.write
    write(f"{machine()}\n\n")
    write(
        "| case | promises made | held on fresh data | neurons kept |\n| --- | --- | --- | ---: |\n"
    )
    if options.store is None:
        for name in POPULATIONS:
            tally = on_fresh_data(name, options.keep, options.repeats)
            write(tally.row(f"{name}, keep {options.keep}") + "\n")
        return
    goal = Goal(0.9, 0.95)
    for keep, tally in zip(
        (0.9, 0.95, 0.99),
        on_redrawn_rows(options.store, goal, options.rows, options.repeats),
        strict=True,
    ):
        write(tally.row(f"{options.store.name}, {options.rows:,} rows, keep {keep}") + "\n")


if __name__ == "__main__":
    main()
