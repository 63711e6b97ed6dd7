"""How far laws 1 and 2 speak of neighbours: ``python -m benchmarks.neighbours_law STORE...``.

There is no law of kNN or of retrieval. For every feature store their curves over random subsets
are swept, and set beside what `expected_cka` and `predict_ridge` say of CKA and of ridge probes,
all as shares of the whole layer's value. CKA and ridge are measured too: a law's distance from
its own measure tells how much of the distance from another is its own error. Prints Markdown.
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

from benchmarks.timing import tell, timed
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
#: Law -> the measure that it is a law of.
LAWS = {"CKA": "cka", "ridge": "ridge"}
DELTAS = (0.8, 0.9)
_SPLITS = (("train", 0), ("test", 1))


@dataclass(frozen=True, eq=False)
class Curves:
    """Shares of the whole layer's value over random subsets of one store, at the same sizes.

    Attributes
    ----------
    name: of the store.
    shape: (n_train, n_test, n_neurons).
    sizes: (n_sizes,) neurons kept, ascending; the last is the whole layer.
    measured: measure -> (n_sizes,) mean over seeds, as a share of the whole layer's value.
    error: measure -> (n_sizes,) its standard error over seeds, in the same unit.
    predicted: law -> (n_sizes,) predicted share.
    fewest: neurons from which distances between curves count.
    """

    name: str
    shape: tuple[int, int, int]
    sizes: NDArray[np.int64]
    measured: dict[str, Array]
    error: dict[str, Array]
    predicted: dict[str, Array]
    fewest: int

    def apart(self, law: str, measure: str) -> Array:
        """Return predicted less measured share from ``fewest`` neurons to below the whole."""
        at = (self.sizes >= self.fewest) & (self.sizes < self.sizes[-1])
        return np.asarray((self.predicted[law] - self.measured[measure])[at])


def cut(path: Path, rows: tuple[int, int], out: Path) -> FeatureStore:
    """Import a random choice of a store's rows, at most ``rows`` of training and of test."""
    store = FeatureStore.open(path, verify=False)
    x, y = {}, {}
    for (split, seed), most in zip(_SPLITS, rows, strict=True):
        labels = store.labels(split)
        kept = np.sort(np.random.default_rng(seed).permutation(len(labels))[:most])
        features = store.features(split, store.layers[0])
        x[split], y[split] = np.asarray(features[kept], dtype=np.float32), labels[kept]
    return import_features(x, out=out, labels=y)


def study(path: Path, rows: tuple[int, int], seeds: int, fewest: int) -> Curves:
    """Sweep one store's cut and ask both laws about the same rows."""
    with tempfile.TemporaryDirectory() as folder:
        store = cut(path, rows, Path(folder) / "features")
        measures = (*NEIGHBOURS, *LAWS.values())
        run, seconds = timed(
            partial(
                sweep, store, out=Path(folder) / "run",
                fractions=FRACTIONS, seeds=seeds, measures=measures,
            )
        )  # fmt: skip
        tell(f"{path.name}: swept in {seconds.wall:.0f} s")
        train, test = (
            (np.asarray(store.features(split).array(), dtype=np.float32), store.labels(split))
            for split, _ in _SPLITS
        )
        table = curves(run, resamples=100)
    d = train[0].shape[1]
    sizes = np.array(sorted(sizes_for(FRACTIONS, d)), dtype=np.int64)
    measured, error = {}, {}
    for measure, part in table.groupby("measure"):
        rows_of = part.set_index("n_kept").loc[sizes]
        full = rows_of["value_full"].to_numpy(dtype=np.float64)
        measured[str(measure)] = rows_of["mean"].to_numpy(dtype=np.float64) / full
        spread = rows_of["std"].fillna(0.0).to_numpy(dtype=np.float64)
        error[str(measure)] = spread / full / np.sqrt(seeds)
    predicted, seconds = timed(partial(predict, train, test, sizes))
    tell(f"{path.name}: predicted in {seconds.wall:.0f} s")
    shape = (len(train[0]), len(test[0]), d)
    return Curves(path.name, shape, sizes, measured, error, predicted, fewest)


def predict(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    sizes: NDArray[np.int64],
) -> dict[str, Array]:
    """Return what each law says: raw CKA on the test rows, ridge accuracy over the whole's."""
    similar = expected_cka(moments(test[0]).scatter, sizes)
    ridge = predict_ridge(train, test, [int(k) for k in sizes])
    share = ridge.accuracy[:, 0] / ridge.accuracy_full
    return {"CKA": similar.mean, "ridge": share}


def reached(sizes: NDArray[np.int64], share: Array, delta: float) -> float:
    """Return where a curve first reaches ``delta``, straight in log k between two sizes."""
    first = int(np.argmax(share >= delta))
    if share[first] < delta:
        return float("nan")
    if first == 0:
        return float(sizes[0])
    logs = np.log(sizes[first - 1 : first + 1].astype(np.float64))
    part = (delta - share[first - 1]) / (share[first] - share[first - 1])
    return float(np.exp(logs[0] + part * (logs[1] - logs[0])))


def curve_rows(found: Curves) -> list[str]:
    """Return the shares at every size: measured with their standard error, then predicted."""
    lines = [
        f"{found.name}: {found.shape[0]} training rows, {found.shape[1]} test rows",
        "",
        "| k | " + " | ".join([*found.measured, *(f"{law} law" for law in LAWS)]) + " |",
        "| -: " * (1 + len(found.measured) + len(LAWS)) + "|",
    ]
    for i, k in enumerate(found.sizes):
        cells = [f"{v[i]:.3f} ± {found.error[m][i]:.3f}" for m, v in found.measured.items()]
        cells += [f"{found.predicted[law][i]:.3f}" for law in LAWS]
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def summary_rows(found: Sequence[Curves]) -> list[str]:
    """Return a row per store and measure: distances from both laws, and critical masses."""
    lines = [
        "| features | measure | CKA law less measured: mean size, range "
        "| ridge law less measured: mean size, range "
        + "".join(f"| k*({d:.1f}): measured / CKA law / ridge law " for d in DELTAS)
        + "|",
        "| --- | --- | --- | --- " + "| --- " * len(DELTAS) + "|",
    ]
    for one in found:
        for measure in (*NEIGHBOURS, *LAWS.values()):
            cells = [one.name, measure]
            for law in LAWS:
                gap = one.apart(law, measure)
                cells.append(f"{np.abs(gap).mean():.3f}, {gap.min():+.3f} to {gap.max():+.3f}")
            for delta in DELTAS:
                all_of = (one.measured[measure], *(one.predicted[law] for law in LAWS))
                masses = [reached(one.sizes, share, delta) for share in all_of]
                cells.append(" / ".join(f"{mass:.0f}" for mass in masses))
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def overall_rows(found: Sequence[Curves]) -> list[str]:
    """Return each pair of law and measure over all stores: distances and ratios of k*."""
    lines = [
        "| measure | law | law less measured: mean size, range | k*, predicted / measured |",
        "| --- | --- | --- | --- |",
    ]
    for measure in (*NEIGHBOURS, *LAWS.values()):
        for law in LAWS:
            gaps = np.concatenate([one.apart(law, measure) for one in found])
            ratios = np.array(
                [
                    reached(one.sizes, one.predicted[law], delta)
                    / reached(one.sizes, one.measured[measure], delta)
                    for one in found
                    for delta in DELTAS
                ]
            )
            lines.append(
                f"| {measure} | {law} "
                f"| {np.abs(gaps).mean():.3f}, {gaps.min():+.3f} to {gaps.max():+.3f} "
                f"| {np.nanmin(ratios):.2f} to {np.nanmax(ratios):.2f} |"
            )
    return [*lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the curves of every store, then the tables over all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--train-rows", type=int, default=10_000, help="at most")
    parser.add_argument("--test-rows", type=int, default=3_000, help="at most")
    parser.add_argument("--seeds", type=int, default=5, help="random subsets of every size")
    parser.add_argument("--fewest", type=int, default=20, help="neurons from which gaps count")
    asked = parser.parse_args(arguments)
    found = []
    for path in asked.stores:
        rows = (asked.train_rows, asked.test_rows)
        found.append(study(path, rows, asked.seeds, asked.fewest))
        print("\n".join(curve_rows(found[-1])), flush=True)
    print("\n".join([*summary_rows(found), *overall_rows(found)]))


if __name__ == "__main__":
    main()
