"""Logistic probes on every prefix of every order, each with a bound on its optimality gap.

The objective is mean cross-entropy + l2/2 ||W||^2 on standardised columns with a free intercept.
scikit-learn's ``LogisticRegression(C=1/(n*l2))`` minimises the same objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.arrays import tensor_to_numpy
from criticalmass.core.compute import Compute
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.certificate import FitCertificate, certify
from criticalmass.measures.logistic.device import PassExecutor, executor_for, find_device
from criticalmass.measures.logistic.lbfgs import SoftmaxProblem
from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.solver import StoppingRule, classify, fit_problems
from criticalmass.measures.logistic.stacked_heads import Head
from criticalmass.measures.logistic.training_rows import (
    OrderedRows,
    class_shares,
    ordered_rows,
    second_moment,
)
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.scaling import Scaling, column_scaling

# Fits aim at this share of the tolerance, so that the first certificate is usually good enough.
_TARGET_SHARE = 0.8
_TARGET_FACTOR = 0.4
_MAX_CERTIFICATES = 5


@dataclass(frozen=True, eq=False, repr=False)
class ProbeFits(Shown):
    """Fitted probes. All arrays are indexed (seed, size, strength).

    Parameters
    ----------
    objective: (n_seeds, n_sizes, n_l2s) float64, mean cross-entropy + l2/2 ||W||^2.
    gap: same shape, rigorous bound on objective - optimum, in the objective's unit.
    passes: same shape, int32, passes over the training rows, including the certificates'.
    converged: same shape, bool, whether gap <= tol * objective.
    classes: (n_classes,) the labels, sorted.
    orders: (n_seeds, n_neurons) permutations of the neurons.
    sizes: prefix lengths.
    l2s: penalty strengths.
    scaling: mean and scale of every neuron.
    heads: per seed, size and strength: weights (C, k) on standardised columns in the order's
        first k neurons, and intercepts (C,).
    """

    objective: NDArray[np.float64]
    gap: NDArray[np.float64]
    passes: NDArray[np.int32]
    converged: NDArray[np.bool_]
    classes: NDArray[Any]
    orders: NDArray[np.intp]
    sizes: tuple[int, ...]
    l2s: tuple[float, ...]
    scaling: Scaling
    heads: list[list[list[Head]]]

    def _card(self) -> Card:
        n_seeds, n_sizes, n_l2s = self.gap.shape
        facts = {
            "fits": f"{n_seeds} orders x {n_sizes} sizes x {n_l2s} strengths",
            "converged": f"{int(self.converged.sum()):,} of {self.converged.size:,}",
            "classes": f"{len(self.classes):,}",
        }
        return Card("Fitted probes", facts)

    def predict(self, x: ArrayLike | Rows, *, device: str = "auto") -> NDArray[Any]:
        """Predict labels of raw rows.

        Parameters
        ----------
        x: (n_samples, n_neurons) raw features.
        device: where to compute, as for `fit_probes`.

        Returns
        -------
        (n_seeds, n_sizes, n_l2s, n_samples) labels.
        """
        x = tensor_to_numpy(x, "x")
        rows: Any = x if hasattr(x, "shape") else np.asarray(x)
        if len(rows.shape) != 2 or rows.shape[1] != self.orders.shape[1]:
            raise CriticalMassError(
                f"x has shape {tuple(rows.shape)}; the probes were fitted on "
                f"{self.orders.shape[1]} neurons: give (n_samples, {self.orders.shape[1]})"
            )
        shape = (len(self.orders), len(self.sizes), len(self.l2s), int(rows.shape[0]))
        out = np.empty(shape, np.intp)
        dummy_labels = np.zeros(shape[3], np.int64)
        compute = Compute(device=device)
        with executor_for(compute) as executor:
            for s, order in enumerate(self.orders):
                columns = order[: max(self.sizes)]
                scaled = ordered_rows(
                    rows, dummy_labels, self.scaling, columns, limit=compute.held_bytes
                )
                heads = [head for by_size in self.heads[s] for head in by_size]
                out[s] = classify(scaled, heads, executor).reshape(shape[1:])
        return self.classes[out]


def fit_certified(
    rows: OrderedRows,
    problems: Sequence[SoftmaxProblem],
    preconditioner: Preconditioner,
    rule: StoppingRule,
    executor: PassExecutor,
) -> list[FitCertificate]:
    """Fit problems until each is certified within ``rule.tol`` or cannot be improved.

    Parameters
    ----------
    rows: the training rows in the order's columns.
    problems: fits on prefixes of that order; each continues from its current state.
    preconditioner: of that order.
    rule: tolerance (relative gap) and number of passes allowed.
    executor: makes the passes.
    """
    best: dict[int, FitCertificate] = {}
    pass_limits = {id(p): p.passes + rule.max_passes for p in problems}
    unfinished, target = list(problems), _TARGET_SHARE * rule.tol
    for attempt in range(_MAX_CERTIFICATES):
        fit_problems(rows, unfinished, preconditioner, replace(rule, tol=target), executor)
        certificates = certify(rows, unfinished, executor)
        for problem, certificate in zip(unfinished, certificates, strict=True):
            previous = best.get(id(problem))
            if previous is None or certificate.relative <= previous.relative:
                best[id(problem)] = certificate
        unfinished = [
            p
            for p in unfinished
            if best[id(p)].relative > rule.tol and p.passes < pass_limits[id(p)] and not p.stalled
        ]
        if not unfinished or attempt == _MAX_CERTIFICATES - 1:
            break
        for problem in unfinished:
            problem.restart()
        target *= _TARGET_FACTOR
    return [best[id(p)] for p in problems]


@validate_arguments
def fit_probes(
    x: ArrayLike | Rows,
    y: ArrayLike,
    orders: ArrayLike,
    sizes: Sequence[int],
    l2s: Sequence[float],
    *,
    tol: float = 1e-6,
    max_passes: int = 2000,
    threads: int | None = None,
    device: str = "auto",
) -> ProbeFits:
    """Fit a logistic probe for every order, prefix length and strength.

    Parameters
    ----------
    x: (n_samples, n_neurons) raw features, an array or sharded rows; standardised inside.
    y: (n_samples,) labels of any kind that sorts.
    orders: (n_seeds, n_neurons) permutations of the neurons.
    sizes: prefix lengths, strictly ascending, in 1..n_neurons. The whole layer is fitted once
        and shared by all seeds.
    l2s: penalty strengths, all > 0; strength l2 is scikit-learn's ``C = 1 / (n_samples * l2)``.
    tol: certified gap over objective to reach.
    max_passes: passes over the data after which a fit ends unfinished (``converged`` False).
    threads: cores to use; all by default.
    device: ``"auto"`` (a CUDA device if torch finds one, else the processor), ``"cpu"``,
        ``"cuda"``, ``"cuda:1"``, or ``"torch-cpu"`` (the passes of a CUDA device, on the
        processor).

    Raises
    ------
    CriticalMassError
        If shapes do not fit, a feature is not finite, there is one class, l2 <= 0, or there is
        no such device.
    """
    check_strengths(l2s)
    check_stopping_rule(tol, max_passes)
    compute = Compute(threads=threads, device=find_device(device))
    rows: Any = x if hasattr(x, "shape") else np.asarray(x)
    labels = np.asarray(y)
    classes, ids = np.unique(labels, return_inverse=True)
    task = ProbeTask(
        x_train=rows,
        y_train=ids.astype(np.int64),
        x_test=rows,
        n_classes=int(classes.size),
        orders=_as_orders(orders),
        sizes=tuple(int(k) for k in sizes),
        validation=np.zeros(ids.size, bool),
        compute=compute,
    )
    scaling = column_scaling(rows)
    moment = second_moment(rows, scaling)
    out = _FitArrays((task.n_seeds, len(task.sizes), len(l2s)))
    with executor_for(compute) as executor:
        job = _FitJob(task, scaling, moment, tuple(l2s), StoppingRule(tol, max_passes), executor)
        for s in range(task.n_seeds):
            _fit_order(job, s, out)
    return ProbeFits(
        objective=out.objective,
        gap=out.gap,
        passes=out.passes,
        converged=out.gap <= tol * out.objective,
        classes=classes,
        orders=task.orders,
        sizes=task.sizes,
        l2s=tuple(float(v) for v in l2s),
        scaling=scaling,
        heads=out.heads,
    )


@dataclass(frozen=True, eq=False)
class _FitJob:
    """What the fits of all orders share.

    Parameters
    ----------
    task: data, orders and sizes.
    scaling: of the layer's columns.
    moment: (d, d) second moment of the standardised columns.
    l2s: penalty strengths.
    rule: when to stop.
    executor: makes the passes.
    """

    task: ProbeTask
    scaling: Scaling
    moment: FloatArray
    l2s: tuple[float, ...]
    rule: StoppingRule
    executor: PassExecutor


class _FitArrays:
    """Results of all fits, indexed (seed, size, strength); filled order by order."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.objective = np.empty(shape)
        self.gap = np.empty(shape)
        self.passes = np.empty(shape, np.int32)
        empty = (np.empty((0, 0), np.float32), np.empty(0))
        self.heads = [[[empty] * shape[2] for _ in range(shape[1])] for _ in range(shape[0])]


def _fit_order(job: _FitJob, s: int, out: _FitArrays) -> None:
    """Fit all sizes and strengths of order ``s``; the whole layer is fitted for order 0 only."""
    task, l2s = job.task, job.l2s
    order = task.orders[s]
    fitted_sizes = [j for j, k in enumerate(task.sizes) if s == 0 or k < task.n_neurons]
    if s > 0 and task.sizes[-1] == task.n_neurons:
        _copy_whole_layer(task, s, out)
    if not fitted_sizes:
        return
    columns = order[: task.sizes[fitted_sizes[-1]]]
    limit = task.compute.held_bytes
    rows = ordered_rows(task.x_train, task.y_train, job.scaling, columns, limit=limit)
    moment = np.ascontiguousarray(job.moment[np.ix_(columns, columns)])
    preconditioner = job.executor.make_preconditioner(moment)
    prior = class_shares(task.y_train, task.n_classes)
    grid = [(j, i) for j in fitted_sizes for i in range(len(l2s))]
    problems = [SoftmaxProblem(task.sizes[j], l2s[i], prior) for j, i in grid]
    certificates = fit_certified(rows, problems, preconditioner, job.rule, job.executor)
    for (j, i), problem, certificate in zip(grid, problems, certificates, strict=True):
        out.objective[s, j, i], out.gap[s, j, i] = certificate.objective, certificate.gap
        out.passes[s, j, i] = problem.passes
        out.heads[s][j][i] = problem.head


def _copy_whole_layer(task: ProbeTask, s: int, out: _FitArrays) -> None:
    """Copy order 0's fits of the whole layer, with the columns in the sequence of order ``s``."""
    for values in (out.objective, out.gap, out.passes):
        values[s, -1] = values[0, -1]
    position = np.argsort(task.orders[0])[task.orders[s]]
    out.heads[s][-1] = [(np.ascontiguousarray(w[:, position]), b) for w, b in out.heads[0][-1]]


def check_strengths(l2s: Sequence[float]) -> None:
    """Check that every strength is positive and finite, so that an optimum exists.

    Raises
    ------
    CriticalMassError
        If l2s is empty, or a strength is not positive and finite.
    """
    if len(l2s) == 0:
        raise CriticalMassError("l2s is empty; give at least one strength, e.g. l2s=(1e-2,)")
    for l2 in l2s:
        if not (np.isfinite(l2) and l2 > 0):
            raise CriticalMassError(
                f"l2={l2}; a probe without a penalty has no optimum on separable classes and no "
                "certificate: give l2 > 0, e.g. 1e-6"
            )


def check_stopping_rule(tol: float, max_passes: int) -> None:
    """Check the tolerance, which float32 bounds from below, and the number of passes.

    Raises
    ------
    CriticalMassError
        If the tolerance is outside [1e-8, 1) or there is no pass.
    """
    if not 1e-8 <= tol < 1:
        raise CriticalMassError(f"tol={tol}; give a relative gap in [1e-8, 1)")
    if max_passes < 1:
        raise CriticalMassError(f"max_passes={max_passes}; give at least 1")


def _as_orders(orders: ArrayLike) -> NDArray[Any]:
    """Return orders as rows; arrays that are not of integers are left for the task to reject."""
    rows = np.atleast_2d(np.asarray(orders))
    return rows.astype(np.intp) if rows.dtype.kind in "iu" else rows
