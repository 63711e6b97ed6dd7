"""One subset for several tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm
from criticalmass import synthetic
from criticalmass.analysis.columns import CurveKey, Draws
from criticalmass.analysis.shared_subsets import _correlation, _SharedCurve, _Task
from criticalmass.cli.main import run_command
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

N_SEEDS = 30
GRID: dict[str, Any] = {
    "fractions": (0.25, 0.5, 0.75, 0.875, 1.0),
    "measures": ("centroid", "cka"),
    "selectors": ("random", "norm-high"),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two tasks on one layer of 16 neurons; each is told by one neuron, 2 and 9."""
    folder = tmp_path_factory.mktemp("tasks")
    runs = []
    for neuron in (2, 9):
        data = synthetic.draw(synthetic.needle(16, at=neuron), n_train=400, n_test=500, seed=neuron)
        store = synthetic.to_store(data, folder / f"features-{neuron}")
        runs.append(cm.sweep(store, out=folder / f"neuron-{neuron}", seeds=N_SEEDS, **GRID))
    return runs[0], runs[1]


def test_the_union_needs_the_neurons_of_all_tasks(tasks: tuple[Run, Run]) -> None:
    table = cm.shared_subsets(tasks, deltas=(0.8, 0.9))
    probe = table.query("measure == 'centroid'").reset_index(drop=True)
    assert set(probe["selector"]) == {"random"}  # norm-high chooses other neurons for each task
    # The truth on the same subsets: the share of both tasks is the smaller of their shares.
    frames = [run.frame().query("selector == 'random' and measure == 'centroid'") for run in tasks]
    shares = [f.assign(share=f["value"] / f["value_full"]) for f in frames]
    both = pd.concat(shares).groupby(["n_kept", "seed"])["share"].min().unstack().astype(float)
    for row in probe.to_dict("records"):
        dr = cm.diffused_redundancy(
            both.index / 16, both.to_numpy(), 1.0, row["delta"], estimator="monotone"
        )
        assert abs(row["critical_mass"] - np.ceil(16 * (1 - dr) - 1e-9)) <= 1
        assert row["critical_mass_low"] <= row["critical_mass"] <= row["critical_mass_high"]
        assert row["dr"] == pytest.approx(1 - row["critical_mass"] / 16)
        # A subset has both neurons less often than one of them.
        assert row["critical_mass"] > row["hardest_mass"]
    assert set(probe["datasets"]) == {"neuron-2, neuron-9"}
    assert set(probe["n_tasks"]) == {2}


def test_a_task_with_itself_needs_what_it_needs_alone(tasks: tuple[Run, Run]) -> None:
    row = cm.shared_subsets([tasks[0], tasks[0]]).query("measure == 'centroid'").iloc[0]
    assert row["critical_mass"] == row["hardest_mass"]
    table = cm.subset_correlations([tasks[0], tasks[0]]).query("measure == 'centroid'")
    assert table["correlation"].dropna().to_numpy() == pytest.approx(1.0)


def test_each_task_may_have_an_accuracy_of_its_own(tasks: tuple[Run, Run]) -> None:
    table = cm.shared_subsets(tasks, accuracies=(0.6, 0.8)).query("measure == 'centroid'")
    assert table["delta"].isna().tolist() == [False, True]
    row = table.iloc[1]
    assert (row["accuracies"], row["hardest_task"]) == ("0.6, 0.8", "neuron-9")
    harder = cm.shared_subsets(tasks, accuracies=(0.8, 0.9)).query("delta.isna()").iloc[0]
    assert harder["critical_mass"] > row["critical_mass"]
    with pytest.raises(CriticalMassError, match=r"one number in \(0, 1\] for each of the 2 runs"):
        cm.shared_subsets(tasks, accuracies=(0.6,))


def test_the_bias_of_the_smallest_of_noisy_shares_is_subtracted() -> None:
    """Three tasks of the same true accuracy: their minimum is that accuracy."""
    rng = np.random.default_rng(0)
    truth, n_test, n_seeds, resamples = 0.8, 100, 60, 300
    made = []
    for _ in range(3):
        correct = rng.random((n_seeds, n_test)) < truth
        counts = rng.multinomial(n_test, np.full(n_test, 1 / n_test), resamples)
        draws = counts @ correct.T / n_test
        made.append(_Task("task", correct.mean(axis=1), draws, 1.0, np.ones(resamples)))
    rows = pd.DataFrame({"n_kept": 4, "seed": range(n_seeds), "n_neurons": 8})
    curve = _SharedCurve(
        CurveKey("m", "l", "d", "random", "centroid"), rows, tuple(made), Draws(0.95, resamples, 0)
    )
    mass = curve.mass(curve.tasks, [None] * 3, 0.9, "monotone")
    assert mass is not None
    raw = np.min([task.values for task in made], axis=0).mean()
    corrected = float(mass.curve.mean[0])
    assert truth - raw > 0.025
    assert abs(truth - corrected) < 0.5 * (truth - raw)
    assert mass.curve.mean_draws.mean() == pytest.approx(corrected, abs=0.005)


@pytest.mark.parametrize("strength", [0.0, 0.6, 0.9])
def test_the_interval_of_a_rank_correlation_holds_the_truth(strength: float) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(strength / 2)  # Spearman's of two normal variables
    inside = []
    for _ in range(400):
        x = rng.standard_normal(12)
        y = strength * x + np.sqrt(1 - strength**2) * rng.standard_normal(12)
        row = _correlation(float(spearmanr(x, y).statistic), 12, 0.95)
        low, high = row["correlation_low"], row["correlation_high"]
        assert low is not None
        assert high is not None
        inside.append(low <= truth <= high)
    assert 0.92 <= np.mean(inside) <= 0.99


def test_a_perfect_order_of_few_subsets_is_no_proof() -> None:
    row = _correlation(1.0, 5, 0.95)
    assert row["correlation_low"] is not None
    assert row["correlation_low"] < 0.5
    assert row["correlation_high"] == 1.0
    assert _correlation(0.5, 3, 0.95)["correlation_low"] is None


def test_subsets_of_unrelated_tasks_are_unrelated(tasks: tuple[Run, Run]) -> None:
    table = cm.subset_correlations(tasks).query("measure == 'centroid'")
    assert table["n_kept"].dropna().tolist() == [4, 8, 12, 14]
    assert table["n_kept"].isna().sum() == 1
    # The subsets of one size have one neuron rather less often if they have the other.
    inside = (table["correlation_low"] <= 0.05) & (table["correlation_high"] >= -0.05)
    assert inside.all()
    assert table["noise_a"].dropna().between(0, 1).all()


def test_runs_without_common_subsets_are_refused(tasks: tuple[Run, Run], tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="give two runs or more"):
        cm.shared_subsets([tasks[0]])
    store = tasks[1].path.parent / "features-9"
    other = cm.sweep(store, out=tmp_path / "other", seeds=(90, 91), **GRID)
    with pytest.raises(CriticalMassError, match="have no common subsets"):
        cm.shared_subsets([tasks[0], other])


def test_the_command_line_prints_both_tables(
    tasks: tuple[Run, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(run.path) for run in tasks]
    assert run_command(["shared-subsets", *paths, "--delta", "0.8"]) == 0
    assert "k* of all tasks" in capsys.readouterr().out
    assert run_command(["shared-subsets", *paths, "--correlations"]) == 0
    assert "rank correlation" in capsys.readouterr().out
