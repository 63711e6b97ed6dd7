"""Ridge probes on small random subsets, fitted from the second moment alone.

A subset of a few dozen neurons is solved in microseconds once the layer's moments are known, and
no law is needed to say what it scores: at such sizes the ridge law is too high (docs/theory.md),
and drawing is exact up to the noise of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.measures.probes.closed_form import L2S, ridge_path
from criticalmass.theory.degrees_of_freedom import checked_sizes
from criticalmass.theory.eigenbasis import Eigenbasis
from criticalmass.theory.held_out import HeldOut, Sampling, held_out

FloatArray = NDArray[np.float64]
#: Subsets drawn per size; the standard error of their mean is a fifth of the spread.
ORDERS = 24
#: Test samples that drawn subsets are scored on, at most.
MOST_ROWS = 10_000
# A choice between strengths needs fewer of either.
_CHOICE_ORDERS, _CHOICE_ROWS = 4, 2000


@dataclass(frozen=True, eq=False)
class DrawnRidge:
    """Ridge probes on drawn subsets.

    Attributes
    ----------
    sizes: (n_sizes,) numbers of neurons.
    accuracy: (n_orders, n_sizes) of every subset.
    l2: (n_sizes,) penalty with the best mean accuracy.
    """

    sizes: NDArray[np.int64]
    accuracy: FloatArray
    l2: FloatArray


def drawn_ridge(
    basis: Eigenbasis,
    test: tuple[Rows, npt.ArrayLike],
    sizes: Sequence[int],
    *,
    l2s: Sequence[float] = L2S,
    orders: int = ORDERS,
    seed: int = 0,
) -> DrawnRidge:
    """Fit ridge probes on nested random subsets of few neurons and score them.

    Parameters
    ----------
    basis: the training set.
    test: rows (n_test, n_neurons), raw, and labels (n_test,).
    sizes: numbers of neurons, ascending; meant for small ones.
    l2s: penalties; every size takes the one with the best mean accuracy, ties to the stronger.
    orders: permutations drawn.
    seed: of the draws.

    Raises
    ------
    CriticalMassError: for a size that does not fit, or rows and labels that do not.
    """
    ks, d = checked_sizes(sizes, basis.n_neurons), basis.n_neurons
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(d)[: int(ks[-1])] for _ in range(orders)]
    held = held_out(basis, *test, Sampling(rows=MOST_ROWS, seed=seed))
    cross, strengths = basis.cross_moment, sorted(l2s, reverse=True)
    chosen = np.full(ks.size, strengths[0])
    if len(strengths) > 1:
        few, rows = kept[:_CHOICE_ORDERS], slice(0, _CHOICE_ROWS)
        tried = [
            np.mean([_score(held, cross, index, ks, np.full(ks.size, s), rows) for index in few], 0)
            for s in strengths
        ]
        chosen = np.asarray(strengths)[np.argmax(np.stack(tried), axis=0)]
    every = slice(None)
    accuracy = np.stack([_score(held, cross, index, ks, chosen, every) for index in kept])
    return DrawnRidge(ks, accuracy, chosen)


def _score(
    held: HeldOut,
    cross: FloatArray,
    kept: NDArray[np.intp],
    sizes: NDArray[np.int64],
    l2s: FloatArray,
    rows: slice,
) -> FloatArray:
    """(n_sizes,) accuracy of the prefixes of one order, each at its own penalty."""
    basis, classes = held.basis, held.basis.n_classes
    matrix = basis.second_moment[np.ix_(kept, kept)]
    place = np.arange(kept.size)
    heads = np.zeros((kept.size, sizes.size, classes), dtype=np.float32)
    for l2 in np.unique(l2s):
        mine = np.flatnonzero(l2s == l2)
        asked = [int(sizes[i]) for i in mine]
        found = ridge_path(matrix, cross[kept], place, asked, [float(l2)])[0]
        for i, head in zip(mine, found, strict=True):
            heads[: head.shape[0], i] = head
    x = held.sample[rows][:, kept]
    responses = (x @ heads.reshape(kept.size, -1)).reshape(-1, sizes.size, classes)
    responses += basis.share.astype(np.float32)
    truth = held.labels[held.picked][rows]
    return np.asarray((responses.argmax(axis=2) == truth[:, None]).mean(axis=0), dtype=np.float64)
