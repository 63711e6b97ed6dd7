"""Compute the cells of one job: orders, probes and similarities on a feature store."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Projected, Rows
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.probes.task import ProbeScores, ProbeTask
from criticalmass.measures.protocol import EXPECTED, validation_rows
from criticalmass.measures.registry import MEASURES, get_probe, get_similarity
from criticalmass.measures.similarity.task import SimilarityTask, WholeLayer
from criticalmass.plan import FULL, Job
from criticalmass.selectors.inputs import Evidence
from criticalmass.selectors.registry import SELECTORS, Selection, select
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.digests import SEAL, sealed
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import read_manifest


@dataclass(frozen=True, eq=False)
class LayerData:
    """One layer of the store, with what several jobs on it share.

    Attributes
    ----------
    train, test: (n_samples, n_neurons) features of the splits.
    seen: what selectors choose by: the training split.
    """

    train: Rows
    test: Rows
    seen: Evidence
    _fixed: dict[str, Selection] = field(default_factory=dict)

    @cached_property
    def whole(self) -> WholeLayer:
        """The test split's raw features, with what every similarity needs of them."""
        return WholeLayer(self.test)

    def selection(self, selector: str, seed: int) -> Selection:
        """Apply a selector; what does not depend on the seed is kept for the next job."""
        if selector in self._fixed:
            return self._fixed[selector]
        chosen = select(selector, self.seen, seed=seed)
        if not SELECTORS[selector].is_random:
            self._fixed[selector] = chosen
        return chosen

    def orders(self, job: Job) -> NDArray[np.intp]:
        """(n_orders, n_neurons) permutations of a job on orders."""
        return np.stack([_order_of(self.selection(*pair)) for pair in job.orders])


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a job found.

    Attributes
    ----------
    rows: of the long table, without value_full; row i owns row i of the artifact.
    artifact: what is kept of the cells, or None.
    orders: (selector, seed) -> (n_neurons,) permutation, where the cells come from orders.
    """

    rows: list[dict[str, Any]]
    artifact: Artifact | None = None
    orders: Mapping[tuple[str, int], NDArray[np.intp]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Workbench:
    """The store, its labels, and the data of the layer that is being worked on."""

    store: FeatureStore
    y_train: NDArray[np.int64]
    y_test: NDArray[np.int64]
    validation: NDArray[np.bool_]
    _open: dict[str, LayerData] = field(default_factory=dict)

    @classmethod
    def of(cls, store: FeatureStore) -> Workbench:
        """Read the labels of a store and set the validation rows apart."""
        y_train = store.labels("train")
        return cls(store, y_train, store.labels("test"), validation_rows(y_train))

    def layer(self, name: str) -> LayerData:
        """Open a layer; the one before is let go with its moments."""
        if name not in self._open:
            self._open.clear()
            features = self.store.features
            train, test = features("train", name), features("test", name)
            seen = Evidence(
                int(train.shape[1]),
                rows=train,
                labels=self.y_train,
                n_classes=len(self.store.class_names),
                validation=self.validation,
            )
            self._open[name] = LayerData(train, test, seen)
        return self._open[name]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as the store's path: features stay where they are."""
        return workbench_at, (str(self.store.path.resolve()), self.store.manifest)


# The last bench of this process, with what it has of its layer, for the next task on it.
_BENCHES: dict[tuple[str, str], Workbench] = {}


def workbench_at(path: str, manifest: Mapping[str, Any]) -> Workbench:
    """Open the store that another process has opened and verified.

    Raises
    ------
    StoreError: there is none at the path here, or another one.
    """
    key = (path, str(sealed(manifest)[SEAL]))
    if key not in _BENCHES:
        if read_manifest(Path(path)) != manifest:
            raise StoreError(
                f"{path!r} is another feature store on {os.uname().nodename} than where the work "
                "was started; put it on a file system that all machines share"
            )
        bench = Workbench.of(FeatureStore(Path(path), dict(manifest)))
        _BENCHES.clear()
        _BENCHES[key] = bench
    return _BENCHES[key]


def run_job(bench: Workbench, job: Job) -> Outcome:
    """Compute the cells of a job; what the data defeat becomes rows that say so."""
    started = time.perf_counter()
    try:
        if MEASURES[job.measure].is_probe:
            return _probe(bench, job)
        return _similarity(bench, job, started)
    except EXPECTED as error:
        text = _one_line(error)
        counts = _counts(bench, job)
        return Outcome(
            [
                {**asdict(cell), **counts, "status": "failed", "error": text, "artifact": None}
                for cell in job.cells
            ]
        )


def _probe(bench: Workbench, job: Job) -> Outcome:
    """Train and score a probe on every subset of a job."""
    data = bench.layer(job.layer)
    selection = data.selection(*job.orders[0])
    if selection.projection is not None:
        projection = selection.projection[:, : job.sizes[-1]].astype(np.float32)
        train: Rows = Projected(data.train, projection)
        test: Rows = Projected(data.test, projection)
        orders = np.arange(projection.shape[1], dtype=np.intp)[None]
    else:
        train, test, orders = data.train, data.test, data.orders(job)
    task = ProbeTask(
        x_train=train,
        y_train=bench.y_train,
        x_test=test,
        n_classes=len(bench.store.class_names),
        orders=orders,
        sizes=job.sizes,
        validation=bench.validation,
        seed=job.orders[0][1] if len(job.orders) == 1 else 0,
    )
    scores = get_probe(job.measure)(task)
    kept = {} if selection.projection is not None else dict(zip(job.orders, orders, strict=True))
    return _scored(bench, job, scores, _recorded(job, kept))


def _scored(
    bench: Workbench,
    job: Job,
    scores: ProbeScores,
    orders: Mapping[tuple[str, int], NDArray[np.intp]],
) -> Outcome:
    rows, predictions = [], []
    for cell in job.cells:
        at = job.place(cell)
        predicted = scores.predictions[at]
        predictions.append(predicted)
        rows.append(
            {
                **asdict(cell),
                **_counts(bench, job),
                "value": float(np.mean(predicted == bench.y_test)),
                "l2": float(scores.l2[at]),
                "gap": float(scores.gap[at]),
                "passes": int(scores.passes[at]),
                "seconds": float(scores.seconds[at]),
                "status": str(scores.status[at]),
            }
        )
    return Outcome(rows, Artifact("predictions", np.stack(predictions)), orders)


def _similarity(bench: Workbench, job: Job, started: float) -> Outcome:
    """Similarity to the whole layer on the test split, raw features."""
    data = bench.layer(job.layer)
    selection = data.selection(*job.orders[0])
    orders: dict[tuple[str, int], NDArray[np.intp]] = {}
    if selection.projection is not None:
        projection = selection.projection[:, : job.sizes[-1]]
        task = SimilarityTask(data.whole, projection, job.sizes, is_projection=True)
    else:
        stacked = data.orders(job)
        orders = dict(zip(job.orders, stacked, strict=True))
        task = SimilarityTask(data.whole, stacked, job.sizes)
    scores = get_similarity(job.measure)(task)
    places = [job.place(cell) for cell in job.cells]
    share = (time.perf_counter() - started) / len(places)
    rows = [
        {**asdict(cell), **_counts(bench, job), "value": float(scores.values[at])}
        | {"seconds": share, "status": "ok"}
        for cell, at in zip(job.cells, places, strict=True)
    ]
    kept = Artifact(scores.kind, np.stack([scores.kept[at] for at in places]))
    return Outcome(rows, kept, _recorded(job, orders))


def _recorded(
    job: Job, orders: Mapping[tuple[str, int], NDArray[np.intp]]
) -> dict[tuple[str, int], NDArray[np.intp]]:
    """Return the orders that cells were asked of; an order lent to the whole layer is none."""
    asked = {(cell.selector, cell.seed) for cell in job.cells if cell.selector != FULL}
    return {pair: order for pair, order in orders.items() if pair in asked}


def _counts(bench: Workbench, job: Job) -> dict[str, int]:
    """Count the samples behind a cell; a similarity trains on none."""
    n_train = bench.y_train.size if MEASURES[job.measure].is_probe else 0
    return {"n_train": int(n_train), "n_test": int(bench.y_test.size)}


def _order_of(selection: Selection) -> NDArray[np.intp]:
    if selection.order is None:
        raise CriticalMassError(f"selector {selection.selector!r} gives no order of neurons")
    return selection.order


def _one_line(error: BaseException) -> str:
    """Word an error for the table; its type says what a library's own message may not."""
    text = " ".join(str(error).split())
    if isinstance(error, CriticalMassError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
