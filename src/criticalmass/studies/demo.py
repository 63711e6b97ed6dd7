"""The demo: two real models on real data, from nothing to a page."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from criticalmass.core.progress import say
from criticalmass.errors import DataUnavailableError

if TYPE_CHECKING:
    from criticalmass.storage.run import Run

VISION, TEXT = "pypi:efficientnet-lite0", "pypi:minilm-l6"
IMAGES, GLOSSES, ALWAYS_THERE = "demo:fashion-mnist", "demo:wordnet-nouns", "sklearn:digits"
DELTAS = (0.8, 0.9, 0.95)
SEEDS = 5


@dataclass(frozen=True)
class Demo:
    """What the demo made, and what it took.

    Attributes
    ----------
    runs: one run for each pair of model and dataset.
    report: path of the page about all of them.
    seconds: wall time.
    peak_bytes: largest memory the process held at a time.
    """

    runs: tuple[Run, ...]
    report: Path
    seconds: float
    peak_bytes: int


def demo(out: str | os.PathLike[str] = "demo") -> Demo:
    """Measure an image model and a text model, and write one report about both.

    Steps that an earlier demo finished in the same folder are not done again. Where Fashion-MNIST
    cannot be had, scikit-learn's digits stand in for it, and glosses that cannot be had are left
    out; both are said on stderr.

    Parameters
    ----------
    out: folder to write.

    Raises
    ------
    MissingExtraError: a package of the demo is not installed.
    """
    from criticalmass.reporting.page.report import report

    started = time.perf_counter()
    folder = Path(out)
    try:
        runs = [_measured(VISION, IMAGES, folder)]
    except DataUnavailableError as error:
        say(f"{error}; taking scikit-learn's digits instead")
        runs = [_measured(VISION, ALWAYS_THERE, folder)]
    try:
        runs.append(_measured(TEXT, GLOSSES, folder))
    except DataUnavailableError as error:
        say(f"{error}; leaving the text model out")
    page = report(runs, folder / "report.html", deltas=DELTAS)
    return Demo(tuple(runs), page, time.perf_counter() - started, peak_memory())


def _measured(model: str, dataset: str, folder: Path) -> Run:
    """Extract and sweep one pair of model and dataset, each pair in a folder of its own."""
    from criticalmass.extraction.extract import extract
    from criticalmass.sweeps.sweep import sweep

    place = folder / dataset.partition(":")[2]
    store = extract(model, dataset, out=place / "features")
    return sweep(store, out=place / "run", seeds=SEEDS)


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes; 0 where unknown."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
