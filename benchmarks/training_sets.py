"""Intervals with and without the training set: `python -m benchmarks.training_sets`.

Every repetition draws a new training set, new test samples and new seeds from a synthetic
population, sweeps them with ``training_sets=M``, and asks whether the intervals hold the mean over
training sets, subsets and test samples of the population. See docs/coverage.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import criticalmass as cm
from benchmarks.coverage import true_critical_mass
from benchmarks.known import Truth
from benchmarks.timing import describe_machine, limit_to_one_thread, map_in_processes
from criticalmass import synthetic
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import get_probe
from criticalmass.theory.synthetic import Population

LEVEL, DELTA, RESAMPLES, N_SEEDS = 0.95, 0.9, 1000, 5
FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)
N_TRUE_SETS, N_TRUE_ORDERS, N_TRUE_TEST = 400, 12, 10_000
QUANTITIES = ("value", "whole layer", "ratio", "k*")
Hits = dict[str, list[bool]]


@dataclass(frozen=True)
class Case:
    """A population, a probe, and numbers of samples."""

    population: Callable[[], Population]
    probe: str
    n_train: int
    n_test: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tested sizes."""
        return tuple(round(share * self.population().n_neurons) for share in FRACTIONS)


CASES = {
    "diffuse-ridge": Case(partial(synthetic.diffuse, 32, 8, noise=0.7), "ridge", 100, 2000),
    "diffuse-centroid": Case(partial(synthetic.diffuse, 32, 8, noise=0.7), "centroid", 40, 2000),
    "duplicated-ridge": Case(partial(synthetic.duplicated, 8, 4), "ridge", 60, 2000),
    "nested-ridge": Case(partial(synthetic.nested, 32), "ridge", 200, 2000),
    "nested-lda": Case(partial(synthetic.nested, 32), "lda", 100, 500),
}


@cache
def true_values(case: str) -> Truth:
    """Return the mean value at every size over training sets, subsets and test samples."""
    spec = CASES[case]
    population, probe = spec.population(), get_probe(spec.probe)
    total = np.zeros(len(spec.sizes))
    rng = np.random.default_rng(2**20)
    with limit_to_one_thread():
        for i in range(N_TRUE_SETS):
            data = synthetic.draw(
                population, n_train=spec.n_train, n_test=N_TRUE_TEST, seed=2**30 + i
            )
            orders = np.stack([rng.permutation(spec.sizes[-1]) for _ in range(N_TRUE_ORDERS)])
            task = ProbeTask(
                data.x_train, data.y_train, data.x_test, 2, orders, spec.sizes,
                validation_rows(data.y_train),
            )  # fmt: skip
            total += (probe(task).predictions == data.y_test).mean(axis=(0, 2)) / N_TRUE_SETS
    values = dict(zip(spec.sizes, total.tolist(), strict=True))
    return Truth(values, values[spec.sizes[-1]])


def measure_once(case: str, n_sets: int, repeat: int) -> tuple[Hits, Hits]:
    """Return which intervals hold the truth, without and with training sets."""
    spec, truth = CASES[case], true_values(case)
    with tempfile.TemporaryDirectory() as folder, limit_to_one_thread():
        path = Path(folder)
        data = synthetic.draw(
            spec.population(), n_train=spec.n_train, n_test=spec.n_test, seed=repeat
        )
        store = synthetic.to_store(data, path / "features")
        seeds = [1000 * (repeat + 1) + i for i in range(N_SEEDS)]
        hits = []
        for number in (0, n_sets):
            run = cm.sweep(
                store, out=path / "run", measures=spec.probe, fractions=FRACTIONS, seeds=seeds,
                training_sets=number,
            )  # fmt: skip
            hits.append(_hits(run, truth, repeat))
    return hits[0], hits[1]


def _hits(run: cm.Run, truth: Truth, repeat: int) -> Hits:
    hits: Hits = {name: [] for name in QUANTITIES}
    width = max(truth.values)
    for row in cm.curves(run, level=LEVEL, resamples=RESAMPLES, seed=repeat).to_dict("records"):
        true = truth.values[row["n_kept"]]
        is_full = row["n_kept"] == width
        hits["whole layer" if is_full else "value"].append(row["low"] <= true <= row["high"])
        if not is_full:
            ratio = true / truth.full
            hits["ratio"].append(row["ratio_low"] <= ratio <= row["ratio_high"])
    mass = cm.redundancy(run, DELTA, level=LEVEL, resamples=RESAMPLES, seed=repeat).iloc[0]
    expected = true_critical_mass(truth, width, "monotone")
    hits["k*"].append(mass["critical_mass_low"] <= expected <= mass["critical_mass_high"])
    return hits


def table_rows(case: str, n_sets: int, repeats: int, workers: int) -> list[str]:
    """Return the rows of a case: without and with training sets."""
    true_values(case)
    work = partial(measure_once, case, n_sets)
    results = map_in_processes(work, range(repeats), workers, chunk=5)
    spec = CASES[case]
    title = f"{case}, {spec.n_train} training and {spec.n_test} test samples"
    return [
        f"| {title} | {'without' if not which else f'{n_sets} halves'} | "
        + " | ".join(_share([hits[which] for hits in results], name) for name in QUANTITIES)
        + " |"
        for which in (0, 1)
    ]


def _share(hits: Sequence[Mapping[str, list[bool]]], name: str) -> str:
    counts: NDArray[np.float64] = np.array([one[name] for one in hits]).mean(axis=0)
    if counts.size == 1:
        return f"{counts[0]:.3f}"
    return f"{counts.mean():.3f} ({counts.min():.3f} to {counts.max():.3f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--sets", type=int, default=8)
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    print(describe_machine())
    print(f"{options.repeats} repetitions, {N_SEEDS} seeds, {RESAMPLES} resamples\n")
    print(f"| case | training sets | {' | '.join(QUANTITIES)} |")
    print(f"|{' --- |' * (2 + len(QUANTITIES))}", flush=True)
    for case in options.only or CASES:
        for row in table_rows(case, options.sets, options.repeats, options.workers):
            print(row, flush=True)


if __name__ == "__main__":
    main()
