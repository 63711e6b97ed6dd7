"""Heads of several problems on nested prefixes, stacked so that one pass serves them all.

Heads are stacked by descending size k, one row of length d per class. The columns of the data are
cut into blocks at the sizes. A block of columns multiplies only the leading rows of the stack: the
rows of the heads that are large enough to use these columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.logistic.preconditioner import FloatArray

#: Weights (C, k) float32 and intercepts (C,) float64 of one softmax head.
Head = tuple[FloatArray, NDArray[np.float64]]

#: What the compiled passes take: see `StackedHeads.kernel_arguments`.
KernelHeads = tuple[FloatArray, FloatArray, int, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class StackedHeads:
    """Heads of several problems, stacked by descending size.

    Parameters
    ----------
    sizes: number of columns k of every head, descending.
    weights: (n_heads * C, largest k) float32; zero beyond a head's own size.
    intercepts: (n_heads * C,) float32.
    n_classes: number of classes C.
    block_edges: (T + 1,) column at which every block starts, and the end of the last one.
    block_widths: (T,) number of leading stacked rows that use the columns of each block.
    """

    sizes: tuple[int, ...]
    weights: FloatArray
    intercepts: FloatArray
    n_classes: int
    block_edges: NDArray[np.intp]
    block_widths: NDArray[np.intp]

    @classmethod
    def from_heads(cls, heads: Sequence[Head]) -> StackedHeads:
        """Stack heads that are sorted by descending size."""
        sizes = tuple(w.shape[1] for w, _ in heads)
        c = heads[0][0].shape[0]
        stacked = np.zeros((len(heads) * c, sizes[0]), np.float32)
        for i, (w, _) in enumerate(heads):
            stacked[i * c : (i + 1) * c, : w.shape[1]] = w
        ends = _block_ends(sizes)
        widths = [c * sum(k > start for k in sizes) for start in (0, *ends[:-1])]
        intercepts = np.concatenate([b for _, b in heads]).astype(np.float32)
        return cls(
            sizes,
            stacked,
            intercepts,
            c,
            block_edges=np.array([0, *ends], np.intp),
            block_widths=np.array(widths, np.intp),
        )

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        return len(self.sizes)

    @property
    def blocks(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Edges and widths of the blocks."""
        return self.block_edges, self.block_widths

    def kernel_arguments(self, with_square: NDArray[np.bool_]) -> KernelHeads:
        """Return weights, intercepts, C and which heads need their curvature, (n_heads,)."""
        return self.weights, self.intercepts, self.n_classes, with_square


def _block_ends(sizes: Sequence[int]) -> list[int]:
    """Return the column at which every block ends, with the smallest blocks merged.

    A matrix product of a few columns costs its overhead. Multiplying some zeros, up to a
    fiftieth of all the work, is cheaper.
    """
    ends = sorted(set(sizes))
    allowed = sum(sizes) / 50
    while len(ends) > 1:
        added = sum(ends[1] - k for k in sizes if k < ends[1])
        if added > allowed:
            break
        ends.pop(0)
    return ends
