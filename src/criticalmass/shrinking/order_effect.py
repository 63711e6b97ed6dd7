"""The effect of the order of neurons: the first against random against selected neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from criticalmass.shrinking.probe_evaluator import (
    Evaluator,
    IndexArray,
    PairedCorrect,
    QueryScores,
    SubsetScores,
)

_N_SEEDS = 8
_LEVEL = 0.95


@dataclass(frozen=True)
class ScoreDifference:
    """A difference of mean scores at one size and its interval, in units of the measure.

    The field names are keys of the manifest.
    """

    estimate: float
    low: float
    high: float


def measure_order_effect(
    evaluator: Evaluator,
    order: IndexArray,
    size: int,
    precision: str,
    *,
    keep: float,
    level: float,
) -> dict[str, Any] | None:
    """Compare the first, random and selected neurons at equal size on the test split.

    Whether the layer can be truncated at its end depends on what the first neurons keep of the
    whole layer, not on how they compare with random ones.

    Parameters
    ----------
    evaluator: scores on the test split.
    order: (n_neurons,) order of the selector.
    size: number of kept neurons.
    precision: the type that their values are stored in.
    keep, level: share of the whole layer's value that must be kept, and the confidence.

    Returns
    -------
    Mean scores, the share that the first neurons keep with its lower bound, differences with
    intervals over samples and random seeds, and a sentence; None for a measure without one score
    per sample.
    """
    d = order.size
    of_first = evaluator.evaluate(np.arange(d), (size,), precision)
    first = _sample_scores(of_first)
    if first is None:
        return None
    random = [np.random.default_rng(1000 + s).permutation(d) for s in range(_N_SEEDS)]
    selected, *randoms = (
        np.asarray(_sample_scores(evaluator.evaluate(compared, (size,), precision)))
        for compared in (order, *random)
    )
    # Without an order the first neurons are one more random subset, so their difference must
    # exceed the scatter of one random subset.
    first_effect = _difference(first, randoms, n_random=1)
    selected_effect = _difference(selected, randoms, n_random=0)
    ratio, bound = float(first.mean()) / of_first.value_full, of_first.bound(0, level)
    truncation = (
        f"At size {size:,} the first neurons keep {ratio:.1%} of the whole layer's value (lower "
        f"bound {bound:.1%} at {level:.0%} confidence), where {keep:.4g} is asked for: "
    )
    truncation += (
        "truncating the layer to them keeps enough, too."
        if bound >= keep
        else "do not truncate the layer to them."
    )
    return {
        "n_kept": size,
        "first": float(first.mean()),
        "first_ratio": ratio,
        "first_ratio_bound": bound,
        "random": float(np.mean(randoms)),
        "chosen": float(selected.mean()),
        "first_minus_random": vars(first_effect),
        "chosen_minus_random": vars(selected_effect),
        "sentence": f"{truncation} {_sentence(first_effect, selected_effect)}",
    }


def _sample_scores(scores: SubsetScores) -> NDArray[np.float64] | None:
    """Return the (n_samples,) scores of the only size; None if the measure has none."""
    if isinstance(scores, PairedCorrect):
        return np.asarray(scores.correct[0], dtype=np.float64)
    if isinstance(scores, QueryScores):
        return np.asarray(scores.scores[0], dtype=np.float64)
    return None


def _difference(
    scores: NDArray[np.float64], randoms: list[NDArray[np.float64]], *, n_random: int
) -> ScoreDifference:
    """Return the mean difference from random subsets, paired by sample.

    The interval covers the scatter over samples and over seeds. With ``n_random=1`` the compared
    subset is itself random under the null hypothesis, so the scatter of one more subset is added.
    """
    stacked = np.stack(randoms)
    differences = scores - stacked.mean(axis=0)
    sample_variance = differences.var(ddof=1) / differences.size
    seed_variance = stacked.mean(axis=1).var(ddof=1) * (n_random + 1 / len(randoms))
    quantile = (1 + _LEVEL) / 2
    # The seeds' scatter contains some noise of the samples, which then counts twice: the interval
    # is rather too wide than too narrow.
    over_seeds = 0.0
    if seed_variance:
        over_seeds = t.ppf(quantile, len(randoms) - 1) * np.sqrt(seed_variance)
    over_samples = t.ppf(quantile, differences.size - 1) * np.sqrt(sample_variance)
    half = float(np.hypot(over_seeds, over_samples))
    estimate = float(differences.mean())
    return ScoreDifference(estimate, estimate - half, estimate + half)


def _sentence(first: ScoreDifference, selected: ScoreDifference) -> str:
    if first.low > 0:
        conclusion = (
            "The first neurons are better than random ones: the layer is ordered, as after "
            "Matryoshka training."
        )
    elif first.high < 0:
        conclusion = "The first neurons are worse than random ones."
    else:
        conclusion = "Whether the first neurons differ from random ones is not decided."
    return (
        f"Against random neurons the first ones score {_points(first)} and the selected ones "
        f"{_points(selected)}. {conclusion}"
    )


def _points(difference: ScoreDifference) -> str:
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.estimate:+.1f} points [{low:+.1f}, {high:+.1f}]"
