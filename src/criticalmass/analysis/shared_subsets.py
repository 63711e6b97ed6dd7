"""One subset for several tasks: runs on one layer of one model with the same subsets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import averaged_over_seeds, seed_counts, selector_rng
from criticalmass.analysis.columns import (
    COUNT,
    FEWEST_SEEDS,
    FLAG,
    FLOAT,
    SEED_COLUMNS,
    TEXT,
    CurveKey,
    Draws,
    RunLike,
    check_interval,
    interval_columns,
    open_runs,
    typed_table,
)
from criticalmass.analysis.comparison_pairs import has_same_samples
from criticalmass.analysis.critical_mass import CurveMass
from criticalmass.analysis.curves import ValueCurve, draw_rows
from criticalmass.analysis.estimators import DEFAULT_ESTIMATOR, check_estimator, checked_deltas
from criticalmass.analysis.targets import Target
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError, RunError
from criticalmass.measures.registry import is_similarity
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.run import Run

_KEY_COLUMNS = dict.fromkeys(("model", "layer", "selector", "measure"), TEXT)
SHARED_SUBSET_COLUMNS: dict[str, str] = (
    _KEY_COLUMNS
    | {"datasets": TEXT, "delta": FLOAT, "accuracies": TEXT, "estimator": TEXT, "n_neurons": COUNT}
    | dict.fromkeys(("critical_mass", "critical_mass_low", "critical_mass_high"), COUNT)
    | interval_columns("dr")
    | dict.fromkeys(("largest_failing", "smallest_passing"), COUNT)
    | {"hardest_task": TEXT, "hardest_mass": COUNT, "at_floor": FLAG, "reached": FLAG}
    | {"n_tasks": COUNT}
    | SEED_COLUMNS
)
SUBSET_CORRELATION_COLUMNS: dict[str, str] = (
    _KEY_COLUMNS
    | {"dataset_a": TEXT, "dataset_b": TEXT, "n_kept": COUNT, "n_neurons": COUNT}
    | interval_columns("correlation")
    | {"noise_a": FLOAT, "noise_b": FLOAT}
    | SEED_COLUMNS
)
_CELL = ["n_kept", "seed"]


@dataclass(frozen=True, eq=False)
class _Task:
    """The values of one task on the shared subsets.

    Attributes
    ----------
    dataset: name of the task.
    values: (n_cells,) value on every subset.
    draws: (resamples, n_cells) values on resampled test samples.
    full: value of the whole layer.
    full_draws: (resamples,) draws of ``full``.
    """

    dataset: str
    values: FloatArray
    draws: FloatArray
    full: float
    full_draws: FloatArray

    def shares(self, accuracy: float | None) -> tuple[FloatArray, FloatArray]:
        """Return values and draws as shares of the whole layer's value, or of an accuracy."""
        if accuracy is not None:
            return self.values / accuracy, self.draws / accuracy
        return self.values / self.full, self.draws / self.full_draws[:, None]


@dataclass(frozen=True, eq=False)
class _SharedCurve:
    """The tasks of one layer, selector and measure.

    Attributes
    ----------
    key: of the curve of the first task.
    rows: (n_cells) rows of the first task, with the columns n_kept and seed.
    tasks: the tasks, with their cells in the order of ``rows``.
    draws: settings of the bootstrap.
    """

    key: CurveKey
    rows: pd.DataFrame
    tasks: tuple[_Task, ...]
    draws: Draws

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that name the curve."""
        return {name: getattr(self.key, name) for name in _KEY_COLUMNS}

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(n_sizes,) neurons kept, ascending."""
        return np.unique(self.rows["n_kept"].to_numpy(dtype=np.int64))

    @cached_property
    def row_index(self) -> npt.NDArray[np.intp]:
        """(n_sizes, n_seeds) cell of every size and seed; -1 if there is none."""
        sizes, size = np.unique(self.rows["n_kept"].to_numpy(np.int64), return_inverse=True)
        seeds, seed = np.unique(self.rows["seed"].to_numpy(np.int64), return_inverse=True)
        index = np.full((sizes.size, seeds.size), -1, dtype=np.intp)
        index[size, seed] = np.arange(len(self.rows))
        return index

    def mass(
        self, tasks: Sequence[_Task], accuracies: Sequence[float | None], delta: float, rule: str
    ) -> CurveMass | None:
        """Return the critical mass of the smallest share over tasks.

        The smallest of several noisy shares is too low on average. So the deviations of subsets
        from the mean of a size are first shrunk to the spread that the test samples do not
        explain (constrained empirical Bayes, Ghosh 1992). What bias is left, from the noise of
        the means, is estimated by the bootstrap over test samples and subtracted.
        """
        shares = [
            self._without_noise(*task.shares(bar))
            for task, bar in zip(tasks, accuracies, strict=True)
        ]
        lowest = np.min([values for values, _ in shares], axis=0)
        draws = np.min([drawn for _, drawn in shares], axis=0)
        bias = draws.mean(axis=0) - lowest
        corrected, corrected_draws = lowest - bias, draws - 2.0 * bias
        rng = selector_rng(self.draws.seed, self.key.model, self.key.layer, self.key.selector)
        counts = seed_counts(self.row_index.shape[1], self.draws.resamples, rng)
        curve = ValueCurve(
            key=self.key,
            rows=self.rows,
            used=self.rows,
            sizes=self.sizes,
            mean=np.array([corrected[row[row >= 0]].mean() for row in self.row_index]),
            mean_draws=averaged_over_seeds(
                corrected_draws, self.row_index, counts, self.draws.level
            ),
            full=1.0,
            full_draws=np.ones(self.draws.resamples),
            level=self.draws.level,
        )
        return CurveMass.of(curve, Target(delta), rule)

    def _without_noise(
        self, values: FloatArray, draws: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Shrink the differences between subsets of a size; draws change the mean of the size."""
        shrunk, shrunk_draws = values.copy(), np.empty_like(draws)
        for index in self.row_index:
            cells = index[index >= 0]
            mean = values[cells].mean()
            factor = np.sqrt(1.0 - (_noise_share(values, draws, cells) or 0.0))
            shrunk[cells] = mean + factor * (values[cells] - mean)
            change = draws[:, cells].mean(axis=1) - mean
            shrunk_draws[:, cells] = shrunk[cells] + change[:, None]
        return shrunk, shrunk_draws


@validate_arguments
def shared_subsets(
    runs: Sequence[RunLike],
    deltas: float | Sequence[float] = (0.9,),
    estimator: str = DEFAULT_ESTIMATOR,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    accuracies: Sequence[float] = (),
) -> pd.DataFrame:
    """Compute the critical mass of the union of several tasks on one layer.

    A subset is as good as its worst task: its share is the smallest over tasks of value /
    value of the whole layer. The critical mass is where the mean of this share over the subsets
    first reaches delta. The bootstrap resamples the seeds of all tasks together and the test
    samples of every task. The smallest of several noisy shares is too low on average; the noise
    of the test samples is removed from the differences between subsets for that.

    Parameters
    ----------
    runs: two or more runs of one model, on different data, with the same seeds. The layers,
        selectors, measures, sizes and seeds that all of them have are used; subsets that differ
        between runs, as those of selectors that look at the data, are left out.
    deltas: shares to keep, each in (0, 1].
    estimator: see `diffused_redundancy`.
    level, resamples, seed: as in `criticalmass.redundancy`.
    accuracies: the accuracy that each task needs, one for each run in their order; adds rows with
        these in place of shares of the whole layer's value, for probes.

    Returns
    -------
    One row per model x layer x selector x measure x delta, `SHARED_SUBSET_COLUMNS`.
    ``hardest_task`` is the task with the largest critical mass of its own, ``hardest_mass``; a
    union that needs more has subsets that are good for one task and bad for another.
    Tasks are called by their datasets, or by the folders of the runs if two datasets have one
    name. There is no interval for fewer than 3 seeds. ``at_floor`` and ``reached`` as in
    `criticalmass.redundancy`.

    Raises
    ------
    CriticalMassError: if an argument is invalid, or the runs have no common subsets.
    """
    delta_list, draws = checked_deltas(deltas), Draws(level, resamples, seed)
    check_estimator(estimator)
    opened = open_runs(runs)
    curves = list(_shared_curves(opened, draws))
    if accuracies and all(is_similarity(curve.key.measure) for curve in curves):
        raise CriticalMassError(
            f"accuracies={tuple(accuracies)} are for probes, which these runs do not share; leave "
            "them out"
        )
    if accuracies and (len(accuracies) != len(opened) or not all(0 < a <= 1 for a in accuracies)):
        raise CriticalMassError(
            f"accuracies={tuple(accuracies)} must be one number in (0, 1] for each of the "
            f"{len(opened)} runs"
        )
    none = [None] * len(opened)
    goals: list[tuple[float | None, Sequence[float | None]]] = [(d, none) for d in delta_list]
    goals += [(None, accuracies)] if accuracies else []
    return typed_table(
        [
            _mass_row(curve, delta, bars, estimator)
            for curve in curves
            for delta, bars in goals
            if delta is not None or not is_similarity(curve.key.measure)
        ],
        SHARED_SUBSET_COLUMNS,
    )


@validate_arguments
def subset_correlations(runs: Sequence[RunLike], level: float = 0.95) -> pd.DataFrame:
    """Compute whether a subset that is good for one task is good for another.

    The subsets of one size are ranked by their value in either task. Spearman's rank correlation
    has the interval of Bonett and Wright (2000) on Fisher's scale, for 4 seeds or more. Noise of
    the test samples draws it towards 0.

    Parameters
    ----------
    runs: as in `shared_subsets`.
    level: confidence level of the intervals.

    Returns
    -------
    One row per model x layer x selector x measure x pair of runs x size below the whole layer,
    and one for their mean over sizes, whose ``n_kept`` is missing, `SUBSET_CORRELATION_COLUMNS`.
    The subsets of a seed are nested, so the interval of the mean is that of one size. ``noise_a``
    and ``noise_b``: share of the variance between subsets that the test samples explain. The
    correlation is missing where all subsets have the same value.

    Raises
    ------
    CriticalMassError: if an argument is invalid, or the runs have no common subsets.
    """
    check_interval(level, 1)
    rows = [
        row
        for curve in _shared_curves(open_runs(runs), Draws(level, 500, 0))
        for a, b in itertools.combinations(curve.tasks, 2)
        for row in _correlation_rows(curve, a, b)
    ]
    return typed_table(rows, SUBSET_CORRELATION_COLUMNS)


def _mass_row(
    curve: _SharedCurve, delta: float | None, bars: Sequence[float | None], estimator: str
) -> dict[str, Any]:
    goal = 1.0 if delta is None else delta
    row = dict.fromkeys(SHARED_SUBSET_COLUMNS) | curve.columns
    row |= {
        "datasets": ", ".join(task.dataset for task in curve.tasks),
        "delta": delta,
        "accuracies": ", ".join(f"{bar:g}" for bar in bars) if delta is None else None,
        "estimator": estimator,
        "n_neurons": int(curve.rows["n_neurons"].max()),
        "n_tasks": len(curve.tasks),
        "n_seeds": curve.row_index.shape[1],
        "level": curve.draws.level,
    }
    mass = curve.mass(curve.tasks, bars, goal, estimator)
    if mass is None:
        return row
    singles = [
        curve.mass([task], [bar], goal, estimator)
        for task, bar in zip(curve.tasks, bars, strict=True)
    ]
    masses = [0 if one is None else int(one.size) for one in singles]
    row |= {"at_floor": mass.is_at_floor, "reached": mass.is_reached}
    hardest = int(np.argmax(masses))
    row |= {"hardest_task": curve.tasks[hardest].dataset, "hardest_mass": masses[hardest]}
    d, size = mass.curve.n_neurons, int(mass.size)
    row |= {
        "critical_mass": size,
        "dr": 1.0 - size / d,
        "largest_failing": mass.largest_failing or None,
        "smallest_passing": mass.smallest_passing,
    }
    if curve.row_index.shape[1] < FEWEST_SEEDS and SELECTORS[curve.key.selector].is_random:
        return row
    low, high = mass.interval
    ends = {"critical_mass_low": low, "critical_mass_high": high}
    return row | ends | {"dr_low": 1.0 - high / d, "dr_high": 1.0 - low / d}


def _correlation_rows(curve: _SharedCurve, a: _Task, b: _Task) -> Iterator[dict[str, Any]]:
    from scipy.stats import spearmanr

    d, level = int(curve.rows["n_neurons"].max()), curve.draws.level
    base = curve.columns | {"dataset_a": a.dataset, "dataset_b": b.dataset, "n_neurons": d}
    correlations, counts = [], []
    for size, index in zip(curve.sizes, curve.row_index, strict=True):
        cells = index[index >= 0]
        if size == d or cells.size < 2:
            continue
        pair = a.values[cells], b.values[cells]
        is_constant = any(np.ptp(values) == 0.0 for values in pair)
        correlation = np.nan if is_constant else float(spearmanr(*pair).statistic)
        correlations.append(correlation)
        counts.append(cells.size)
        noise = {
            "noise_a": _noise_share(a.values, a.draws, cells),
            "noise_b": _noise_share(b.values, b.draws, cells),
        }
        row = base | _correlation(correlation, cells.size, level) | noise
        yield row | {"n_kept": int(size), "n_seeds": cells.size, "level": level}
    known = [value for value in correlations if np.isfinite(value)]
    if known:
        mean = _correlation(float(np.mean(known)), min(counts), level)
        missing = dict.fromkeys(("n_kept", "noise_a", "noise_b"))
        yield base | mean | missing | {"n_seeds": min(counts), "level": level}


def _correlation(value: float, n: int, level: float) -> dict[str, float | None]:
    """Return a rank correlation of n pairs and its interval (Bonett and Wright 2000)."""
    from scipy.special import ndtri

    ends: tuple[float | None, float | None] = None, None
    if n > 3 and np.isfinite(value):
        # Half of the smallest step of the statistic, so that a perfect order has a finite scale.
        largest = 1.0 - 6.0 / (n * (n * n - 1.0))
        scale = float(np.arctanh(np.clip(value, -largest, largest)))
        margin = float(ndtri((1.0 + level) / 2.0) * np.sqrt((1.0 + value**2 / 2.0) / (n - 3.0)))
        ends = float(np.tanh(scale - margin)), float(np.tanh(scale + margin))
        ends = min(ends[0], value), max(ends[1], value)
    return {"correlation": value, "correlation_low": ends[0], "correlation_high": ends[1]}


def _noise_share(
    values: FloatArray, draws: FloatArray, cells: npt.NDArray[np.intp]
) -> float | None:
    """Share of the variance between subsets that the test samples explain; None without any."""
    if cells.size < 2:
        return None
    between = float(values[cells].var(ddof=1))
    changes = draws[:, cells] - draws[:, cells].mean(axis=1, keepdims=True)
    sampling = float(changes.var(axis=0).sum()) / (cells.size - 1)
    return min(1.0, sampling / between) if between else None


def _shared_curves(runs: Sequence[Run], draws: Draws) -> Iterator[_SharedCurve]:
    """Yield the curves on subsets that all runs have measured."""
    if len(runs) < 2:
        given = ", ".join(str(run.path) for run in runs) or "no run"
        raise CriticalMassError(f"{given}: give two runs or more, one for each task")
    tables = [run.frame() for run in runs]
    names = list(_KEY_COLUMNS)
    curves = [set(table[names].itertuples(index=False, name=None)) for table in tables]
    n_curves = 0
    for key in sorted(set.intersection(*curves)):
        shared = _shared_curve(runs, tables, key, draws) if key[2] != "full" else None
        if shared is not None:
            n_curves += 1
            yield shared
    if not n_curves:
        listed = " and ".join(str(run.path) for run in runs)
        raise CriticalMassError(
            f"{listed} have no common subsets; sweep them with one model, layer, measure and the "
            "same seeds of a selector that does not look at the data, such as random"
        )


def _shared_curve(
    runs: Sequence[Run], tables: Sequence[pd.DataFrame], key: tuple[str, ...], draws: Draws
) -> _SharedCurve | None:
    """Return the curve of a layer, selector and measure; None if its subsets differ."""
    parts = []
    for table in tables:
        rows = table[(table["status"] != "failed") & table["selector"].isin([key[2], "full"])]
        for name, value in zip(_KEY_COLUMNS, key, strict=True):
            rows = rows if name == "selector" else rows[rows[name] == value]
        parts.append(rows.reset_index(drop=True))
    subsets = [rows[rows["selector"] == key[2]] for rows in parts]
    cells = [set(rows[_CELL].itertuples(index=False, name=None)) for rows in subsets]
    shared = sorted(set.intersection(*cells))
    if not shared or not _are_equal(runs, key[2], key[1], {seed for _, seed in shared}):
        return None
    if any((rows["selector"] == "full").sum() != 1 for rows in parts):
        return None
    tasks, first = [], subsets[0].set_index(_CELL, drop=False).loc[shared]
    names = [str(rows["dataset"].iloc[0]) for rows in parts]
    if len(set(names)) < len(names):
        names = [run.path.name for run in runs]
    for i, (run, rows) in enumerate(zip(runs, parts, strict=True)):
        # Tasks on the same test samples use the same draws of them.
        twin = next(j for j in range(i + 1) if j == i or has_same_samples(runs[j], run, None))
        own = draw_rows(run, rows, Draws(draws.level, draws.resamples, draws.seed + twin))
        full = int(np.flatnonzero(rows["selector"] == "full")[0])
        place = subsets[i].assign(place=subsets[i].index).set_index(_CELL)["place"]
        index = place.loc[shared].to_numpy(dtype=np.intp)
        values = rows["value"].to_numpy(dtype=np.float64)
        if values[full] <= 0.0:
            return None
        tasks.append(_Task(names[i], values[index], own[:, index], values[full], own[:, full]))
    curve_key = CurveKey(key[0], key[1], tasks[0].dataset, key[2], key[3])
    return _SharedCurve(curve_key, first.reset_index(drop=True), tuple(tasks), draws)


def _are_equal(runs: Sequence[Run], selector: str, layer: str, seeds: set[int]) -> bool:
    """Whether the orders of a selector are the same in all runs; those of a projection are not."""
    try:
        for seed in seeds:
            orders = [run.order(selector, layer, int(seed)) for run in runs]
            if not all(np.array_equal(orders[0], order) for order in orders[1:]):
                return False
    except RunError:
        return False
    return True
