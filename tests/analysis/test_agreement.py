"""Agreement of predictions and errors, against references and known truths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.analysis.agreement import AGREEMENT_COLUMNS, pair_agreement, seed_contributions
from criticalmass.analysis.agreement_matrix import agreement_matrix
from criticalmass.analysis.columns import LayerKey
from criticalmass.analysis.predictions import Predictions
from criticalmass.storage.run import Run

MakeRun = Callable[..., Run]
STATISTICS = ("agreement", "kappa", "error_consistency", "error_overlap", "same_wrong")
N = 1500
LABELS = np.random.default_rng(5).integers(0, 4, N)


def noisy(share: float, seed: int, labels: np.ndarray = LABELS) -> np.ndarray:
    """Predictions right on about this share of samples, wrong ones uniform, all independent."""
    rng = np.random.default_rng(seed)
    wrong = (labels + rng.integers(1, 4, labels.size)) % 4
    return np.where(rng.random(labels.size) < share, labels, wrong)


def statistics(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    n_classes = int(max(first.max(), second.max(), labels.max())) + 1
    source = Predictions(
        key=LayerKey("m", "l", "d", "p"),
        classes=np.stack([first, second]),
        labels=labels,
        class_names=tuple(str(c) for c in range(n_classes)),
        full_row=None,
        selectors=(),
    )
    return {
        name: float(value[0]) for name, value in pair_agreement(source, np.array([[0, 1]])).items()
    }


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 60))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_kappa_and_error_consistency_are_cohens_kappa(seed: int, classes: int, n: int) -> None:
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(seed)
    first, second, labels = rng.integers(0, classes, (3, n))
    values = statistics(first, second, labels)
    references = {
        "kappa": (first, second),
        "error_consistency": (first == labels, second == labels),
    }
    for name, (a, b) in references.items():
        if np.unique(np.concatenate([a, b])).size > 1:
            assert values[name] == pytest.approx(cohen_kappa_score(a, b), abs=1e-6)
        else:
            assert np.isnan(values[name])


def test_hand_computed_overlap() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    first = np.array([0, 0, 1, 1, 1, 1, 0, 2])
    second = np.array([0, 1, 1, 2, 1, 1, 1, 2])
    values = statistics(first, second, labels)
    assert values["agreement"] == pytest.approx(5 / 8)
    # Wrong: the first on 2, 3, 6, 7, the second on 1, 2, 3, 7: three of five, two answers alike.
    assert values["error_overlap"] == pytest.approx(3 / 5)
    assert values["error_overlap_chance"] == pytest.approx((1 / 4) / (3 / 4))
    assert values["same_wrong"] == pytest.approx(2 / 3)
    # Of class 0 (two joint errors) the first always answers 1, the second 1 in two of three; of
    # class 1 (one joint error) the first answers 2 in one of two, the second always.
    assert values["same_wrong_chance"] == pytest.approx((2 * 2 / 3 + 1 / 2) / 3)


def test_independent_errors_have_no_consistency(make_predicted_run: MakeRun) -> None:
    run = make_predicted_run(
        LABELS, {(5, seed): noisy(0.7, seed) for seed in range(4)}, whole=noisy(0.9, 9), n_neurons=9
    )
    table = cm.agreement(run).set_index("against")
    assert sorted(table.index) == ["other seeds", "whole layer"]
    for _, row in table.iterrows():
        assert row["error_consistency_low"] < 0 < row["error_consistency_high"]
        assert row["error_consistency"] == pytest.approx(0, abs=0.05)
        assert row["error_overlap"] == pytest.approx(row["error_overlap_chance"], abs=0.02)
        assert row["same_wrong"] == pytest.approx(row["same_wrong_chance"], abs=0.06)
        assert row["same_wrong_chance"] == pytest.approx(1 / 3, abs=0.02)
    assert table.loc["other seeds", "n_pairs"] == 6
    assert table.loc["whole layer", "n_pairs"] == 4


def test_equal_predictions_agree_fully(make_predicted_run: MakeRun) -> None:
    whole = noisy(0.8, 1)
    run = make_predicted_run(
        LABELS, {(5, 0): noisy(0.6, 2), (9, 0): whole, (9, 1): whole}, whole=whole
    )
    table = cm.agreement(run, resamples=100)
    assert list(table.columns) == list(AGREEMENT_COLUMNS)
    full = table[table["n_kept"] == 9]
    assert full["against"].tolist() == ["whole layer", "other seeds"]
    for name in ("agreement", "kappa", "error_consistency", "error_overlap", "same_wrong"):
        shown = full[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
        assert shown == pytest.approx(np.ones((2, 3)))


def test_seeds_share_one_row_of_predictions_at_the_whole_layer(make_predicted_run: MakeRun) -> None:
    """A sweep stores the whole layer once for all orders: no pair of seeds is left there."""
    whole = noisy(0.8, 1)
    run = make_predicted_run(
        LABELS, {(5, 0): noisy(0.6, 2), (5, 1): noisy(0.6, 3)}, whole=whole, n_neurons=9
    )
    reference = run.frame().iloc[0]
    rows = [
        reference.to_dict() | {"selector": "random", "seed": seed, "cell": f"all-{seed}"}
        for seed in range(2)
    ]
    with run.writer() as writer:
        writer.append(rows)
    table = cm.agreement(run, resamples=50)
    assert table[table["n_kept"] == 9]["against"].tolist() == ["whole layer"]


@pytest.mark.parametrize("rare", [False, True])
def test_intervals_are_those_of_resampled_samples(make_predicted_run: MakeRun, rare: bool) -> None:
    """Equal seeds: the same as computing the statistics on every resample.

    With one frequent class much of the agreement is chance, which varies with the resample.
    """
    rng = np.random.default_rng(1)
    labels = (rng.random(400) < 1 / 40).astype(np.int64) if rare else LABELS[:400]
    subset, whole = (np.where(rng.random(400) < 0.02, 1 - labels, labels) for _ in range(2))
    if not rare:
        subset, whole = noisy(0.6, 1, labels), noisy(0.8, 2, labels)
        whole[:200] = np.where(np.arange(200) % 3 > 0, subset[:200], whole[:200])
    seeds = {(5, seed): subset for seed in range(3)}
    run = make_predicted_run(labels, seeds, whole=whole, n_neurons=9)
    row = cm.agreement(run).set_index("against").loc["whole layer"]
    rng = np.random.default_rng(3)
    draws = [rng.integers(0, 400, 400) for _ in range(2000)]
    expected = [statistics(subset[at], whole[at], labels[at]) for at in draws]
    for name in ("kappa",) if rare else STATISTICS:
        low, high = np.quantile([one[name] for one in expected], [0.025, 0.975])
        assert row[f"{name}_low"] == pytest.approx(low, abs=0.06 * (high - low))
        assert row[f"{name}_high"] == pytest.approx(high, abs=0.06 * (high - low))


def test_pairs_that_share_a_seed_are_not_independent(make_predicted_run: MakeRun) -> None:
    """Seeds of very different accuracy give a far wider interval than seeds of equal accuracy."""
    shares = [0.95, 0.9, 0.6, 0.35]
    unequal = make_predicted_run(
        LABELS, {(5, s): noisy(share, s) for s, share in enumerate(shares)}, n_neurons=9
    )
    equal = make_predicted_run(
        LABELS, {(5, s): noisy(0.7, s) for s in range(4)}, n_neurons=9, name="equal"
    )
    wide, narrow = (
        float((row["agreement_high"] - row["agreement_low"]).iloc[0])
        for row in (cm.agreement(unequal), cm.agreement(equal))
    )
    assert wide > 5 * narrow


@pytest.mark.parametrize("n_seeds", [3, 4, 7])
def test_contributions_of_seeds_to_a_mean_over_pairs(n_seeds: int) -> None:
    """If a pair's value is the sum of one number per seed, a seed contributes twice its own."""
    own = np.random.default_rng(n_seeds).random(n_seeds)
    pairs = [own[a] + own[b] for a in range(n_seeds) for b in range(a + 1, n_seeds)]
    assert seed_contributions("other seeds", n_seeds)(np.array(pairs)) == pytest.approx(2 * own)
    draws = np.random.default_rng(0).random((5, len(pairs)))
    gathered = seed_contributions("other seeds", n_seeds)(draws)
    assert gathered.mean(axis=1) == pytest.approx(draws.mean(axis=1))


def test_two_seeds_are_one_pair() -> None:
    assert seed_contributions("other seeds", 2)(np.array([0.3])) == pytest.approx([0.3, 0.3])


def test_without_errors_the_error_statistics_are_missing(make_predicted_run: MakeRun) -> None:
    run = make_predicted_run(LABELS, {(5, 0): LABELS}, whole=LABELS, n_neurons=9)
    row = cm.agreement(run, resamples=20).iloc[0]
    assert row["agreement"] == 1.0
    missing = ["error_consistency", "error_overlap", "same_wrong", "same_wrong_low"]
    assert row[missing].isna().all()


def test_one_seed_without_the_whole_layer_gives_no_rows(make_predicted_run: MakeRun) -> None:
    run = make_predicted_run(LABELS, {(5, 0): noisy(0.5, 0)}, selector="first")
    assert len(cm.agreement(run, resamples=20)) == 0


@given(st.integers(0, 1000), st.integers(2, 5))
@settings(
    deadline=None, max_examples=8, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_statistics_stay_in_their_ranges(
    make_predicted_run: MakeRun, seed: int, n_seeds: int
) -> None:
    labels = LABELS[:60]
    subsets = {(5, s): noisy(0.5, 100 * seed + s, labels) for s in range(n_seeds)}
    run = make_predicted_run(labels, subsets, n_neurons=9, name=f"run-{seed}-{n_seeds}")
    row = cm.agreement(run, resamples=40).iloc[0]
    for name in ("agreement", "error_overlap", "same_wrong"):
        assert 0 <= row[name] <= 1
        if n_seeds < 3:
            assert row[[f"{name}_low", f"{name}_high"]].isna().all()
            assert "at least 3 needed" in row["interval_note"]
        else:
            assert row[f"{name}_low"] <= row[f"{name}_high"]
    assert -1 <= row["kappa"] <= 1


def test_of_very_many_subsets_the_first_seeds_are_compared(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)
    store = cm.import_features(x, out=tmp_path / "store", labels=np.arange(60) % 3)
    run = cm.sweep(store, out=tmp_path / "run", fractions=(0.5, 1.0), seeds=6, measures="ridge")
    complete = agreement_matrix(run)
    assert complete.loc[(complete["a"] == "3") & (complete["b"] == "3"), "n_pairs"].item() == 6 * 5
    few = agreement_matrix(run, max_rows=8)
    assert few.loc[(few["a"] == "3") & (few["b"] == "3"), "n_pairs"].item() == 4 * 3
