"""The benchmark of coverage: its true values are right, and it runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.programs import run_program

import criticalmass as cm
from criticalmass.analysis.columns import Draws

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
    printed = run_program(
        "benchmarks.coverage", "--repeats", "2", "--workers", "1", "--only", "coarse",
        "--only", "pair",
    )  # fmt: skip
    rows = [line for line in printed.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 2
    assert rows[0].startswith(f"| {known.CASES['coarse'].title} |")
    for row in rows:
        assert all(0.0 <= float(share) <= 1.0 for share in re.findall(r"\d\.\d{3}", row))
        assert len(re.findall(r"\d\.\d{3}", row)) == 9


@pytest.mark.parametrize("measure", ["centroid", "cka-debiased"])
@pytest.mark.usefixtures("all_drawn_subsets")
def test_a_design_in_memory_has_the_intervals_of_a_sweep(
    measure: str, coverage: Any, tmp_path: Path
) -> None:
    designs = importlib.import_module("benchmarks.designs")
    in_memory = importlib.import_module("benchmarks.in_memory")
    design = designs.Design("single", measure, 100, 5)
    draws = Draws(0.95, 1000, 0)
    curve = in_memory.measure(design, 0, draws).curve
    x, y = design.draw(100, np.random.default_rng([7, 0]))
    x_train, y_train = design.train()
    store = cm.import_features(
        {"train": x_train, "test": x}, out=tmp_path / "features",
        labels={"train": y_train, "test": y},
    )  # fmt: skip
    run = cm.sweep(store, out=tmp_path / "run", seeds=5, measures=measure)
    table = cm.curves(run, resamples=1000)
    assert curve.full == pytest.approx(table["value_full"].iloc[0])
    low, high = curve.interval(curve.mean_draws)
    widths = (table["high"] - table["low"]).to_numpy(float)
    # Other subsets were drawn, so widths differ by about a tenth.
    assert np.median((high - low)[:-1] / widths[:-1]) == pytest.approx(1.0, abs=0.2)


def test_compare_states_no_difference_of_equal_runs(coverage: Any) -> None:
    tables = importlib.import_module("benchmarks.coverage_of_tables")
    shares = tables.counted([tables.false_differences(3, repeat) for repeat in range(3)])
    assert shares["value: no false statement"][0] > 0.8
    assert shares["value: interval holds 0"][0] > 0.8
    assert all(given == 1.0 for _, given in shares.values())
