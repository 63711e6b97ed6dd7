"""How the cost of a sweep grows: ``python -m benchmarks.scaling --dir DIR``.

Each size of a sweep (rows, neurons, classes, seeds, sizes) is doubled twice from one base. CPU
seconds of each sweep over those of a matrix product are fitted by a power law per measure, and
``--write`` puts constants and exponents where ``sweep --dry-run`` reads them. Then six other sweeps
(``--held-out``) run as commands in their own processes, and their CPU seconds and peak memory are
compared with what the dry run says. CPU seconds are those of one thread.
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
from pathlib import Path

import numpy as np

from benchmarks.memory import make_store
from benchmarks.problems import LayerRecipe
from benchmarks.timing import describe_machine, log
from criticalmass.core.progress import quiet
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


BASE = SweepSizes(rows=4000, neurons=256, classes=10, orders=2, sizes=4)
QUICK = SweepSizes(rows=300, neurons=16, classes=4, orders=1, sizes=2)
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
    parser.add_argument("--held-out", action="store_true", help="only compare")
    parser.add_argument("--figure", type=Path, help="file for a figure of the growth")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    options = parser.parse_args(arguments)
    base = QUICK if options.quick else BASE
    print(f"Machine: {describe_machine()}.\n")
    if not options.held_out:
        names = options.measure or (("cka",) if options.quick else MEASURES)
        times = {name: time_measure(name, base, options.dir) for name in names}
        fits = {name: fit(seconds) for name, seconds in times.items()}
        print(_fit_table(fits), flush=True)
        if options.figure is not None:
            draw(times, base, options.figure)
        if options.write:
            write_constants(fits)
    print(compare(_HELD_OUT_QUICK if options.quick else HELD_OUT, options.dir))


def time_measure(measure: str, base: SweepSizes, folder: Path) -> dict[SweepSizes, float]:
    """Return the CPU seconds of every sweep in units of the matrix product timed beside it."""
    grid = [base]
    for axis in cost.AXES:
        grid += [replace(base, **{axis: factor * getattr(base, axis)}) for factor in (2, 4)]
    _time_sweep(measure, replace(base, rows=200, orders=1, sizes=2), folder)  # loads compiled code
    times = {}
    for sizes in grid:
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
    """Fit ``fixed + exp(constant) rows^a neurons^b ...``: least squares of the logarithms.

    ``fixed``, what every sweep takes, is the best of a grid below the shortest time.
    """
    logs = np.array([[1.0, *(np.log(getattr(one, axis)) for axis in cost.AXES)] for one in times])
    seconds = np.array(list(times.values()))
    best, solution = (np.inf, 0.0), np.zeros(1 + len(cost.AXES))
    for fixed in np.linspace(0.0, 0.95, 96) * seconds.min():
        trial = np.linalg.lstsq(logs, np.log(seconds - fixed), rcond=None)[0]
        # Errors relative to the whole time, as the estimate is judged.
        error = float(np.square(np.log((fixed + np.exp(logs @ trial)) / seconds)).sum())
        if error < best[0]:
            best, solution = (error, float(fixed)), trial
    names = ("fixed", "constant", *cost.AXES)
    return {
        name: round(float(value), 4)
        for name, value in zip(names, [best[1], *solution], strict=True)
    }


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


def _fit_table(fits: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| measure | {' | '.join(cost.AXES)} |", "| - | -: | -: | -: | -: | -: |"]
    for name, values in fits.items():
        lines.append(f"| {name} | {' | '.join(f'{values[axis]:.2f}' for axis in cost.AXES)} |")
    return "\n".join(lines) + "\n"


def draw(times: Mapping[str, Mapping[SweepSizes, float]], base: SweepSizes, path: Path) -> None:
    """Draw the growth along each axis, one line per measure, with the exponents."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(cost.AXES), figsize=(12, 2.8), sharey=True)
    for axis, panel in zip(cost.AXES, axes, strict=True):
        for name, seconds in times.items():
            fitted = fit(seconds)
            points = [replace(base, **{axis: k * getattr(base, axis)}) for k in (1, 2, 4)]
            x = [getattr(one, axis) for one in points]
            label = f"{name} {fitted[axis]:.2f}"
            panel.loglog(x, [seconds[one] / seconds[base] for one in points], "o-", label=label)
        panel.set_xlabel(axis)
        panel.legend(fontsize=6, title="exponent", title_fontsize=6)
    axes[0].set_ylabel("CPU seconds over those of the base")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
