"""Compute the cells of one job: orders, probes and similarities on a feature store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Projected, Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import ProbeScores, ProbeTask
from criticalmass.measures.protocol import EXPECTED
from criticalmass.measures.registry import MEASURES, get_probe, get_similarity
from criticalmass.measures.similarity.task import SimilarityTask
from criticalmass.storage.artifacts import Artifact
from criticalmass.sweeps.layer_data import Workbench
from criticalmass.sweeps.plan import FULL, Job


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


def _one_line(error: BaseException) -> str:
    """Word an error for the table; its type says what a library's own message may not."""
    text = " ".join(str(error).split())
    if isinstance(error, CriticalMassError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
