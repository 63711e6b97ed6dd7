"""A sweep draws further random subsets where they cost little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.analysis.bootstrap import SubsetNoise, nested_normals
from criticalmass.analysis.columns import Draws
from criticalmass.analysis.spread_records import read_spreads
from criticalmass.measures.memory import LayerSizes
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import select
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps import draw_spread


@pytest.mark.usefixtures("all_drawn_subsets")
def test_a_small_layer_has_a_hundred_subsets_of_every_size(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = cm.sweep(store, out=tmp_path / "run", measures=("centroid",), fractions=(0.25, 1.0))
    record = read_spreads(run)["penultimate", "centroid"]
    assert (record.n_subsets, record.stand_in) == (100, "")
    assert record.std["value"][0] > 0.0
    assert record.std["value"][-1] == 0.0, "the whole layer is one subset"


def test_nested_means_are_correlated_as_sums_over_random_orders() -> None:
    sizes, d = np.array([2, 5, 15, 20]), 20
    drawn = nested_normals(sizes, d, 40_000, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    orders = rng.permuted(np.tile(rng.standard_exponential(d), (40_000, 1)), axis=1)
    means = np.cumsum(orders, axis=1)[:, sizes[:3] - 1] / sizes[:3]
    # The whole layer has no spread, so only the smaller sizes are compared.
    expected = np.corrcoef(means, rowvar=False)
    np.testing.assert_allclose(np.corrcoef(drawn[:, :3], rowvar=False), expected, atol=0.02)
    np.testing.assert_allclose(drawn.std(axis=0), 1.0, atol=0.02)


@pytest.fixture
def one_neuron(tmp_path: Path) -> FeatureStore:
    """Two classes that one of forty neurons separates; the others are noise."""
    rng = np.random.default_rng(0)
    y = np.arange(800) % 2
    x = rng.standard_normal((800, 40)).astype(np.float32)
    x[:, 0] += 8.0 * y
    return cm.import_features(x, out=tmp_path / "one", labels=y)


@pytest.mark.usefixtures("all_drawn_subsets")
def test_an_interval_knows_of_a_neuron_that_all_seeds_miss(
    one_neuron: FeatureStore, tmp_path: Path
) -> None:
    seeds = [
        seed
        for seed in range(40)
        if 0 not in select("random", SelectorInput(40), seed=seed).order[:4]
    ][:3]
    run = cm.sweep(
        one_neuron, out=tmp_path / "run", measures="centroid", fractions=(0.1, 1.0), seeds=seeds
    )
    row = cm.curves(run).query("n_kept == 4").iloc[0]
    # One subset of four neurons in ten has it: expected is .5 + .5 / 10.
    assert row["mean"] < 0.55
    assert row["std"] < 0.05
    assert row["high"] > 0.6


def test_too_few_seeds_have_no_interval_and_the_reason_is_given(
    one_neuron: FeatureStore, tmp_path: Path
) -> None:
    run = cm.sweep(one_neuron, out=tmp_path / "run", measures="cka", fractions=(0.1, 1), seeds=2)
    for table in (cm.curves(run), cm.redundancy(run)):
        row = table.iloc[0]
        assert row["interval_note"] == "2 seeds, at least 3 needed"
        ends = [name for name in row.index if name.endswith("low") or name.endswith("high")]
        assert row[[name for name in ends if not name.startswith("full")]].isna().all()
    cm.sweep(one_neuron, out=tmp_path / "run", measures="cka", fractions=(0.1, 1), seeds=3)
    assert cm.curves(run)["interval_note"].tolist() == ["", ""]
    assert cm.redundancy(run)["critical_mass_low"].notna().all()


def test_plain_cka_on_few_rows_has_no_interval(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((70, 30)).astype(np.float32)
    store = cm.import_features(
        {"train": x[30:], "test": x[:30]}, out=tmp_path / "few", labels={"train": [0, 1] * 20,
        "test": [0, 1] * 15},
    )  # fmt: skip
    run = cm.sweep(
        store, out=tmp_path / "run", measures=("cka", "cka-debiased"), fractions=(0.2, 1.0)
    )
    spreads = read_spreads(run)
    bias = spreads["penultimate", "cka"].bias
    assert bias is not None
    assert bias[0] > 0.05
    assert spreads["penultimate", "cka-debiased"].stand_in == ""
    table = cm.curves(run).query("n_kept == 6").set_index("measure")
    assert "biased on 30 test rows, use cka-debiased" in table.loc["cka", "interval_note"]
    assert table.loc["cka-debiased", "interval_note"] == ""


@pytest.mark.usefixtures("all_drawn_subsets")
def test_new_sizes_get_a_spread_of_their_own(one_neuron: FeatureStore, tmp_path: Path) -> None:
    """After a sweep of the whole layer alone, no smaller size may count as without spread."""
    out = tmp_path / "run"
    run = cm.sweep(one_neuron, out=out, measures=("centroid", "cka"), fractions=1.0)
    assert read_spreads(run)["penultimate", "centroid"].sizes.tolist() == [40]
    cm.sweep(one_neuron, out=out, measures=("centroid", "cka"), fractions=(0.1, 0.5))
    for measure in ("centroid", "cka"):
        record = read_spreads(run)["penultimate", measure]
        assert record.sizes.tolist() == [4, 20, 40]
        assert (record.std["value"][:2] > 0.0).all()
    before = run.manifest
    cm.sweep(one_neuron, out=out, measures=("centroid", "cka"), fractions=(0.1, 1.0))
    assert run.manifest["subset_spread"] == before["subset_spread"]


@pytest.mark.usefixtures("all_drawn_subsets")
def test_bias_and_spread_of_cka_are_those_of_the_same_subsets_on_heavy_tails(
    tmp_path: Path,
) -> None:
    """A law for the bias is wrong by several times here; no interval of CKA was given."""
    rng = np.random.default_rng(3)
    factors, mixing = rng.standard_t(3, (200, 8)), rng.standard_normal((8, 30))
    noise = rng.standard_t(3, (200, 30))
    x = ((factors @ mixing + noise) * np.exp(rng.standard_normal(30))).astype(np.float32)
    store = cm.import_features(
        {"train": x[100:], "test": x[:100]}, out=tmp_path / "heavy",
        labels={"train": [0, 1] * 50, "test": [0, 1] * 50},
    )  # fmt: skip
    run = cm.sweep(
        store, out=tmp_path / "run", measures=("cka", "cka-debiased"), fractions=(0.2, 1.0)
    )
    rows = x[:100].astype(np.float64)
    subsets = [rows[:, rng.permutation(30)[:6]] for _ in range(300)]
    plain, debiased = (
        np.array([cm.linear_cka(subset, rows, debiased=is_debiased) for subset in subsets])
        for is_debiased in (False, True)
    )
    spreads = read_spreads(run)
    bias = spreads["penultimate", "cka"].bias
    assert bias is not None
    assert bias[0] == pytest.approx((plain - debiased).mean(), rel=0.25)
    record = spreads["penultimate", "cka-debiased"]
    assert (record.n_subsets, record.stand_in) == (100, "")
    assert record.std["value"][0] == pytest.approx(debiased.std(), rel=0.25)


@pytest.mark.usefixtures("all_drawn_subsets")
def test_classes_that_subsets_trade_scatter_against_each_other(tmp_path: Path) -> None:
    """Two neurons, each of which tells one class of three from the others."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = rng.standard_normal((600, 2)).astype(np.float32)
    x[:, 0] += 6.0 * (y == 0)
    x[:, 1] += 6.0 * (y == 1)
    store = cm.import_features(x, out=tmp_path / "trade", labels=y)
    run = cm.sweep(store, out=tmp_path / "run", measures="centroid", fractions=(0.5, 1.0), seeds=3)
    record = read_spreads(run)["penultimate", "centroid"]
    assert record.classes is not None
    assert record.classes.ids.tolist() == [0, 1, 2]
    draws = Draws(0.95, 20_000, 0)
    shared = SubsetNoise(record.std["value"], rng.standard_normal((20_000, 2)), is_mean=True)
    noise = record.class_noise(record.sizes, shared, draws)
    for c in (0, 1):
        # With the other neuron the class is right in about a half, with its own in all.
        assert 0.15 < record.classes.std[0, c] < 0.4
        assert noise[c].normals[:, 0].std() == pytest.approx(1.0, abs=0.03)
        drawn = np.corrcoef(noise[c].normals[:, 0], shared.normals[:, 0])[0, 1]
        assert drawn == pytest.approx(record.classes.correlation[0, c], abs=0.03)
    assert record.classes.std[1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.usefixtures("all_drawn_subsets")
@pytest.mark.parametrize(
    ("measure", "least"), [("centroid", 100), ("ridge", 100), ("logistic", 20)]
)
def test_a_small_layer_affords_drawn_subsets(measure: str, least: int) -> None:
    sizes = LayerSizes(300, 1000, 40, 10, 4, (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40), 1, 1, 0)
    assert draw_spread._affordable(measure, sizes, draw_spread.FREE_DRAWS) >= least
