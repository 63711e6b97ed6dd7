"""How often the promise for stored vectors is false: ``python -m benchmarks.stored_promise``.

Every query of a pool of 20,000 is scored once for every form (rule, size, precision, re-ranking).
Their means are the truth. Each draw takes 500 queries to choose on and 1,000 others to test on,
and goes through the same steps as `shrink`: the candidate of fewest bytes, then the fixed sequence
of tests. The bar lies just above the true value of a form that is often chosen, where a false
promise is most likely. A test counts as passed if the ratio at the bar is rejected, which is an
upper limit. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

import criticalmass as cm
from benchmarks.timing import describe_machine
from criticalmass.shrinking.betting import count_rejected
from criticalmass.shrinking.data_parts import split_data
from criticalmass.shrinking.evaluators import make_stored_evaluator
from criticalmass.shrinking.probe_evaluator import LabelledRows
from criticalmass.shrinking.retrieval_evaluator import RetrievalEvaluator
from criticalmass.shrinking.shrink import make_orders
from criticalmass.shrinking.stored_candidates import (
    StoredCandidate,
    forms_of_front,
    forms_to_test,
)
from criticalmass.shrinking.stored_search import StoredEvaluator
from criticalmass.shrinking.stored_vectors import ALL, Family, Form, make_families

N_POOL, N_SELECTION, N_TEST, N_STORED, WIDTH = 20_000, 500, 1_000, 1_500, 24
PRECISIONS, RERANKS, LEVEL = ("float16", "int8", "binary"), (0, 4), 0.95
Scores = dict[tuple[object, ...], np.ndarray]


def draw_vectors(n: int, seed: int) -> np.ndarray:
    """Vectors near 6 directions of 24, with noise in all of them."""
    mix = np.random.default_rng(1).standard_normal((6, WIDTH))
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, 6)) @ mix + rng.standard_normal((n, WIDTH))).astype(np.float32)


def key(form: Form) -> tuple[object, ...]:
    """Return what identifies a form."""
    return tuple(form.row().values())


def score_pool(families: list[Family], evaluator: StoredEvaluator) -> Scores:
    """Return the (n_pool,) scores of every form."""
    scores: Scores = {}
    for family in families:
        for size in (WIDTH,) if family.selector == ALL else range(1, WIDTH + 1):
            short_map = family.short_map(size)
            forms = [(short_map, precision) for precision in PRECISIONS]
            for precision, results in zip(
                PRECISIONS, evaluator.scores(forms, RERANKS), strict=True
            ):
                for rerank, result in zip(RERANKS, results, strict=True):
                    scores[key(Form(family, size, precision, rerank))] = result
    return scores


def rank(
    families: list[Family], means: dict[tuple[object, ...], float], keep: float
) -> list[StoredCandidate]:
    """Return the candidates as `rank_stored` sorts them, with every size tested."""
    candidates = []
    for family in families:
        sizes = (WIDTH,) if family.selector == ALL else range(1, WIDTH + 1)
        for precision in PRECISIONS:
            for rerank in RERANKS:
                values = {k: means[key(Form(family, k, precision, rerank))] for k in sizes}
                needed = min((k for k, value in values.items() if value >= keep), default=None)
                candidates.append(
                    StoredCandidate(family, precision, rerank, values, 1.0, needed, WIDTH)
                )
    return sorted(candidates, key=lambda candidate: candidate.sort_key)


def is_rejected(scores: np.ndarray, ratio: float, level: float) -> bool:
    """Whether "the mean is at most ``ratio``" is rejected, as in `score_ratio_bound`."""
    order = np.random.default_rng(0).permutation(scores.size)
    ratios = np.array([np.ceil(ratio * 5000 - 1e-9) / 5000])
    return count_rejected(ratios, scores[order], np.ones(scores.size), 1.0 - level) == 1


def main() -> None:
    """Draw, choose, test and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=1_000)
    draws = parser.parse_args().draws
    with tempfile.TemporaryDirectory() as folder:
        x = draw_vectors(2 * N_STORED, 0)
        store = cm.import_features({"train": x, "test": x[:50] + 1.0}, out=Path(folder) / "store")
        parts = split_data(store, None)
        orders = make_orders(parts, ("random", "greedy-cka", "first"), 0)
        families = make_families(parts.fit.rows, orders, seed=0, with_pca=True)
        corpus = make_stored_evaluator("retrieval-recall", parts, True).stored
        pool = draw_vectors(N_POOL, 99)
        queries = LabelledRows(pool, np.zeros(N_POOL, np.int64))
        evaluator = StoredEvaluator(RetrievalEvaluator("retrieval-recall", corpus, queries))
        scores = score_pool(families, evaluator)
    truth = {form: float(values.mean()) for form, values in scores.items()}
    print(describe_machine())
    print(
        "\n| bar | promises | false | share | any row of the front false | share |"
        "\n| ---: | ---: | ---: | --- | ---: | --- |"
    )
    for target in (0.6, 0.8, 0.9, 0.95):
        # Just above the true value of the form that is promised most often at this bar.
        often = draw_promises(target, families, scores, truth, 100).promised.most_common(1)[0][0]
        keep = truth[often] + 1e-6
        counts = draw_promises(keep, families, scores, truth, draws)
        given = counts.promised.total()
        print(
            f"| {keep:.4f} | {given} of {draws} | {counts.false} | {_share(counts.false, given)} "
            f"| {counts.any_false} | {_share(counts.any_false, draws)} |",
            flush=True,
        )


@dataclass(frozen=True)
class PromiseCounts:
    """What was promised in many draws of queries.

    Attributes
    ----------
    promised: form -> number of draws that promised it.
    false: number of promises whose true value is below the bar.
    any_false: number of draws in which a bound of the front lies above its true value.
    """

    promised: Counter[tuple[object, ...]]
    false: int
    any_false: int


def draw_promises(
    keep: float,
    families: list[Family],
    scores: Scores,
    truth: dict[tuple[object, ...], float],
    draws: int,
) -> PromiseCounts:
    """Choose and test with new queries ``draws`` times."""
    rng = np.random.default_rng(7)
    promised: Counter[tuple[object, ...]] = Counter()
    false = any_false = 0
    for _ in range(draws):
        drawn = rng.choice(N_POOL, N_SELECTION + N_TEST, replace=False)
        first, second = drawn[:N_SELECTION], drawn[N_SELECTION:]
        means = {form: float(values[first].mean()) for form, values in scores.items()}
        candidates = rank(families, means, keep)
        promise = None
        for form in forms_to_test(candidates[0], ("float16",)):
            if not is_rejected(scores[key(form)][second], keep, LEVEL):
                break
            promise = key(form)
        if promise is not None:
            promised[promise] += 1
            false += truth[promise] < keep
        forms = [f for f in forms_of_front(candidates, keep) if key(f) in truth]
        level = 1.0 - (1.0 - LEVEL) / len(forms)
        any_false += any(
            is_rejected(scores[key(f)][second], truth[key(f)], level)
            for f in forms
            if truth[key(f)] < 1.0
        )
    return PromiseCounts(promised, false, any_false)


def _share(n: int, total: int) -> str:
    """Write a share with its exact 95 % interval."""
    interval = binomtest(n, total).proportion_ci()
    return f"{n / total:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
