"""The curves of a run, value against size, with bootstrap draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import (
    SubsetNoise,
    averaged_over_seeds,
    averaged_scores,
    resampled_means,
    resampled_replicates,
    seed_counts,
    selector_rng,
    with_discordant_samples,
)
from criticalmass.analysis.columns import CurveKey, Draws, LayerKey, outward_interval
from criticalmass.analysis.predictions import check_values, is_correct
from criticalmass.analysis.spread_records import (
    VALUE,
    SpreadRecord,
    read_spreads,
    subset_noise,
    unreliable_interval,
)
from criticalmass.analysis.training_sets import TrainingSets
from criticalmass.core.moments import FloatArray
from criticalmass.core.threads import map_in_threads
from criticalmass.storage.run import Run
from criticalmass.storage.run_view import RunView, shown_training_sets

#: (layer, selector, measure, delta) -> (low, high), in neurons.
OpenIntervals = dict[tuple[str, str, str, float | None], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class ValueCurve:
    """Values of one measure on the subsets of one selector, by subset size.

    Attributes
    ----------
    key: identifies the curve.
    rows: all rows of the curve in the run's table, failed ones included.
    used: the rows with a value.
    sizes: (n_sizes,) neurons kept, ascending.
    mean: (n_sizes,) mean value over seeds.
    mean_draws: (resamples, n_sizes) bootstrap draws of ``mean``.
    full: value of the whole layer; None if the layer has none.
    full_draws: (resamples,) bootstrap draws of ``full``.
    level: confidence level of the intervals.
    interval_note: why the intervals are not reliable; empty if they are.
    n_training_sets: number of training sets whose variation is in the draws; 0 if it is not.
    """

    key: CurveKey
    rows: pd.DataFrame
    used: pd.DataFrame
    sizes: npt.NDArray[np.int64]
    mean: FloatArray
    mean_draws: FloatArray
    full: float | None
    full_draws: FloatArray
    level: float
    interval_note: str = ""
    n_training_sets: int = 0

    @cached_property
    def n_neurons(self) -> int:
        """Number of neurons of the layer."""
        return int(self.rows["n_neurons"].max())

    def above(self, value: float) -> ValueCurve:
        """Return the curve of what exceeds a value, e.g. the accuracy without any neurons."""
        return replace(
            self,
            mean=self.mean - value,
            mean_draws=self.mean_draws - value,
            full=None if self.full is None else self.full - value,
            full_draws=self.full_draws - value,
        )

    def interval(self, draws: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the percentile interval over the first axis of draws."""
        tail = (1.0 - self.level) / 2.0
        low, high = np.quantile(draws, [tail, 1.0 - tail], axis=0)
        return low, high

    def outward_interval(self, draws: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the percentile interval over the first axis, rounded outward to draws."""
        return outward_interval(draws, self.level)


class CurveCache:
    """The curves of one run, computed once for each `Draws`; the run must not change meanwhile."""

    def __init__(self) -> None:
        self._curves: dict[Draws, tuple[ValueCurve, ...]] = {}

    def curves(self, run: Run, draws: Draws) -> tuple[ValueCurve, ...]:
        """Return the curves of the run."""
        if draws not in self._curves:
            self._curves[draws] = tuple(_compute_curves(run, draws))
        return self._curves[draws]


@dataclass(frozen=True)
class CachedRun(RunView):
    """A run whose table is read once and whose curves are computed once.

    Use it where one run gives many tables, such as a report.

    Attributes
    ----------
    cache: the curves.
    """

    cache: CurveCache = field(default_factory=CurveCache, compare=False, repr=False)

    @classmethod
    def of(cls, run: Run) -> CachedRun:
        """Return the same run, or view of a run, with its table read."""
        most = shown_training_sets(run)
        return cls(run.path, table=run.frame(), most_training_sets=most)


def curves_of(run: Run, draws: Draws) -> Iterator[ValueCurve]:
    """Yield the curves of a run; the curves of one layer and measure share their test samples."""
    if isinstance(run, CachedRun):
        yield from run.cache.curves(run, draws)
    else:
        yield from _compute_curves(run, draws)


def refined_intervals(run: Run) -> OpenIntervals:
    """Return the intervals of critical mass that refining the run did not narrow further.

    An entry is left out if its whole layer was measured again since, on other features or by
    another protocol.

    Returns
    -------
    (layer, selector, measure, delta) -> (low, high), in neurons.
    """
    frame = run.frame()
    full_cells = set(frame.loc[frame["selector"] == "full", "cell"])
    return {
        (entry["layer"], entry["selector"], entry["measure"], entry["delta"]): (
            entry["low"],
            entry["high"],
        )
        for entry in run.manifest.get("refined", ())
        if entry["whole"] in full_cells and entry["critical_mass"] is not None
    }


def _compute_curves(run: Run, draws: Draws) -> Iterator[ValueCurve]:
    def compute(part: pd.DataFrame) -> list[ValueCurve]:
        layer_curves = _layer_curves(run, part, draws, spreads)
        return [_with_training_sets(curve, training_sets, draws) for curve in layer_curves]

    spreads, training_sets = read_spreads(run), TrainingSets.of(run)
    parts = run.frame().groupby(list(LayerKey._fields), sort=True)
    for curves in map_in_threads(compute, (part for _, part in parts)):
        yield from curves


def _with_training_sets(curve: ValueCurve, training_sets: TrainingSets, draws: Draws) -> ValueCurve:
    """Add the variation between training sets, where it was measured, to the draws of a curve."""
    key = curve.key
    layer_key = LayerKey(key.model, key.layer, key.dataset, key.measure)
    spread = training_sets.spread(layer_key, key.selector)
    if spread is None or not curve.sizes.size:
        return curve
    mean_change, full_change = spread.draws(curve.sizes, draws)
    return replace(
        curve,
        mean_draws=np.clip(curve.mean_draws + mean_change, 0.0, 1.0),
        full_draws=np.clip(curve.full_draws + full_change, 0.0, 1.0),
        n_training_sets=spread.n_sets,
    )


def _layer_curves(
    run: Run, part: pd.DataFrame, draws: Draws, spreads: Mapping[tuple[str, str], SpreadRecord]
) -> Iterator[ValueCurve]:
    """Yield the curves of one layer and measure, whose rows are ``part``."""
    layer_key = LayerKey(*part.iloc[0][list(LayerKey._fields)])
    used = part[part["status"] != "failed"]
    resampled = _resample_rows(run, used, draws)
    full_index = np.flatnonzero(used["selector"] == "full")
    full_mean_draws = resampled.mean(full_index)
    for selector, rows in part.groupby("selector", sort=True):
        if selector == "full":
            continue
        index = np.flatnonzero(used["selector"] == selector)
        rng = selector_rng(draws.seed, layer_key.model, layer_key.layer, str(selector))
        record = spreads.get((layer_key.layer, layer_key.measure)) if selector == "random" else None
        rows_of_curve = used.iloc[index]
        noise = subset_noise(rows_of_curve, record, draws, layer_key).get(VALUE)
        sizes, mean, mean_draws = _over_seeds(rows_of_curve, index, resampled, rng, noise)
        full, full_draws = _full_value(
            used.iloc[full_index], full_mean_draws, rows, draws.resamples
        )
        yield ValueCurve(
            key=CurveKey(
                layer_key.model, layer_key.layer, layer_key.dataset, selector, layer_key.measure
            ),
            rows=rows,
            used=rows_of_curve,
            sizes=sizes,
            mean=mean,
            mean_draws=mean_draws,
            full=full,
            full_draws=full_draws,
            level=draws.level,
            interval_note=unreliable_interval(
                rows_of_curve, str(selector), record, mean_draws.std(axis=0)
            ),
        )


@dataclass(frozen=True, eq=False)
class _ResampledRows:
    """The rows of one layer and measure on resampled test samples.

    Either every row was resampled (``row_draws``), or the scores of all test samples are kept
    and means over rows are resampled on demand.

    Attributes
    ----------
    draws: settings of the bootstrap.
    row_draws: (resamples, n_rows) draws of every row, or None if ``scores`` are kept.
    scores: (n_distinct, n_test) score of every test sample.
    score_index: (n_rows,) row of ``scores`` for every row.
    drawn: (n_distinct, n_drawn) the scores to draw from: ``scores``, or those and two more.
    """

    draws: Draws
    row_draws: FloatArray | None
    scores: npt.NDArray[np.float32]
    score_index: npt.NDArray[np.intp]
    drawn: npt.NDArray[np.float32]

    def mean(self, rows: npt.NDArray[np.intp]) -> FloatArray:
        """(resamples,) mean over some rows; an empty array for no rows."""
        if not rows.size:
            return np.empty(0)
        if self.row_draws is not None:
            return np.asarray(self.row_draws[:, rows].mean(axis=1))
        return self._group_means([self.score_index[rows]])[:, 0]

    def over_seeds(
        self, row_index: npt.NDArray[np.intp], counts: FloatArray, noise: SubsetNoise | None
    ) -> FloatArray:
        """(resamples, n_sizes) means over drawn seeds; ``row_index`` is (n_sizes, n_seeds)."""
        level = self.draws.level
        if self.row_draws is not None:
            return averaged_over_seeds(self.row_draws, row_index, counts, level, noise)
        index = [np.where(rows >= 0, self.score_index[rows], -1) for rows in row_index]
        mean_draws = self._group_means([rows[rows >= 0] for rows in index])
        return averaged_scores(self.scores, index, mean_draws, counts, level, noise)

    def _group_means(self, groups: list[npt.NDArray[np.intp]]) -> FloatArray:
        """(resamples, n_groups) mean over the rows of each group."""
        sums = np.stack([self.drawn[rows].sum(axis=0) for rows in groups])
        sizes = np.array([rows.size for rows in groups])
        means = resampled_means(sums, self.draws.resamples, seed=self.draws.seed)
        return np.asarray(means / sizes)


def _resample_rows(run: Run, used: pd.DataFrame, draws: Draws) -> _ResampledRows:
    """Read the artifacts of rows; resample each row whose artifact has no score per sample."""
    references = used["artifact"].fillna("").to_numpy(dtype=object)
    kinds = {str(reference).partition("/")[0] for reference in references}
    if kinds not in ({"predictions"}, {"scores"}):
        row_draws = draw_rows(run, used, draws)
        none = np.empty((0, 0), np.float32)
        return _ResampledRows(draws, row_draws, none, np.empty(0, np.intp), none)
    distinct, score_index = np.unique(references.astype(str), return_inverse=True)
    artifacts = run.artifacts(distinct.tolist())
    scores = is_correct(run, artifacts) if kinds == {"predictions"} else artifacts
    check_values(run, used, scores.mean(axis=1)[score_index])
    scores = drawn = scores.astype(np.float32)
    if kinds == {"predictions"}:
        is_full = np.isin(np.arange(len(scores)), score_index[used["selector"] == "full"])
        drawn = with_discordant_samples(scores, is_full)
    return _ResampledRows(draws, None, scores, score_index, drawn)


def draw_rows(run: Run, used: pd.DataFrame, draws: Draws) -> FloatArray:
    """(resamples, n_rows) value of every row on resampled test samples.

    Rows without an artifact are constant over the draws: their interval shows the spread over
    seeds alone.
    """
    values = used["value"].to_numpy(dtype=np.float64)
    row_draws = np.repeat(values[None], draws.resamples, axis=0)
    references = used["artifact"].fillna("").to_numpy(dtype=object)
    kinds = np.array([str(ref).partition("/")[0] for ref in references], dtype=object)
    for kind in sorted(set(kinds) - {""}):
        rows = np.flatnonzero(kinds == kind)
        distinct, inverse = np.unique(references[rows].astype(str), return_inverse=True)
        artifacts = run.artifacts(distinct.tolist())
        first_row = np.zeros(len(distinct), dtype=np.intp)
        first_row[inverse] = rows
        if kind == "replicates":
            distinct_draws = resampled_replicates(
                values[first_row],
                artifacts,
                draws.resamples,
                seed=draws.seed,
                level=draws.level,
            )
        else:
            scores = is_correct(run, artifacts) if kind == "predictions" else artifacts
            check_values(run, used.iloc[rows], scores.mean(axis=1)[inverse])
            distinct_draws = resampled_means(scores, draws.resamples, seed=draws.seed)
        row_draws[:, rows] = distinct_draws[:, inverse]
    return row_draws


def _over_seeds(
    used: pd.DataFrame,
    rows: npt.NDArray[np.intp],
    resampled: _ResampledRows,
    rng: np.random.Generator,
    noise: SubsetNoise | None,
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """Return the sizes, the mean over seeds at every size, and its draws.

    ``rows`` (len(used),) are the positions of ``used`` among the rows of ``resampled``.
    """
    resamples = resampled.draws.resamples
    if not len(used):
        return np.empty(0, dtype=np.int64), np.empty(0), np.empty((resamples, 0))
    values = used["value"].to_numpy(dtype=np.float64)
    sizes, size_index = np.unique(used["n_kept"].to_numpy(dtype=np.int64), return_inverse=True)
    seeds, seed_index = np.unique(used["seed"].to_numpy(dtype=np.int64), return_inverse=True)
    row_index = np.full((sizes.size, seeds.size), -1, dtype=np.intp)
    row_index[size_index, seed_index] = rows
    mean = np.array([values[size_index == size].mean() for size in range(sizes.size)])
    mean_draws = resampled.over_seeds(row_index, seed_counts(seeds.size, resamples, rng), noise)
    # The stretched deviations of few seeds may leave the range of the measure.
    floor = 0.0 if values.min() >= 0.0 else min(-1.0, float(values.min()))
    return sizes, mean, np.clip(mean_draws, floor, max(1.0, float(values.max())))


def _full_value(
    full_rows: pd.DataFrame, full_draws: FloatArray, rows: pd.DataFrame, resamples: int
) -> tuple[float | None, FloatArray]:
    """Return the value of the whole layer and its draws.

    If the whole layer has no row of its own, the value comes from the column ``value_full`` of
    ``rows`` and is constant over the draws.
    """
    if len(full_rows):
        return float(full_rows["value"].mean()), full_draws
    values = rows["value_full"].dropna()
    if not len(values):
        return None, np.full(resamples, np.nan)
    value = float(values.mean())
    return value, np.full(resamples, value)
