"""What a vector store would still find: neighbours of subsets against those of the whole layer.

`ndcg` and `recall` take any relevance. Here the whole layer's own neighbours are what is
relevant, so that no labels are needed and the whole layer scores 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.core.rows import Rows, refuse_nonfinite
from criticalmass.errors import CriticalMassError
from criticalmass.measures.nearest import Candidates, Matrix, Metric

#: Neighbours that count; with fewer samples, all the others.
N_NEIGHBOURS = 10
#: Samples that ask; all samples are there to be found.
MOST_QUERIES = 4096
QUERY_SEED = 0
_PAIRS = 1 << 22
Names = npt.NDArray[np.integer]
View = Callable[[npt.NDArray[Any]], npt.NDArray[np.floating]]


@checked
def ndcg(
    ranked: npt.ArrayLike, relevant: npt.ArrayLike, gains: npt.ArrayLike | None = None
) -> FloatArray:
    """Normalised discounted cumulative gain of ranked lists (Jarvelin and Kekalainen 2002).

    The gain of what stands at rank r is divided by log2(1 + r) and summed; the sum is divided by
    that of the best list of the same length. nDCG@k: give lists of length k.

    Parameters
    ----------
    ranked: (n_queries, k) what was found, best first; the names in a row differ, and -1 fills
        rows that have less.
    relevant: (n_queries, m) what is relevant to each query, filled likewise.
    gains: (n_queries, m) or (m,) positive gains of what is relevant; 1 each by default.

    Returns
    -------
    (n_queries,) in [0, 1]; 0 where nothing is relevant.

    Raises
    ------
    CriticalMassError: if the shapes do not match or a gain is not positive and finite.
    """
    found, wanted = _lists(ranked, relevant)
    weights = np.ones(wanted.shape) if gains is None else np.asarray(gains, dtype=np.float64)
    if weights.shape not in (wanted.shape, wanted.shape[1:]):
        raise CriticalMassError(
            f"gains have shape {weights.shape}; relevant has shape {wanted.shape}"
        )
    if not (np.isfinite(weights).all() and (weights > 0.0).all()):
        raise CriticalMassError("gains must be positive and finite; leave out what is not relevant")
    weights = np.where(wanted >= 0, np.broadcast_to(weights, wanted.shape), 0.0)
    discounts = 1.0 / np.log2(np.arange(2.0, max(found.shape[1], wanted.shape[1]) + 2.0))
    k = found.shape[1]
    best = -np.sort(-weights, axis=1)[:, :k]
    ideal = (best * discounts[: best.shape[1]]).sum(axis=1)
    gained = np.zeros(len(found))
    for rows, match in _matches(found, wanted):
        # Rank by rank in the same order as the ideal, so that a perfect list scores exactly 1.
        per_rank = np.einsum("qkm,qm->qk", match, weights[rows])
        gained[rows] = (per_rank * discounts[:k]).sum(axis=1)
    return np.asarray(np.divide(gained, ideal, out=np.zeros(len(found)), where=ideal > 0.0))


@checked
def recall(ranked: npt.ArrayLike, relevant: npt.ArrayLike) -> FloatArray:
    """Share of what is relevant that was found. Recall@k: give lists of length k.

    Parameters
    ----------
    ranked, relevant: as in `ndcg`.

    Returns
    -------
    (n_queries,) in [0, 1]; 0 where nothing is relevant.

    Raises
    ------
    CriticalMassError: if the shapes do not match.
    """
    found, wanted = _lists(ranked, relevant)
    hits = np.zeros(len(found))
    for rows, match in _matches(found, wanted):
        hits[rows] = match.any(axis=1).sum(axis=1)
    count = (wanted >= 0).sum(axis=1)
    return np.asarray(np.divide(hits, count, out=np.zeros(len(found)), where=count > 0))


def graded(n_neighbours: int) -> FloatArray:
    """Gains of the whole layer's neighbours: n for the nearest, 1 for the last, (n,)."""
    return np.arange(n_neighbours, 0.0, -1.0)


def queries_of(n_samples: int, most: int = MOST_QUERIES) -> IndexArray:
    """Choose the samples that ask: all, or a sample of them by a fixed seed; ascending.

    Raises
    ------
    CriticalMassError: for fewer than 2 samples, of which none has a neighbour.
    """
    if n_samples < 2:
        raise CriticalMassError(f"{n_samples} sample has no neighbours; give at least 2")
    if n_samples <= most:
        return np.arange(n_samples)
    picked = np.random.default_rng(QUERY_SEED).choice(n_samples, most, replace=False)
    return np.sort(picked)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Finds the nearest samples of some samples in a layer, prefix by prefix.

    Attributes
    ----------
    candidates: all samples, named by their number.
    asking: (n_queries,) numbers of the samples that ask.
    queries: (n_queries, n_neurons) their rows.
    """

    candidates: Candidates
    asking: IndexArray
    queries: Matrix

    @classmethod
    def of(
        cls, rows: Rows, metric: Metric, *, asking: IndexArray, view: View | None = None
    ) -> Neighbours:
        """Take the samples of a layer.

        Parameters
        ----------
        rows: (n_samples, n_neurons) raw features.
        metric: "cosine" or "euclidean".
        asking: (n_queries,) numbers of the samples that ask.
        view: turns raw rows into those that are compared: centred, projected; by default they
            are taken as they are. Rounded to float32 in the end.

        Raises
        ------
        CriticalMassError: if a feature is NaN or infinite.
        """

        def seen(block: npt.NDArray[Any]) -> Matrix:
            return np.ascontiguousarray(block if view is None else view(block), dtype=np.float32)

        def read(source: Rows, start: int, stop: int) -> Matrix:
            block = source[start:stop]
            refuse_nonfinite(block, start, "x_test")
            return seen(block)

        names = np.arange(int(rows.shape[0]), dtype=np.int32)
        return cls(Candidates(rows, names, read, metric), asking, seen(rows[asking]))

    @property
    def n_neighbours(self) -> int:
        """Neighbours that each sample has: 10, or all the others."""
        return min(N_NEIGHBOURS, int(self.candidates.rows.shape[0]) - 1)

    def __call__(self, order: IndexArray, sizes: tuple[int, ...]) -> npt.NDArray[np.int32]:
        """Name the nearest other samples in every prefix, (n_sizes, n_queries, n_neighbours)."""
        count = self.n_neighbours + 1
        found = self.candidates.nearest(self.queries, order, sizes, count)
        # One more than asked for, less the sample itself. Among many equal rows it may not be in
        # the list; then the last one goes.
        other = found != self.asking[:, None]
        other[..., -1] &= ~other.all(axis=-1)
        return np.asarray(found[other].reshape(*found.shape[:2], count - 1))


def _lists(ranked: npt.ArrayLike, relevant: npt.ArrayLike) -> tuple[Names, Names]:
    """Return both as matrices of whole numbers with one row per query."""
    found, wanted = np.asarray(ranked), np.asarray(relevant)
    fits = found.ndim == wanted.ndim == 2 and len(found) == len(wanted)
    if not (fits and found.dtype.kind in "iu" and wanted.dtype.kind in "iu"):
        raise CriticalMassError(
            f"ranked has shape {found.shape} of {found.dtype}, relevant {wanted.shape} of "
            f"{wanted.dtype}; both are whole numbers with one row per query"
        )
    return found, wanted


def _matches(found: Names, wanted: Names) -> Iterator[tuple[slice, npt.NDArray[np.bool_]]]:
    """Yield rows and what of theirs is what, (n_rows, k, m), a few million pairs at a time."""
    step = max(1, _PAIRS // max(1, found.shape[1] * wanted.shape[1]))
    for start in range(0, len(found), step):
        rows = slice(start, start + step)
        match = found[rows, :, None] == wanted[rows, None, :]
        yield rows, match & (wanted[rows, None, :] >= 0)
