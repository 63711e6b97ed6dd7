"""Does it matter which neurons are kept? The layer's first against random against chosen ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from criticalmass.shrinking.probe_evaluator import Findings, Hits, IndexArray, Judge, QueryScores

_SEEDS = 8
_LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A difference of values at one size with its interval, all as shares of the measure."""

    estimate: float
    low: float
    high: float


def does_order_matter(
    judge: Judge, chosen: IndexArray, size: int, precision: str
) -> dict[str, Any] | None:
    """Compare the first, random and chosen neurons at equal size on the held-out part.

    Parameters
    ----------
    judge: on the held-out part.
    chosen: (n_neurons,) the winning order.
    size: neurons kept.
    precision: what they are stored in.

    Returns
    -------
    Values, differences with intervals over samples and random seeds, and a sentence; None for a
    measure without one score per sample.
    """
    d = chosen.size
    random = [np.random.default_rng(1000 + s).permutation(d) for s in range(_SEEDS)]
    orders = [np.arange(d), chosen, *random]
    seen = [_scores(judge.judge(order, (size,), precision)) for order in orders]
    if any(one is None for one in seen):
        return None
    first, best, *others = [one for one in seen if one is not None]
    # The first neurons are one more draw if the layer has no order, so theirs must stand out.
    ordered, picked = _difference(first, others, draws=1), _difference(best, others, draws=0)
    return {
        "n_kept": size,
        "first": float(first.mean()),
        "random": float(np.mean(others)),
        "chosen": float(best.mean()),
        "first_minus_random": vars(ordered),
        "chosen_minus_random": vars(picked),
        "sentence": _sentence(size, ordered, picked),
    }


def _scores(findings: Findings) -> NDArray[np.float64] | None:
    """(n_samples,) score of every sample at the only size."""
    if isinstance(findings, Hits):
        return np.asarray(findings.right[0], dtype=np.float64)
    if isinstance(findings, QueryScores):
        return np.asarray(findings.scores[0], dtype=np.float64)
    return None


def _difference(
    one: NDArray[np.float64], others: list[NDArray[np.float64]], *, draws: int
) -> Difference:
    """Mean difference to random subsets, paired by sample; seeds add their own scatter.

    With ``draws=1`` the one is a random subset too under the hypothesis that is tested: the
    interval then covers 0 as often as it says for one more of them.
    """
    stacked = np.stack(others)
    each = one - stacked.mean(axis=0)
    over_samples = each.var(ddof=1) / each.size
    over_seeds = stacked.mean(axis=1).var(ddof=1) * (draws + 1 / len(others))
    # The seeds' scatter holds some noise of the samples, which then counts twice: the careful side.
    half = t.ppf((1 + _LEVEL) / 2, len(others) - 1) * np.sqrt(over_seeds) if over_seeds else 0.0
    half = float(np.hypot(half, t.ppf((1 + _LEVEL) / 2, each.size - 1) * np.sqrt(over_samples)))
    estimate = float(each.mean())
    return Difference(estimate, estimate - half, estimate + half)


def _sentence(size: int, ordered: Difference, picked: Difference) -> str:
    words = f"[{100 * ordered.low:+.1f}, {100 * ordered.high:+.1f}]"
    lead = f"The first {size:,} neurons score {100 * ordered.estimate:+.1f} points {words} against "
    if ordered.low > 0:
        verdict = "the layer is ordered, as Matryoshka training makes it: cut from the end"
    elif ordered.high < 0:
        verdict = "its first neurons are worse than a random choice: do not cut from the end"
    else:
        verdict = "no order is seen, and none is needed to truncate it"
    choice = (
        f"the chosen ones {100 * picked.estimate:+.1f} points "
        f"[{100 * picked.low:+.1f}, {100 * picked.high:+.1f}]"
    )
    return f"{lead}as many random ones, {choice}: {verdict}."
