"""Predictions that a sweep writes into its run for the report, if they cost little beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from threading import Timer
from typing import TYPE_CHECKING

from criticalmass.core.progress import format_duration, warn_user, write_line
from criticalmass.core.threads import limit_libraries
from criticalmass.measures.registry import MEASURES
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
    from criticalmass.sweeps.layer_info import LayerInfo
    from criticalmass.sweeps.plan import SweepRequest

#: Share of the operations of the sweep that its predictions may cost.
BUDGET_SHARE = 0.1
#: Predictions that together cost no more than about 5 s are made for every sweep.
FREE_FLOPS = 1e11
# Operations per second of one core, to name a duration.
_FLOPS_PER_SECOND = 2e10
#: A sweep does not predict wider layers: the law of CKA holds several squares of the layer.
WIDEST_IN_SWEEP = 4096
# A prediction that takes longer says so.
_QUIET_SECONDS = 2.0


def predict_for_run(run: Run, data: SweepData, request: SweepRequest) -> None:
    """Write the predictions that the report shows, if the run lacks them and they cost little.

    CKA and ridge are predicted if they are measured. The predictions together may cost a tenth of
    the operations of the whole request (`prediction_flops` and the measures' own formulas), and
    always 1e11 of them, which is about 5 s. Those beyond that are left out with a warning that
    names the command that makes them. A layer for which the prediction fails with an expected
    error is swept without one.
    """
    predictions = read_predictions(run)
    missing = {
        layer.name: _missing_curves(predictions.get(layer.name), request)
        for layer in request.layers
    }
    within, left_out = split_by_budget(request, missing)
    if left_out:
        _warn_of_missing(run, data, left_out)
    if not within:
        return
    with line_if_slow(f"predicting the curves of {data.store.model} on {data.store.dataset}"):
        for layer in request.layers:
            if layer.name in within:
                known = predictions.get(layer.name)
                prediction = _predict_layer(data, layer, known, ridge="ridge" in within[layer.name])
                if prediction is not None:
                    predictions[layer.name] = prediction
    if predictions:
        write_predictions(run, predictions.values())


def split_by_budget(
    request: SweepRequest, missing: Mapping[str, set[str]]
) -> tuple[dict[str, set[str]], dict[str, float]]:
    """Decide which predictions are made, layer by layer, as long as the budget lasts.

    Parameters
    ----------
    request: the sweep.
    missing: layer -> measures to predict, of "cka" and "ridge". A prediction has the curve of CKA
        first: without it there is none of ridge.

    Returns
    -------
    Layer -> measures that are predicted, and layer -> operations of those that are left out.
    """
    budget = max(FREE_FLOPS, BUDGET_SHARE * sweep_flops(request))
    within: dict[str, set[str]] = {}
    left_out: dict[str, float] = {}
    for layer in request.layers:
        for measure in sorted(missing[layer.name]):
            cost = prediction_flops(layer, measure)
            if cost <= budget and layer.name not in left_out and layer.n_neurons <= WIDEST_IN_SWEEP:
                budget -= cost
                within.setdefault(layer.name, set()).add(measure)
            else:
                left_out[layer.name] = left_out.get(layer.name, 0.0) + cost
    return within, left_out


def sweep_flops(request: SweepRequest) -> float:
    """Return the operations of a whole request, by the formulas of its measures."""
    return sum(
        MEASURES[measure].flops(request.sizes_of(layer, n_threads=1, held_bytes=0))
        for layer in request.layers
        for measure in request.measures
    )


def prediction_flops(layer: LayerInfo, measure: str) -> float:
    """Return the operations of a predicted curve, correct to a small factor.

    With n training and m test samples, d neurons, C classes, and at most 9 sizes to predict:

    - "cka": ``m d^2 + 2 max(4e8, 256 d^2) + 2000 min(d, 256)^3``: the moments, the random orders
      of the remainder, and the 200 rotations of the diffuseness test.
    - "ridge": ``n d (d + 2 C) + (10 + 2 s) d^3`` for the eigenbasis and the inverses at s sizes;
      24 heads at every size and 20 for the choice of its penalty, each of
      ``2/3 d r (d + r + t) + t C (2/3 r + 12)`` for ``r = min(C, d)`` and t scored test samples
      (at most 4,000, and 4e6 / C); and ``15,000 C u`` for fitted subsets of up to 13 small sizes
      and u test samples (at most 10,000, and 1e7 / C). Single precision counts a third.

    On one core 2e10 of these take a second. Measured CPU time (estimate) of CKA and ridge: 2.1 s
    (1.8) and 0.7 s (0.5) for n = 5,000, m = 2,000, d = 512, C = 10; 2.0 (1.9) and 1.6 (2.4) for
    6,000, 3,000, 1,024, 10; 1.8 (1.7) and 4.6 (6.0) for 4,000, 2,000, 256, 500; 0.2 (0.04) and
    4.8 (7.0) for 9,000, 3,000, 32, 3,000.
    """
    n, m, d, c = layer.n_train, layer.n_test, layer.n_neurons, layer.n_classes
    if measure == "cka":
        return m * d**2 + 2.0 * max(4e8, 256.0 * d**2) + 2000.0 * min(d, 256) ** 3
    rank, n_sizes = min(c, d), max(1, min(9, d // 32))
    scored = min(m, 4000, max(100, 4_000_000 // c))
    scored_small = min(m, 10_000, max(100, 10_000_000 // c))
    basis = n * d * (d + 2.0 * c) + (10.0 + 2.0 * n_sizes) * d**3
    head = 2 / 3 * d * rank * (d + rank + scored) + scored * c * (2 / 3 * rank + 12.0)
    return basis + n_sizes * (24 + 20) * head + 15_000.0 * c * scored_small


def _missing_curves(prediction: Prediction | None, request: SweepRequest) -> set[str]:
    """Return the curves to predict; a prediction of ridge needs that of CKA."""
    known = set() if prediction is None else {curve.measure for curve in prediction.curves}
    measured = {"cka", "ridge"} & set(request.measures)
    return {*measured, "cka"} - known if measured - known else set()


def _warn_of_missing(run: Run, data: SweepData, left_out: Mapping[str, float]) -> None:
    """Warn of predictions that are left out: of what, why, and how to get them."""
    names, seconds = list(left_out), sum(left_out.values()) / _FLOPS_PER_SECOND
    others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    warn_user(
        f"layer {names[0]}{others}: a predicted curve is left out, because it would take about "
        f"{format_duration(seconds)} (a sweep predicts what costs less than a tenth of it, up to "
        f"{WIDEST_IN_SWEEP:,} neurons); make it with: criticalmass explain {data.store.path} "
        f"--layer {names[0]} --out {run.path}"
    )


@contextlib.contextmanager
def line_if_slow(line: str) -> Iterator[None]:
    """Write a line if the block takes longer than `_QUIET_SECONDS`."""
    timer = Timer(_QUIET_SECONDS, write_line, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _predict_layer(
    data: SweepData, info: LayerInfo, known: Prediction | None, *, ridge: bool
) -> Prediction | None:
    """Return ``known``, or the prediction of CKA, with the curve of ridge added on request."""
    # A BLAS that is loaded within the limit below would not be limited.
    import scipy.linalg.blas  # noqa: F401

    from criticalmass.measures.protocol import EXPECTED
    from criticalmass.theory.eigenbasis import eigenbasis

    layer = data.layer(info.name)
    try:
        # The products are small; BLAS threads that wait by spinning would slow them down.
        with limit_libraries(1):
            prediction = known or predict_from_moments(
                layer.whole_layer.moments, layer=info.name, digest=info.digest, test=True
            )
            if ridge:
                basis = eigenbasis(layer.train, data.y_train, n_classes=info.n_classes)
                prediction = add_ridge_curve(prediction, basis, (layer.test, data.y_test))
    except EXPECTED:
        return None
    return prediction
