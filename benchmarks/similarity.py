"""Similarities of all prefixes against one textbook computation per subset.

``python -m benchmarks.similarity [--store DIR] [--rows 5000]`` has a row for every measure; CKA of
20 orders is a row of `benchmarks.probes`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from benchmarks.peers import centred_gram, gram_cka
from benchmarks.problems import Matrix, Recipe, synthetic
from benchmarks.search import Line
from benchmarks.timing import Seconds, machine, median, one_thread, spread, tell, timed
from criticalmass.core.moments import moments
from criticalmass.measures.registry import SIMILARITIES, get_similarity
from criticalmass.measures.similarity.cka import prefix_cka
from criticalmass.measures.similarity.retrieval import graded, ndcg, recall
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, sizes_for
from criticalmass.storage.features import FeatureStore

_N_ORDERS = 5


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every similarity and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.similarity", description=__doc__)
    parser.add_argument("--store", type=Path, help="its test split; a synthetic layer by default")
    parser.add_argument("--rows", type=int, default=5000, help="on which peers run (default 5000)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    asked = parser.parse_args(arguments)
    every = _rows(asked.store, quick=asked.quick)
    _measure_all(every[:60])  # compiles
    alone, lines = _measure_all(every), []
    part = every[: asked.rows]
    for name, (values, ours) in _measure_all(part).items():
        found, peer = _textbook(name, part)
        apart = np.abs(found - values[0]).max()
        n_orders_each = [1 if k == part.shape[1] else _N_ORDERS for k in _sizes(part)]
        total = sum((s.times(n) for s, n in zip(peer, n_orders_each, strict=True)), Seconds())
        tell(f"{name}: ours {ours.cpu:.2f} s, textbook {total.cpu:.1f} s")
        lines.append(
            f"| {name} | {alone[name][1].cpu:.2f} | {alone[name][1].wall:.2f} | {ours.cpu:.2f} "
            f"| {total.cpu:.1f} | {total.cpu / ours.cpu:.3g} x | {apart:.1e} |"
        )
    n, d = every.shape
    print(
        f"Machine: {machine()}. {len(_sizes(every))} sizes x {_N_ORDERS} orders, d={d}, one run, "
        "one thread. Ours with replicates or scores for the interval; the textbook has the value "
        "alone, timed on one order and scaled.\n\n"
        f"| measure | n={n} CPU s | wall s | n={len(part)} CPU s | textbook CPU s | ratio "
        "| largest difference |\n| - | -: | -: | -: | -: | -: | -: |",
        *lines,
        sep="\n",
    )


def _rows(store: Path | None, *, quick: bool) -> Matrix:
    if store is not None:
        return np.asarray(FeatureStore.open(store).features("test")[:], dtype=np.float32)
    return synthetic(Recipe(120, 1, 32, 3) if quick else Recipe(10_000, 1, 1280, 10)).x_train


def _sizes(rows: Matrix) -> tuple[int, ...]:
    return sizes_for(DEFAULT_FRACTIONS, rows.shape[1])


def _measure_all(rows: Matrix) -> Mapping[str, tuple[NDArray[np.float64], Seconds]]:
    """Values (n_orders, n_sizes) and time of every similarity."""
    d = rows.shape[1]
    orders = np.stack([np.random.default_rng(seed).permutation(d) for seed in range(_N_ORDERS)])
    found = {}
    with one_thread():
        for name in SIMILARITIES:
            task = SimilarityTask(WholeLayer(rows), orders, _sizes(rows))
            scores, seconds = timed(partial(get_similarity(name), task))
            found[name] = scores.values, seconds
    return found


def _textbook(name: str, rows: Matrix) -> tuple[NDArray[np.float64], list[Seconds]]:
    """Values (n_sizes,) of order 0 and the time that each took."""
    order, found, spent = np.random.default_rng(0).permutation(rows.shape[1]), [], []
    with one_thread():
        compare = _PEERS[name](rows)
        for k in _sizes(rows):
            value, seconds = timed(partial(compare, order[:k]))
            found.append(value)
            spent.append(seconds)
    return np.array(found), spent


Compare = Callable[[NDArray[np.intp]], float]


def _gram(rows: Matrix, *, debiased: bool) -> Compare:
    """One n x n matrix per subset."""
    x = rows.astype(np.float64)
    if not debiased:
        centred = centred_gram(x)
        return lambda kept: gram_cka(x[:, kept], centred)
    n = len(x)

    def hsic(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
        a, b = k.sum(axis=0), m.sum(axis=0)
        ones = a.sum() * b.sum() / ((n - 1) * (n - 2))
        return float(np.vdot(k, m) + ones - 2.0 / (n - 2) * (a @ b))

    def hollow(y: NDArray[np.float64]) -> NDArray[np.float64]:
        y = y - y.mean(axis=0)
        gram = y @ y.T
        np.fill_diagonal(gram, 0.0)
        return gram

    whole = hollow(x)

    def compare(kept: NDArray[np.intp]) -> float:
        part = hollow(x[:, kept])
        return hsic(part, whole) / float(np.sqrt(hsic(part, part) * hsic(whole, whole)))

    return compare


def _singular(rows: Matrix) -> Compare:
    """Singular values of the cross-covariance of every subset."""
    x = rows - rows.mean(axis=0, dtype=np.float64)

    def compare(kept: NDArray[np.intp]) -> float:
        nuclear = np.linalg.svd(x.T @ x[:, kept], compute_uv=False).sum()
        return float(nuclear / (np.linalg.norm(x) * np.linalg.norm(x[:, kept])))

    return compare


def _searched(rows: Matrix, metric: str, *, gains: bool) -> Compare:
    """Search all neighbours anew in every subset, with scikit-learn."""
    x = rows - rows.mean(axis=0) if metric == "euclidean" else rows
    asking = WholeLayer(rows).asking

    def search(kept: NDArray[np.intp]) -> NDArray[np.intp]:
        columns = np.ascontiguousarray(x[:, kept])
        model = NearestNeighbors(n_neighbors=11, metric=metric, algorithm="brute").fit(columns)
        lists = model.kneighbors(columns[asking], return_distance=False)
        other = lists != asking[:, None]
        other[:, -1] &= ~other.all(axis=1)
        return np.asarray(lists[other].reshape(len(lists), -1))

    whole = search(np.arange(rows.shape[1]))

    def compare(kept: NDArray[np.intp]) -> float:
        found = search(kept)
        return float((ndcg(found, whole, graded(10)) if gains else recall(found, whole)).mean())

    return compare


_PEERS: Mapping[str, Callable[[Matrix], Compare]] = {
    "cka": partial(_gram, debiased=False),
    "cka-debiased": partial(_gram, debiased=True),
    "procrustes": _singular,
    "mutual-knn": partial(_searched, metric="euclidean", gains=False),
    "retrieval": partial(_searched, metric="cosine", gains=True),
    "retrieval-recall": partial(_searched, metric="cosine", gains=False),
}

if __name__ == "__main__":
    main()
