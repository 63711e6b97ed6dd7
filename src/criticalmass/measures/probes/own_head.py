"""The measure ``own-head``: the network's own classifier on the neurons that are kept.

Nothing is fitted. The neurons that are dropped are set to 0, as by dropout, and the weights of the
kept ones are multiplied by n_neurons / n_kept, so that the evidence of a random subset has the mean
of the whole layer's; the bias stays. Doimo et al. 2022 (arXiv:2106.03485) score random subsets of
the neurons through the classifier in this way; their published code leaves the weights as they are,
which gives the bias more influence in small subsets.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import CHUNK_ROWS, ProjectedRows, check_finite
from criticalmass.errors import CriticalMassError
from criticalmass.measures.prefix_heads import block_ranges
from criticalmass.measures.probes.task import (
    ProbeScores,
    ProbeTask,
    label_dtype,
    uncertified_scores,
)


def own_head(task: ProbeTask) -> ProbeScores:
    """Score the network's own classifier on every prefix of every order.

    Parameters
    ----------
    task: test rows, orders, sizes and the classifier, whose outputs are the classes. The training
        rows are not read.

    Returns
    -------
    Predictions, without heads; sums are float64, of equal outputs the first wins.

    Raises
    ------
    CriticalMassError: there is no classifier, it does not fit the layer or the classes, the
        columns are projections, or a feature is not finite.
    """
    if isinstance(task.x_test, ProjectedRows):
        raise CriticalMassError(
            "own-head removes neurons from the network's own classifier, and a projection has no "
            "neurons to remove; choose selectors of neurons, e.g. random"
        )
    weight, bias = _parameters(task)
    start = time.perf_counter()
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    for row in range(0, task.n_test, CHUNK_ROWS):
        block = np.asarray(task.x_test[row : row + CHUNK_ROWS], dtype=np.float64)
        check_finite(block, row, "x_test")
        for of_order, order in zip(predictions, task.orders, strict=True):
            evidence = np.zeros((len(block), task.n_classes))
            for j, (a, b) in enumerate(block_ranges(task.sizes)):
                evidence += block[:, order[a:b]] @ weight[:, order[a:b]].T
                outputs = evidence * (task.n_neurons / b) + bias
                of_order[j, row : row + len(block)] = outputs.argmax(axis=1)
    return uncertified_scores(predictions, time.perf_counter() - start)


def _parameters(task: ProbeTask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights (n_classes, n_neurons) and bias (n_classes,) of the classifier."""
    if task.classifier is None:
        raise CriticalMassError(
            "own-head scores the network's own classifier, and this task has none; sweep a feature "
            "store that has one, or take measure 'logistic-masked', which fits a classifier"
        )
    weight = np.asarray(task.classifier.weight, dtype=np.float64)
    if weight.shape != (task.n_classes, task.n_neurons):
        raise CriticalMassError(
            f"the classifier has {weight.shape[0]} outputs of {weight.shape[1]} neurons, and the "
            f"task {task.n_classes} classes and {task.n_neurons} neurons; see for_classes"
        )
    return weight, np.asarray(task.classifier.bias, dtype=np.float64)
