"""The curvature pairs of one L-BFGS fit, and the two loops over them, compiled.

The loops are bound by memory, not by arithmetic: a wide layer's pairs do not fit in cache. So each
step of a loop adds a vector and takes the next inner product in the same pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compilation import njit
from criticalmass.measures.logistic.preconditioner import FloatArray

#: Number of pairs that a fit keeps.
MEMORY = 10
# Inner products are summed in float32 within blocks of this length, and in float64 between them.
_BLOCK = 512
_RELAXED = {"contract", "nsz", "nnan", "ninf", "reassoc"}
# A pair whose cosine is smaller holds more rounding than curvature.
_LEAST_COSINE = 1e-7


class CurvaturePairs:
    """The last steps of a fit, with the change in gradient along each.

    Parameters
    ----------
    n_values: length of a step.
    """

    def __init__(self, n_values: int) -> None:
        self._shape = (MEMORY, n_values)
        self._steps = np.empty((0, 0), np.float32)
        self._changes = np.empty((0, 0), np.float32)
        self._products = np.zeros(MEMORY)
        # Slots from the newest to the oldest pair.
        self._slots = np.empty(0, np.intp)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return int(self._slots.size)

    def clear(self) -> None:
        """Forget all pairs."""
        self._slots = np.empty(0, np.intp)

    def add(
        self, direction: FloatArray, step: float, gradient: FloatArray, before: FloatArray
    ) -> None:
        """Add the step ``step * direction`` and its change in gradient, unless it is noise."""
        slot = self._free_slot()
        product, steps, changes = _fill_pair(
            direction,
            np.float32(step),
            gradient,
            before,
            self._steps[slot],
            self._changes[slot],
        )
        self._keep(slot, product, steps, changes)

    def add_shifted(self, other: CurvaturePairs, more: float, n_weights: int) -> None:
        """Add the pairs of another penalty; ``more`` is this penalty less that one.

        The losses are the same, so the change in gradient along a step differs only by the penalty
        on the first ``n_weights`` values.
        """
        for old in other._slots[::-1]:
            slot = self._free_slot()
            step, change = other._steps[old], other._changes[old]
            self._steps[slot] = step
            self._changes[slot] = change
            self._changes[slot, :n_weights] += np.float32(more) * step[:n_weights]
            product = dot(step, self._changes[slot])
            if product > 0.0:
                self._products[slot] = product
                self._slots = np.concatenate([[slot], self._slots[: MEMORY - 1]])

    def first_loop(self, q: FloatArray) -> NDArray[np.float64]:
        """Run the loop before the preconditioner on q in place; return a weight for each pair."""
        weights = np.empty(len(self))
        if len(self):
            _first_loop(self._steps, self._changes, self._products, self._slots, q, weights)
        return weights

    def second_loop(self, q: FloatArray, weights: NDArray[np.float64]) -> None:
        """Run the loop after the preconditioner on q in place."""
        if len(self):
            _second_loop(self._steps, self._changes, self._products, self._slots, q, weights)

    def _free_slot(self) -> int:
        if not self._steps.size:
            # The system provides the memory of a pair when the pair is written.
            self._steps = np.empty(self._shape, np.float32)
            self._changes = np.empty(self._shape, np.float32)
        if len(self) == MEMORY:
            return int(self._slots[-1])
        return next(i for i in range(MEMORY) if i not in self._slots)

    def _keep(self, slot: int, product: float, steps: float, changes: float) -> None:
        self._slots = self._slots[self._slots != slot]
        if product > _LEAST_COSINE * np.sqrt(steps * changes):
            self._products[slot] = product
            self._slots = np.concatenate([[slot], self._slots])


@njit(nogil=True, fastmath=_RELAXED)
def _block_dot(a: Any, b: Any, start: int, stop: int) -> Any:
    total = np.float32(0.0)
    for i in range(start, stop):
        total += a[i] * b[i]
    return total


@njit(nogil=True)
def dot(a: Any, b: Any) -> float:
    """Return the inner product of two vectors."""
    total = 0.0
    for start in range(0, a.shape[0], _BLOCK):
        total += np.float64(_block_dot(a, b, start, min(start + _BLOCK, a.shape[0])))
    return total


@njit(nogil=True, fastmath=_RELAXED)
def _block_add_dot(target: Any, factor: Any, source: Any, other: Any, start: int, stop: int) -> Any:
    total = np.float32(0.0)
    for i in range(start, stop):
        value = target[i] + factor * source[i]
        target[i] = value
        total += value * other[i]
    return total


@njit(nogil=True)
def _add_dot(target: Any, factor: float, source: Any, other: Any) -> float:
    """Add ``factor * source`` to the target; return the target's inner product with ``other``."""
    f = np.float32(factor)
    total = 0.0
    for start in range(0, target.shape[0], _BLOCK):
        stop = min(start + _BLOCK, target.shape[0])
        total += np.float64(_block_add_dot(target, f, source, other, start, stop))
    return total


@njit(nogil=True)
def _add(target: Any, factor: float, source: Any) -> None:
    f = np.float32(factor)
    for i in range(target.shape[0]):
        target[i] += f * source[i]


@njit(nogil=True)
def _first_loop(steps: Any, changes: Any, products: Any, slots: Any, q: Any, weights: Any) -> None:
    n = slots.shape[0]
    product = dot(steps[slots[0]], q)
    for i in range(n):
        weights[i] = product / products[slots[i]]
        if i + 1 < n:
            product = _add_dot(q, -weights[i], changes[slots[i]], steps[slots[i + 1]])
        else:
            _add(q, -weights[i], changes[slots[i]])


@njit(nogil=True)
def _second_loop(steps: Any, changes: Any, products: Any, slots: Any, q: Any, weights: Any) -> None:
    n = slots.shape[0]
    product = dot(changes[slots[n - 1]], q)
    for i in range(n - 1, -1, -1):
        factor = weights[i] - product / products[slots[i]]
        if i > 0:
            product = _add_dot(q, factor, steps[slots[i]], changes[slots[i - 1]])
        else:
            _add(q, factor, steps[slots[i]])


@njit(nogil=True, fastmath=_RELAXED)
def _fill_block(
    direction: Any, step: Any, gradient: Any, before: Any, s: Any, y: Any, start: int, stop: int
) -> Any:
    product, steps, changes = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(start, stop):
        a = direction[i] * step
        b = gradient[i] - before[i]
        s[i], y[i] = a, b
        product += a * b
        steps += a * a
        changes += b * b
    return product, steps, changes


@njit(nogil=True)
def _fill_pair(
    direction: Any, step: Any, gradient: Any, before: Any, s: Any, y: Any
) -> tuple[float, float, float]:
    """Write step and change of a pair; return s'y, s's and y'y."""
    product, steps, changes = 0.0, 0.0, 0.0
    for start in range(0, s.shape[0], _BLOCK):
        stop = min(start + _BLOCK, s.shape[0])
        a, b, c = _fill_block(direction, step, gradient, before, s, y, start, stop)
        product += np.float64(a)
        steps += np.float64(b)
        changes += np.float64(c)
    return product, steps, changes
