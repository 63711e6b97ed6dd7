"""The law of ridge probes against measured subsets: ``python -m benchmarks.ridge_law STORE...``.

For every feature store: mean and standard deviation over random subsets of a ridge probe's
accuracy and squared error, measured by fitting each subset, beside what the two forms of the law
say without fitting one. Same rows, same penalty. Prints Markdown on stdout.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import tell, timed
from criticalmass.measures.probes.closed_form import ridge_path
from criticalmass.storage.features import FeatureStore
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
from criticalmass.theory.held_out import Sampling
from criticalmass.theory.ridge import RidgePrediction, predict_ridge

Array = NDArray[np.float64]
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8)


@dataclass(frozen=True, eq=False)
class Problem:
    """Training set and test rows of one store, in memory.

    Attributes
    ----------
    name: of the store.
    train, test: (rows, labels).
    basis: of the training set.
    """

    name: str
    train: tuple[NDArray[np.float32], NDArray[np.int64]]
    test: tuple[NDArray[np.float32], NDArray[np.int64]]
    basis: Eigenbasis


def load(path: Path, rows: int) -> Problem:
    """Read a store; training and test rows are cut to a random ``rows`` each."""
    store = FeatureStore.open(path, verify=False)
    parts = []
    for split in ("train", "test"):
        features, labels = store.features(split), store.labels(split)
        kept = np.sort(np.random.default_rng(0).permutation(len(labels))[:rows])
        parts.append((np.asarray(features[kept], dtype=np.float32), labels[kept]))
    train, test = parts
    basis, seconds = timed(lambda: eigenbasis(*train, n_classes=len(store.class_names)))
    tell(f"{path.name}: {train[0].shape}, eigenbasis in {seconds.wall:.2f} s")
    return Problem(path.name, train, test, basis)


def measured(problem: Problem, sizes: Sequence[int], l2: float, subsets: int) -> Array:
    """Fit every subset; returns (2, subsets, sizes): accuracy and squared error."""
    basis, (rows, labels) = problem.basis, problem.test
    x = basis.scaling.apply(rows)
    truth = np.eye(basis.n_classes)[labels]
    out = np.empty((2, subsets, len(sizes)))
    for seed in range(subsets):
        order = np.random.default_rng(seed).permutation(basis.n_neurons)
        heads = ridge_path(basis.second_moment, basis.cross_moment, order, sizes, [l2])[0]
        for i, head in enumerate(heads):
            responses = x[:, order[: sizes[i]]] @ head.astype(np.float32) + basis.share
            out[0, seed, i] = (responses.argmax(axis=1) == labels).mean()
            out[1, seed, i] = ((responses - truth) ** 2).sum(axis=1).mean()
    return out


def predictions(
    problem: Problem, sizes: Sequence[int], l2: float, draws: int
) -> list[RidgePrediction]:
    """Predict by the exchangeable and by the neuron law, on all held-out rows."""
    found = []
    how = Sampling(draws=draws, rows=len(problem.test[1]))
    for law in ("exchangeable", "neuron"):
        one, seconds = timed(
            lambda law=law: predict_ridge(  # type: ignore[misc]
                problem.basis, problem.test, sizes, l2=l2, law=law, sampling=how
            )
        )
        tell(f"{problem.name} {law}: {len(sizes)} sizes in {seconds.wall:.2f} s")
        found.append(one)
    return found


def table(problem: Problem, sizes: Sequence[int], l2: float, subsets: int, draws: int) -> list[str]:
    """Return Markdown lines: one row per size."""
    seen = measured(problem, sizes, l2, subsets)
    flat, own = predictions(problem, sizes, l2, draws)
    n, d = problem.train[0].shape
    lines = [
        f"\n{problem.name}: n={n}, d={d}, {problem.basis.n_classes} classes, l2={l2:g}, "
        f"{subsets} subsets, {draws} draws. Each cell: measured / exchangeable / neuron law.\n",
        "| k | accuracy (± standard error) | its sd | squared error | its sd | mu |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for i, size in enumerate(sizes):
        (hit, wrong) = (seen[j, :, i] for j in (0, 1))
        lines.append(
            f"| {size} | {hit.mean():.4f} (± {hit.std(ddof=1) / np.sqrt(subsets):.4f}) / "
            f"{flat.accuracy[i, 0]:.4f} / {own.accuracy[i, 0]:.4f} | {hit.std(ddof=1):.4f} / "
            f"{flat.accuracy_std[i, 0]:.4f} / {own.accuracy_std[i, 0]:.4f} | {wrong.mean():.4f} / "
            f"{flat.error[i, 0]:.4f} / {own.error[i, 0]:.4f} | {wrong.std(ddof=1):.4f} / "
            f"{flat.error_std[i, 0]:.4f} / {own.error_std[i, 0]:.4f} | {flat.penalty[i]:.4g} |"
        )
    return lines


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--l2", type=float, nargs="+", default=[1e-2])
    parser.add_argument("--subsets", type=int, default=20)
    parser.add_argument("--draws", type=int, default=64, help="heads drawn from each law")
    parser.add_argument("--sizes", type=int, nargs="+", help="by default shares of the layer")
    given = parser.parse_args()
    for path in given.stores:
        problem = load(path, given.rows)
        d = problem.basis.n_neurons
        sizes = given.sizes or sorted({max(1, round(f * d)) for f in FRACTIONS})
        for l2 in given.l2:
            print("\n".join(table(problem, sizes, l2, given.subsets, given.draws)), flush=True)


if __name__ == "__main__":
    main()
