"""The file ``prediction.json`` of a run: predictions for its layers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.core.moments import Moments
from criticalmass.storage.digests import verified, with_digest
from criticalmass.storage.files import write_atomically
from criticalmass.theory.prediction import PredictedCurve, Prediction, cka_curve, ridge_curve
from criticalmass.theory.spectrum import correlation, diagonal_share, participation_ratio

if TYPE_CHECKING:
    from criticalmass.storage.run import Run
    from criticalmass.theory.eigenbasis import Eigenbasis

FILE = "prediction.json"

#: Raised when a law changes; predictions of another version are not read.
VERSION = 1


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

    Returns nothing if the file cannot be read or has another version; the next sweep predicts
    again.
    """
    path = run.path / FILE
    try:
        content = verified(json.loads(path.read_text(encoding="utf-8")))
        if content is None or content.get("version") != VERSION:
            return {}
        predictions = [_prediction_from_json(layer) for layer in content["layers"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    layers = run.manifest.get("layers", {})
    return {
        prediction.layer: prediction
        for prediction in predictions
        if prediction.digest == layers.get(prediction.layer, {}).get("digest")
    }


def _to_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON values, with all digits."""
    content = asdict(prediction)
    for curve in content["curves"]:
        curve["sizes"] = curve["sizes"].tolist()
        curve["mean"] = curve["mean"].tolist()
        curve["std"] = curve["std"].tolist()
        curve["l2"] = None if np.isnan(curve["l2"]).all() else curve["l2"].tolist()
        curve["source"] = _run_lengths(curve["source"])
    return content


def _run_lengths(names: Iterable[str]) -> list[list[Any]]:
    """Return a sequence with many repetitions as [name, count] pairs."""
    pairs: list[list[Any]] = []
    for name in names:
        if pairs and pairs[-1][0] == name:
            pairs[-1][1] += 1
        else:
            pairs.append([name, 1])
    return pairs


def _prediction_from_json(content: Mapping[str, Any]) -> Prediction:
    from criticalmass.theory.exchangeability import Exchangeability, NeuronProperty

    test = content["diffuseness"]
    if test is not None:
        features = tuple(NeuronProperty(**feature) for feature in test["features"])
        test = Exchangeability(**{**test, "features": features})
    curves = tuple(_curve_from_json(curve) for curve in content["curves"])
    return Prediction(**{**content, "curves": curves, "diffuseness": test})


def _curve_from_json(content: Mapping[str, Any]) -> PredictedCurve:
    sizes = np.asarray(content["sizes"], dtype=np.int64)
    l2 = content["l2"]
    return PredictedCurve(
        measure=str(content["measure"]),
        n_neurons=int(content["n_neurons"]),
        value_full=float(content["value_full"]),
        sizes=sizes,
        mean=np.asarray(content["mean"], dtype=np.float64),
        std=np.asarray(content["std"], dtype=np.float64),
        source=tuple(name for name, count in content["source"] for _ in range(int(count))),
        l2=np.full(sizes.size, np.nan) if l2 is None else np.asarray(l2, dtype=np.float64),
    )
