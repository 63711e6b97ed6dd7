"""How often `advise` sees an order of the dimensions: ``python -m benchmarks.prefix_order``.

Draws vectors whose dimensions have very different variances, in a random order (there is none to
be seen) or in falling order, and counts the answers.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from scipy.stats import binomtest

from benchmarks.timing import describe_machine
from criticalmass.core.threads import limit_threads
from criticalmass.shrinking.order_effect import measure_prefix
from criticalmass.shrinking.probe_evaluator import LabelledRows
from criticalmass.shrinking.retrieval_evaluator import RetrievalEvaluator

N_STORED, N_QUERIES = 500, 100


def answer(width: int, decay: float, seed: int, *, is_ordered: bool) -> str:
    """Draw vectors and return the answer of the test."""
    rng = np.random.default_rng(seed)
    scales = np.arange(1.0, width + 1.0) ** -decay
    scales = scales if is_ordered else rng.permutation(scales)
    x = (rng.standard_normal((N_STORED + N_QUERIES, width)) * scales).astype(np.float32)
    stored, queries = (
        LabelledRows(part, np.zeros(len(part), np.int64)) for part in np.split(x, [N_STORED])
    )
    return measure_prefix(RetrievalEvaluator("retrieval", stored, queries)).answer


def main() -> None:
    """Count the answers and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefix_order")
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    print(
        f"Machine: {describe_machine()}. {N_STORED} vectors, {N_QUERIES} queries, {draws} draws."
        "\n\n"
        "| dimensions | variances | order | yes | no | cannot say |\n| -: | - | - | - | -: | -: |"
    )
    with limit_threads(1):
        for width, decay in ((16, 0.5), (64, 0.5), (64, 1.0)):
            for is_ordered in (False, True):
                counts = Counter(
                    answer(width, decay, seed, is_ordered=is_ordered) for seed in range(draws)
                )
                interval = binomtest(counts["yes"], draws).proportion_ci(method="exact")
                print(
                    f"| {width} | j^-{2 * decay:g} | {'falling' if is_ordered else 'random'} | "
                    f"{counts['yes'] / draws:.3f} [{interval.low:.3f}, {interval.high:.3f}] | "
                    f"{counts['no'] / draws:.3f} | {counts['cannot say'] / draws:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
