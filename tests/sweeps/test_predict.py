"""The predictions that a sweep makes: which it can afford, and what it says of the others."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.core.progress import display, write_line
from criticalmass.reporting.page.prediction_section import prediction_sections
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps import predict
from criticalmass.sweeps.layer_info import LayerInfo
from criticalmass.sweeps.plan import SweepRequest, make_request
from criticalmass.theory.prediction_file import FILE, read_predictions

LAYER = LayerInfo("penultimate", "m", "d", 10_000, 5_000, 512, 10, "float32", 4, "0")
BOTH = {"penultimate": {"cka", "ridge"}}


def request(*measures: str, seeds: int = 5, **changes: int) -> SweepRequest:
    return make_request(
        (replace(LAYER, **changes),),  # type: ignore[arg-type]
        selectors="random",
        fractions=(0.1, 0.5),
        seeds=seeds,
        measures=measures,
    )


def quick(store: FeatureStore, out: Path, *measures: str) -> cm.Run:
    return cm.sweep(store, out=out, fractions=(0.5, 1.0), seeds=1, measures=measures)


def test_a_prediction_that_costs_more_than_a_tenth_of_the_sweep_is_left_out() -> None:
    """With 3,000 classes a ridge sweep costs little, a logistic one much."""
    many = {"n_classes": 3000, "n_train": 30_000}
    within, left_out = predict.split_by_budget(request("cka", "ridge", **many), BOTH)
    assert within == {"penultimate": {"cka"}}
    cost = predict.prediction_flops(replace(LAYER, n_classes=3000, n_train=30_000), "ridge")
    assert left_out == {"penultimate": cost}
    large = request("logistic", "ridge", seeds=50, **many)
    assert predict.split_by_budget(large, BOTH) == (BOTH, {})
    assert cost <= predict.BUDGET_SHARE * predict.sweep_flops(large)


def test_small_predictions_are_free() -> None:
    small = request("ridge", n_neurons=64, n_train=200, n_test=100)
    assert predict.BUDGET_SHARE * predict.sweep_flops(small) < predict.FREE_FLOPS
    assert predict.split_by_budget(small, BOTH) == (BOTH, {})


def test_the_layers_share_the_budget() -> None:
    layers = tuple(replace(LAYER, name=name) for name in "abcdefgh")
    whole = replace(request("cka"), layers=layers)
    within, left_out = predict.split_by_budget(whole, {name: {"cka"} for name in "abcdefgh"})
    cost = predict.prediction_flops(LAYER, "cka")
    n_free = int(predict.FREE_FLOPS // cost)
    assert 1 <= n_free < 8
    assert (list(within), list(left_out)) == (list("abcdefgh"[:n_free]), list("abcdefgh"[n_free:]))


def test_a_very_wide_layer_is_left_out_whatever_the_sweep_costs() -> None:
    wide = request("logistic", seeds=1000, n_neurons=predict.WIDEST_IN_SWEEP + 1)
    within, left_out = predict.split_by_budget(wide, {"penultimate": {"cka"}})
    assert (within, list(left_out)) == ({}, ["penultimate"])


@pytest.mark.parametrize("measure", ["cka", "ridge"])
@pytest.mark.parametrize("size", ["n_train", "n_test", "n_neurons", "n_classes"])
def test_more_of_anything_costs_no_less(measure: str, size: str) -> None:
    more = replace(LAYER, **{size: 3 * getattr(LAYER, size)})
    flops = predict.prediction_flops
    assert flops(more, measure) >= flops(LAYER, measure) > 0
    assert predict.sweep_flops(replace(request("ridge", "cka"), layers=(more,))) >= (
        predict.sweep_flops(request("ridge", "cka"))
    )


def test_a_run_without_its_prediction_is_whole_and_the_named_command_adds_it(
    store: FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(predict, "FREE_FLOPS", 0.0)
    with pytest.warns(UserWarning, match="a predicted curve is left out") as warned:
        run = quick(store, tmp_path / "run", "ridge")
    assert len(warned) == 1
    message = str(warned[0].message)
    assert "\n" not in message
    assert not (run.path / FILE).exists()
    assert (run.frame()["status"] == "ok").all()
    assert len(cm.redundancy(run)) == 1
    assert prediction_sections(run, (0.9,)) == []
    command = shlex.split(message.partition("make it with: criticalmass ")[2])
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code, capsys.readouterr().err
    measures = [curve.measure for curve in read_predictions(run)["penultimate"].curves]
    # The store has fewer than 5 test samples per neuron, so CKA without its bias is added.
    assert measures == ["cka", "cka-debiased", "ridge"]


def test_what_is_predicted_is_not_predicted_again(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick(store, tmp_path / "run", "cka")
    before = read_predictions(run)["penultimate"].curves[0]
    monkeypatch.setattr(predict, "predict_from_moments", None)  # not callable
    quick(store, tmp_path / "run", "cka", "ridge")
    cka, ridge = read_predictions(run)["penultimate"].curves
    np.testing.assert_array_equal(cka.mean, before.mean)
    assert ridge.measure == "ridge"
    monkeypatch.setattr(predict, "add_ridge_curve", None)
    quick(store, tmp_path / "run", "cka", "ridge", "knn")


def test_many_classes_are_swept_with_a_line_before_the_first_cell(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """300 identities; a prediction that is slow says so, another says nothing."""
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(300), 3)
    x = (rng.normal(size=(300, 8))[y] + 0.3 * rng.normal(size=(900, 8))).astype(np.float32)
    store = cm.import_features(
        {"train": x[:600], "test": x[600:]},
        out=tmp_path / "identities",
        labels={"train": y[:600], "test": y[600:]},
    )
    with display():
        quick(store, tmp_path / "quiet", "ridge")
        assert "predicting the curves" not in capsys.readouterr().err
        said = Event()

        def waiting(*arguments: Any, **options: Any) -> Any:
            assert said.wait(600)
            return predict_layer(*arguments, **options)

        def write(line: str) -> None:
            write_line(line)
            said.set()

        predict_layer = predict._predict_layer
        monkeypatch.setattr(predict, "_QUIET_SECONDS", 0.0)
        monkeypatch.setattr(predict, "_predict_layer", waiting)
        monkeypatch.setattr(predict, "write_line", write)
        quick(store, tmp_path / "slow", "ridge")
    lines = capsys.readouterr().err.splitlines()
    slow = [i for i, line in enumerate(lines) if line.startswith("predicting the curves of")]
    first = next(i for i, line in enumerate(lines) if line.startswith("sweep of"))
    assert len(slow) == 1
    assert slow[0] < first
