"""The Pareto front: enumeration, ties, and dominance by noise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import criticalmass as cm
from criticalmass.analysis.pareto import PARETO_COLUMNS, dominance_bounds, pareto_front
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError, RunError
from criticalmass.reporting.figures.selectors import size_against_value
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

N_NEURONS, N_TEST = 16, 2000
points = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=25)


def a_run(folder, scores, *, model="m", measure="ridge", labels=None):
    """A run whose rows hit as given: (selector, seed, n_kept) -> (n_test,) booleans."""
    run = Run.create(folder, {})
    labels = np.zeros(N_TEST, dtype=int) if labels is None else labels
    rows = [
        {
            "model": model, "layer": "penultimate", "dataset": "d", "split": "test",
            "selector": selector, "measure": measure, "fraction": size / N_NEURONS,
            "n_kept": size, "n_neurons": N_NEURONS, "seed": seed, "value": unit.mean(),
            "value_full": None, "n_train": 9, "n_test": N_TEST, "l2": None, "gap": None,
            "passes": 1, "seconds": 0.0, "status": "ok", "error": None,
            "cell": f"{selector}-{seed}-{size}",
        }
        for (selector, seed, size), unit in scores.items()
    ]  # fmt: skip
    values = np.stack([np.where(unit, labels, 1 - labels) for unit in scores.values()])
    with run.writer() as w:
        w.put_labels(labels, ("zero", "one"))
        w.append(rows, Artifact("predictions", values))
    return run


def hits(rng, share):
    return rng.random(N_TEST) < share


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    good = hits(rng, 0.7)
    worse = good.copy()
    worse[np.flatnonzero(good)[:4]] = False
    scores = {
        ("full", 0, 16): hits(rng, 0.9),
        ("leverage", 0, 4): good,
        # Four samples of 2,000 behind: a tie but for noise.
        ("cluster", 0, 4): worse,
        # The same predictions at twice the size.
        ("first", 0, 8): good,
        ("norm-low", 0, 8): hits(rng, 0.5),
        ("norm-high", 0, 2): hits(rng, 0.3),
        ("pca-top", 0, 4): hits(rng, 0.8),
        ("pca-top", 0, 16): hits(rng, 0.9),
    }
    scores |= {("random", seed, 4): hits(rng, 0.6) for seed in range(3)}
    scores |= {("random", seed, 16): scores["full", 0, 16] for seed in range(3)}
    return a_run(tmp_path / "run", scores)


@given(points=points)
def test_the_front_holds_the_points_that_none_dominates(points):
    sizes, values = (np.array(column) for column in zip(*points, strict=True))
    marked = pareto_front(sizes, values)
    for i, (k, v) in enumerate(points):
        beaten = any(
            a <= k and b >= v and (a < k or b > v) for j, (a, b) in enumerate(points) if j != i
        )
        assert marked[i] == (not beaten)
    # Along the front, more neurons give more.
    steps = sorted({point for point, on in zip(points, marked, strict=True) if on})
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(steps))
    again = np.random.default_rng(0).permutation(len(points))
    np.testing.assert_array_equal(pareto_front(sizes[again], values[again]), marked[again])


def test_rows_and_dominance(run):
    table = cm.pareto(run, projections=False, resamples=800)
    assert list(table.columns) == list(PARETO_COLUMNS)
    assert table["n_kept"].is_monotonic_increasing
    by = table.set_index(["selector", "n_kept"])
    assert by["on_front"].to_dict() == {
        ("norm-high", 2): True, ("leverage", 4): True, ("cluster", 4): False, ("random", 4): False,
        ("first", 8): False, ("norm-low", 8): False, ("full", 16): True,
    }  # fmt: skip
    near, copy, far = by.loc[("cluster", 4)], by.loc[("first", 8)], by.loc[("norm-low", 8)]
    assert near["dominated_by"] == "leverage 4"
    assert near["margin"] == pytest.approx(4 / N_TEST)
    assert far["significant"]
    assert 0 < far["margin_low"] < far["margin"]
    assert by.loc[("random", 4)]["significant"]
    # Equal values at half the size: dominated, but no value is higher.
    assert copy["dominated_by"] == "leverage 4"
    assert copy["margin"] == 0.0
    assert not copy["significant"]
    assert table.loc[table["on_front"], ["dominated_by", "significant"]].isna().all(axis=None)
    assert by.loc[("random", 4)]["n_seeds"] == 3
    frame = run.frame()
    chance = frame[(frame["selector"] == "random") & (frame["n_kept"] == 4)]
    assert by.loc[("random", 4)]["value"] == pytest.approx(chance["value"].mean())


def test_projections_compete_unless_they_are_left_out(run):
    table = cm.pareto(run, resamples=50)
    top = table[table["selector"] == "pca-top"]
    assert top["is_projection"].all()
    assert top["n_kept"].tolist() == [4, 16]
    assert table[table["n_kept"] == 4].set_index("selector")["on_front"].sum() == 1
    assert "pca-top 4" in set(table["dominated_by"].dropna())


def test_models_compete_on_one_task_and_each_similarity_is_its_own(run, tmp_path):
    rng = np.random.default_rng(5)
    other = a_run(tmp_path / "o", {("full", 0, 16): hits(rng, 0.97),
                                   ("first", 0, 2): hits(rng, 0.95)}, model="better")  # fmt: skip
    table = cm.pareto([run, other], resamples=50)
    assert set(table[table["on_front"]]["model"]) == {"better"}
    assert set(table["dominated_by"].dropna()) <= {
        "first 2 of better penultimate", "full 16 of better penultimate",
    }  # fmt: skip
    similar = [
        a_run(tmp_path / name, {("full", 0, 16): np.ones(N_TEST, bool),
                                ("first", 0, 2): hits(rng, share)}, model=name, measure="cka")
        for name, share in (("a", 0.3), ("b", 0.9))
    ]  # fmt: skip
    apart = cm.pareto(similar, resamples=50)
    assert apart["on_front"].all()


def test_runs_on_other_test_samples_are_refused(run, tmp_path):
    labels = np.arange(N_TEST) % 2
    right = np.ones(N_TEST, dtype=bool)
    scores = {("full", 0, 16): right, ("first", 0, 2): right}
    other = a_run(tmp_path / "o", scores, labels=labels)
    with pytest.raises(RunError, match="different test samples"):
        cm.pareto([run, other], resamples=10)
    with pytest.raises(CriticalMassError, match="no measure 'rigde'; did you mean 'ridge'"):
        cm.pareto(run, measure="rigde")


def test_the_bounds_allow_for_all_rivals_at_once():
    rng = np.random.default_rng(0)
    false, alone, repetitions = 0, 0, 100
    for _ in range(repetitions):
        # Twenty rivals that are no better: any bound above 0 is false.
        data = rng.standard_normal((21, 100))
        draws = rng.multinomial(100, np.full(100, 0.01), 200) @ data.T / 100
        leads = data[1:].mean(axis=1) - data[0].mean()
        false += dominance_bounds(draws[:, 0], draws[:, 1:], leads, 0.95).max() > 0.0
        single = [dominance_bounds(draws[:, 0], draws[:, i : i + 1], leads[i - 1 : i], 0.95)[0]
                  for i in range(1, 21)]  # fmt: skip
        alone += max(single) > 0.0
    assert false / repetitions < 0.13
    assert alone / repetitions > 0.2
    fixed = dominance_bounds(np.zeros(10), np.ones((10, 1)), np.ones(1), 0.95)
    assert fixed.tolist() == [1.0]


def test_the_figure_draws_the_front_and_what_may_belong_to_it(run):
    table = cm.pareto(run, projections=False, resamples=200)
    ax = Figure().subplots()
    assert size_against_value(table, ax) is ax
    on = table[table["on_front"]]
    stairs = next(line for line in ax.lines if line.get_drawstyle() == "steps-post")
    assert stairs.get_xdata().tolist() == on["n_kept"].tolist()
    labels = {text.get_text() for text in ax.get_legend().get_texts()}
    rules = {"norm-high", "leverage", "whole layer"}
    assert labels == {"dominated", "perhaps on the front"} | rules
    two = pd.concat([table, table.assign(measure="lda")])
    with pytest.raises(CriticalMassError, match="more than one measure"):
        size_against_value(two, ax)
    with pytest.raises(CriticalMassError, match="no subsets to draw"):
        size_against_value(table, ax, measure="cka")


@pytest.mark.parametrize("name", ["pareto", "diffuseness"])
def test_named_figures_are_written(run, tmp_path, name):
    from criticalmass.reporting.figures.figure import figure

    assert figure(name, run, out=tmp_path / f"{name}.png").stat().st_size > 1000
    with pytest.raises(CriticalMassError, match="draws one measure"):
        figure(name, run, out=tmp_path / "x.png", measures=("ridge", "lda"))
    with pytest.raises(CriticalMassError, match="no measure 'lda'"):
        figure(name, run, out=tmp_path / "x.png", measures=("lda",))


def test_the_command_shows_people_the_front_and_machines_everything(run, capsys):
    with pytest.raises(SystemExit) as left:
        main(["pareto", str(run.path), "--no-projections", "-q"])
    assert not left.value.code
    text = capsys.readouterr().out
    assert "perhaps" in text
    assert "norm-low" not in text
    assert "pca-top" not in text
    with pytest.raises(SystemExit):
        main(["pareto", str(run.path), "--format", "csv", "-q"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(",") == list(PARETO_COLUMNS)
    assert len(lines) == 1 + len(cm.pareto(run, resamples=10))
