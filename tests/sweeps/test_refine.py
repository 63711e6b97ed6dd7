"""Refining a run: planted critical masses, interruption, budget, and the tables afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.core import progress
from criticalmass.core.moments import moments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import ProbeScores, ProbeTask
from criticalmass.measures.similarity.cka import prefix_cka
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps import jobs as job_module

D, N_TEST, INFORMATIVE = 64, 500, 37
SEED_OF = {np.random.default_rng(s).permutation(D).astype(np.intp).tobytes(): s for s in range(100)}
GRID = (0.1, 0.25, 0.5, 0.9, 1.0)


@pytest.fixture
def wide(tmp_path: Path) -> FeatureStore:
    """64 neurons: the 37th separates the two classes, the others are noise."""
    rng = np.random.default_rng(0)
    arrays, labels = {}, {}
    for split, n in (("train", 200), ("test", N_TEST)):
        labels[split] = np.arange(n) % 2
        arrays[split] = rng.standard_normal((n, D)).astype(np.float32)
        arrays[split][:, INFORMATIVE - 1] += 12 * labels[split]
    return cm.import_features(arrays, out=tmp_path / "wide", labels=labels)


def run_sweep(store: FeatureStore, out: Path, **changes: Any) -> Run:
    arguments: dict[str, Any] = {"fractions": GRID, "measures": "knn", "refine": 0.9}
    return cm.sweep(store, out=out, **(arguments | changes))


def plant(monkeypatch: pytest.MonkeyPatch, curve: Callable[[int, int], float]) -> list[Any]:
    """Let every probe score ``curve(size, seed)``; return the list of its jobs."""
    jobs: list[Any] = []

    def probe(task: ProbeTask) -> ProbeScores:
        jobs.append((task.n_seeds, task.sizes))
        predicted = np.zeros((*task.grid, task.n_test), dtype=np.uint8)
        for i, order in enumerate(task.orders):
            seed = SEED_OF[np.asarray(order, dtype=np.intp).tobytes()]
            for j, size in enumerate(task.sizes):
                right = np.arange(task.n_test) < round(curve(size, seed) * task.n_test)
                predicted[i, j] = np.where(right, _labels(), 1 - _labels())
        blank = np.full(task.grid, np.nan)
        passes, seconds = np.ones(task.grid, dtype=np.int32), np.zeros(task.grid)
        status = np.full(task.grid, "ok", dtype=object)
        return ProbeScores(predicted, blank, blank, passes, seconds, status)

    monkeypatch.setattr(job_module, "get_probe", lambda name: probe)
    return jobs


def _labels() -> np.ndarray[Any, Any]:
    return np.arange(N_TEST) % 2


def steady(size: int, seed: int) -> float:
    """Reach 0.9 at exactly 29 neurons; seeds hardly differ."""
    return min(1.0, 0.9 + 0.004 * (size - 29)) if size >= 29 else 0.02 * size + (seed % 2) * 0.002


def shaky(size: int, seed: int) -> float:
    """Reach 0.9 at 29 neurons on average; a seed deviates by up to five neurons."""
    off = (-5, 5, -2, 2, 0, 3, -3, 1, -1, 4, -4)[seed % 11]
    return float(np.clip(0.9 + 0.004 * (size + off - 29), 0.0, 1.0)) if size < D else 1.0


def without_time(run: Run) -> pd.DataFrame:
    table = run.frame().drop(columns=["seconds", "artifact"])
    return table.sort_values("cell").reset_index(drop=True)


def row_of(run: Run, **options: Any) -> pd.Series:
    return cm.redundancy(run, **options).iloc[0]


# --- results --------------------------------------------------------------------------------------


def test_a_deterministic_selector_is_bisected_to_the_informative_neuron(
    wide: FeatureStore, tmp_path: Path
) -> None:
    run = run_sweep(wide, tmp_path / "run", selectors="first", measures="centroid")
    row = row_of(run)
    assert row["critical_mass"] == INFORMATIVE
    assert (row["critical_mass_low"], row["critical_mass_high"]) == (INFORMATIVE, INFORMATIVE)
    assert row["refined"]
    assert not row["at_floor"]
    sizes = set(run.frame().query("selector == 'first'")["n_kept"])
    assert {INFORMATIVE - 1, INFORMATIVE} <= sizes
    assert len(sizes) <= len(GRID) + 6


def test_a_planted_curve_is_refined_to_one_neuron(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, steady)
    run = run_sweep(wide, tmp_path / "run", seeds=3)
    (entry,) = run.manifest["refined"]
    assert (entry["critical_mass"], entry["low"], entry["high"]) == (29, 29, 29)
    assert entry["short_of"] is None
    for estimator in ("strict", "interpolated"):
        row = row_of(run, estimator=estimator)
        assert row["critical_mass"] == 29
        assert row["critical_mass_low"] <= 29 <= row["critical_mass_high"]
        assert row["refined"]
    coarse = run_sweep(wide, tmp_path / "coarse", seeds=3, refine=None)
    assert row_of(coarse, estimator="strict")["critical_mass"] == 32
    assert not row_of(coarse)["refined"]
    assert "refined" not in coarse.manifest


def test_cells_of_refining_are_rows_like_others(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, steady)
    # The crossing of 0.2 lies between 6 and 16 neurons; 6 neurons are the grid's fraction 0.1.
    run = run_sweep(wide, tmp_path / "run", seeds=2, refine=(0.2, 0.9))
    table = run.frame().query("selector == 'random'")
    assert (table.query("n_kept == 6")["seed"]).max() == 4
    assert (table["n_kept"] == (table["fraction"] * D).round()).all()
    off_grid = table[~table["n_kept"].isin([6, 16, 32, 58, 64])]
    assert (off_grid["fraction"] == off_grid["n_kept"] / D).all()
    # Extra seeds of a grid size have the fraction of the grid.
    assert table.groupby("n_kept")["fraction"].nunique().max() == 1
    assert table["value_full"].notna().all()
    for seed in table["seed"].unique():
        assert sorted(run.order("random", wide.layers[0], int(seed))) == list(range(D))
    curve = cm.curves(run)
    assert curve["n_kept"].is_monotonic_increasing
    assert {28, 29} <= set(curve["n_kept"])


def test_an_undecided_crossing_is_an_interval(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, shaky)
    run = run_sweep(wide, tmp_path / "run")
    (entry,) = run.manifest["refined"]
    assert entry["short_of"] == "seeds"
    assert entry["n_seeds"] == 20
    assert entry["low"] < 29 < entry["high"]
    means = run.frame().query("selector == 'random'").groupby("n_kept")["value"].mean()
    mass = entry["critical_mass"]
    assert means[mass] >= 0.9 > means[mass - 1]
    row = row_of(run)
    assert row["critical_mass"] == mass
    assert row["critical_mass_low"] <= entry["low"]
    assert row["critical_mass_high"] >= entry["high"]
    more = run_sweep(wide, tmp_path / "run", refine_seeds=88)
    (after,) = more.manifest["refined"]
    assert after["high"] - after["low"] < entry["high"] - entry["low"]
    assert after["critical_mass"] == 29


def test_several_deltas_share_jobs(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plant(monkeypatch, steady)
    run = run_sweep(wide, tmp_path / "run", refine=(0.9, 0.94), seeds=3)
    table = cm.redundancy(run, (0.9, 0.94)).set_index("delta")
    assert table["critical_mass"].tolist() == [29, 39]
    assert table["refined"].all()
    assert len(run.manifest["refined"]) == 2
    alone = plant(monkeypatch, steady)
    for delta in (0.9, 0.94):
        run_sweep(wide, tmp_path / f"{delta}", refine=delta, seeds=3)
    assert len(jobs) < len(alone)


def test_below_the_floor_and_not_reached(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, steady)
    low = row_of(run_sweep(wide, tmp_path / "low", refine=0.07), deltas=0.07)
    assert (low["critical_mass"], low["at_floor"], low["reached"]) == (4, False, True)
    one = row_of(run_sweep(wide, tmp_path / "one", refine=0.01), deltas=0.01)
    assert (one["critical_mass"], one["at_floor"], one["refined"]) == (1, False, True)
    plant(monkeypatch, lambda size, seed: 1.0 if size == D else 0.1)
    none = row_of(run_sweep(wide, tmp_path / "none"))
    assert (none["critical_mass"], none["reached"], none["refined"]) == (D, False, True)
    assert none["dr"] == 0.0


def test_cka_is_searched_among_all_sizes_of_one_pass(
    wide: FeatureStore, tmp_path: Path, calls: Any
) -> None:
    run = run_sweep(wide, tmp_path / "run", measures="cka", refine=(0.8, 0.9), seeds=3)
    # One pass for the grid, and one for each gap of the grid that the search visits.
    assert len(calls.take()) <= 1 + len(GRID)
    scatter = moments(wide.features("test")).scatter
    orders = [np.random.default_rng(seed).permutation(D) for seed in range(20)]
    every = np.stack([prefix_cka(scatter, order) for order in orders])
    table = cm.redundancy(run, (0.8, 0.9)).set_index("delta")
    for delta in (0.8, 0.9):
        expected = int(np.argmax(every.mean(axis=0) >= delta)) + 1
        assert table.loc[delta, "critical_mass"] == expected
    counts = run.frame().query("selector == 'random'").groupby("n_kept")["seed"].nunique()
    # More seeds cost little, so a size gets all of them at once.
    assert set(counts) == {3, 20}
    row = run.frame().query("selector == 'random' and seed == 17").iloc[0]
    assert row["value"] == pytest.approx(every[17, row["n_kept"] - 1], abs=1e-12)
    assert run.artifact(row).shape == (32,)
    run_sweep(wide, tmp_path / "run", measures="cka", refine=(0.8, 0.9), seeds=3)
    assert calls.take() == []


def test_a_projection_is_refined_too(wide: FeatureStore, tmp_path: Path) -> None:
    run = run_sweep(wide, tmp_path / "run", selectors="pca-top", measures=("centroid", "cka"))
    table = cm.redundancy(run)
    # The first principal axis is the informative neuron.
    assert table.set_index("measure").loc["centroid", "critical_mass"] == 1
    assert table["refined"].all()


# --- continuing, budget, invalid arguments -------------------------------------------------------


@dataclasses.dataclass
class Stopping:
    """A backend that is interrupted after some jobs."""

    left: int

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield function(task)


def test_after_an_interruption_the_rows_are_the_same(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, shaky)
    arguments: dict[str, Any] = {"measures": ("knn", "cka"), "refine_seeds": 10}
    through = run_sweep(wide, tmp_path / "through", **arguments)
    for after in (2, 7):
        out = tmp_path / f"{after}"
        with pytest.raises(KeyboardInterrupt):
            run_sweep(wide, out, **arguments, backend=Stopping(after))
        run = run_sweep(wide, out, **arguments)
        pd.testing.assert_frame_equal(without_time(run), without_time(through))
        assert run.manifest["refined"] == through.manifest["refined"]


def test_a_second_sweep_computes_nothing_and_rerun_all_everything_once(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plant(monkeypatch, steady)
    first = run_sweep(wide, tmp_path / "run")
    before, table = sorted(jobs), without_time(first)
    jobs.clear()
    run_sweep(wide, tmp_path / "run")
    assert jobs == []
    again = run_sweep(wide, tmp_path / "run", rerun="all")
    assert sorted(jobs) == before
    pd.testing.assert_frame_equal(without_time(again), table)


def test_the_budget_is_kept_recorded_and_reported(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, shaky)
    grid = len(run_sweep(wide, tmp_path / "grid", refine=None).frame())
    with pytest.warns(UserWarning, match=r"between \d+ and \d+; the budget of 7 cells is spent"):
        run = run_sweep(wide, tmp_path / "run", refine_cells=7)
    assert grid < len(run.frame()) <= grid + 7
    (entry,) = run.manifest["refined"]
    assert (entry["short_of"], entry["most_cells"]) == ("cells", 7)
    assert entry["n_cells"] <= 7
    row = row_of(run)
    assert row["critical_mass_low"] <= entry["low"] <= 29 <= entry["high"]
    assert row["critical_mass_high"] >= entry["high"]


def test_results_on_other_features_are_not_shown(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, shaky)
    run = run_sweep(wide, tmp_path / "run", refine_seeds=8)
    manifest = run.manifest
    (entry,) = manifest["refined"]
    with run.writer() as writer:
        writer.update_manifest(refined=[{**entry, "low": 1, "high": D}])
    assert row_of(run)["critical_mass_high"] == D
    with run.writer() as writer:
        writer.update_manifest(refined=[{**entry, "low": 1, "high": D, "whole": "other"}])
    assert row_of(run)["critical_mass_high"] < D


def test_failed_cells_are_left_out_and_counted(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(size: int, seed: int) -> float:
        if size == 24:
            raise CriticalMassError("no fit")
        return steady(size, seed)

    plant(monkeypatch, failing)
    with pytest.warns(UserWarning, match=r"5 of \d+ cells failed"):
        run = run_sweep(wide, tmp_path / "run")
    assert run.manifest["refined"][0]["critical_mass"] == 29
    assert row_of(run)["n_failed"] == 5
    plant(monkeypatch, steady)
    assert row_of(run_sweep(wide, tmp_path / "run", rerun="failed"))["n_failed"] == 0


def test_a_layer_with_the_value_0_is_skipped(
    wide: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, lambda size, seed: 0.0)
    with pytest.warns(UserWarning, match="knn: the whole layer has no value above 0"):
        run = run_sweep(wide, tmp_path / "run")
    assert run.manifest["refined"] == []


def test_auto_refines_only_what_costs_little_beside_the_sweep(
    wide: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.display():
        run = run_sweep(
            wide, tmp_path / "both", measures=("knn", "cka"), seeds=5, refine="auto:0.5,0.9"
        )
    # 20 orders of CKA are cheap beside neighbours, and more neighbours are not.
    refined = {(entry["measure"], entry["delta"]) for entry in run.manifest["refined"]}
    assert refined == {("cka", 0.5), ("cka", 0.9)}
    shown = capsys.readouterr().err
    assert "refine: cka on penultimate: searched, at up to" in shown
    assert "refine: knn on penultimate: left out, because it may cost up to" in shown
    alone = run_sweep(wide, tmp_path / "alone", measures="cka", seeds=5, refine="auto")
    assert alone.manifest["refined"] == []
    # The choice is counted in operations, so that a second sweep computes nothing.
    rows = run.frame()
    again = run_sweep(
        wide, tmp_path / "both", measures=("knn", "cka"), seeds=5, refine="auto:0.5,0.9"
    )
    pd.testing.assert_frame_equal(again.frame(), rows)


@pytest.mark.parametrize("refine", [None, "none", ["none"]])
def test_none_refines_nothing(wide: FeatureStore, tmp_path: Path, refine: Any) -> None:
    run = run_sweep(wide, tmp_path / "run", measures="centroid", seeds=1, refine=refine)
    assert "refined" not in run.manifest


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"refine": "auto:2"}, "delta=2.0 is outside"),
        ({"refine": "auto:x"}, r"refine=\['x'\] must be one or several shares"),
        ({"refine": 0.0}, "delta=0.0 is outside"),
        ({"refine": "most"}, "refine='most' must be one or several shares"),
        ({"refine": ()}, r"refine=\(\) has no delta"),
        ({"refine_level": 1.0}, "refine_level=1.0 is outside"),
        ({"refine_seeds": 0}, "refine_seeds=0; give a whole number of 1 or more"),
        ({"refine_cells": 2.5}, "refine_cells=2.5; give a whole number"),
    ],
)
def test_invalid_arguments_raise_before_anything_is_computed(
    changes: dict[str, Any], text: str, wide: FeatureStore, tmp_path: Path
) -> None:
    with pytest.raises(CriticalMassError, match=text):
        run_sweep(wide, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_steps_and_answers_are_shown(
    wide: FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(monkeypatch, steady)
    with progress.display():
        run_sweep(wide, tmp_path / "run")
    shown = capsys.readouterr().err
    assert "refine, step 2 (24 neurons): 5 of 5 cells" in shown
    assert "knn, delta 0.9: critical mass 29 neurons, exact to one neuron" in shown


def test_the_command_line_refines_and_refuses_in_one_line(
    wide: FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(monkeypatch, steady)
    words = ["sweep", str(wide.path), "--out", str(tmp_path / "run"), "--measure", "knn", "--quiet"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--refine", "1.5"])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    budget = ["--refine-seeds", "10", "--refine-cells", "300", "--refine-level", "0.9"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--fraction", "0.25", "--refine", "0.9", "--refine", "0.5", *budget])
    assert left.value.code == 0
    refined = Run.open(tmp_path / "run").manifest["refined"]
    assert [entry["delta"] for entry in refined] == [0.5, 0.9]
    assert [entry["critical_mass"] for entry in refined] == [25, 29]
    assert (refined[0]["most_seeds"], refined[0]["most_cells"], refined[0]["level"]) == (
        10,
        300,
        0.9,
    )
