"""Where to look and how often, before anything is measured: sizes and seeds from the laws.

Sizes stand where the predicted curve bends: straight lines between them miss it by as little as
so many sizes allow. Seeds are as many as the predicted scatter over subsets needs for the
interval that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.core.moments import FloatArray, moments
from criticalmass.core.progress import notice, say
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps.plan import SPLIT, Request
from criticalmass.theory.prediction import Curve, cka_curve, ridge_curve

AUTO = "auto"
#: Sizes that "auto" places, as many as there are by default.
N_SIZES = len(DEFAULT_FRACTIONS)
#: Half the width, relative to the whole layer's value, of the interval of a mean over seeds.
HALF_WIDTH = 0.02
#: Below this share of the whole layer's value nobody asks for a critical mass.
LOWEST_DELTA = 0.8
FEWEST_SEEDS, MOST_SEEDS = 3, 100
_LEVEL = 0.95
_CANDIDATES = 96
# A curve is not known to more digits, and rounding must not move a size.
_DIGITS = 4


@dataclass(frozen=True)
class Plan:
    """Which fractions and how many seeds a sweep takes, and what they were chosen by.

    Attributes
    ----------
    fractions: in (0, 1], ascending; empty if they were given.
    n_seeds: 0 if they were given.
    half_width: the interval that the seeds are meant for.
    basis: digests of the layers and names of the measures; for others the plan says nothing.
    """

    fractions: tuple[float, ...]
    n_seeds: int
    half_width: float
    basis: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return what the run's manifest keeps."""
        return {
            "fractions": list(self.fractions),
            "n_seeds": self.n_seeds,
            "half_width": self.half_width,
            **self.basis,
        }


def is_auto(given: Any) -> bool:
    """Whether fractions or seeds are left to the laws: "auto", or for seeds "auto:0.01"."""
    if isinstance(given, str):
        return given == AUTO or given.startswith(f"{AUTO}:")
    return isinstance(given, Sequence) and len(given) == 1 and is_auto(given[0])


def settled(
    request: Request, store: FeatureStore, out: Path, fractions: Any, seeds: Any
) -> tuple[Request, Plan | None]:
    """Replace what was left to the laws by what they say.

    A run that was planned for the same features and measures keeps its plan: going on after an
    interruption asks for the same cells.

    Parameters
    ----------
    request: with anything in the place of "auto".
    store: the features.
    out: the run's folder.
    fractions, seeds: as the caller wrote them.

    Returns
    -------
    The request, and the plan to be recorded, None if nothing was left open.

    Raises
    ------
    CriticalMassError: for a half-width that is none.
    """
    if not (is_auto(fractions) or is_auto(seeds)):
        return request, None
    width = half_width(seeds) if is_auto(seeds) else 0.0
    basis = {
        "layers": {layer: store.digest(layer) for layer in request.layers},
        "measures": list(request.measures),
    }
    plan = _known(out, basis, (is_auto(fractions), width))
    if plan is None:
        curves = _curves(store, request)
        sizes = fractions_for(curves) if is_auto(fractions) else ()
        n_seeds = 0
        if is_auto(seeds):
            n_seeds = seeds_for(curves, sizes or request.fractions, width)
        plan = Plan(sizes, n_seeds, width, basis)
    if plan.fractions:
        request = replace(request, fractions=plan.fractions)
        say(f"sizes from the law: {', '.join(f'{f * 100:g} %' for f in plan.fractions)}")
    if plan.n_seeds:
        request = replace(request, seeds=tuple(range(plan.n_seeds)))
        say(f"seeds from the law: {plan.n_seeds}, for means within {width * 100:g} %")
    return request, plan


def half_width(seeds: Any) -> float:
    """Read the half-width out of "auto" or "auto:0.01".

    Raises
    ------
    CriticalMassError: if it is no number in (0, 1).
    """
    text = str(seeds if isinstance(seeds, str) else seeds[0])
    _, colon, number = text.partition(":")
    if not colon:
        return HALF_WIDTH
    try:
        width = float(number)
    except ValueError:
        width = math.nan
    if not 0.0 < width < 1.0:
        raise CriticalMassError(
            f"seeds={text!r} must name half the width of an interval, relative to the whole "
            "layer's value, e.g. seeds='auto:0.01'"
        )
    return width


def fractions_for(curves: Sequence[Curve], n_sizes: int = N_SIZES) -> tuple[float, ...]:
    """Place sizes such that straight lines between them miss the predicted curves least.

    The largest error over all curves, relative to the whole layer's value, is minimised over all
    choices of ``n_sizes`` of about a hundred fractions, the smallest and 1 among them.

    Parameters
    ----------
    curves: predicted; of one layer or of several, whose fractions are shared.
    n_sizes: how many sizes, at least 2.

    Returns
    -------
    Fractions, ascending; fewer where the widest layer has fewer sizes.

    Raises
    ------
    CriticalMassError: for no curve, or fewer than 2 sizes.
    """
    if not curves or n_sizes < 2:
        raise CriticalMassError(f"{len(curves)} curves, n_sizes={n_sizes}; give 1 and 2 at least")
    width = max(curve.n_neurons for curve in curves)
    at = _candidates(width)
    if at.size <= n_sizes:
        return tuple(at.tolist())
    error = _segment_errors(at, np.stack([_ratio(curve, at) for curve in curves]))
    # best[j]: least worst error of reaching j with the sizes so far; the choice is read backwards.
    best, origin = error[0].copy(), []
    for _ in range(n_sizes - 2):
        through = np.maximum(best[:, None], error)
        came = through.argmin(axis=0)
        origin.append(came)
        best = through[came, np.arange(at.size)]
    path = [at.size - 1]
    for came in reversed(origin):
        path.append(int(came[path[-1]]))
    return tuple(float(at[i]) for i in sorted({0, *path}))


def seeds_for(curves: Sequence[Curve], fractions: Iterable[float], width: float) -> int:
    """Return how many seeds bring the mean's interval down to half a width.

    At every fraction whose predicted value is at least ``LOWEST_DELTA`` of the whole layer's,
    Student's 95 % interval of a mean over subsets with the predicted scatter must be no wider.

    Parameters
    ----------
    curves: predicted.
    fractions: that will be measured.
    width: half the width asked for, relative to the whole layer's value.
    """
    from scipy.stats import t

    at, scatter = np.array(sorted(fractions)), 0.0
    for curve in curves:
        kept = np.maximum(1, np.round(at * curve.n_neurons))
        mean, std = curve.at(kept)
        near = (mean >= LOWEST_DELTA * curve.value_full) & (kept < curve.n_neurons)
        if near.any() and curve.value_full > 0:
            scatter = max(scatter, float(std[near].max()) / curve.value_full)
    counts = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    reach = t.ppf(0.5 + _LEVEL / 2, counts - 1) * scatter / np.sqrt(counts)
    enough = np.flatnonzero(reach <= width)
    if enough.size:
        return int(counts[enough[0]])
    notice(
        f"means within {width * 100:g} % would take more than {MOST_SEEDS} seeds (single subsets "
        f"scatter by {scatter * 100:.2g} %); sweeping with {MOST_SEEDS}"
    )
    return MOST_SEEDS


def _curves(store: FeatureStore, request: Request) -> list[Curve]:
    """Predict CKA for every layer, and ridge probes in the place of any probe."""
    from criticalmass.theory.eigenbasis import eigenbasis

    probes = any(MEASURES[name].is_probe for name in request.measures)
    similar = not all(MEASURES[name].is_probe for name in request.measures)
    curves = []
    for layer in request.layers:
        test = store.features(SPLIT, layer)
        if similar:
            curves.append(cka_curve(moments(test).scatter))
        if probes:
            labels, n_classes = store.labels("train"), len(store.class_names)
            basis = eigenbasis(store.features("train", layer), labels, n_classes=n_classes)
            curves.append(ridge_curve(basis, test, store.labels(SPLIT), law="exchangeable"))
    return curves


def _known(out: Path, basis: dict[str, Any], wanted: tuple[bool, float]) -> Plan | None:
    """Return the plan that a run was made by, if it is for the same things."""
    if not Run.exists(out):
        return None
    old = Run.open(out).manifest.get("planned") or {}
    same = all(old.get(name) == value for name, value in basis.items())
    sizes, n_seeds = tuple(old.get("fractions", ())), int(old.get("n_seeds", 0))
    if not same or bool(sizes) != wanted[0] or old.get("half_width") != wanted[1]:
        return None
    return Plan(sizes, n_seeds, wanted[1], basis)


def _candidates(width: int) -> FloatArray:
    """Round fractions, evenly spread in ratio, each another number of neurons."""
    spread = np.unique(np.round(np.geomspace(DEFAULT_FRACTIONS[0], 1.0, _CANDIDATES), 3))
    kept = np.maximum(1, np.round(spread * width))
    return np.asarray(spread[np.unique(kept, return_index=True)[1]], dtype=np.float64)


def _ratio(curve: Curve, fractions: FloatArray) -> FloatArray:
    """Predicted share of the whole layer's value at fractions."""
    mean, _ = curve.at(np.maximum(1, np.round(fractions * curve.n_neurons)))
    return np.asarray(np.round(mean / (curve.value_full or 1.0), _DIGITS))


def _segment_errors(at: FloatArray, values: FloatArray) -> FloatArray:
    """(n, n) largest distance of the curves (n_curves, n) from the line between two points.

    Infinite on and below the diagonal: sizes ascend.
    """
    n = at.size
    errors = np.full((n, n), np.inf)
    for i in range(n):
        for j in range(i + 1, n):
            part = (at[i : j + 1] - at[i]) / (at[j] - at[i])
            line = values[:, i, None] + part * (values[:, j] - values[:, i])[:, None]
            errors[i, j] = np.abs(values[:, i : j + 1] - line).max()
    return errors
