"""CKA of all prefixes against one n x n CKA per subset."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import centred_gram, gram_cka
from benchmarks.problems import Matrix, Recipe, synthetic
from benchmarks.search import Line
from benchmarks.timing import Seconds, median, one_thread, spread, tell, timed
from criticalmass.cka import prefix_cka
from criticalmass.selectors import DEFAULT_FRACTIONS, sizes_for
from criticalmass.statistics import moments


def compare_cka(recipe: Recipe, n_orders: int, repeats: int, target: float) -> list[Line]:
    """Time ours with and without the second moment, and the textbook on a sample."""
    raw = synthetic(recipe).x_train
    n, d = raw.shape
    x = raw.astype(np.float64)
    orders = [np.random.default_rng(seed).permutation(d) for seed in range(n_orders)]
    sizes = sizes_for(DEFAULT_FRACTIONS, d)
    prefix_cka(np.eye(4), np.arange(4))
    shared: list[Seconds] = []
    prefixes: list[Seconds] = []
    peer: list[Seconds] = []
    worst = 0.0
    for run in range(repeats):
        scatter, seconds = timed(partial(_scatter, raw))
        shared.append(seconds)
        values, seconds = timed(partial(_prefixes, scatter, orders))
        prefixes.append(seconds)
        with one_thread():
            whole, total = timed(lambda: centred_gram(x))
            order = orders[run % n_orders]
            for k in sizes:
                found, seconds = timed(partial(_subset, x, order[:k], whole))
                total += seconds.times(1 if k == d else n_orders)
                worst = max(worst, abs(found - float(values[run % n_orders][k - 1])))
        peer.append(total)
        tell(f"cka run {run + 1}: ours {prefixes[-1].cpu:.3f} s, peer {total.cpu:.1f} s (scaled)")
    fits = (len(sizes) - 1) * n_orders + 1
    note = (
        f"both float64; peer timed on {len(sizes)} of {fits} subsets a run (one order), scaled per "
        f"size, the whole layer's matrix once; ours gives all {n_orders * d} prefixes, largest "
        f"difference from the textbook {worst:.1e}. CPU over runs: ours {spread(prefixes)}, "
        f"peer {spread(peer)}."
    )
    work = f"CKA of all prefixes, {n_orders} seeds, n={n} d={d}"
    against = f"one n x n CKA per subset at {len(sizes)} fractions"
    both = median([a + b for a, b in zip(shared, prefixes, strict=True)])
    first, second = f"{work}, from the second moment", f"{work}, second moment included"
    return [
        Line(first, against, median(prefixes), median(peer), target, "", note),
        Line(second, against, both, median(peer), None, "", ""),
    ]


def _scatter(x: Matrix) -> NDArray[np.float64]:
    return moments(x).scatter


def _prefixes(
    scatter: NDArray[np.float64], orders: list[NDArray[np.intp]]
) -> list[NDArray[np.float64]]:
    return [prefix_cka(scatter, order) for order in orders]


def _subset(x: NDArray[np.float64], columns: NDArray[np.intp], whole: NDArray[np.float64]) -> float:
    return gram_cka(x[:, columns], whole)
