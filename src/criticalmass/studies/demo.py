"""`demo`: measure two real models on real data and write one report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from criticalmass.core.progress import write_line
from criticalmass.errors import DataUnavailableError

if TYPE_CHECKING:
    from criticalmass.storage.run import Run

IMAGE_MODEL, TEXT_MODEL = "pypi:efficientnet-lite0", "pypi:minilm-l6"
IMAGE_DATA, TEXT_DATA = "demo:fashion-mnist", "demo:wordnet-nouns"
FALLBACK_IMAGES = "sklearn:digits"
DELTAS = (0.8, 0.9, 0.95)
SEEDS = 5


@dataclass(frozen=True)
class DemoResult:
    """The result of `demo`.

    Attributes
    ----------
    runs: one run for each pair of a model and a dataset.
    report: path of the page about all runs.
    seconds: wall time.
    peak_bytes: largest resident memory of the process.
    """

    runs: tuple[Run, ...]
    report: Path
    seconds: float
    peak_bytes: int


def demo(
    out: str | os.PathLike[str] = "demo", *, on_run: Callable[[Run], None] | None = None
) -> DemoResult:
    """Measure an image model and a text model, and write one report about both.

    Steps that an earlier call finished in the same folder are not repeated. If Fashion-MNIST is
    not available, scikit-learn's digits are used instead. If the glosses of WordNet are not
    available, the text model is left out. Both cases are reported on stderr.

    Parameters
    ----------
    out: folder of the results.
    on_run: called with a run that has something new to show, e.g. to print its table: that of the
        image model with CKA, which takes seconds, and each run when it is complete.

    Raises
    ------
    MissingExtraError: a package that the demo needs is not installed.
    """
    from criticalmass.reporting.page.report import report

    started = time.perf_counter()
    folder = Path(out)
    try:
        runs = [_measure_pair(IMAGE_MODEL, IMAGE_DATA, folder, on_run)]
    except DataUnavailableError as error:
        write_line(f"{error}; using scikit-learn's digits instead")
        runs = [_measure_pair(IMAGE_MODEL, FALLBACK_IMAGES, folder, on_run)]
    try:
        runs.append(_measure_pair(TEXT_MODEL, TEXT_DATA, folder, on_run))
    except DataUnavailableError as error:
        write_line(f"{error}; leaving the text model out")
    page = report(runs, folder / "report.html", deltas=DELTAS)
    return DemoResult(tuple(runs), page, time.perf_counter() - started, peak_memory())


def _measure_pair(
    model: str, dataset: str, folder: Path, on_run: Callable[[Run], None] | None
) -> Run:
    """Extract and sweep one pair of a model and a dataset, in its own folder."""
    from criticalmass.extraction.extract import extract
    from criticalmass.sweeps.refine import auto_refinement
    from criticalmass.sweeps.sweep import sweep

    pair_folder = folder / dataset.partition(":")[2]
    store = extract(model, dataset, out=pair_folder / "features")
    out, refine = pair_folder / "run", auto_refinement(DELTAS)
    if on_run is not None and dataset != TEXT_DATA:
        # CKA takes seconds, and the sweep below does not compute it again.
        first = sweep(store, out=out, seeds=SEEDS, measures=("cka",))
        if set(first.frame()["measure"]) == {"cka"}:
            on_run(first)
    run = sweep(store, out=out, seeds=SEEDS, refine=refine)
    if on_run is not None:
        on_run(run)
    return run


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
