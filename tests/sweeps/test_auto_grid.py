"""Sizes stand where the predicted curve bends, and seeds are as many as its scatter needs."""

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
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps import auto_grid
from criticalmass.sweeps.auto_grid import HALF_WIDTH, fractions_for, half_width, is_auto, seeds_for
from criticalmass.theory.prediction import Curve


def curve(mean: np.ndarray, std: float = 0.0) -> Curve:
    d = mean.size
    sizes = np.arange(1, d + 1)
    spread = np.full(d, std)
    return Curve("cka", d, float(mean[-1]), sizes, mean, spread, ("law",) * d, np.full(d, np.nan))


def saturating(d: int, knee: float) -> np.ndarray:
    share = np.arange(1, d + 1) / d
    return share / (share + knee) * (1 + knee)


def worst(made: Curve, fractions: Sequence[float]) -> float:
    """Largest distance of the curve from straight lines between sizes, by hand."""
    first = max(1, round(DEFAULT_FRACTIONS[0] * made.n_neurons))
    every = np.arange(first, made.n_neurons + 1)
    nodes = [max(1, round(f * made.n_neurons)) for f in fractions]
    line = np.interp(every, nodes, made.mean[np.array(nodes) - 1])
    return float(np.abs(line - made.mean[every - 1]).max())


@settings(deadline=None, max_examples=25)
@given(d=st.integers(150, 1500), knee=st.floats(0.01, 2.0))
def test_lines_between_planned_sizes_miss_less_than_between_the_default_ones(
    d: int, knee: float
) -> None:
    made = curve(saturating(d, knee))
    found = fractions_for([made])
    assert len(found) == len(DEFAULT_FRACTIONS)
    assert found[0] == DEFAULT_FRACTIONS[0]
    assert found[-1] == 1.0
    assert list(found) == sorted(set(found))
    assert worst(made, found) < worst(made, DEFAULT_FRACTIONS) + 2e-3


def test_no_other_choice_of_sizes_misses_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_grid, "_CANDIDATES", 14)
    made = curve(saturating(1000, 0.1))
    found = fractions_for([made], 5)
    at = auto_grid._candidates(1000)
    value = made.mean[np.round(at * 1000).astype(int) - 1]

    def miss(chosen: Sequence[float]) -> float:
        return float(np.abs(np.interp(at, chosen, value[np.isin(at, chosen)]) - value).max())

    inner = at[1:-1]
    least = min(miss([at[0], *some, at[-1]]) for some in combinations(inner, 3))
    assert miss(found) == pytest.approx(least, abs=2e-4)


def test_sizes_stand_where_the_curve_bends() -> None:
    d = 1000
    share = np.arange(1, d + 1) / d
    early, late = np.minimum(1.0, share / 0.1), np.minimum(1.0, share / 0.6)
    for mean, knee in ((early, 0.1), (late, 0.6)):
        found = np.array(fractions_for([curve(mean)], 3))
        assert found[1] == pytest.approx(knee, rel=0.05)
    both = np.array(fractions_for([curve(early), curve(late)], 4))
    assert both[1:3] == pytest.approx([0.1, 0.6], rel=0.05)


def test_a_narrow_layer_has_every_size() -> None:
    found = fractions_for([curve(saturating(8, 0.3))])
    assert [max(1, round(f * 8)) for f in found] == list(range(1, 9))
    with pytest.raises(CriticalMassError, match="n_sizes=1"):
        fractions_for([curve(saturating(8, 0.3))], 1)
    with pytest.raises(CriticalMassError, match="0 curves"):
        fractions_for([])


def test_seeds_bring_the_interval_down_to_what_is_asked() -> None:
    made = curve(saturating(500, 0.2), std=0.03)
    for width in (0.05, 0.02, 0.01):
        n = seeds_for([made], DEFAULT_FRACTIONS, width)
        reach = [t.ppf(0.975, m - 1) * 0.03 / np.sqrt(m) for m in (n - 1, n)]
        assert reach[1] <= width < reach[0]
    assert seeds_for([curve(saturating(500, 0.2))], DEFAULT_FRACTIONS, 0.01) == 3
    with pytest.warns(UserWarning, match="would take more than 100 seeds"):
        assert seeds_for([made], DEFAULT_FRACTIONS, 0.001) == 100


def test_only_sizes_that_matter_ask_for_seeds() -> None:
    mean = saturating(500, 0.2)
    std = np.where(mean < 0.79, 0.5, 0.001)
    made = curve(mean)
    loud = Curve("cka", 500, 1.0, made.sizes, mean, std, made.source, made.l2)
    assert seeds_for([loud], DEFAULT_FRACTIONS, 0.02) == 3


def test_auto_is_told_from_numbers() -> None:
    assert is_auto("auto")
    assert is_auto(("auto",))
    assert is_auto("auto:0.01")
    assert not any(is_auto(other) for other in (5, 0.5, (0.1, 0.5), "first", ("auto", 0.5)))
    assert half_width("auto") == HALF_WIDTH
    assert half_width(("auto:0.005",)) == 0.005
    for wrong in ("auto:", "auto:x", "auto:0", "auto:2", "auto:nan"):
        with pytest.raises(CriticalMassError, match=r"auto:0\.01"):
            half_width(wrong)


def test_a_sweep_takes_what_the_law_says_and_keeps_to_it(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def again() -> cm.Run:
        return cm.sweep(store, out=out, fractions="auto", seeds="auto:0.2", measures="cka")

    run = again()
    told = run.manifest["planned"]
    rows = run.frame()
    mine = rows[rows["selector"] == "random"]
    assert sorted(set(mine["fraction"])) == told["fractions"]
    assert mine["seed"].nunique() == told["n_seeds"] >= 3
    # Going on with a run asks for the same cells, without predicting anew.
    monkeypatch.setattr(auto_grid, "_curves", lambda *_: pytest.fail("predicted again"))
    assert len(again().frame()) == len(rows)


def test_probes_follow_the_ridge_law_and_the_rest_stays_as_given(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = cm.sweep(store, out=tmp_path / "run", fractions="auto", seeds=2, measures="centroid")
    assert run.manifest["planned"]["n_seeds"] == 0
    assert run.manifest["seeds"] == [0, 1]
    plain = cm.sweep(store, out=tmp_path / "plain", fractions=(0.5, 1.0), seeds=2, measures="cka")
    assert "planned" not in plain.manifest
    with pytest.raises(CriticalMassError, match="must be numbers"):
        cm.sweep(store, out=tmp_path / "no", fractions=("auto", 0.5), measures="cka")  # type: ignore[arg-type]
