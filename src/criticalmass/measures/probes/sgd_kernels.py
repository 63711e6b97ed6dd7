"""Compiled loops of the SGD probe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.compilation import njit

_FAST = {"reassoc", "contract", "nsz"}
_LOG2_E = np.float32(1.4426950408889634)
# log(2) in two parts, so that the remainder of the range reduction keeps all its digits.
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)


@njit(fastmath=_FAST, boundscheck=False, inline="always")
def _exp_nonpositive(x: np.float32) -> np.float32:
    """Exponential of x <= 0 with a relative error of about 2e-7; loops over it vectorise.

    Splits x = m log 2 + r with abs(r) <= log(2)/2, sums the Taylor series of exp(r) to degree 6
    and writes m into the exponent bits.
    """
    x = max(x, _LOWEST)
    m = np.floor(x * _LOG2_E + np.float32(0.5))
    r = (x - m * _LN2_HIGH) - m * _LN2_LOW
    p = np.float32(1.0 / 720.0)
    p = p * r + np.float32(1.0 / 120.0)
    p = p * r + np.float32(1.0 / 24.0)
    p = p * r + np.float32(1.0 / 6.0)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1.0)
    p = p * r + np.float32(1.0)
    power: np.float32 = np.int32((np.int32(m) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(p * power)


@njit(fastmath=_FAST, boundscheck=False)
def softmax_residual(
    logits: NDArray[np.float32], bias: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    """Turn logits of many heads into the gradient of their mean cross-entropies, in place.

    Parameters
    ----------
    logits: (n_rows, n_heads * n_classes) without bias; becomes (softmax - one-hot) / n_rows.
    bias: (n_heads, n_classes).
    labels: (n_rows,) class ids.
    """
    n_rows = logits.shape[0]
    n_heads, n_classes = bias.shape
    share = np.float32(1.0 / n_rows)
    flat = bias.ravel()
    for i in range(n_rows):
        row = logits[i]
        for h in range(n_heads):
            start = h * n_classes
            top = row[start] + flat[start]
            for c in range(start, start + n_classes):
                row[c] += flat[c]
                top = max(top, row[c])
            for c in range(start, start + n_classes):
                row[c] -= top
        for c in range(row.size):
            row[c] = _exp_nonpositive(row[c])
        for h in range(n_heads):
            start = h * n_classes
            total = np.float32(0.0)
            for c in range(start, start + n_classes):
                total += row[c]
            scale = share / total
            for c in range(start, start + n_classes):
                row[c] *= scale
            row[start + labels[i]] -= share


@njit(fastmath=_FAST, boundscheck=False)
def momentum_step(
    weights: NDArray[np.float32],
    velocity: NDArray[np.float32],
    gradient: NDArray[np.float32],
    lr: np.float32,
    momentum: np.float32,
    decay: np.float32,
) -> None:
    """Take one step of SGD with momentum and weight decay, in place.

    ``v = momentum * v + (gradient + decay * w)``, then ``w = w - lr * v``. If the velocity starts
    at zero, the first step is a step of SGD without momentum.

    Parameters
    ----------
    weights, velocity, gradient: flat, of the same size.
    lr: learning rate.
    momentum: share of the velocity that is kept.
    decay: weight decay.
    """
    for i in range(weights.size):
        velocity[i] = momentum * velocity[i] + (gradient[i] + decay * weights[i])
        weights[i] -= lr * velocity[i]
