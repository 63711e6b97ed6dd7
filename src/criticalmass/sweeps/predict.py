"""Predictions that a sweep writes into its run for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticalmass.theory.prediction import Prediction
from criticalmass.theory.prediction_file import (
    add_ridge_curve,
    predict_from_moments,
    read_predictions,
    write_predictions,
)

if TYPE_CHECKING:
    from criticalmass.storage.run import Run
    from criticalmass.sweeps.layer_data import SweepData
    from criticalmass.sweeps.plan import SweepRequest

#: A sweep does not predict wider layers, because that takes minutes; `criticalmass.explain` does.
WIDEST_IN_SWEEP = 4096


def predict_for_run(run: Run, data: SweepData, request: SweepRequest) -> None:
    """Write the predictions that the report shows, if the run lacks them.

    CKA and ridge are predicted if they are measured. A layer for which the prediction fails with
    an expected error is swept without one.
    """
    predictions = read_predictions(run)
    new = {}
    for layer in request.layers:
        missing = {"cka", "ridge"} & set(request.measures)
        if layer in predictions:
            missing -= {curve.measure for curve in predictions[layer].curves}
        width = int(data.store.features("test", layer).shape[1])
        if missing and width <= WIDEST_IN_SWEEP:
            prediction = _predict_layer(data, layer, ridge="ridge" in request.measures)
            if prediction is not None:
                new[layer] = prediction
    if new:
        write_predictions(run, {**predictions, **new}.values())


def _predict_layer(data: SweepData, name: str, *, ridge: bool) -> Prediction | None:
    from criticalmass.measures.protocol import EXPECTED
    from criticalmass.theory.eigenbasis import eigenbasis

    layer = data.layer(name)
    try:
        prediction = predict_from_moments(
            layer.whole_layer.moments, layer=name, digest=data.store.digest(name), test=True
        )
        if ridge:
            n_classes = len(data.store.class_names)
            basis = eigenbasis(layer.train, data.y_train, n_classes=n_classes)
            prediction = add_ridge_curve(prediction, basis, (layer.test, data.y_test))
    except EXPECTED:
        return None
    return prediction
