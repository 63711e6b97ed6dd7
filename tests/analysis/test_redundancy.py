from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

from criticalmass.analysis import curves as curves_module
from criticalmass.analysis.bootstrap import (
    averaged_over_seeds,
    resampled_means,
    resampled_replicates,
)
from criticalmass.analysis.curves import CachedRun
from criticalmass.analysis.estimators import diffused_redundancy
from criticalmass.analysis.redundancy import CURVE_COLUMNS, REDUNDANCY_COLUMNS, curves, redundancy
from criticalmass.errors import CriticalMassError, RunError
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

SIZES = (2, 5, 10, 20)
N_TEST = 400


def base(**changes):
    return {
        "model": "m", "layer": "penultimate", "dataset": "d", "split": "test",
        "selector": "random", "measure": "logistic", "n_neurons": 20, "seed": 0,
        "value_full": None, "n_train": 100, "n_test": N_TEST, "l2": 0.1, "gap": 0.0,
        "passes": 3, "seconds": 0.1, "status": "ok", "error": None,
    } | changes  # fmt: skip


def write(run, rows, values, kind="predictions"):
    with run.writer() as w:
        if not (run.path / "labels.npy").exists():
            w.put_labels(np.zeros(N_TEST, dtype=int), ("right", "wrong"))
        w.append(rows, None if values is None else Artifact(kind, np.array(values)))


def hits(share, rng):
    """Predictions of which exactly this share is right (class 0), at random positions."""
    predicted = np.ones(N_TEST, dtype=int)
    predicted[rng.permutation(N_TEST)[: round(share * N_TEST)]] = 0
    return predicted


def a_run(folder, curve, *, full=0.8, n_seeds=3, selector="random", shares=SIZES, rng=None):
    """A run in which every seed scores `curve(size, seed)` and the whole layer `full`."""
    rng = rng or np.random.default_rng(0)
    run = Run.create(folder, {})
    whole = hits(full, rng)
    rows = [base(selector="full", fraction=1.0, n_kept=20, value=full, cell="full", artifact=0)]
    values = [whole]
    for seed in range(n_seeds):
        for size in shares:
            row = base(selector=selector, fraction=size / 20, n_kept=size, seed=seed)
            row["cell"] = f"{seed}-{size}"
            if size == 20:
                rows.append(row | {"value": full, "artifact": 0})
                continue
            values.append(hits(curve(size, seed), rng))
            right = float(np.mean(values[-1] == 0))
            rows.append(row | {"value": right, "artifact": len(values) - 1})
    write(run, rows, values)
    return run


def steady(size, seed=0):
    return {2: 0.4, 5: 0.7, 10: 0.75, 20: 0.8}[size]


# --- the three estimators, by hand ---


@pytest.mark.parametrize(
    ("estimator", "delta", "want"),
    [
        ("strict", 0.9, 0.5),  # 0.75 / 0.8 = 0.9375 at 0.5; 0.875 at 0.25
        ("strict", 0.5, 0.9),  # exactly at the threshold passes
        ("strict", 0.99, 0.0),  # none but the whole layer
        ("nearest", 0.9, 0.75),  # 0.875 is nearer than 0.9375
        ("nearest", 0.92, 0.5),
        ("interpolated", 0.9, 1 - 0.35),  # 0.72 lies two fifths up from 0.7 to 0.75
        ("interpolated", 0.4, 0.9),  # at the floor there is nothing to interpolate
        ("interpolated", 0.99, 0.0),
    ],
)
def test_estimators_by_hand(estimator, delta, want):
    got = diffused_redundancy(
        [0.1, 0.25, 0.5, 1.0], [0.4, 0.7, 0.75, 0.8], 0.8, delta, estimator=estimator
    )
    assert got == pytest.approx(want, abs=1e-12)


def test_seeds_are_averaged_before_the_threshold_is_applied():
    values = [[0.5, 0.5], [0.6, 0.85], [0.8, 0.8]]
    # The mean 0.725 reaches 0.9 * 0.8 = 0.72, although one of the two seeds does not.
    assert diffused_redundancy([0.1, 0.2, 1.0], values, [0.79, 0.81], 0.9) == pytest.approx(0.8)


def test_strict_is_the_smallest_that_passes_even_if_a_later_one_dips():
    assert diffused_redundancy([0.1, 0.2, 0.5], [0.75, 0.6, 0.79], 0.8, 0.9) == 0.9


def test_a_threshold_that_rounds_up_is_still_reached():
    assert 0.9 * 0.8 > 0.72
    assert diffused_redundancy([0.1, 1.0], [0.72, 0.8], 0.8, 0.9) == 0.9


def test_fractions_need_no_order_and_no_whole_layer():
    assert diffused_redundancy([0.5, 0.1, 0.25], [0.75, 0.4, 0.7], 0.8, 0.9) == 0.5
    assert diffused_redundancy([0.5, 0.1], [0.6, 0.4], 0.8, 0.9) == 0.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([0.1], [0.5], 0.8, 0.0), "delta=0.0"),
        (([0.1], [0.5], 0.8, 1.5), "delta=1.5"),
        (([0.1, 0.2], [0.5], 0.8, 0.9), r"\(2,\).*\(1,\)"),
        (([0.1, 0.1], [0.5, 0.5], 0.8, 0.9), "distinct"),
        (([0.0, 0.1], [0.5, 0.5], 0.8, 0.9), r"\(0, 1\]"),
        (([0.1], [np.nan], 0.8, 0.9), "NaN"),
        (([0.1], [0.5], 0.0, 0.9), "value_full=0.0"),
        (([], [], 0.8, 0.9), r"\(0,\)"),
    ],
)
def test_invalid_curves_are_refused(arguments, says):
    with pytest.raises(CriticalMassError, match=says) as caught:
        diffused_redundancy(*arguments)
    assert "\n" not in str(caught.value)


def test_unknown_estimator_gets_a_did_you_mean(tmp_path):
    with pytest.raises(CriticalMassError, match="'strickt'; did you mean 'strict'"):
        diffused_redundancy([1.0], [0.5], 0.5, 0.9, estimator="strickt")
    run = a_run(tmp_path / "r", steady)
    for wrong, says in (
        ({"estimator": "median"}, "no estimator 'median'"),
        ({"level": 1.0}, "level=1.0"),
        ({"deltas": (0.9, -1)}, "delta=-1.0"),
        ({"resamples": 0}, "resamples=0"),
    ):
        with pytest.raises(CriticalMassError, match=says):
            redundancy(run, **wrong)


# --- resampling ---


def test_counts_equal_drawing_copies():
    scores = np.random.default_rng(0).random((3, 50)).astype(np.float32)
    means = resampled_means(scores, 40, seed=7)
    picked = np.random.default_rng([7, 50]).integers(0, 50, size=(40, 50), dtype=np.int32)
    np.testing.assert_allclose(means, scores[:, picked].mean(axis=2).T, rtol=1e-5)


def test_the_spread_of_a_resampled_share_is_binomial():
    scores = np.zeros((1, 1000), dtype=bool)
    scores[0, :300] = True
    draws = resampled_means(scores, 4000, seed=0)
    assert draws.mean() == pytest.approx(0.3, abs=0.001)
    assert draws.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 1000), rel=0.04)


def test_the_block_size_does_not_change_the_draws():
    scores = np.random.default_rng(1).random((9, 60)) < 0.4
    expected = resampled_means(scores, 50, seed=3)
    in_blocks = resampled_means(scores, 50, seed=3, block_entries=60)
    np.testing.assert_array_equal(in_blocks, expected)


def test_replicates_of_a_mean_spread_like_the_jackknife():
    # For a mean, leaving blocks out must give the spread of the mean of the blocks.
    x = np.random.default_rng(2).standard_normal(3200)
    blocks = x.reshape(32, 100).mean(axis=1)
    left_out = (x.mean() * 32 - blocks) / 31
    draws = resampled_replicates(np.array([x.mean()]), left_out[None], 8000, seed=0, level=0.95)
    assert draws.mean() == pytest.approx(x.mean(), abs=1e-3)
    student = t.ppf(0.975, 31) / norm.ppf(0.975)
    assert draws.std() == pytest.approx(student * blocks.std(ddof=1) / np.sqrt(32), rel=0.015)


def test_few_seeds_spread_as_students_t():
    x = np.array([0.1, 0.2, 0.4, 0.7, 0.75])
    counts = np.random.default_rng(0).multinomial(5, np.full(5, 0.2), 20000).astype(float)
    draws = averaged_over_seeds(np.tile(x, (20000, 1)), np.arange(5)[None], counts, 0.95)
    want = x.std(ddof=1) / np.sqrt(5) * t.ppf(0.975, 4) / norm.ppf(0.975)
    assert draws.std() == pytest.approx(want, rel=0.03)
    assert draws.mean() == pytest.approx(x.mean(), abs=0.005)


def test_a_size_that_some_seeds_lack_uses_the_others():
    draws = np.tile([1.0, 3.0], (4, 1))
    counts = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 2.0]])
    columns = np.array([[0, -1], [0, 1]])
    means = averaged_over_seeds(draws, columns, counts, 0.95)
    assert means[:, 0].tolist() == [1.0] * 4
    assert means[2, 1] == 2.0


# --- tables of a run ---


def test_critical_mass_in_neurons_by_hand(tmp_path):
    run = a_run(tmp_path / "r", steady)
    by = {}
    for estimator in ("strict", "interpolated", "nearest"):
        table = redundancy(run, (0.5, 0.9, 0.99), estimator)
        assert dict(table.dtypes.astype(str)) == REDUNDANCY_COLUMNS
        by[estimator] = table.set_index("delta")
    assert by["strict"]["critical_mass"].tolist() == [2, 10, 20]
    assert by["nearest"]["critical_mass"].tolist() == [2, 5, 20]
    # 0.72 lies two fifths up from 5 to 10 neurons: 7 of them.
    assert by["interpolated"]["critical_mass"].tolist() == [2, 7, 20]
    assert by["strict"]["dr"].tolist() == [0.9, 0.5, 0.0]
    assert by["strict"]["at_floor"].tolist() == [True, False, False]
    assert by["strict"]["reached"].tolist() == [True, True, False]
    assert by["strict"]["n_seeds"].tolist() == [3, 3, 3]


def test_the_tested_sizes_around_the_critical_mass_are_given(tmp_path):
    run = a_run(tmp_path / "r", steady)
    table = redundancy(run, (0.5, 0.9, 0.99)).set_index("delta")
    assert set(table["estimator"]) == {"monotone"}
    assert table["largest_failing"].tolist() == [pd.NA, 5, 10]
    assert table["smallest_passing"].tolist() == [2, 10, 20]
    assert table["critical_mass"].tolist()[::2] == [2, 20]
    assert 5 < table.loc[0.9, "critical_mass"] < 10


def test_a_strict_interval_covers_the_gap_between_tested_sizes(tmp_path):
    # Every draw answers 10. What was measured is that 5 fail and 10 pass, so the interval is 6 to
    # 10 and never [10, 10].
    run = a_run(tmp_path / "r", lambda size, seed: {2: 0.2, 5: 0.4, 10: 0.75}[size])
    row = redundancy(run, 0.75, "strict").iloc[0]
    assert row["critical_mass"] == 10
    assert (row["critical_mass_low"], row["critical_mass_high"]) == (6, 10)
    assert (row["dr_low"], row["dr_high"]) == pytest.approx((0.5, 0.7))


def test_interpolated_neurons_are_rounded_up(tmp_path):
    run = a_run(tmp_path / "r", lambda size, seed: {2: 0.4, 5: 0.7, 10: 0.76}[size])
    # 0.72 lies one third up from 5 to 10: 6.67 neurons.
    assert redundancy(run, 0.9, "interpolated")["critical_mass"].tolist() == [7]


def test_the_interval_holds_the_estimate_and_follows_the_noise(tmp_path):
    def noisy(size, seed):
        return steady(size) + (seed - 2) * 0.02 * (size < 20)

    calm, wild = (
        a_run(tmp_path / name, curve, n_seeds=5)
        for name, curve in (("calm", steady), ("wild", noisy))
    )
    widths = []
    for run in (calm, wild):
        table = curves(run)
        assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()
        widths.append((table["high"] - table["low"]).to_numpy(dtype=float))
        row = redundancy(run).iloc[0]
        assert row["dr_low"] <= row["dr"] <= row["dr_high"]
        assert row["critical_mass_low"] <= row["critical_mass"] <= row["critical_mass_high"]
    assert np.all(widths[1][:-1] > widths[0][:-1] * 1.2)
    assert widths[1][-1] == pytest.approx(widths[0][-1])


def test_the_whole_layer_has_no_seed_variance_and_pairs_with_itself(tmp_path):
    table = curves(a_run(tmp_path / "r", steady, n_seeds=5))
    last = table.iloc[-1]
    assert last["n_kept"] == 20
    assert (last["low"], last["high"]) == pytest.approx((last["full_low"], last["full_high"]))
    assert last[["ratio", "ratio_low", "ratio_high"]].tolist() == pytest.approx([1, 1, 1])
    binomial = 1.96 * np.sqrt(0.8 * 0.2 / N_TEST)
    assert last["high"] - last["mean"] == pytest.approx(binomial, rel=0.15)


def test_stretched_seeds_stay_in_the_range_of_a_share(tmp_path):
    run = a_run(tmp_path / "r", lambda size, seed: (0.02, 0.98, 0.98)[seed], full=0.98)
    table = curves(run)
    assert table["low"][0] == 0.0
    assert table["high"].max() == 1.0


def test_one_seed_resamples_test_samples_only(tmp_path):
    table = curves(a_run(tmp_path / "r", steady, n_seeds=1, selector="first"))
    assert table["std"].isna().all()
    width = (table["high"] - table["low"]).to_numpy(dtype=float)
    p = table["mean"].to_numpy(dtype=float)
    np.testing.assert_allclose(width, 2 * 1.96 * np.sqrt(p * (1 - p) / N_TEST), rtol=0.15)


def test_curves_have_the_columns_and_counts(tmp_path):
    table = curves(a_run(tmp_path / "r", lambda s, seed: steady(s) + 0.01 * seed))
    assert dict(table.dtypes.astype(str)) == CURVE_COLUMNS
    assert table["n_kept"].tolist() == list(SIZES)
    assert table["selector"].unique().tolist() == ["random"]
    assert table["mean"].tolist() == pytest.approx([0.41, 0.71, 0.76, 0.8])
    assert table["std"].tolist() == pytest.approx([0.01, 0.01, 0.01, 0.0])


def test_failed_cells_are_counted_and_never_averaged(tmp_path):
    run = a_run(tmp_path / "r", steady)
    broken = base(fraction=0.25, n_kept=5, seed=1, value=None, status="failed", error="no")
    slow = base(fraction=0.25, n_kept=5, seed=2, value=0.7, status="not_converged")
    write(run, [broken | {"cell": "1-5"}, slow | {"cell": "2-5", "artifact": None}], None)
    table = curves(run).set_index("n_kept")
    assert table.loc[5, ["mean", "n_seeds", "n_failed", "n_not_converged"]].tolist() == [
        pytest.approx(0.7), 2, 1, 1,
    ]  # fmt: skip
    assert table.loc[10, ["n_seeds", "n_failed"]].tolist() == [3, 0]
    assert redundancy(run, estimator="strict").iloc[0][["critical_mass", "n_failed"]].tolist() == [
        10,
        1,
    ]


def test_without_a_value_of_the_whole_layer_nothing_is_claimed(tmp_path):
    run = Run.create(tmp_path / "r", {})
    dead = base(status="failed", error="no", value=None)
    write(run, [
        dead | {"selector": "full", "fraction": 1.0, "n_kept": 20, "cell": "f"},
        base(fraction=0.5, n_kept=10, value=0.7, cell="a"),
        dead | {"selector": "first", "fraction": 0.5, "n_kept": 10, "cell": "b"},
    ], None)  # fmt: skip
    table = redundancy(run).set_index("selector")
    assert table[["critical_mass", "dr", "dr_low", "at_floor", "reached"]].isna().all(axis=None)
    assert table["n_failed"].tolist() == [1, 0]
    assert curves(run)["ratio"].isna().all()


def test_cka_replicates_give_an_interval(tmp_path):
    run = Run.create(tmp_path / "r", {})
    rng = np.random.default_rng(0)
    cka = base(measure="cka", l2=None, gap=None, passes=None, selector="first")
    rows = [cka | {"selector": "full", "fraction": 1.0, "n_kept": 20, "value": 1.0, "cell": "f"}]
    rows += [
        cka | {"fraction": k / 20, "n_kept": k, "value": v, "cell": f"c{k}"}
        for k, v in ((5, 0.85), (10, 0.95))
    ]
    noise = rng.standard_normal((1, 32)) * 0.002
    left_out = np.vstack([np.ones((1, 32)), 0.85 + noise, 0.95 + noise / 2])
    write(run, rows, left_out, "replicates")
    table = curves(run)
    wide = (table["high"] - table["low"]).tolist()
    assert wide[0] == pytest.approx(2 * 1.96 * noise.std() * np.sqrt(31), rel=0.1)
    assert wide[1] == pytest.approx(wide[0] / 2, rel=1e-6)
    assert table["full_low"].tolist() == table["full_high"].tolist() == [1.0, 1.0]
    assert redundancy(run, estimator="strict")["dr"].tolist() == [0.5]


def test_scores_of_samples_are_resampled(tmp_path):
    run = Run.create(tmp_path / "r", {})
    score = np.random.default_rng(0).random((1, N_TEST))
    row = base(measure="retrieval", fraction=0.5, n_kept=10, value_full=0.5, cell="a")
    row |= {"selector": "first"}
    write(run, [row | {"value": float(score.mean())}], score, "scores")
    table = curves(run)
    want = 2 * 1.96 * score.std() / np.sqrt(N_TEST)
    assert (table["high"] - table["low"])[0] == pytest.approx(want, rel=0.1)
    assert table["full_low"].tolist() == [0.5]


def test_a_run_its_path_and_lists_of_them(tmp_path):
    one = a_run(tmp_path / "one", steady)
    two = a_run(tmp_path / "two", steady, full=0.9)
    pd.testing.assert_frame_equal(redundancy(one), redundancy(str(one.path)))
    both = redundancy([one, two.path], estimator="strict")
    assert both["critical_mass"].tolist() == [10, 20]
    pd.testing.assert_frame_equal(both.iloc[:1], redundancy(one, estimator="strict"))
    empty = Run.create(tmp_path / "empty", {})
    assert list(redundancy(empty).columns) == list(REDUNDANCY_COLUMNS)
    assert len(redundancy(empty)) == len(curves(empty)) == 0


def test_the_same_seed_gives_the_same_interval_and_another_another(tmp_path):
    run = a_run(tmp_path / "r", lambda s, seed: steady(s) + 0.01 * seed)
    pd.testing.assert_frame_equal(curves(run, seed=1), curves(run, seed=1))
    assert not curves(run, seed=1)["low"].equals(curves(run, seed=2)["low"])


def test_a_cached_run_gives_the_same_tables_from_curves_computed_once(tmp_path, monkeypatch):
    run = a_run(tmp_path, lambda size, seed: 0.5 + 0.01 * size)
    tables = [curves(run), redundancy(run), curves(run, seed=1)]
    n_computed = []

    def counted(*arguments):
        n_computed.append(arguments)
        return compute(*arguments)

    compute = curves_module._compute_curves
    monkeypatch.setattr(curves_module, "_compute_curves", counted)
    cached = CachedRun.of(run)
    again = [curves(cached), redundancy(cached), curves(cached, seed=1)]
    for table, other in zip(tables, again, strict=True):
        pd.testing.assert_frame_equal(table, other)
    assert len(n_computed) == 2  # one for each seed of the draws
    curves(CachedRun.of(run))
    assert len(n_computed) == 3  # nothing outlives the cached run


def test_predictions_that_contradict_the_value_are_refused(tmp_path):
    run = a_run(tmp_path / "r", steady)
    wrong = base(fraction=0.1, n_kept=2, seed=0, value=0.55, cell="0-2")
    write(run, [wrong], [np.zeros(N_TEST, dtype=int)])
    with pytest.raises(RunError, match=r"'0-2'.*0\.55.*scores have mean 1"):
        redundancy(run)


def test_predictions_of_other_samples_are_refused(tmp_path):
    run = a_run(tmp_path / "r", steady)
    np.save(run.path / "labels.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(RunError, match=r"labels\.npy is damaged"):
        redundancy(run)
