"""The certificate of a fit: a rigorous bound on objective minus optimum, at the cost of one pass.

For mean cross-entropy plus l2/2 ||W||^2 with a free intercept, the softmax probabilities p are a
dual point. It is feasible where the intercept's gradient, mean(p - y), is zero. There the duality
gap is exactly ||grad_W||^2 / (2 l2). So the intercepts are first moved to their optimum for the
given weights (Newton's method on stored logits, in float64, without another pass over the data),
and the gap is computed from the gradient there. The remainder of mean(p - y) is removed by mixing
a share tau of a constant distribution into p, and the cost of the mixing is added to the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from criticalmass.measures.logistic.device import Logits, PassExecutor
from criticalmass.measures.logistic.lbfgs import SoftmaxProblem
from criticalmass.measures.logistic.stacked_heads import StackedHeads
from criticalmass.measures.logistic.training_rows import OrderedRows, class_shares

# Newton's method ends when no entry of mean(p - y) is larger than this.
_MAX_EXCESS = 1e-11
_MAX_NEWTON_STEPS = 30
_LOGIT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class FitCertificate:
    """Objective and gap of one fit.

    Parameters
    ----------
    objective: mean cross-entropy + l2/2 ||W||^2 at the fit's weights and ``intercepts``.
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


@dataclass(frozen=True, eq=False)
class _InterceptOptimum:
    """The optimum over the intercepts for given weights.

    Parameters
    ----------
    loss: mean cross-entropy.
    intercepts: (C,).
    excess: (C,) remainder of mean(p - y).
    """

    loss: float
    intercepts: NDArray[np.float64]
    excess: NDArray[np.float64]


def certify(
    rows: OrderedRows, problems: Sequence[SoftmaxProblem], executor: PassExecutor
) -> list[FitCertificate]:
    """Certify problems; their intercepts are set to the optimum for their weights.

    Parameters
    ----------
    rows: the training rows in the problems' order, columns of unit variance or zero.
    problems: fits on prefixes of that order.
    executor: makes the passes.
    """
    certificates: dict[int, FitCertificate] = {}
    by_size = sorted(problems, key=lambda p: -p.k)
    group_size = max(1, _LOGIT_BYTES // (4 * rows.n * problems[0].n_classes))
    for start in range(0, len(by_size), group_size):
        group = by_size[start : start + group_size]
        for problem, certificate in zip(group, _certify_group(rows, group, executor), strict=True):
            problem.intercepts = certificate.intercepts
            problem.passes += 1
            certificates[id(problem)] = certificate
    return [certificates[id(p)] for p in problems]


def _certify_group(
    rows: OrderedRows, group: Sequence[SoftmaxProblem], executor: PassExecutor
) -> list[FitCertificate]:
    c = group[0].n_classes
    logits = executor.logits(rows, StackedHeads.from_heads([p.head for p in group]))
    prior = class_shares(rows.y, c)
    optima: dict[int, _InterceptOptimum] = {}

    def optimise(i: int) -> None:
        optima[i] = _optimise_intercepts(logits, i, group[i].intercepts, prior)

    executor.each(optimise, len(group))
    gradients = logits.gradient()
    return [
        _bound_gap(p, optima[i], gradients[i * c : (i + 1) * c, : p.k]) for i, p in enumerate(group)
    ]


def _optimise_intercepts(
    logits: Logits, i: int, intercepts: NDArray[np.float64], prior: NDArray[np.float64]
) -> _InterceptOptimum:
    """Minimise over the intercepts of head i; replace its logits by residuals p - y.

    The Hessian is computed once: from a nearly optimal start the same one serves every step.
    """
    n = logits.n
    b = intercepts.copy()
    total, mean = logits.moments(i, b)
    loss, excess = total / n, mean / n - prior
    factor = None
    for _ in range(_MAX_NEWTON_STEPS):
        if float(np.abs(excess).max()) < _MAX_EXCESS:
            break
        if factor is None:
            factor = _hessian_factor(logits.square(i, b) / n, mean / n)
        trial = b - cho_solve(factor, excess)
        total, mean = logits.moments(i, trial)
        if not total / n <= loss + 1e-14 * abs(loss):
            break
        b, loss, excess = trial, total / n, mean / n - prior
    logits.to_residuals(i, b)
    return _InterceptOptimum(loss, b, excess)


def _hessian_factor(
    square: NDArray[np.float64], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], bool]:
    """Factor the intercepts' Hessian, made definite in the direction that shifts all of them.

    float32 probabilities have errors of about 1e-7, so a ridge of that share of the Hessian keeps
    it definite. Where nearly all of them are 0 or 1, p(1 - p) itself is a rounding error: there
    the ridge grows until the matrix is definite. That shortens Newton's step, but not the bound,
    which holds for any intercepts.
    """
    n_classes = mean.size
    hessian = np.diag(mean) - square
    level = float(np.trace(hessian)) / n_classes
    hessian += level / n_classes
    hessian.flat[:: n_classes + 1] += 1e-6 * level + 1e-12
    ridge = float(np.abs(hessian).max())
    factor: tuple[NDArray[np.float64], bool]
    for share in (0.0, 1e-4, 1e-2, 1.0):
        hessian.flat[:: n_classes + 1] += share * ridge
        try:
            factor = cho_factor(hessian, lower=True)
        except np.linalg.LinAlgError:
            continue
        return factor
    # Larger than any eigenvalue of the Hessian of mean cross-entropy.
    factor = cho_factor(np.eye(n_classes), lower=True)
    return factor


def _bound_gap(
    problem: SoftmaxProblem, optimum: _InterceptOptimum, residual: NDArray[np.float32]
) -> FitCertificate:
    """Compute objective and gap from the mean of residual times row, (C, k)."""
    excess = optimum.excess
    k, l2 = problem.k, problem.l2
    weights = problem.weights.astype(np.float64)
    gradient = residual.astype(np.float64) + l2 * weights
    square = float((gradient**2).sum())
    above = np.maximum(excess, 0.0)
    tau = float(np.max(above / (problem.prior + above)))
    # ||X'(q - y)/n|| <= sqrt(2 k): unit columns, residuals within the simplex.
    largest = np.sqrt(2.0 * k)
    norm = float(np.sqrt((weights**2).sum())) + np.sqrt(square) / l2
    mixing = tau * (np.log(excess.size) + norm * largest) + (tau * largest) ** 2 / (2 * l2)
    gap = max(square / (2 * l2) + float(excess @ optimum.intercepts), 0.0) + mixing
    objective = optimum.loss + 0.5 * l2 * float((weights**2).sum())
    problem.objective = objective
    return FitCertificate(objective, float(gap), optimum.intercepts)
