"""The nearest rows in every prefix of an order, computed incrementally.

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
from criticalmass.measures.nearest_kernels import update_nearest
from criticalmass.measures.prefix_heads import block_ranges

Metric = Literal["euclidean", "cosine"]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class TileRows:
    """Rows in one tile of the distance matrix; they change time and memory, not the result."""

    queries: int = 256
    candidates: int = 2048


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """Rows among which the nearest are searched.

    Attributes
    ----------
    rows: (n_candidates, n_neurons) raw features.
    ids: (n_candidates,) what the lists of neighbours hold for each row, e.g. its number or class.
    read: (rows, start, stop) -> those rows as float32, transformed as the metric needs them.
    metric: "euclidean", or "cosine" (a row of zeros has a cosine of 0 with every row).
    tiles: rows per tile.
    """

    rows: Rows
    ids: NDArray[np.int32]
    read: Callable[[Rows, int, int], Matrix]
    metric: Metric = "euclidean"
    tiles: TileRows = TileRows()

    def nearest(
        self,
        queries: Matrix,
        order: NDArray[np.intp],
        sizes: Sequence[int],
        n_neighbours: int,
    ) -> NDArray[np.int32]:
        """Return the ids of the nearest candidates of every query in every prefix of an order.

        The distance matrix is computed in tiles of queries and candidates. The inner products of
        a tile grow block of neurons by block of neurons, and every size has its own list of
        neighbours, so the full (n_queries, n_candidates) matrix never exists. Distances are
        float32; of two candidates at the same distance the earlier one is nearer.

        Parameters
        ----------
        queries: (n_queries, n_neurons) as ``read`` would return them.
        order: (n_neurons,) permutation.
        sizes: prefix lengths, ascending.
        n_neighbours: at most n_candidates.

        Returns
        -------
        (n_sizes, n_queries, n_neighbours) ids, nearest first.
        """
        shape = (len(sizes), queries.shape[0], n_neighbours)
        best = np.full(shape, np.finfo(np.float32).max, dtype=np.float32)
        best_ids = np.zeros(shape, dtype=np.int32)
        query_blocks = _column_blocks(queries, order, sizes)
        n_rows, n_columns = self.tiles.queries, self.tiles.candidates
        buffer = np.empty((n_rows, n_columns), dtype=np.float32)
        n = int(self.rows.shape[0])
        for start in range(0, n, n_columns):
            stop = min(start + n_columns, n)
            tile_blocks = _column_blocks(self.read(self.rows, start, stop), order, sizes)
            offsets, factors = self._terms(tile_blocks)
            ids = self.ids[start:stop]
            for a in range(0, queries.shape[0], n_rows):
                b = min(a + n_rows, queries.shape[0])
                dots = buffer[: b - a, : stop - start]
                if dots.shape[1] < n_columns:
                    dots = np.ascontiguousarray(dots)
                for j, (query_block, block) in enumerate(
                    zip(query_blocks, tile_blocks, strict=True)
                ):
                    _add_products(dots, query_block[a:b], block, first=j == 0)
                    update_nearest(
                        dots, offsets[j], factors[j], ids, best[j, a:b], best_ids[j, a:b]
                    )
        return best_ids

    def _terms(self, blocks: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
        """Offsets and factors (n_sizes, n_tile) that turn inner products into dissimilarities."""
        norms = np.cumsum([np.einsum("ij,ij->i", b, b) for b in blocks], axis=0, dtype=np.float32)
        if self.metric == "euclidean":
            return norms, np.full_like(norms, -2.0)
        lengths = np.sqrt(norms)
        factors = np.zeros_like(norms)
        np.divide(-1.0, lengths, out=factors, where=lengths > 0.0)
        return np.zeros_like(norms), factors


def _column_blocks(x: Matrix, order: NDArray[np.intp], sizes: Sequence[int]) -> list[Matrix]:
    """Gather the columns of every block; each block is contiguous, as the products need it."""
    return [take_columns(x, order[a:b]) for a, b in block_ranges(sizes)]


def _add_products(dots: Matrix, queries: Matrix, block: Matrix, *, first: bool) -> None:
    """Add ``queries @ block.T`` to ``dots`` in place; the first block overwrites it."""
    from scipy.linalg.blas import sgemm

    # Column-major: dots.T = block @ queries.T, where both arguments are transposed views.
    sgemm(
        1.0,
        block.T,
        queries.T,
        beta=0.0 if first else 1.0,
        c=dots.T,
        trans_a=True,
        overwrite_c=1,
    )
