"""Comparing: pairing, bounds and sentences, on curves whose differences are known."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.analysis.columns import Draws
from criticalmass.analysis.comparison import (
    COMPARISON_COLUMNS,
    ComparisonOptions,
    comparison_rows,
    corrected_tables,
)
from criticalmass.analysis.comparison_text import sentence
from criticalmass.cli.main import cli
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run
from criticalmass.storage.run_view import filter_run

N_TEST = 400
Curve = dict[int, float]
SLOW = {2: 0.2, 10: 0.4, 20: 0.8}
FAST = {2: 0.4, 10: 0.76, 20: 0.8}


def compare(*runs: Any, **options: Any) -> pd.DataFrame:
    """Compare with fewer draws than usual: these curves need no more."""
    return cm.compare(*runs, **{"resamples": 500, **options})


def predictions(shares: list[float], luck: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(n, N_TEST) class ids; the luckiest samples are right (class 0)."""
    rank = np.argsort(np.argsort(luck))
    return np.stack([(rank >= round(s * N_TEST)).astype(np.uint8) for s in shares])


def a_run(
    folder: Path,
    curves: dict[str, Curve],
    *,
    model: str = "m",
    digest: str | None = "d1",
    n_seeds: int = 3,
    d: int = 20,
    luck: NDArray[np.float64] | None = None,
) -> Run:
    """A run whose curves are as given for every seed; keys are "layer/selector/measure"."""
    luck = np.random.default_rng(0).random(N_TEST) if luck is None else luck
    run = Run.create(folder, {"dataset_digest": digest} if digest else {})
    rows: list[dict[str, Any]] = []
    shares: list[float] = []
    for key, curve in curves.items():
        layer, selector, measure = key.split("/")
        common = {
            "model": model, "layer": layer, "dataset": "blobs", "split": "test",
            "measure": measure, "n_neurons": d, "value_full": curve[d], "n_train": 50,
            "n_test": N_TEST, "seconds": 0.0, "status": "ok",
        }  # fmt: skip
        cells = [("full", 0, d), *((selector, s, k) for s in range(n_seeds) for k in curve)]
        for name, seed, k in cells:
            if name == "full" and any(r["cell"] == f"{layer}{measure}full00{d}" for r in rows):
                continue
            cell = f"{layer}{measure}{name}{seed}0{k}"
            subset = {"selector": name, "seed": seed, "n_kept": k, "fraction": k / d}
            rows.append(common | subset | {"value": curve[k], "cell": cell})
            shares.append(curve[k])
    with run.writer() as writer:
        writer.put_labels(np.arange(N_TEST) * 0, ("right", "wrong"))
        writer.append(rows, Artifact("predictions", predictions(shares, luck)))
    return run


def one(table: pd.DataFrame, quantity: str, **where: Any) -> pd.Series:
    rows = table[table["quantity"] == quantity]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


Runs = Callable[..., tuple[Run, Run]]


@pytest.fixture
def two(tmp_path: Path) -> Runs:
    def make(a: Curve = SLOW, b: Curve = FAST, **options: Any) -> tuple[Run, Run]:
        slow_options = {n: v for n, v in options.items() if n in ("d", "n_seeds")}
        fast_options = {"model": "fast", **options}
        return (
            a_run(tmp_path / "a", {"penultimate/random/logistic": a}, model="slow", **slow_options),
            a_run(tmp_path / "b", {"penultimate/random/logistic": b}, **fast_options),
        )

    return make


# --- the differences ---


def test_critical_mass_and_dr_by_hand(two: Runs) -> None:
    slow, fast = two()
    table = compare(fast, slow, deltas=0.75, estimator="interpolated")
    assert dict(table.dtypes.astype(str)) == COMPARISON_COLUMNS
    # 0.75 * 0.8 = 0.6: fast crosses at 2 + 8 * 0.2/0.36 = 6.4, slow at 10 + 10 * 0.2/0.4 = 15.
    with pytest.raises(AssertionError):
        one(table, "dr", delta=0.9)
    mass, dr = one(table, "critical_mass"), one(table, "dr")
    # Nothing below the whole layer reaches 0.6 in the slow one: its mass is 11 to 20.
    assert (mass["value_a"], mass["value_b"]) == (7, 20)
    assert (mass["bound"], dr["bound"]) == (">=", "<=")
    assert dr["difference"] == pytest.approx(13 / 20)
    assert (mass["high"], mass["low"]) == pytest.approx((-4, -13), abs=1)


def test_the_strict_and_the_interpolated_difference(two: Runs) -> None:
    between = {2: 0.1, 4: 0.2, 12: 0.6, 20: 0.8}
    slow, fast = two(between, {2: 0.2, 4: 0.6, 12: 0.7, 20: 0.8})
    # Half of 0.8: slow crosses at 4 + 8 * 0.2/0.4 = 8, fast at 2 + 2 * 0.2/0.4 = 3.
    table = compare(fast, slow, deltas=0.5, estimator="interpolated")
    assert one(table, "critical_mass")["difference"] == -5
    assert one(table, "dr")["difference"] == pytest.approx(0.25)
    assert one(table, "dr")["bound"] == ""
    strict = compare(fast, slow, deltas=0.5, estimator="strict")
    assert one(strict, "critical_mass")["difference"] == 4 - 12


def test_a_representation_against_its_copy_differs_by_nothing(two: Runs) -> None:
    same, copy = two(SLOW, SLOW)
    table = compare(same, copy, deltas=(0.3, 0.45))
    paired = table[table["quantity"].isin(["value", "ratio"])]
    assert len(paired)
    assert paired[["difference", "low", "high"]].to_numpy(dtype=float) == pytest.approx(0.0)
    assert table["sentence"].str.startswith("No difference").all()


def test_same_samples_are_resampled_together(two: Runs) -> None:
    slow, fast = two({2: 0.2, 10: 0.4, 20: 0.8}, {2: 0.2, 10: 0.42, 20: 0.8})
    row = one(compare(fast, slow, resamples=2000), "value", n_kept_a=10)
    assert (row["samples"], row["difference"]) == ("paired", pytest.approx(0.02))
    # The same samples are right but for 2 %: the variance of the difference is .02 * .98 / n.
    want = 2 * 1.96 * np.sqrt(0.02 * 0.98 / N_TEST)
    assert row["high"] - row["low"] == pytest.approx(want, rel=0.15)
    apart = one(compare(fast, slow, paired=False), "value", n_kept_a=10)
    want = 2 * 1.96 * np.sqrt((0.42 * 0.58 + 0.4 * 0.6) / N_TEST)
    assert apart["samples"] == "independent"
    assert apart["high"] - apart["low"] == pytest.approx(want, rel=0.1)


@pytest.mark.parametrize(
    ("digest", "paired", "want"),
    [
        ("d1", None, "paired"),
        ("d2", None, "independent"),
        (None, None, "independent"),
        (None, True, "paired"),
        ("d1", False, "independent"),
    ],
)
def test_which_runs_have_the_same_samples(
    two: Runs, digest: str | None, paired: bool | None, want: str
) -> None:
    slow, fast = two(digest=digest)
    assert set(compare(slow, fast, paired=paired)["samples"]) == {want}


def test_other_labels_are_other_samples(two: Runs) -> None:
    slow, fast = two()
    with fast.writer() as writer:
        writer.drop(fast.frame()["cell"])
    other = a_run(fast.path.parent / "c", {"penultimate/random/logistic": FAST}, model="other")
    labels = np.zeros(N_TEST, dtype=np.int64)
    labels[0] = 1
    np.save(other.path / "labels.npy", labels)
    frame = other.frame()
    hits = other.artifacts(frame["artifact"]) == labels
    frame["value"] = hits.mean(axis=1)
    frame.to_parquet(other.path / "results.parquet", index=False)
    assert set(compare(slow, other)["samples"]) == {"independent"}
    with pytest.raises(cm.CriticalMassError, match=r"paired=True but .* different test labels"):
        compare(slow, other, paired=True)


def test_measures_on_the_same_subsets_share_their_seeds(tmp_path: Path) -> None:
    curves = {f"penultimate/random/{m}": SLOW for m in ("logistic", "ridge")}
    run = a_run(tmp_path / "r", {**curves, "penultimate/first/ridge": FAST})
    table = compare(run, by="measure")
    assert set(table["seeds"]) == {"paired"}
    assert set(compare(run, by="selector")["seeds"]) == {"independent"}
    assert set(zip(table["a"], table["b"], strict=True)) == {("logistic", "ridge")}


# --- which curves, and what they share ---


def test_one_run_is_compared_by_the_first_column_with_several_values(tmp_path: Path) -> None:
    curves = {
        f"{layer}/{selector}/logistic": SLOW
        for layer in ("one", "two") for selector in ("first", "random", "norm-high")
    }  # fmt: skip
    run = a_run(tmp_path / "r", curves)
    table = compare(run)
    assert set(table["by"]) == {"selector"}
    assert len(table[table["quantity"] == "dr"]) == 2 * 3
    assert table["selector"].isna().all()
    assert set(table["layer"]) == {"one", "two"}
    by_layer = compare(run, by="layer")
    assert len(by_layer[by_layer["quantity"] == "dr"]) == 3
    assert set(by_layer["a"]) | set(by_layer["b"]) == {"one", "two"}
    # Two selectors of one layer share the whole layer; two layers do not share draws' identity.
    assert "whole layer" not in set(table["quantity"])


def test_different_widths_are_compared_at_fractions(tmp_path: Path) -> None:
    narrow = a_run(tmp_path / "n", {"penultimate/random/logistic": SLOW}, model="narrow")
    twice = {2 * size: value for size, value in SLOW.items()} | {2: 0.1}
    wide = a_run(tmp_path / "w", {"penultimate/random/logistic": twice}, model="wide", d=40)
    rows = compare(narrow, wide)
    rows = rows[rows["quantity"] == "value"]
    assert rows[["n_kept_a", "n_kept_b"]].to_numpy().tolist() == [[2, 4], [10, 20]]
    assert rows["fraction"].tolist() == [0.1, 0.5]
    assert rows["difference"].tolist() == pytest.approx([0.0, 0.0])


def test_runs_with_equal_keys_are_named_by_their_folders(two: Runs) -> None:
    slow, fast = two(model="slow")
    table = compare(slow, fast)
    assert set(table["a"]) == {"a"}
    assert set(table["b"]) == {"b"}
    assert set(table["by"]) == {"run"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"by": "modle"}, "did you mean 'model'"),
        ({"deltas": 1.5}, "delta=1.5"),
        ({"estimator": "strickt"}, "did you mean 'strict'"),
        ({"level": 1.0}, "level=1.0"),
        ({"resamples": 0}, "resamples=0"),
        ({"by": "layer"}, "no two curves differ by layer alone"),
        ({}, "nothing to compare; give a second run"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    run = a_run(tmp_path / "r", {"penultimate/random/logistic": SLOW})
    with pytest.raises(cm.CriticalMassError, match=says):
        compare(run, **options)


def test_a_run_against_itself_is_refused(two: Runs) -> None:
    slow, _ = two()
    with pytest.raises(cm.CriticalMassError, match="given twice"):
        compare(slow, slow.path)


def test_a_layer_without_value_gives_no_difference(two: Runs) -> None:
    slow, fast = two()
    frame = fast.frame()
    frame["status"], frame["error"] = "failed", "no"
    frame[["value", "value_full"]] = pd.NA
    frame.to_parquet(fast.path / "results.parquet", index=False)
    table = compare(slow, fast)
    assert table["quantity"].tolist() == ["dr", "critical_mass"]
    assert table[["difference", "low", "high"]].isna().all(axis=None)
    assert table["sentence"][0].startswith("No comparison of slow and fast in DR(0.9)")


# --- bounds ---


def test_at_the_floor_a_difference_is_a_bound(two: Runs) -> None:
    slow, fast = two({2: 0.1, 10: 0.6, 20: 0.8}, {2: 0.7, 10: 0.75, 20: 0.8})
    table = compare(fast, slow, deltas=0.5, estimator="interpolated")
    dr, mass = one(table, "dr"), one(table, "critical_mass")
    # The slow one crosses 0.4 at 2 + 8 * 0.6 = 6.8, so 7; the fast one passes at 2 already.
    assert (dr["bound"], dr["difference"]) == (">=", pytest.approx(5 / 20))
    assert (mass["bound"], mass["difference"]) == ("<=", -5)
    assert dr["sentence"].startswith("DR(0.5) is at least ")
    assert "percentage points higher for fast than for slow on blobs" in dr["sentence"]
    assert "fast reaches 50 % already at the smallest tested size (2 of 20" in dr["sentence"]
    assert "fast needs at least " in mass["sentence"]
    # The interval covers all sizes that the grid leaves open: one neuron may be enough.
    assert mass["low"] <= 1 - 7
    reversed_dr = one(compare(slow, fast, deltas=0.5), "dr")
    assert reversed_dr["bound"] == "<="
    assert reversed_dr["sentence"].startswith("DR(0.5) is at least ")
    assert "percentage points lower for slow than for fast" in reversed_dr["sentence"]


def test_two_bounds_leave_the_difference_open(two: Runs) -> None:
    slow, fast = two({2: 0.7, 10: 0.75, 20: 0.8}, {2: 0.72, 10: 0.75, 20: 0.8})
    row = one(compare(fast, slow, deltas=0.5), "dr")
    assert row["bound"] == "open"
    assert pd.isna(row["difference"])
    assert (row["low"], row["high"]) == pytest.approx((-1 / 20, 1 / 20))
    assert row["sentence"].startswith("No difference in DR(0.5) between fast and slow was detected")
    assert row["sentence"].count("already at the smallest tested size") == 2


def test_one_neuron_is_no_bound(two: Runs) -> None:
    slow, fast = two({1: 0.1, 10: 0.6, 20: 0.8}, {1: 0.7, 10: 0.75, 20: 0.8})
    row = one(compare(fast, slow, deltas=0.5), "critical_mass")
    assert (row["bound"], row["value_a"]) == ("", 1)


def test_not_reached_is_a_bound(two: Runs) -> None:
    slow, fast = two({2: 0.1, 10: 0.3, 20: 0.8}, {2: 0.1, 10: 0.75, 20: 0.8})
    row = one(compare(slow, fast, deltas=0.5, estimator="interpolated"), "critical_mass")
    assert (row["bound"], row["value_a"]) == ("<=", 20)
    assert "slow does not reach 50 % at the largest tested size" in row["sentence"]
    assert "(10 of 20 neurons)" in row["sentence"]
    # It may be 11 neurons or 20; the fast one needs 2 + 8 * 0.3/0.65 = 5.7, so about 6.
    assert (row["low"], row["high"]) == pytest.approx((11 - 6, 20 - 6), abs=1)


# --- the sentences ---

ROW = {
    "a": "lite2", "b": "lite0", "dataset": "fashion-mnist", "measure": "logistic",
    "selector": "random", "quantity": "dr", "delta": 0.9, "bound": "", "low": 0.031, "high": 0.092,
}  # fmt: skip
HIGHER = "percentage points higher for lite2 than for lite0"
TAIL = "on fashion-mnist (random, logistic)"
CURVE = {"n_kept_a": 64, "n_kept_b": 64, "fraction": 0.05}


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, f"DR(0.9) is 3 to 9 {HIGHER} {TAIL}"),
        (
            {"low": -0.092, "high": -0.031},
            f"DR(0.9) is 3 to 9 percentage points lower for lite2 than for lite0 {TAIL}",
        ),
        (
            {"low": -0.02, "high": 0.031},
            f"No difference in DR(0.9) between lite2 and lite0 was detected {TAIL}: "
            "-2 to +3 percentage points",
        ),
        (
            {"low": 0.004, "high": 0.009},
            f"DR(0.9) is 0.4 to 0.9 {HIGHER} {TAIL}",
        ),
        ({"bound": ">="}, f"DR(0.9) is at least 3 {HIGHER} {TAIL}"),
        ({"bound": "<="}, f"DR(0.9) is 3 to 9 {HIGHER} {TAIL}"),
        (
            {"quantity": "critical_mass", "low": -1200.0, "high": -40.0},
            "To keep 90 % of the whole layer's value, lite2 needs 40 to 1,200 fewer neurons than "
            f"lite0 {TAIL}",
        ),
        (
            {"quantity": "critical_mass", "low": 1.0, "high": 1.0},
            f"To keep 90 % of the whole layer's value, lite2 needs 1 more neuron than lite0 {TAIL}",
        ),
        (
            {"quantity": "value", **CURVE},
            f"The logistic accuracy with 64 neurons is 3 to 9 {HIGHER} {TAIL}",
        ),
        (
            {"quantity": "ratio", **CURVE, "n_kept_b": 63},
            "The share of the whole layer's value kept with 5 % of the neurons is "
            f"3 to 9 {HIGHER} {TAIL}",
        ),
        (
            {"quantity": "value", **CURVE, "measure": "cka"},
            "The cka with 64 neurons is 0.031 to 0.092 higher for lite2 than for lite0 on "
            "fashion-mnist (random, cka)",
        ),
        (
            {"quantity": "whole layer", "low": 0.0, "high": 0.0},
            "No difference in the logistic accuracy with the whole layer between lite2 and lite0 "
            f"was detected {TAIL}: 0 percentage points",
        ),
        (
            {"low": None},
            f"No comparison of lite2 and lite0 in DR(0.9) {TAIL}: one of them has no value",
        ),
    ],
)  # fmt: skip
def test_sentences(changes: dict[str, Any], want: str) -> None:
    assert sentence(ROW | changes) == want


# --- the command ---


def test_the_command_prints_table_and_sentences(two: Runs) -> None:
    slow, fast = two({2: 0.1, 10: 0.6, 20: 0.8}, {2: 0.2, 10: 0.75, 20: 0.8})
    arguments = ["compare", str(fast.path), str(slow.path), "--delta", "0.5", "--quiet"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    table = cm.compare(fast, slow, deltas=0.5)
    assert one(table, "dr")["sentence"] in done.output
    assert "k*(0.5)" in done.output
    assert "samples paired" in done.output
    machine = CliRunner().invoke(cli, [*arguments, "--format", "csv", "--independent"])
    lines = machine.output.splitlines()
    assert lines[0] == ",".join(COMPARISON_COLUMNS)
    assert len(lines) == 1 + len(table)
    assert "independent" in lines[1]


# --- several pairs at once ---


def test_one_pair_is_not_corrected_and_its_p_fits_its_interval(two: Runs) -> None:
    slow, fast = two({2: 0.2, 10: 0.4, 20: 0.8}, {2: 0.2, 10: 0.44, 20: 0.8})
    table = compare(fast, slow, resamples=1999)
    assert table["p"].equals(table["p_holm"])
    assert set(table["n_compared"]) == {1}
    values = table[table["quantity"] == "value"].set_index("n_kept_a")
    assert values.loc[2, "p"] == 1.0
    assert values.loc[10, "p"] == pytest.approx(2 / 2000)


def test_the_more_pairs_the_less_remains(tmp_path: Path) -> None:
    # Twelve layers; in the second selector one is better by a difference of 2 standard errors.
    luck = np.random.default_rng(5).random(N_TEST)
    base: Curve = {2: 0.2, 10: 0.5, 20: 0.8}
    better: Curve = {2: 0.2, 10: 0.51, 20: 0.8}
    curves = {
        f"{layer}/{selector}/logistic": better if (layer, selector) == ("l0", "random") else base
        for layer in (f"l{i}" for i in range(12))
        for selector in ("first", "random")
    }
    run = a_run(tmp_path / "r", curves, n_seeds=3, luck=luck)
    alone = cm.compare(filter_run(run, layers=("l0",)), resamples=4000)
    together = cm.compare(run, by="selector", resamples=4000)
    one_pair = alone[(alone["quantity"] == "value") & (alone["n_kept_a"] == 10)].iloc[0]
    many = together[(together["quantity"] == "value") & (together["n_kept_a"] == 10)]
    assert set(many["n_compared"]) == {12}
    row = many[many["layer"] == "l0"].iloc[0]
    assert row["p"] == one_pair["p"]
    assert row["p"] < 0.05 < row["p_holm"]
    assert row["p_holm"] == pytest.approx(12 * row["p"])
    assert " lower for first than for random" in one_pair["sentence"]
    assert "does not remain after Holm's correction for 12 pairs" in row["sentence"]
    assert "higher" not in row["sentence"]
    assert (many.drop(index=row.name)["p_holm"] == 1.0).all()


def test_measures_and_sizes_are_families_of_their_own(tmp_path: Path) -> None:
    curves = {
        f"penultimate/{selector}/{measure}": SLOW
        for selector in ("first", "random", "leverage")
        for measure in ("logistic", "ridge")
    }
    table = compare(a_run(tmp_path / "r", curves), deltas=(0.5, 0.9))
    assert set(table["n_compared"]) == {3}


def test_tables_of_one_reader_are_corrected_together(two: Runs) -> None:
    slow, fast = two()
    rows = [
        comparison_rows(slow, fast, ComparisonOptions(draws=Draws(0.95, 500, 0))) for _ in range(3)
    ]
    tables = corrected_tables(rows)
    assert len(tables) == 3
    for table in tables:
        assert set(table["n_compared"]) == {3}
    alone = compare(slow, fast)
    assert (tables[0]["p_holm"] >= alone["p_holm"]).all()


def test_too_few_draws_for_many_pairs_are_said(tmp_path: Path) -> None:
    names = ("first", "random", "leverage", "cluster", "anova")
    run = a_run(tmp_path / "r", {f"penultimate/{name}/ridge": SLOW for name in names}, n_seeds=3)
    with pytest.warns(UserWarning, match="10 pairs .* 100 draws .* resamples=400 or more") as said:
        cm.compare(run, resamples=100)
    assert "\n" not in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cm.compare(run, resamples=400)
