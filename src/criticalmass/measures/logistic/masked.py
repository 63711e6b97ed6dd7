"""The measure ``logistic-masked``: the probe of the whole layer, with neurons removed afterwards.

One probe is trained on the whole layer. A subset is scored by the same probe with every other
neuron set to its mean over the training rows, and nothing is fitted again. This says how robust
the probe is to a loss of neurons. A refitted probe says how much of the task can be recovered from
the neurons that are left. The logits of a sample are sums over neurons, so running sums over an
order give those of every prefix at the price of the whole layer.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import CHUNK_ROWS, ProjectedRows, check_finite, chunks
from criticalmass.errors import CriticalMassError
from criticalmass.measures.columns import take_columns
from criticalmass.measures.logistic.probe import logistic
from criticalmass.measures.prefix_heads import block_ranges
from criticalmass.measures.probes.task import LinearHead, ProbeScores, ProbeTask, label_dtype
from criticalmass.measures.scaling import column_scaling


def logistic_masked(task: ProbeTask) -> ProbeScores:
    """Score the logistic probe of the whole layer on every prefix of every order.

    Parameters
    ----------
    task: data, orders and sizes. The probe is that of `logistic` on all columns of ``x_train``.

    Returns
    -------
    Predictions and heads. Strength, gap, passes and status are those of the probe of the whole
    layer, the same for every subset. A head has the weights of the neurons that are kept; the
    means of the others are in its intercept.

    Raises
    ------
    CriticalMassError: the columns are projections, or a feature is not finite.
    """
    if isinstance(task.x_train, ProjectedRows):
        raise CriticalMassError(
            "logistic-masked removes neurons from the probe of the whole layer, and a projection "
            "has no neurons to remove; choose selectors of neurons, e.g. random"
        )
    start = time.perf_counter()
    everything = np.arange(task.n_neurons, dtype=np.intp)[None]
    whole = logistic(replace(task, orders=everything, sizes=(task.n_neurons,)))
    if whole.heads is None:
        raise CriticalMassError("the logistic probe returned no weights to remove neurons from")
    head, scaling = whole.heads[0][0], column_scaling(task.x_train)
    weights = head.coef.astype(np.float64) * scaling.scale
    at_mean = head.intercept + head.coef.astype(np.float64) @ scaling.mean
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    buffer = np.empty((CHUNK_ROWS, task.n_neurons), dtype=np.float32)
    for a, raw in chunks(task.x_test):
        check_finite(raw, a, "x_test")
        # A neuron at its mean is 0 here, so a prefix is a sum over its own neurons.
        x = scaling.apply(raw)
        for seed, order in enumerate(task.orders):
            permuted = np.ascontiguousarray(weights[:, order].T)
            out = predictions[seed, :, a : a + x.shape[0]]
            columns = take_columns(x, order, buffer)
            _predict_prefixes(columns, permuted, at_mean, task.sizes, head.classes, out)
    seconds = (time.perf_counter() - start) / (task.grid[0] * task.grid[1])
    return ProbeScores(
        predictions=predictions,
        l2=np.full(task.grid, whole.l2[0, 0]),
        gap=np.full(task.grid, whole.gap[0, 0]),
        passes=np.full(task.grid, whole.passes[0, 0], dtype=np.int32),
        seconds=np.full(task.grid, seconds),
        status=np.full(task.grid, whole.status[0, 0], dtype=object),
        heads=tuple(
            tuple(_masked_head(head, order[:size], scaling.mean) for size in task.sizes)
            for order in task.orders
        ),
    )


def _predict_prefixes(
    x: NDArray[np.float32],
    weights: NDArray[np.float64],
    at_mean: NDArray[np.float64],
    sizes: tuple[int, ...],
    classes: NDArray[np.int64],
    out: NDArray[np.unsignedinteger],
) -> None:
    """Write the class of every row and size to ``out``, (n_sizes, rows).

    ``x`` (rows, n_neurons), standardised, and ``weights`` (n_neurons, n_classes) are permuted to
    the order. Logits start at those of a sample whose neurons are all at their means.
    """
    logits = np.tile(at_mean, (x.shape[0], 1))
    for j, (a, b) in enumerate(block_ranges(sizes)):
        logits += x[:, a:b] @ weights[a:b]
        out[j] = classes[logits.argmax(axis=1)]


def _masked_head(head: LinearHead, kept: NDArray[np.intp], mean: NDArray[np.float64]) -> LinearHead:
    """Return the head of a subset: the other neurons are at their means."""
    coef = head.coef.astype(np.float64)
    removed = np.ones(mean.size, dtype=np.bool_)
    removed[kept] = False
    intercept = head.intercept + coef[:, removed] @ mean[removed]
    return LinearHead(np.ascontiguousarray(head.coef[:, kept]), intercept, head.classes)
