"""Compiled kernels: one pass over the rows for many softmax heads on nested prefixes of one order.

The weights of all heads are stacked by descending size k, one row of length d per class (see
``stacked_heads``). Columns ``edges[t]..edges[t+1]`` of the data multiply only the leading
``widths[t]`` stacked rows, those of the heads that are large enough to use them. Each chunk of
rows is read once for all heads, while it is in cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from criticalmass.core.blas import NOT_TRANSPOSED, TRANSPOSED, gemm
from criticalmass.core.compilation import njit

# Rows that are processed at once.
CHUNK = 256
_LOG2E = np.float32(1.4426950408889634)
_FLOOR = np.float32(-126.0)
_HALF = np.float32(0.5)
# Taylor coefficients of 2**f for f in [-1/2, 1/2]; the remainder is under 2e-8 relative.
_C1 = np.float32(0.6931471805599453)
_C2 = np.float32(0.2402265069591007)
_C3 = np.float32(0.05550410866482158)
_C4 = np.float32(0.009618129107628477)
_C5 = np.float32(0.0013333558146428443)
_C6 = np.float32(0.00015403530393381608)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)
_RELAXED = {"contract", "nsz", "nnan", "ninf"}


@njit(nogil=True, fastmath=_RELAXED)
def _exponentiate(z: Any, shift: Any, power: Any, power_bits: Any) -> None:
    """Replace z by exp(z - shift), elementwise; ``power_bits`` is ``power`` viewed as int32."""
    n = z.shape[0]
    for i in range(n):
        t = max((z[i] - shift[i]) * _LOG2E, _FLOOR)
        exponent = np.floor(t + _HALF)
        power_bits[i] = (np.int32(exponent) + np.int32(127)) << np.int32(23)
        f = t - exponent
        z[i] = _ONE + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
    for i in range(n):
        z[i] *= power[i]


@njit(nogil=True, fastmath=_RELAXED)
def softmax(z: Any, bias: Any, scratch: Any, power_bits: Any) -> None:
    """Turn logits z, (C, rows), into probabilities.

    The maxima and the sums of exponentials of every row stay in ``scratch[0]`` and ``scratch[1]``.
    """
    n_classes, n = z.shape
    top, total, power = scratch[0], scratch[1], scratch[2]
    for i in range(n):
        z[0, i] += bias[0]
        top[i] = z[0, i]
    for c in range(1, n_classes):
        for i in range(n):
            z[c, i] += bias[c]
            top[i] = max(top[i], z[c, i])
    for i in range(n):
        total[i] = _ZERO
    for c in range(n_classes):
        _exponentiate(z[c], top, power[:n], power_bits[:n])
        for i in range(n):
            total[i] += z[c, i]
    for i in range(n):
        power[i] = _ONE / total[i]
    for c in range(n_classes):
        for i in range(n):
            z[c, i] *= power[i]


@njit(nogil=True, fastmath=_RELAXED | {"reassoc"})
def _sum(values: Any) -> Any:
    """Sum one chunk's residuals, in any order, which lets the loop vectorise."""
    total = _ZERO
    for i in range(values.shape[0]):
        total += values[i]
    return total


@njit(nogil=True)
def _sum_losses(true_logits: Any, scratch: Any) -> float:
    """Sum log-sum-exp minus the logit of the true class; one logarithm serves many rows."""
    loss = 0.0
    product = 1.0
    for i in range(true_logits.shape[0]):
        loss += np.float64(scratch[0, i]) - np.float64(true_logits[i])
        product *= np.float64(scratch[1, i])
        if product > 1e200:
            loss += np.log(product)
            product = 1.0
    return float(loss + np.log(product))


@njit(nogil=True)
def fill_logits(x: Any, w: Any, edges: Any, widths: Any, z: Any, arguments: Any) -> None:
    """Fill z, (P, rows), with the logits of a chunk x, (rows, >= k), under stacked weights."""
    rows = x.shape[0]
    ldx, ldw = x.strides[0] // 4, w.strides[0] // 4
    for t in range(widths.shape[0]):
        a = edges[t]
        gemm(
            arguments,
            (TRANSPOSED, NOT_TRANSPOSED),
            (rows, widths[t], edges[t + 1] - a),
            (1.0, 0.0 if t == 0 else 1.0),
            (
                x.ctypes.data + 4 * a,
                ldx,
                w.ctypes.data + 4 * a,
                ldw,
                z.ctypes.data,
                z.strides[0] // 4,
            ),
        )


@njit(nogil=True)
def add_gradient(x: Any, z: Any, edges: Any, widths: Any, g: Any, arguments: Any) -> None:
    """Add residuals times features of a chunk to the stacked gradient."""
    rows = x.shape[0]
    ldx, ldg = x.strides[0] // 4, g.strides[0] // 4
    for t in range(widths.shape[0]):
        a = edges[t]
        gemm(
            arguments,
            (NOT_TRANSPOSED, NOT_TRANSPOSED),
            (edges[t + 1] - a, widths[t], rows),
            (1.0, 1.0),
            (
                x.ctypes.data + 4 * a,
                ldx,
                z.ctypes.data,
                z.strides[0] // 4,
                g.ctypes.data + 4 * a,
                ldg,
            ),
        )


@njit(nogil=True)
def accumulate(data: Any, heads: Any, blocks: Any, sums: Any, buffers: Any) -> None:
    """Add one thread's rows to the losses, gradients and curvatures of all heads.

    Parameters
    ----------
    data: x (rows, >= max k) float32 and y (rows,) int64 class ids.
    heads: stacked weights (P, d) float32, intercepts (P,) float32, C, and which heads need their
        curvature, (n_heads,) bool.
    blocks: edges (T + 1,) and widths (T,), intp.
    sums: the sums over rows that are updated: losses (n_heads,), gradient (P, d) float32,
        intercept gradient (P,), and second moments of the probabilities (n_heads, C, C) for
        the heads that need them. Their first moments follow from the intercept gradient.
    buffers: logits (P, CHUNK), row scratch (3, CHUNK) and its int32 view of row 2, logits of the
        true classes (CHUNK,), a (C, C) buffer, and the scalar arguments of gemm.
    """
    x, y = data
    w, bias, n_classes, with_square = heads
    edges, widths = blocks
    losses, g, g_bias, moments = sums
    z_all, rowwise, bits, true_logits, square, arguments = buffers
    n_heads = losses.shape[0]
    for start in range(0, x.shape[0], CHUNK):
        stop = min(start + CHUNK, x.shape[0])
        rows = stop - start
        chunk = x[start:stop]
        fill_logits(chunk, w, edges, widths, z_all, arguments)
        for p in range(n_heads):
            z = z_all[p * n_classes : (p + 1) * n_classes, :rows]
            b = bias[p * n_classes : (p + 1) * n_classes]
            for i in range(rows):
                true_logits[i] = z[y[start + i], i] + b[y[start + i]]
            softmax(z, b, rowwise, bits)
            losses[p] += _sum_losses(true_logits[:rows], rowwise)
            if with_square[p]:
                fill_square(z, square, arguments)
                moments[p] += square
            for i in range(rows):
                z[y[start + i], i] -= _ONE
            for c in range(n_classes):
                g_bias[p * n_classes + c] += _sum(z[c])
        add_gradient(chunk, z_all, edges, widths, g, arguments)


@njit(nogil=True)
def fill_square(z: Any, square: Any, arguments: Any) -> None:
    """Set square, (C, C), to the sum over rows of p p'."""
    n_classes, rows = z.shape
    ld = z.strides[0] // 4
    gemm(
        arguments,
        (TRANSPOSED, NOT_TRANSPOSED),
        (n_classes, n_classes, rows),
        (1.0, 0.0),
        (z.ctypes.data, ld, z.ctypes.data, ld, square.ctypes.data, n_classes),
    )


@njit(nogil=True)
def classify(x: Any, heads: Any, blocks: Any, out: Any, buffers: Any) -> None:
    """Write the class of every row under every head to out, (n_heads, rows) int32."""
    w, bias, n_classes, _ = heads
    edges, widths = blocks
    z_all, rowwise, _, _, _, arguments = buffers
    best = rowwise[0]
    for start in range(0, x.shape[0], CHUNK):
        stop = min(start + CHUNK, x.shape[0])
        rows = stop - start
        fill_logits(x[start:stop], w, edges, widths, z_all, arguments)
        for p in range(out.shape[0]):
            for i in range(rows):
                best[i] = z_all[p * n_classes, i] + bias[p * n_classes]
                out[p, start + i] = 0
            for c in range(1, n_classes):
                q = p * n_classes + c
                for i in range(rows):
                    score = z_all[q, i] + bias[q]
                    if score > best[i]:
                        best[i] = score
                        out[p, start + i] = c
