"""The measure ``zero-shot``: classes by their prompts in a joint space, on the neurons kept.

A sample is of the class whose direction has the largest cosine with it (Radford et al. 2021,
arXiv:2103.00020, sections 3.1.2 and 3.1.4). The direction of a class is the mean of its prompts,
each divided by its norm. On a subset of the neurons both are taken after the others are left out:
prompts, directions and samples are normalised again on the subset. Nothing is fitted.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import CHUNK_ROWS, ProjectedRows, check_finite
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import (
    ProbeScores,
    ProbeTask,
    label_dtype,
    uncertified_scores,
)
from criticalmass.storage.prompts import ClassPrompts

FloatArray = NDArray[np.float64]


def zero_shot(task: ProbeTask) -> ProbeScores:
    """Score class prompts on every prefix of every order.

    Parameters
    ----------
    task: test rows, orders, sizes and prompts. The training rows are not read. If the rows are
        projections, the prompts are projected in the same way.

    Returns
    -------
    Predictions, without heads; sums are float64, of equal cosines the first class wins.

    Raises
    ------
    CriticalMassError: there are no prompts, they do not fit the layer, or a feature is not finite.
    """
    prompts = _prompts(task)
    start = time.perf_counter()
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    for of_order, order in zip(predictions, task.orders, strict=True):
        directions = [
            class_directions(prompts, order[:size], task.n_classes) for size in task.sizes
        ]
        for row in range(0, task.n_test, CHUNK_ROWS):
            block = np.asarray(task.x_test[row : row + CHUNK_ROWS], dtype=np.float64)
            check_finite(block, row, "x_test")
            block = block[:, order[: task.sizes[-1]]]
            for j, (size, direction) in enumerate(zip(task.sizes, directions, strict=True)):
                # The norm of a sample is the same for all classes.
                closeness = block[:, :size] @ direction.T
                of_order[j, row : row + len(block)] = closeness.argmax(axis=1)
    return uncertified_scores(predictions, time.perf_counter() - start)


def class_directions(
    prompts: ClassPrompts, columns: NDArray[np.intp], n_classes: int
) -> FloatArray:
    """Return the direction of each class on a subset of the neurons.

    Parameters
    ----------
    prompts: of all classes.
    columns: (n_kept,) the subset.
    n_classes: number of classes.

    Returns
    -------
    (n_classes, n_kept), each row of norm 1, or zeros if the prompts are zero on the subset.
    """
    kept = _unit(prompts.vectors[:, columns].astype(np.float64))
    sums = np.zeros((n_classes, len(columns)))
    np.add.at(sums, prompts.classes, kept)
    return _unit(sums)


def _unit(rows: FloatArray) -> FloatArray:
    """Divide each row by its norm; a row of zeros stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0.0, norms, 1.0))


def _prompts(task: ProbeTask) -> ClassPrompts:
    """Return the prompts of a task, projected as its rows are."""
    if task.prompts is None:
        raise CriticalMassError(
            "zero-shot scores class prompts, and this task has none; sweep a feature store that "
            "has prompts (extract --prompt, import --prompts)"
        )
    prompts = task.prompts
    if isinstance(task.x_test, ProjectedRows):
        if prompts.vectors.shape[1] != len(task.x_test.projection):
            raise _misfit(prompts, len(task.x_test.projection))
        prompts = prompts.projected(task.x_test.projection)
    if prompts.vectors.shape[1] != task.n_neurons:
        raise _misfit(prompts, task.n_neurons)
    return prompts


def _misfit(prompts: ClassPrompts, n_neurons: int) -> CriticalMassError:
    return CriticalMassError(
        f"the prompts have {prompts.vectors.shape[1]} neurons and the layer {n_neurons}; encode "
        "both with towers of one joint space"
    )
