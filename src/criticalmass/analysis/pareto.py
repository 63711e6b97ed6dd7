"""Pareto front of subset size and value, with a test of dominance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import (
    COUNT,
    FLAG,
    FLOAT,
    NOTE_COLUMN,
    SIZE_COLUMNS,
    TEXT,
    Draws,
    RunLike,
    open_runs,
    percentile_interval,
    typed_table,
    with_note,
)
from criticalmass.analysis.curves import ValueCurve, curves_of
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.errors import RunError, unknown_name
from criticalmass.measures.registry import compares_with_layer
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.run import Run

PARETO_COLUMNS: dict[str, str] = (
    dict.fromkeys(("dataset", "measure", "model", "layer", "selector"), TEXT)
    | SIZE_COLUMNS
    | {"is_projection": FLAG}
    | dict.fromkeys(("value", "low", "high"), FLOAT)
    | {"on_front": FLAG, "dominated_by": TEXT, "margin": FLOAT, "margin_low": FLOAT}
    | {"significant": FLAG, "level": FLOAT}
    | NOTE_COLUMN
    | {"n_seeds": COUNT, "n_test": COUNT}
)


@validate_arguments
def pareto(
    run: RunLike | Sequence[RunLike],
    *,
    measure: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    projections: bool = True,
) -> pd.DataFrame:
    """Mark the subsets that no other subset beats in both size and value.

    Subsets are compared within a task, a dataset and a measure: the layers, models and selectors
    of all given runs compete on it, on the same test samples. A similarity, such as CKA, compares
    a subset with its own layer, so for similarities every layer is a separate task. The value of
    a random selector is the mean over its seeds, because the best seed is not known before it is
    tested.

    One subset dominates another if it is no larger, no worse, and better in one of the two. Equal
    subsets are both on the front. Some dominance is noise: ``significant`` tells whether a subset
    that is no larger has a higher value at ``level``, corrected for all subsets it was compared
    with (simultaneous one-sided bounds on all paired differences, by the largest studentised
    difference of the bootstrap; Hsu 1996, ch. 4). A subset that is off the front, but not
    significantly, may belong on it.

    Parameters
    ----------
    run: a run, its path, or several of them.
    measure: one measure of the runs; all by default.
    level: confidence level of the percentile intervals and of the bound on dominance.
    resamples: number of bootstrap draws of seeds and test samples.
    seed: seed of the draws.
    projections: whether projections compete; without them only choices of neurons do.

    Returns
    -------
    One row per subset size and selector, and one per whole layer (selector "full"), ascending
    in n_kept within a task, `PARETO_COLUMNS`. ``dominated_by`` names the dominating subset with
    the largest bound on its lead, ``margin`` is its lead and ``margin_low`` the bound. A
    projection keeps ``n_kept`` numbers per sample, but needs every neuron to compute them
    (``is_projection``). ``significant`` is missing on the front, and if no scores were stored.

    Raises
    ------
    CriticalMassError: if the measure is unknown, level or resamples is out of range, or runs of
        one dataset have different test samples.
    """
    draws = Draws(level, resamples, seed)
    runs = open_runs(run)
    measures = list(dict.fromkeys(m for one in runs for m in one.frame()["measure"].astype(str)))
    if measure is not None and measure not in measures:
        raise unknown_name("measure", measure, measures)
    tasks: dict[tuple[str, ...], list[_Candidate]] = {}
    for one in runs:
        for candidate in _candidates(one, draws):
            if measure in (None, candidate.row["measure"]) and (
                projections or not candidate.row["is_projection"]
            ):
                tasks.setdefault(candidate.task, []).append(candidate)
    rows = [row for task in sorted(tasks) for row in _task_rows(tasks[task], level)]
    return typed_table(rows, PARETO_COLUMNS)


def pareto_front(sizes: npt.ArrayLike, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark the points that no other dominates: fewer neurons and higher values are better.

    Parameters
    ----------
    sizes: (n,) numbers of neurons.
    values: (n,) values.

    Returns
    -------
    (n,) bool; points with equal size and value have equal marks.
    """
    k, v = np.asarray(sizes), np.asarray(values, dtype=np.float64)
    order = np.lexsort((-v, k))
    on_front = np.zeros(v.size, dtype=np.bool_)
    best, best_size = -np.inf, None
    for i in order:
        if v[i] > best:
            best, best_size = float(v[i]), k[i]
        # Ascending in size and then descending in value: only an equal point ties with the best.
        on_front[i] = v[i] == best and k[i] == best_size
    return on_front


def dominance_bounds(
    draws: FloatArray, rival_draws: FloatArray, leads: FloatArray, level: float
) -> FloatArray:
    """Compute lower bounds on the leads of all rivals over one point, simultaneous at ``level``.

    Parameters
    ----------
    draws: (resamples,) bootstrap draws of the point's value.
    rival_draws: (resamples, n_rivals) the same for its rivals, on the same resampled samples.
    leads: (n_rivals,) rival minus point on the test samples.
    level: one-sided confidence level, in (0, 1).

    Returns
    -------
    (n_rivals,) bounds; if the lead of a rival is constant over the draws, the bound is the lead.
    """
    lead_draws = rival_draws - draws[:, None]
    error = lead_draws.std(axis=0)
    varies = error > 0.0
    if not varies.any():
        return leads.copy()
    varying = lead_draws[:, varies]
    deviation = (varying - varying.mean(axis=0)) / error[varies]
    critical_value = float(np.quantile(deviation.max(axis=1), level))
    return np.asarray(leads - critical_value * error)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A subset, or the whole layer, that competes in a task.

    Attributes
    ----------
    task: dataset and measure; for similarities also model and layer.
    row: columns of the table that do not depend on the other candidates.
    draws: (resamples,) bootstrap draws of the value.
    is_resampled: whether test samples were resampled in the draws.
    labels: (n_test,) labels of the test samples.
    """

    task: tuple[str, ...]
    row: dict[str, Any]
    draws: FloatArray
    is_resampled: bool
    labels: npt.NDArray[np.int64]

    def label(self, with_layer: bool) -> str:
        """Return the text of ``dominated_by``, with model and layer if several compete."""
        subset = f"{self.row['selector']} {self.row['n_kept']}"
        return f"{subset} of {self.row['model']} {self.row['layer']}" if with_layer else subset


def _candidates(run: Run, draws: Draws) -> Iterator[_Candidate]:
    """Yield the candidates of a run; the whole layer once per layer and measure."""
    labels = run.labels()
    has_full: set[tuple[str, str]] = set()
    for curve in curves_of(run, draws):
        layer_measure = curve.key.layer, curve.key.measure
        if layer_measure not in has_full and curve.full is not None:
            has_full.add(layer_measure)
            yield _full_candidate(curve, labels)
        selector = curve.key.selector
        info = SELECTORS.get(selector)
        is_projection = info is not None and info.is_projection
        for i, size in enumerate(curve.sizes):
            if size == curve.n_neurons and not is_projection:
                continue
            rows = curve.used[curve.used["n_kept"] == size]
            row = _key_columns(curve, selector, int(size)) | {
                "fraction": float(rows["fraction"].min()),
                "is_projection": is_projection,
                "value": float(curve.mean[i]),
                "n_seeds": int(rows["seed"].nunique()),
            }
            has_interval = not curve.interval_note
            is_resampled = has_interval and bool(rows["artifact"].notna().all())
            candidate = _candidate(curve, row, curve.mean_draws[:, i], is_resampled, labels)
            yield replace(candidate, row=with_note(candidate.row, curve.interval_note))


def _full_candidate(curve: ValueCurve, labels: npt.NDArray[np.int64]) -> _Candidate:
    row = _key_columns(curve, "full", curve.n_neurons) | {
        "fraction": 1.0,
        "is_projection": False,
        "value": curve.full,
        "n_seeds": 1,
    }
    # The similarity of the layer with itself is 1 without error, so constant draws are exact.
    is_resampled = compares_with_layer(curve.key.measure) or bool(curve.full_draws.std())
    candidate = _candidate(curve, row, curve.full_draws, is_resampled, labels)
    return replace(candidate, row=with_note(candidate.row, ""))


def _key_columns(curve: ValueCurve, selector: str, size: int) -> dict[str, Any]:
    return curve.key._asdict() | {
        "selector": selector,
        "n_kept": size,
        "n_neurons": curve.n_neurons,
        "n_test": int(curve.rows["n_test"].max()),
        "level": curve.level,
    }


def _candidate(
    curve: ValueCurve,
    row: dict[str, Any],
    draws: FloatArray,
    is_resampled: bool,
    labels: npt.NDArray[np.int64],
) -> _Candidate:
    low, high = percentile_interval(draws, curve.level)
    task: tuple[str, ...] = (curve.key.dataset, curve.key.measure)
    if compares_with_layer(curve.key.measure):
        task += (curve.key.model, curve.key.layer)
    return _Candidate(task, row | {"low": low, "high": high}, draws, is_resampled, labels)


def _check_same_samples(candidates: list[_Candidate]) -> None:
    """Refuse candidates that were scored on different test samples."""
    first = candidates[0]
    for other in candidates[1:]:
        if other.labels is not first.labels and not np.array_equal(other.labels, first.labels):
            raise RunError(
                f"the runs of {first.row['model']} and {other.row['model']} on "
                f"{first.row['dataset']} have different test samples; compare runs on the same "
                "samples"
            )


def _task_rows(candidates: list[_Candidate], level: float) -> Iterator[dict[str, Any]]:
    """Yield the rows of one task."""
    _check_same_samples(candidates)
    candidates = sorted(candidates, key=lambda c: (c.row["n_kept"], -c.row["value"]))
    sizes = np.array([c.row["n_kept"] for c in candidates])
    values = np.array([c.row["value"] for c in candidates])
    draws = np.stack([c.draws for c in candidates], axis=1)
    is_resampled = np.array([c.is_resampled for c in candidates])
    several_layers = len({(c.row["model"], c.row["layer"]) for c in candidates}) > 1
    on_front = pareto_front(sizes, values)
    for i, candidate in enumerate(candidates):
        dominance: dict[str, Any] = {"on_front": bool(on_front[i])}
        dominance |= dict.fromkeys(("dominated_by", "margin", "margin_low", "significant"))
        if not on_front[i]:
            rivals = np.flatnonzero(sizes <= sizes[i])
            rivals = rivals[rivals != i]
            leads = values[rivals] - values[i]
            bounds = dominance_bounds(draws[:, i], draws[:, rivals], leads, level)
            has_bound = is_resampled[rivals] & is_resampled[i]
            is_better = (leads > 0.0) | ((leads == 0.0) & (sizes[rivals] < sizes[i]))
            score = np.where(is_better & has_bound, bounds, -np.inf)
            if not np.isfinite(score).any():
                score = np.where(is_better, leads, -np.inf)
            top = int(np.argmax(score))
            label = candidates[rivals[top]].label(with_layer=several_layers)
            dominance |= {"dominated_by": label, "margin": float(leads[top])}
            if has_bound[top]:
                bound = float(bounds[top])
                dominance |= {"margin_low": bound, "significant": bound > 0.0}
        yield candidate.row | dominance
