"""The curves of a Run, read and resampled: what every table of redundancy is made from."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.bootstrap import (
    averaged_over_seeds,
    averaged_scores,
    resampled_means,
    resampled_replicates,
    seed_counts,
)
from criticalmass.core.moments import FloatArray
from criticalmass.core.threads import map_side_by_side
from criticalmass.errors import RunError
from criticalmass.storage.run import Run


@dataclass(frozen=True, eq=False)
class Curve:
    """One curve: what was measured at every size, and the same on resamples.

    ``rows`` are all rows of the curve, failed ones too; ``used`` those with a value.
    ``sizes`` (n_sizes,) and ``mean`` (n_sizes,) come with ``drawn`` (resamples, n_sizes),
    ``full`` with ``full_drawn`` (resamples,); ``full`` is None if the layer has no value.
    """

    key: tuple[str, ...]
    rows: pd.DataFrame
    used: pd.DataFrame
    sizes: npt.NDArray[np.int64]
    mean: FloatArray
    drawn: FloatArray
    full: float | None
    full_drawn: FloatArray
    level: float

    @cached_property
    def n_neurons(self) -> int:
        """Number of neurons of the layer."""
        return int(self.rows["n_neurons"].max())

    def quantiles(self, drawn: FloatArray, method: str = "linear") -> tuple[FloatArray, FloatArray]:
        """Both ends of the percentile interval over the first axis."""
        tail = (1.0 - self.level) / 2.0
        if method == "outward":
            # As numpy's methods "lower" and "higher", in one pass: a report asks for thousands.
            last = len(drawn) - 1
            ends = [math.floor(tail * last), math.ceil((1.0 - tail) * last)]
            parted = np.partition(drawn, ends, axis=0)
            return parted[ends[0]], parted[ends[1]]
        low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
        return low, high


_KEPT: ContextVar[dict[Any, tuple[Curve, ...]] | None] = ContextVar("kept_curves", default=None)


@contextlib.contextmanager
def curves_kept() -> Iterator[None]:
    """Resample a run once for all tables that are made of it inside this context.

    For what makes many tables of the same runs, such as a report: no run may change meanwhile.
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def curves_of(run: Run, level: float, resamples: int, seed: int) -> Iterator[Curve]:
    """Yield the curves of a run; all of one layer and measure share their test samples."""
    kept = _KEPT.get()
    if kept is None:
        yield from _resampled_curves(run, level, resamples, seed)
        return
    key = (run, level, resamples, seed)
    if key not in kept:
        kept[key] = tuple(_resampled_curves(run, level, resamples, seed))
    yield from kept[key]


def _resampled_curves(run: Run, level: float, resamples: int, seed: int) -> Iterator[Curve]:
    def of(part: pd.DataFrame) -> list[Curve]:
        return list(_curves_of_part(run, part, (level, resamples, seed)))

    parts = run.frame().groupby(["model", "layer", "dataset", "measure"], sort=True)
    for found in map_side_by_side(of, (part for _, part in parts)):
        yield from found


def _curves_of_part(run: Run, part: pd.DataFrame, how: tuple[float, int, int]) -> Iterator[Curve]:
    """Yield the curves of one layer and measure; ``how``: level, resamples, seed."""
    level, resamples, seed = how
    model, layer, dataset, measure = part.iloc[0][["model", "layer", "dataset", "measure"]]
    used = part[part["status"] != "failed"]
    draws = _draws(run, used, resamples, seed)
    whole = np.flatnonzero(used["selector"] == "full")
    whole_drawn = draws.mean(whole)
    for selector, rows in part.groupby("selector", sort=True):
        if selector == "full":
            continue
        mine = np.flatnonzero(used["selector"] == selector)
        # The same subsets have the same draws of seeds in all measures; others have not.
        subsets = f"{model}/{layer}/{selector}"
        rng = np.random.default_rng([seed, zlib.crc32(subsets.encode())])
        sizes, mean, means = _over_seeds(used.iloc[mine], mine, draws, rng, level)
        full, full_drawn = _full(used.iloc[whole], whole_drawn, rows, resamples)
        key = (model, layer, dataset, selector, measure)
        yield Curve(key, rows, used.iloc[mine], sizes, mean, means, full, full_drawn, level)


def refined_intervals(run: Run) -> dict[tuple[str, str, str, float], tuple[int, int]]:
    """Return what refining left open: (layer, selector, measure, delta) -> (low, high), neurons.

    An entry about a whole layer that has been measured anew since, on other features or by
    another protocol, is left out.
    """
    frame = run.frame()
    there = set(frame.loc[frame["selector"] == "full", "cell"])
    return {
        (entry["layer"], entry["selector"], entry["measure"], entry["delta"]): (
            entry["low"],
            entry["high"],
        )
        for entry in run.manifest.get("refined", ())
        if entry["whole"] in there and entry["critical_mass"] is not None
    }


@dataclass(frozen=True, eq=False)
class _Draws:
    """Rows of one layer and measure on resampled test samples.

    ``drawn`` (resamples, n_rows) if each row was drawn, or None where ``scores``
    (n_distinct, n_test) and the place ``at`` (n_rows,) of every row in them say all.
    """

    resamples: int
    seed: int
    drawn: FloatArray | None
    scores: npt.NDArray[np.float32]
    at: npt.NDArray[np.intp]

    def mean(self, rows: npt.NDArray[np.intp]) -> FloatArray:
        """(resamples,) mean of some rows; of none, nothing that is asked for."""
        if not rows.size:
            return np.empty(0)
        if self.drawn is not None:
            return np.asarray(self.drawn[:, rows].mean(axis=1))
        return self._grouped([self.at[rows]])[:, 0]

    def over_seeds(
        self, columns: npt.NDArray[np.intp], counts: FloatArray, level: float
    ) -> FloatArray:
        """(resamples, n_sizes) means over drawn seeds; columns (n_sizes, n_seeds) name rows."""
        if self.drawn is not None:
            return averaged_over_seeds(self.drawn, columns, counts, level)
        groups = [np.where(rows >= 0, self.at[rows], -1) for rows in columns]
        drawn = self._grouped([rows[rows >= 0] for rows in groups])
        return averaged_scores(self.scores, groups, drawn, counts, level)

    def _grouped(self, groups: list[npt.NDArray[np.intp]]) -> FloatArray:
        """(resamples, n_groups) mean over the rows of each group, as one row each."""
        summed = np.stack([self.scores[rows].sum(axis=0) for rows in groups])
        sizes = np.array([rows.size for rows in groups])
        return np.asarray(resampled_means(summed, self.resamples, seed=self.seed) / sizes)


def _draws(run: Run, used: pd.DataFrame, resamples: int, seed: int) -> _Draws:
    """Read what rows kept, and draw those that keep no score of every test sample."""
    references = used["artifact"].fillna("").to_numpy(dtype=object)
    kinds = {str(reference).partition("/")[0] for reference in references}
    if kinds not in ({"predictions"}, {"scores"}):
        drawn = _drawn(run, used, resamples, seed)
        return _Draws(resamples, seed, drawn, np.empty((0, 0), np.float32), np.empty(0, np.intp))
    distinct, at = np.unique(references.astype(str), return_inverse=True)
    kept = run.artifacts(distinct.tolist())
    scores = _hits(run, kept) if kinds == {"predictions"} else kept
    _check_values(run, used, scores.mean(axis=1)[at])
    return _Draws(resamples, seed, None, scores.astype(np.float32), at.astype(np.intp))


def _drawn(run: Run, used: pd.DataFrame, resamples: int, seed: int) -> FloatArray:
    """(resamples, n_rows) the value of every row on resampled test samples.

    Rows that kept nothing besides their value stay as they are: their interval shows the
    spread over seeds alone.
    """
    values = used["value"].to_numpy(dtype=np.float64)
    drawn = np.repeat(values[None], resamples, axis=0)
    references = used["artifact"].fillna("").to_numpy(dtype=object)
    kinds = np.array([str(ref).partition("/")[0] for ref in references], dtype=object)
    for kind in sorted(set(kinds) - {""}):
        rows = np.flatnonzero(kinds == kind)
        distinct, inverse = np.unique(references[rows].astype(str), return_inverse=True)
        kept = run.artifacts(distinct.tolist())
        first = np.zeros(len(distinct), dtype=np.intp)
        first[inverse] = rows
        if kind == "replicates":
            fresh = resampled_replicates(values[first], kept, resamples, seed=seed)
        else:
            scores = _hits(run, kept) if kind == "predictions" else kept
            _check_values(run, used.iloc[rows], scores.mean(axis=1)[inverse])
            fresh = resampled_means(scores, resamples, seed=seed)
        drawn[:, rows] = fresh[:, inverse]
    return drawn


def _hits(run: Run, predictions: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(n_rows, n_test) whether a prediction is right."""
    labels = run.labels()
    if predictions.shape[1:] != labels.shape:
        raise RunError(
            f"{run.path} has {labels.size} labels but predictions of {predictions.shape[1]} "
            "test samples; sweep again"
        )
    return np.asarray(predictions == labels)


def _check_values(run: Run, rows: pd.DataFrame, means: FloatArray) -> None:
    """Refuse rows whose value is not the mean of the scores that were kept with it."""
    off = np.abs(rows["value"].to_numpy(dtype=np.float64) - means)
    if np.any(off > 1e-5):
        worst = rows.iloc[int(np.argmax(off))]
        raise RunError(
            f"cell {worst['cell']!r} of {run.path} has value {worst['value']:.6g} but its "
            f"artifact says {means[int(np.argmax(off))]:.6g}; sweep again with rerun='all'"
        )


def _over_seeds(
    used: pd.DataFrame,
    rows: npt.NDArray[np.intp],
    draws: _Draws,
    rng: np.random.Generator,
    level: float,
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """Sizes, mean over seeds at every size, and the same on draws of the seeds.

    ``rows`` (len(used),) are the places of ``used`` among all rows drawn.
    """
    if not len(used):
        return np.empty(0, dtype=np.int64), np.empty(0), np.empty((draws.resamples, 0))
    values = used["value"].to_numpy(dtype=np.float64)
    sizes, size_at = np.unique(used["n_kept"].to_numpy(dtype=np.int64), return_inverse=True)
    seeds, seed_at = np.unique(used["seed"].to_numpy(dtype=np.int64), return_inverse=True)
    columns = np.full((sizes.size, seeds.size), -1, dtype=np.intp)
    columns[size_at, seed_at] = rows
    mean = np.array([values[size_at == size].mean() for size in range(sizes.size)])
    counts = seed_counts(seeds.size, draws.resamples, rng)
    means = draws.over_seeds(columns, counts, level)
    # Stretched seeds may overshoot the range in which all these measures lie.
    floor = 0.0 if values.min() >= 0.0 else -1.0
    return sizes, mean, np.clip(means, floor, max(1.0, float(values.max())))


def _full(
    whole: pd.DataFrame, drawn: FloatArray, rows: pd.DataFrame, resamples: int
) -> tuple[float | None, FloatArray]:
    """Value of the whole layer, and on the draws; without its own row, as the rows tell it."""
    if len(whole):
        value = float(whole["value"].mean())
        return value, drawn
    told = rows["value_full"].dropna()
    if not len(told):
        return None, np.full(resamples, np.nan)
    value = float(told.mean())
    return value, np.full(resamples, value)
