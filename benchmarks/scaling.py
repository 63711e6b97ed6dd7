"""How the cost of a sweep grows: ``python -m benchmarks.scaling --dir DIR``.

Each size of a sweep (rows, neurons, classes, seeds, sizes) is doubled twice from one base, and as
many sweeps again have all sizes drawn at random. CPU seconds of each sweep over those of a matrix
product are fitted by a weighted sum of counts of work with weights of at least 0, and ``--write``
puts the weights where ``sweep --dry-run`` reads them. With ``--held-out`` six other sweeps run as
commands in their own processes, and their CPU seconds and peak memory are compared with what the
dry run says; a process of its own, because a child's peak is never below its parent's at the start.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from benchmarks.memory import make_store
from benchmarks.problems import LayerRecipe
from benchmarks.timing import add_load_option, describe_machine, log, measure_row
from criticalmass.core.compute import HELD_BYTES
from criticalmass.core.progress import quiet
from criticalmass.core.threads import thread_count
from criticalmass.measures.memory import LayerSizes
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps import cost
from criticalmass.sweeps.sweep import sweep

MEASURES = ("logistic", "cka", "ridge", "lda", "knn", "centroid", "cka-debiased", "procrustes")
_CONSTANTS = Path(cost.__file__).with_name("cost.json")
_SMALLEST, _LARGEST = 0.02, 0.8


@dataclass(frozen=True)
class SweepSizes:
    """One sweep of a synthetic layer; a quarter as many test rows as training rows."""

    rows: int
    neurons: int
    classes: int
    orders: int
    sizes: int

    @property
    def fractions(self) -> tuple[float, ...]:
        """Fractions, evenly spaced in the logarithm."""
        return tuple(np.round(np.geomspace(_SMALLEST, _LARGEST, self.sizes), 6).tolist())

    def store(self, folder: Path) -> FeatureStore:
        """Return the store of the layer, written if it is missing."""
        name = f"store-{self.rows}x{self.neurons}x{self.classes}"
        recipe = LayerRecipe(self.rows, self.rows // 4, self.neurons, self.classes)
        return make_store(recipe, folder / name)

    @property
    def layer(self) -> LayerSizes:
        """The sizes as the estimate of a sweep takes them."""
        kept = {round(fraction * self.neurons) for fraction in self.fractions} | {self.neurons}
        return LayerSizes(
            n_train=self.rows,
            n_test=self.rows // 4,
            n_neurons=self.neurons,
            n_classes=self.classes,
            item_bytes=2,
            sizes=tuple(sorted(kept)),
            n_orders=self.orders,
            n_threads=thread_count(),
            held_bytes=HELD_BYTES,
        )


#: The sizes that are doubled.
AXES = ("rows", "neurons", "classes", "orders", "sizes")
BASE = SweepSizes(rows=4000, neurons=256, classes=10, orders=2, sizes=4)
QUICK = SweepSizes(rows=300, neurons=16, classes=4, orders=1, sizes=2)
_N_RANDOM = 16
_RANDOM = {"rows": (1500, 24000), "neurons": (96, 1024), "classes": (2, 60), "orders": (1, 8),
           "sizes": (2, 12)}  # fmt: skip
HELD_OUT = (
    (SweepSizes(6000, 384, 10, 5, 12), ("logistic", "cka")),
    (SweepSizes(12000, 512, 20, 2, 6), ("logistic",)),
    (SweepSizes(5000, 1024, 10, 3, 5), ("logistic", "cka")),
    (SweepSizes(20000, 256, 40, 2, 8), ("logistic",)),
    (SweepSizes(9000, 768, 10, 10, 12), ("cka",)),
    (SweepSizes(10000, 640, 10, 3, 10), ("ridge", "lda")),
)
_HELD_OUT_QUICK = ((replace(QUICK, orders=2), ("cka",)),)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, compare, and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for stores and runs")
    parser.add_argument("--measure", action="append", default=[], help="measure to fit; all")
    parser.add_argument("--write", action="store_true", help="write the constants into the package")
    parser.add_argument("--held-out", action="store_true", help="compare instead of fitting")
    parser.add_argument("--figure", type=Path, help="file for a figure of the growth")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    add_load_option(parser)
    options = parser.parse_args(arguments)
    at_any_load = options.even_if_busy or options.quick
    base = QUICK if options.quick else BASE
    print(f"Machine: {describe_machine()}.\n")
    if not options.held_out:
        names = options.measure or (("cka",) if options.quick else MEASURES)
        others = [] if options.quick else random_sizes()
        times, load = measure_row(
            lambda: {name: time_measure(name, base, others, options.dir) for name in names},
            even_if_busy=at_any_load,
        )
        if times is None:
            return
        print(_fit_table(times, base), f"{load}.", sep="\n", flush=True)
        if options.figure is not None:
            draw(times, base, options.figure)
        if options.write:
            write_constants({name: fit(seconds) for name, seconds in times.items()})
    if options.held_out:
        cases = _HELD_OUT_QUICK if options.quick else HELD_OUT
        table, load = measure_row(partial(compare, cases, options.dir), even_if_busy=at_any_load)
        if table is not None:
            print(table, f"{load}.", sep="\n")


def random_sizes() -> list[SweepSizes]:
    """Draw sizes evenly in the logarithm, always the same."""
    rng = np.random.default_rng(23)
    drawn = []
    for _ in range(_N_RANDOM):
        logs = {name: rng.uniform(*np.log(ends)) for name, ends in _RANDOM.items()}
        drawn.append(SweepSizes(**{name: round(float(np.exp(x))) for name, x in logs.items()}))
    return drawn


def time_measure(
    measure: str, base: SweepSizes, others: Sequence[SweepSizes], folder: Path
) -> dict[SweepSizes, float]:
    """Return the CPU seconds of every sweep in units of the matrix product timed beside it."""
    grid = [base]
    for axis in AXES:
        grid += [replace(base, **{axis: factor * getattr(base, axis)}) for factor in (2, 4)]
    _time_sweep(measure, replace(base, rows=200, orders=1, sizes=2), folder)  # loads compiled code
    times = {}
    for sizes in [*grid, *others]:
        cost.product_seconds.cache_clear()
        times[sizes] = _time_sweep(measure, sizes, folder) / cost.product_seconds()
        log(f"{measure}, {sizes}: {times[sizes]:.4g} products")
    return times


def _time_sweep(measure: str, sizes: SweepSizes, folder: Path) -> float:
    store, run = sizes.store(folder), folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    start = time.process_time()
    with quiet():
        sweep(store, out=run, fractions=sizes.fractions, seeds=sizes.orders, measures=(measure,))
    return time.process_time() - start


def fit(times: Mapping[SweepSizes, float]) -> dict[str, float]:
    """Fit the weights of `cost.work_of`, none negative: least squares of the relative errors."""
    seconds = np.array(list(times.values()))
    work = [cost.work_of(sizes.layer) for sizes in times]
    names = list(work[0])
    design = np.array([[one[name] for name in names] for one in work]) / seconds[:, None]
    scales = design.max(axis=0)
    weights, _ = nnls(design / scales, np.ones(len(seconds)))
    return {
        name: float(f"{weight / scale:.5g}")
        for name, weight, scale in zip(names, weights, scales, strict=True)
        if weight > 0.0
    }


def errors_of(times: Mapping[SweepSizes, float], weights: Mapping[str, float]) -> list[float]:
    """Return the relative errors of the fitted sweeps themselves."""
    work = [cost.work_of(sizes.layer) for sizes in times]
    guesses = [sum(weight * one[name] for name, weight in weights.items()) for one in work]
    return [guess / truth - 1.0 for guess, truth in zip(guesses, times.values(), strict=True)]


def exponent(times: Mapping[SweepSizes, float], base: SweepSizes, axis: str) -> float:
    """Return the slope of log seconds in the log of one size that was doubled twice."""
    points = [replace(base, **{axis: k * getattr(base, axis)}) for k in (1, 2, 4)]
    x = np.log([getattr(one, axis) for one in points])
    return float(np.polyfit(x, np.log([times[one] for one in points]), 1)[0])


def write_constants(fits: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the constants of the fitted measures in the package."""
    content = json.loads(_CONSTANTS.read_text(encoding="utf-8"))
    content["measures"] |= fits
    _CONSTANTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def compare(cases: Sequence[tuple[SweepSizes, tuple[str, ...]]], folder: Path) -> str:
    """Run each sweep as a command, and return a table of estimates and measurements."""
    lines = [
        "| sweep | measures | CPU s, estimated | measured | error | GB, estimated | measured | "
        "error |",
        "| - | - | -: | -: | -: | -: | -: | -: |",
    ]
    for sizes, measures in cases:
        store, run = sizes.store(folder), folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        cost.product_seconds.cache_clear()
        options = ["--quiet", "--seeds", str(sizes.orders)]
        options += [f"--fraction={fraction}" for fraction in sizes.fractions]
        options += [f"--measure={measure}" for measure in measures]
        script = "from criticalmass.cli.main import main; main()"
        command = [sys.executable, "-c", script, "sweep", str(store.path), "--out", str(run)]
        dry = subprocess.run(
            [*command, *options, "--dry-run", "--format", "json"],
            check=True,
            capture_output=True,
            text=True,
        )
        estimate = json.loads(dry.stdout)[-1]
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise subprocess.CalledProcessError(status, command)
        cells = [
            f"n={sizes.rows} d={sizes.neurons} C={sizes.classes}, {sizes.sizes} sizes x "
            f"{sizes.orders} seeds",
            ", ".join(measures),
        ]
        pairs = (
            (estimate["CPU s"], used.ru_utime + used.ru_stime),
            (estimate["GB"], used.ru_maxrss * 1024 / 1e9),
        )
        for guess, truth in pairs:
            cells += [f"{guess:.3g}", f"{truth:.3g}", f"{guess / truth - 1.0:+.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
        log(lines[-1])
    return "\n".join(lines)


def _fit_table(times: Mapping[str, Mapping[SweepSizes, float]], base: SweepSizes) -> str:
    lines = [
        f"| measure | {' | '.join(AXES)} | errors of the fit, median and largest |",
        "| - | -: | -: | -: | -: | -: | -: |",
    ]
    for name, seconds in times.items():
        slopes = " | ".join(f"{exponent(seconds, base, axis):.2f}" for axis in AXES)
        errors = np.abs(errors_of(seconds, fit(seconds)))
        lines.append(f"| {name} | {slopes} | {np.median(errors):.0%}, {errors.max():.0%} |")
    return "\n".join(lines) + "\n"


def draw(times: Mapping[str, Mapping[SweepSizes, float]], base: SweepSizes, path: Path) -> None:
    """Draw the growth along each axis, one line per measure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(AXES), figsize=(13, 3.4), sharey=True, layout="constrained")
    for axis, panel in zip(AXES, axes, strict=True):
        points = [replace(base, **{axis: k * getattr(base, axis)}) for k in (1, 2, 4)]
        x = [getattr(one, axis) for one in points]
        for name, seconds in times.items():
            panel.plot(x, [seconds[one] / seconds[base] for one in points], "o-", label=name)
        panel.set(xscale="log", yscale="log", xlabel=axis)
        panel.set_xticks(x, [f"{value:,}" for value in x])
        panel.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("CPU seconds over the base's")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
