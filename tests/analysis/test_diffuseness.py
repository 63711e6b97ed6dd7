"""Random subsets against the best and the worst rule: by hand, without bias, with coverage."""

from __future__ import annotations

import importlib
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import criticalmass as cm
from criticalmass.analysis.split_scores import score_halves
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError, RunError
from criticalmass.reporting.figures.selectors import choice_against_fraction
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

module = importlib.import_module("criticalmass.analysis.diffuseness")
N_NEURONS = 16


def a_run(folder, scores, *, kind="predictions", measure="ridge", full=None):
    """A run with these scores: (selector, seed, n_kept) -> (n_units,) right or wrong, or values."""
    run = Run.create(folder, {})
    n = len(next(iter(scores.values())))
    full = np.ones(n) if full is None else full
    units = {("full", 0, N_NEURONS): full, **scores}
    rows, unit_scores = [], []
    for (selector, seed, size), unit in units.items():
        unit = np.asarray(unit, dtype=float)
        unit_scores.append(unit)
        rows.append({
            "model": "m", "layer": "penultimate", "dataset": "d", "split": "test",
            "selector": selector, "measure": measure, "fraction": size / N_NEURONS,
            "n_kept": size, "n_neurons": N_NEURONS, "seed": seed, "value": unit.mean(),
            "value_full": full.mean(), "n_train": 9, "n_test": n, "l2": None, "gap": None,
            "passes": 1, "seconds": 0.0, "status": "ok", "error": None,
            "cell": f"{selector}-{seed}-{size}",
        })  # fmt: skip
    values = np.stack(unit_scores)
    if kind == "predictions":
        values = 1 - values.astype(int)
    if kind == "replicates":
        values = (n * values.mean(axis=1, keepdims=True) - values) / (n - 1)
    with run.writer() as w:
        w.put_labels(np.zeros(n, dtype=int), ("right", "wrong"))
        w.append(rows, Artifact(kind, values))
    return run


def hits(rng, n, share):
    return (rng.random(n) < share).astype(float)


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    n = 4000
    scores = {}
    for size, (low, mid, high) in {2: (0.2, 0.4, 0.7), 8: (0.5, 0.7, 0.8)}.items():
        scores |= {("random", seed, size): hits(rng, n, mid) for seed in range(4)}
        scores |= {("leverage", 0, size): hits(rng, n, high), ("first", 0, size): hits(rng, n, mid)}
        scores[("norm-low", 0, size)] = hits(rng, n, low)
        # Projections mix all neurons: no choice of them, however good.
        scores[("pca-top", 0, size)] = np.ones(n)
    return a_run(tmp_path / "run", scores)


def test_the_named_rules_and_their_leads_are_those_of_the_data(run):
    table = cm.diffuseness(run, resamples=400)
    frame = run.frame()
    assert list(table.columns) == list(module.DIFFUSENESS_COLUMNS)
    assert table["n_kept"].tolist() == [2, 8]
    assert table["best"].tolist() == ["leverage", "leverage"]
    assert table["worst"].tolist() == ["norm-low", "norm-low"]
    for row in table.to_dict("records"):
        values = frame[frame["n_kept"] == row["n_kept"]].groupby("selector")["value"]
        means = values.mean()
        # If the halves choose the same rule, the value is that of the rule.
        assert row["random"] == pytest.approx(means["random"])
        assert row["random_std"] == pytest.approx(values.std()["random"])
        assert row["gain"] == pytest.approx(means["leverage"] - means["random"])
        assert row["loss"] == pytest.approx(means["random"] - means["norm-low"])
        for name in ("gain", "loss", "random", "best_value", "worst_value"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row["n_selectors"] == 3
        assert row["n_seeds"] == 4
        assert row["n_test"] == 4000


def test_the_summary_is_an_area_over_the_logarithm(run):
    # Sizes 2, 8, 16 lie at 1, 3, 4 on the base-2 axis: trapezoids weigh the gaps by
    # (2/2, (2+1)/2) of 3, the whole layer closes with 0.
    np.testing.assert_allclose(module.log_size_weights(np.array([2, 8]), 16), [1 / 3, 1.5 / 3])
    np.testing.assert_allclose(module.log_size_weights(np.array([4]), 16), [0.5])
    table = cm.diffuseness(run, resamples=200)
    (row,) = cm.diffuseness_summary(run, resamples=200).to_dict("records")
    for name in ("gain", "loss"):
        expected = table[name].to_numpy(float) @ [1 / 3, 1.5 / 3]
        assert row[name] == pytest.approx(expected)
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["choice"] == pytest.approx(row["gain"] + row["loss"])
    assert row["smallest_fraction"] == 2 / 16
    assert row["n_sizes"] == 2


def test_each_half_scores_the_rule_that_is_best_on_the_other(tmp_path):
    # Two test samples, one in each half: a rule that wins on one loses on the other.
    scores = {("random", 0, 4): [0.5, 0.5], ("first", 0, 4): [1.0, 0.0]}
    scores[("leverage", 0, 4)] = [0.0, 1.0]
    run = a_run(tmp_path / "run", scores, kind="scores")
    (row,) = cm.diffuseness(run, resamples=20).to_dict("records")
    # On the same samples the best rule would score 1; on the others it scores 0.
    assert row["best_value"] == 0.0
    assert row["worst_value"] == 1.0
    assert set(row["best"].split(" | ")) == {"first", "leverage"}
    assert row["gain"] == -0.5


def test_rules_that_are_no_better_than_chance_get_no_lead(tmp_path):
    rng = np.random.default_rng(0)
    unbiased, biased, n_covered = [], [], 0
    names = ("first", "leverage", "norm-low", "norm-high", "cluster", "anova", "greedy-cka")
    for repetition in range(40):
        n = 200
        scores = {("random", seed, 4): hits(rng, n, 0.5) for seed in range(3)}
        scores |= {(name, 0, 4): hits(rng, n, 0.5) for name in names}
        run = a_run(tmp_path / str(repetition), scores)
        (row,) = cm.diffuseness(run, resamples=100).to_dict("records")
        unbiased.append(row["gain"])
        biased.append(max(scores[(name, 0, 4)].mean() for name in names) - row["random"])
        n_covered += row["gain_low"] <= 0.0 <= row["gain_high"]
    error = np.std(unbiased) / np.sqrt(40)
    assert abs(np.mean(unbiased)) < 3 * error
    assert np.mean(biased) > 6 * error
    # .95 of 40 is 38; below 33 is a chance of one in a thousand.
    assert n_covered >= 33


def test_replicates_are_read_as_scores_of_blocks(tmp_path):
    rng = np.random.default_rng(1)
    scores = {(name, seed, 4): rng.random(20) for name, seed in (("random", 0), ("first", 0))}
    plain = a_run(tmp_path / "plain", scores, kind="scores")
    jack = a_run(tmp_path / "jack", scores, kind="replicates", measure="cka")
    one, other = (score_halves(r, r.frame(), 50, 0) for r in (plain, jack))
    np.testing.assert_allclose(one.shares, [0.5, 0.5])
    # A mean's delete-one values give its terms back, spread by sqrt(n/(n-1)) about the mean.
    whole = plain.frame()["value"].to_numpy(float)
    stretch = np.sqrt(20 / 19)
    np.testing.assert_allclose(other.means - whole, (one.means - whole) * stretch, atol=1e-6)
    np.testing.assert_allclose(
        other.value([np.arange(3)] * 2), jack.frame()["value"].to_numpy(float), atol=1e-12
    )
    assert cm.diffuseness(jack, resamples=20)["best"].tolist() == ["first"]


def test_failed_rows_are_left_out(run):
    rows = run.frame().to_dict("records")
    lost = [r for r in rows if r["selector"] == "leverage" and r["n_kept"] == 8]
    with run.writer() as w:
        w.append([
            {k: None if v is pd.NA else v for k, v in r.items()}
            | {"status": "failed", "value": None, "error": "x", "artifact": None}
            for r in lost
        ])  # fmt: skip
    table = cm.diffuseness(run, resamples=50)
    assert table["best"].tolist()[0] == "leverage"
    assert "leverage" not in table["best"].tolist()[1]
    assert table["n_selectors"].tolist() == [3, 2]


def test_bad_arguments_and_runs_are_refused(run, tmp_path):
    with pytest.raises(CriticalMassError, match="no measure 'rigde'; did you mean 'ridge'"):
        cm.diffuseness(run, measure="rigde")
    with pytest.raises(CriticalMassError, match="level=2"):
        cm.diffuseness(run, level=2)
    alone = a_run(tmp_path / "alone", {("random", 0, 4): [1.0, 0.0]})
    with pytest.raises(CriticalMassError, match="no random subsets with another selector"):
        cm.diffuseness(alone)
    with alone.writer() as w:
        w.drop(["random-0-4"])
    one_sample = a_run(tmp_path / "l", {("random", 0, 4): [1.0], ("first", 0, 4): [1.0]})
    with pytest.raises(RunError, match="1 test sample"):
        cm.diffuseness(one_sample)


def test_the_figure_draws_what_the_table_says(run):
    table = cm.diffuseness(run, resamples=50)
    ax = Figure().subplots()
    assert choice_against_fraction(table, ax) is ax
    line_values = {tuple(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 3}
    for name in ("random", "best_value", "worst_value"):
        assert (*table[name], 1.0) in line_values
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["best: leverage", "random subsets", "worst: norm-low"]
    two = pd.concat([table, table.assign(measure="lda")])
    with pytest.raises(CriticalMassError, match="more than one measure: ridge, lda"):
        choice_against_fraction(two, ax)
    choice_against_fraction(two, Figure().subplots(), measure="lda")


def test_the_command_prints_both_tables(run, capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        main(["diffuseness", str(run.path), "--resamples", "50", "-q"])
    assert not left.value.code
    text = capsys.readouterr().out
    assert "best - random" in text
    assert "leverage" in text
    with pytest.raises(SystemExit):
        main(["diffuseness", str(run.path), "--summary", "--format", "csv", "-q"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(",") == list(module.SUMMARY_COLUMNS)
    assert len(lines) == 2


def test_more_rules_never_lower_the_best_by_much(tmp_path):
    # A good rule stays the best one if poor ones are added.
    rng = np.random.default_rng(3)
    good = {("random", 0, 4): hits(rng, 900, 0.5), ("leverage", 0, 4): hits(rng, 900, 0.8)}
    poor = {(n, 0, 4): hits(rng, 900, 0.5) for n in ("first", "anova", "cluster")}
    runs = [a_run(tmp_path / "a", good), a_run(tmp_path / "b", good | poor)]
    gains = [cm.diffuseness(r, resamples=20)["gain"][0] for r in runs]
    assert all(a == pytest.approx(b) for a, b in pairwise(gains))
