"""Compare two representations: differences with intervals and a sentence for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.columns import (
    COUNT,
    CURVE_KEY_COLUMNS,
    FLOAT,
    NOTE_COLUMN,
    TEXT,
    CurveKey,
    Draws,
    RunLike,
    outward_interval,
    typed_table,
    with_note,
)
from criticalmass.analysis.comparison_pairs import (
    CurvePair,
    has_same_inputs,
    has_same_samples,
    pairs_between,
    pairs_within,
    run_names,
)
from criticalmass.analysis.comparison_text import sentence
from criticalmass.analysis.constant_answer import ConstantAnswer
from criticalmass.analysis.curves import ValueCurve, curves_of
from criticalmass.analysis.estimators import (
    DEFAULT_ESTIMATOR,
    check_estimator,
    checked_deltas,
    critical_size,
    reaches,
)
from criticalmass.analysis.multiplicity import holm, smallest_p, two_sided_p
from criticalmass.analysis.shared_seeds import shared_seeds
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.core.progress import warn_user
from criticalmass.errors import unknown_name
from criticalmass.measures.registry import MEASURES, has_critical_mass, is_similarity
from criticalmass.storage.run import Run

__all__ = [
    "COMPARISON_COLUMNS",
    "ComparisonOptions",
    "compare",
    "comparison_rows",
    "corrected_tables",
]

#: Columns of which one may be named as ``by``.
COMPARABLE = CurveKey._fields
COMPARISON_COLUMNS: dict[str, str] = (
    dict.fromkeys(("by", "a", "b"), TEXT)
    | CURVE_KEY_COLUMNS
    | {"quantity": TEXT, "delta": FLOAT, "estimator": TEXT, "fraction": FLOAT}
    | dict.fromkeys(("n_kept_a", "n_kept_b"), COUNT)
    | dict.fromkeys(("value_a", "value_b", "difference", "low", "high"), FLOAT)
    | dict.fromkeys(("bound", "samples", "seeds"), TEXT)
    | dict.fromkeys(("n_seeds_a", "n_seeds_b"), COUNT)
    | {"level": FLOAT, "p": FLOAT, "p_holm": FLOAT, "n_compared": COUNT}
    | NOTE_COLUMN
    | {"sentence": TEXT}
)
#: The draws of `compare` by default.
DEFAULT_DRAWS = Draws(level=0.95, resamples=2000, seed=0)
#: Rows that agree in these columns are corrected together.
_FAMILY = ("quantity", "measure", "delta", "fraction")
_Rows = list[dict[str, Any]]


@validate_arguments
def compare(
    a: RunLike,
    b: RunLike | None = None,
    *,
    deltas: float | Sequence[float] = (0.9,),
    estimator: str = DEFAULT_ESTIMATOR,
    level: float = 0.95,
    by: str | None = None,
    paired: bool | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare DR, critical mass and curve of two representations; differences are a minus b.

    Each bootstrap draw resamples the seeds of both and the test samples. If both were scored on
    the same test samples, both use the same resampled ones; otherwise each is resampled on its
    own. The difference is computed in every draw. The interval is the percentile interval over
    draws, for each pair separately. The p-values and the sentences are corrected by Holm's method
    for all pairs of the table, separately for each quantity, measure, and delta or size. Curves of
    layers of the same width are compared at every number of neurons that both tested; curves of
    different widths are compared at every fraction.

    A critical mass of the estimator "strict" is always a tested size, so a difference of two of
    them jumps with the steps of the grid.

    DR at the smallest tested size is only a bound, and so is DR where no subset reaches delta. In
    every draw the critical mass is then any size that the grid leaves open, and the interval
    covers all of them.

    Parameters
    ----------
    a, b: runs or their folders; without ``b`` the curves of ``a`` are compared with each other.
    deltas: shares of the whole layer's value, each in (0, 1].
    estimator: estimator of the critical mass, see `diffused_redundancy`.
    level: confidence level of the intervals.
    by: the column that differs: "model", "layer", "dataset", "selector" or "measure". By default,
        within one run it is the first of selector, layer and measure with several values; between
        two runs curves are paired that are equal in every column with several values.
    paired: whether both runs have the same test samples. None decides by the dataset's digest and
        the labels. Imported vectors have a digest of their own: use ``paired=True`` if their rows
        are the same samples.
    resamples: number of bootstrap draws.
    seed: seed of the draws.

    Returns
    -------
    One row per pair and quantity, `COMPARISON_COLUMNS`. ``quantity``: "dr", "critical_mass"
    (in neurons), "whole layer", "value" and "ratio" (to the whole layer) at a size.
    ``p``: two-sided p-value of no difference, from the draws (`two_sided_p`), ``p_holm`` the same
    corrected for the ``n_compared`` pairs of its family; a sentence states a difference if its
    interval excludes 0 and, of several pairs, ``p_holm`` is at most 1 - level.
    ``bound``: "" for a difference, ">=" or "<=" if it is only bounded, "open" if both critical
    masses are bounds. ``samples``: "paired", "independent", or "not resampled" if a measure
    stored no scores. ``seeds``: "paired" if both have the same subsets. ``interval_note``: why
    there is no interval, see `redundancy`.

    Raises
    ------
    CriticalMassError: if an option is invalid, there is nothing to compare, or ``paired=True`` and
        the test labels differ.
    """
    draws = Draws(level, resamples, seed)
    options = ComparisonOptions(tuple(checked_deltas(deltas)), estimator, draws, by, paired)
    return corrected_tables([comparison_rows(a, b, options)])[0]


@dataclass(frozen=True)
class ComparisonOptions:
    """The parameters of `compare` other than the runs; ``draws`` has level, resamples and seed.

    With ``chance_corrected`` all values are accuracies above that of the most frequent class, and
    so are the shares of the whole layer's; other measures are left out.
    """

    deltas: tuple[float, ...] = (0.9,)
    estimator: str = DEFAULT_ESTIMATOR
    draws: Draws = DEFAULT_DRAWS
    by: str | None = None
    paired: bool | None = None
    chance_corrected: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        check_estimator(self.estimator)
        if self.by is not None and self.by not in COMPARABLE:
            raise unknown_name("column to compare by", self.by, COMPARABLE)


def comparison_rows(a: RunLike, b: RunLike | None, options: ComparisonOptions) -> _Rows:
    """Return the rows of `compare` before they are corrected; `corrected_tables` finishes them."""
    first = Run.open(a)
    second = None if b is None else Run.open(b)
    pairs = _pairs(first, second, options.by, options.paired, options.draws)
    if options.chance_corrected:
        pairs = _above_chance(pairs, first, first if second is None else second)
    return [row for pair in pairs for row in _pair_rows(pair, options.deltas, options.estimator)]


def _above_chance(pairs: Iterator[CurvePair], first: Run, second: Run) -> Iterator[CurvePair]:
    """Yield the pairs of probes with their accuracies above that of the most frequent class."""
    chances = [ConstantAnswer.best(run.labels()).accuracy for run in (first, second)]
    for pair in pairs:
        if all(MEASURES[curve.key.measure].is_probe for curve in (pair.a, pair.b)):
            yield replace(pair, a=pair.a.above(chances[0]), b=pair.b.above(chances[1]))


def corrected_tables(comparisons: Sequence[_Rows]) -> list[pd.DataFrame]:
    """Return the tables of several comparisons, corrected together.

    Use it where a reader sees several comparisons as one table.

    Parameters
    ----------
    comparisons: rows of `comparison_rows`, one list per table.
    """
    families: dict[tuple[Any, ...], _Rows] = {}
    for row in (row for rows in comparisons for row in rows):
        if row["p"] is not None:
            families.setdefault(tuple(row[name] for name in _FAMILY), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row |= {"p_holm": float(p), "n_compared": len(family)}
    _warn_of_few_draws(list(families.values()))
    return [
        typed_table([row | {"sentence": sentence(row)} for row in rows], COMPARISON_COLUMNS)
        for rows in comparisons
    ]


def _warn_of_few_draws(families: Sequence[_Rows]) -> None:
    """Warn if no p-value from these draws can remain significant after the correction."""
    largest = max(families, key=len, default=[])
    if not largest:
        return
    resamples, alpha = int(largest[0]["resamples"]), 1.0 - float(largest[0]["level"])
    if len(largest) > 1 and len(largest) * smallest_p(resamples) > alpha:
        needed = int(np.ceil(2 * len(largest) / alpha))
        warn_user(
            f"{len(largest):,} pairs are corrected together, and {resamples:,} draws cannot show a "
            f"difference at that level; use resamples={needed} or more, or compare fewer curves"
        )


def _pairs(
    first: Run, second: Run | None, by: str | None, paired: bool | None, draws: Draws
) -> Iterator[CurvePair]:
    if second is None:
        yield from pairs_within(list(curves_of(first, draws)), by)
        return
    names = run_names(first, second)
    same_samples = has_same_samples(first, second, paired)
    # Another seed draws other samples, so that two test sets do not share even their positions.
    first_draws = draws
    second_draws = replace(draws, seed=draws.seed if same_samples else draws.seed + 1)
    if same_samples and has_same_inputs(first, second):
        of_first, of_second = shared_seeds(first, second)
        first_draws, second_draws = (
            replace(draws, shared=of_first),
            replace(draws, shared=of_second),
        )
    yield from pairs_between(
        list(curves_of(first, first_draws)),
        list(curves_of(second, second_draws)),
        by,
        same_samples,
        names,
    )


@dataclass(frozen=True, eq=False)
class _CriticalMass:
    """Critical mass of a curve and of its draws, with the range that the grid leaves open.

    Attributes
    ----------
    estimate: critical mass in neurons, as in the table of `criticalmass.redundancy`.
    lowest, highest: (1 + resamples,) smallest and largest possible critical mass; entry 0 belongs
        to the curve, the others to its draws. They differ only if the grid leaves a range open.
    n_neurons: number of neurons of the layer.
    note: why the estimate is only a bound; empty if it is exact on this grid.
    """

    estimate: int
    lowest: FloatArray
    highest: FloatArray
    n_neurons: int
    note: str


def _pair_rows(
    pair: CurvePair, deltas: Sequence[float], estimator: str
) -> Iterator[dict[str, Any]]:
    """All rows of a pair: DR and critical mass, then the whole layer and the curve."""
    comparable = all(
        curve.full is not None and curve.full > 0.0 and curve.sizes.size > 0
        for curve in (pair.a, pair.b)
    )
    has_mass = comparable and all(
        has_critical_mass(curve.key.measure) for curve in (pair.a, pair.b)
    )
    rows: list[dict[str, Any]] = []
    for delta in deltas:
        settings = {"delta": delta, "estimator": estimator}
        if has_mass:
            mass_a, mass_b = (_critical_mass(c, delta, estimator) for c in (pair.a, pair.b))
            rows += [settings | row for row in _mass_rows(mass_a, mass_b, pair.a.level)]
        else:
            rows += [settings | {"quantity": name} for name in ("dr", "critical_mass")]
    if comparable:
        rows += _curve_rows(pair)
    for row in rows:
        note = pair.a.interval_note or pair.b.interval_note
        whole = dict.fromkeys(COMPARISON_COLUMNS) | pair.columns()
        whole |= {"bound": "", "resamples": len(pair.a.full_draws)} | row
        if note and row["quantity"] != "whole layer":
            whole["p"] = None
            yield with_note(whole, note)
        else:
            yield whole | {"interval_note": ""}


def _critical_mass(curve: ValueCurve, delta: float, estimator: str) -> _CriticalMass:
    """Compute the critical mass of a curve and of its draws."""
    d, sizes = curve.n_neurons, curve.sizes
    means = np.vstack([curve.mean, curve.mean_draws])
    full = np.concatenate([[curve.full or 0.0], curve.full_draws])
    critical = critical_size(sizes.astype(np.float64), means, full, delta, estimator, float(d))
    mass = np.ceil(critical - 1e-9)
    passes = reaches(means, full, delta)
    below = sizes < d
    never = np.logical_not(passes[:, below].any(axis=1))
    largest = int(sizes[below].max()) if below.any() else 0
    at_floor = passes[:, 0] & ~never
    lowest = np.where(at_floor, 1.0, np.where(never, float(min(largest + 1, d)), mass))
    highest = np.where(never, float(d), mass)
    note = ""
    if at_floor[0] and sizes[0] > 1:
        note = (
            f"reaches {delta * 100:g} % already at the smallest tested size "
            f"({sizes[0]:,} of {d:,} neurons)"
        )
    elif never[0] and largest + 1 < d:
        note = (
            f"does not reach {delta * 100:g} % at the largest tested size below the whole layer "
            f"({largest:,} of {d:,} neurons)"
        )
    return _CriticalMass(int(mass[0]), lowest, highest, d, note)


def _mass_rows(a: _CriticalMass, b: _CriticalMass, level: float) -> list[dict[str, Any]]:
    """Rows of DR and critical mass of one delta."""
    dr_a = 1.0 - np.stack([a.highest, a.lowest]) / a.n_neurons
    dr_b = 1.0 - np.stack([b.highest, b.lowest]) / b.n_neurons
    dr: dict[str, Any] = {
        "quantity": "dr",
        "value_a": 1.0 - a.estimate / a.n_neurons,
        "value_b": 1.0 - b.estimate / b.n_neurons,
    } | _covering_interval(dr_a[0] - dr_b[1], dr_a[1] - dr_b[0], level)
    mass: dict[str, Any] = {
        "quantity": "critical_mass",
        "value_a": float(a.estimate),
        "value_b": float(b.estimate),
    } | _covering_interval(a.lowest - b.highest, a.highest - b.lowest, level)
    # The reported mass is the largest possible one, so DR is a lower bound.
    bounds = {(False, False): ("", ""), (True, False): (">=", "<="), (False, True): ("<=", ">=")}
    pair_bounds = bounds.get((bool(a.note), bool(b.note)), ("open", "open"))
    for row, bound in zip((dr, mass), pair_bounds, strict=True):
        row |= {"bound": bound, "note_a": a.note, "note_b": b.note}
        row["difference"] = row["value_a"] - row["value_b"] if bound != "open" else None
    return [dr, mass]


def _covering_interval(low: FloatArray, high: FloatArray, level: float) -> dict[str, float | None]:
    """Interval that covers the range of every draw; entry 0 is the estimate and not a draw."""
    return {
        "low": float(outward_interval(low[1:], level)[0]),
        "high": float(outward_interval(high[1:], level)[1]),
        "p": two_sided_p(low[1:], high[1:]),
    }


def _curve_rows(pair: CurvePair) -> list[dict[str, Any]]:
    """Rows of the whole layer, and of value and ratio at every shared size."""
    a, b = pair.a, pair.b
    full_a, full_b = a.full or 0.0, b.full or 0.0
    similarities = [is_similarity(curve.key.measure) for curve in (a, b)]
    # Accuracy and similarity have no common unit; their ratios to the whole layer do.
    same_unit = similarities[0] == similarities[1] and (
        not similarities[0] or a.key.measure == b.key.measure
    )
    # Two selectors of one layer have the same whole layer.
    same_layer = pair.within_run and a.key._replace(selector="") == b.key._replace(selector="")
    rows: list[dict[str, Any]] = []
    if same_unit and not similarities[0] and not same_layer:
        rows.append(
            {"quantity": "whole layer"}
            | _values(full_a, full_b)
            | _interval(pair, a.full_draws - b.full_draws)
        )
    for fraction, i, j in _shared_sizes(a, b):
        size: dict[str, Any] = {
            "fraction": fraction,
            "n_kept_a": int(a.sizes[i]),
            "n_kept_b": int(b.sizes[j]),
        }
        is_full = a.sizes[i] == a.n_neurons and b.sizes[j] == b.n_neurons
        repeats_full = is_full and np.allclose([a.mean[i], b.mean[j]], [full_a, full_b])
        if same_unit and not repeats_full:
            rows.append(
                size
                | {"quantity": "value"}
                | _values(a.mean[i], b.mean[j])
                | _interval(pair, a.mean_draws[:, i] - b.mean_draws[:, j])
            )
        if not is_full:
            # A draw in which the whole layer is never right has no ratio, and no interval follows.
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio_draws = a.mean_draws[:, i] / a.full_draws - b.mean_draws[:, j] / b.full_draws
            rows.append(
                size
                | {"quantity": "ratio"}
                | _values(a.mean[i] / (full_a or 1.0), b.mean[j] / (full_b or 1.0))
                | _interval(pair, ratio_draws)
            )
    return rows


def _values(a: float, b: float) -> dict[str, float]:
    return {"value_a": float(a), "value_b": float(b), "difference": float(a - b)}


def _interval(pair: CurvePair, difference_draws: FloatArray) -> dict[str, float | None]:
    low, high = pair.a.interval(difference_draws)
    p = two_sided_p(difference_draws, difference_draws)
    return {"low": float(low), "high": float(high), "p": p}


def _shared_sizes(a: ValueCurve, b: ValueCurve) -> list[tuple[float, int, int]]:
    """(fraction, position in a, position in b) of the sizes at which both were tested."""
    fractions = [
        curve.used.groupby("n_kept")["fraction"].min().to_numpy(dtype=np.float64)
        for curve in (a, b)
    ]
    keys: list[npt.NDArray[Any]] = list(fractions)
    if a.n_neurons == b.n_neurons:
        keys = [a.sizes, b.sizes]
    _, index_a, index_b = np.intersect1d(keys[0], keys[1], return_indices=True)
    return [(float(fractions[0][i]), int(i), int(j)) for i, j in zip(index_a, index_b, strict=True)]
