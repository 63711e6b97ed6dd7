"""docs/causes.md agrees with its tables, and its verdicts follow from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.causes.causes import (
    DOCS,
    bar_text,
    claims,
    conclusions,
    law_counts,
    ratio_text,
    read_tables,
    render,
)

from criticalmass.errors import CriticalMassError

RESULTS = DOCS / "causes"


def effect(**changes: object) -> dict[str, object]:
    row = {
        "study": "loss", "recipe": "mse", "baseline": "cross-entropy", "dataset": "mnist-5k",
        "measure": "logistic", "ratio": 2.0, "ratio_low": 1.5, "ratio_high": 3.0, "bound": "",
        "log_ratio": np.log(2), "log_ratio_low": np.log(1.5), "log_ratio_high": np.log(3),
        "verdict": "more neurons", "predicted_log_ratio": 0.5, "same_sign": True,
        "within_interval": True, "dr_difference_low": -0.02, "dr_difference_high": -0.01,
    }  # fmt: skip
    return {**row, **changes}


def test_text_and_tables_agree() -> None:
    assert render(RESULTS) == (DOCS / "causes.md").read_text(encoding="utf-8")


def test_a_changed_number_in_a_table_changes_the_text(tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS, tmp_path / "causes")
    table = pd.read_csv(folder / "effects.csv")
    table["ratio"] *= 1.5
    table.to_csv(folder / "effects.csv", index=False)
    assert render(folder) != render(RESULTS)


def test_ratios_are_written_with_their_intervals() -> None:
    assert ratio_text(effect()) == "2.0 [1.5, 3.0]"
    close = effect(ratio=1.0197, ratio_low=1.0099, ratio_high=1.0295)
    assert ratio_text(close) == "1.02 [1.01, 1.03]"
    assert ratio_text(effect(ratio=14.2, ratio_low=9.0, ratio_high=30.0, bound=">=")) == (
        ">=14 [9.0, 30]"
    )
    assert ratio_text(effect(ratio_low=np.nan, ratio_high=np.nan, bound=np.nan)) == "2.0"
    bar = {"k_at_bar": 12.0, "log_ratio_at_bar": np.log(3)}
    bar |= dict.fromkeys(("log_ratio_at_bar_low", "log_ratio_at_bar_high"), np.nan)
    assert bar_text(bar) == "3.0"
    assert bar_text({**bar, "k_at_bar": np.inf}) == "not reached"


def test_gated_comparisons_are_counted_apart() -> None:
    rows = [
        effect(),
        effect(recipe="sigmoid", verdict="no difference shown"),
        effect(recipe="simclr", verdict="gated: upstream accuracy", log_ratio=np.log(9)),
        effect(recipe="cosine", verdict="fewer neurons", ratio=0.5, log_ratio=np.log(0.5)),
    ]
    table = pd.DataFrame(rows)
    assert claims(table)["loss", "logistic"] == {
        "all": 4, "gated": 1, "more": 1, "fewer": 1, "none": 1,
    }  # fmt: skip
    [text] = conclusions(table)
    assert "3 comparisons passed the gates; by probe 2 differ (`mse`" in text
    assert "), by CKA none differs. " in text
    assert "`mse` needs 2.0 [1.5, 3.0] times" in text
    assert "simclr" not in text
    assert "DR by the probe excludes 0 in 3." in text


def test_only_effects_with_an_interval_beside_one_count_for_the_laws() -> None:
    open_interval = {"log_ratio_low": -0.1, "same_sign": True}
    rows = [effect(), effect(same_sign=False, within_interval=False), effect(**open_interval)]
    assert law_counts(pd.DataFrame(rows), "logistic") == {"n": 2, "sign": 1, "inside": 1}


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="criticalmass study causes --out"):
        read_tables(tmp_path)
