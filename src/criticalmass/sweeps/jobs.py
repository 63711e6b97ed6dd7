"""Compute the cells of one job: apply selectors, then probes or similarities."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import ProjectedRows, Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import ProbeScores, ProbeTask
from criticalmass.measures.protocol import EXPECTED
from criticalmass.measures.registry import MEASURES, get_probe, get_similarity
from criticalmass.measures.similarity.task import SimilarityTask
from criticalmass.storage.artifacts import Artifact
from criticalmass.sweeps.layer_data import SweepData
from criticalmass.sweeps.layer_info import SPLIT
from criticalmass.sweeps.plan import FULL, SweepJob

Orders = Mapping[tuple[str, int], NDArray[np.intp]]
_NOT_FINITE = (
    "the value or the {kind} of {measure} are NaN or infinite; rescale the features, e.g. divide "
    "them by their largest absolute value"
)


@dataclass(frozen=True, eq=False)
class JobResult:
    """The rows, artifact and orders of a job.

    Attributes
    ----------
    rows: rows of the long table, without value_full; row i belongs to row i of the artifact.
    artifact: predictions or jackknife replicates of the cells, or None.
    orders: (selector, seed) -> (n_neurons,) permutation, for cells on orders.
    """

    rows: list[dict[str, Any]]
    artifact: Artifact | None = None
    orders: Orders = field(default_factory=dict)


def run_job(data: SweepData, job: SweepJob) -> JobResult:
    """Compute the cells of a job; an expected error gives rows with status "failed"."""
    started = time.perf_counter()
    try:
        _check_test_samples(data, job.measure)
        if MEASURES[job.measure].is_probe:
            return _run_probe(data, job)
        return _run_similarity(data, job, started)
    except EXPECTED as error:
        text = _error_text(error)
        counts = _sample_counts(data, job)
        return JobResult(
            [
                {**asdict(cell), **counts, "status": "failed", "error": text, "artifact": None}
                for cell in job.cells
            ]
        )


def _check_test_samples(data: SweepData, measure: str) -> None:
    if data.store.is_collection and MEASURES[measure].searches:
        return  # Neighbours are searched among the documents; the measure counts them.
    n_test, fewest = int(data.y_test.size), MEASURES[measure].min_test_samples
    if n_test < fewest:
        raise CriticalMassError(
            f"{measure} needs at least {fewest} test samples; the split {SPLIT!r} has {n_test}"
        )


def _run_probe(data: SweepData, job: SweepJob) -> JobResult:
    """Train and score a probe on every subset of a job."""
    beside = data.read_beside(job.measure, job.layer)
    layer = data.layer(job.layer)
    selection = layer.selection(*job.orders[0])
    job_orders: Orders = {}
    if selection.projection is not None:
        projection = selection.projection[:, : job.sizes[-1]].astype(np.float32)
        train: Rows = ProjectedRows(layer.train, projection)
        test: Rows = ProjectedRows(layer.test, projection)
        orders = np.arange(projection.shape[1], dtype=np.intp)[None]
    else:
        train, test, orders = layer.train, layer.test, layer.orders(job.orders)
        job_orders = dict(zip(job.orders, orders, strict=True))
    task = ProbeTask(
        x_train=train,
        y_train=data.y_train,
        x_test=test,
        n_classes=len(data.store.class_names),
        orders=orders,
        sizes=job.sizes,
        validation=data.validation,
        seed=job.orders[0][1] if len(job.orders) == 1 else 0,
        compute=data.compute,
        **beside,
    )
    scores = get_probe(job.measure)(task)
    return _probe_result(data, job, scores, _requested_orders(job, job_orders))


def _probe_result(data: SweepData, job: SweepJob, scores: ProbeScores, orders: Orders) -> JobResult:
    rows, predictions = [], []
    for cell in job.cells:
        index = job.grid_index(cell)
        predicted = scores.predictions[index]
        predictions.append(predicted)
        rows.append(
            {
                **asdict(cell),
                **_sample_counts(data, job),
                "value": float(np.mean(predicted == data.y_test)),
                "l2": float(scores.l2[index]),
                "gap": float(scores.gap[index]),
                "passes": int(scores.passes[index]),
                "seconds": float(scores.seconds[index]),
                "status": str(scores.status[index]),
            }
        )
    return JobResult(rows, Artifact("predictions", np.stack(predictions)), orders)


def _run_similarity(data: SweepData, job: SweepJob, started: float) -> JobResult:
    """Compute the similarity to the whole layer on the raw features of the test split."""
    layer = data.layer(job.layer)
    selection = layer.selection(*job.orders[0])
    job_orders: Orders = {}
    if selection.projection is not None:
        projection = selection.projection[:, : job.sizes[-1]]
        task = SimilarityTask(layer.whole_layer, projection, job.sizes, is_projection=True)
    else:
        orders = layer.orders(job.orders)
        job_orders = dict(zip(job.orders, orders, strict=True))
        task = SimilarityTask(layer.whole_layer, orders, job.sizes)
    scores = get_similarity(job.measure)(task)
    indices = [job.grid_index(cell) for cell in job.cells]
    seconds_per_cell = (time.perf_counter() - started) / len(indices)
    values = np.stack([scores.bootstrap_values[index] for index in indices])
    rows: list[dict[str, Any]] = []
    for i, (cell, index) in enumerate(zip(job.cells, indices, strict=True)):
        row = {**asdict(cell), **_sample_counts(data, job)}
        if np.isfinite(scores.values[index]) and np.isfinite(values[i]).all():
            value = float(scores.values[index])
            rows.append({**row, "value": value, "seconds": seconds_per_cell, "status": "ok"})
        else:
            # Row i of the artifact belongs to row i, and an artifact holds finite values only.
            values[i] = 0.0
            text = _NOT_FINITE.format(measure=job.measure, kind=scores.kind)
            rows.append({**row, "status": "failed", "error": text})
    is_any_ok = any(row["status"] == "ok" for row in rows)
    artifact = Artifact(scores.kind, values) if is_any_ok else None
    return JobResult(rows, artifact, _requested_orders(job, job_orders))


def _requested_orders(job: SweepJob, orders: Orders) -> Orders:
    """Return the orders that requested cells use, without one used for the whole layer only."""
    requested = {(cell.selector, cell.seed) for cell in job.cells if cell.selector != FULL}
    return {pair: order for pair, order in orders.items() if pair in requested}


def _sample_counts(data: SweepData, job: SweepJob) -> dict[str, int]:
    """Return the numbers of samples of a cell.

    Most similarities have no training samples. Where queries search the documents of a collection,
    these are its training samples.
    """
    entry = MEASURES[job.measure]
    searches = entry.searches and data.store.is_collection
    is_fitted = (entry.is_probe and not entry.reads) or entry.fits_training
    uses_training = is_fitted or searches
    n_train = data.y_train.size if uses_training else 0
    return {"n_train": int(n_train), "n_test": int(data.y_test.size)}


def _error_text(error: BaseException) -> str:
    """Return an error in one line, with its type unless it is one of this package's errors."""
    text = " ".join(str(error).split())
    if isinstance(error, CriticalMassError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
