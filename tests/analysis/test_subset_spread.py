from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from criticalmass.analysis.columns import Draws
from criticalmass.analysis.curves import curves_of
from criticalmass.analysis.predicted_curves import PredictedCurve
from criticalmass.analysis.redundancy import redundancy
from criticalmass.analysis.subset_spread import passing_size
from criticalmass.errors import CriticalMassError
from criticalmass.storage.run import Run

SIZES = (50, 100, 200, 400, 700, 1000)
STD = 0.03


def mean_of(size):
    """Straight in log k, so that interpolation is exact: 0.3 at 50 neurons, 0.8 at 1,000."""
    return 0.3 + 0.5 * np.log(np.asarray(size) / 50) / np.log(20)


def a_run(folder, n_seeds, rng, selectors=("random",)):
    run = Run.create(folder, {})
    base = {
        "model": "m", "layer": "penultimate", "dataset": "d", "split": "test", "measure": "cka",
        "n_neurons": 1000, "n_train": 100, "n_test": 400, "l2": None, "gap": None, "passes": None,
        "seconds": 0.1, "status": "ok", "error": None, "value_full": 0.8,
    }  # fmt: skip
    rows = []
    for selector in selectors:
        for seed in range(n_seeds if selector == "random" else 1):
            for size in SIZES:
                value = float(mean_of(size)) - (0.2 if selector != "random" else 0.0)
                if size < 1000:
                    value += float(rng.normal(0.0, STD)) if selector == "random" else 0.0
                else:
                    value = 0.8
                rows.append(base | {
                    "selector": selector, "fraction": size / 1000, "n_kept": size, "seed": seed,
                    "value": value, "cell": f"{selector}-{seed}-{size}",
                })  # fmt: skip
    with run.writer() as writer:
        writer.append(rows, None)
    return run


def the_curve(run):
    return next(iter(curves_of(run, Draws(0.95, 200, 0))))


def law(std=STD):
    sizes = np.array(SIZES)
    spread = np.where(sizes < 1000, std, 0.0)
    return PredictedCurve(
        "cka", 1000, 1.0, sizes, mean_of(sizes), spread, ("law",) * 6, np.full(6, np.nan)
    )


def test_at_the_size_of_the_law_that_share_of_subsets_passes(tmp_path):
    rng = np.random.default_rng(0)
    curve = the_curve(a_run(tmp_path / "r", 400, rng))
    source, (size,) = passing_size(
        curve, [0.75 * 0.8], 0.95, "monotone", {("penultimate", "cka"): law()}
    )
    assert source == "law"
    share = norm.sf(0.75 * 0.8, loc=mean_of(size), scale=STD)
    assert share == pytest.approx(0.95, abs=0.01)


def test_five_measured_seeds_pass_at_least_as_often_on_average(tmp_path):
    rng = np.random.default_rng(1)
    shares = []
    for repetition in range(40):
        curve = the_curve(a_run(tmp_path / str(repetition), 5, rng))
        source, (size,) = passing_size(curve, [0.75 * 0.8], 0.95, "monotone", {})
        assert source == "seeds"
        shares.append(norm.sf(0.75 * 0.8, loc=mean_of(size), scale=STD))
    # A further subset passes with 95 % probability, over seeds and subset together.
    assert np.mean(shares) == pytest.approx(0.95, abs=0.03)


def test_half_of_the_subsets_pass_at_the_critical_mass_and_more_above_it(tmp_path):
    run = a_run(tmp_path / "r", 5, np.random.default_rng(2))
    half = redundancy(run, 0.75, pass_share=0.5).iloc[0]
    most = redundancy(run, 0.75, pass_share=0.95).iloc[0]
    assert half["pass_mass"] == half["critical_mass"] == most["critical_mass"]
    assert most["pass_mass"] > most["critical_mass"]
    assert most["spread_source"] == "seeds"


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_one_or_two_seeds_without_a_law_say_nothing(tmp_path, n_seeds):
    row = redundancy(a_run(tmp_path / "r", n_seeds, np.random.default_rng(3))).iloc[0]
    assert row[["pass_share", "pass_mass", "spread_source"]].isna().all()


def test_the_selector_that_keeps_least_is_named(tmp_path):
    run = a_run(tmp_path / "r", 5, np.random.default_rng(4), ("random", "norm-low"))
    table = redundancy(run, 0.75).set_index("selector")
    row = table.loc["random"]
    assert row["worst_selector"] == "norm-low"
    want = (mean_of(row["critical_mass"]) - 0.2) / 0.8
    assert row["worst_ratio"] == pytest.approx(want, abs=0.02)
    assert table.loc["norm-low", ["worst_ratio", "pass_mass"]].isna().all()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0, 2.0])
def test_other_shares_of_subsets_are_refused(tmp_path, share):
    run = a_run(tmp_path / "r", 1, np.random.default_rng(5))
    with pytest.raises(CriticalMassError, match=rf"pass_share={share}"):
        redundancy(run, pass_share=share)
