"""Size against value: which subsets no smaller or equal one beats, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import RunLike, check_interval, percentiles, runs_of, typed
from criticalmass.analysis.curves import Curve, curves_of
from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.errors import RunError, unknown_name
from criticalmass.measures.registry import is_similarity
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.run import Run

_TEXT, _COUNT, _FLOAT, _YES = "string", "Int64", "Float64", "boolean"
PARETO_COLUMNS: dict[str, str] = (
    dict.fromkeys(("dataset", "measure", "model", "layer", "selector"), _TEXT)
    | {"fraction": _FLOAT, "n_kept": _COUNT, "n_neurons": _COUNT, "is_projection": _YES}
    | {"value": _FLOAT, "low": _FLOAT, "high": _FLOAT}
    | {"on_front": _YES, "dominated_by": _TEXT, "margin": _FLOAT, "margin_low": _FLOAT}
    | {"significant": _YES, "level": _FLOAT, "n_seeds": _COUNT, "n_test": _COUNT}
)


@checked
def pareto(
    run: RunLike | Sequence[RunLike],
    *,
    measure: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    projections: bool = True,
) -> pd.DataFrame:
    """Mark the subsets that no other beats in size and value at once.

    A task is a dataset and a measure: the layers, models and selectors of all runs given
    compete on it, on the same test samples. A similarity, such as CKA, compares a subset with
    its own layer, so there every layer is a task of its own. The value of a random selector is
    the mean over its seeds, for the best seed cannot be known before it was tested.

    One subset dominates another if it is no larger and no worse and better in one of the two;
    equals are both on the front. Some of that is noise: ``significant`` says whether a subset
    that is no larger has the higher value at ``level``, after allowing for all those that it
    was compared with (one-sided bounds on all paired differences at once, by the largest
    studentised difference of the bootstrap; Hsu 1996, ch. 4). What is off the front, but not
    significantly, may belong there.

    Parameters
    ----------
    run: a run, its path, or several of them.
    measure: one of the runs; all by default.
    level: of the percentile intervals, and of the bound on dominance.
    resamples: bootstrap draws of seeds and test samples.
    seed: fixes the draws.
    projections: whether projections compete; without them it is a choice of neurons.

    Returns
    -------
    One row per subset size and selector, and one per whole layer (selector "full"), ascending
    in n_kept within a task, `PARETO_COLUMNS`. ``dominated_by`` names the dominator with the
    clearest lead, ``margin`` its lead and ``margin_low`` the bound on it. A projection keeps
    ``n_kept`` numbers per sample, but needs every neuron to compute them (``is_projection``).
    ``significant`` is missing on the front, and where no test samples were kept.

    Raises
    ------
    CriticalMassError: for an unknown measure, a level that is none, or runs of one dataset
        with different test samples.
    """
    check_interval(level, resamples)
    runs = runs_of(run)
    known = list(dict.fromkeys(m for one in runs for m in one.frame()["measure"].astype(str)))
    if measure is not None and measure not in known:
        raise unknown_name("measure", measure, known)
    tasks: dict[tuple[str, ...], list[_Subset]] = {}
    for one in runs:
        for subset in _subsets(one, (level, resamples, seed)):
            if measure in (None, subset.row["measure"]) and (
                projections or not subset.row["is_projection"]
            ):
                tasks.setdefault(subset.task, []).append(subset)
    rows = [row for task in sorted(tasks) for row in _judged(_same_test(tasks[task]), level)]
    return typed(rows, PARETO_COLUMNS)


def front(sizes: npt.ArrayLike, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark the points that no other dominates: fewer neurons and higher value are better.

    Parameters
    ----------
    sizes: (n,) numbers of neurons.
    values: (n,) values.

    Returns
    -------
    (n,) bool; points that are equal in both stand or fall together.
    """
    k, v = np.asarray(sizes), np.asarray(values, dtype=np.float64)
    order = np.lexsort((-v, k))
    marked = np.zeros(v.size, dtype=np.bool_)
    best, best_size = -np.inf, None
    for i in order:
        if v[i] > best:
            best, best_size = float(v[i]), k[i]
        # Ascending in size and then descending in value: only an equal can tie with the best.
        marked[i] = v[i] == best and k[i] == best_size
    return marked


def dominance(mine: FloatArray, rivals: FloatArray, leads: FloatArray, level: float) -> FloatArray:
    """Lower bounds on the leads of all rivals over one point, holding together at ``level``.

    Parameters
    ----------
    mine: (resamples,) value of the point on the draws.
    rivals: (resamples, n_rivals) values of its rivals on the same draws.
    leads: (n_rivals,) rival minus point on the test samples themselves.
    level: one-sided, in (0, 1).

    Returns
    -------
    (n_rivals,) bounds; a rival whose lead never varies has its lead as its bound.
    """
    lead = rivals - mine[:, None]
    error = lead.std(axis=0)
    moving = error > 0.0
    if not moving.any():
        return leads.copy()
    off = (lead[:, moving] - lead[:, moving].mean(axis=0)) / error[moving]
    allowed = float(np.quantile(off.max(axis=1), level))
    return np.asarray(leads - allowed * error)


@dataclass(frozen=True, eq=False)
class _Subset:
    """One candidate: its row so far, its draws, and what its test samples are.

    ``resampled`` says whether the draws are of test samples.
    """

    task: tuple[str, ...]
    row: dict[str, Any]
    drawn: FloatArray
    resampled: bool
    labels: npt.NDArray[np.int64]

    @property
    def name(self) -> str:
        """How a dominator is told."""
        return f"{self.row['selector']} {self.row['n_kept']}"


def _subsets(run: Run, draws: tuple[float, int, int]) -> Iterator[_Subset]:
    """List the candidates of a run; the whole layer once, in whatever order it was measured."""
    labels = run.labels()
    whole: set[tuple[str, ...]] = set()
    for curve in curves_of(run, *draws):
        _, layer, _, selector, measure = curve.key
        if (layer, measure) not in whole and curve.full is not None:
            whole.add((layer, measure))
            yield _whole(curve, labels)
        info = SELECTORS.get(selector)
        projects = info is not None and info.is_projection
        for i, size in enumerate(curve.sizes):
            if size == curve.n_neurons and not projects:
                continue
            here = curve.used[curve.used["n_kept"] == size]
            row = _named(curve, selector, int(size)) | {
                "fraction": float(here["fraction"].min()),
                "is_projection": projects,
                "value": float(curve.mean[i]),
                "n_seeds": int(here["seed"].nunique()),
            }
            kept = bool(here["artifact"].notna().all())
            yield _subset(curve, row, curve.drawn[:, i], kept, labels)


def _whole(curve: Curve, labels: npt.NDArray[np.int64]) -> _Subset:
    row = _named(curve, "full", curve.n_neurons) | {"fraction": 1.0, "is_projection": False}
    row |= {"value": curve.full, "n_seeds": 1}
    # A similarity of the layer with itself is 1 without error.
    certain = is_similarity(curve.key[4])
    return _subset(curve, row, curve.full_drawn, certain or bool(curve.full_drawn.std()), labels)


def _named(curve: Curve, selector: str, size: int) -> dict[str, Any]:
    model, layer, dataset, _, measure = curve.key
    return {
        "dataset": dataset,
        "measure": measure,
        "model": model,
        "layer": layer,
        "selector": selector,
        "n_kept": size,
        "n_neurons": curve.n_neurons,
        "n_test": int(curve.rows["n_test"].max()),
        "level": curve.level,
    }


def _subset(
    curve: Curve,
    row: dict[str, Any],
    drawn: FloatArray,
    resampled: bool,
    labels: npt.NDArray[np.int64],
) -> _Subset:
    low, high = percentiles(drawn, curve.level)
    task: tuple[str, ...] = (row["dataset"], row["measure"])
    if is_similarity(row["measure"]):
        task += (row["model"], row["layer"])
    return _Subset(task, row | {"low": low, "high": high}, drawn, resampled, labels)


def _same_test(subsets: list[_Subset]) -> list[_Subset]:
    """Refuse candidates that were scored on different test samples."""
    one = subsets[0]
    for other in subsets[1:]:
        if other.labels is not one.labels and not np.array_equal(other.labels, one.labels):
            raise RunError(
                f"the runs of {one.row['model']} and {other.row['model']} on "
                f"{one.row['dataset']} have different test samples; compare runs on the same"
            )
    return sorted(subsets, key=lambda s: (s.row["n_kept"], -s.row["value"]))


def _judged(subsets: list[_Subset], level: float) -> Iterator[dict[str, Any]]:
    """Rows of one task."""
    sizes = np.array([s.row["n_kept"] for s in subsets])
    values = np.array([s.row["value"] for s in subsets])
    drawn = np.stack([s.drawn for s in subsets], axis=1)
    resampled = np.array([s.resampled for s in subsets])
    models = len({(s.row["model"], s.row["layer"]) for s in subsets}) > 1
    marked = front(sizes, values)
    for i, subset in enumerate(subsets):
        verdict: dict[str, Any] = {"on_front": bool(marked[i])}
        verdict |= dict.fromkeys(("dominated_by", "margin", "margin_low", "significant"))
        if not marked[i]:
            rivals = np.flatnonzero(sizes <= sizes[i])
            rivals = rivals[rivals != i]
            leads = values[rivals] - values[i]
            bounds = dominance(drawn[:, i], drawn[:, rivals], leads, level)
            sure = resampled[rivals] & resampled[i]
            better = (leads > 0.0) | ((leads == 0.0) & (sizes[rivals] < sizes[i]))
            score = np.where(better, np.where(sure, bounds, -np.inf), -np.inf)
            if not np.isfinite(score).any():
                score = np.where(better, leads, -np.inf)
            top = int(np.argmax(score))
            there = subsets[rivals[top]]
            place = f" of {there.row['model']} {there.row['layer']}" if models else ""
            verdict |= {"dominated_by": there.name + place, "margin": float(leads[top])}
            if sure[top]:
                verdict |= {"margin_low": float(bounds[top]), "significant": bool(bounds[top] > 0)}
        yield subset.row | verdict
