"""How often the 95 % intervals contain the truth: `python -m benchmarks.coverage`.

The seeds of the selector and the test samples are new in every repetition. The population and, for
trained probes, the training set stay the same. The truth is the mean over all subsets of a size and
all possible test samples. See docs/coverage.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import criticalmass as cm
from benchmarks.known import CASES, PAIRS, Case, Truth
from benchmarks.timing import describe_machine, limit_to_one_thread, log
from criticalmass.analysis.estimators import critical_size

DELTA, LEVEL, RESAMPLES = 0.9, 0.95, 1000
ESTIMATORS = ("monotone", "interpolated", "strict")
QUANTITIES = ("value", "ratio", *(f"k* {name}" for name in ESTIMATORS))
Hits = dict[str, list[bool]]


def measure_case(case: str, repeat: int) -> Hits:
    """Measure a case once on new seeds and test samples; return which intervals hold the truth."""
    if case in PAIRS:
        return compare_pair(case, repeat)
    simulation = CASES[case]
    with tempfile.TemporaryDirectory() as folder, limit_to_one_thread():
        run = simulation.run(Path(folder) / "run", np.random.default_rng([7, repeat]), repeat)
        table = cm.curves(run, level=LEVEL, resamples=RESAMPLES, seed=repeat)
        hits = _curve_hits(table, simulation, true_values(case))
        for estimator in ESTIMATORS:
            row = cm.redundancy(run, DELTA, estimator, LEVEL, RESAMPLES, repeat).iloc[0]
            expected = true_critical_mass(true_values(case), simulation.n_neurons, estimator)
            is_inside = row["critical_mass_low"] <= expected <= row["critical_mass_high"]
            hits[f"k* {estimator}"] = [bool(is_inside)]
    return hits


def compare_pair(case: str, repeat: int) -> Hits:
    """Compare two simulated representations once; return which intervals hold the truth."""
    pair = PAIRS[case]
    a, b = pair.a.truth(), pair.b.truth()
    d = pair.a.sizes[-1]
    hits: Hits = {"value": [], "ratio": []}
    with tempfile.TemporaryDirectory() as folder, limit_to_one_thread():
        runs = pair.runs(Path(folder), np.random.default_rng([11, repeat]))
        for estimator in ESTIMATORS:
            table = cm.compare(
                *runs, deltas=DELTA, estimator=estimator, level=LEVEL, paired=pair.paired,
                resamples=RESAMPLES, seed=2 * repeat,
            )  # fmt: skip
            row = table[table["quantity"] == "critical_mass"].iloc[0]
            masses = [true_critical_mass(truth, d, estimator) for truth in (a, b)]
            expected = masses[0] - masses[1]
            hits[f"k* {estimator}"] = [bool(row["low"] <= expected <= row["high"])]
    for row in table[table["quantity"].isin(["value", "ratio"])].to_dict("records"):
        size, is_ratio = int(row["n_kept_a"]), row["quantity"] == "ratio"
        scale = (a.full, b.full) if is_ratio else (1.0, 1.0)
        truth = a.values[size] / scale[0] - b.values[size] / scale[1]
        hits[str(row["quantity"])].append(bool(row["low"] <= truth <= row["high"]))
    return hits


@cache
def true_values(case: str) -> Truth:
    """Return the truth of a case, once per process."""
    return CASES[case].truth()


def true_critical_mass(truth: Truth, n_neurons: int, estimator: str) -> int:
    """Return the critical mass that the estimator gives for the true curve at the tested sizes."""
    sizes = np.array(sorted(truth.values), dtype=np.float64)
    means = np.array([[truth.values[int(size)] for size in sizes]])
    full = np.array([truth.full])
    critical = critical_size(sizes, means, full, DELTA, estimator, float(n_neurons))
    return int(np.ceil(critical[0] - 1e-9))


def _curve_hits(table: pd.DataFrame, case: Case, truth: Truth) -> Hits:
    """Return whether the intervals of the curve hold the truth, size by size."""
    hits: Hits = {"value": [], "ratio": []}
    for row in table.to_dict("records"):
        value = truth.values[int(row["n_kept"])]
        if int(row["n_kept"]) == case.n_neurons:
            # The ratio of the whole layer to itself is 1 without any measurement.
            continue
        hits["value"].append(bool(row["low"] <= value <= row["high"]))
        ratio = value / truth.full
        hits["ratio"].append(bool(row["ratio_low"] <= ratio <= row["ratio_high"]))
    return hits


def repeat_case(case: str, repeats: int, workers: int) -> Mapping[str, NDArray[np.bool_]]:
    """Repeat a case; return quantity -> (repeats, n_sizes or 1) whether the truth is inside."""
    if case in CASES:
        true_values(case)
    with ProcessPoolExecutor(workers) as pool:
        repetitions = list(pool.map(partial(measure_case, case), range(repeats), chunksize=5))
    return {name: np.array([hits[name] for hits in repetitions]) for name in QUANTITIES}


def table_row(case: str, hits: Mapping[str, NDArray[np.bool_]]) -> str:
    """Return one row of the table."""
    sizes = hits["value"].mean(axis=0), hits["ratio"].mean(axis=0)
    means = [f"{c.mean():.3f} ({c.min():.3f} to {c.max():.3f})" for c in sizes]
    masses = [f"{hits[name].mean():.3f}" for name in QUANTITIES[2:]]
    title = CASES[case].title if case in CASES else PAIRS[case].title
    return f"| {title} | {' | '.join([*means, *masses])} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--only", choices=[*CASES, *PAIRS], action="append")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    print(describe_machine())
    print(f"{options.repeats} repetitions, {RESAMPLES} resamples, delta = {DELTA}\n")
    print(f"| case | value (sizes) | ratio (sizes) | {' | '.join(QUANTITIES[2:])} |")
    print(f"|{' --- |' * (1 + len(QUANTITIES))}", flush=True)
    started = time.perf_counter()
    for case in options.only or (*CASES, *PAIRS):
        hits = repeat_case(case, options.repeats, options.workers)
        print(table_row(case, hits), flush=True)
        log(f"{case}: {time.perf_counter() - started:.0f} s so far")


if __name__ == "__main__":
    main()
