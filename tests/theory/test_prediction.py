"""Predictions in a run: written, shown, and ignored for other features."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.storage.digests import DIGEST_KEY, with_digest
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps import predict
from criticalmass.theory.prediction import Prediction
from criticalmass.theory.prediction_file import FILE, read_predictions, write_predictions

MakeStore = Callable[..., FeatureStore]


def swept(store: FeatureStore, folder: Path, *measures: str) -> Run:
    return cm.sweep(store, out=folder, measures=measures, seeds=2, fractions=(0.25, 0.5, 1.0))


def page(run: Run, out: Path) -> str:
    return cm.report(run, out).read_text()


def same(a: Prediction, b: Prediction) -> bool:
    one, other = asdict(a), asdict(b)
    for curve, other_curve in zip(one.pop("curves"), other.pop("curves"), strict=True):
        for name, value in curve.items():
            equal = np.array_equal(value, other_curve[name], equal_nan=name == "l2")
            if not equal:
                return False
    return bool(one == other)


def test_a_sweep_predicts_what_it_measures(store: FeatureStore, tmp_path: Path) -> None:
    run = swept(store, tmp_path / "run", "cka")
    prediction = read_predictions(run)["penultimate"]
    assert [curve.measure for curve in prediction.curves] == ["cka"]
    assert prediction.diffuseness is not None
    run = swept(store, tmp_path / "run", "cka", "ridge")
    prediction = read_predictions(run)["penultimate"]
    assert [curve.measure for curve in prediction.curves] == ["cka", "ridge"]
    # explain predicts the same for the same features, to the last digit.
    explained = cm.explain(store, run=run).prediction
    # It adds debiased CKA, which this sweep does not measure, because the test samples are few.
    assert [curve.measure for curve in explained.curves] == ["cka", "cka-debiased", "ridge"]
    curves = tuple(curve for curve in explained.curves if curve.measure != "cka-debiased")
    assert same(prediction, replace(explained, curves=curves))
    alone = swept(store, tmp_path / "other", "centroid")
    assert not (alone.path / FILE).exists()


def test_an_existing_prediction_is_not_computed_again(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(store, tmp_path / "run", "cka")
    monkeypatch.setattr(predict, "_predict_layer", lambda *_, **__: pytest.fail("again"))
    swept(store, tmp_path / "run", "cka", "centroid")


def test_a_prediction_for_other_features_is_ignored(make_store: MakeStore, tmp_path: Path) -> None:
    old, new = make_store("old"), make_store("new", layers={"penultimate": 5})
    run = swept(old, tmp_path / "run", "cka")
    before = read_predictions(run)["penultimate"]
    stale = (run.path / FILE).read_text()
    with pytest.warns(UserWarning, match="have changed"):
        run = swept(new, tmp_path / "run", "cka")
    after = read_predictions(run)["penultimate"]
    assert after.digest == new.digest() != before.digest
    (run.path / FILE).write_text(stale)
    assert read_predictions(run) == {}
    assert "Predicted without a sweep" not in page(run, tmp_path / "page.html")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}'])
def test_a_file_that_cannot_be_read_has_no_predictions(
    store: FeatureStore, tmp_path: Path, text: str
) -> None:
    run = swept(store, tmp_path / "run", "cka")
    assert cm.redundancy(run)["spread_source"].dropna().unique().tolist() == ["law"]
    (run.path / FILE).write_text(text)
    with pytest.warns(UserWarning, match=f"{FILE} is damaged and is not used"):
        assert read_predictions(run) == {}
    # The spread of subsets is another one without the law, so it is said there too.
    with pytest.warns(UserWarning, match=f"{FILE} is damaged"):
        assert "law" not in set(cm.redundancy(run)["spread_source"].dropna())


def test_a_prediction_without_its_curves_is_damaged_and_ends_no_table(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = swept(store, tmp_path / "run", "cka")
    content = json.loads((run.path / FILE).read_text())
    content["layers"]["penultimate"]["curves"] = [{"measure": "cka"}]
    content.pop(DIGEST_KEY)
    (run.path / FILE).write_text(json.dumps(with_digest(content)))
    with pytest.warns(UserWarning, match=f"{FILE} is damaged"):
        assert read_predictions(run) == {}
    with pytest.warns(UserWarning, match=f"{FILE} is damaged"):
        assert len(cm.redundancy(run)) == 1


def test_a_file_of_another_version_is_ignored(store: FeatureStore, tmp_path: Path) -> None:
    run = swept(store, tmp_path / "run", "cka")
    (run.path / FILE).write_text(json.dumps(with_digest({"version": 99, "layers": {}})))
    assert read_predictions(run) == {}


def test_the_page_without_a_prediction_does_not_mention_one(
    store: FeatureStore, tmp_path: Path
) -> None:
    run = swept(store, tmp_path / "run", "cka")
    shown = page(run, tmp_path / "a.html")
    assert "Predicted without a sweep" in shown
    assert "diffuseness test" in shown
    (run.path / FILE).unlink()
    without = page(run, tmp_path / "b.html")
    assert "Predicted without a sweep" not in without
    assert "diffuseness test" not in without


def test_explain_writes_into_a_run(store: FeatureStore, tmp_path: Path) -> None:
    run = swept(store, tmp_path / "run", "centroid", "cka")
    (run.path / FILE).unlink()
    explanation = cm.explain(store, out=run.path)
    assert same(read_predictions(run)["penultimate"], explanation.prediction)
    assert "Predicted without a sweep" in page(run, tmp_path / "page.html")
    assert not (run.path / "masses.csv").exists()


def test_a_layer_for_which_the_law_fails_is_swept(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("no eigenvalues")

    monkeypatch.setattr(predict, "predict_from_moments", fail)
    run = swept(store, tmp_path / "run", "cka")
    assert not (run.path / FILE).exists()
    assert run.frame()["value"].notna().all()


def test_the_file_is_standard_json(store: FeatureStore, tmp_path: Path) -> None:
    run = swept(store, tmp_path / "run", "cka", "ridge")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads((run.path / FILE).read_text(), parse_constant=refuse)
    assert set(content["layers"]) == {"penultimate"}
    both = read_predictions(run)
    with run.writer():
        write_predictions(run, both.values())
    assert same(read_predictions(run)["penultimate"], both["penultimate"])
