"""Inequality of class accuracies, the proportional-odds baseline, and losses by class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

import criticalmass as cm
from criticalmass.analysis.fairness import CLASS_COLUMNS, FAIRNESS_COLUMNS, LOSS_COLUMNS
from criticalmass.analysis.inequality import (
    binomial_noise,
    excess_inequality,
    gini_of_rows,
    gini_without_noise,
    proportional_odds_accuracy,
    shrunken_worst,
)
from criticalmass.errors import CriticalMassError
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

MakeRun = Callable[..., Run]
WHOLE = np.array([0.97, 0.92, 0.85, 0.80, 0.66])
PER_CLASS = 400
LABELS = np.repeat(np.arange(5), PER_CLASS)
EVEN = np.full(5, 0.2)


def predicted(
    accuracy: NDArray[np.float64], seed: int, labels: NDArray[np.int64] = LABELS
) -> NDArray[np.int64]:
    """Predictions with exactly these class accuracies, rounded to samples.

    Which samples are right depends on their difficulty, the same for all, and on the seed.
    """
    difficulty = np.random.default_rng(99).random(labels.size)
    rank = 0.9 * difficulty + 0.1 * np.random.default_rng(seed).random(labels.size)
    classes = (labels + 1) % (labels.max() + 1)
    for c, share in enumerate(accuracy):
        samples = np.flatnonzero(labels == c)
        right = samples[np.argsort(rank[samples])[: round(share * samples.size)]]
        classes[right] = c
    return classes


def with_one_class_lost(lost: int) -> NDArray[np.float64]:
    """The class accuracies of the whole layer, with one class at a tenth of its own."""
    return np.where(np.arange(5) == lost, WHOLE / 10, WHOLE)


def test_gini_of_hand_computed_cases() -> None:
    assert cm.gini([0.7, 0.7, 0.7]) == pytest.approx(0.0, abs=1e-15)
    assert cm.gini([0.0, 0.0, 1.0]) == pytest.approx(2 / 3)
    assert cm.gini([1, 2, 3]) == pytest.approx(8 / 36)
    assert cm.gini([0.0, 0.0]) == 0.0
    assert cm.coefficient_of_variation([1, 3]) == pytest.approx(0.5)
    assert cm.coefficient_of_variation([0.0, 0.0]) == 0.0
    assert cm.max_min_gap([0.4, 0.9, 0.5]) == pytest.approx(0.5)


@pytest.mark.parametrize("measure", [cm.gini, cm.coefficient_of_variation, cm.max_min_gap])
def test_empty_negative_and_undefined_numbers_are_refused(measure: Callable[..., float]) -> None:
    for numbers in ([], [0.5, np.nan]):
        with pytest.raises(CriticalMassError, match=measure.__name__):
            measure(numbers)
    if measure is not cm.max_min_gap:
        with pytest.raises(CriticalMassError, match="-1"):
            measure([0.5, -1.0])


def test_noise_is_taken_out_of_gini() -> None:
    rng = np.random.default_rng(0)
    counts = np.full(40, 50.0)
    truth = np.clip(0.7 + 0.08 * rng.standard_normal((500, 40)), 0.05, 0.98)
    estimates = rng.binomial(50, truth) / 50
    expected = gini_of_rows(truth).mean()
    raw = gini_of_rows(estimates).mean()
    corrected = gini_without_noise(estimates, binomial_noise(estimates, counts)).mean()
    assert raw > 1.2 * expected
    assert corrected == pytest.approx(expected, rel=0.03)


def test_equal_classes_with_few_samples_are_not_called_unequal() -> None:
    estimates = np.random.default_rng(1).binomial(20, 0.7, (500, 100)) / 20
    corrected = gini_without_noise(estimates, binomial_noise(estimates, np.full(100, 20.0)))
    assert gini_of_rows(estimates).mean() > 0.07
    assert np.median(corrected) < 0.02


@given(
    st.lists(st.floats(0.0005, 0.9995), min_size=1, max_size=12),
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_the_baseline_multiplies_all_odds_by_one_factor(
    whole: list[float], targets: list[float]
) -> None:
    p, target = np.array(whole), np.array(targets)
    shares = np.arange(1, p.size + 1) / np.arange(1, p.size + 1).sum()
    q = proportional_odds_accuracy(p, shares, target)
    assert q.shape == (target.size, p.size)
    assert q @ shares == pytest.approx(target, abs=1e-8)
    factor = (q / (1 - q)) / (p / (1 - p))
    assert factor / factor[:, :1] == pytest.approx(np.ones_like(q), rel=1e-6)
    assert proportional_odds_accuracy(p, shares, p @ shares) == pytest.approx(p, abs=1e-9)


def test_classes_nearly_all_right_and_nearly_all_wrong() -> None:
    """Newton steps without the safeguard overshoot here."""
    shares = np.array([0.49759191, 0.22364176, 0.27876633])
    whole = np.array([0.999997615, 2.569866e-03, 2.69358801e-04])
    q = proportional_odds_accuracy(whole, shares, np.array(0.80940579))
    assert q @ shares == pytest.approx(0.80940579, abs=1e-8)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=9), st.floats(0.1, 10), st.integers(0, 99)
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_gini_is_half_the_relative_mean_difference(
    numbers: list[int], scale: float, seed: int
) -> None:
    x = np.array(numbers) / 500
    differences = np.abs(x[:, None] - x).sum()
    expected = differences / (2 * x.size**2 * x.mean()) if x.any() else 0.0
    assert cm.gini(x) == pytest.approx(expected, abs=1e-9)
    mixed = np.random.default_rng(seed).permutation(x)
    for measure in (cm.gini, cm.coefficient_of_variation):
        assert measure(scale * mixed) == pytest.approx(measure(x), abs=1e-9)
        assert measure(np.tile(x, 3)) == pytest.approx(measure(x), abs=1e-9)
    assert cm.gini(x) <= (x.size - 1) / x.size + 1e-12
    assert cm.max_min_gap(mixed - scale) == pytest.approx(x.max() - x.min(), abs=1e-9)


def test_excess_is_unbiased_where_plain_coefficients_are_not() -> None:
    """Few samples per class: the noise of the baseline differs from that of the subset."""
    rng = np.random.default_rng(2)
    counts, shares = np.full(60, 40.0), np.full(60, 1 / 60)
    whole = np.clip(0.9 + 0.04 * rng.standard_normal(60), 0.7, 0.985)
    below = proportional_odds_accuracy(whole, shares, np.array(0.6))
    edge = 0.5 / 41
    p, q = (
        np.clip(rng.binomial(40, truth, (400, 60)) / 40, edge, 1 - edge) for truth in (whole, below)
    )
    baseline = proportional_odds_accuracy(p, shares, q @ shares)
    plain = (gini_of_rows(q) - gini_of_rows(baseline)).mean()
    excess = excess_inequality(q, baseline, p, counts).mean()
    assert plain < -0.02
    assert abs(excess) < 0.4 * abs(plain)


def test_the_baseline_has_no_excess(make_predicted_run: MakeRun) -> None:
    subsets = {
        (size, seed): predicted(proportional_odds_accuracy(WHOLE, EVEN, np.array(accuracy)), seed)
        for size, accuracy in ((2, 0.4), (5, 0.6), (10, 0.75))
        for seed in range(3)
    }
    table = cm.fairness(
        make_predicted_run(LABELS, subsets, whole=predicted(WHOLE, 7), n_neurons=20)
    )
    assert list(table.columns) == list(FAIRNESS_COLUMNS)
    assert (table["gini"] > 1.4 * table["gini_full"]).all()
    assert table["gini_excess"].abs().max() < 0.003
    assert (table["gini_excess_low"] < 0).all()
    assert (table["gini_excess_high"] > 0).all()
    expected = table["gini_corrected"].to_numpy()
    assert table["gini_neutral"].to_numpy() == pytest.approx(expected, abs=0.003)
    assert expected == pytest.approx((table["gini"] - table["gini_noise"]).to_numpy(), abs=1e-12)


def test_a_lost_class_gives_an_excess_and_is_named(make_predicted_run: MakeRun) -> None:
    whole = predicted(WHOLE, 7)
    subsets = {(5, seed): predicted(with_one_class_lost(1), seed) for seed in range(3)}
    run = make_predicted_run(LABELS, subsets | {(20, 0): whole}, whole=whole)
    table = cm.fairness(run)
    assert table["gini_excess_low"].iloc[0] > 0.05
    assert table["gini_excess"].iloc[1] == pytest.approx(0.0, abs=1e-12)
    assert table["worst_class"].iloc[0] == "class 1"
    assert table["worst_share"].iloc[0] == 1.0
    assert table["worst_accuracy"].iloc[0] == pytest.approx(0.0925, abs=0.002)

    losses = cm.class_losses(run, 0.7)
    assert list(losses.columns) == list(LOSS_COLUMNS)
    assert losses["rank"].tolist() == [1, 2, 3, 4, 5]
    first = losses.iloc[0]
    assert (first["class_name"], first["first_share"], first["rank_high"]) == ("class 1", 1.0, 1)
    assert first["relative_loss"] == pytest.approx(0.9, abs=0.005)
    assert losses["singled_out"].tolist() == [True, False, False, False, False]
    assert cm.class_losses(run, 1.0)["n_kept"].unique().tolist() == [20]


def test_classes_with_equal_losses_have_overlapping_ranks(make_predicted_run: MakeRun) -> None:
    even = np.full(5, 0.9)
    subsets = {(5, seed): predicted(even - 0.1, seed) for seed in range(3)}
    losses = cm.class_losses(
        make_predicted_run(LABELS, subsets, whole=predicted(even, 7), n_neurons=20), 0.8
    )
    assert (losses["rank_low"] < 3).all()
    assert (losses["rank_high"] > 3).all()
    assert losses["first_share"].max() < 0.6
    assert not losses["singled_out"].any()


def test_values_are_those_of_one_subset_averaged_over_seeds(make_predicted_run: MakeRun) -> None:
    """Two seeds lose different classes: each is unequal, their mean hides it."""
    subsets = {(5, seed): predicted(with_one_class_lost(seed), seed) for seed in range(2)}
    run = make_predicted_run(LABELS, subsets, whole=predicted(WHOLE, 7), n_neurons=20)
    row = cm.fairness(run, resamples=50).iloc[0]
    accuracies = [[np.mean(p[c == LABELS] == c) for c in range(5)] for p in subsets.values()]
    for column, measure in {
        "gini": cm.gini, "cv": cm.coefficient_of_variation, "gap": cm.max_min_gap,
    }.items():  # fmt: skip
        assert row[column] == pytest.approx(np.mean([measure(one) for one in accuracies]))
    assert row["gini_of_means"] == pytest.approx(cm.gini(np.mean(accuracies, axis=0)))
    assert row["gini_of_means"] < 0.7 * row["gini"]
    assert row["accuracy"] == pytest.approx(run.frame()["value"].iloc[1:].mean())


def test_class_accuracies_have_binomial_intervals(make_predicted_run: MakeRun) -> None:
    subset, whole = predicted(WHOLE, 0), predicted(WHOLE, 7)
    table = cm.class_accuracy(
        make_predicted_run(
            LABELS, {(5, seed): subset for seed in range(3)}, whole=whole, n_neurons=20
        )
    )
    assert list(table.columns) == list(CLASS_COLUMNS)
    wide = 2 * norm.ppf(0.975) * np.sqrt(WHOLE * (1 - WHOLE) / PER_CLASS)
    width = (table["accuracy_high"] - table["accuracy_low"]).to_numpy(float)
    assert width == pytest.approx(wide, rel=0.12)
    # Losses are paired: only samples on which the layer and the subset differ make them vary.
    change = (whole == LABELS).astype(float) - (subset == LABELS)
    spread = np.array([change[c == LABELS].std() for c in range(5)])
    paired = (table["loss_high"] - table["loss_low"]).to_numpy(float)
    assert paired == pytest.approx(2 * norm.ppf(0.975) * spread / np.sqrt(PER_CLASS), rel=0.15)
    assert (paired < 0.8 * width)[2:].all()


def test_classes_are_resampled_independently(make_predicted_run: MakeRun) -> None:
    """Every class is right on its first samples: equal draws would change all classes together."""
    right = np.arange(5 * PER_CLASS) % PER_CLASS < 0.8 * PER_CLASS
    classes = np.where(right, LABELS, (LABELS + 1) % 5)
    row = cm.fairness(make_predicted_run(LABELS, {(5, 0): classes})).iloc[0]
    wide = 2 * norm.ppf(0.975) * np.sqrt(0.8 * 0.2 / LABELS.size)
    assert row["accuracy_high"] - row["accuracy_low"] == pytest.approx(wide, rel=0.12)


def test_intervals_lie_around_the_value_though_noise_only_widens(
    make_predicted_run: MakeRun,
) -> None:
    labels = np.repeat(np.arange(20), 25)
    classes = predicted(np.linspace(0.68, 0.76, 20), 0, labels)
    row = cm.fairness(make_predicted_run(labels, {(5, 0): classes})).iloc[0]
    half = (row["cv_high"] - row["cv_low"]) / 2
    assert row["cv_low"] + half == pytest.approx(row["cv"], abs=0.25 * half)
    # With 25 samples a class, differences of .04 cannot be told from noise.
    assert row["gini_corrected_low"] == 0.0 < row["gini"] < row["gini_corrected_high"]
    assert row["gap_low"] == 0.0 < row["gap"] < row["gap_high"]


def test_a_band_for_all_classes_is_wider_than_for_one(make_predicted_run: MakeRun) -> None:
    subsets = {(5, seed): predicted(WHOLE - 0.05, seed) for seed in range(3)}
    run = make_predicted_run(LABELS, subsets, whole=predicted(WHOLE, 7), n_neurons=20)
    one = cm.class_accuracy(run).set_index("class_id").sort_index()
    every = cm.class_losses(run, 0.9).set_index("class_id").sort_index()
    wider = (every["loss_beyond_high"] - every["loss_beyond_low"]) / (
        one["loss_beyond_high"] - one["loss_beyond_low"]
    )
    # Five roughly independent classes: 2.57 standard errors instead of 1.96.
    assert wider.to_numpy(float) == pytest.approx(np.full(5, 2.57 / 1.96), rel=0.1)


def test_rare_classes_never_vanish_and_absent_ones_do_not_count(
    make_predicted_run: MakeRun,
) -> None:
    labels = np.array([0] * 30 + [1] * 30 + [3])
    wrong = labels.copy()
    wrong[[0, 31, 32]] = 2
    subsets = {(2, seed): wrong for seed in range(3)} | {(4, 0): labels}
    run = make_predicted_run(labels, subsets, whole=labels)
    row = cm.fairness(run).iloc[0]
    assert (row["n_classes"], row["smallest_class"], row["n_test"]) == (3, 1, 61)
    assert np.isfinite([row["gini_excess"], row["gini_corrected"], row["accuracy_low"]]).all()
    # One sample says next to nothing about a class, and nothing about how unequal classes are.
    assert row[["gini_excess_low", "gini_corrected_high", "worst_accuracy_low"]].isna().all()
    assert "a class has 1 test sample" in row["interval_note"]
    rare = cm.class_accuracy(run).query("class_id == 3 and n_kept == 2").iloc[0]
    assert rare["accuracy_low"] < 0.5 < rare["accuracy_high"] == 1.0
    assert rare["class_n_test"] == 1


def test_fewer_than_three_seeds_of_random_subsets_have_no_interval(
    make_predicted_run: MakeRun,
) -> None:
    subsets = {(5, seed): predicted(WHOLE - 0.1, seed) for seed in range(2)}
    run = make_predicted_run(LABELS, subsets, whole=predicted(WHOLE, 7), n_neurons=20)
    row = cm.fairness(run, resamples=50).iloc[0]
    assert row["interval_note"] == "2 seeds, at least 3 needed"
    ends = [name for name in row.index if name.endswith(("_low", "_high"))]
    assert row[ends].isna().all()
    assert np.isfinite([row["gini"], row["gini_corrected"], row["worst_accuracy"]]).all()
    assert not cm.class_losses(run, 0.5, resamples=50)["singled_out"].any()


def test_a_class_without_a_right_answer_has_an_interval_above_zero(
    make_predicted_run: MakeRun,
) -> None:
    none = np.where(np.arange(5) == 2, 0.0, WHOLE)
    subsets = {(5, seed): predicted(none, seed) for seed in range(3)}
    run = make_predicted_run(LABELS, subsets, whole=predicted(WHOLE, 7), n_neurons=20)
    row = cm.fairness(run).iloc[0]
    assert (row["worst_class"], row["worst_observed"]) == ("class 2", 0.0)
    # By the rule of three, 400 samples without a hit leave up to 3/400.
    assert row["worst_accuracy_low"] == 0.0
    assert 1 / 400 < row["worst_accuracy_high"] < 8 / 400


@pytest.mark.parametrize(
    ("accuracy", "counts"),
    [(np.full(10, 0.7), 30), (np.linspace(0.5, 0.9, 12), 30), (np.array([0.5, 0.5, 0.9]), 60)],
)
def test_the_worst_class_is_not_called_worse_than_it_is(
    accuracy: NDArray[np.float64], counts: int
) -> None:
    """Its interval holds the true accuracy of the class that was picked, at the stated rate."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        measured = rng.binomial(counts, accuracy) / counts
        smoothed = (counts * measured + 1) / (counts + 2)
        draws = measured + rng.binomial(counts, smoothed, (200, accuracy.size)) / counts - smoothed
        worst, _, low, high = shrunken_worst(measured, draws, 0.95)
        inside.append(low <= accuracy[worst] <= high)
    assert 0.92 <= np.mean(inside) <= 0.995


def test_without_the_whole_layer_there_is_nothing_to_compare_with(
    make_predicted_run: MakeRun,
) -> None:
    run = make_predicted_run(LABELS, {(5, seed): predicted(WHOLE, seed) for seed in range(2)})
    row = cm.fairness(run, resamples=20).iloc[0]
    missing = ["gini_excess", "gini_excess_low", "gini_neutral", "gini_full", "accuracy_full"]
    assert row[missing].isna().all()
    assert len(cm.class_losses(run, resamples=20)) == 0
    assert cm.class_accuracy(run, resamples=20)["loss"].isna().all()


def test_a_class_with_nothing_to_lose_comes_last(make_predicted_run: MakeRun) -> None:
    none = np.where(np.arange(5) == 2, 0.0, WHOLE)
    run = make_predicted_run(LABELS, {(5, 0): predicted(none - (none > 0) * 0.05, 0)},
                   whole=predicted(none, 7), n_neurons=20)  # fmt: skip
    losses = cm.class_losses(run, 0.8, resamples=100)
    assert losses["class_id"].iloc[-1] == 2
    assert losses["relative_loss"].isna().tolist() == [False] * 4 + [True]


def test_failed_cells_and_measures_without_predictions_are_left_out(
    make_predicted_run: MakeRun,
) -> None:
    run = make_predicted_run(
        LABELS, {(5, 0): predicted(WHOLE, 0)}, whole=predicted(WHOLE, 7), n_neurons=20
    )
    row = run.frame().iloc[1].to_dict()
    failed = row | {"seed": 1, "status": "failed", "error": "no", "value": None, "cell": "f"}
    similar = row | {"measure": "cka", "cell": "c", "artifact": 0}
    with run.writer() as writer:
        writer.append([failed])
        writer.append([similar], Artifact("replicates", np.ones((1, 4))))
    table = cm.fairness(run, resamples=20)
    assert table["measure"].tolist() == ["logistic"]
    assert (table["n_failed"].iloc[0], table["n_seeds"].iloc[0]) == (1, 1)


def test_the_error_for_a_run_without_predictions_names_a_probe(make_predicted_run: MakeRun) -> None:
    run = make_predicted_run(LABELS, {(5, 0): predicted(WHOLE, 0)})
    with run.writer() as writer:
        writer.drop(run.frame()["cell"])
    with pytest.raises(CriticalMassError, match="sweep it with a probe"):
        cm.fairness(run)


def test_predictions_that_contradict_the_table_are_refused(make_predicted_run: MakeRun) -> None:
    run = make_predicted_run(LABELS, {(5, 0): predicted(WHOLE, 0)})
    row = run.frame().iloc[0].to_dict()
    with run.writer() as writer:
        writer.append([row | {"value": 0.1}])
    with pytest.raises(CriticalMassError, match="stored scores have mean"):
        cm.fairness(run)


def test_options_out_of_range_are_refused(make_predicted_run: MakeRun) -> None:
    run = make_predicted_run(LABELS, {(5, 0): predicted(WHOLE, 0)})
    with pytest.raises(CriticalMassError, match="level=1"):
        cm.fairness(run, level=1.0)
    with pytest.raises(CriticalMassError, match="resamples=0"):
        cm.class_accuracy(run, resamples=0)
    with pytest.raises(CriticalMassError, match="delta"):
        cm.class_losses(run, 1.5)
