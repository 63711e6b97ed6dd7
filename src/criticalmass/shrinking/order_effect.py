"""The effect of the order of neurons: the first against random against selected neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from criticalmass.core.rows import Rows, RowSubset, rows_as_float32
from criticalmass.measures.nearest import CandidateRows
from criticalmass.measures.similarity.retrieval import N_NEIGHBOURS, graded_gains, ndcg
from criticalmass.shrinking.candidates import Goal
from criticalmass.shrinking.probe_evaluator import (
    Evaluator,
    IndexArray,
    PairedCorrect,
    QueryScores,
    SubsetScores,
)
from criticalmass.shrinking.retrieval_evaluator import RetrievalEvaluator
from criticalmass.shrinking.stored_search import StoredEvaluator

_N_SEEDS = 8
_LEVEL = 0.95
#: A difference of the first dimensions from random ones that matters, in units of the measure.
PREFIX_MARGIN = 0.02
_PREFIX_SHARES, _N_PREFIX_SEEDS = (8, 4, 2), 16
_MOST_PREFIX_ROWS, _MOST_PREFIX_QUERIES, _PREFIX_SEED = 100_000, 500, 4


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
    goal: Goal,
    selector: str | None = None,
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
    goal: share of the whole layer's value that must be kept, and the confidence.
    selector: name of the order, where it is not that of the kept neurons.

    Returns
    -------
    Mean scores, the share that the first neurons keep with its lower bound, differences with
    intervals over samples and random seeds, and a sentence; None for a measure without one score
    per sample.
    """
    d = order.size
    orders = [np.arange(d), order, *_random_orders(d)]
    of_first: SubsetScores
    others: Sequence[SubsetScores]
    if isinstance(evaluator, StoredEvaluator):
        of_first, *others = evaluator.evaluate_orders(orders, size, precision)
    else:
        of_first = evaluator.evaluate(orders[0], (size,), precision)
        if _sample_scores(of_first) is None:
            return None
        others = [evaluator.evaluate(compared, (size,), precision) for compared in orders[1:]]
    first = np.asarray(_sample_scores(of_first))
    selected, *randoms = (np.asarray(_sample_scores(of_order)) for of_order in others)
    # Without an order the first neurons are one more random subset, so their difference must
    # exceed the scatter of one random subset.
    first_effect = _difference(first, randoms, n_random=1)
    selected_effect = _difference(selected, randoms, n_random=0)
    ratio, bound = float(first.mean()) / of_first.value_full, of_first.bound(0, goal.level)
    is_stored = isinstance(evaluator, StoredEvaluator)
    unit, whole = ("dimensions", "vectors") if is_stored else ("neurons", "layer")
    truncation = (
        f"At size {size:,} the first {unit} keep {ratio:.1%} of the whole {whole}'"
        f"{'' if is_stored else 's'} value (lower "
        f"bound {bound:.1%} at {goal.level:.0%} confidence), where {goal.keep:.4g} is asked for: "
    )
    truncation += (
        f"truncating the {whole} to them keeps enough, too."
        if bound >= goal.keep
        else f"do not truncate the {whole} to them."
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
        "sentence": f"{truncation} {_sentence(first_effect, selected_effect, unit, selector)}",
    }


def _random_orders(d: int, n: int = _N_SEEDS) -> list[IndexArray]:
    return [np.random.default_rng(1000 + s).permutation(d) for s in range(n)]


def _sample_scores(scores: SubsetScores) -> NDArray[np.float64] | None:
    """Return the (n_samples,) scores of the only size; None if the measure has none."""
    if isinstance(scores, PairedCorrect):
        return np.asarray(scores.correct[0], dtype=np.float64)
    if isinstance(scores, QueryScores):
        return np.asarray(scores.scores[0], dtype=np.float64)
    return None


def _difference(
    scores: NDArray[np.float64],
    randoms: list[NDArray[np.float64]],
    *,
    n_random: int,
    level: float = _LEVEL,
) -> ScoreDifference:
    """Return the mean difference from random subsets, paired by sample.

    The interval covers the scatter over samples and over seeds. With ``n_random=1`` the compared
    subset is itself random under the null hypothesis, so the scatter of one more subset is added.
    """
    stacked = np.stack(randoms)
    differences = scores - stacked.mean(axis=0)
    sample_variance = differences.var(ddof=1) / differences.size
    seed_variance = stacked.mean(axis=1).var(ddof=1) * (n_random + 1 / len(randoms))
    quantile = (1 + level) / 2
    # The seeds' scatter contains some noise of the samples, which then counts twice: the interval
    # is rather too wide than too narrow.
    over_seeds = 0.0
    if seed_variance:
        over_seeds = stdtrit(len(randoms) - 1, quantile) * np.sqrt(seed_variance)
    over_samples = stdtrit(differences.size - 1, quantile) * np.sqrt(sample_variance)
    half = float(np.hypot(over_seeds, over_samples))
    estimate = float(differences.mean())
    return ScoreDifference(estimate, estimate - half, estimate + half)


@dataclass(frozen=True, eq=False)
class PrefixTest:
    """Whether the first dimensions are better than random ones, as after Matryoshka training.

    Attributes
    ----------
    answer: "yes": they are, with an interval above 0, at some size; "no": they are not, and at
        half of the dimensions the interval is below `PREFIX_MARGIN`; "cannot say" otherwise.
    table: one row per size: ``n_kept``, the values of the ``first`` and of ``random`` dimensions
        as shares of that of whole vectors, and their ``difference`` with ``low`` and ``high``.
        The intervals hold together at 95 % (Bonferroni).
    n_stored, n_queries: vectors that were searched, and queries.
    """

    answer: str
    table: pd.DataFrame
    n_stored: int
    n_queries: int

    @property
    def sentence(self) -> str:
        """The answer in plain words, with the size that shows it best."""
        last = self.table.index[-1]
        row = self.table.loc[self.table["low"].idxmax() if self.answer == "yes" else last]
        meaning = {
            "yes": "the dimensions are ordered, as after Matryoshka training",
            "no": "the first dimensions are no better than random ones",
            "cannot say": "the interval holds 0 and a difference that matters",
        }
        return (
            f"Matryoshka: {self.answer} ({meaning[self.answer]}). The first "
            f"{int(row['n_kept']):,} dimensions keep {row['first']:.1%} of the neighbour "
            f"agreement, as many random ones {row['random']:.1%}: "
            f"{100 * row['difference']:+.1f} points [{100 * row['low']:+.1f}, "
            f"{100 * row['high']:+.1f}], {self.n_queries:,} queries among {self.n_stored:,} "
            "vectors."
        )


def measure_prefix(evaluator: RetrievalEvaluator) -> PrefixTest:
    """Compare the first dimensions with random ones at an eighth, a quarter and half of them.

    Parameters
    ----------
    evaluator: neighbours of queries among stored vectors; at most `_MOST_PREFIX_ROWS` and
        `_MOST_PREFIX_QUERIES` of them are used, drawn with a fixed seed.
    """
    rng = np.random.default_rng(_PREFIX_SEED)
    rows, queries = (
        _sample(part, most, rng)
        for part, most in (
            (evaluator.corpus.rows, _MOST_PREFIX_ROWS),
            (evaluator.queries.rows, _MOST_PREFIX_QUERIES),
        )
    )
    d = int(rows.shape[1])
    sizes = tuple(sorted({max(1, d // share) for share in _PREFIX_SHARES}))
    n = int(rows.shape[0])
    candidates = CandidateRows(rows, np.arange(n, dtype=np.int32), rows_as_float32, "cosine")
    k = min(N_NEIGHBOURS, n)
    vectors = rows_as_float32(queries, 0, int(queries.shape[0]))
    whole = candidates.nearest(vectors, np.arange(d), (d,), k)[0]
    scores = []
    for order in (np.arange(d), *_random_orders(d, _N_PREFIX_SEEDS)):
        lists = candidates.nearest(vectors, order, sizes, k)
        scores.append([ndcg(ids, whole, graded_gains(k)) for ids in lists])
    rows_of_table = []
    for position, size in enumerate(sizes):
        first, *randoms = (of_order[position] for of_order in scores)
        level = 1.0 - (1.0 - _LEVEL) / len(sizes)
        effect = _difference(first, randoms, n_random=1, level=level)
        rows_of_table.append(
            {
                "n_kept": size, "first": float(first.mean()), "random": float(np.mean(randoms)),
                "difference": effect.estimate, "low": effect.low, "high": effect.high,
            }
        )  # fmt: skip
    table = pd.DataFrame(rows_of_table)
    if (table["low"] > 0.0).any():
        answer = "yes"
    else:
        answer = "no" if table["high"].iloc[-1] < PREFIX_MARGIN else "cannot say"
    return PrefixTest(answer, table, n, len(vectors))


def _sample(rows: Rows, most: int, rng: np.random.Generator) -> Rows:
    """Draw at most ``most`` rows and hold them in memory."""
    n = int(rows.shape[0])
    if n > most:
        rows = RowSubset(rows, np.sort(rng.choice(n, most, replace=False)))
    return np.asarray(rows[0 : min(n, most)])


def _sentence(
    first: ScoreDifference, selected: ScoreDifference, unit: str, selector: str | None
) -> str:
    if first.low > 0:
        ordered = "the layer is ordered" if unit == "neurons" else "they are ordered"
        conclusion = (
            f"The first {unit} are better than random ones: {ordered}, as after Matryoshka "
            "training."
        )
    elif first.high < 0:
        conclusion = f"The first {unit} are worse than random ones."
    else:
        conclusion = f"Whether the first {unit} differ from random ones is not decided."
    chosen = "the selected ones" if selector is None else f"those by {selector}"
    return (
        f"Against random {unit} the first ones score {_points(first)} and {chosen} "
        f"{_points(selected)}. {conclusion}"
    )


def _points(difference: ScoreDifference) -> str:
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.estimate:+.1f} points [{low:+.1f}, {high:+.1f}]"
