"""Predictions that a sweep writes beside its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticalmass.theory.prediction import Prediction
from criticalmass.theory.prediction_file import (
    of_second_moment,
    read_predictions,
    with_ridge,
    write_predictions,
)

if TYPE_CHECKING:
    from criticalmass.storage.run import Run
    from criticalmass.sweeps.layer_data import Workbench
    from criticalmass.sweeps.plan import Request

#: Wider layers are predicted by `explain` when asked, not by every sweep: it takes minutes.
WIDEST_IN_SWEEP = 4096


def predict_for_run(run: Run, bench: Workbench, request: Request) -> None:
    """Write the predictions that a sweep's report shows, unless they are there already.

    Only what is measured is predicted: CKA where CKA is, ridge where ridge is. A layer that
    defeats the laws is swept all the same.
    """
    known = read_predictions(run)
    fresh = {}
    for layer in request.layers:
        wanted = {"cka", "ridge"} & set(request.measures)
        there = known.get(layer)
        if there is not None:
            wanted -= {curve.measure for curve in there.curves}
        width = int(bench.store.features("test", layer).shape[1])
        if wanted and width <= WIDEST_IN_SWEEP:
            found = _of_layer(bench, layer, ridge="ridge" in request.measures)
            fresh.update({} if found is None else {layer: found})
    if fresh:
        write_predictions(run, {**known, **fresh}.values())


def _of_layer(bench: Workbench, layer: str, *, ridge: bool) -> Prediction | None:
    from criticalmass.measures.protocol import EXPECTED
    from criticalmass.theory.eigenbasis import eigenbasis

    data = bench.layer(layer)
    try:
        found = of_second_moment(
            data.whole.moments, layer=layer, digest=bench.store.digest(layer), test=True
        )
        if ridge:
            n_classes = len(bench.store.class_names)
            basis = eigenbasis(data.train, bench.y_train, n_classes=n_classes)
            found = with_ridge(found, basis, (data.test, bench.y_test))
    except EXPECTED:
        return None
    return found
