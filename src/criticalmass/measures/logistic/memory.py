"""Memory of the logistic probe as a function of the sizes of a layer and a sweep."""

from __future__ import annotations

from criticalmass.measures.logistic.full_curvature import is_small
from criticalmass.measures.memory import LayerSizes

_MIB = 1 << 20
# Vectors of the L-BFGS solver per problem: ten pairs, weights, gradients, directions and trials.
_LBFGS_VECTORS = 28
_N_STRENGTHS = 7
# Buffers of the row reader: a block of standardised rows, a chunk of raw rows, a block of logits.
_ROW_BLOCK, _RAW_CHUNK, _LOGIT_BLOCK = 48 * _MIB, 64 * _MIB, 256 * _MIB
# Raw rows, the requested ones of them, and a flag for each value, in units of the raw rows.
_READ_FACTOR = 2.5
_STACKED_HEADS = 640
# Factors of the second moment that are cached, one per ridge, and those a factorisation needs.
_CACHED_FACTORS, _WORK_FACTORS = 8, 2
# A Hessian, its chunk's product and its factor.
_HESSIAN_COPIES = 3


def logistic_bytes(sizes: LayerSizes) -> int:
    """Return the bytes of the workspace of the measure ``logistic``."""
    c, width = sizes.n_classes, sizes.n_neurons
    solver = 4 * c * sum(sizes.sizes) * _LBFGS_VECTORS * _N_STRENGTHS
    stacked = 4 * max(_STACKED_HEADS, c) * width * (sizes.n_threads + 2)
    squares = 4 * width**2 * (_CACHED_FACTORS + _WORK_FACTORS * sizes.n_threads + 4)
    head = 4 * sizes.n_train * c
    logits = max(head, min(_LOGIT_BLOCK, head * len(sizes.sizes)))
    test = min(4 * sizes.n_test * width, max(sizes.held_bytes, _ROW_BLOCK))
    small = [k * c for k in sizes.sizes if is_small(k * c, sizes.n_train)]
    hessians = 8 * _HESSIAN_COPIES * max(small, default=0) ** 2 * (sizes.n_threads + len(small))
    return solver + stacked + squares + logits + row_bytes(sizes) + test + hessians


def row_bytes(sizes: LayerSizes) -> int:
    """Return the bytes of the standardised rows of one order.

    They are held, or read a block at a time together with the raw rows of the block. The widest
    subset of a job with the whole layer and that of a job without it are considered.
    """
    widest = {k: 4 * sizes.n_train * k for k in sizes.sizes[-2:]}
    held = max((size for size in widest.values() if size <= sizes.held_bytes), default=0)
    streamed = [
        min(_RAW_CHUNK, _ROW_BLOCK * sizes.item_bytes * sizes.n_neurons // (4 * k))
        for k, size in widest.items()
        if size > sizes.held_bytes
    ]
    return _ROW_BLOCK + max(held, int(_READ_FACTOR * max(streamed, default=0)))
