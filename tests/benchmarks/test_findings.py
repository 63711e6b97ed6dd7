"""docs/results.md agrees with its tables."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.findings import findings
from benchmarks.findings.claims import claims, dr_above_chance, last_layer, p_values
from benchmarks.findings.evidence import make_tables
from benchmarks.findings.findings import DOCS, IMAGES, copy_to_docs
from benchmarks.findings.writing import mass, render
from scipy.stats import norm

from criticalmass.errors import CriticalMassError

RESULTS = DOCS / "results"
TEXT = (DOCS / "results.md").read_text(encoding="utf-8")


def test_text_and_tables_agree() -> None:
    assert render(RESULTS, IMAGES) == TEXT


@pytest.mark.parametrize("name", ["transfer", "layers", "pca", "cka", "fairness", "protocol"])
def test_a_changed_number_in_a_table_changes_the_text(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS, tmp_path / "results")
    table = pd.read_csv(folder / f"{name}.csv")
    shown = {"pca": "chosen", "cka": "mean", "fairness": "accuracy"}.get(name, "value_full")
    table[shown] += 0.1
    table.to_csv(folder / f"{name}.csv", index=False)
    assert render(folder, IMAGES) != TEXT


def test_verdicts_follow_from_the_tables() -> None:
    tables = {path.stem: pd.read_csv(path) for path in RESULTS.glob("*.csv")}
    pd.testing.assert_frame_equal(claims(tables), tables["claims"])


def test_p_values_of_intervals_are_those_of_the_normal_test() -> None:
    centre, error = np.array([0.0, 1.0, 2.0, 3.0]), 0.5
    low, high = centre - 1.959964 * error, centre + 1.959964 * error
    p = p_values(*map(pd.Series, (centre, low, high)))
    np.testing.assert_allclose(p, 2 * norm.sf(centre / error), rtol=1e-5)
    # Without a width: certain, unless it is the threshold itself.
    one = pd.Series([0.9])
    assert p_values(one, one, one, 0.5).tolist() == [0.0]
    assert p_values(one, one, one, 0.9).tolist() == [1.0]


def test_fewer_cases_remain_after_the_correction() -> None:
    tables = {path.stem: pd.read_csv(path) for path in RESULTS.glob("*.csv")}
    counts = claims(tables)
    assert (counts["support"] <= counts["support_alone"]).all()
    assert (counts["against"] <= counts["against_alone"]).all()
    # An independent count of the same intervals: 10 of 31 trained pairs, 19 untrained.
    assert counts.loc[counts["claim"] == "task", "support"].tolist() == [10, 19]


def test_a_share_above_chance_needs_more_neurons_than_a_plain_one() -> None:
    tables = {path.stem: pd.read_csv(path) for path in RESULTS.glob("*.csv")}
    keys = ["model", "dataset"]
    plain = last_layer(tables["transfer"], control=False).set_index(keys)["dr"]
    above = dr_above_chance(tables)
    above = above[~above["control"]].set_index(keys)
    assert (above["dr"] <= plain.reindex(above.index) + 1e-3).all()
    assert (above["dr_low"] <= above["dr"]).all()
    assert (above["dr"] <= above["dr_high"]).all()


def test_the_whole_data_are_compared_with_their_samples() -> None:
    table = pd.read_csv(RESULTS / "whole.csv")
    assert (table["n_train_a"] > table["n_train_b"]).all()
    assert (table["n_test_a"] > table["n_test_b"]).all()
    samples = last_layer(pd.read_csv(RESULTS / "transfer.csv"), control=False)
    for row in table[~table["control"]].to_dict("records"):
        assert row["mass_difference"] == pytest.approx(row["mass_a"] - row["mass_b"], abs=1e-3)
        assert row["mass_low"] <= row["mass_difference"] <= row["mass_high"]
        # The sample is that of the table of all samples: same network, as many training samples.
        same = (samples["model"] == row["model"]) & (samples["n_train"] == row["n_train_b"])
        assert row["mass_b"] in samples.loc[same, "critical_mass"].tolist()


def test_every_figure_exists() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert len(shown) >= 5
    assert all((DOCS / name).is_file() for name in shown)
    assert {Path(name).name for name in shown} == {path.name for path in RESULTS.glob("*.png")}


def test_copying_gives_the_same_text_and_removes_old_files(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.csv").touch()
    assert copy_to_docs(RESULTS, tmp_path).read_text(encoding="utf-8") == TEXT
    assert not (tmp_path / "results" / "old.csv").exists()


def test_a_table_that_is_missing_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS, tmp_path / "results")
    (folder / "cka.csv").unlink()
    with pytest.raises(CriticalMassError, match="cka"):
        copy_to_docs(folder, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_the_first_neurons_are_compared_with_one_random_subset(tmp_path: Path) -> None:
    # Exchangeable neurons: the first subset is a draw like the ten random ones.
    n_sizes, n_seeds = 2_000, 10
    draws = np.random.default_rng(0).normal(0.5, 0.02, (n_seeds + 1, n_sizes))
    first, random = draws[0], draws[1:]
    keys = {"model": "net", "dataset": "data", "control": False, "measure": "ridge"}
    sizes = pd.DataFrame({**keys, "n_kept": range(n_sizes), "fraction": 0.1})
    curves = sizes.assign(selector="random", std=random.std(axis=0, ddof=1), n_seeds=n_seeds)
    difference = first - random.mean(axis=0)
    selectors = sizes.rename(columns={"n_kept": "n_kept_a"}).assign(
        selector="first", quantity="value", delta=np.nan, chosen=first, random=first - difference,
        difference=difference, low=difference, high=difference,
    )  # fmt: skip
    folder = tmp_path / "studies" / "matryoshka-local"
    folder.mkdir(parents=True)
    curves.to_csv(folder / "curves.csv", index=False)
    selectors.to_csv(folder / "selectors.csv", index=False)
    orders = make_tables(tmp_path, {"matryoshka-local": []})["orders"]
    assert abs((orders["p"] < 0.05).mean() - 0.05) < 3 * np.sqrt(0.05 * 0.95 / n_sizes)


def test_a_part_of_the_studies_keeps_the_tables_of_the_others(tmp_path: Path) -> None:
    cost = pd.DataFrame(
        {"studies": ["width-local"], "kind": ["sweep"], "steps": 1, "seconds": 2, "cpu_seconds": 3}
    )
    networks = pd.DataFrame({"model": ["net"]})
    for _ in range(2):
        tables = findings.with_earlier({"networks": networks, "cost": cost}, RESULTS)
        assert tables["networks"] is networks
        pd.testing.assert_frame_equal(tables["cka"], pd.read_csv(RESULTS / "cka.csv"))
        studies = tables["cost"]["studies"]
        assert "local" in set(studies)
        assert (studies == "width-local").sum() == 1


def test_a_critical_mass_is_shown_with_the_sizes_on_both_sides() -> None:
    row = {"critical_mass": 95, "critical_mass_low": 90, "critical_mass_high": 101}
    row |= {"estimator": "monotone", "largest_failing": 64.0, "smallest_passing": 128.0}
    assert mass(row) == "95 [90, 101]; 64 fails, 128 passes"
    assert mass(row | {"largest_failing": np.nan}) == "95 [90, 101]; 128 passes"
    assert mass(row | {"estimator": "strict"}) == "95 [90, 101]"


def test_networks_in_pairs_are_counted_with_their_own_p_values() -> None:
    tables = {path.stem: pd.read_csv(path) for path in RESULTS.glob("*.csv")}
    p = [0.001, 0.02, 0.04, 0.9]
    low, high = [0.1, 0.1, -0.3, -0.1], [0.2, 0.2, -0.1, 0.1]
    tables["comparisons"] = pd.DataFrame(
        {"study": "upstream-local", "control": False, "p": p, "dr_low": low, "dr_high": high,
         "p_mass": p, "mass_low": low, "mass_high": high}
    )  # fmt: skip
    counts = claims(tables).set_index(["claim", "network"]).loc[("upstream", "trained")]
    # By Holm .001 < .05/4 remains, .02 > .05/3 does not, nor do those after it.
    assert (counts["support"], counts["support_alone"], counts["cases"]) == (1, 3, 4)
    assert counts["verdict"] == "agrees in part"
