"""Nearest neighbours and nearest class mean for every prefix of every order, incrementally."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import (
    CHUNK,
    Rows,
    chunks,
    refuse_nonfinite,
    rows_as_float32,
    rows_within,
)
from criticalmass.measures.columns import take_columns
from criticalmass.measures.nearest import Candidates, Matrix
from criticalmass.measures.nearest_kernels import majority
from criticalmass.measures.prefix_heads import steps
from criticalmass.measures.probes.task import (
    ProbeScores,
    ProbeTask,
    label_dtype,
    uncertified_scores,
)
from criticalmass.measures.scaling import column_scaling

FloatArray = NDArray[np.float64]
N_NEIGHBOURS = 10
_QUERY_MEBIBYTES = 64


def knn(task: ProbeTask) -> ProbeScores:
    """Classify by the majority of the 10 nearest training rows (Cover and Hart 1967).

    Euclidean distance on columns standardised over the training rows; with fewer than 10 training
    rows all of them vote. A tie of votes goes to the tied class that owns the nearest neighbour,
    a tie of distances to the earlier training row. There is nothing to choose: validation rows
    are training rows like the others.

    Raises
    ------
    CriticalMassError
        If a feature is NaN or infinite; names the first such row and neuron.
    """
    start = time.perf_counter()
    scaling = column_scaling(task.x_train)

    def read(rows: Rows, start: int, stop: int) -> Matrix:
        return scaling.apply(rows_as_float32(rows, start, stop))

    train = Candidates(task.x_train, task.y_train.astype(np.int32), read)
    n_neighbours = min(N_NEIGHBOURS, task.n_train)
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    for a, raw in chunks(task.x_test, rows_within(task.n_neurons, _QUERY_MEBIBYTES, most=1 << 30)):
        refuse_nonfinite(raw, a, "x_test")
        queries = scaling.apply(raw)
        for seed, order in enumerate(task.orders):
            nearest = train.nearest(queries, order, task.sizes, n_neighbours)
            for j in range(len(task.sizes)):
                out = predictions[seed, j, a : a + queries.shape[0]]
                majority(nearest[j], task.n_classes, out)
    return uncertified_scores(predictions, time.perf_counter() - start)


def centroid(task: ProbeTask) -> ProbeScores:
    """Classify by the nearest class mean (Hastie, Tibshirani and Friedman 2009, section 13.2).

    Euclidean distance on columns standardised over the training rows; a tie goes to the smaller
    class id, a class without training rows is never predicted.

    Raises
    ------
    CriticalMassError
        If a feature is NaN or infinite; names the first such row and neuron.
    """
    start = time.perf_counter()
    scaling = column_scaling(task.x_train)
    means, counts = class_means(task.x_train, task.y_train, task.n_classes)
    centres = ((means - scaling.mean) / scaling.scale).T
    base = np.where(counts > 0, 0.0, -np.inf)
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    room = np.empty((CHUNK, task.n_neurons), dtype=np.float32)
    for a, raw in chunks(task.x_test):
        refuse_nonfinite(raw, a, "x_test")
        x = scaling.apply(raw)
        for seed, order in enumerate(task.orders):
            kept = np.ascontiguousarray(centres[order])
            out = predictions[seed, :, a : a + x.shape[0]]
            _nearest_centres(take_columns(x, order, room), kept, base, task.sizes, out)
    return uncertified_scores(predictions, time.perf_counter() - start, passes=1)


def class_means(rows: Rows, labels: NDArray[np.int64], n_classes: int) -> tuple[FloatArray, Any]:
    """Stream the class means (n_classes, n_neurons) float64 and the class counts (n_classes,).

    The mean of a class without rows is 0.
    """
    from scipy.sparse import csr_array

    counts = np.bincount(labels, minlength=n_classes)
    shift = np.asarray(rows[0:1], dtype=np.float64)[0]
    sums = np.zeros((n_classes, shift.size))
    for a, block in chunks(rows):
        size = block.shape[0]
        member = (np.ones(size), labels[a : a + size], np.arange(size + 1))
        sums += csr_array(member, shape=(size, n_classes)).T @ (block - shift)
    return (sums + counts[:, None] * shift) / np.maximum(counts, 1)[:, None], counts


def _nearest_centres(
    x: NDArray[np.float32],
    centres: FloatArray,
    base: FloatArray,
    sizes: tuple[int, ...],
    out: NDArray[np.unsignedinteger[Any]],
) -> None:
    """Write the nearest centre (n_sizes, rows) of permuted rows, adding one block per size."""
    closeness = np.tile(base, (x.shape[0], 1))
    for j, (a, b) in enumerate(steps(sizes)):
        block = centres[a:b]
        closeness += x[:, a:b] @ block - 0.5 * np.einsum("ij,ij->j", block, block)
        out[j] = closeness.argmax(axis=1)
