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

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from criticalmass.measures.logistic.device import Crew, Logits
from criticalmass.measures.logistic.lbfgs import Problem
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.training_rows import OrderedRows

_SETTLED = 1e-11
_MOST_NEWTON = 30
_LOGIT_BYTES = 256 << 20
# Mean cross-entropy, intercepts, and what is left of mean(p - y).
_Settled = tuple[float, NDArray[np.float64], NDArray[np.float64]]


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
    crew: who makes the passes.
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


def _certify_group(rows: OrderedRows, group: Sequence[Problem], crew: Crew) -> list[Certificate]:
    c = group[0].n_classes
    logits = crew.logits(rows, Stack.of([(p.weights, p.intercepts) for p in group]))
    prior = np.bincount(rows.y, minlength=c) / rows.n
    settled: list[_Settled] = [(0.0, np.empty(0), np.empty(0))] * len(group)

    def settle(i: int) -> None:
        settled[i] = _settle(logits, i, group[i].intercepts, prior)

    crew.each(settle, len(group))
    gradients = logits.gradient()
    return [
        _conclude(p, settled[i], gradients[i * c : (i + 1) * c, : p.k]) for i, p in enumerate(group)
    ]


def _settle(
    logits: Logits, i: int, intercepts: NDArray[np.float64], prior: NDArray[np.float64]
) -> _Settled:
    """Minimise over the intercepts of head i; turns its logits into residuals p - y.

    The Hessian is formed once: from a nearly optimal start the same one serves every step.
    Returns the mean cross-entropy, the intercepts, and what is left of mean(p - y).
    """
    n = logits.n
    b = intercepts.copy()
    total, mean = logits.moments(i, b)
    loss, excess = total / n, mean / n - prior
    solve = None
    for _ in range(_MOST_NEWTON):
        if float(np.abs(excess).max()) < _SETTLED:
            break
        if solve is None:
            solve = _hessian_factor(logits.square(i, b) / n, mean / n)
        trial = b - cho_solve(solve, excess)
        total, mean = logits.moments(i, trial)
        if not total / n <= loss + 1e-14 * abs(loss):
            break
        b, loss, excess = trial, total / n, mean / n - prior
    logits.to_residuals(i, b)
    return loss, b, excess


def _hessian_factor(
    square: NDArray[np.float64], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], bool]:
    """Factor the intercepts' Hessian, with the direction that shifts all of them made definite."""
    n_classes = mean.size
    hessian = np.diag(mean) - square
    level = float(np.trace(hessian)) / n_classes
    hessian += level / n_classes
    # float32 probabilities leave errors of about 1e-7; a ridge of that size keeps it definite.
    hessian.flat[:: n_classes + 1] += 1e-6 * level + 1e-12
    factor: tuple[NDArray[np.float64], bool] = cho_factor(hessian, lower=True)
    return factor


def _conclude(
    problem: Problem,
    settled: _Settled,
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
