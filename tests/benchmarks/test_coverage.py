"""The benchmark of coverage: its true values are right, and it runs."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.known")


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.coverage")


def test_simulated_probes_have_the_true_accuracy(known: Any) -> None:
    probes = known.SimulatedProbes((2, 8, 32, 64), n_seeds=40, n_test=4000, seeds=0.3)
    rng = np.random.default_rng(0)
    hits = probes.hits(rng, rng.standard_normal(probes.n_test))
    assert hits.mean(axis=(0, 2)) == pytest.approx(probes.accuracy, abs=0.035)
    assert probes.truth().full == pytest.approx(0.85)
    # The whole layer is the same for all seeds, and easy samples are easy for all of them.
    assert (hits[:, -1] == hits[0, -1]).all()
    assert np.corrcoef(hits[0, 2], hits[1, 2])[0, 1] > 0.3


def test_truth_of_the_estimators_by_hand(known: Any, coverage: Any) -> None:
    truth = known.Truth({4: 0.4, 8: 0.6, 12: 0.75, 16: 0.8}, 0.8)
    # 0.9 * 0.8 = 0.72 lies 0.8 of the way from 8 to 12.
    assert coverage.true_critical_mass(truth, 16, "strict") == 12
    assert coverage.true_critical_mass(truth, 16, "interpolated") == 12
    assert (
        coverage.true_critical_mass(
            known.Truth({4: 0.4, 8: 0.6, 12: 0.9, 16: 0.8}, 0.8), 16, "interpolated"
        )
        == 10
    )


def test_truth_of_cka_is_the_populations(known: Any) -> None:
    truth = known.PopulationSweep("cka", n_neurons=8, fractions=(0.5, 1.0)).truth()
    assert truth.full == pytest.approx(1.0)
    assert 0.7 < truth.values[4] < 1.0


def test_the_table_is_printed(known: Any) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.coverage", "--repeats", "2", "--workers", "1",
            "--only", "coarse", "--only", "pair",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 2
    assert rows[0].startswith(f"| {known.CASES['coarse'].title} |")
    for row in rows:
        assert all(0.0 <= float(share) <= 1.0 for share in re.findall(r"\d\.\d{3}", row))
        assert len(re.findall(r"\d\.\d{3}", row)) == 9
