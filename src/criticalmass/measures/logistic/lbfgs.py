"""Limited-memory quasi-Newton fits of many penalised softmax problems in shared passes.

Each problem has its own weights, gradient, curvature pairs and step. A pass evaluates the trial
points of all live problems at once. Each problem then accepts its trial point, backtracks (the
next shared pass evaluates the shorter step) or stops.

While a fit runs, ``estimated_gap`` is compared with the tolerance. When it is small enough,
``certificate.certify`` computes a rigorous bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compilation import njit
from criticalmass.measures.logistic.class_curvature import Curvature, estimate_curvature
from criticalmass.measures.logistic.full_curvature import FullCurvature
from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.stacked_heads import Head

MEMORY = 10
_ARMIJO = 1e-4
# float32 sums of losses scatter by about a unit in the seventh digit.
_SLACK = 2e-7
_MAX_BACKTRACKS = 12


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Loss and gradient of one head, as means over rows, without the penalty.

    Parameters
    ----------
    loss: mean cross-entropy.
    weight_gradient: (C, k).
    intercept_gradient: (C,) mean(p - y).
    square: (C, C) mean of p p', or None if it was not requested.
    """

    loss: float
    weight_gradient: FloatArray
    intercept_gradient: NDArray[np.float64]
    square: NDArray[np.float64] | None


class SoftmaxProblem:
    """One softmax fit on the first ``k`` columns of an order, with its quasi-Newton state.

    Parameters
    ----------
    k: number of columns.
    l2: penalty, > 0.
    prior: (C,) share of each class among the training rows, all > 0.

    Attributes
    ----------
    weights, intercepts: (C, k) float32 and (C,) float64.
    objective: mean cross-entropy + l2/2 ||W||^2 at the weights.
    estimated_gap: estimate of objective - optimum.
    passes, iterations: passes over the rows, and accepted steps.
    stalled: whether no further decrease is possible in float32.
    """

    def __init__(self, k: int, l2: float, prior: NDArray[np.float64]) -> None:
        self.k, self.l2, self.prior = k, l2, prior
        c = prior.size
        self.weights = np.zeros((c, k), np.float32)
        log_prior = np.log(prior)
        self.intercepts = log_prior - log_prior.mean()
        self.objective = np.inf
        self.estimated_gap = np.inf
        self.passes = 0
        self.iterations = 0
        self.stalled = False
        self._evaluated = False
        self._gradient = np.zeros(c * k + c, np.float32)
        self._direction = np.zeros(c * k + c, np.float32)
        self._step = 0.0
        self._slope = 0.0
        self._backtracks = 0
        self._steps: list[FloatArray] = []
        self._changes: list[FloatArray] = []
        self._curvature: Curvature | FullCurvature | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.prior.size)

    @property
    def head(self) -> Head:
        """Current weights (C, k) and intercepts (C,)."""
        return self.weights, self.intercepts

    @property
    def is_at_zero(self) -> bool:
        """Whether no pass was made yet and the weights are zero."""
        return self.passes == 0 and not self.weights.any()

    @property
    def needs_square(self) -> bool:
        """Whether the next pass should also return the mean of p p'."""
        if isinstance(self._curvature, FullCurvature):
            return False
        following = self.iterations + 1
        return not self._evaluated or self._curvature is None or following & (following - 1) == 0

    def trial(self) -> Head:
        """Return the weights (C, k) and intercepts (C,) to evaluate next."""
        if not self._evaluated:
            return self.weights, self.intercepts
        c, k = self.weights.shape
        step = np.float32(self._step)
        return (
            self.weights + step * self._direction[: c * k].reshape(c, k),
            self.intercepts + self._step * self._direction[c * k :],
        )

    def restart(self, prior: NDArray[np.float64] | None = None) -> None:
        """Keep weights and curvature but discard the objective: the rows or intercepts changed."""
        self.prior = self.prior if prior is None else prior
        # The estimate was that of the other rows; with it a fit could end before its first pass.
        self.estimated_gap = np.inf
        self._evaluated = False
        self.stalled = False
        self._backtracks = 0

    def continue_from(self, other: SoftmaxProblem) -> None:
        """Start at the weights of another strength of the same subset, with its curvature pairs.

        The losses are the same, so the change in gradient along a step differs only by the
        penalty.
        """
        self.weights, self.intercepts = other.weights, other.intercepts
        more = np.float32(self.l2 - other.l2)
        n_weights = self.weights.size
        for step, change in zip(other._steps, other._changes, strict=True):
            adjusted = change.copy()
            adjusted[:n_weights] += more * step[:n_weights]
            if _dot(step, adjusted) > 0.0:
                self._steps.append(step)
                self._changes.append(adjusted)

    def use_curvature(self, curvature: FullCurvature) -> None:
        """Take the whole Hessian as preconditioner, for this fit and those that continue it."""
        self._curvature = curvature

    def relative_estimate(self) -> float:
        """Return the estimated gap over the objective."""
        return self.estimated_gap / max(self.objective, 1e-300)

    def update(self, evaluation: Evaluation, preconditioner: Preconditioner) -> None:
        """Accept or reject the trial point and choose the next one."""
        self.passes += 1
        weights, intercepts = self.trial()
        value = evaluation.loss + 0.5 * self.l2 * _square(weights)
        if self._evaluated and not self._is_sufficient(value):
            self._backtrack(value)
            return
        gradient = np.empty_like(self._gradient)
        c, k = self.weights.shape
        np.multiply(weights, np.float32(self.l2), out=gradient[: c * k].reshape(c, k))
        gradient[: c * k] += evaluation.weight_gradient.reshape(-1)
        gradient[c * k :] = evaluation.intercept_gradient
        if self._evaluated:
            self._store_pair(gradient)
            self.iterations += 1
        self.weights, self.intercepts, self.objective = weights, intercepts, value
        self._gradient, self._evaluated, self._backtracks = gradient, True, 0
        if evaluation.square is not None:
            mean = evaluation.intercept_gradient + self.prior
            self._curvature = estimate_curvature(mean, evaluation.square, self.l2, preconditioner)
        self.estimated_gap = self._estimate_gap()
        self._set_direction(preconditioner)

    def _is_sufficient(self, value: float) -> bool:
        """Whether the objective decreased enough (Armijo's condition)."""
        slack = _SLACK * abs(self.objective)
        return bool(value <= self.objective + _ARMIJO * self._step * self._slope + slack)

    def _backtrack(self, value: float) -> None:
        self._backtracks += 1
        if self._backtracks > _MAX_BACKTRACKS or not np.isfinite(self._slope):
            self.stalled = True
        rise = value - self.objective - self._step * self._slope
        ideal = -self._slope * self._step**2 / (2 * rise) if np.isfinite(rise) else 0.0
        self._step = max(0.1 * self._step, min(0.5 * self._step, ideal))

    def _store_pair(self, gradient: FloatArray) -> None:
        """Add the last step and its change in gradient to the curvature pairs."""
        step = self._direction * np.float32(self._step)
        change = gradient - self._gradient
        product = _dot(step, change)
        if product > 1e-7 * np.sqrt(_dot(step, step) * _dot(change, change)):
            self._steps.append(step)
            self._changes.append(change)
            del self._steps[:-MEMORY], self._changes[:-MEMORY]

    def _set_direction(self, preconditioner: Preconditioner) -> None:
        """Set the quasi-Newton direction (two-loop recursion around the preconditioner)."""
        q = -self._gradient
        weights: list[float] = []
        for step, change in zip(reversed(self._steps), reversed(self._changes), strict=True):
            weight = _dot(step, q) / _dot(step, change)
            weights.append(weight)
            _add(q, -weight, change)
        assert self._curvature is not None
        q = self._curvature.apply(preconditioner, q)
        for step, change, weight in zip(self._steps, self._changes, reversed(weights), strict=True):
            _add(q, weight - _dot(change, q) / _dot(step, change), step)
        self._direction, self._step = q, 1.0
        self._slope = _dot(self._gradient, q)
        if self._slope >= 0.0:
            self.stalled = not self._steps
            self._steps.clear()
            self._changes.clear()
            if not self.stalled:
                self._set_direction(preconditioner)

    def _estimate_gap(self) -> float:
        """Return the duality gap as it would be with the intercepts at their optimum."""
        c, k = self.weights.shape
        flat, excess = self._gradient[: c * k], self._gradient[c * k :].astype(np.float64)
        intercept_gap = 0.0
        if self._curvature is not None:
            intercept_gap = 0.5 * float(excess @ self._curvature.intercept @ excess)
        return _dot(flat, flat) / (2 * self.l2) + intercept_gap


@njit(nogil=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def _block_dot(a: Any, b: Any, start: int, stop: int) -> Any:
    total = np.float32(0.0)
    for i in range(start, stop):
        total += a[i] * b[i]
    return total


@njit(nogil=True)
def _dot(a: Any, b: Any) -> float:
    """Return the dot product: float32 within blocks of 512, float64 between them."""
    total = 0.0
    for start in range(0, a.shape[0], 512):
        total += np.float64(_block_dot(a, b, start, min(start + 512, a.shape[0])))
    return total


def _square(weights: FloatArray) -> float:
    flat = weights.reshape(-1)
    return float(_dot(flat, flat))


@njit(nogil=True)
def _add(target: Any, factor: float, source: Any) -> None:
    """Add ``factor * source`` to the target, in float32."""
    f = np.float32(factor)
    for i in range(target.shape[0]):
        target[i] += f * source[i]
