"""Compiled float64 softmax of logits stored in float32; the certificate is computed from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from criticalmass.core.compilation import njit

_LOG2E = 1.4426950408889634
# Taylor coefficients of 2**f, f in [-1/2, 1/2]; the remainder is under 1e-15 relative.
_POWERS = (
    0.6931471805599453,
    0.24022650695910072,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.00015403530393381608,
    1.5252733804059841e-05,
    1.3215486790144307e-06,
    1.0178086009239699e-07,
    7.054911620801121e-09,
    4.4455382718708116e-10,
    2.5678435993488206e-11,
)


@njit(nogil=True, fastmath={"contract", "nsz", "nnan", "ninf"})
def _exponentiate(z: Any, shift: Any, power: Any, power_bits: Any) -> None:
    """Replace z by exp(z - shift), in float64; ``power_bits`` is ``power`` viewed as int64."""
    n = z.shape[0]
    for i in range(n):
        t = max((z[i] - shift[i]) * _LOG2E, -1020.0)
        exponent = np.floor(t + 0.5)
        power_bits[i] = (np.int64(exponent) + np.int64(1023)) << np.int64(52)
        f = t - exponent
        value = _POWERS[11]
        for j in range(10, -1, -1):
            value = _POWERS[j] + f * value
        z[i] = 1.0 + f * value
    for i in range(n):
        z[i] *= power[i]


@njit(nogil=True, fastmath={"contract", "nsz", "nnan", "ninf"})
def _fill_probabilities(logits: Any, b: Any, buffers: Any) -> None:
    """Write the float64 softmax of some samples, with its maxima and sums, to the buffers."""
    p, top, total, power_bits, power = buffers
    n_classes, n = logits.shape
    for c in range(n_classes):
        for i in range(n):
            p[c, i] = np.float64(logits[c, i]) + b[c]
    for i in range(n):
        top[i] = p[0, i]
        total[i] = 0.0
    for c in range(1, n_classes):
        for i in range(n):
            top[i] = max(top[i], p[c, i])
    for c in range(n_classes):
        _exponentiate(p[c, :n], top, power, power_bits)
        for i in range(n):
            total[i] += p[c, i]
    for c in range(n_classes):
        for i in range(n):
            p[c, i] /= total[i]


@njit(nogil=True)
def sum_moments(logits: Any, y: Any, b: Any, mean: Any, buffers: Any) -> float:
    """Sum cross-entropies (returned) and probabilities (in ``mean``) over samples."""
    p, top, total, _, _ = buffers
    n_classes, n = logits.shape
    width = p.shape[1]
    mean[:] = 0.0
    loss = 0.0
    for start in range(0, n, width):
        stop = min(start + width, n)
        _fill_probabilities(logits[:, start:stop], b, buffers)
        for i in range(stop - start):
            true_logit = np.float64(logits[y[start + i], start + i]) + b[y[start + i]]
            loss += top[i] + np.log(total[i]) - true_logit
        for c in range(n_classes):
            part = 0.0
            for i in range(stop - start):
                part += p[c, i]
            mean[c] += part
    return loss


@njit(nogil=True)
def write_residuals(logits: Any, y: Any, b: Any, buffers: Any) -> None:
    """Replace logits by p - y, rounded to float32 once."""
    p = buffers[0]
    n_classes, n = logits.shape
    width = p.shape[1]
    for start in range(0, n, width):
        stop = min(start + width, n)
        _fill_probabilities(logits[:, start:stop], b, buffers)
        for i in range(stop - start):
            p[y[start + i], i] -= 1.0
        for c in range(n_classes):
            for i in range(stop - start):
                logits[c, start + i] = p[c, i]
