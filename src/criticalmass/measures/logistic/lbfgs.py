"""Limited-memory quasi-Newton fits of many penalised softmax problems in shared passes.

Each problem has its own weights, gradient, curvature pairs and step. A pass evaluates the trial
points of all live problems at once. Each problem then accepts its trial point, backtracks (the
next shared pass evaluates the shorter step) or stops.

While a fit runs, ``estimated_gap`` is compared with the tolerance. When it is small enough,
``certificate.certify`` computes a rigorous bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.logistic.class_curvature import Curvature, estimate_curvature
from criticalmass.measures.logistic.curvature_pairs import CurvaturePairs, dot
from criticalmass.measures.logistic.full_curvature import FullCurvature
from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.stacked_heads import Head

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
        self._pairs = CurvaturePairs(c * k + c)
        self._trial: Head | None = None
        self._pair_weights = np.empty(0)
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
    def curvature(self) -> Curvature | FullCurvature:
        """The approximate inverse Hessian without the pairs, known from the first pass on."""
        assert self._curvature is not None
        return self._curvature

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
        if self._trial is None:
            c, k = self.weights.shape
            weights = self._direction[: c * k].reshape(c, k) * np.float32(self._step)
            weights += self.weights
            self._trial = weights, self.intercepts + self._step * self._direction[c * k :]
        return self._trial

    def restart(self, prior: NDArray[np.float64] | None = None) -> None:
        """Keep weights and curvature but discard the objective: the rows or intercepts changed."""
        self.prior = self.prior if prior is None else prior
        # The estimate was that of the other rows; with it a fit could end before its first pass.
        self.estimated_gap = np.inf
        self._evaluated = False
        self._trial = None
        self.stalled = False
        self._backtracks = 0

    def continue_from(self, other: SoftmaxProblem) -> None:
        """Start at the weights of another strength of the same subset, with its curvature pairs.

        The losses are the same, so the change in gradient along a step differs only by the
        penalty.
        """
        self.weights, self.intercepts = other.weights, other.intercepts
        self._pairs.add_shifted(other._pairs, self.l2 - other.l2, self.weights.size)

    def use_curvature(self, curvature: FullCurvature) -> None:
        """Take the whole Hessian as preconditioner, for this fit and those that continue it."""
        self._curvature = curvature

    def relative_estimate(self) -> float:
        """Return the estimated gap over the objective."""
        return self.estimated_gap / max(self.objective, 1e-300)

    def update(self, evaluation: Evaluation, preconditioner: Preconditioner) -> bool:
        """Accept or reject the trial point; return whether a new direction is to be set."""
        self.passes += 1
        weights, intercepts = self.trial()
        value = evaluation.loss + 0.5 * self.l2 * _square(weights)
        if self._evaluated and not self._is_sufficient(value):
            self._backtrack(value)
            return False
        gradient = np.empty_like(self._gradient)
        c, k = self.weights.shape
        own = gradient[: c * k].reshape(c, k)
        np.multiply(weights, np.float32(self.l2), out=own)
        own += evaluation.weight_gradient
        gradient[c * k :] = evaluation.intercept_gradient
        if self._evaluated:
            self._pairs.add(self._direction, self._step, gradient, self._gradient)
            self.iterations += 1
        self.weights, self.intercepts, self.objective = weights, intercepts, value
        self._gradient, self._evaluated, self._backtracks = gradient, True, 0
        self._trial = None
        if evaluation.square is not None:
            mean = evaluation.intercept_gradient + self.prior
            self._curvature = estimate_curvature(mean, evaluation.square, self.l2, preconditioner)
        self.estimated_gap = self._estimate_gap()
        return True

    def right_side(self) -> FloatArray:
        """Return the descent direction before the preconditioner, (C k + C,)."""
        q = -self._gradient
        self._pair_weights = self._pairs.first_loop(q)
        return q

    def set_direction(self, q: FloatArray) -> bool:
        """Take the preconditioned right side and set the direction.

        Parameters
        ----------
        q: the inverse Hessian without the pairs, times `right_side`. It is overwritten.

        Returns
        -------
        Whether the direction descends. Otherwise all pairs are forgotten: ask again, if the
        problem is not stalled.
        """
        self._pairs.second_loop(q, self._pair_weights)
        self._direction, self._step = q, 1.0
        self._slope = dot(self._gradient, q)
        if self._slope < 0.0:
            return True
        self.stalled = not len(self._pairs)
        self._pairs.clear()
        return False

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
        self._trial = None

    def _estimate_gap(self) -> float:
        """Return the duality gap as it would be with the intercepts at their optimum."""
        c, k = self.weights.shape
        flat, excess = self._gradient[: c * k], self._gradient[c * k :].astype(np.float64)
        intercept_gap = 0.0
        if self._curvature is not None:
            intercept_gap = 0.5 * float(excess @ self._curvature.intercept @ excess)
        return dot(flat, flat) / (2 * self.l2) + intercept_gap


def _square(weights: FloatArray) -> float:
    flat = weights.reshape(-1)
    return float(dot(flat, flat))
