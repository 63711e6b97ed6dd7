"""Nearest-neighbour and nearest-class-mean probes for every prefix of every order."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import (
    CHUNK_ROWS,
    Rows,
    check_finite,
    chunks,
    rows_as_float32,
    rows_per_chunk,
)
from criticalmass.measures.columns import take_columns
from criticalmass.measures.nearest import CandidateRows, Matrix, TileRows
from criticalmass.measures.nearest_kernels import majority_vote
from criticalmass.measures.prefix_heads import block_ranges
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


def knn(
    task: ProbeTask, *, tiles: TileRows | None = None, chunk_rows: int | None = None
) -> ProbeScores:
    """Classify by the majority of the 10 nearest training rows (Cover and Hart 1967).

    Euclidean distance on columns standardised over the training rows; with fewer than 10 training
    rows all of them vote. A tie of votes goes to the tied class of the nearest neighbour, a tie
    of distances to the earlier training row. There are no hyper-parameters to choose, so
    validation rows are used like the other training rows.

    Parameters
    ----------
    task: the subsets and their data.
    tiles: rows per tile of the distance matrix.
    chunk_rows: test rows read at a time; by default as many as fit 64 MiB.

    Raises
    ------
    CriticalMassError
        If a feature is NaN or infinite; the message names the first such row and neuron.
    """
    start = time.perf_counter()
    scaling = column_scaling(task.x_train)

    def read(rows: Rows, start: int, stop: int) -> Matrix:
        return scaling.apply(rows_as_float32(rows, start, stop))

    train = CandidateRows(
        task.x_train, task.y_train.astype(np.int32), read, tiles=tiles or TileRows()
    )
    n_neighbours = min(N_NEIGHBOURS, task.n_train)
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    n_rows = chunk_rows or rows_per_chunk(task.n_neurons, _QUERY_MEBIBYTES, max_rows=1 << 30)
    for a, raw in chunks(task.x_test, n_rows):
        check_finite(raw, a, "x_test")
        queries = scaling.apply(raw)
        for seed, order in enumerate(task.orders):
            classes = train.nearest(queries, order, task.sizes, n_neighbours)
            for j in range(len(task.sizes)):
                out = predictions[seed, j, a : a + queries.shape[0]]
                majority_vote(classes[j], task.n_classes, out)
    return uncertified_scores(predictions, time.perf_counter() - start)


def centroid(task: ProbeTask) -> ProbeScores:
    """Classify by the nearest class mean (Hastie, Tibshirani and Friedman 2009, section 13.2).

    Euclidean distance on columns standardised over the training rows; a tie goes to the smaller
    class id. A class without training rows is never predicted.

    Raises
    ------
    CriticalMassError
        If a feature is NaN or infinite; the message names the first such row and neuron.
    """
    start = time.perf_counter()
    scaling = column_scaling(task.x_train)
    means, counts = class_means(task.x_train, task.y_train, task.n_classes)
    centres = ((means - scaling.mean) / scaling.scale).T
    initial = np.where(counts > 0, 0.0, -np.inf)
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    buffer = np.empty((CHUNK_ROWS, task.n_neurons), dtype=np.float32)
    for a, raw in chunks(task.x_test):
        check_finite(raw, a, "x_test")
        x = scaling.apply(raw)
        for seed, order in enumerate(task.orders):
            permuted = np.ascontiguousarray(centres[order])
            out = predictions[seed, :, a : a + x.shape[0]]
            _nearest_centres(take_columns(x, order, buffer), permuted, initial, task.sizes, out)
    return uncertified_scores(predictions, time.perf_counter() - start, passes=1)


def class_means(rows: Rows, labels: NDArray[np.int64], n_classes: int) -> tuple[FloatArray, Any]:
    """Compute class means (n_classes, n_neurons) and class counts (n_classes,) in one pass.

    Means are float64; the mean of a class without rows is 0.
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
    initial: FloatArray,
    sizes: tuple[int, ...],
    out: NDArray[np.unsignedinteger[Any]],
) -> None:
    """Write the nearest centre of every row and size to ``out``, (n_sizes, rows).

    ``x`` (rows, n_neurons) and ``centres`` (n_neurons, n_classes) are permuted to the order.
    Closeness is the inner product minus half the squared norm of the centre; it starts at
    ``initial`` (n_classes,) and grows by one block of neurons per size.
    """
    closeness = np.tile(initial, (x.shape[0], 1))
    for j, (a, b) in enumerate(block_ranges(sizes)):
        block = centres[a:b]
        closeness += x[:, a:b] @ block - 0.5 * np.einsum("ij,ij->j", block, block)
        out[j] = closeness.argmax(axis=1)
