"""Curves, critical mass and diffused redundancy of a run, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import (
    COUNT,
    CURVE_KEY_COLUMNS,
    FLAG,
    FLOAT,
    NOTE_COLUMN,
    SAMPLE_COLUMNS,
    SEED_COLUMNS,
    SIZE_COLUMNS,
    STATUS_COLUMNS,
    TEXT,
    Draws,
    RunLike,
    interval_columns,
    open_runs,
    typed_table,
    with_note,
)
from criticalmass.analysis.constant_answer import ConstantAnswer
from criticalmass.analysis.critical_mass import CurveMass, CurveReader, basis_ratios
from criticalmass.analysis.curves import (
    OpenIntervals,
    ValueCurve,
    curves_of,
    refined_intervals,
)
from criticalmass.analysis.estimators import (
    DEFAULT_ESTIMATOR,
    check_estimator,
    diffused_redundancy,
)
from criticalmass.analysis.predicted_curves import PredictedCurve, read_curves
from criticalmass.analysis.predictions import is_correct
from criticalmass.analysis.subset_spread import check_pass_share, passing_size, worst_selector
from criticalmass.analysis.targets import WHOLE, ControlRun, Target, Targets
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.progress import warn_user
from criticalmass.core.threads import map_in_threads
from criticalmass.measures.registry import has_critical_mass, is_similarity
from criticalmass.storage.run import Run

__all__ = [
    "CURVE_COLUMNS",
    "REDUNDANCY_COLUMNS",
    "curves",
    "diffused_redundancy",
    "redundancy",
    "redundancy_table",
]

_SUPPORT_COLUMNS = SEED_COLUMNS | SAMPLE_COLUMNS | {"training_sets": COUNT} | STATUS_COLUMNS
CURVE_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | SIZE_COLUMNS
    | dict.fromkeys(("mean", "low", "high", "std"), FLOAT)
    | interval_columns("ratio")
    | dict.fromkeys(("value_full", "full_low", "full_high"), FLOAT)
    | NOTE_COLUMN
    | _SUPPORT_COLUMNS
)
_MAX_NAMED = 5
_TARGETS_AT_ONCE = 16
REDUNDANCY_COLUMNS: dict[str, str] = (
    CURVE_KEY_COLUMNS
    | {"delta": FLOAT, "bar": FLOAT, "bar_kind": TEXT, "control": TEXT}
    | {"estimator": TEXT, "n_neurons": COUNT, "value_full": FLOAT}
    | {"majority_accuracy": FLOAT}
    | dict.fromkeys(("critical_mass", "critical_mass_low", "critical_mass_high"), COUNT)
    | interval_columns("dr")
    | dict.fromkeys(("largest_failing", "smallest_passing"), COUNT)
    | {"pass_share": FLOAT, "pass_mass": COUNT, "spread_source": TEXT}
    | {"worst_selector": TEXT, "worst_ratio": FLOAT}
    | {"compression": FLOAT, "compression_at_floor": FLAG, "best_projection": TEXT}
    | interval_columns("diffuseness")
    | dict.fromkeys(("at_floor", "reached", "refined"), FLAG)
    | NOTE_COLUMN
    | _SUPPORT_COLUMNS
)


@validate_arguments
def curves(
    run: RunLike | Sequence[RunLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute the mean value at every size, with the interval of the hierarchical bootstrap.

    Parameters
    ----------
    run: a run, its path, or several of them; each run is resampled separately.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws of seeds and test samples.
    seed: seed of the draws.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x n_kept, `CURVE_COLUMNS`;
    ``std`` is the standard deviation over seeds (missing for one seed), ``ratio`` is
    mean / value_full. ``training_sets`` and ``interval_note``: see `redundancy`.

    Raises
    ------
    CriticalMassError: if level or resamples is out of range, or a run is damaged.
    """
    draws = Draws(level, resamples, seed)
    rows = [
        row
        for one in open_runs(run)
        for curve in curves_of(one, draws)
        for row in _curve_rows(curve)
    ]
    return typed_table(rows, CURVE_COLUMNS)


@validate_arguments
def redundancy(
    run: RunLike | Sequence[RunLike],
    deltas: float | Sequence[float] = (0.9,),
    estimator: str = DEFAULT_ESTIMATOR,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    pass_share: float = 0.95,
    accuracy: float | Sequence[float] | None = None,
    chance_corrected: bool = False,
    control: RunLike | None = None,
) -> pd.DataFrame:
    """Compute critical mass and diffused redundancy, with intervals.

    The critical mass is where the mean over subsets first reaches delta times the value of the
    whole layer. Between tested sizes it is read off a monotone cubic in log k; the tested sizes
    on both sides are in the table as well. About half of the random subsets of this size miss the
    threshold: ``pass_mass`` is the size at which the share ``pass_share`` of them reaches it.

    Each bootstrap draw resamples the seeds of a selector and the test samples, with the whole
    layer on the same test samples, and applies the estimator to the draw. The interval is the
    percentile interval over draws. For one seed, or a selector without randomness, only the test
    samples vary. An interval covers the sizes that were not tested: with the estimator "strict" a
    draw answers with the sizes from above the largest that fails to the smallest that passes,
    and so does every estimator below the smallest tested size. On a run that was refined for a
    delta, the interval covers all sizes that refining left open.

    Parameters
    ----------
    run: a run, its path, or several of them.
    deltas: shares of the whole layer's value, each in (0, 1].
    estimator: "monotone", "strict", "interpolated" or "nearest", see `diffused_redundancy`.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws.
    seed: seed of the draws.
    pass_share: share of the random subsets that reach the threshold at ``pass_mass``, in
        [0.5, 1).
    accuracy: accuracies to reach, each in (0, 1], whatever the whole layer's: more rows for each
        probe, after those of ``deltas``. They compare layers of different quality, such as a
        trained and an untrained one.
    chance_corrected: whether a delta is a share of the accuracy above chance. The value to reach
        is then ``chance + delta * (full - chance)``, where chance is ``majority_accuracy``.
        Similarities have no chance level and no such rows.
    control: a run of the same test samples, such as that of the untrained network, of the raw
        pixels or of bags of words: more rows for each probe, after those of ``deltas``, whose
        value to reach is delta times the value of the control's whole layer by the same measure.
        It is taken from the layer of the same name, or from the only layer.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x delta or accuracy,
    `REDUNDANCY_COLUMNS`. ``bar`` is the value to reach and ``bar_kind`` what it is made of:
    "whole layer" or "above chance" (a share of the layer's own value), "control" or "control
    above chance" (of that of ``control``, which the column of this name names), or "accuracy",
    where ``delta`` is missing. If the value to reach is above that of the whole layer and of
    every subset, ``reached`` is False and the critical mass is missing. It is missing as well
    where the whole layer is no better than chance and delta is a share above chance, and for a
    measure that small subsets may have more of (class-separation; a warning says so).
    ``majority_accuracy`` is the accuracy of always answering the largest class of the test
    samples; missing for similarities. A warning names probes that are no better than this on the
    whole layer, by an exact sign test at ``level``. ``critical_mass`` is in neurons,
    ``dr = 1 - critical_mass / n_neurons``.
    ``largest_failing`` and ``smallest_passing``: the tested sizes on both sides of the crossing;
    a critical mass of "strict" is the latter. ``pass_mass``: see `passing_size`, with the source
    of its spread, "law" or "seeds", in ``spread_source``; missing for a selector without
    randomness and for fewer than 3 seeds without a law. ``worst_selector`` and ``worst_ratio``,
    in rows of random selectors: the measured selector of neurons that keeps least at this size,
    and the share that it keeps. ``compression``, ``best_projection`` and ``diffuseness``, in rows
    of the selector "random": see `basis_ratios`.
    ``at_floor``: the smallest tested size passes and has more than one neuron, so DR is a lower
    bound. ``reached``: a size below the whole layer passes. ``refined``: the size one neuron
    below the first that passes was tested and does not pass. These columns are missing if the
    whole layer or every size failed.
    ``training_sets`` is the number of training sets whose variation is in the interval of a
    probe; 0 means that the interval is about probes trained on these samples.
    ``interval_note`` says why intervals are missing: fewer than 3 seeds of a random selector, or
    CKA on so few test samples that its bias exceeds its standard error.

    Raises
    ------
    CriticalMassError: if a delta, the estimator, level, resamples, pass_share or an accuracy is
        invalid, if something is asked for that only probes have and there is none, if the control
        has other test samples or no measure of the run, or if a run is damaged.
    """
    draws = Draws(level, resamples, seed)
    runs = open_runs(run)
    opened = None if control is None else Run.open(control)
    targets = Targets.checked(deltas, accuracy, chance_corrected, opened)
    table = redundancy_table(runs, targets, estimator, draws, pass_share)
    for one in runs:
        _warn_of_useless_probes(one, level)
    scores = [name for name in table["measure"].unique() if not has_critical_mass(name)]
    if scores:
        warn_user(
            f"{', '.join(scores)}: no critical mass and no DR, because a small subset may have a "
            "higher value than the whole layer; its curve says what subsets have"
        )
    return table


def redundancy_table(
    runs: Sequence[Run],
    targets: Targets,
    estimator: str,
    draws: Draws,
    pass_share: float = 0.95,
) -> pd.DataFrame:
    """Return the table of `redundancy` without its warning on probes."""
    check_estimator(estimator)
    check_pass_share(pass_share)
    targets.refuse_similarities(runs)
    rows: list[dict[str, Any]] = []
    for one in runs:
        control = None if targets.control is None else ControlRun.of(targets.control, one, draws)
        part = _RunPart(one, targets, control, estimator, pass_share)
        layers = groupby(curves_of(one, draws), key=lambda curve: curve.key._replace(selector=""))
        for layer_rows in map_in_threads(part.rows, [list(curves) for _, curves in layers]):
            rows += layer_rows
    return typed_table(rows, REDUNDANCY_COLUMNS)


@dataclass(frozen=True, eq=False)
class _RunPart:
    """What the rows of one run depend on besides its curves; `rows` makes those of a layer."""

    run: Run
    targets: Targets
    control: ControlRun | None
    estimator: str
    pass_share: float

    @cached_property
    def open_intervals(self) -> OpenIntervals:
        return refined_intervals(self.run)

    @cached_property
    def predicted(self) -> Mapping[tuple[str, str], PredictedCurve]:
        return read_curves(self.run)

    @cached_property
    def chance(self) -> float:
        return ConstantAnswer.best(self.run.labels()).accuracy

    def rows(self, curves: list[ValueCurve]) -> list[dict[str, Any]]:
        """Return the rows of the curves of one layer and measure, curve by curve."""
        key = curves[0].key
        chance = None if is_similarity(key.measure) else self.chance
        targets = self.targets.of_curve(key, chance, self.control)
        readers = [CurveReader(curve, self.estimator) for curve in curves]
        rows: list[list[dict[str, Any]]] = [[] for _ in curves]
        # Few targets at a time, so that their draws stay in the cache.
        for first in range(0, len(targets), _TARGETS_AT_ONCE):
            block = targets[first : first + _TARGETS_AT_ONCE]
            masses = [reader.masses(block) for reader in readers]
            for curve, curve_masses, curve_rows in zip(curves, masses, rows, strict=True):
                for i, (target, mass) in enumerate(zip(block, curve_masses, strict=True)):
                    row = _redundancy_row(curve, target, self.estimator, mass, self.open_intervals)
                    if mass is not None:
                        row |= basis_ratios(mass, [others[i] for others in masses])
                    curve_rows.append(row)
        for curve, curve_rows in zip(curves, rows, strict=True):
            support = _support(curve, _columns(curve.rows), _columns(curve.used))
            self._add_spread(curve_rows, curve, curves, targets)
            for row in curve_rows:
                row |= support | {"majority_accuracy": chance}
        return [
            with_note(row, curve.interval_note)
            for curve, curve_rows in zip(curves, rows, strict=True)
            for row in curve_rows
        ]

    def _add_spread(
        self,
        rows: list[dict[str, Any]],
        curve: ValueCurve,
        rivals: list[ValueCurve],
        targets: list[Target],
    ) -> None:
        """Add the columns on the spread of subsets and on the worst selector to a curve's rows."""
        bars = [target.bars(curve.full or 0.0, curve.full_draws)[0] for target in targets]
        source, sizes = passing_size(curve, bars, self.pass_share, self.estimator, self.predicted)
        for row, size in zip(rows, sizes, strict=False):
            if row["critical_mass"] is not None:
                row |= {"pass_share": self.pass_share, "spread_source": source}
                row["pass_mass"] = max(size, row["critical_mass"])
                worst = worst_selector(curve, rivals, row["critical_mass"])
                row["worst_selector"], row["worst_ratio"] = worst or (None, None)


def _warn_of_useless_probes(run: Run, level: float) -> None:
    """Warn of probes that are no better on the whole layer than a constant answer."""
    frame = run.frame()
    has_predictions = frame["artifact"].fillna("").str.startswith("predictions/")
    rows = frame[(frame["selector"] == "full") & (frame["status"] != "failed") & has_predictions]
    if not len(rows):
        return
    labels = run.labels()
    if labels.min() == labels.max():
        return  # the accuracy is the recall of this class, whose constant answer is always right
    constant = ConstantAnswer.best(labels)
    correct = is_correct(run, run.predictions(rows))
    p_values = np.array([constant.p_value(row, labels) for row in correct])
    useless = [
        f"{measure} on {layer} ({part['value'].mean():.3f})"
        for (layer, measure), part in rows.assign(p=p_values).groupby(["layer", "measure"])
        if part["p"].min() > 1.0 - level
    ]
    if not useless:
        return
    names = run.class_names
    name = names[constant.class_id] if constant.class_id < len(names) else constant.class_id
    more = f" and {len(useless) - _MAX_NAMED:,} more" if len(useless) > _MAX_NAMED else ""
    warn_user(
        f"{run.path}: always answering the largest class, {str(name)!r}, has an accuracy of "
        f"{constant.accuracy:.3f}, and the whole layer is not significantly better by "
        f"{', '.join(useless[:_MAX_NAMED])}{more}: a small critical mass means nothing there"
    )


def _curve_rows(curve: ValueCurve) -> list[dict[str, Any]]:
    """Rows of `curves` for one curve."""
    low, high = curve.interval(curve.mean_draws)
    full = curve.full if curve.full is not None and curve.full > 0.0 else None
    full_low, full_high = (None, None) if full is None else curve.interval(curve.full_draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_low, ratio_high = curve.interval(curve.mean_draws / curve.full_draws[:, None])
    table = []
    rows, used = _columns(curve.rows), _columns(curve.used)
    for i, size in enumerate(curve.sizes):
        size_rows = {n: column[rows["n_kept"] == size] for n, column in rows.items()}
        size_used = {n: column[used["n_kept"] == size] for n, column in used.items()}
        values = size_used["value"].astype(np.float64)
        row = (
            curve.key._asdict()
            | {
                "fraction": float(size_used["fraction"].min()),
                "n_kept": int(size),
                "mean": curve.mean[i],
                "low": low[i],
                "high": high[i],
                "std": float(values.std(ddof=1)) if values.size > 1 else None,
                "ratio": None if full is None else curve.mean[i] / full,
                "ratio_low": None if full is None else ratio_low[i],
                "ratio_high": None if full is None else ratio_high[i],
                "value_full": curve.full,
                "full_low": full_low,
                "full_high": full_high,
                "level": curve.level,
            }
            | _support(curve, size_rows, size_used)
        )
        note = curve.interval_note if size < curve.n_neurons else ""
        table.append(with_note(row, note))
    return table


def _redundancy_row(
    curve: ValueCurve,
    target: Target,
    estimator: str,
    mass: CurveMass | None,
    open_intervals: OpenIntervals,
) -> dict[str, Any]:
    """Row of `redundancy` without the columns of `_support`."""
    row = dict.fromkeys(REDUNDANCY_COLUMNS) | curve.key._asdict()
    row |= {"delta": target.delta, "estimator": estimator, "level": curve.level}
    row |= {"value_full": curve.full, "bar": target.value if target.is_absolute else None}
    row |= {"bar_kind": target.kind, "control": target.control and target.control.name}
    if mass is None:
        return row
    d = curve.n_neurons
    row |= {"bar": mass.bar, "at_floor": mass.is_at_floor, "reached": mass.is_reached}
    if mass.is_out_of_reach:
        return row | {"largest_failing": d, "refined": False}
    low, high = mass.interval
    key = curve.key
    refined_for = target.delta if target.kind == WHOLE else None
    open_interval = open_intervals.get((key.layer, key.selector, key.measure, refined_for))
    if open_interval is not None and estimator != "nearest":
        ends = mass.interval_by("interpolated" if estimator == "strict" else estimator)
        low, high = min(ends[0], open_interval[0]), max(ends[1], open_interval[1])
    return row | {
        "critical_mass": int(mass.size),
        "critical_mass_low": low,
        "critical_mass_high": high,
        "dr": 1.0 - mass.size / d,
        "dr_low": 1.0 - high / d,
        "dr_high": 1.0 - low / d,
        "largest_failing": mass.largest_failing or None,
        "smallest_passing": mass.smallest_passing,
        "refined": mass.smallest_passing - 1 in {0, *curve.sizes.tolist()},
    }


_Columns = dict[str, npt.NDArray[Any]]
_OBJECT_COLUMNS = ("status", "value")
_NUMBER_COLUMNS = ("n_kept", "n_neurons", "n_test", "n_train", "seed", "fraction")


def _columns(rows: pd.DataFrame) -> _Columns:
    """Convert the needed columns to NumPy, which is faster than pandas on few rows."""
    return {name: rows[name].to_numpy(dtype=object) for name in _OBJECT_COLUMNS} | {
        name: rows[name].to_numpy(dtype=np.float64) for name in _NUMBER_COLUMNS
    }


def _support(curve: ValueCurve, rows: _Columns, used: _Columns) -> dict[str, Any]:
    """Count the neurons, seeds, samples, training sets and failed cells behind a number."""
    return {
        "n_neurons": int(rows["n_neurons"].max()),
        "n_seeds": len(np.unique(used["seed"])),
        "n_test": int(rows["n_test"].max()),
        "n_train": int(rows["n_train"].max()),
        "training_sets": None if is_similarity(curve.key.measure) else curve.n_training_sets,
        "n_failed": int((rows["status"] == "failed").sum()),
        "n_not_converged": int((rows["status"] == "not_converged").sum()),
    }
