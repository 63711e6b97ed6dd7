"""Ridge classification and linear discriminant analysis for every prefix of every order.

Both are linear heads that solve ``(M + l2 I) W = B`` for a second moment ``M`` of the standardised
features. The matrix of a prefix is the leading block of the permuted ``M``, and the Cholesky
factor of a leading block is the leading block of the factor: one factorisation per seed and
penalty serves every prefix. Forward substitution is nested in the same way and done once; the
triangular back-substitution differs per size and is done for all sizes together, block by block.

Both are separate measures and no substitutes for the logistic probe: with many classes their
curves differ from its curve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.moments import Moments, moments
from criticalmass.core.rows import RowSubset, check_finite, chunks, rows_per_chunk
from criticalmass.errors import CriticalMassError
from criticalmass.measures.columns import take_columns
from criticalmass.measures.prefix_heads import (
    block_ranges,
    prefix_scores,
    smallest_first,
    stack_heads,
    unstack_heads,
)
from criticalmass.measures.probes.task import (
    ProbeScores,
    ProbeTask,
    label_dtype,
    uncertified_scores,
)
from criticalmass.measures.scaling import Scaling, column_scales

L2S = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FloatArray = NDArray[np.float64]
_SCORE_MEBIBYTES = 64


@dataclass(frozen=True, eq=False)
class LinearSystem:
    """A probe as linear equations on the standardised features.

    Attributes
    ----------
    matrix: (n_neurons, n_neurons) float64, symmetric, positive semi-definite.
    targets: (n_neurons, n_classes) float64.
    bias: (n_classes,) float64.
    quadratic: whether half of ``targets' (matrix + l2 I)^-1 targets`` is subtracted from the bias.
    scaling: standardises raw features for this system.
    """

    matrix: FloatArray
    targets: FloatArray
    bias: FloatArray
    quadratic: bool
    scaling: Scaling


@dataclass(frozen=True, eq=False)
class PrefixHeads:
    """Solved heads of several prefixes, stacked as in `criticalmass.measures.prefix_heads`.

    Attributes
    ----------
    blocks: the stacked weights.
    bias: (n_sizes, n_classes), ascending in size.
    """

    blocks: list[NDArray[np.float64]]
    bias: FloatArray


def ridge(task: ProbeTask) -> ProbeScores:
    """Classify by ridge regression on centred one-hot targets.

    Minimises ``||X W - Y||^2 / (2 n) + l2/2 ||W||^2`` over standardised X and centred one-hot Y
    and predicts the class of the largest response (Hoerl and Kennard 1970; Hastie, Tibshirani and
    Friedman 2009, section 4.2). ``l2`` is chosen from ``L2S`` per seed and size by accuracy on the
    validation rows after a fit on the others; the larger of two equally good penalties is taken.
    The head is then refitted on all rows.

    Raises
    ------
    CriticalMassError
        If a feature is not finite, or there are no rows to fit on or to validate on.
    """
    return _fit_and_predict(task, ridge_system)


def lda(task: ProbeTask) -> ProbeScores:
    """Classify by linear discriminant analysis with a shrunk pooled covariance.

    Gaussian classes that share ``S + l2 I``, where S is the within-class covariance (divided by
    n) of the standardised features, with class shares as priors (Hastie, Tibshirani and Friedman
    2009, section 4.3, equation 4.10). ``l2`` is chosen and the fit repeated as in ``ridge``.

    Raises
    ------
    CriticalMassError
        If a feature is not finite, or there are no rows to fit on or to validate on.
    """
    return _fit_and_predict(task, lda_system)


def ridge_path(
    moment: npt.ArrayLike,
    cross: npt.ArrayLike,
    order: npt.ArrayLike,
    sizes: Sequence[int],
    l2s: Sequence[float],
) -> list[list[FloatArray]]:
    """Solve ``(moment[S, S] + l2 I) W = cross[S]`` for every prefix S of an order.

    Parameters
    ----------
    moment: (n_neurons, n_neurons) second moment, X'X/n.
    cross: (n_neurons, n_outputs) cross moment, X'Y/n.
    order: (n_neurons,) permutation of the neurons.
    sizes: prefix lengths, ascending.
    l2s: penalties.

    Returns
    -------
    One list per penalty with one (k, n_outputs) array per size; row i belongs to ``order[i]``.

    Raises
    ------
    CriticalMassError
        If a prefix is singular at a penalty.
    """
    columns = np.asarray(order, dtype=np.intp)[: sizes[-1]]
    targets = np.asarray(cross, dtype=np.float64)[columns]
    matrix = _permute(np.asarray(moment, dtype=np.float64), columns)
    paths = []
    for l2 in l2s:
        factor = _factor(matrix, l2)
        blocks = _back_substitute(factor, _forward(factor, targets), sizes)
        paths.append(unstack_heads(blocks))
    return paths


def ridge_system(m: Moments) -> LinearSystem:
    """Return the normal equations of ridge regression on centred one-hot targets."""
    scale = column_scales(m.mean, np.diagonal(m.scatter) / m.n, m.n)
    share, offset = _class_offsets(m, scale)
    matrix = m.scatter / (m.n * scale)
    matrix /= scale[:, None]
    # Responses sum to 1 over the classes, so a class without rows, whose response is 0, cannot win.
    targets = np.ascontiguousarray((offset * share[:, None]).T)
    return LinearSystem(matrix, targets, share, False, Scaling(m.mean, scale))


def lda_system(m: Moments) -> LinearSystem:
    """Return the equations of linear discriminant analysis."""
    scale = column_scales(m.mean, np.diagonal(m.scatter) / m.n, m.n)
    share, offset = _class_offsets(m, scale)
    matrix = m.scatter / (m.n * scale)
    matrix /= scale[:, None]
    matrix -= offset.T @ (offset * share[:, None])
    bias = np.log(share, out=np.full(share.shape, -np.inf), where=share > 0)
    return LinearSystem(matrix, np.ascontiguousarray(offset.T), bias, True, Scaling(m.mean, scale))


def solve(
    system: LinearSystem, order: NDArray[np.intp], sizes: Sequence[int], l2: float
) -> PrefixHeads:
    """Solve a system for every prefix of an order at one penalty."""
    columns = order[: sizes[-1]]
    return _solve_permuted(_permute(system.matrix, columns), system, columns, sizes, l2)


def _solve_permuted(
    matrix: FloatArray,
    system: LinearSystem,
    columns: NDArray[np.intp],
    sizes: Sequence[int],
    l2: float,
) -> PrefixHeads:
    """Solve a system whose ``matrix`` is permuted to ``columns`` already."""
    factor = _factor(matrix[: sizes[-1], : sizes[-1]], l2)
    forward = _forward(factor, system.targets[columns[: sizes[-1]]])
    bias = np.tile(system.bias, (len(sizes), 1))
    if system.quadratic:
        # ||L^-1 m||^2 of a prefix is a running sum over the rows of the nested forward solution.
        bias -= 0.5 * np.cumsum(forward**2, axis=0)[np.asarray(sizes) - 1]
    return PrefixHeads(_back_substitute(factor, forward, sizes), bias)


def _class_offsets(m: Moments, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return class shares (C,) and standardised offsets of the class means (C, d)."""
    if m.class_counts is None or m.class_means is None:
        raise CriticalMassError("the moments have no classes; call moments() with labels")
    share = m.class_counts / m.n
    offset = np.where(share[:, None] > 0, (m.class_means - m.mean) / scale, 0.0)
    return share, offset


def _permute(matrix: FloatArray, columns: NDArray[np.intp]) -> FloatArray:
    return np.take(np.take(matrix, columns, axis=0), columns, axis=1)


def _factor(matrix: FloatArray, l2: float) -> FloatArray:
    """Return the upper triangular U of ``matrix + l2 I = U'U``, in Fortran order.

    The strictly lower triangle holds the input, not zeros, and must not be read.
    """
    from scipy.linalg.lapack import dpotrf

    shifted = np.array(matrix.T, order="F")
    shifted[np.diag_indices_from(shifted)] += l2
    factor, info = dpotrf(shifted, lower=False, clean=False, overwrite_a=True)
    if info != 0:
        raise CriticalMassError(
            f"l2={l2} leaves the second moment of the first {info} neurons singular; "
            "give a larger l2"
        )
    return np.asarray(factor)


def _forward(factor: FloatArray, targets: FloatArray) -> FloatArray:
    """Solve ``U' z = targets``; the first k rows of z are the solution of the prefix of size k."""
    from scipy.linalg.blas import dtrsm

    z = dtrsm(1.0, factor, np.asfortranarray(targets), lower=False, trans_a=True)
    return np.ascontiguousarray(z)


def _back_substitute(
    factor: FloatArray, forward: FloatArray, sizes: Sequence[int]
) -> list[FloatArray]:
    """Solve ``U[:k, :k] W = forward[:k]`` for all sizes together, from the last block upwards."""
    from scipy.linalg.blas import dtrsm

    n_sizes, n_outputs = len(sizes), forward.shape[1]
    residual = np.tile(forward, (1, n_sizes))
    blocks: list[FloatArray] = []
    for j, (a, b) in reversed(list(enumerate(block_ranges(sizes)))):
        n_columns = (n_sizes - j) * n_outputs
        corner = np.asfortranarray(factor[a:b, a:b])
        block = np.ascontiguousarray(
            dtrsm(1.0, corner, np.asfortranarray(residual[a:b, :n_columns]), lower=False)
        )
        if a > 0:
            residual[:a, :n_columns] -= factor[:a, a:b] @ block
        blocks.append(block)
    return blocks[::-1]


def _fit_and_predict(task: ProbeTask, build: Callable[[Moments], LinearSystem]) -> ProbeScores:
    """Choose a penalty per seed and size, refit on all training rows, predict the test rows."""
    start = time.perf_counter()
    fit_moments, validation_moments = _split_moments(task)
    l2s = _choose_penalties(task, build(fit_moments))
    system = build(fit_moments.merge(validation_moments))
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    buffer = _column_buffer(task)
    for seed, order in enumerate(task.orders):
        heads = _refit(system, order, task.sizes, l2s[seed])
        for a, block in chunks(task.x_test, _rows_at_once(task)):
            check_finite(block, a, "x_test")
            x = take_columns(system.scaling.apply(block), order[: task.sizes[-1]], buffer)
            predictions[seed, :, a : a + block.shape[0]] = _predict(x, heads).T
    return uncertified_scores(predictions, time.perf_counter() - start, l2=l2s, passes=1)


def _split_moments(task: ProbeTask) -> tuple[Moments, Moments]:
    """Return the moments of the rows to fit on and of the rows to validate on."""
    parts = []
    for mask, use in ((~task.validation, "fit"), (task.validation, "choose the penalty")):
        index = np.flatnonzero(mask)
        if index.size == 0:
            raise CriticalMassError(
                f"none of the {task.n_train} training samples is left to {use} on, which takes two "
                "of a class; give more training samples, or use a probe without a penalty, e.g. "
                "'knn'"
            )
        rows = RowSubset(task.x_train, index)
        parts.append(moments(rows, task.y_train[index], n_classes=task.n_classes))
    return parts[0], parts[1]


def _choose_penalties(task: ProbeTask, system: LinearSystem) -> FloatArray:
    """Return the penalties (n_seeds, n_sizes) with the best validation accuracy."""
    index = np.flatnonzero(task.validation)
    rows, y = RowSubset(task.x_train, index), task.y_train[index]
    l2s, buffer = np.empty(task.grid), _column_buffer(task)
    for seed, order in enumerate(task.orders):
        columns = order[: task.sizes[-1]]
        matrix = _permute(system.matrix, columns)
        heads = [
            _in_float32(_solve_permuted(matrix, system, columns, task.sizes, l2)) for l2 in L2S
        ]
        n_correct = np.zeros((len(L2S), len(task.sizes)), dtype=np.int64)
        for a, block in chunks(rows, _rows_at_once(task)):
            x = take_columns(system.scaling.apply(block), columns, buffer)
            truth = y[a : a + block.shape[0], None]
            for i, head in enumerate(heads):
                n_correct[i] += (_predict(x, head) == truth).sum(axis=0)
        # The first maximum from the largest penalty down: ties go to the larger penalty.
        best = len(L2S) - 1 - np.argmax(n_correct[::-1], axis=0)
        l2s[seed] = np.asarray(L2S)[best]
    return l2s


def _refit(
    system: LinearSystem, order: NDArray[np.intp], sizes: Sequence[int], l2s: FloatArray
) -> PrefixHeads:
    """Solve every prefix at its own penalty, with one factorisation per distinct penalty."""
    columns = order[: sizes[-1]]
    matrix = _permute(system.matrix, columns)
    weights: list[FloatArray] = [np.empty(0)] * len(sizes)
    bias = np.empty((len(sizes), system.bias.size))
    for l2 in np.unique(l2s):
        members = np.flatnonzero(l2s == l2)
        heads = _solve_permuted(
            matrix, system, columns, [sizes[i] for i in members.tolist()], float(l2)
        )
        bias[members] = heads.bias
        for i, head in zip(members, unstack_heads(heads.blocks), strict=True):
            weights[i] = head
    return _in_float32(PrefixHeads(stack_heads(weights), bias))


def _in_float32(heads: PrefixHeads) -> PrefixHeads:
    """Round heads that were solved in float64 to float32, which is precise enough for scores."""
    return PrefixHeads([b.astype(np.float32) for b in heads.blocks], heads.bias.astype(np.float32))


def _predict(x: NDArray[np.float32], heads: PrefixHeads) -> NDArray[np.intp]:
    """Return the winning class (rows, n_sizes) of standardised, permuted features."""
    responses = smallest_first(prefix_scores(x, heads.blocks), len(heads.blocks))
    return np.asarray((responses + heads.bias).argmax(axis=2))


def _rows_at_once(task: ProbeTask) -> int:
    """Return the number of rows whose features and scores of one seed fit the memory limit."""
    return rows_per_chunk(task.n_neurons + len(task.sizes) * task.n_classes, _SCORE_MEBIBYTES)


def _column_buffer(task: ProbeTask) -> NDArray[np.float32]:
    """Return memory for the gathered features of one block of rows."""
    return np.empty((_rows_at_once(task), task.sizes[-1]), dtype=np.float32)
