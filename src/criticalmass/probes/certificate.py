"""Proof of a fit: a rigorous bound on objective minus optimum, at the cost of one pass.

For mean cross-entropy plus l2/2 ||W||^2 with a free intercept, the softmax probabilities p are a
dual point, feasible where the intercept's gradient, mean(p - y), is zero. There the duality gap
is exactly ||grad_W||^2 / (2 l2). So the intercepts are first brought to their optimum for the
given weights (Newton's method on stored logits, in float64, without touching the data again),
and the gap is read off the gradient there. What is left of mean(p - y) is repaired by mixing a
share tau of a constant distribution into p, and the price of that is added to the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from criticalmass.probes import passes
from criticalmass.probes.blas import gemm_arguments
from criticalmass.probes.engine import Crew, Stack
from criticalmass.probes.lbfgs import Problem
from criticalmass.probes.rows import OrderedRows

_SETTLED = 1e-11
_MOST_NEWTON = 30
_LOGIT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was proved of one fit.

    Parameters
    ----------
    objective: mean cross-entropy + l2/2 ||W||^2 at ``weights`` and ``intercepts``.
    gap: upper bound on objective - optimum, same unit.
    intercepts: (C,) float64, optimal for the weights.
    """

    objective: float
    gap: float
    intercepts: NDArray[np.float64]

    @property
    def relative(self) -> float:
        """Return the gap over the objective."""
        return self.gap / max(self.objective, 1e-300)


def certify(rows: OrderedRows, problems: Sequence[Problem], crew: Crew) -> list[Certificate]:
    """Certify problems in place: their intercepts move to the optimum for their weights.

    Parameters
    ----------
    rows: the training rows in the problems' order, columns of unit variance or zero.
    problems: fits on prefixes of that order.
    crew: the threads.
    """
    done: dict[int, Certificate] = {}
    by_size = sorted(problems, key=lambda p: -p.k)
    n_classes = problems[0].n_classes
    at_once = max(1, _LOGIT_BYTES // (4 * rows.n * n_classes))
    for first in range(0, len(by_size), at_once):
        group = by_size[first : first + at_once]
        for problem, certificate in zip(group, _certify_group(rows, group, crew), strict=True):
            problem.intercepts = certificate.intercepts
            problem.passes += 1
            done[id(problem)] = certificate
    return [done[id(p)] for p in problems]


def _certify_group(
    rows: OrderedRows, group: Sequence[Problem], crew: Crew
) -> list[Certificate]:
    c = group[0].n_classes
    stack = Stack.of([(p.weights, p.intercepts) for p in group])
    logits = np.empty((len(group), c, rows.n), np.float32)
    _fill_logits(rows, stack, logits, crew)
    y = np.concatenate([part.copy() for _, part in rows.blocks()])
    settled: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]] = [
        (0.0, np.empty(0), np.empty(0))
    ] * len(group)

    def settle(i: int) -> None:
        settled[i] = _settle(logits[i], y, group[i].intercepts)

    crew.each(settle, len(group))
    gradients = _residual_gradient(rows, stack, logits, crew)
    return [
        _conclude(p, settled[i], gradients[i * c : (i + 1) * c, : p.k])
        for i, p in enumerate(group)
    ]


def _fill_logits(
    rows: OrderedRows, stack: Stack, logits: NDArray[np.float32], crew: Crew
) -> None:
    flat = logits.reshape(-1, rows.n)
    done = 0
    for x, _ in rows.blocks():

        def work(_: int, a: int, b: int, x: Any = x, done: int = done) -> None:
            passes.logits(
                x[a:b], stack.weights, *stack.stairs, flat[:, done + a : done + b], gemm_arguments()
            )

        crew.run(work, x.shape[0])
        done += x.shape[0]


def _residual_gradient(
    rows: OrderedRows, stack: Stack, residuals: NDArray[np.float32], crew: Crew
) -> NDArray[np.float32]:
    flat = residuals.reshape(-1, rows.n)
    sums = [np.zeros_like(stack.weights) for _ in range(crew.n_threads)]
    done = 0
    for x, _ in rows.blocks():

        def work(i: int, a: int, b: int, x: Any = x, done: int = done) -> None:
            passes.add_gradient(
                x[a:b], flat[:, done + a : done + b], *stack.stairs, sums[i], gemm_arguments()
            )

        crew.run(work, x.shape[0])
        done += x.shape[0]
    for part in sums[1:]:
        sums[0] += part
    return sums[0] / np.float32(rows.n)


def _settle(
    logits: NDArray[np.float32], y: NDArray[np.int64], intercepts: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Minimise over the intercepts; turns the logits into residuals p - y.

    Returns the mean cross-entropy, the intercepts, and what is left of mean(p - y).
    """
    n_classes, n = logits.shape
    prior = np.bincount(y, minlength=n_classes) / n
    b = intercepts.copy()
    mean, square = np.empty(n_classes), np.empty((n_classes, n_classes))
    loss = _moments(logits, y, b, mean, square) / n
    for _ in range(_MOST_NEWTON):
        excess = mean / n - prior
        if float(np.abs(excess).max()) < _SETTLED:
            break
        hessian = np.diag(mean) / n - square / n
        step = np.linalg.lstsq(hessian, -excess, rcond=1e-14)[0]
        slope, size = float(excess @ step), 1.0
        while True:
            trial = b + size * step
            value = _moments(logits, y, trial, mean, square) / n
            if value <= loss + 1e-4 * size * slope + 1e-15 * abs(loss) or size < 1e-6:
                break
            size *= 0.5
        if np.array_equal(trial, b):
            break
        b, loss = trial, value
    _residuals(logits, y, b)
    return loss, b, mean / n - prior


def _conclude(
    problem: Problem,
    settled: tuple[float, NDArray[np.float64], NDArray[np.float64]],
    residual: NDArray[np.float32],
) -> Certificate:
    loss, b, excess = settled
    k, l2 = problem.k, problem.l2
    weights = problem.weights.astype(np.float64)
    gradient = residual.astype(np.float64) + l2 * weights
    square = float((gradient**2).sum())
    above = np.maximum(excess, 0.0)
    tau = float(np.max(above / (problem.prior + above)))
    # ||X'(q - y)/n|| <= sqrt(2 k): unit columns, residuals within the simplex.
    largest = np.sqrt(2.0 * k)
    norm = float(np.sqrt((weights**2).sum())) + np.sqrt(square) / l2
    mixing = tau * (np.log(b.size) + norm * largest) + (tau * largest) ** 2 / (2 * l2)
    gap = max(square / (2 * l2) + float(excess @ b), 0.0) + mixing
    objective = loss + 0.5 * l2 * float((weights**2).sum())
    problem.value = objective
    return Certificate(objective, float(gap), b)


@njit(nogil=True, cache=True)
def _moments(logits: Any, y: Any, b: Any, mean: Any, square: Any) -> float:
    """Sum cross-entropies, p and p p' over samples, in float64."""
    n_classes, n = logits.shape
    p = np.empty(n_classes)
    mean[:] = 0.0
    square[:] = 0.0
    loss = 0.0
    for i in range(n):
        top = -np.inf
        for c in range(n_classes):
            p[c] = np.float64(logits[c, i]) + b[c]
            top = max(top, p[c])
        loss += top - p[y[i]]
        total = 0.0
        for c in range(n_classes):
            p[c] = np.exp(p[c] - top)
            total += p[c]
        loss += np.log(total)
        for c in range(n_classes):
            p[c] /= total
            mean[c] += p[c]
        for a in range(n_classes):
            for c in range(a + 1):
                square[a, c] += p[a] * p[c]
    for a in range(n_classes):
        for c in range(a):
            square[c, a] = square[a, c]
    return loss


@njit(nogil=True, cache=True)
def _residuals(logits: Any, y: Any, b: Any) -> None:
    """Replace logits by p - y, rounded to float32 once."""
    n_classes, n = logits.shape
    p = np.empty(n_classes)
    for i in range(n):
        top = -np.inf
        for c in range(n_classes):
            p[c] = np.float64(logits[c, i]) + b[c]
            top = max(top, p[c])
        total = 0.0
        for c in range(n_classes):
            p[c] = np.exp(p[c] - top)
            total += p[c]
        for c in range(n_classes):
            logits[c, i] = p[c] / total - (1.0 if c == y[i] else 0.0)
