"""Logistic probes on every prefix of every order, each with a proof of how good it is.

The objective is mean cross-entropy + l2/2 ||W||^2 on standardised columns with a free intercept;
scikit-learn's ``LogisticRegression(C=1/(n*l2))`` minimises the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from criticalmass.core.arguments import checked
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.certificate import Certificate, certify
from criticalmass.measures.logistic.device import Crew, crew_for, find_device
from criticalmass.measures.logistic.lbfgs import Problem
from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening
from criticalmass.measures.logistic.solver import Effort, classify, fit
from criticalmass.measures.logistic.training_rows import OrderedRows, ordered_rows, second_moment
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.scaling import Scaling, column_scaling

# The estimate steers towards this share of the tolerance, so that the proof usually holds at once.
_AIM = 0.8
_MOST_PROOFS = 5


@dataclass(frozen=True, eq=False)
class ProbeFits:
    """Fitted probes, indexed (seed, size, strength) throughout.

    Parameters
    ----------
    objective: (n_seeds, n_sizes, n_l2s) float64, mean cross-entropy + l2/2 ||W||^2.
    gap: same shape, rigorous bound on objective - optimum, in the objective's unit.
    passes: same shape, int32, passes over the training rows, the proof's included.
    converged: same shape, bool, whether gap <= tol * objective.
    classes: (n_classes,) the labels, sorted.
    orders: (n_seeds, n_neurons) the permutations.
    sizes: prefix lengths.
    l2s: strengths.
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
    heads: list[list[list[tuple[FloatArray, NDArray[np.float64]]]]]

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
        rows: Any = x if hasattr(x, "shape") else np.asarray(x)
        if len(rows.shape) != 2 or rows.shape[1] != self.orders.shape[1]:
            raise CriticalMassError(
                f"x has shape {tuple(rows.shape)}; the probes were fitted on "
                f"{self.orders.shape[1]} neurons: give (n_samples, {self.orders.shape[1]})"
            )
        shape = (len(self.orders), len(self.sizes), len(self.l2s), int(rows.shape[0]))
        out = np.empty(shape, np.intp)
        nobody = np.zeros(shape[3], np.int64)
        with crew_for(device) as crew:
            for s, order in enumerate(self.orders):
                data = ordered_rows(rows, nobody, self.scaling, order[: max(self.sizes)])
                heads = [head for by_size in self.heads[s] for head in by_size]
                out[s] = classify(data, heads, crew).reshape(shape[1:])
        return self.classes[out]


def fit_certified(
    rows: OrderedRows,
    problems: Sequence[Problem],
    whitening: Whitening,
    effort: Effort,
    crew: Crew,
) -> list[Certificate]:
    """Fit problems until each is proved within ``effort.tol``, or cannot be improved.

    Parameters
    ----------
    rows: the training rows in the order's columns.
    problems: fits on prefixes of that order, continued where they stand.
    whitening: of that order.
    effort: tolerance (relative gap) and passes allowed.
    crew: who makes the passes.
    """
    proofs: dict[int, Certificate] = {}
    budget = {id(p): p.passes + effort.max_passes for p in problems}
    rest, aim = list(problems), _AIM * effort.tol
    for attempt in range(_MOST_PROOFS):
        fit(rows, rest, whitening, replace(effort, tol=aim), crew)
        for problem, proof in zip(rest, certify(rows, rest, crew), strict=True):
            if id(problem) not in proofs or proof.relative <= proofs[id(problem)].relative:
                proofs[id(problem)] = proof
        rest = [
            p
            for p in rest
            if proofs[id(p)].relative > effort.tol and p.passes < budget[id(p)] and not p.stalled
        ]
        if not rest or attempt == _MOST_PROOFS - 1:
            break
        for problem in rest:
            problem.restart()
        aim *= 0.4
    return [proofs[id(p)] for p in problems]


@checked
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
    l2s: strengths, all > 0; strength l2 is scikit-learn's ``C = 1 / (n_samples * l2)``.
    tol: certified gap over objective to reach.
    max_passes: passes over the data after which a fit ends unfinished (``converged`` False).
    threads: cores to use; all by default.
    device: ``"auto"`` (a CUDA device if torch finds one, else the processor), ``"cpu"``,
        ``"cuda"``, ``"cuda:1"``, or ``"torch-cpu"`` (what a CUDA device runs, on the processor).

    Raises
    ------
    CriticalMassError
        If shapes do not fit, a feature is not finite, there is one class, l2 <= 0, or there is
        no such device.
    """
    check_strengths(l2s)
    check_effort(tol, max_passes)
    place = find_device(device)
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
    )
    scaling = column_scaling(rows)
    moment = second_moment(rows, scaling)
    shape = (task.n_seeds, len(task.sizes), len(l2s))
    out = _Collected(shape)
    effort = Effort(tol, max_passes)
    with crew_for(place, threads) as crew:
        for s in range(task.n_seeds):
            _fit_seed(task, s, (scaling, moment), _Plan(tuple(l2s), effort, crew), out)
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
class _Plan:
    """What is asked of every seed's fits, and who makes them."""

    l2s: tuple[float, ...]
    effort: Effort
    crew: Crew


class _Collected:
    """Arrays that fits are written into, seed by seed."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.objective = np.empty(shape)
        self.gap = np.empty(shape)
        self.passes = np.empty(shape, np.int32)
        empty = (np.empty((0, 0), np.float32), np.empty(0))
        self.heads = [[[empty] * shape[2] for _ in range(shape[1])] for _ in range(shape[0])]


def _fit_seed(
    task: ProbeTask,
    s: int,
    prepared: tuple[Scaling, FloatArray],
    plan: _Plan,
    out: _Collected,
) -> None:
    scaling, moment = prepared
    l2s = plan.l2s
    order = task.orders[s]
    mine = [j for j, k in enumerate(task.sizes) if s == 0 or k < task.n_neurons]
    if s > 0 and task.sizes[-1] == task.n_neurons:
        _share_whole_layer(task, s, out)
    if not mine:
        return
    kept = order[: task.sizes[mine[-1]]]
    rows = ordered_rows(task.x_train, task.y_train, scaling, kept)
    whitening = plan.crew.whitening(np.ascontiguousarray(moment[np.ix_(kept, kept)]))
    prior = np.bincount(task.y_train, minlength=task.n_classes) / task.n_train
    grid = [(j, i) for j in mine for i in range(len(l2s))]
    problems = [Problem(task.sizes[j], l2s[i], prior) for j, i in grid]
    proofs = fit_certified(rows, problems, whitening, plan.effort, plan.crew)
    for (j, i), problem, proof in zip(grid, problems, proofs, strict=True):
        out.objective[s, j, i], out.gap[s, j, i] = proof.objective, proof.gap
        out.passes[s, j, i] = problem.passes
        out.heads[s][j][i] = (problem.weights, problem.intercepts)


def _share_whole_layer(task: ProbeTask, s: int, out: _Collected) -> None:
    """Copy the first order's whole-layer fits, their columns in this order's sequence."""
    for values in (out.objective, out.gap, out.passes):
        values[s, -1] = values[0, -1]
    place = np.argsort(task.orders[0])[task.orders[s]]
    out.heads[s][-1] = [(np.ascontiguousarray(w[:, place]), b) for w, b in out.heads[0][-1]]


def check_strengths(l2s: Sequence[float]) -> None:
    """Refuse strengths for which there may be no optimum."""
    if len(l2s) == 0:
        raise CriticalMassError("l2s is empty; give at least one strength, e.g. l2s=(1e-2,)")
    for l2 in l2s:
        if not (np.isfinite(l2) and l2 > 0):
            raise CriticalMassError(
                f"l2={l2}; a probe without a penalty has no optimum on separable classes and no "
                "certificate: give l2 > 0, e.g. 1e-6"
            )


def check_effort(tol: float, max_passes: int) -> None:
    """Refuse tolerances that float32 cannot reach, and no passes at all."""
    if not 1e-8 <= tol < 1:
        raise CriticalMassError(f"tol={tol}; give a relative gap in [1e-8, 1)")
    if max_passes < 1:
        raise CriticalMassError(f"max_passes={max_passes}; give at least 1")


def _as_orders(orders: ArrayLike) -> NDArray[Any]:
    """Return orders as rows; what is no integer stays as it is, for the task to refuse."""
    rows = np.atleast_2d(np.asarray(orders))
    return rows.astype(np.intp) if rows.dtype.kind in "iu" else rows
