"""The file ``prediction.json`` of a run: predictions for its layers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.analysis.predicted_curves import (
    FILE,
    MALFORMED,
    VERSION,
    curve_from_json,
    curve_to_json,
    read_layers,
    warn_of_damage,
)
from criticalmass.core.moments import Moments
from criticalmass.storage.digests import with_digest
from criticalmass.storage.files import write_atomically
from criticalmass.theory.prediction import Prediction, cka_curve, ridge_curve
from criticalmass.theory.spectrum import correlation, diagonal_share, participation_ratio

if TYPE_CHECKING:
    from criticalmass.storage.run import Run
    from criticalmass.theory.eigenbasis import Eigenbasis


def predict_from_moments(
    layer_moments: Moments, *, layer: str, digest: str, test: bool
) -> Prediction:
    """Predict what needs no labels: CKA, effective dimensions, and the diffuseness test.

    Parameters
    ----------
    layer_moments: moments of the raw test features.
    layer: name of the layer.
    digest: of its features and labels.
    test: whether to run the diffuseness test, which takes longer than the rest.

    Raises
    ------
    CriticalMassError: if every neuron is constant.
    """
    from criticalmass.theory.exchangeability import FEWEST_NEURONS, exchangeability_test

    scatter = layer_moments.scatter
    n_varying = int((np.diagonal(scatter) > 0.0).sum())
    can_test = test and n_varying >= FEWEST_NEURONS
    return Prediction(
        layer=layer,
        digest=digest,
        n_neurons=layer_moments.n_neurons,
        n_test=layer_moments.n,
        participation_ratio=participation_ratio(correlation(scatter)),
        participation_ratio_raw=participation_ratio(scatter),
        diagonal_share=diagonal_share(scatter),
        curves=(cka_curve(scatter),),
        diffuseness=exchangeability_test(scatter) if can_test else None,
    )


def add_ridge_curve(prediction: Prediction, basis: Eigenbasis, test: tuple[Any, Any]) -> Prediction:
    """Return a prediction with the curve of ridge probes added.

    Parameters
    ----------
    prediction: without a ridge curve.
    basis: of the training split.
    test: raw rows (n_test, n_neurons) and labels (n_test,).
    """
    return replace(prediction, curves=(*prediction.curves, ridge_curve(basis, *test)))


def write_predictions(run: Run, predictions: Iterable[Prediction]) -> None:
    """Write predictions into a run's folder, one per layer; existing ones are replaced."""
    layers = {prediction.layer: _to_json(prediction) for prediction in predictions}
    text = json.dumps(with_digest({"version": VERSION, "layers": layers}), allow_nan=False)
    write_atomically(run.path / FILE, lambda file: file.write(text.encode()))


def read_predictions(run: Run) -> dict[str, Prediction]:
    """Return the predictions of a run by layer, except those for other features.

    Returns nothing if the file cannot be read or has another version, see `read_layers`.
    """
    layers = read_layers(run)
    try:
        predictions = [_prediction_from_json(layer) for layer in layers]
    except MALFORMED:
        warn_of_damage(run)
        return {}
    return {prediction.layer: prediction for prediction in predictions}


def _to_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON values, with all digits."""
    content = asdict(prediction)
    for curve in content["curves"]:
        curve_to_json(curve)
    return content


def _prediction_from_json(content: Mapping[str, Any]) -> Prediction:
    from criticalmass.theory.exchangeability import Exchangeability, NeuronProperty

    test = content["diffuseness"]
    if test is not None:
        features = tuple(NeuronProperty(**feature) for feature in test["features"])
        test = Exchangeability(**{**test, "features": features})
    curves = tuple(curve_from_json(curve) for curve in content["curves"])
    return Prediction(**{**content, "curves": curves, "diffuseness": test})
