"""Linear heads on nested prefixes, stacked so that one pass over the columns serves all of them.

The heads of sizes ``k_1 < ... < k_F`` share their columns: columns ``k_{j-1}..k_j - 1`` belong to
heads ``j..F``. Block ``j`` holds those rows of the weights of those heads, largest head first, so
the heads that use a block are leading columns of the scores. No zero is stored or multiplied.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatBlocks = list[NDArray[Any]]


def block_ranges(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the column range of every block: (0, k_1), (k_1, k_2), ..."""
    return list(itertools.pairwise((0, *sizes)))


def stack_heads(weights: Sequence[NDArray[Any]]) -> FloatBlocks:
    """Stack heads into blocks.

    Parameters
    ----------
    weights: one (k_j, n_outputs) array per size, ascending in ``k_j``.

    Returns
    -------
    Blocks, the j-th of shape (k_j - k_{j-1}, (F - j) * n_outputs) with j from 0.
    """
    sizes = [w.shape[0] for w in weights]
    return [
        np.concatenate([w[a:b] for w in reversed(weights[j:])], axis=1)
        for j, (a, b) in enumerate(block_ranges(sizes))
    ]


def unstack_heads(blocks: FloatBlocks) -> list[NDArray[Any]]:
    """Undo ``stack_heads``: return one (k_j, n_outputs) array per size, ascending."""
    n_sizes = len(blocks)
    n_outputs = blocks[-1].shape[1]
    heads = []
    for j in range(n_sizes):
        a = (n_sizes - 1 - j) * n_outputs
        heads.append(np.concatenate([block[:, a : a + n_outputs] for block in blocks[: j + 1]]))
    return heads


def prefix_scores(x: NDArray[Any], blocks: FloatBlocks) -> NDArray[Any]:
    """Score rows with every head.

    Parameters
    ----------
    x: (rows, >= k_F) columns in the order of the heads.
    blocks: as ``stack_heads`` returns them.

    Returns
    -------
    (rows, F * n_outputs), the largest head first.
    """
    width = blocks[0].shape[1]
    out = np.zeros((x.shape[0], width), dtype=x.dtype)
    start = 0
    for block in blocks:
        stop = start + block.shape[0]
        out[:, : block.shape[1]] += x[:, start:stop] @ block
        start = stop
    return out


def smallest_first(scores: NDArray[Any], n_sizes: int) -> NDArray[Any]:
    """View (rows, F * n_outputs) scores as (rows, F, n_outputs), the smallest head first."""
    return scores.reshape(scores.shape[0], n_sizes, -1)[:, ::-1]
