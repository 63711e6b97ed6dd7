"""Fractions at the bends of the predicted curve, and seeds as its scatter requires."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

import criticalmass as cm
from criticalmass.analysis.predicted_curves import PredictedCurve
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps import auto_grid
from criticalmass.sweeps.auto_grid import (
    HALF_WIDTH,
    choose_fractions,
    choose_n_seeds,
    is_auto,
    parse_half_width,
)


def curve(mean: np.ndarray, std: float = 0.0) -> PredictedCurve:
    d = mean.size
    sizes = np.arange(1, d + 1)
    spread = np.full(d, std)
    return PredictedCurve(
        "cka", d, float(mean[-1]), sizes, mean, spread, ("law",) * d, np.full(d, np.nan)
    )


def saturating(d: int, knee: float) -> np.ndarray:
    share = np.arange(1, d + 1) / d
    return share / (share + knee) * (1 + knee)


def largest_miss(predicted: PredictedCurve, fractions: Sequence[float]) -> float:
    """Largest distance of the curve from straight lines between sizes."""
    first = max(1, round(DEFAULT_FRACTIONS[0] * predicted.n_neurons))
    every = np.arange(first, predicted.n_neurons + 1)
    nodes = [max(1, round(f * predicted.n_neurons)) for f in fractions]
    line = np.interp(every, nodes, predicted.mean[np.array(nodes) - 1])
    return float(np.abs(line - predicted.mean[every - 1]).max())


@settings(deadline=None, max_examples=25)
@given(d=st.integers(150, 1500), knee=st.floats(0.01, 2.0))
def test_lines_between_planned_sizes_miss_less_than_between_the_default_ones(
    d: int, knee: float
) -> None:
    predicted = curve(saturating(d, knee))
    chosen = choose_fractions([predicted])
    assert len(chosen) == len(DEFAULT_FRACTIONS)
    assert chosen[0] == DEFAULT_FRACTIONS[0]
    assert chosen[-1] == 1.0
    assert list(chosen) == sorted(set(chosen))
    assert largest_miss(predicted, chosen) < largest_miss(predicted, DEFAULT_FRACTIONS) + 2e-3


def test_no_other_choice_of_sizes_misses_less() -> None:
    predicted = curve(saturating(1000, 0.1))
    chosen = choose_fractions([predicted], 5, n_candidates=14)
    at = auto_grid._candidates(1000, 14)
    value = predicted.mean[np.round(at * 1000).astype(int) - 1]

    def miss(fractions: Sequence[float]) -> float:
        return float(np.abs(np.interp(at, fractions, value[np.isin(at, fractions)]) - value).max())

    inner = at[1:-1]
    least = min(miss([at[0], *some, at[-1]]) for some in combinations(inner, 3))
    assert miss(chosen) == pytest.approx(least, abs=2e-4)


def test_sizes_stand_where_the_curve_bends() -> None:
    d = 1000
    share = np.arange(1, d + 1) / d
    early, late = np.minimum(1.0, share / 0.1), np.minimum(1.0, share / 0.6)
    for mean, knee in ((early, 0.1), (late, 0.6)):
        chosen = np.array(choose_fractions([curve(mean)], 3))
        assert chosen[1] == pytest.approx(knee, rel=0.05)
    both = np.array(choose_fractions([curve(early), curve(late)], 4))
    assert both[1:3] == pytest.approx([0.1, 0.6], rel=0.05)


def test_a_narrow_layer_has_every_size() -> None:
    chosen = choose_fractions([curve(saturating(8, 0.3))])
    assert [max(1, round(f * 8)) for f in chosen] == list(range(1, 9))
    with pytest.raises(CriticalMassError, match="n_sizes=1"):
        choose_fractions([curve(saturating(8, 0.3))], 1)
    with pytest.raises(CriticalMassError, match="0 curves"):
        choose_fractions([])


def test_seeds_give_the_requested_width_of_the_interval() -> None:
    predicted = curve(saturating(500, 0.2), std=0.03)
    for width in (0.05, 0.02, 0.01):
        n = choose_n_seeds([predicted], DEFAULT_FRACTIONS, width)
        reach = [t.ppf(0.975, m - 1) * 0.03 / np.sqrt(m) for m in (n - 1, n)]
        assert reach[1] <= width < reach[0]
    assert choose_n_seeds([curve(saturating(500, 0.2))], DEFAULT_FRACTIONS, 0.01) == 3
    with pytest.warns(UserWarning, match="would take more than 100 seeds"):
        assert choose_n_seeds([predicted], DEFAULT_FRACTIONS, 0.001) == 100


def test_only_sizes_near_the_whole_layer_need_seeds() -> None:
    mean = saturating(500, 0.2)
    std = np.where(mean < 0.79, 0.5, 0.001)
    predicted = curve(mean)
    scattered = PredictedCurve(
        "cka", 500, 1.0, predicted.sizes, mean, std, predicted.source, predicted.l2
    )
    assert choose_n_seeds([scattered], DEFAULT_FRACTIONS, 0.02) == 3


def test_auto_is_distinguished_from_numbers() -> None:
    assert is_auto("auto")
    assert is_auto(("auto",))
    assert is_auto("auto:0.01")
    assert not any(is_auto(other) for other in (5, 0.5, (0.1, 0.5), "first", ("auto", 0.5)))
    assert parse_half_width("auto") == HALF_WIDTH
    assert parse_half_width(("auto:0.005",)) == 0.005
    for wrong in ("auto:", "auto:x", "auto:0", "auto:2", "auto:nan"):
        with pytest.raises(CriticalMassError, match=r"auto:0\.01"):
            parse_half_width(wrong)


def test_a_sweep_uses_the_predicted_grid_and_keeps_it(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def run_sweep() -> cm.Run:
        return cm.sweep(store, out=out, fractions="auto", seeds="auto:0.2", measures="cka")

    run = run_sweep()
    grid = run.manifest["planned"]
    rows = run.frame()
    subsets = rows[rows["selector"] == "random"]
    assert sorted(set(subsets["fraction"])) == grid["fractions"]
    assert subsets["seed"].nunique() == grid["n_seeds"] >= 3
    # A continued run has the same cells, without a second prediction.
    monkeypatch.setattr(auto_grid, "_predict_curves", lambda *_: pytest.fail("predicted again"))
    assert len(run_sweep().frame()) == len(rows)


def test_probes_use_the_ridge_prediction_and_given_seeds_stay(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = cm.sweep(store, out=tmp_path / "run", fractions="auto", seeds=2, measures="centroid")
    assert run.manifest["planned"]["n_seeds"] == 0
    assert run.manifest["seeds"] == [0, 1]
    plain = cm.sweep(store, out=tmp_path / "plain", fractions=(0.5, 1.0), seeds=2, measures="cka")
    assert "planned" not in plain.manifest
    with pytest.raises(CriticalMassError, match="must be numbers"):
        cm.sweep(store, out=tmp_path / "no", fractions=("auto", 0.5), measures="cka")  # type: ignore[arg-type]
