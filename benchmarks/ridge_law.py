"""The ridge law compared with measured subsets: ``python -m benchmarks.ridge_law STORE...``.

For every feature store, fits a ridge probe on random subsets and compares the mean and the standard
deviation of its accuracy and squared error with both forms of the law, which fits no subset. Rows
and penalty are the same. Prints Markdown on stdout.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import log, time_call
from criticalmass.measures.probes.closed_form import ridge_path
from criticalmass.storage.features import FeatureStore
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
from criticalmass.theory.held_out import Sampling
from criticalmass.theory.ridge import RidgePrediction, predict_ridge

Array = NDArray[np.float64]
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8)


@dataclass(frozen=True, eq=False)
class RidgeProblem:
    """Training and test rows of one store, in memory.

    Attributes
    ----------
    name: name of the store.
    train, test: (rows, labels).
    basis: eigenbasis of the training set.
    """

    name: str
    train: tuple[NDArray[np.float32], NDArray[np.int64]]
    test: tuple[NDArray[np.float32], NDArray[np.int64]]
    basis: Eigenbasis


def load(path: Path, rows: int) -> RidgeProblem:
    """Read at most ``rows`` random training and test rows of a store."""
    store = FeatureStore.open(path, verify=False)
    parts = []
    for split in ("train", "test"):
        features, labels = store.features(split), store.labels(split)
        indices = np.sort(np.random.default_rng(0).permutation(len(labels))[:rows])
        parts.append((np.asarray(features[indices], dtype=np.float32), labels[indices]))
    train, test = parts
    basis, seconds = time_call(lambda: eigenbasis(*train, n_classes=len(store.class_names)))
    log(f"{path.name}: {train[0].shape}, eigenbasis in {seconds.wall:.2f} s")
    return RidgeProblem(path.name, train, test, basis)


def measure_subsets(problem: RidgeProblem, sizes: Sequence[int], l2: float, subsets: int) -> Array:
    """Fit every subset; return (2, n_subsets, n_sizes): accuracy and squared error."""
    basis, (rows, labels) = problem.basis, problem.test
    x = basis.scaling.apply(rows)
    one_hot = np.eye(basis.n_classes)[labels]
    scores = np.empty((2, subsets, len(sizes)))
    for seed in range(subsets):
        order = np.random.default_rng(seed).permutation(basis.n_neurons)
        heads = ridge_path(basis.second_moment, basis.cross_moment, order, sizes, [l2])[0]
        for i, head in enumerate(heads):
            responses = x[:, order[: sizes[i]]] @ head.astype(np.float32) + basis.share
            scores[0, seed, i] = (responses.argmax(axis=1) == labels).mean()
            scores[1, seed, i] = ((responses - one_hot) ** 2).sum(axis=1).mean()
    return scores


def predict_both_laws(
    problem: RidgeProblem, sizes: Sequence[int], l2: float, draws: int
) -> list[RidgePrediction]:
    """Predict with the exchangeable and with the neuron law, on all held-out rows."""
    predictions = []
    sampling = Sampling(draws=draws, rows=len(problem.test[1]))
    for law in ("exchangeable", "neuron"):
        prediction, seconds = time_call(
            lambda law=law: predict_ridge(  # type: ignore[misc]
                problem.basis, problem.test, sizes, l2=l2, law=law, sampling=sampling
            )
        )
        log(f"{problem.name} {law}: {len(sizes)} sizes in {seconds.wall:.2f} s")
        predictions.append(prediction)
    return predictions


def make_table(
    problem: RidgeProblem, sizes: Sequence[int], l2: float, subsets: int, draws: int
) -> list[str]:
    """Return Markdown lines: one row per size."""
    scores = measure_subsets(problem, sizes, l2, subsets)
    exchangeable, neuron = predict_both_laws(problem, sizes, l2, draws)
    n, d = problem.train[0].shape
    lines = [
        f"\n{problem.name}: n={n}, d={d}, {problem.basis.n_classes} classes, l2={l2:g}, "
        f"{subsets} subsets, {draws} draws. Each cell: measured / exchangeable / neuron law.\n",
        "| k | accuracy (± standard error) | its sd | squared error | its sd | mu |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for i, size in enumerate(sizes):
        accuracy, error = (scores[j, :, i] for j in (0, 1))
        cells = [
            f"{accuracy.mean():.4f} (± {accuracy.std(ddof=1) / np.sqrt(subsets):.4f}) / "
            + _law_values(exchangeable.accuracy[i, 0], neuron.accuracy[i, 0]),
            f"{accuracy.std(ddof=1):.4f} / "
            + _law_values(exchangeable.accuracy_std[i, 0], neuron.accuracy_std[i, 0]),
            f"{error.mean():.4f} / " + _law_values(exchangeable.error[i, 0], neuron.error[i, 0]),
            f"{error.std(ddof=1):.4f} / "
            + _law_values(exchangeable.error_std[i, 0], neuron.error_std[i, 0]),
            f"{exchangeable.penalty[i]:.4g}",
        ]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return lines


def _law_values(exchangeable: float, neuron: float) -> str:
    return f"{exchangeable:.4f} / {neuron:.4f}"


def main() -> None:
    """Print the tables of all stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--l2", type=float, nargs="+", default=[1e-2])
    parser.add_argument("--subsets", type=int, default=20)
    parser.add_argument("--draws", type=int, default=64, help="heads drawn from each law")
    parser.add_argument("--sizes", type=int, nargs="+", help="by default shares of the layer")
    options = parser.parse_args()
    for path in options.stores:
        problem = load(path, options.rows)
        d = problem.basis.n_neurons
        sizes = options.sizes or sorted({max(1, round(f * d)) for f in FRACTIONS})
        for l2 in options.l2:
            print(
                "\n".join(make_table(problem, sizes, l2, options.subsets, options.draws)),
                flush=True,
            )


if __name__ == "__main__":
    main()
