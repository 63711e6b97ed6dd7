"""The CKA and ridge laws compared with kNN and retrieval: ``python -m benchmarks.neighbours_law``.

There is no law of kNN or of retrieval. For every feature store, their curves over random subsets
are measured and compared with the predictions of `expected_cka` and `predict_ridge`, as shares of
the whole layer's value. CKA and ridge are measured too: the distance of a law from its own measure
is the part of the other distances that is the error of the law. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import log, time_call
from criticalmass.analysis.redundancy import curves
from criticalmass.core.moments import moments
from criticalmass.extraction.importing import import_features
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.sweep import sweep
from criticalmass.theory.cka import expected_cka
from criticalmass.theory.ridge import predict_ridge

Array = NDArray[np.float64]
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
NEIGHBOURS = ("knn", "retrieval", "retrieval-recall", "mutual-knn")
#: Law -> the measure that it predicts.
LAWS = {"CKA": "cka", "ridge": "ridge"}
DELTAS = (0.8, 0.9)
_SPLITS = (("train", 0), ("test", 1))


@dataclass(frozen=True, eq=False)
class StoreCurves:
    """Measured and predicted shares of the whole layer's value over random subsets of a store.

    Attributes
    ----------
    name: name of the store.
    shape: (n_train, n_test, n_neurons).
    sizes: (n_sizes,) neurons kept, ascending; the last is the whole layer.
    measured: measure -> (n_sizes,) mean over seeds, as a share of the whole layer's value.
    error: measure -> (n_sizes,) standard error over seeds, in the same unit.
    predicted: law -> (n_sizes,) predicted share.
    smallest_size: fewest neurons at which curves are compared.
    """

    name: str
    shape: tuple[int, int, int]
    sizes: NDArray[np.int64]
    measured: dict[str, Array]
    error: dict[str, Array]
    predicted: dict[str, Array]
    smallest_size: int

    def difference(self, law: str, measure: str) -> Array:
        """Return predicted minus measured share at ``smallest_size`` neurons and more.

        The whole layer is left out.
        """
        compared = (self.sizes >= self.smallest_size) & (self.sizes < self.sizes[-1])
        return np.asarray((self.predicted[law] - self.measured[measure])[compared])


def sample_store(path: Path, rows: tuple[int, int], out: Path) -> FeatureStore:
    """Import random rows of a store, at most ``rows`` of training and of test."""
    store = FeatureStore.open(path, verify=False)
    x, y = {}, {}
    for (split, seed), most in zip(_SPLITS, rows, strict=True):
        labels = store.labels(split)
        indices = np.sort(np.random.default_rng(seed).permutation(len(labels))[:most])
        features = store.features(split, store.layers[0])
        x[split], y[split] = np.asarray(features[indices], dtype=np.float32), labels[indices]
    return import_features(x, out=out, labels=y)


def compare_store(path: Path, rows: tuple[int, int], seeds: int, smallest_size: int) -> StoreCurves:
    """Sweep a sample of a store and predict on the same rows with both laws."""
    with tempfile.TemporaryDirectory() as folder:
        store = sample_store(path, rows, Path(folder) / "features")
        measures = (*NEIGHBOURS, *LAWS.values())
        run, seconds = time_call(
            partial(
                sweep, store, out=Path(folder) / "run",
                fractions=FRACTIONS, seeds=seeds, measures=measures,
            )
        )  # fmt: skip
        log(f"{path.name}: swept in {seconds.wall:.0f} s")
        train, test = (
            (np.asarray(store.features(split).array(), dtype=np.float32), store.labels(split))
            for split, _ in _SPLITS
        )
        table = curves(run, resamples=100)
    d = train[0].shape[1]
    sizes = np.array(sorted(sizes_for(FRACTIONS, d)), dtype=np.int64)
    measured, error = {}, {}
    for measure, group in table.groupby("measure"):
        at_sizes = group.set_index("n_kept").loc[sizes]
        full = at_sizes["value_full"].to_numpy(dtype=np.float64)
        measured[str(measure)] = at_sizes["mean"].to_numpy(dtype=np.float64) / full
        std = at_sizes["std"].fillna(0.0).to_numpy(dtype=np.float64)
        error[str(measure)] = std / full / np.sqrt(seeds)
    predicted, seconds = time_call(partial(predict, train, test, sizes))
    log(f"{path.name}: predicted in {seconds.wall:.0f} s")
    shape = (len(train[0]), len(test[0]), d)
    return StoreCurves(path.name, shape, sizes, measured, error, predicted, smallest_size)


def predict(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    sizes: NDArray[np.int64],
) -> dict[str, Array]:
    """Return the predicted shares: CKA of the raw test rows, and relative ridge accuracy."""
    similarity = expected_cka(moments(test[0]).scatter, sizes)
    ridge = predict_ridge(train, test, [int(k) for k in sizes])
    share = ridge.accuracy[:, 0] / ridge.accuracy_full
    return {"CKA": similarity.mean, "ridge": share}


def critical_size(sizes: NDArray[np.int64], share: Array, delta: float) -> float:
    """Return the size at which a curve first reaches ``delta``, linear in log k between sizes."""
    first = int(np.argmax(share >= delta))
    if share[first] < delta:
        return float("nan")
    if first == 0:
        return float(sizes[0])
    logs = np.log(sizes[first - 1 : first + 1].astype(np.float64))
    position = (delta - share[first - 1]) / (share[first] - share[first - 1])
    return float(np.exp(logs[0] + position * (logs[1] - logs[0])))


def curve_rows(curve: StoreCurves) -> list[str]:
    """Return the shares at every size: measured with their standard error, then predicted."""
    lines = [
        f"{curve.name}: {curve.shape[0]} training rows, {curve.shape[1]} test rows",
        "",
        "| k | " + " | ".join([*curve.measured, *(f"{law} law" for law in LAWS)]) + " |",
        "| -: " * (1 + len(curve.measured) + len(LAWS)) + "|",
    ]
    for i, k in enumerate(curve.sizes):
        cells = [f"{v[i]:.3f} ± {curve.error[m][i]:.3f}" for m, v in curve.measured.items()]
        cells += [f"{curve.predicted[law][i]:.3f}" for law in LAWS]
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def summary_rows(stores: Sequence[StoreCurves]) -> list[str]:
    """Return a row per store and measure: distances from both laws, and critical masses."""
    lines = [
        "| features | measure | CKA law less measured: mean size, range "
        "| ridge law less measured: mean size, range "
        + "".join(f"| k*({d:.1f}): measured / CKA law / ridge law " for d in DELTAS)
        + "|",
        "| --- | --- | --- | --- " + "| --- " * len(DELTAS) + "|",
    ]
    for one in stores:
        for measure in (*NEIGHBOURS, *LAWS.values()):
            cells = [one.name, measure]
            for law in LAWS:
                difference = one.difference(law, measure)
                cells.append(_mean_and_range(difference))
            for delta in DELTAS:
                shares = (one.measured[measure], *(one.predicted[law] for law in LAWS))
                masses = [critical_size(one.sizes, share, delta) for share in shares]
                cells.append(" / ".join(f"{mass:.0f}" for mass in masses))
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def overall_rows(stores: Sequence[StoreCurves]) -> list[str]:
    """Return a row per measure and law over all stores: distances and ratios of k*."""
    lines = [
        "| measure | law | law less measured: mean size, range | k*, predicted / measured |",
        "| --- | --- | --- | --- |",
    ]
    for measure in (*NEIGHBOURS, *LAWS.values()):
        for law in LAWS:
            differences = np.concatenate([one.difference(law, measure) for one in stores])
            ratios = np.array(
                [
                    critical_size(one.sizes, one.predicted[law], delta)
                    / critical_size(one.sizes, one.measured[measure], delta)
                    for one in stores
                    for delta in DELTAS
                ]
            )
            lines.append(
                f"| {measure} | {law} "
                f"| {_mean_and_range(differences)} "
                f"| {np.nanmin(ratios):.2f} to {np.nanmax(ratios):.2f} |"
            )
    return [*lines, ""]


def _mean_and_range(differences: Array) -> str:
    mean = np.abs(differences).mean()
    return f"{mean:.3f}, {differences.min():+.3f} to {differences.max():+.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the curves of every store, then the tables over all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--train-rows", type=int, default=10_000, help="at most")
    parser.add_argument("--test-rows", type=int, default=3_000, help="at most")
    parser.add_argument("--seeds", type=int, default=5, help="random subsets of every size")
    parser.add_argument(
        "--fewest", type=int, default=20, help="fewest neurons at which curves are compared"
    )
    options = parser.parse_args(arguments)
    results = []
    for path in options.stores:
        rows = (options.train_rows, options.test_rows)
        results.append(compare_store(path, rows, options.seeds, options.fewest))
        print("\n".join(curve_rows(results[-1])), flush=True)
    print("\n".join([*summary_rows(results), *overall_rows(results)]))


if __name__ == "__main__":
    main()
