"""Recipes of training compared by k*, with the training seed as the unit of inference.

Two networks of one recipe differ as two recipes do, so one network of each shows nothing of the
recipes. Here every recipe has several training seeds, those of two recipes are paired (the same
data order, the same first weights), and an interval is over training seeds, subsets and test
samples together. See `training_seed_intervals` for its parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from criticalmass.analysis.columns import COUNT, FLAG, FLOAT, Draws, typed_table
from criticalmass.analysis.estimators import checked_deltas
from criticalmass.analysis.training_runs import (
    TrainedRun,
    TrainingFacts,
    mean_of,
    measured_networks,
    trained_runs,
    warn_of_recipes_without_runs,
)
from criticalmass.analysis.training_seed_rows import (
    EFFECT_COLUMNS,
    Comparison,
    corrected,
    effect_row,
)
from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError, shorten, unknown_name

__all__ = [
    "EFFECT_COLUMNS",
    "PREDICTION_COLUMNS",
    "PredictionKey",
    "TrainedRun",
    "TrainingFacts",
    "compare_recipes",
    "effects",
    "trained_runs",
    "with_predictions",
]

#: Draws of test samples; they estimate one covariance, to about 5 %.
RESAMPLES = 1000
PREDICTION_COLUMNS: dict[str, str] = {
    "n_predicted": COUNT,
    "predicted_log_ratio": FLOAT,
} | dict.fromkeys(("same_sign", "within_interval"), FLAG)
_Row = dict[str, Any]


class PredictionKey(NamedTuple):
    """Identifies the predicted critical mass of one network."""

    recipe: str
    training_seed: int
    dataset: str
    layer: str
    measure: str
    delta: float


@validate_arguments
def effects(
    runs: Sequence[TrainedRun],
    *,
    baseline: str,
    measures: str | Sequence[str] | None = None,
    selector: str = "random",
    deltas: float | Sequence[float] = (0.9,),
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare recipes of training with a baseline recipe.

    The effect of a recipe is the mean over training seeds of ln(k* / k* of the baseline with the
    same training seed). k* is read off the mean over subsets by the estimator of `redundancy`; it
    is not rounded to whole neurons here.

    The interval has three parts. The variance between the pairs of training seeds, over their
    number, has all that differs from one training seed to the next: the networks, and how their
    subsets and responses to single test samples scatter. What the training seeds share is added:
    the common test samples, by bootstrap draws with the same samples in all networks, and the
    common subset seeds, by the jackknife. The critical value is the mean of the quantiles of
    Student's distribution with the degrees of freedom of the parts (number of training seeds less
    1, unlimited, number of subset seeds less 1), weighted by their variances (Cochran 1964,
    Biometrics 20, 191-195). It is never narrower than what test samples and subsets leave open of
    the mean over these very networks, because three pairs may agree by chance. A percentile
    bootstrap over 3 to 5 training seeds would be far too narrow. Counted coverage is in
    docs/coverage.md. The training samples of the probes are taken as given, as in `redundancy`.

    Parameters
    ----------
    runs: the networks; training seeds that two recipes share are paired.
    baseline: name of the recipe that the others are compared with.
    measures: measures to compare by; None for all.
    selector: the selector of the subsets.
    deltas: shares of the whole layer's value, each in (0, 1].
    level: confidence level of the intervals.

    Returns
    -------
    One row per recipe x dataset x layer x measure x delta, `EFFECT_COLUMNS`; none is left out.

    - ``n_pairs``, ``training_seeds``: the training seeds that both have.
    - ``k``, ``k_baseline``: geometric means of k* over these, in neurons.
    - ``log_ratio``, ``ratio`` with ``_low`` and ``_high``: the effect and its exponential. Fewer
      than 3 pairs have no interval. ``bound``: "" for a number; ">=" or "<=" where a k* is only
      bounded, because the smallest tested size passes or none below the whole layer does; "open"
      where both are. The interval then covers all that the tested sizes leave open.
    - ``std``: standard deviation of the pairs. ``shared_std``: standard error from what they share.
    - ``p``: two-sided p-value of no effect; ``p_holm``: corrected by Holm's method for the
      ``n_compared`` rows of the same dataset, measure and delta.
    - ``dr``, ``dr_baseline``, ``dr_difference``: the same for DR.
    - ``bar``, ``k_at_bar``, ``log_ratio_at_bar``, ``bound_at_bar``: the same where both recipes
      must reach delta times the value of the *baseline's* whole layer, so that a worse layer does
      not look more redundant. Where a whole layer misses it, k is infinite, ``log_ratio_at_bar``
      is the bound that is known and the interval has an infinite end. Missing for similarities to
      the whole layer, whose value there is 1.
    - ``value_full``, ``upstream_accuracy``, ``train_error``, ``pr_raw``, ``pr_standardised``,
      ``seconds``, each with that of the baseline: means over the pairs. ``majority_accuracy``:
      accuracy of always answering the largest class.
    - ``gate_...``: "pass", "fail" or "unknown", with the number that was held against the limit:
      upstream accuracies within .01 (``accuracy_difference``); less than 5 % of the neurons dead
      in every network (``dead_share``, the worst); the whole layers of both recipes more than .2
      above the largest class (``above_majority``, the worse; for a similarity by the best probe on
      the same layer); no fit without a certificate (``n_uncertified``, of the whole layer and the
      two sizes on either side of k*; probes in closed form need none). ``gates`` names those that
      fail or are unknown.
    - ``verdict``: "gated: ..." if a gate fails, "no interval", "more neurons" or "fewer neurons"
      if ``p_holm`` is at most 1 - level, otherwise "no difference shown".
    - ``note``: training seeds without a partner, bounds, and what is not in the interval.
    - ``sentence``: the row in words.

    Raises
    ------
    CriticalMassError: if the baseline, the selector or a measure is unknown, there is no other
        recipe, a network is given twice, or an argument is invalid.
    """
    shares, draws = checked_deltas(deltas), Draws(level, RESAMPLES, 0)
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    if baseline not in recipes:
        raise unknown_name("recipe", baseline, recipes)
    if len(recipes) < 2:
        raise CriticalMassError(
            f"all runs are of the recipe {shorten(baseline)}; give those of another one as well"
        )
    chosen = [measures] if isinstance(measures, str) else list(measures or ())
    networks = measured_networks(runs, chosen, selector, draws)
    warn_of_recipes_without_runs(networks)
    targets = sorted({target for of_recipe in networks.values() for target in of_recipe})
    rows = [
        effect_row(Comparison.of(networks, recipe, baseline, target, selector), delta, level)
        for target in targets
        for delta in shares
        for recipe in recipes
        if recipe != baseline
    ]
    return typed_table(corrected(rows), EFFECT_COLUMNS)


def compare_recipes(
    a: Sequence[TrainedRun],
    b: Sequence[TrainedRun],
    *,
    measures: str | Sequence[str] | None = None,
    selector: str = "random",
    deltas: float | Sequence[float] = (0.9,),
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare two recipes of training; b is the baseline.

    For networks that were trained elsewhere, `trained_runs` names their runs::

        compare_recipes(trained_runs("dropout", ["d0", "d1", "d2"]),
                        trained_runs("plain", ["p0", "p1", "p2"]))

    Parameters
    ----------
    a, b: the networks of one recipe each.
    measures, selector, deltas, level: as in `effects`.

    Returns
    -------
    The table of `effects` for recipe ``a``.

    Raises
    ------
    CriticalMassError: if one of the two has no network or networks of several recipes, both are
        the same recipe, or as in `effects`.
    """
    names = []
    for letter, side in (("a", a), ("b", b)):
        recipes = sorted({run.recipe for run in side})
        if len(recipes) != 1:
            raise CriticalMassError(
                f"{letter} has networks of {len(recipes)} recipes ({', '.join(recipes)}); give "
                "those of one"
            )
        names += recipes
    if names[0] == names[1]:
        raise CriticalMassError(
            f"a and b are both of the recipe {shorten(names[0])}; give two recipes"
        )
    return effects(
        [*a, *b],
        baseline=names[1],
        measures=measures,
        selector=selector,
        deltas=deltas,
        level=level,
    )


def with_predictions(table: pd.DataFrame, predicted: Mapping[PredictionKey, float]) -> pd.DataFrame:
    """Add to a table of `effects` whether a law foresaw them.

    Parameters
    ----------
    table: of `effects`.
    predicted: critical mass that a law gives for a network without a measurement of subsets, such
        as `criticalmass.cka_critical_mass` from the participation ratio, in neurons. Keys are
        `PredictionKey` or tuples of the same six entries.

    Returns
    -------
    The table with `PREDICTION_COLUMNS`: ``predicted_log_ratio`` is the mean of ln(k*/k* of the
    baseline) by the law over the ``n_predicted`` pairs of training seeds for which both are
    predicted. ``same_sign``: whether it has the sign of the measured effect. ``within_interval``:
    whether it lies within its interval. Missing without a prediction, and ``within_interval``
    without an interval.

    Raises
    ------
    CriticalMassError: if a prediction is not above 0.
    """
    for key, size in predicted.items():
        if not size > 0.0:
            raise CriticalMassError(
                f"the predicted critical mass of {tuple(key)} is {size}; give a number above 0"
            )
    added = [_prediction(row, predicted) for row in table.to_dict("records")]
    columns = typed_table(added, PREDICTION_COLUMNS)
    return pd.concat([table.reset_index(drop=True), columns], axis=1)


def _prediction(row: Mapping[Any, Any], predicted: Mapping[PredictionKey, float]) -> _Row:
    logs = []
    for seed in (int(text) for text in row["training_seeds"].split(", ") if text):
        sizes = [
            predicted.get(
                PredictionKey(
                    row[name], seed, row["dataset"], row["layer"], row["measure"], row["delta"]
                )
            )
            for name in ("recipe", "baseline")
        ]
        if sizes[0] is not None and sizes[1] is not None:
            logs.append(math.log(sizes[0] / sizes[1]))
    effect, low, high = (row[f"log_ratio{suffix}"] for suffix in ("", "_low", "_high"))
    foreseen = mean_of(logs)
    has_effect, has_interval = not pd.isna(effect), not pd.isna(low)
    return {
        "n_predicted": len(logs),
        "predicted_log_ratio": foreseen,
        "same_sign": bool(np.sign(foreseen) == np.sign(effect)) if logs and has_effect else None,
        "within_interval": bool(low <= foreseen <= high) if logs and has_interval else None,
    }
