"""A real browser, and a page about a run whose names are hostile.

Where no browser is found these tests are skipped, and the end of pytest's output says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser.find import NAMES

from criticalmass.reporting.page.report import report
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

HOSTILE = '<script>alert(1)</script>"\u2028&'
N_TEST, SIZES, N_NEURONS = 400, (4, 8, 16, 32, 64), 64
_MISSING: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report at the end that the page was not tested in a browser."""
    for reason in _MISSING[:1]:
        terminalreporter.section("THE PAGE WAS NOT TESTED IN A BROWSER", sep="!", red=True)
        terminalreporter.line(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start a headless browser once."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        reason = "playwright is not installed; pip install playwright"
        _MISSING.append(reason)
        pytest.skip(reason)
    with sync_playwright() as player:
        path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
        try:
            # Without a path Playwright starts the browser that it has installed, if any.
            started = player.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            reason = f"no browser to test the page in ({str(error).splitlines()[0]}); "
            reason += "install chromium, or name one in CHROMIUM"
            _MISSING.append(reason)
            pytest.skip(reason)
        yield started
        started.close()


def make_run(folder: Path, layers: tuple[str, ...]) -> Run:
    """Make a run by hand: two selectors, three classes of different difficulty, in every layer."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N_TEST)
    run = Run.create(folder, {"model": "<b>toy</b>", "dataset": "blobs"})
    with run.writer() as writer:
        writer.put_labels(labels, (HOSTILE, "=cmd()", "plain, with a comma"))
        for layer in layers:
            cells = [("full", 0, N_NEURONS)]
            cells += [("random", seed, size) for seed in range(3) for size in SIZES]
            cells += [("pca-top", 0, size) for size in SIZES]
            rows, predictions = [], []
            for selector, seed, size in cells:
                hit = rng.random(N_TEST) < 0.95 - (0.7 - 0.2 * labels) / size**0.5
                predictions.append(np.where(hit, labels, (labels + 1) % 3).astype(np.uint8))
                rows.append(_row(layer, selector, seed, size, float(hit.mean())))
            writer.append(rows, Artifact("predictions", np.array(predictions)))
    return run


def _row(layer: str, selector: str, seed: int, size: int, value: float) -> dict[str, Any]:
    return {
        "model": "<b>toy</b>",
        "layer": layer,
        "dataset": "blobs",
        "split": "test",
        "selector": selector,
        "measure": "centroid",
        "fraction": size / N_NEURONS,
        "n_kept": size,
        "n_neurons": N_NEURONS,
        "seed": seed,
        "value": value,
        "value_full": 0.9,
        "n_train": 900,
        "n_test": N_TEST,
        "seconds": 0.1,
        "status": "ok",
        "cell": f"{layer}-{selector}-{seed}-{size}",
    }


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page about two runs, one of them with two layers."""
    folder = tmp_path_factory.mktemp("page")
    runs = [make_run(folder / "one", (HOSTILE, "b")), make_run(folder / "two", ("b",))]
    return report(runs, folder / "report.html")
