"""Similarities of all prefixes, compared with one textbook computation per subset.

``python -m benchmarks.similarity [--store DIR] [--rows 5000]`` prints a row for every measure. CKA
of 20 orders is a row of `benchmarks.probes`.
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
from benchmarks.problems import LayerRecipe, Matrix, synthetic_layer
from benchmarks.search import ComparisonRow
from benchmarks.timing import (
    Seconds,
    add_load_option,
    cpu_range,
    describe_machine,
    limit_to_one_thread,
    log,
    measure_row,
    median,
    time_call,
)
from criticalmass.core.moments import moments
from criticalmass.measures.registry import SIMILARITIES, get_similarity
from criticalmass.measures.similarity.cka import prefix_cka
from criticalmass.measures.similarity.reconstruction import RIDGE
from criticalmass.measures.similarity.retrieval import graded_gains, ndcg, recall
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, sizes_for
from criticalmass.storage.features import FeatureStore

_N_ORDERS = 5


def compare_cka(
    recipe: LayerRecipe, n_orders: int, repeats: int, target: float
) -> list[ComparisonRow]:
    """Time ours with and without the second moment, and the textbook formula on a sample."""
    raw = synthetic_layer(recipe).x_train
    n, d = raw.shape
    x = raw.astype(np.float64)
    orders = [np.random.default_rng(seed).permutation(d) for seed in range(n_orders)]
    sizes = sizes_for(DEFAULT_FRACTIONS, d)
    prefix_cka(np.eye(4), np.arange(4))
    moment_times: list[Seconds] = []
    prefix_times: list[Seconds] = []
    peer_times: list[Seconds] = []
    largest = 0.0
    for run in range(repeats):
        scatter, seconds = time_call(partial(_scatter, raw))
        moment_times.append(seconds)
        values, seconds = time_call(partial(_prefixes, scatter, orders))
        prefix_times.append(seconds)
        with limit_to_one_thread():
            gram, total = time_call(lambda: centred_gram(x))
            order = orders[run % n_orders]
            for k in sizes:
                value, seconds = time_call(partial(_subset_cka, x, order[:k], gram))
                total += seconds.scaled(1 if k == d else n_orders)
                largest = max(largest, abs(value - float(values[run % n_orders][k - 1])))
        peer_times.append(total)
        log(
            f"cka run {run + 1}: ours {prefix_times[-1].cpu:.3f} s, peer {total.cpu:.1f} s (scaled)"
        )
    n_subsets = (len(sizes) - 1) * n_orders + 1
    note = (
        f"both float64; peer timed on {len(sizes)} of {n_subsets} subsets per run (one order), "
        f"scaled per size, the whole layer's matrix once; ours gives all {n_orders * d} prefixes, "
        f"largest difference from the textbook {largest:.1e}. CPU over runs: ours "
        f"{cpu_range(prefix_times)}, peer {cpu_range(peer_times)}."
    )
    work = f"CKA of all prefixes, {n_orders} seeds, n={n} d={d}"
    against = f"one n x n CKA per subset at {len(sizes)} fractions"
    with_moment = median([a + b for a, b in zip(moment_times, prefix_times, strict=True)])
    first, second = f"{work}, from the second moment", f"{work}, second moment included"
    return [
        ComparisonRow(first, against, median(prefix_times), median(peer_times), target, "", note),
        ComparisonRow(second, against, with_moment, median(peer_times), None, "", ""),
    ]


def _scatter(x: Matrix) -> NDArray[np.float64]:
    return moments(x).scatter


def _prefixes(
    scatter: NDArray[np.float64], orders: list[NDArray[np.intp]]
) -> list[NDArray[np.float64]]:
    return [prefix_cka(scatter, order) for order in orders]


def _subset_cka(
    x: NDArray[np.float64], columns: NDArray[np.intp], gram: NDArray[np.float64]
) -> float:
    return gram_cka(x[:, columns], gram)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every similarity and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.similarity", description=__doc__)
    parser.add_argument(
        "--store", type=Path, help="store whose test split is used; a synthetic layer by default"
    )
    parser.add_argument(
        "--rows", type=int, default=5000, help="rows for the textbook (default 5000)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    add_load_option(parser)
    options = parser.parse_args(arguments)
    all_rows = _read_rows(options.store, quick=options.quick)
    _measure_all(all_rows[:60])  # compiles
    lines, load = measure_row(
        lambda: _table_rows(all_rows, all_rows[: options.rows]),
        even_if_busy=options.even_if_busy or options.quick,
    )
    if lines is None:
        print(load)
        return
    n, d = all_rows.shape
    print(
        f"Machine: {describe_machine()}. {len(_sizes(all_rows))} sizes x {_N_ORDERS} orders, "
        f"d={d}, one run, one thread, {load}. Ours with replicates or scores for the interval; the "
        "textbook computes only the value, timed on one order and scaled.\n\n"
        f"| measure | n={n} CPU s | wall s | n={min(n, options.rows)} CPU s | textbook CPU s "
        "| ratio | largest difference |\n| - | -: | -: | -: | -: | -: | -: |",
        *lines,
        sep="\n",
    )


def _table_rows(all_rows: Matrix, part: Matrix) -> list[str]:
    results, lines = _measure_all(all_rows), []
    for name, (values, ours) in _measure_all(part).items():
        textbook, peer_times = _textbook(name, part)
        difference = np.abs(textbook - values[0]).max()
        n_orders_each = [1 if k == part.shape[1] else _N_ORDERS for k in _sizes(part)]
        total = sum(
            (s.scaled(n) for s, n in zip(peer_times, n_orders_each, strict=True)), Seconds()
        )
        log(f"{name}: ours {ours.cpu:.2f} s, textbook {total.cpu:.1f} s")
        lines.append(
            f"| {name} | {results[name][1].cpu:.2f} | {results[name][1].wall:.2f} | {ours.cpu:.2f} "
            f"| {total.cpu:.1f} | {total.cpu / ours.cpu:.3g} x | {difference:.1e} |"
        )
    return lines


def _read_rows(store: Path | None, *, quick: bool) -> Matrix:
    if store is not None:
        return np.asarray(FeatureStore.open(store).features("test")[:], dtype=np.float32)
    return synthetic_layer(
        LayerRecipe(120, 1, 32, 3) if quick else LayerRecipe(10_000, 1, 1280, 10)
    ).x_train


def _sizes(rows: Matrix) -> tuple[int, ...]:
    return sizes_for(DEFAULT_FRACTIONS, rows.shape[1])


def _measure_all(rows: Matrix) -> Mapping[str, tuple[NDArray[np.float64], Seconds]]:
    """Return the (n_orders, n_sizes) values and the time of every similarity."""
    d = rows.shape[1]
    orders = np.stack([np.random.default_rng(seed).permutation(d) for seed in range(_N_ORDERS)])
    results = {}
    with limit_to_one_thread():
        for name in SIMILARITIES:
            layer = WholeLayer(rows, training_moments=partial(moments, rows))
            task = SimilarityTask(layer, orders, _sizes(rows))
            scores, seconds = time_call(partial(get_similarity(name), task))
            results[name] = scores.values, seconds
    return results


def _textbook(name: str, rows: Matrix) -> tuple[NDArray[np.float64], list[Seconds]]:
    """Return the (n_sizes,) values of order 0 and the time of each."""
    order = np.random.default_rng(0).permutation(rows.shape[1])
    values, times = [], []
    with limit_to_one_thread():
        compare = _PEERS[name](rows)
        for k in _sizes(rows):
            value, seconds = time_call(partial(compare, order[:k]))
            values.append(value)
            times.append(seconds)
    return np.array(values), times


Compare = Callable[[NDArray[np.intp]], float]


def _gram_cka(rows: Matrix, *, debiased: bool) -> Compare:
    """Compute CKA with one n x n matrix per subset."""
    x = rows.astype(np.float64)
    if not debiased:
        centred = centred_gram(x)
        return lambda columns: gram_cka(x[:, columns], centred)
    n = len(x)

    def hsic(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
        a, b = k.sum(axis=0), m.sum(axis=0)
        ones = a.sum() * b.sum() / ((n - 1) * (n - 2))
        return float(np.vdot(k, m) + ones - 2.0 / (n - 2) * (a @ b))

    def hollow_gram(y: NDArray[np.float64]) -> NDArray[np.float64]:
        y = y - y.mean(axis=0)
        gram = y @ y.T
        np.fill_diagonal(gram, 0.0)
        return gram

    full = hollow_gram(x)

    def compare(columns: NDArray[np.intp]) -> float:
        part = hollow_gram(x[:, columns])
        return hsic(part, full) / float(np.sqrt(hsic(part, part) * hsic(full, full)))

    return compare


def _procrustes(rows: Matrix) -> Compare:
    """Compute Procrustes similarity from the singular values of the cross-covariance."""
    x = rows - rows.mean(axis=0, dtype=np.float64)

    def compare(columns: NDArray[np.intp]) -> float:
        nuclear = np.linalg.svd(x.T @ x[:, columns], compute_uv=False).sum()
        return float(nuclear / (np.linalg.norm(x) * np.linalg.norm(x[:, columns])))

    return compare


def _neighbours(rows: Matrix, metric: str, *, gains: bool) -> Compare:
    """Compute neighbour measures with scikit-learn, with a new search for every subset."""
    x = rows - rows.mean(axis=0) if metric == "euclidean" else rows
    queries = WholeLayer(rows).query_rows

    def search(neurons: NDArray[np.intp]) -> NDArray[np.intp]:
        columns = np.ascontiguousarray(x[:, neurons])
        model = NearestNeighbors(n_neighbors=11, metric=metric, algorithm="brute").fit(columns)
        lists = model.kneighbors(columns[queries], return_distance=False)
        is_other = lists != queries[:, None]
        is_other[:, -1] &= ~is_other.all(axis=1)
        return np.asarray(lists[is_other].reshape(len(lists), -1))

    full = search(np.arange(rows.shape[1]))

    def compare(columns: NDArray[np.intp]) -> float:
        lists = search(columns)
        return float((ndcg(lists, full, graded_gains(10)) if gains else recall(lists, full)).mean())

    return compare


def _without_top(rows: Matrix) -> Compare:
    """CKA after the five first component scores are regressed out of every neuron."""
    x = rows - rows.mean(axis=0, dtype=np.float64)
    scores = np.linalg.svd(x, full_matrices=False)[0][:, :5]
    return _gram_cka(x - scores @ (scores.T @ x), debiased=False)


def _regression(rows: Matrix) -> Compare:
    """Regress the dropped neurons on the kept ones, with the ridge as further rows."""
    x = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    scale = x.std(axis=0)
    scale[scale == 0.0] = 1.0
    d = x.shape[1]

    def compare(columns: NDArray[np.intp]) -> float:
        k = len(columns)
        if k == d:
            return 1.0
        dropped = np.setdiff1d(np.arange(d), columns)
        z = x / scale
        kept = np.vstack([z[:, columns], np.sqrt(RIDGE * d) * np.eye(k)])
        target = np.vstack([z[:, dropped], np.zeros((k, d - k))])
        weights = np.linalg.lstsq(kept, target, rcond=None)[0]
        errors = (z[:, dropped] - z[:, columns] @ weights) * scale[dropped]
        return float(1 - np.square(errors).sum() / np.square(x[:, dropped]).sum())

    return compare


_PEERS: Mapping[str, Callable[[Matrix], Compare]] = {
    "cka": partial(_gram_cka, debiased=False),
    "cka-debiased": partial(_gram_cka, debiased=True),
    "cka-without-top5": _without_top,
    "procrustes": _procrustes,
    "mutual-knn": partial(_neighbours, metric="euclidean", gains=False),
    "retrieval": partial(_neighbours, metric="cosine", gains=True),
    "retrieval-recall": partial(_neighbours, metric="cosine", gains=False),
    "reconstruction": _regression,
}

if __name__ == "__main__":
    main()
