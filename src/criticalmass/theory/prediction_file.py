"""A run keeps what was predicted of its layers, and never a prediction for other features."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.core.moments import Moments
from criticalmass.storage.digests import opened, sealed
from criticalmass.storage.files import write_atomically
from criticalmass.theory.prediction import Curve, Prediction, cka_curve, ridge_curve
from criticalmass.theory.spectrum import correlation, diagonal_share, participation_ratio

if TYPE_CHECKING:
    from criticalmass.storage.run import Run
    from criticalmass.theory.eigenbasis import Eigenbasis

FILE = "prediction.json"

#: Raised when a law changes: predictions of another version are not read.
VERSION = 1


def of_second_moment(whole: Moments, *, layer: str, digest: str, test: bool) -> Prediction:
    """Predict what needs no labels: CKA, effective dimensions, and the diffuseness test.

    Parameters
    ----------
    whole: moments of the raw test features.
    layer, digest: which layer, of which content.
    test: whether to run the diffuseness test, which takes longer than the rest.

    Raises
    ------
    CriticalMassError: if every neuron is constant.
    """
    from criticalmass.theory.exchangeability import FEWEST_NEURONS, exchangeability_test

    alive = int((np.diagonal(whole.scatter) > 0.0).sum())
    return Prediction(
        layer=layer,
        digest=digest,
        n_neurons=whole.n_neurons,
        n_test=whole.n,
        participation_ratio=participation_ratio(correlation(whole.scatter)),
        participation_ratio_raw=participation_ratio(whole.scatter),
        diagonal_share=diagonal_share(whole.scatter),
        curves=(cka_curve(whole.scatter),),
        diffuseness=exchangeability_test(whole.scatter)
        if test and alive >= FEWEST_NEURONS
        else None,
    )


def with_ridge(prediction: Prediction, basis: Eigenbasis, test: tuple[Any, Any]) -> Prediction:
    """Add the curve of ridge probes.

    Parameters
    ----------
    prediction: without it.
    basis: of the training split.
    test: raw rows (n_test, n_neurons) and labels (n_test,).
    """
    return replace(prediction, curves=(*prediction.curves, ridge_curve(basis, *test)))


def write_predictions(run: Run, predictions: Iterable[Prediction]) -> None:
    """Write predictions into a run's folder, one per layer, in place of those there."""
    layers = {one.layer: _plain(one) for one in predictions}
    text = json.dumps(sealed({"version": VERSION, "layers": layers}), allow_nan=False)
    write_atomically(run.path / FILE, lambda file: file.write(text.encode()))


def read_predictions(run: Run) -> dict[str, Prediction]:
    """Return the predictions of a run by layer; those for other features are left out.

    A file that cannot be read says nothing, as does one of another version: predictions are
    made again by the next sweep.
    """
    path = run.path / FILE
    try:
        content = opened(json.loads(path.read_text(encoding="utf-8")))
        if content is None or content.get("version") != VERSION:
            return {}
        found = [_prediction(layer) for layer in content["layers"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    layers = run.manifest.get("layers", {})
    return {
        one.layer: one for one in found if one.digest == layers.get(one.layer, {}).get("digest")
    }


def _plain(prediction: Prediction) -> dict[str, Any]:
    """Turn a prediction into what JSON holds, every digit kept."""
    content = asdict(prediction)
    for curve in content["curves"]:
        curve["sizes"] = curve["sizes"].tolist()
        curve["mean"] = curve["mean"].tolist()
        curve["std"] = curve["std"].tolist()
        curve["l2"] = None if np.isnan(curve["l2"]).all() else curve["l2"].tolist()
        curve["source"] = _runs(curve["source"])
    return content


def _runs(names: Iterable[str]) -> list[list[Any]]:
    """Write a sequence with many repetitions as (name, count) pairs."""
    pairs: list[list[Any]] = []
    for name in names:
        if pairs and pairs[-1][0] == name:
            pairs[-1][1] += 1
        else:
            pairs.append([name, 1])
    return pairs


def _prediction(content: Mapping[str, Any]) -> Prediction:
    from criticalmass.theory.exchangeability import Exchangeability, Feature

    test = content["diffuseness"]
    if test is not None:
        features = tuple(Feature(**feature) for feature in test["features"])
        test = Exchangeability(**{**test, "features": features})
    curves = tuple(_curve(curve) for curve in content["curves"])
    return Prediction(**{**content, "curves": curves, "diffuseness": test})


def _curve(content: Mapping[str, Any]) -> Curve:
    sizes = np.asarray(content["sizes"], dtype=np.int64)
    l2 = content["l2"]
    return Curve(
        measure=str(content["measure"]),
        n_neurons=int(content["n_neurons"]),
        value_full=float(content["value_full"]),
        sizes=sizes,
        mean=np.asarray(content["mean"], dtype=np.float64),
        std=np.asarray(content["std"], dtype=np.float64),
        source=tuple(name for name, count in content["source"] for _ in range(int(count))),
        l2=np.full(sizes.size, np.nan) if l2 is None else np.asarray(l2, dtype=np.float64),
    )
