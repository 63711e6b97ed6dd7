"""The nearest rows in every prefix of an order, incrementally.

Squared distances and inner products are sums over neurons, so those of a prefix are those of the
shorter prefix plus the block of neurons in between. Nothing is computed twice within an order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.measures.columns import take_columns
from criticalmass.measures.nearest_kernels import keep_nearest
from criticalmass.measures.prefix_heads import steps

Metric = Literal["euclidean", "cosine"]
Matrix = NDArray[np.float32]
_QUERIES = 256
_TILE = 2048


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rows among which the nearest are sought.

    Attributes
    ----------
    rows: (n_candidates, n_neurons) raw features.
    names: (n_candidates,) what stands for a row in the lists: its number, its class.
    read: (rows, start, stop) -> those rows as float32, as the metric shall see them.
    metric: "euclidean", or "cosine" (a row of zeros has a cosine of 0 with every row).
    """

    rows: Rows
    names: NDArray[np.int32]
    read: Callable[[Rows, int, int], Matrix]
    metric: Metric = "euclidean"

    def nearest(
        self,
        queries: Matrix,
        order: NDArray[np.intp],
        sizes: Sequence[int],
        n_neighbours: int,
    ) -> NDArray[np.int32]:
        """Name the nearest candidates of every query in every prefix of an order.

        A tile of candidates meets a tile of queries once: the running inner products of the tile
        grow block by block and every size keeps its own list of neighbours, so the full
        (n_queries, n_candidates) matrix never exists. Distances are float32; of two candidates
        at the same distance the earlier one is nearer.

        Parameters
        ----------
        queries: (n_queries, n_neurons) as ``read`` would return them.
        order: (n_neurons,) permutation.
        sizes: prefix lengths, ascending.
        n_neighbours: at most n_candidates.

        Returns
        -------
        (n_sizes, n_queries, n_neighbours) names, nearest first.
        """
        shape = (len(sizes), queries.shape[0], n_neighbours)
        best = np.full(shape, np.finfo(np.float32).max, dtype=np.float32)
        found = np.zeros(shape, dtype=np.int32)
        pieces = _pieces(queries, order, sizes)
        dots = np.empty((_QUERIES, _TILE), dtype=np.float32)
        n = int(self.rows.shape[0])
        for start in range(0, n, _TILE):
            stop = min(start + _TILE, n)
            tile = _pieces(self.read(self.rows, start, stop), order, sizes)
            offsets, factors = self._terms(tile)
            for a in range(0, queries.shape[0], _QUERIES):
                b = min(a + _QUERIES, queries.shape[0])
                running = dots[: b - a, : stop - start]
                if running.shape[1] < _TILE:
                    running = np.ascontiguousarray(running)
                for j, (piece, block) in enumerate(zip(pieces, tile, strict=True)):
                    _add_products(running, piece[a:b], block, first=j == 0)
                    terms = (offsets[j], factors[j])
                    keep_nearest(
                        running, terms, self.names[start:stop], best[j, a:b], found[j, a:b]
                    )
        return found

    def _terms(self, tile: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
        """Offsets and factors (n_sizes, n_tile) that turn inner products into dissimilarities."""
        norms = np.cumsum([np.einsum("ij,ij->i", p, p) for p in tile], axis=0, dtype=np.float32)
        if self.metric == "euclidean":
            return norms, np.full_like(norms, -2.0)
        lengths = np.sqrt(norms)
        factors = np.zeros_like(norms)
        np.divide(-1.0, lengths, out=factors, where=lengths > 0.0)
        return np.zeros_like(norms), factors


def _pieces(x: Matrix, order: NDArray[np.intp], sizes: Sequence[int]) -> list[Matrix]:
    """Gather the columns of every block, each contiguous: what the products read in a row."""
    return [take_columns(x, order[a:b]) for a, b in steps(sizes)]


def _add_products(running: Matrix, queries: Matrix, block: Matrix, *, first: bool) -> None:
    """Add ``queries @ block.T`` to ``running`` in place; the first block overwrites it."""
    from scipy.linalg.blas import sgemm

    # In Fortran's eyes: running.T = block @ queries.T, where both arguments are transposed views.
    sgemm(
        1.0,
        block.T,
        queries.T,
        beta=0.0 if first else 1.0,
        c=running.T,
        trans_a=True,
        overwrite_c=1,
    )
