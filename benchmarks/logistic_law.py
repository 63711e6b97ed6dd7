"""The law of logistic probes against fitted subsets: ``python -m benchmarks.logistic_law STORE``.

For every feature store: mean and standard deviation over random subsets of the measure
``logistic``, strength chosen on validation rows, beside what `predict_logistic` says without
fitting a subset. Same rows, same protocol. Errors are in standard errors of the measured mean
and, beside it, of measured and predicted mean together. Prints Markdown on stdout.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import tell, timed
from criticalmass.measures.logistic.probe import logistic
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.storage.features import FeatureStore
from criticalmass.theory.logistic import LogisticPrediction, LogisticSampling, predict_logistic

Array = NDArray[np.float64]
Split = tuple[NDArray[np.float32], NDArray[np.int64]]
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8)


def load(path: Path, rows: int) -> tuple[Split, Split]:
    """Read a store's training and test rows, each cut to a random ``rows``."""
    store = FeatureStore.open(path, verify=False)

    def split(name: str, seed: int) -> Split:
        features, labels = store.features(name), store.labels(name)
        kept = np.sort(np.random.default_rng(seed).permutation(len(labels))[:rows])
        return np.asarray(features[kept], dtype=np.float32), labels[kept]

    return split("train", 0), split("test", 1)


def measured(data: tuple[Split, Split], sizes: Sequence[int], subsets: int) -> tuple[Array, Array]:
    """Fit every subset; returns accuracies and chosen strengths, each (subsets, sizes)."""
    (x, y), (x_test, y_test) = data
    d = x.shape[1]
    task = ProbeTask(
        x_train=x,
        y_train=y,
        x_test=x_test,
        n_classes=int(max(y.max(), y_test.max())) + 1,
        orders=np.array([np.random.default_rng(1000 + s).permutation(d) for s in range(subsets)]),
        sizes=tuple(sizes),
        validation=validation_rows(y),
    )
    scores = logistic(task)
    return np.asarray((scores.predictions == y_test).mean(axis=2)), scores.l2


def table(found: tuple[Array, Array], law: LogisticPrediction) -> list[str]:
    """Return the rows of the Markdown table."""
    accuracy, l2 = found
    mean, std = accuracy.mean(axis=0), accuracy.std(axis=0, ddof=1)
    strength = np.exp(np.log(l2).mean(axis=0))
    guess = np.exp(law.chosen @ np.log(law.strengths))
    error = std / np.sqrt(len(accuracy))
    both = np.hypot(error, law.sampling_error)
    lines = [
        "| k | measured | predicted | error | in standard errors: measured, both "
        "| spread: measured, predicted | l2 (geometric mean): measured, predicted |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for i, k in enumerate(law.sizes):
        gap = law.accuracy[i] - mean[i]
        one, two = (f"{gap / e:+.1f}" if e > 1e-12 else "none" for e in (error[i], both[i]))
        lines.append(
            f"| {k} | {mean[i]:.4f} | {law.accuracy[i]:.4f} | {gap:+.4f} | {one}, {two} "
            f"| {std[i]:.4f}, {law.std[i]:.4f} | {strength[i]:.2g}, {guess[i]:.2g} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table per store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=8000, help="of training and of test, at most")
    parser.add_argument("--subsets", type=int, default=20, help="fitted per size")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of neurons")
    parser.add_argument("--pairs", type=int, default=LogisticSampling().pairs)
    asked = parser.parse_args(arguments)
    for path in asked.stores:
        data = load(path, asked.rows)
        d = data[0][0].shape[1]
        sizes = asked.sizes or sorted({max(1, round(f * d)) for f in FRACTIONS})
        found, fitting = timed(partial(measured, data, sizes, asked.subsets))
        sampling = LogisticSampling(pairs=asked.pairs)
        law, guessing = timed(partial(predict_logistic, *data, sizes, sampling=sampling))
        tell(f"{path.name}: fitted in {fitting.wall:.1f} s, predicted in {guessing.wall:.1f} s")
        lines = [f"{path.name}: {data[0][0].shape[0]} training rows, d={d}", ""]
        print("\n".join([*lines, *table(found, law), ""]))


if __name__ == "__main__":
    main()
