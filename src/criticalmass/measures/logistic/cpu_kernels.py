"""One pass over the rows for many softmax problems on nested prefixes of one order.

The weights of all live problems are stacked by descending size k, one row of length d per class.
Columns ``edges[t]..edges[t+1]`` of the data then multiply only the leading ``widths[t]`` stacked
rows, those of problems long enough to own them (a staircase): nothing is multiplied by zero, and
each chunk of rows is read once for all problems, while it is in cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from criticalmass.measures.logistic.blas import NO, TRANSPOSED, gemm

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


@njit(nogil=True, cache=True, fastmath=_RELAXED)
def _exponentials(z: Any, shift: Any, power: Any, power_bits: Any) -> None:
    """Replace z by exp(z - shift), elementwise; ``power_bits`` is ``power`` seen as int32."""
    n = z.shape[0]
    for i in range(n):
        t = max((z[i] - shift[i]) * _LOG2E, _FLOOR)
        whole = np.floor(t + _HALF)
        power_bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        f = t - whole
        z[i] = _ONE + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
    for i in range(n):
        z[i] *= power[i]


@njit(nogil=True, cache=True, fastmath=_RELAXED)
def softmax(z: Any, bias: Any, scratch: Any, power_bits: Any) -> None:
    """Turn logits z, (C, rows), into probabilities; leaves maxima and sums in the scratch."""
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
        _exponentials(z[c], top, power[:n], power_bits[:n])
        for i in range(n):
            total[i] += z[c, i]
    for i in range(n):
        power[i] = _ONE / total[i]
    for c in range(n_classes):
        for i in range(n):
            z[c, i] *= power[i]


@njit(nogil=True, cache=True, fastmath=_RELAXED | {"reassoc"})
def _sum(values: Any) -> Any:
    """Sum one chunk's residuals; in any order, so that the loop vectorises."""
    total = _ZERO
    for i in range(values.shape[0]):
        total += values[i]
    return total


@njit(nogil=True, cache=True)
def _loss(picked: Any, scratch: Any) -> float:
    """Sum log-sum-exp minus the picked logit; one logarithm serves many rows."""
    loss = 0.0
    product = 1.0
    for i in range(picked.shape[0]):
        loss += np.float64(scratch[0, i]) - np.float64(picked[i])
        product *= np.float64(scratch[1, i])
        if product > 1e200:
            loss += np.log(product)
            product = 1.0
    return float(loss + np.log(product))


@njit(nogil=True, cache=True)
def logits(x: Any, w: Any, edges: Any, widths: Any, z: Any, scratch: Any) -> None:
    """Fill z, (P, rows), with the logits of a chunk x, (rows, >= k), under stacked weights."""
    rows = x.shape[0]
    ldx, ldw = x.strides[0] // 4, w.strides[0] // 4
    for t in range(widths.shape[0]):
        a = edges[t]
        gemm(
            scratch,
            (TRANSPOSED, NO),
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


@njit(nogil=True, cache=True)
def add_gradient(x: Any, z: Any, edges: Any, widths: Any, g: Any, scratch: Any) -> None:
    """Add residuals times features of a chunk to the stacked gradient."""
    rows = x.shape[0]
    ldx, ldg = x.strides[0] // 4, g.strides[0] // 4
    for t in range(widths.shape[0]):
        a = edges[t]
        gemm(
            scratch,
            (NO, NO),
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


@njit(nogil=True, cache=True)
def accumulate(data: Any, heads: Any, stairs: Any, sums: Any, scratch: Any) -> None:
    """Add one thread's rows to the losses, gradients and curvatures of all live problems.

    Parameters
    ----------
    data: x (rows, >= max k) float32 and y (rows,) int64 class ids.
    heads: stacked weights (P, d) float32, intercepts (P,) float32, C, and which problems want
        their curvature, (n_problems,) bool.
    stairs: edges (T + 1,) and widths (T,), intp.
    sums: what is added to: losses (n_problems,), gradient (P, d) float32, intercept gradient
        (P,), all as sums over rows, and second moments of the probabilities
        (n_problems, C, C), where wanted, with their first moments in the intercept gradient.
    scratch: logits (P, CHUNK), row scratch (3, CHUNK) and its int32 view of row 2, picked
        logits (CHUNK,), a (C, C) buffer, and the scalar arguments of gemm.
    """
    x, y = data
    w, bias, n_classes, wanted = heads
    edges, widths = stairs
    losses, g, g_bias, moments = sums
    z_all, rowwise, bits, picked, square, arguments = scratch
    n_problems = losses.shape[0]
    for start in range(0, x.shape[0], CHUNK):
        stop = min(start + CHUNK, x.shape[0])
        rows = stop - start
        chunk = x[start:stop]
        logits(chunk, w, edges, widths, z_all, arguments)
        for p in range(n_problems):
            z = z_all[p * n_classes : (p + 1) * n_classes, :rows]
            b = bias[p * n_classes : (p + 1) * n_classes]
            for i in range(rows):
                picked[i] = z[y[start + i], i] + b[y[start + i]]
            softmax(z, b, rowwise, bits)
            losses[p] += _loss(picked[:rows], rowwise)
            if wanted[p]:
                add_square(z, square, arguments)
                moments[p] += square
            for i in range(rows):
                z[y[start + i], i] -= _ONE
            for c in range(n_classes):
                g_bias[p * n_classes + c] += _sum(z[c])
        add_gradient(chunk, z_all, edges, widths, g, arguments)


@njit(nogil=True, cache=True)
def add_square(z: Any, square: Any, arguments: Any) -> None:
    """Set square, (C, C), to the sum over rows of p p'."""
    n_classes, rows = z.shape
    ld = z.strides[0] // 4
    gemm(
        arguments,
        (TRANSPOSED, NO),
        (n_classes, n_classes, rows),
        (1.0, 0.0),
        (z.ctypes.data, ld, z.ctypes.data, ld, square.ctypes.data, n_classes),
    )


@njit(nogil=True, cache=True)
def classify(x: Any, heads: Any, stairs: Any, out: Any, scratch: Any) -> None:
    """Write the class of every row under every head to out, (n_problems, rows) int32."""
    w, bias, n_classes, _ = heads
    edges, widths = stairs
    z_all, rowwise, _, _, _, arguments = scratch
    best = rowwise[0]
    for start in range(0, x.shape[0], CHUNK):
        stop = min(start + CHUNK, x.shape[0])
        rows = stop - start
        logits(x[start:stop], w, edges, widths, z_all, arguments)
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
