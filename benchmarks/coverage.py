"""How often the 95 % intervals contain the truth: `python -m benchmarks.coverage`.

Random are the seeds of the selector and the test samples, both fresh in every repetition;
the population, and where probes are trained the training set, stay. The truth is the mean
over all subsets of a size and all test samples there could be. See docs/coverage.md.
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
from benchmarks.timing import machine, one_thread, tell
from criticalmass.analysis.estimators import critical_size

DELTA, LEVEL, RESAMPLES = 0.9, 0.95, 1000
QUANTITIES = ("value", "ratio", "k* interpolated", "k* strict")
Hits = dict[str, list[bool]]


def measured(case: str, repeat: int) -> Hits:
    """Measure a case once on fresh seeds and test samples; what held the truth."""
    if case in PAIRS:
        return compared(case, repeat)
    known = CASES[case]
    with tempfile.TemporaryDirectory() as folder, one_thread():
        run = known.run(Path(folder) / "run", np.random.default_rng([7, repeat]), repeat)
        table = cm.curves(run, level=LEVEL, resamples=RESAMPLES, seed=repeat)
        hits = _curve_hits(table, known, truth_of(case))
        for estimator in ("interpolated", "strict"):
            found = cm.redundancy(run, DELTA, estimator, LEVEL, RESAMPLES, repeat).iloc[0]
            want = mass(truth_of(case), known.n_neurons, estimator)
            inside = found["critical_mass_low"] <= want <= found["critical_mass_high"]
            hits[f"k* {estimator}"] = [bool(inside)]
    return hits


def compared(case: str, repeat: int) -> Hits:
    """Compare two simulated representations once; which differences held the truth."""
    pair = PAIRS[case]
    a, b = pair.a.truth(), pair.b.truth()
    d = pair.a.sizes[-1]
    hits: Hits = {"value": [], "ratio": []}
    with tempfile.TemporaryDirectory() as folder, one_thread():
        runs = pair.runs(Path(folder), np.random.default_rng([11, repeat]))
        for estimator in ("interpolated", "strict"):
            table = cm.compare(
                *runs, deltas=DELTA, estimator=estimator, level=LEVEL, paired=pair.paired,
                resamples=RESAMPLES, seed=2 * repeat,
            )  # fmt: skip
            mine = table[table["quantity"] == "critical_mass"].iloc[0]
            want = mass(a, d, estimator) - mass(b, d, estimator)
            hits[f"k* {estimator}"] = [bool(mine["low"] <= want <= mine["high"])]
    for row in table[table["quantity"].isin(["value", "ratio"])].to_dict("records"):
        size, ratio = int(row["n_kept_a"]), row["quantity"] == "ratio"
        scale = (a.full, b.full) if ratio else (1.0, 1.0)
        truth = a.values[size] / scale[0] - b.values[size] / scale[1]
        hits[str(row["quantity"])].append(bool(row["low"] <= truth <= row["high"]))
    return hits


@cache
def truth_of(case: str) -> Truth:
    """Return the truth of a case, once per process."""
    return CASES[case].truth()


def mass(truth: Truth, n_neurons: int, estimator: str) -> int:
    """Critical mass that the estimator reads off the true curve at the tested sizes."""
    sizes = np.array(sorted(truth.values), dtype=np.float64)
    means = np.array([[truth.values[int(size)] for size in sizes]])
    full = np.array([truth.full])
    found = critical_size(sizes, means, full, DELTA, estimator, float(n_neurons))
    return int(np.ceil(found[0] - 1e-9))


def _curve_hits(table: pd.DataFrame, case: Case, truth: Truth) -> Hits:
    """Whether the intervals of the curve hold the truth, size by size."""
    hits: Hits = {"value": [], "ratio": []}
    for row in table.to_dict("records"):
        value = truth.values[int(row["n_kept"])]
        if int(row["n_kept"]) == case.n_neurons:
            # The whole layer keeps all of itself; its ratio is no statistic.
            continue
        hits["value"].append(bool(row["low"] <= value <= row["high"]))
        ratio = value / truth.full
        hits["ratio"].append(bool(row["ratio_low"] <= ratio <= row["ratio_high"]))
    return hits


def cover(case: str, repeats: int, workers: int) -> Mapping[str, NDArray[np.bool_]]:
    """Repeat a case; -> quantity -> (repeats, n_sizes or 1) whether the truth was inside."""
    if case in CASES:
        truth_of(case)
    with ProcessPoolExecutor(workers) as pool:
        every = list(pool.map(partial(measured, case), range(repeats), chunksize=5))
    return {name: np.array([hits[name] for hits in every]) for name in QUANTITIES}


def line(case: str, found: Mapping[str, NDArray[np.bool_]]) -> str:
    """One row of the table."""
    sizes = found["value"].mean(axis=0), found["ratio"].mean(axis=0)
    means = [f"{c.mean():.3f} ({c.min():.3f} to {c.max():.3f})" for c in sizes]
    masses = [f"{found[name].mean():.3f}" for name in QUANTITIES[2:]]
    title = CASES[case].title if case in CASES else PAIRS[case].title
    return f"| {title} | {' | '.join([*means, *masses])} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--only", choices=[*CASES, *PAIRS], action="append")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    print(f"{machine()}\n{options.repeats} repetitions, {RESAMPLES} resamples, delta = {DELTA}\n")
    print("| case | value (sizes) | ratio (sizes) | k* interpolated | k* strict |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    started = time.perf_counter()
    for case in options.only or (*CASES, *PAIRS):
        found = cover(case, options.repeats, options.workers)
        print(line(case, found), flush=True)
        tell(f"{case}: {time.perf_counter() - started:.0f} s so far")


if __name__ == "__main__":
    main()
