"""Ridge classification and linear discriminant analysis for every prefix of every order.

Both are linear heads that solve ``(M + l2 I) W = B`` for a second moment ``M`` of the standardised
features. A prefix of an order owns the leading block of the permuted ``M``, and the Cholesky
factor of a leading block is the leading block of the factor: one factorisation per seed and
strength serves every prefix. Forward substitution is nested in the same way and done once; the
triangular back-substitution differs per size and is done for all sizes together, block by block.

They are measures of their own: with many classes they bend the curve away from the logistic
probe's, and never stand in for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.moments import Moments, moments
from criticalmass.core.rows import RowSubset, chunks, refuse_nonfinite, rows_within
from criticalmass.errors import CriticalMassError
from criticalmass.measures.columns import take_columns
from criticalmass.measures.prefix_heads import ascending, scores, stack, steps, unstack
from criticalmass.measures.probes.task import (
    ProbeScores,
    ProbeTask,
    label_dtype,
    uncertified_scores,
)
from criticalmass.measures.scaling import Scaling, scale_of

L2S = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FloatArray = NDArray[np.float64]
_SCORE_MEBIBYTES = 64


@dataclass(frozen=True, eq=False)
class System:
    """A probe as linear equations on the standardised features.

    Parameters
    ----------
    matrix: (n_neurons, n_neurons) float64, symmetric, positive semi-definite.
    targets: (n_neurons, n_classes) float64.
    bias: (n_classes,) float64.
    quadratic: whether half of ``targets' (matrix + l2 I)^-1 targets`` leaves the bias.
    scaling: what standardises raw features for this system.
    """

    matrix: FloatArray
    targets: FloatArray
    bias: FloatArray
    quadratic: bool
    scaling: Scaling


@dataclass(frozen=True, eq=False)
class Heads:
    """Solved heads of several prefixes, stacked as in ``staircase``.

    Parameters
    ----------
    blocks: the stacked weights.
    bias: (n_sizes, n_classes), ascending in size.
    """

    blocks: list[NDArray[np.float64]]
    bias: FloatArray


def ridge(task: ProbeTask) -> ProbeScores:
    """Classify by ridge regression on centred one-hot targets.

    Minimises ``||X W - Y||^2 / (2 n) + l2/2 ||W||^2`` over standardised X and centred one-hot Y,
    the largest response wins (Hoerl and Kennard 1970; Hastie, Tibshirani and Friedman 2009,
    section 4.2). ``l2`` is chosen from ``L2S`` per seed and size by accuracy on the validation
    rows after a fit on the others, ties to the stronger; the head is then refitted on all rows.

    Raises
    ------
    CriticalMassError
        If a feature is not finite, or no rows are left to fit or to validate on.
    """
    return _every_prefix(task, ridge_system)


def lda(task: ProbeTask) -> ProbeScores:
    """Classify by linear discriminant analysis with a shrunk pooled covariance.

    Gaussian classes that share ``S + l2 I``, where S is the within-class covariance (divided by
    n) of the standardised features, with class shares as priors (Hastie, Tibshirani and Friedman
    2009, section 4.3, equation 4.10). ``l2`` is chosen and the fit repeated as in ``ridge``.

    Raises
    ------
    CriticalMassError
        If a feature is not finite, or no rows are left to fit or to validate on.
    """
    return _every_prefix(task, lda_system)


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
    l2s: strengths.

    Returns
    -------
    One list per strength with one (k, n_outputs) array per size, rows in the order's order.

    Raises
    ------
    CriticalMassError
        If a prefix is singular at a strength.
    """
    kept = np.asarray(order, dtype=np.intp)[: sizes[-1]]
    targets = np.asarray(cross, dtype=np.float64)[kept]
    matrix = _permuted(np.asarray(moment, dtype=np.float64), kept)
    paths = []
    for l2 in l2s:
        factor = _factor(matrix, l2)
        blocks = _back_substitute(factor, _forward(factor, targets), sizes)
        paths.append(unstack(blocks))
    return paths


def ridge_system(m: Moments) -> System:
    """Return the normal equations of ridge regression on centred one-hot targets."""
    scale = scale_of(m.mean, np.diagonal(m.scatter) / m.n, m.n)
    share, offset = _classes(m, scale)
    matrix = m.scatter / (m.n * scale)
    matrix /= scale[:, None]
    # Responses sum to 1 over the classes, so a class without rows, always at 0, cannot win.
    targets = np.ascontiguousarray((offset * share[:, None]).T)
    return System(matrix, targets, share, False, Scaling(m.mean, scale))


def lda_system(m: Moments) -> System:
    """Return the equations of the discriminant directions."""
    scale = scale_of(m.mean, np.diagonal(m.scatter) / m.n, m.n)
    share, offset = _classes(m, scale)
    matrix = m.scatter / (m.n * scale)
    matrix /= scale[:, None]
    matrix -= offset.T @ (offset * share[:, None])
    bias = np.log(share, out=np.full(share.shape, -np.inf), where=share > 0)
    return System(matrix, np.ascontiguousarray(offset.T), bias, True, Scaling(m.mean, scale))


def solve(system: System, order: NDArray[np.intp], sizes: Sequence[int], l2: float) -> Heads:
    """Solve a system for every prefix of an order at one strength."""
    kept = order[: sizes[-1]]
    return _solve_permuted(_permuted(system.matrix, kept), system, kept, sizes, l2)


def _solve_permuted(
    matrix: FloatArray,
    system: System,
    kept: NDArray[np.intp],
    sizes: Sequence[int],
    l2: float,
) -> Heads:
    factor = _factor(matrix[: sizes[-1], : sizes[-1]], l2)
    forward = _forward(factor, system.targets[kept[: sizes[-1]]])
    bias = np.tile(system.bias, (len(sizes), 1))
    if system.quadratic:
        # ||L^-1 m||^2 of a prefix is a running sum over the rows of the nested forward solution.
        bias -= 0.5 * np.cumsum(forward**2, axis=0)[np.asarray(sizes) - 1]
    return Heads(_back_substitute(factor, forward, sizes), bias)


def _classes(m: Moments, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return class shares (C,) and standardised offsets of the class means (C, d)."""
    if m.class_counts is None or m.class_means is None:
        raise CriticalMassError("moments without classes; give labels to moments()")
    share = m.class_counts / m.n
    offset = np.where(share[:, None] > 0, (m.class_means - m.mean) / scale, 0.0)
    return share, offset


def _permuted(matrix: FloatArray, kept: NDArray[np.intp]) -> FloatArray:
    return np.take(np.take(matrix, kept, axis=0), kept, axis=1)


def _factor(matrix: FloatArray, l2: float) -> FloatArray:
    """Return the upper triangular U of ``matrix + l2 I = U'U``, in Fortran order.

    The strictly lower triangle is left as it came: whoever uses U must not read it.
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
    """Solve ``U' z = targets``; the leading rows of z are the solution of every prefix."""
    from scipy.linalg.blas import dtrsm

    z = dtrsm(1.0, factor, np.asfortranarray(targets), lower=False, trans_a=True)
    return np.ascontiguousarray(z)


def _back_substitute(
    factor: FloatArray, forward: FloatArray, sizes: Sequence[int]
) -> list[FloatArray]:
    """Solve ``U[:k, :k] W = forward[:k]`` for all sizes together, from the last block upwards."""
    from scipy.linalg.blas import dtrsm

    n_sizes, n_outputs = len(sizes), forward.shape[1]
    rest = np.tile(forward, (1, n_sizes))
    blocks: list[FloatArray] = []
    for j, (a, b) in reversed(list(enumerate(steps(sizes)))):
        live = (n_sizes - j) * n_outputs
        corner = np.asfortranarray(factor[a:b, a:b])
        block = np.ascontiguousarray(
            dtrsm(1.0, corner, np.asfortranarray(rest[a:b, :live]), lower=False)
        )
        if a > 0:
            rest[:a, :live] -= factor[:a, a:b] @ block
        blocks.append(block)
    return blocks[::-1]


def _every_prefix(task: ProbeTask, build: Callable[[Moments], System]) -> ProbeScores:
    """Choose a strength per seed and size, refit on all training rows, predict the test rows."""
    start = time.perf_counter()
    fitted, held = _split_moments(task)
    chosen = _choose(task, build(fitted))
    system = build(fitted.merge(held))
    predictions = np.empty((*task.grid, task.n_test), dtype=label_dtype(task.n_classes))
    room = _room(task)
    for seed, order in enumerate(task.orders):
        heads = _refit(system, order, task.sizes, chosen[seed])
        for a, block in chunks(task.x_test, _rows_at_once(task)):
            refuse_nonfinite(block, a, "x_test")
            x = take_columns(system.scaling.apply(block), order[: task.sizes[-1]], room)
            predictions[seed, :, a : a + block.shape[0]] = _predict(x, heads).T
    return uncertified_scores(predictions, time.perf_counter() - start, l2=chosen, passes=1)


def _split_moments(task: ProbeTask) -> tuple[Moments, Moments]:
    """Return the moments of the rows to fit on and of the rows to validate on."""
    parts = []
    for mask, use in ((~task.validation, "to fit on"), (task.validation, "to validate on")):
        index = np.flatnonzero(mask)
        if index.size == 0:
            raise CriticalMassError(
                f"validation marks {int(task.validation.sum())} of {task.n_train} training rows "
                f"and leaves none {use}; mark some, not all"
            )
        rows = RowSubset(task.x_train, index)
        parts.append(moments(rows, task.y_train[index], n_classes=task.n_classes))
    return parts[0], parts[1]


def _choose(task: ProbeTask, system: System) -> FloatArray:
    """Return the strength (n_seeds, n_sizes) with the best validation accuracy."""
    index = np.flatnonzero(task.validation)
    rows, y = RowSubset(task.x_train, index), task.y_train[index]
    chosen, room = np.empty(task.grid), _room(task)
    for seed, order in enumerate(task.orders):
        kept = order[: task.sizes[-1]]
        matrix = _permuted(system.matrix, kept)
        heads = [_in_float32(_solve_permuted(matrix, system, kept, task.sizes, l2)) for l2 in L2S]
        correct = np.zeros((len(L2S), len(task.sizes)), dtype=np.int64)
        for a, block in chunks(rows, _rows_at_once(task)):
            x = take_columns(system.scaling.apply(block), kept, room)
            truth = y[a : a + block.shape[0], None]
            for i, head in enumerate(heads):
                correct[i] += (_predict(x, head) == truth).sum(axis=0)
        # The first maximum from the strong end: ties go to the stronger penalty.
        best = len(L2S) - 1 - np.argmax(correct[::-1], axis=0)
        chosen[seed] = np.asarray(L2S)[best]
    return chosen


def _refit(system: System, order: NDArray[np.intp], sizes: Sequence[int], l2s: FloatArray) -> Heads:
    """Solve every prefix at its own strength, one factorisation per strength in use."""
    kept = order[: sizes[-1]]
    matrix = _permuted(system.matrix, kept)
    weights: list[FloatArray] = [np.empty(0)] * len(sizes)
    bias = np.empty((len(sizes), system.bias.size))
    for l2 in np.unique(l2s):
        members = np.flatnonzero(l2s == l2)
        heads = _solve_permuted(
            matrix, system, kept, [sizes[i] for i in members.tolist()], float(l2)
        )
        bias[members] = heads.bias
        for i, head in zip(members, unstack(heads.blocks), strict=True):
            weights[i] = head
    return _in_float32(Heads(stack(weights), bias))


def _in_float32(heads: Heads) -> Heads:
    """Scores need no more than float32; the equations were solved in float64."""
    return Heads([b.astype(np.float32) for b in heads.blocks], heads.bias.astype(np.float32))


def _predict(x: NDArray[np.float32], heads: Heads) -> NDArray[np.intp]:
    """Return the winning class (rows, n_sizes) of standardised, permuted features."""
    responses = ascending(scores(x, heads.blocks), len(heads.blocks))
    return np.asarray((responses + heads.bias).argmax(axis=2))


def _rows_at_once(task: ProbeTask) -> int:
    """Rows whose features and scores of one seed fit the working budget."""
    return rows_within(task.n_neurons + len(task.sizes) * task.n_classes, _SCORE_MEBIBYTES)


def _room(task: ProbeTask) -> NDArray[np.float32]:
    """Return memory for the gathered features of one block of rows."""
    return np.empty((_rows_at_once(task), task.sizes[-1]), dtype=np.float32)
