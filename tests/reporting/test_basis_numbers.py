"""Compression, diffuseness and usefulness in words: what was measured, and nothing else."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from criticalmass.analysis.columns import typed_table
from criticalmass.analysis.redundancy import REDUNDANCY_COLUMNS
from criticalmass.reporting.basis_numbers import layer_numbers, missing_numbers

RANDOM = {
    "model": "m", "layer": "penultimate", "dataset": "d", "selector": "random", "measure": "ridge",
    "delta": 0.9, "bar": 0.8, "bar_kind": "whole layer", "n_neurons": 1280, "critical_mass": 140,
    "critical_mass_low": 130, "critical_mass_high": 150, "at_floor": False, "reached": True,
}  # fmt: skip
COMPRESSED = {"compression": 20.0, "best_projection": "lda-top", "compression_at_floor": False}
LDA = {**RANDOM, "selector": "lda-top", "critical_mass": 7}
DIFFUSE = {"diffuseness": 0.84, "diffuseness_low": 0.77, "diffuseness_high": 0.93}
USEFUL = {**RANDOM, "bar_kind": "control", "control": "u", "critical_mass": 52, "bar": 0.651}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    complete = [{**dict.fromkeys(REDUNDANCY_COLUMNS), **row} for row in rows]
    return typed_table(complete, REDUNDANCY_COLUMNS)


def sentences(*rows: dict[str, Any]) -> dict[str, str]:
    (layer,) = layer_numbers(table(*rows))
    return {number.name: f"{number.value}: {number.sentence}" for number in layer.numbers}


def test_each_number_has_a_sentence() -> None:
    said = sentences({**RANDOM, **COMPRESSED, **DIFFUSE}, LDA, USEFUL)
    assert list(said) == ["Compression", "Diffuseness", "Usefulness"]
    assert said["Compression"].startswith("20.0: The best measured linear projection, lda-top,")
    assert "needs 7 dimensions: 20.0 times fewer than the 140 random neurons" in said["Compression"]
    assert said["Diffuseness"].startswith("0.84 (0.77 to 0.93): Random directions need 0.77 to")
    assert "a random basis is better" in said["Diffuseness"]
    assert "On average, 52 random neurons of 1,280 reach an accuracy of 0.651" in said["Usefulness"]
    assert "90\N{NO-BREAK SPACE}% of the whole layer of u." in said["Usefulness"]


def test_a_projection_by_labels_has_one_without_beside_it() -> None:
    pca = {**LDA, "selector": "pca-top", "critical_mass": 32}
    said = sentences({**RANDOM, **COMPRESSED}, LDA, pca)["Compression"]
    assert said.endswith("the 140 random neurons; without labels, pca-top needs 32.")
    best = {**COMPRESSED, "best_projection": "pca-top"}
    assert sentences({**RANDOM, **best}, pca)["Compression"].endswith("random neurons.")


@pytest.mark.parametrize(
    ("ends", "meaning"),
    [
        ((0.8, 0.99), "a random basis is better"),
        ((0.8, 1.2), "no difference between neurons and a random basis was detected"),
        ((1.01, 1.2), "neurons are better than a random basis"),
    ],
)
def test_the_interval_of_the_diffuseness_decides_its_words(
    ends: tuple[float, float], meaning: str
) -> None:
    diffuse = {"diffuseness": 1.0, "diffuseness_low": ends[0], "diffuseness_high": ends[1]}
    assert meaning in sentences({**RANDOM, **diffuse})["Diffuseness"]


def test_bounds_and_bars_out_of_reach_are_said() -> None:
    bounded = {**COMPRESSED, "compression_at_floor": True}
    said = sentences({**RANDOM, **bounded}, LDA, {**USEFUL, "reached": False})
    assert said["Compression"].startswith("≥ 20.0")
    assert "needs at most 7 dimensions: at least 20.0 times fewer" in said["Compression"]
    assert said["Usefulness"].startswith("not reached: No tested subset reaches")
    at_floor = {**USEFUL, "at_floor": True, "bar_kind": "control above chance"}
    above = sentences(at_floor)["Usefulness"]
    assert "≤ 52" in above
    assert "% above chance of the whole layer of u" in above


def test_without_intervals_the_numbers_stand_alone() -> None:
    few = {"critical_mass_low": None, "critical_mass_high": None}
    said = sentences({**RANDOM, **few, "diffuseness": 0.9}, {**USEFUL, **few})
    assert said["Diffuseness"].startswith("0.90: Random directions need 0.90 times")
    assert "too few seeds" in said["Diffuseness"]
    assert said["Usefulness"].startswith("52: On average, 52 random neurons")


def test_the_share_nearest_to_nine_tenths_is_shown() -> None:
    rows = [{**RANDOM, **DIFFUSE, "delta": delta} for delta in (0.8, 0.95)]
    (layer,) = layer_numbers(table(*rows))
    assert layer.delta == "95\N{NO-BREAK SPACE}%"
    accuracy = {**RANDOM, "delta": None, "bar_kind": "accuracy", "bar": 0.65}
    assert "reach an accuracy of 0.650." in sentences(RANDOM, accuracy)["Usefulness"]


def test_nothing_is_shown_where_nothing_was_measured() -> None:
    assert layer_numbers(table(RANDOM)) == []
    assert layer_numbers(table()) == []
    sweep, control = missing_numbers(table(RANDOM), "runs/a")
    assert sweep == (
        "Not measured: compression and diffuseness; criticalmass sweep FEATURES --out runs/a "
        "--measure ridge --selector random --selector pca-top --selector lda-top "
        "--selector rotation"
    )
    assert control.startswith("Not measured: usefulness; criticalmass redundancy runs/a --control")


def test_what_was_measured_is_not_asked_for() -> None:
    rows = ({**RANDOM, **COMPRESSED, **DIFFUSE}, LDA, {**LDA, "selector": "rotation"}, USEFUL)
    assert missing_numbers(table(*rows), "r") == []
    (line,) = missing_numbers(table({**RANDOM, **COMPRESSED}, *rows[1:]), "r")
    assert line.startswith("Not given: diffuseness, because a critical mass is only a bound")
    assert missing_numbers(table({**RANDOM, "measure": "cka"}), "r") == []
    assert missing_numbers(table(LDA), "r") == []
