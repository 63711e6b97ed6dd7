"""Limited-memory quasi-Newton fits of many penalised softmax problems in shared passes.

Each problem keeps its weights, gradient, curvature pairs and step; a pass evaluates the trial
points of all live problems at once, and each then accepts, backtracks (its retry rides in the
next shared pass) or retires.

While a fit runs, ``estimate`` judges it; when it looks done, ``certificate.certify`` proves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from criticalmass.measures.logistic.class_curvature import Curvature, curvature
from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening

MEMORY = 10
_ARMIJO = 1e-4
# float32 sums of losses scatter by about a unit in the seventh digit.
_SLACK = 2e-7
_MOST_BACKTRACKS = 12


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a pass found at a trial point, as means over rows, without the penalty."""

    loss: float
    weights: FloatArray
    intercepts: NDArray[np.float64]
    square: NDArray[np.float64] | None


class Problem:
    """One softmax fit on the first ``k`` columns of an order, with its quasi-Newton state.

    Parameters
    ----------
    k: number of columns.
    l2: penalty, > 0.
    prior: (C,) share of each class among the training rows, all > 0.
    """

    def __init__(self, k: int, l2: float, prior: NDArray[np.float64]) -> None:
        self.k, self.l2, self.prior = k, l2, prior
        c = prior.size
        self.weights = np.zeros((c, k), np.float32)
        log_prior = np.log(prior)
        self.intercepts = log_prior - log_prior.mean()
        self.value = np.inf
        self.estimate = np.inf
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
        self._curvature: Curvature | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.prior.size)

    @property
    def starts_from_zero(self) -> bool:
        """Whether the first pass is still to come, at zero weights."""
        return self.passes == 0 and not self.weights.any()

    @property
    def wants_square(self) -> bool:
        """Whether the next pass should also return the curvature between classes."""
        following = self.iterations + 1
        return not self._evaluated or self._curvature is None or following & (following - 1) == 0

    def trial(self) -> tuple[FloatArray, NDArray[np.float64]]:
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
        """Keep weights and curvature, but forget the value: the rows or intercepts changed."""
        self.prior = self.prior if prior is None else prior
        self._evaluated = False
        self.stalled = False
        self._backtracks = 0

    def continue_from(self, other: Problem) -> None:
        """Start where another strength of the same subset ended, with what it learnt.

        The losses are the same, so a change in gradient along a step differs only by the penalty.
        """
        self.weights, self.intercepts = other.weights, other.intercepts
        more = np.float32(self.l2 - other.l2)
        n_weights = self.weights.size
        for step, change in zip(other._steps, other._changes, strict=True):
            moved = change.copy()
            moved[:n_weights] += more * step[:n_weights]
            if _dot(step, moved) > 0.0:
                self._steps.append(step)
                self._changes.append(moved)

    def relative_estimate(self) -> float:
        """Return the estimated gap over the objective."""
        return self.estimate / max(self.value, 1e-300)

    def take(self, found: Evaluation, whitening: Whitening) -> None:
        """Accept or refuse the trial point, and choose the next one."""
        self.passes += 1
        weights, intercepts = self.trial()
        value = found.loss + 0.5 * self.l2 * _square(weights)
        if self._evaluated and not self._sufficient(value):
            self._backtrack(value)
            return
        gradient = np.empty_like(self._gradient)
        c, k = self.weights.shape
        np.multiply(weights, np.float32(self.l2), out=gradient[: c * k].reshape(c, k))
        gradient[: c * k] += found.weights.reshape(-1)
        gradient[c * k :] = found.intercepts
        if self._evaluated:
            self._remember(gradient)
            self.iterations += 1
        self.weights, self.intercepts, self.value = weights, intercepts, value
        self._gradient, self._evaluated, self._backtracks = gradient, True, 0
        if found.square is not None:
            mean = found.intercepts + self.prior
            self._curvature = curvature(mean, found.square, self.l2, whitening)
        self.estimate = self._estimate()
        self._aim(whitening)

    def _sufficient(self, value: float) -> bool:
        slack = _SLACK * abs(self.value)
        return bool(value <= self.value + _ARMIJO * self._step * self._slope + slack)

    def _backtrack(self, value: float) -> None:
        self._backtracks += 1
        if self._backtracks > _MOST_BACKTRACKS or not np.isfinite(self._slope):
            self.stalled = True
        rise = value - self.value - self._step * self._slope
        ideal = -self._slope * self._step**2 / (2 * rise) if np.isfinite(rise) else 0.0
        self._step = max(0.1 * self._step, min(0.5 * self._step, ideal))

    def _remember(self, gradient: FloatArray) -> None:
        step = self._direction * np.float32(self._step)
        change = gradient - self._gradient
        bend = _dot(step, change)
        if bend > 1e-7 * np.sqrt(_dot(step, step) * _dot(change, change)):
            self._steps.append(step)
            self._changes.append(change)
            del self._steps[:-MEMORY], self._changes[:-MEMORY]

    def _aim(self, whitening: Whitening) -> None:
        """Set the quasi-Newton direction (two-loop recursion around the preconditioner)."""
        q = -self._gradient
        weights: list[float] = []
        for step, change in zip(reversed(self._steps), reversed(self._changes), strict=True):
            weight = _dot(step, q) / _dot(step, change)
            weights.append(weight)
            _add(q, -weight, change)
        assert self._curvature is not None
        c, k = self.weights.shape
        q[: c * k] = self._curvature.apply(whitening, q[: c * k].reshape(c, k)).reshape(-1)
        q[c * k :] = self._curvature.intercept @ q[c * k :]
        for step, change, weight in zip(self._steps, self._changes, reversed(weights), strict=True):
            _add(q, weight - _dot(change, q) / _dot(step, change), step)
        self._direction, self._step = q, 1.0
        self._slope = _dot(self._gradient, q)
        if self._slope >= 0.0:
            self.stalled = not self._steps
            self._steps.clear()
            self._changes.clear()
            if not self.stalled:
                self._aim(whitening)

    def _estimate(self) -> float:
        """Return the duality gap as it would be with the intercepts at their optimum."""
        c, k = self.weights.shape
        flat, excess = self._gradient[: c * k], self._gradient[c * k :].astype(np.float64)
        settled = 0.0
        if self._curvature is not None:
            settled = 0.5 * float(excess @ self._curvature.intercept @ excess)
        return _dot(flat, flat) / (2 * self.l2) + settled


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def _block_dot(a: Any, b: Any, start: int, stop: int) -> Any:
    total = np.float32(0.0)
    for i in range(start, stop):
        total += a[i] * b[i]
    return total


@njit(nogil=True, cache=True)
def _dot(a: Any, b: Any) -> float:
    """Dot product: float32 within blocks of 512, float64 between them."""
    total = 0.0
    for start in range(0, a.shape[0], 512):
        total += np.float64(_block_dot(a, b, start, min(start + 512, a.shape[0])))
    return total


def _square(weights: FloatArray) -> float:
    flat = weights.reshape(-1)
    return float(_dot(flat, flat))


@njit(nogil=True, cache=True)
def _add(target: Any, factor: float, source: Any) -> None:
    f = np.float32(factor)
    for i in range(target.shape[0]):
        target[i] += f * source[i]
