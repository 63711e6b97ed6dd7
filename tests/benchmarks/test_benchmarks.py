"""The benchmarks run, and both sides solve the same problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.programs import run_alone, run_program

from benchmarks import scaling, timing
from criticalmass.measures.registry import SIMILARITIES
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.cost import work_of

RATIO = re.compile(r"\*\*\d[\d.e+]* x\*\*")


@pytest.fixture
def run() -> Callable[..., str]:
    """Run a benchmark in its own process; return its output.

    Its threads, locks and limits of the process would outlast it here.
    """
    return run_program


def test_every_row_of_the_speed_table(
    run: Callable[..., str], make_store: Callable[..., FeatureStore]
) -> None:
    pytest.importorskip("torch")
    store = make_store("features")
    text = run("benchmarks.probes", "--quick", "--repeats", "1", "--store", str(store.path))
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    # Five data sets, the small one with two peers, two lines each; two lines of CKA.
    assert len(rows) == 2 * 6 + 2
    assert all(RATIO.search(row) for row in rows)
    assert sum("real features" in row for row in rows) == 2
    assert sum("torch" in row for row in rows) == 2
    assert RATIO.search(next(line for line in text.splitlines() if "gain of" in line))
    assert "share of the limit" in text
    # The true gap of our final fits, from a lower bound on the optimum.
    gaps = re.findall(r"at most (\S+) \(ours\)", text)
    assert len(gaps) == 6
    assert all(float(gap) <= 1e-6 for gap in gaps)


def test_a_row_of_score_bounds_per_design(run: Callable[..., str]) -> None:
    text = run("benchmarks.score_bounds", "--draws", "20", "--margins", "2")
    rows = re.findall(r"^\| .* \| [\d,]+ \| (\d\.\d+) \| (\d\.\d+) \| \S+ \|$", text, re.MULTILINE)
    assert len(rows) == 11
    # Skewed scores: in all designs together Student's bound is false more often.
    assert sum(float(bet) for _, bet in rows) < sum(float(student) for student, _ in rows)


def test_one_row_alone(run: Callable[..., str]) -> None:
    text = run("benchmarks.probes", "--quick", "--repeats", "1", "--only", "cka")
    differences = re.findall(r"largest difference from the textbook (\S+)\.", text)
    assert len(differences) == 1
    assert float(differences[0]) < 1e-12
    assert "logistic" not in text


def test_similarities_are_those_of_the_textbook(run: Callable[..., str]) -> None:
    text = run("benchmarks.similarity", "--quick")
    differences = re.findall(r"^\| ([a-z0-9-]+) \|.* (\S+) \|$", text, re.M)
    assert {name for name, _ in differences[1:]} >= set(SIMILARITIES)
    for name, difference in differences:
        # The cosines of one neuron are all 1 or -1, so the order of ties depends on rounding.
        tolerances = {"mutual-knn": 1e-6, "retrieval": 0.02, "retrieval-recall": 0.02}
        if name in SIMILARITIES:
            assert float(difference) < tolerances.get(name, 1e-12)


def test_neighbours_beside_the_plain_product(run: Callable[..., str], tmp_path: Path) -> None:
    text = run(
        "benchmarks.neighbours_scale", "--dir", str(tmp_path), "--rows", "3000",
        "--neurons", "32", "--queries", "50", "--repeats", "1", "--even-if-busy",
    )  # fmt: skip
    rows = [line for line in text.splitlines() if line.startswith(("| cosine", "| euclidean"))]
    assert len(rows) == 4
    assert all(RATIO.search(row) for row in rows)
    assert "anonymous" in text


def test_memory_of_a_sweep(tmp_path: Path) -> None:
    lines = run_alone("benchmarks.memory", "--quick", "--dir", str(tmp_path)).splitlines()
    assert RATIO.search(next(line for line in lines if "ratio of peak" in line))
    # The run is deleted; the store is kept for the next call.
    assert [path.name for path in tmp_path.iterdir()] == ["store-2000x32"]


def test_seconds_of_intervals(run: Callable[..., str]) -> None:
    text = run("benchmarks.bootstrap", "--quick", "--repeats", "1")
    assert re.findall(r"\| \*\*\d+\.\d\d\*\* \| \d+\.\d\d \| under 5 s \|", text) != []
    assert text.count("| redundancy at") == 2


def test_seconds_of_a_report(run: Callable[..., str], tmp_path: Path) -> None:
    text = run(
        "benchmarks.report", "--layers", "2", "--seeds", "2", "--n-test", "200",
        "--folder", str(tmp_path), "--even-if-busy",
    )  # fmt: skip
    assert re.search(r"report: [\d.]+ s wall, [\d.]+ s CPU, [\d.]+ MB", text)
    assert (tmp_path / "report.html").stat().st_size < 6e6


def test_seconds_of_explain(run: Callable[..., str], tmp_path: Path) -> None:
    text = run("benchmarks.explain", "--quick", "--repeats", "1", "--dir", str(tmp_path))
    row = next(line for line in text.splitlines() if "600 x 32" in line)
    assert re.search(r"\| [\d.]+ \([\d.]+ to [\d.]+\) \| [\d.]+ \| none \|", row)


def test_cost_of_a_sweep(run: Callable[..., str], tmp_path: Path) -> None:
    """A slope per axis, and a sweep whose time and memory the dry run estimated."""
    text = run("benchmarks.scaling", "--quick", "--dir", str(tmp_path))
    exponents = next(line for line in text.splitlines() if line.startswith("| cka |"))
    assert len(re.findall(r"-?\d+\.\d\d", exponents)) == 5
    text = run("benchmarks.scaling", "--quick", "--held-out", "--dir", str(tmp_path))
    assert re.search(r"\| cka \| [\d.]+ \| [\d.]+ \| [+-]\d+% \|", text)


def test_times_that_are_a_sum_of_counted_work_are_foreseen() -> None:
    weights = {"constant": 5.0, "passes": 2e-7, "subset factors": 3e-8}

    def times(grid: Sequence[scaling.SweepSizes]) -> dict[scaling.SweepSizes, float]:
        work = {sizes: work_of(sizes.layer) for sizes in grid}
        return {s: sum(w * work[s][name] for name, w in weights.items()) for s in grid}

    fitted = scaling.fit(times([scaling.BASE, *scaling.random_sizes()]))
    others = times([sizes for sizes, _ in scaling.HELD_OUT])
    assert np.abs(scaling.errors_of(others, fitted)).max() < 0.01
    assert all(weight > 0.0 for weight in fitted.values())


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_row_beside_other_jobs_is_refused(is_busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    load = 0.4 * timing.core_count() if is_busy else 0.0
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (load, load, load))
    row, text = timing.measure_row(lambda: "row", even_if_busy=False, patience=0.0)
    assert (row, "refused" in text) == ((None, True) if is_busy else ("row", False))
    assert timing.measure_row(lambda: "row", even_if_busy=True)[0] == "row"


def test_a_row_is_refused_if_the_machine_became_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([0.0, 1.4 * timing.core_count()])
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    assert timing.measure_row(lambda: "row", even_if_busy=False)[0] is None


def test_ours_gives_timms_features() -> None:
    pytest.importorskip("torch")
    text = run_alone("benchmarks.extraction", "--quick", "--repeats", "1")
    row = next(line.split(" | ") for line in text.splitlines() if line.startswith("| quick"))
    assert re.fullmatch(r"\*\*[\d.]+ x \([\d.]+ to [\d.]+\)\*\*", row[4])
    exact, *rounded = (float(gap) for gap in row[8].split(", "))
    assert exact < 1e-4
    # bfloat16, if the processor has it, differs by a few of its steps.
    assert all(1e-4 < gap < 0.1 for gap in rounded)


def test_the_effect_of_bf16_is_shown_for_every_size_and_delta(run: Callable[..., str]) -> None:
    pytest.importorskip("torch")
    text = run("benchmarks.precision", "--quick")
    if "has no bfloat16" in text:
        pytest.skip("the processor has no bfloat16")
    differences = re.findall(r"^\| cka \| \d+ of 96 \|.*\| ([+-][\d.]+) \|$", text, re.M)
    assert len(differences) == 3
    assert all(abs(float(difference)) < 0.05 for difference in differences)
    assert differences[-1] == "+0.0000"
    assert len(re.findall(r"^\| logistic \| 0\.\d+ \| [\d.]+ \[", text, re.M)) == 3


def test_import_from_a_database_and_write_back(run: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("duckdb", reason="NOT TESTED: duckdb is not installed")
    text = run(
        "benchmarks.databases", "--dir", str(tmp_path), "--rows", "300", "--only", "DuckDB",
        "--only", "SQLite", "--even-if-busy",
    )  # fmt: skip
    assert len(re.findall(r"^\| (?:DuckDB|SQLite)(?: \| [\d.,]+ (?:s|MB)){6} \|$", text, re.M)) == 2
