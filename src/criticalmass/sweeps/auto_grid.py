"""Fractions and seeds chosen from predicted curves, before anything is measured.

The fractions minimise the distance between the predicted curve and straight lines between the
measured sizes. The number of seeds is the smallest one at which the predicted scatter over
subsets gives an interval of the requested width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.analysis.predicted_curves import PredictedCurve
from criticalmass.core.moments import FloatArray
from criticalmass.core.progress import warn_user, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.storage.run import Run
from criticalmass.sweeps.layer_data import SweepData
from criticalmass.sweeps.plan import SweepRequest
from criticalmass.sweeps.predict import line_if_slow
from criticalmass.theory.prediction import cka_curve, ridge_curve

AUTO = "auto"
#: Number of sizes that "auto" chooses: as many as the default fractions.
N_SIZES = len(DEFAULT_FRACTIONS)
#: Half the width of the interval of a mean over seeds, relative to the whole layer's value.
HALF_WIDTH = 0.02
#: Sizes whose predicted value is below this share of the whole layer's value need no seeds:
#: deltas below it are not used.
LOWEST_DELTA = 0.8
FEWEST_SEEDS, MOST_SEEDS = 3, 100
_LEVEL = 0.95
_N_CANDIDATES = 96
# Predictions are not accurate beyond these digits; rounding errors must not move a size.
_DIGITS = 4


@dataclass(frozen=True)
class AutoGrid:
    """The fractions and the number of seeds of a sweep, and what they were chosen for.

    Attributes
    ----------
    fractions: in (0, 1], ascending; empty if the caller gave them.
    n_seeds: number of seeds; 0 if the caller gave them.
    half_width: half the width of the interval that the seeds are chosen for.
    basis: digests of the layers and names of the measures; the grid is valid for these only.
    """

    fractions: tuple[float, ...]
    n_seeds: int
    half_width: float
    basis: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the entry of the run's manifest."""
        return {
            "fractions": list(self.fractions),
            "n_seeds": self.n_seeds,
            "half_width": self.half_width,
            **self.basis,
        }


def is_auto(value: Any) -> bool:
    """Return whether fractions or seeds are to be chosen: "auto", or for seeds "auto:0.01"."""
    if isinstance(value, str):
        return value == AUTO or value.startswith(f"{AUTO}:")
    return isinstance(value, Sequence) and len(value) == 1 and is_auto(value[0])


def resolve_auto(
    request: SweepRequest, data: SweepData, out: Path, fractions: Any, seeds: Any
) -> tuple[SweepRequest, AutoGrid | None]:
    """Replace "auto" in a request by fractions and seeds chosen from predicted curves.

    A run whose grid was chosen for the same features and measures keeps it, so that a sweep
    continued after an interruption has the same cells.

    Parameters
    ----------
    request: the request; its fractions or seeds are ignored if they are "auto".
    data: features and labels.
    out: folder of the run.
    fractions, seeds: the arguments of the caller.

    Returns
    -------
    The request with fractions and seeds, and the grid to record, or None if nothing was "auto".

    Raises
    ------
    CriticalMassError: the half-width is not in (0, 1).
    """
    if not (is_auto(fractions) or is_auto(seeds)):
        return request, None
    half_width = parse_half_width(seeds) if is_auto(seeds) else 0.0
    basis = {
        "layers": {layer.name: layer.digest for layer in request.layers},
        "measures": list(request.measures),
    }
    grid = _recorded_grid(out, basis, auto_fractions=is_auto(fractions), half_width=half_width)
    if grid is None:
        with line_if_slow(f"predicting the curves of {data.store.model} on {data.store.dataset}"):
            curves = _predict_curves(data, request)
        auto_fractions = choose_fractions(curves) if is_auto(fractions) else ()
        n_seeds = 0
        if is_auto(seeds):
            n_seeds = choose_n_seeds(curves, auto_fractions or request.fractions, half_width)
        grid = AutoGrid(auto_fractions, n_seeds, half_width, basis)
    if grid.fractions:
        request = replace(request, fractions=grid.fractions)
        percentages = ", ".join(f"{fraction * 100:g} %" for fraction in grid.fractions)
        write_line(f"fractions from the predicted curve: {percentages}")
    if grid.n_seeds:
        request = replace(request, seeds=tuple(range(grid.n_seeds)))
        write_line(
            f"seeds from the predicted scatter: {grid.n_seeds}, for means within "
            f"{half_width * 100:g} %"
        )
    return request, grid


def parse_half_width(seeds: Any) -> float:
    """Return the half-width in "auto:0.01", or the default for "auto".

    Raises
    ------
    CriticalMassError: it is not a number in (0, 1).
    """
    text = str(seeds if isinstance(seeds, str) else seeds[0])
    _, colon, number = text.partition(":")
    if not colon:
        return HALF_WIDTH
    try:
        half_width = float(number)
    except ValueError:
        half_width = math.nan
    if not 0.0 < half_width < 1.0:
        raise CriticalMassError(
            f"seeds={text!r} must give half the width of an interval in (0, 1), relative to the "
            "whole layer's value, e.g. seeds='auto:0.01'"
        )
    return half_width


def choose_fractions(
    curves: Sequence[PredictedCurve], n_sizes: int = N_SIZES, *, n_candidates: int = _N_CANDIDATES
) -> tuple[float, ...]:
    """Choose fractions so that straight lines between them fit the predicted curves best.

    The largest error over all curves, relative to the whole layer's value, is minimised over all
    choices of ``n_sizes`` candidates; the smallest candidate and 1 are always chosen.

    Parameters
    ----------
    curves: predicted curves, of one layer or of several layers that share the fractions.
    n_sizes: number of fractions, at least 2.
    n_candidates: number of fractions to choose from, evenly spaced in ratio.

    Returns
    -------
    Fractions, ascending; fewer than ``n_sizes`` if the widest layer has fewer sizes.

    Raises
    ------
    CriticalMassError: there is no curve, or ``n_sizes`` is below 2.
    """
    if not curves or n_sizes < 2:
        raise CriticalMassError(
            f"{len(curves)} curves, n_sizes={n_sizes}; give at least 1 curve and 2 sizes"
        )
    width = max(curve.n_neurons for curve in curves)
    candidates = _candidates(width, n_candidates)
    if candidates.size <= n_sizes:
        return tuple(candidates.tolist())
    error = _segment_errors(candidates, np.stack([_ratio(curve, candidates) for curve in curves]))
    # best[j]: smallest possible largest error of a path from 0 to j with the segments so far;
    # the path itself is read backwards from the predecessors.
    best, predecessors = error[0].copy(), []
    for _ in range(n_sizes - 2):
        path_error = np.maximum(best[:, None], error)
        predecessor = path_error.argmin(axis=0)
        predecessors.append(predecessor)
        best = path_error[predecessor, np.arange(candidates.size)]
    path = [candidates.size - 1]
    for predecessor in reversed(predecessors):
        path.append(int(predecessor[path[-1]]))
    return tuple(float(candidates[i]) for i in sorted({0, *path}))


def choose_n_seeds(
    curves: Sequence[PredictedCurve], fractions: Iterable[float], half_width: float
) -> int:
    """Return the number of seeds at which the interval of the mean is narrow enough.

    The interval is Student's 95 % interval of a mean over subsets with the predicted scatter. It
    is required at every fraction whose predicted value is at least ``LOWEST_DELTA`` of the whole
    layer's value.

    Parameters
    ----------
    curves: predicted curves.
    fractions: fractions to be measured.
    half_width: half the width of the interval, relative to the whole layer's value.
    """
    from scipy.special import stdtrit

    ascending, scatter = np.array(sorted(fractions)), 0.0
    for curve in curves:
        n_kept = np.maximum(1, np.round(ascending * curve.n_neurons))
        mean, std = curve.interpolate(n_kept)
        relevant = (mean >= LOWEST_DELTA * curve.value_full) & (n_kept < curve.n_neurons)
        if relevant.any() and curve.value_full > 0:
            scatter = max(scatter, float(std[relevant].max()) / curve.value_full)
    counts = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    half_widths = stdtrit(counts - 1, 0.5 + _LEVEL / 2) * scatter / np.sqrt(counts)
    sufficient = np.flatnonzero(half_widths <= half_width)
    if sufficient.size:
        return int(counts[sufficient[0]])
    warn_user(
        f"means within {half_width * 100:g} % would take more than {MOST_SEEDS} seeds (single "
        f"subsets scatter by {scatter * 100:.2g} %); sweeping with {MOST_SEEDS}"
    )
    return MOST_SEEDS


def _predict_curves(data: SweepData, request: SweepRequest) -> list[PredictedCurve]:
    """Predict the CKA curve of every layer, and the ridge curve for any probe."""
    from criticalmass.theory.eigenbasis import eigenbasis

    has_probes = any(MEASURES[name].is_probe for name in request.measures)
    has_similarities = not all(MEASURES[name].is_probe for name in request.measures)
    curves = []
    for layer in request.layers:
        rows = data.layer(layer.name)
        if has_similarities:
            curves.append(cka_curve(rows.whole_layer.moments.scatter))
        if has_probes:
            basis = eigenbasis(rows.train, data.y_train, n_classes=layer.n_classes)
            curves.append(ridge_curve(basis, rows.test, data.y_test, law="exchangeable"))
    return curves


def _recorded_grid(
    out: Path, basis: dict[str, Any], *, auto_fractions: bool, half_width: float
) -> AutoGrid | None:
    """Return the grid in the manifest of a run if it was chosen for the same question."""
    if not Run.exists(out):
        return None
    record = Run.open(out).manifest.get("planned") or {}
    same_basis = all(record.get(name) == value for name, value in basis.items())
    fractions, n_seeds = tuple(record.get("fractions", ())), int(record.get("n_seeds", 0))
    same_fractions = bool(fractions) == auto_fractions
    if not same_basis or not same_fractions or record.get("half_width") != half_width:
        return None
    return AutoGrid(fractions, n_seeds, half_width, basis)


def _candidates(width: int, n_candidates: int) -> FloatArray:
    """Return rounded fractions, evenly spaced in ratio, each with its own number of neurons."""
    fractions = np.unique(np.round(np.geomspace(DEFAULT_FRACTIONS[0], 1.0, n_candidates), 3))
    n_kept = np.maximum(1, np.round(fractions * width))
    return np.asarray(fractions[np.unique(n_kept, return_index=True)[1]], dtype=np.float64)


def _ratio(curve: PredictedCurve, fractions: FloatArray) -> FloatArray:
    """Return the predicted share of the whole layer's value at fractions."""
    mean, _ = curve.interpolate(np.maximum(1, np.round(fractions * curve.n_neurons)))
    return np.asarray(np.round(mean / (curve.value_full or 1.0), _DIGITS))


def _segment_errors(fractions: FloatArray, values: FloatArray) -> FloatArray:
    """Return the (n, n) largest distance of curves from the straight line between two points.

    Infinite on and below the diagonal, where the fractions do not ascend.

    Parameters
    ----------
    fractions: (n,) ascending.
    values: (n_curves, n) values of the curves.
    """
    n = fractions.size
    errors = np.full((n, n), np.inf)
    for i in range(n):
        for j in range(i + 1, n):
            position = (fractions[i : j + 1] - fractions[i]) / (fractions[j] - fractions[i])
            line = values[:, i, None] + position * (values[:, j] - values[:, i])[:, None]
            errors[i, j] = np.abs(values[:, i : j + 1] - line).max()
    return errors
