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
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import criticalmass as cm
from benchmarks.designs import DESIGNS, N_NEURONS
from benchmarks.in_memory import measure
from benchmarks.known import CASES, PAIRS, Case, Truth
from benchmarks.timing import describe_machine, limit_to_one_thread, log, map_in_processes
from criticalmass.analysis.columns import Draws
from criticalmass.analysis.curves import CachedRun
from criticalmass.analysis.estimators import critical_size

DELTA, LEVEL, RESAMPLES = 0.9, 0.95, 1000
ESTIMATORS = ("monotone", "interpolated", "strict")
QUANTITIES = ("value", "ratio", *(f"k* {name}" for name in ESTIMATORS))
DESIGN_QUANTITIES = ("value", "ratio", "k* monotone", "Gini", "excess", "worst class")
Hits = dict[str, list[bool]]
Coverage = Mapping[str, NDArray[np.float64]]


def measure_case(case: str, repeat: int) -> Hits:
    """Measure a case once on new seeds and test samples; return which intervals hold the truth."""
    if case in PAIRS:
        return compare_pair(case, repeat)
    simulation = CASES[case]
    with tempfile.TemporaryDirectory() as folder, limit_to_one_thread():
        rng = np.random.default_rng([7, repeat])
        run = CachedRun.of(simulation.run(Path(folder) / "run", rng, repeat))
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
        written = pair.runs(Path(folder), np.random.default_rng([11, repeat]))
        runs = [CachedRun.of(run) for run in written]
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


def measure_design(title: str, repeat: int) -> dict[str, list[float]]:
    """Measure a design once on new seeds and test rows.

    Returns
    -------
    Quantity -> one number per size below the whole layer: 1.0 if the interval holds the truth,
    0.0 if not, NaN if the table gives no interval.
    """
    design = DESIGNS[title]
    truth, sizes = design.truth(), np.array(design.sizes)
    with limit_to_one_thread():
        measured = measure(design, repeat, Draws(LEVEL, RESAMPLES, repeat))
        fairness = measured.fairness()
    curve = measured.curve
    ratio_draws = curve.mean_draws / curve.full_draws[:, None]
    values = dict(zip(sizes.tolist(), truth.values.tolist(), strict=True))
    mass = true_critical_mass(Truth(values, truth.values[-1]), N_NEURONS, "monotone")
    low, high = measured.mass_interval(DELTA)
    hits: dict[str, list[float]] = {"value": [], "ratio": []}
    for i in range(sizes.size - 1):
        for name, draws, value in (
            ("value", curve.mean_draws, truth.values[i]),
            ("ratio", ratio_draws, truth.values[i] / truth.values[-1]),
        ):
            ends = curve.interval(draws[:, i])
            hits[name].append(float(ends[0] <= value <= ends[1]))
    hits["k* monotone"] = [float(low <= mass <= high)]
    if curve.interval_note:
        hits = {name: [np.nan] * len(inside) for name, inside in hits.items()}
    for i, row in enumerate(fairness[: sizes.size - 1]):
        worst = truth.classes[i, int(str(row["worst_class"]).rpartition(" ")[2])]
        hits.setdefault("Gini", []).append(_is_inside(row, "gini_corrected_", truth.gini[i]))
        hits.setdefault("excess", []).append(_is_inside(row, "gini_excess_", truth.excess[i]))
        hits.setdefault("worst class", []).append(_is_inside(row, "worst_accuracy_", worst))
    return hits


def _is_inside(row: Mapping[str, Any], prefix: str, truth: float) -> float:
    """1.0 if an interval of a table holds the truth, 0.0 if not, NaN if there is no interval."""
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return np.nan if pd.isna(low) or pd.isna(high) else float(low <= truth <= high)


def repeat_case(case: str, repeats: int, workers: int) -> Coverage:
    """Repeat a case or design; return quantity -> (repeats, n_sizes or 1), see `measure_design`."""
    if case in CASES:
        true_values(case)
    if case in DESIGNS:
        DESIGNS[case].truth()
    measure = measure_design if case in DESIGNS else measure_case
    repetitions: list[Mapping[str, Sequence[float]]]
    repetitions = map_in_processes(partial(measure, case), range(repeats), workers, chunk=5)
    return {
        name: np.array([hits[name] for hits in repetitions], dtype=np.float64)
        for name in repetitions[0]
    }


def design_row(case: str, hits: Coverage) -> str:
    """Return one row of the table of designs; in brackets the smallest of the sizes.

    A share in per cent says how many of the intervals were given, where some were not.
    """
    cells = []
    for name in DESIGN_QUANTITIES:
        if name not in hits or np.isnan(hits[name]).all():
            cells.append("not given" if name in hits else "")
            continue
        given = ~np.isnan(hits[name])
        counted = given.any(axis=0)
        by_size = np.nanmean(hits[name][:, counted], axis=0)
        text = f"{by_size.mean():.3f}"
        text += f" ({by_size.min():.3f})" if by_size.size > 1 else ""
        cells.append(text if given.all() else f"{text}, {given.mean() * 100:.0f} % given")
    return f"| {DESIGNS[case].title} | {' | '.join(cells)} |"


def table_row(case: str, hits: Coverage) -> str:
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
    parser.add_argument("--only", choices=[*CASES, *PAIRS, *DESIGNS], action="append")
    parser.add_argument("--designs", action="store_true", help="the designs alone")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    print(describe_machine())
    print(f"{options.repeats} repetitions, {RESAMPLES} resamples, delta = {DELTA}")
    named = options.only or ([] if options.designs else [*CASES, *PAIRS])
    cases = [case for case in named if case not in DESIGNS]
    designs = [case for case in options.only or DESIGNS if case in DESIGNS]
    _print_table(cases, ("value (sizes)", "ratio (sizes)", *QUANTITIES[2:]), table_row, options)
    _print_table(designs, DESIGN_QUANTITIES, design_row, options)


def _print_table(
    cases: Sequence[str],
    columns: Sequence[str],
    as_row: Callable[[str, Coverage], str],
    options: argparse.Namespace,
) -> None:
    """Print a table row by row, as the cases are measured."""
    if not cases:
        return
    print(f"\n| case | {' | '.join(columns)} |")
    print(f"|{' --- |' * (1 + len(columns))}", flush=True)
    started = time.perf_counter()
    for case in cases:
        print(as_row(case, repeat_case(case, options.repeats, options.workers)), flush=True)
        log(f"{case}: {time.perf_counter() - started:.0f} s so far")


if __name__ == "__main__":
    main()
