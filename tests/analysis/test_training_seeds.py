"""Recipes compared over training seeds, on networks whose critical masses are chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from criticalmass.analysis.multiplicity import holm
from criticalmass.analysis.training_seed_intervals import Estimate, MeanInterval
from criticalmass.analysis.training_seed_rows import ratio_texts
from criticalmass.analysis.training_seeds import (
    EFFECT_COLUMNS,
    PREDICTION_COLUMNS,
    PredictionKey,
    TrainedRun,
    TrainingFacts,
    compare_recipes,
    effects,
    trained_runs,
    with_predictions,
)
from criticalmass.errors import CriticalMassError
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run
from criticalmass.storage.run_table import to_table
from criticalmass.storage.run_view import RunView

N_TEST, D, DELTA = 400, 64, 0.75
LABELS = np.arange(N_TEST) % 10
GOOD = TrainingFacts(upstream_accuracy=0.99, train_error=0.0, live_share=1.0, seconds=90.0)
Curve = dict[int, float]


def reaching(k: int, full: float = 0.8) -> Curve:
    """A curve that has 75 % of its whole layer's value exactly at k neurons: k*(.75) = k."""
    return {1: full / 4, k: full * DELTA, (k + D) // 2: full * 0.95, D: full}


@dataclass(frozen=True, repr=False)
class MemoryRun(RunView):
    """A run whose table and predictions are in memory."""

    predicted: Any = field(default=None, compare=False)

    @property
    def manifest(self) -> dict[str, Any]:
        return {}

    def labels(self) -> NDArray[np.int64]:
        return LABELS

    def artifacts(self, references: Iterable[Any]) -> NDArray[Any]:
        return np.asarray(self.predicted[[int(text.partition(":")[2]) for text in references]])


def cell_rows(
    name: str, curve: Curve, measure: str = "logistic", n_seeds: int = 3, **columns: Any
) -> list[dict[str, Any]]:
    """Rows of a network in which all subsets of a size have the value of a curve."""
    cells = [("full", 0, D), *(("random", s, k) for s in range(n_seeds) for k in curve)]
    return [
        {
            "model": name, "layer": "penultimate", "dataset": "digits", "split": "test",
            "measure": measure, "n_neurons": D, "value_full": curve[D], "n_train": 50,
            "n_test": N_TEST, "seconds": 0.0, "status": "ok", "gap": 1e-7, "passes": 9,
            "selector": selector, "seed": seed, "n_kept": k, "fraction": k / D,
            "value": curve[k], "cell": f"{measure}/{selector}/{seed}/{k}",
        } | columns
        for selector, seed, k in cells
    ]  # fmt: skip


def predictions(rows: list[dict[str, Any]], luck: int) -> NDArray[np.uint8]:
    """(n_rows, N_TEST) class ids of ten classes; the luckiest samples are right."""
    rank = np.argsort(np.argsort(np.random.default_rng(luck).random(N_TEST)))
    wrong = np.stack([rank >= round(row["value"] * N_TEST) for row in rows])
    return np.asarray((LABELS + wrong) % 10, dtype=np.uint8)


def network_run(name: str, curve: Curve, *, luck: int | None = 0, **options: Any) -> MemoryRun:
    """A network in memory; ``luck`` None is a run that stored no predictions."""
    rows = cell_rows(name, curve, **options)
    if luck is None:
        return MemoryRun(Path(name), table=to_table(rows))
    named = [row | {"artifact": f"predictions/0.npy:{i}"} for i, row in enumerate(rows)]
    return MemoryRun(Path(name), table=to_table(named), predicted=predictions(rows, luck))


def networks(
    recipe: str,
    masses: Sequence[int] | dict[int, int],
    facts: TrainingFacts = GOOD,
    full: float = 0.8,
    **options: Any,
) -> list[TrainedRun]:
    """Networks of one recipe with these critical masses, for the training seeds 0, 1, ..."""
    of_seed = masses if isinstance(masses, dict) else dict(enumerate(masses))
    return [
        TrainedRun(
            recipe, seed, network_run(f"{recipe}{seed}", reaching(k, full), **options), facts
        )
        for seed, k in of_seed.items()
    ]


def one(runs: Sequence[TrainedRun], **options: Any) -> pd.Series:
    table = effects(runs, **{"baseline": "ce", "deltas": DELTA, **options})
    assert dict(table.dtypes.astype(str)) == EFFECT_COLUMNS
    assert len(table) == 1
    return table.iloc[0]


# --- the effect and its interval ---


def test_the_ratio_of_two_recipes_by_hand() -> None:
    row = one([*networks("ce", (4, 5, 8)), *networks("mse", (12, 15, 24))])
    assert row["n_pairs"] == 3
    assert row["training_seeds"] == "0, 1, 2"
    assert row["ratio"] == pytest.approx(3.0, rel=1e-6)
    assert row["k_baseline"] == pytest.approx(160 ** (1 / 3), rel=1e-6)
    assert row["k"] == pytest.approx(3 * 160 ** (1 / 3), rel=1e-6)
    assert row["dr_difference"] == pytest.approx(-(17 - 17 / 3) / D, rel=1e-6)
    assert (row["value_full"], row["bar"]) == pytest.approx((0.8, 0.6))
    assert (row["verdict"], row["bound"], row["gates"], row["note"]) == ("more neurons", "", "", "")
    text = "mse needs 3.0 ["
    assert text in row["sentence"]
    assert row["sentence"].startswith("On digits by logistic at 75 % (penultimate), ")
    assert "times the neurons of ce (3 training seeds)" in row["sentence"]
    assert row["sentence"].endswith(", upstream accuracy 0.99 against 0.99: more neurons.")


def test_without_anything_shared_the_interval_is_that_of_students_test() -> None:
    base, mse = np.array([4, 5, 8, 6]), np.array([9, 15, 20, 11])
    row = one([*networks("ce", base, luck=None), *networks("mse", mse, luck=None)], level=0.9)
    test = stats.ttest_1samp(np.log(mse / base), 0.0)
    interval = test.confidence_interval(0.9)
    assert row["log_ratio"] == pytest.approx(np.log(mse / base).mean(), rel=1e-6)
    assert (row["log_ratio_low"], row["log_ratio_high"]) == pytest.approx(tuple(interval), rel=1e-6)
    assert row["p"] == pytest.approx(test.pvalue, rel=1e-5)
    assert row["std"] == pytest.approx(np.log(mse / base).std(ddof=1), rel=1e-6)
    assert row["ratio_high"] == pytest.approx(math.exp(row["log_ratio_high"]))
    dr = stats.ttest_1samp((base - mse) / D, 0.0).confidence_interval(0.9)
    assert (row["dr_difference_low"], row["dr_difference_high"]) == pytest.approx(tuple(dr))
    assert "no scores of test samples" in row["note"]


def test_an_effect_of_the_training_seed_on_both_recipes_cancels() -> None:
    """The same networks, paired by training seed and paired at random."""
    base, mse = networks("ce", (3, 7, 20)), networks("mse", (6, 14, 40))
    paired = one([*base, *mse])
    names = {0: 1, 1: 2, 2: 0}
    crossed = [TrainedRun("mse", names[m.training_seed], m.view, m.facts) for m in mse]
    apart = one([*base, *crossed])
    assert paired["log_ratio"] == pytest.approx(apart["log_ratio"])
    assert paired["std"] < 1e-6 < apart["std"]
    assert (paired["verdict"], apart["verdict"]) == ("more neurons", "no difference shown")
    widths = [row["log_ratio_high"] - row["log_ratio_low"] for row in (paired, apart)]
    assert widths[0] < widths[1] / 5


def test_common_test_samples_are_in_the_interval() -> None:
    """Networks without any spread between them still saw only 400 test samples."""
    base, mse = networks("ce", (4, 4, 4), luck=1), networks("mse", (16, 16, 16), luck=2)
    row = one([*base, *mse])
    assert row["std"] == pytest.approx(0.0, abs=1e-9)
    assert row["shared_std"] > 0.01
    # All of the variance is that of the common samples, which are many.
    width = (row["log_ratio_high"] - row["log_ratio_low"]) / 2
    assert width == pytest.approx(stats.norm.ppf(0.975) * row["shared_std"], rel=1e-6)


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_pairs_have_no_interval(n: int) -> None:
    row = one([*networks("ce", (4, 5, 8)[:n]), *networks("mse", (8, 10, 16)[:n])])
    assert row["ratio"] == pytest.approx(2.0, rel=1e-6)
    missing = [c for c in EFFECT_COLUMNS if c.endswith(("_low", "_high"))] + ["p", "p_holm"]
    assert row[missing].isna().all()
    assert row["verdict"] == "no interval"
    assert f"{n} paired training seed" in row["note"]
    assert f"2.0 times the neurons of ce ({n} training seed" in row["sentence"]


def test_training_seeds_without_a_partner_are_named() -> None:
    row = one([*networks("ce", (4, 5, 8, 9)), *networks("mse", {1: 10, 2: 16, 3: 18, 7: 30})])
    assert row["training_seeds"] == "1, 2, 3"
    assert row["ratio"] == pytest.approx(2.0, rel=1e-6)
    assert "training seed 0 not measured for mse" in row["note"]
    assert "training seed 7 not measured for ce" in row["note"]


def test_a_recipe_without_a_pair_keeps_its_row() -> None:
    row = one([*networks("ce", (4, 5, 8)), *networks("mse", {5: 10})])
    assert row["n_pairs"] == 0
    assert pd.isna(row["ratio"])
    assert row["verdict"] == "no interval"
    assert "mse is not compared with ce: 0 paired training seeds" in row["sentence"]


def test_a_network_whose_fits_failed_is_named() -> None:
    rows = [
        row | {"status": "failed", "value": None, "error": "no memory"}
        for row in cell_rows("mse3", reaching(5))
        if row["selector"] == "random"
    ]
    failed = MemoryRun(Path("mse3"), table=to_table(rows))
    mse = [*networks("mse", (8, 10, 16)), TrainedRun("mse", 3, failed)]
    row = one([*networks("ce", (4, 5, 8, 5)), *mse])
    assert row["n_pairs"] == 3
    assert "training seed 3 of mse without a value" in row["note"]


def test_recipes_are_corrected_together() -> None:
    base = networks("ce", (4, 5, 8, 6))
    others = {"a": (9, 15, 20, 11), "b": (6, 6, 9, 9), "c": (4, 7, 7, 6)}
    runs = [run for name, k in others.items() for run in networks(name, k)]
    table = effects([*base, *runs], baseline="ce", deltas=(DELTA, 0.5))
    assert len(table) == 6
    for _, family in table.groupby("delta"):
        assert family["recipe"].tolist() == ["a", "b", "c"]
        np.testing.assert_allclose(family["p_holm"].astype(float), holm(family["p"]))
        assert (family["n_compared"] == 3).all()
    alone = effects([*base, *runs[4:8]], baseline="ce", deltas=DELTA).iloc[0]
    together = table[(table["recipe"] == "b") & (table["delta"] == DELTA)].iloc[0]
    assert together["p_holm"] > alone["p_holm"] == alone["p"] == together["p"]


# --- values that are only bounded ---


def test_a_worse_layer_misses_the_bar_of_the_baseline() -> None:
    """75 % of .8 is .6, which a whole layer of .5 does not have."""
    row = one([*networks("ce", (4, 5, 8)), *networks("bad", (2, 3, 4), full=0.5)])
    assert row["log_ratio"] < 0.0
    assert np.isinf(row["k_at_bar"])
    assert row["bound_at_bar"] == ">="
    expected = np.mean(np.log(D / np.array([4, 5, 8])))
    assert row["log_ratio_at_bar"] == pytest.approx(expected, rel=1e-6)
    assert 0.0 < row["log_ratio_at_bar_low"] < expected
    assert row["log_ratio_at_bar_high"] == np.inf
    assert "training seeds 0, 1, 2 of bad below 75 % of ce's whole layer with all" in row["note"]


def test_the_absolute_bar_by_hand() -> None:
    """A better whole layer raises its own 75 %, and not that of the baseline."""
    base = networks("ce", (4, 5, 8))
    masses = (16, 20, 32)
    good = [
        TrainedRun("good", s, network_run(f"good{s}", {1: 0.2, k: 0.6, 48: 0.7, D: 0.9}), GOOD)
        for s, k in enumerate(masses)
    ]
    row = one([*base, *good])
    assert row["bar"] == pytest.approx(0.6)
    assert row["k_at_bar"] == pytest.approx((16 * 20 * 32) ** (1 / 3), rel=1e-6)
    assert row["log_ratio_at_bar"] == pytest.approx(math.log(4), rel=1e-6)
    assert row["log_ratio"] > row["log_ratio_at_bar"] + 0.05  # 75 % of .9 is .675


def test_the_interval_covers_what_the_tested_sizes_leave_open() -> None:
    base = networks("ce", (8, 8, 8), luck=None)
    floor = [
        TrainedRun("floor", s, network_run(f"f{s}", {4: 0.7, D: 0.8}, luck=None), GOOD)
        for s in range(3)
    ]
    never = [
        TrainedRun("never", s, network_run(f"n{s}", {4: 0.3, D: 0.8}, luck=None), GOOD)
        for s in range(3)
    ]
    row = one([*base, *floor])
    assert (row["bound"], row["ratio"]) == ("<=", pytest.approx(0.5))
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((1 / 8, 1 / 2))
    assert "of floor at 75 % with the smallest tested size" in row["note"]
    assert "needs at most 0.50 [" in row["sentence"]
    row = one([*base, *never])
    assert (row["bound"], row["ratio"]) == ("<=", pytest.approx(8.0))
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((5 / 8, 8))
    assert row["verdict"] == "no difference shown"
    assert "of never at 75 % with the whole layer alone" in row["note"]
    row = one([*floor, *never], baseline="floor")
    assert row["bound"] == "open"
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((5 / 4, 64))
    assert row["verdict"] == "more neurons"


# --- gates ---


@pytest.mark.parametrize(
    ("facts", "gate", "reason"),
    [
        (TrainingFacts(0.9, live_share=1.0), "upstream", "upstream accuracy (0.900 against 0.990)"),
        (TrainingFacts(1.0, live_share=1.0), "", ""),
        (TrainingFacts(0.99, live_share=0.9), "live", "10 % dead in mse, training seed 0"),
        (TrainingFacts(0.99, live_share=0.96), "", ""),
    ],
)
def test_gates_of_training(facts: TrainingFacts, gate: str, reason: str) -> None:
    row = one([*networks("ce", (4, 5, 8)), *networks("mse", (12, 15, 24), facts)])
    states = {name: row[f"gate_{name}"] for name in ("upstream", "live", "full", "certified")}
    assert {name for name, state in states.items() if state != "pass"} == ({gate} - {""})
    assert row["verdict"].startswith("gated: " if gate else "more neurons")
    assert reason in row["gates"]
    assert row["ratio"] == pytest.approx(3.0, rel=1e-6)  # the row stays
    assert row["accuracy_difference"] == pytest.approx(facts.upstream_accuracy - 0.99)
    assert row["dead_share"] == pytest.approx(1 - facts.live_share)


def test_the_baseline_is_gated_as_well() -> None:
    dead = TrainingFacts(0.99, live_share=0.5)
    row = one([*networks("ce", (4, 5, 8), dead), *networks("mse", (12, 15, 24))])
    assert row["gates"] == "failed: live neurons (50 % dead in ce, training seed 0)"


def test_what_is_not_known_is_said() -> None:
    nothing = TrainingFacts()
    row = one([*networks("ce", (4, 5, 8)), *networks("mse", (12, 15, 24), nothing)])
    assert (row["gate_upstream"], row["gate_live"]) == ("unknown", "unknown")
    assert row["gates"] == "unknown: upstream accuracy, live neurons"
    assert row["verdict"] == "more neurons"
    assert pd.isna(row["upstream_accuracy"])
    assert row["upstream_accuracy_baseline"] == pytest.approx(0.99)


def test_a_whole_layer_that_knows_little_is_gated() -> None:
    """The largest of ten classes has 10 %, so 30 % is not enough."""
    base, poor = networks("ce", (4, 5, 8)), networks("poor", (4, 5, 8), full=0.3)
    row = one([*base, *poor])
    assert (
        row["gates"] == "failed: whole layer (poor is 20 points above the largest class (logistic))"
    )
    assert row["majority_accuracy"] == pytest.approx(0.1)
    assert row["above_majority"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("columns", "state", "count"),
    [
        ({"gap": 1e-7, "passes": 40}, "pass", 0),
        ({"gap": None, "passes": 1}, "pass", 0),  # closed form
        ({"gap": None, "passes": 100}, "unknown", None),  # gradient descent
        ({"status": "not_converged"}, "fail", 30),
    ],
)
def test_certified_probes(columns: dict[str, Any], state: str, count: int | None) -> None:
    row = one([*networks("ce", (4, 5, 8)), *networks("mse", (12, 15, 24), **columns)])
    assert row["gate_certified"] == state
    assert row["n_uncertified"] is pd.NA if count is None else row["n_uncertified"] == count


def test_fits_far_from_the_critical_mass_need_no_certificate() -> None:
    runs = networks("ce", (4, 5, 8))
    for seed, stalled in enumerate((1, 1, 40)):
        curve = {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.6, 20: 0.7, 30: 0.75, 40: 0.77, D: 0.8}
        rows = cell_rows(f"mse{seed}", curve)
        for row in rows:
            row["status"] = "not_converged" if row["n_kept"] == stalled else "ok"
        runs.append(TrainedRun("mse", seed, MemoryRun(Path("mse"), table=to_table(rows)), GOOD))
    assert one(runs)["gate_certified"] == "pass"  # k* = 8: its cubic goes by 2, 4, 8 and 20
    row = one(runs, deltas=0.2)  # k* is between 1 and 2: 1, 2 and 4
    assert (row["gate_certified"], row["n_uncertified"]) == ("fail", 6)


def test_the_whole_layer_of_a_similarity_is_judged_by_a_probe() -> None:
    runs = []
    for recipe, full, masses in (("ce", 0.8, (4, 5, 8)), ("mse", 0.4, (12, 15, 24))):
        for seed, k in enumerate(masses):
            probe, name = reaching(k, full), f"{recipe}{seed}"
            rows = cell_rows(name, probe) + cell_rows(name, reaching(k, 1.0), measure="cka")
            runs.append(TrainedRun(recipe, seed, MemoryRun(Path(name), table=to_table(rows)), GOOD))
    row = one(runs, measures="cka")
    assert row["ratio"] == pytest.approx(3.0, rel=1e-6)
    assert row["above_majority"] == pytest.approx(0.3)
    assert row["gate_certified"] == "pass"
    assert row[["bar", "k_at_bar", "log_ratio_at_bar"]].isna().all()
    assert set(effects(runs, baseline="ce")["measure"]) == {"cka", "logistic"}


# --- predictions, two recipes, mistakes ---


def test_predictions_of_a_law() -> None:
    runs = [*networks("ce", (4, 5, 8)), *networks("mse", (12, 15, 24), luck=5)]
    table = effects(runs, baseline="ce", deltas=DELTA)
    place = ("digits", "penultimate", "logistic", DELTA)
    law = {PredictionKey("ce", s, *place): 10.0 for s in range(3)}
    for size, sign, within in ((30.0, True, True), (11.0, True, False), (5.0, False, False)):
        mse = {PredictionKey("mse", s, *place): size for s in (0, 2)}
        row = with_predictions(table, law | mse).iloc[0]
        assert row["n_predicted"] == 2
        assert row["predicted_log_ratio"] == pytest.approx(math.log(size / 10))
        assert (row["same_sign"], row["within_interval"]) == (sign, within)
    row = with_predictions(table, law).iloc[0]
    assert row["n_predicted"] == 0
    assert row[[*PREDICTION_COLUMNS][1:]].isna().all()
    with pytest.raises(CriticalMassError, match=r"is 0\.0; give a number above 0"):
        with_predictions(table, {PredictionKey("ce", 0, *place): 0.0})


def test_two_recipes_of_ones_own_runs(tmp_path: Path) -> None:
    folders: dict[str, list[Path]] = {"dropout": [], "plain": []}
    for name, masses in {"dropout": (6, 8, 9), "plain": (3, 4, 5)}.items():
        for s, k in enumerate(masses):
            run = Run.create(tmp_path / f"{name}{s}", {"dataset_digest": "d"})
            rows = cell_rows(name, reaching(k))
            with run.writer() as writer:
                writer.put_labels(LABELS, tuple("0123456789"))
                writer.append(rows, Artifact("predictions", predictions(rows, luck=0)))
            folders[name].append(run.path)
    a, b = (trained_runs(name, folders[name]) for name in ("dropout", "plain"))
    row = compare_recipes(a, b, deltas=DELTA).iloc[0]
    assert (row["recipe"], row["baseline"]) == ("dropout", "plain")
    assert row["log_ratio"] == pytest.approx(math.log(2 * 2 * 1.8) / 3, rel=1e-6)
    assert row["verdict"] == "more neurons"
    numbered = trained_runs("dropout", {7: folders["dropout"][0]}, {7: GOOD})
    assert [(n.training_seed, n.facts) for n in numbered] == [(7, GOOD)]
    with pytest.raises(CriticalMassError, match="both of the recipe 'plain'"):
        compare_recipes(b, b)
    with pytest.raises(CriticalMassError, match="networks of 2 recipes"):
        compare_recipes([*a, *b], b)


def test_mistakes_are_named() -> None:
    base, mse = networks("ce", (4, 5, 8)), networks("mse", (12, 15, 24))
    with pytest.raises(CriticalMassError, match="no recipe 'cee'; did you mean 'ce'"):
        effects([*base, *mse], baseline="cee")
    with pytest.raises(CriticalMassError, match="all runs are of the recipe 'ce'"):
        effects(base, baseline="ce")
    with pytest.raises(CriticalMassError, match="two networks of training seed 1"):
        effects([*base, *mse, mse[1]], baseline="ce")
    with pytest.raises(CriticalMassError, match="no selector 'randm'; did you mean 'random'"):
        effects([*base, *mse], baseline="ce", selector="randm")
    with pytest.raises(CriticalMassError, match="no measure 'cka'"):
        effects([*base, *mse], baseline="ce", measures=("cka",))
    with pytest.raises(CriticalMassError, match=r"delta=1\.5"):
        effects([*base, *mse], baseline="ce", deltas=1.5)
    with pytest.raises(CriticalMassError, match="upstream_accuracy=98"):
        TrainingFacts(upstream_accuracy=98.0)


@pytest.mark.parametrize(
    ("ratios", "texts"),
    [
        ((3.0, 2.04, 3.46), ["3.0", "2.0", "3.5"]),
        ((1.02, 1.0101, 1.0294), ["1.02", "1.01", "1.03"]),
        ((0.97, 0.9951, 1.3), ["0.970", "0.995", "1.30"]),
        ((17.2, 6.1, 146.2), ["17", "6.1", "146"]),
        ((12.0, 12.04, float("inf")), ["12.00", "12.04", "infinity"]),
        ((1.0,), ["1.0"]),
    ],
)
def test_ratios_are_written_so_that_they_differ(ratios: Sequence[float], texts: list[str]) -> None:
    assert ratio_texts(ratios) == texts


# --- coverage ---


def simulated_pairs(
    rng: np.random.Generator, n_pairs: int, between: float, samples: float, subsets: float
) -> list[Estimate]:
    """Differences of mean 0 with a spread between networks, and what all networks share."""
    n_seeds, n_draws = 5, 100
    common_sample = samples * rng.standard_normal()
    common_subsets = subsets * rng.standard_normal(n_seeds)
    sample_draws = samples * rng.standard_normal(n_draws)
    pairs = []
    for _ in range(n_pairs):
        own = common_subsets + 0.3 * rng.standard_normal(n_seeds)
        centre = between * rng.standard_normal() + common_sample + 0.2 * rng.standard_normal()
        value = float(centre + own.mean())
        without = {s: float(centre + np.delete(own, s).mean()) for s in range(n_seeds)}
        draws = value + sample_draws + 0.2 * rng.standard_normal(n_draws)
        pairs.append(Estimate(value, value, value, draws, without))
    return pairs


@pytest.mark.parametrize("n_pairs", [3, 5])
@pytest.mark.parametrize(
    ("between", "samples", "subsets"),
    [(0.5, 0.0, 0.0), (0.5, 0.2, 0.0), (0.2, 0.2, 0.5)],
    ids=["apart", "same samples", "same subsets"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    n_pairs: int, between: float, samples: float, subsets: float
) -> None:
    """1,000 repetitions: a coverage of .95 is counted within .014 in 19 of 20 cases."""
    rng = np.random.default_rng(n_pairs)
    intervals = [
        MeanInterval.of(simulated_pairs(rng, n_pairs, between, samples, subsets), 0.95)
        for _ in range(1000)
    ]
    hits = np.array([one.low <= 0.0 <= one.high for one in intervals])
    assert 0.93 <= hits.mean() <= 0.98
    # The p-value and the interval say the same.
    assert [one.p > 0.05 for one in intervals] == hits.tolist()


def test_pairs_that_agree_by_chance_are_not_known_better_than_they_were_measured() -> None:
    """Three equal networks agree to a thousandth, and each is known to a quarter."""
    rng = np.random.default_rng(0)
    n_seeds, own_draws = 5, 0.25 * rng.standard_normal((3, 20_000))
    pairs = []
    for draws, value in zip(own_draws, (0.02, 0.0201, 0.0199), strict=True):
        own = rng.standard_normal(n_seeds)
        without = {s: float(np.delete(own, s).mean()) for s in range(n_seeds)}
        pairs.append(Estimate(value, value, value, value + draws, without))
    interval = MeanInterval.of(pairs, 0.95)
    student = stats.t.ppf(0.975, 2) * interval.std / np.sqrt(3)
    assert student < 0.001
    from_draws = stats.norm.ppf(0.975) * 0.25 / np.sqrt(3)
    assert (interval.high - interval.low) / 2 > from_draws
    assert interval.p > 0.8

    known = [replace(pair, without={}) for pair in pairs]
    narrow = MeanInterval.of(known, 0.95)
    assert (narrow.high - narrow.low) / 2 == pytest.approx(from_draws, rel=0.03)
    # Where the networks differ more than that, the measurement has no say.
    values = (-2.0, 0.0, 5.0)
    apart = [
        replace(pair, value=value, lowest=value, highest=value)
        for pair, value in zip(known, values, strict=True)
    ]
    wide = MeanInterval.of(apart, 0.95)
    assert (wide.high - wide.low) / 2 == pytest.approx(
        stats.t.ppf(0.975, 2) * wide.std / np.sqrt(3), rel=0.01
    )


# --- measures without critical masses ---


def test_a_measure_without_critical_masses_is_left_out_and_refused_by_name() -> None:
    runs = []
    for name in ("ce", "mse"):
        for run in networks(name, [8, 8, 8]):
            table = run.view.frame()
            score = table.assign(measure="class-separation", cell=table["cell"] + "s")
            both = pd.concat([table, score.assign(artifact=pd.NA)], ignore_index=True)
            view = MemoryRun(
                run.view.path, table=both.astype(table.dtypes), predicted=run.view.predicted
            )
            runs.append(TrainedRun(name, run.training_seed, view, run.facts))
    measured = set(runs[0].view.frame()["measure"])
    assert "class-separation" in measured
    table = effects(runs, baseline="ce", deltas=DELTA)
    assert set(table["measure"]) == measured - {"class-separation"}
    with pytest.raises(CriticalMassError, match="'class-separation' has no critical mass"):
        effects(runs, baseline="ce", deltas=DELTA, measures="class-separation")
