"""Ridge probes on small random subsets, fitted from the second moment alone.

With the layer's moments known, a subset of a few dozen neurons is solved in microseconds. At such
sizes the predictions of the ridge law are too high (docs/theory.md); sampling subsets is exact up
to the noise of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.core.rows import Rows
from criticalmass.measures.probes.closed_form import L2S, ridge_path
from criticalmass.theory.degrees_of_freedom import check_sizes
from criticalmass.theory.eigenbasis import Eigenbasis
from criticalmass.theory.held_out import HeldOut, Sampling, held_out

FloatArray = NDArray[np.float64]
#: Ridge probes up to this size are sampled, not predicted, because sampling is exact and cheaper.
LARGEST_SAMPLED = 64
#: Subsets drawn per size; the standard error of their mean is a fifth of their spread.
ORDERS = 24
#: Most test samples on which drawn subsets are scored; fewer with more than 1,000 classes.
MOST_ROWS = 10_000
# Fewer orders and rows are enough to choose a penalty.
_CHOICE_ORDERS, _CHOICE_ROWS = 4, 2000
# Most responses (rows x classes) per subset: with more than 1,000 classes fewer rows are scored.
_MOST_RESPONSES, _FEWEST_ROWS = 10_000_000, 100
# Most responses in memory at a time.
_BLOCK_RESPONSES = 16_000_000


@dataclass(frozen=True, eq=False)
class SampledRidge:
    """Scores of ridge probes on sampled subsets.

    Attributes
    ----------
    sizes: (n_sizes,) numbers of neurons.
    accuracy: (n_orders, n_sizes) accuracy of every subset.
    l2: (n_sizes,) penalty with the best mean accuracy.
    """

    sizes: NDArray[np.int64]
    accuracy: FloatArray
    l2: FloatArray


def sample_ridge(
    basis: Eigenbasis,
    test: tuple[Rows, npt.ArrayLike],
    sizes: Sequence[int],
    *,
    l2s: Sequence[float] = L2S,
    sampling: Sampling | None = None,
) -> SampledRidge:
    """Fit ridge probes on nested random subsets of few neurons and score them.

    Parameters
    ----------
    basis: the training set.
    test: rows (n_test, n_neurons), raw, and labels (n_test,).
    sizes: numbers of neurons, ascending; intended for small ones.
    l2s: penalties; every size takes the one with the best mean accuracy, ties go to the larger.
    sampling: numbers of permutations drawn and of test samples scored (fewer with more than 1,000
        classes), and their seed; by default `ORDERS` and `MOST_ROWS`.

    Raises
    ------
    CriticalMassError: if a size, or rows and labels, do not fit the training set.
    """
    ks, d = check_sizes(sizes, basis.n_neurons), basis.n_neurons
    settings = sampling or Sampling(draws=ORDERS, rows=MOST_ROWS)
    rng = np.random.default_rng(settings.seed)
    prefixes = [rng.permutation(d)[: int(ks[-1])] for _ in range(settings.draws)]
    most = max(_FEWEST_ROWS, _MOST_RESPONSES // basis.n_classes)
    test_rows = held_out(basis, *test, replace(settings, rows=min(settings.rows, most)))
    cross, penalties = basis.cross_moment, sorted(l2s, reverse=True)
    best = np.full(ks.size, penalties[0])
    if len(penalties) > 1:
        few = prefixes[:_CHOICE_ORDERS]
        n_rows = max(_FEWEST_ROWS, min(_CHOICE_ROWS, most * _CHOICE_ROWS // MOST_ROWS))
        mean_accuracy = [
            np.mean(
                [_score(test_rows, cross, p, ks, np.full(ks.size, l2), slice(n_rows)) for p in few],
                0,
            )
            for l2 in penalties
        ]
        best = np.asarray(penalties)[np.argmax(np.stack(mean_accuracy), axis=0)]
    accuracy = np.stack([_score(test_rows, cross, p, ks, best, slice(None)) for p in prefixes])
    return SampledRidge(ks, accuracy, best)


def _score(
    test_rows: HeldOut,
    cross: FloatArray,
    neurons: NDArray[np.intp],
    sizes: NDArray[np.int64],
    l2s: FloatArray,
    rows: slice,
) -> FloatArray:
    """Return the accuracy of the prefixes of one order, (n_sizes,), each at its own penalty."""
    basis, n_classes = test_rows.basis, test_rows.basis.n_classes
    matrix = basis.second_moment[np.ix_(neurons, neurons)]
    order = np.arange(neurons.size)
    heads = np.zeros((neurons.size, sizes.size, n_classes), dtype=np.float32)
    for l2 in np.unique(l2s):
        members = np.flatnonzero(l2s == l2)
        member_sizes = [int(sizes[i]) for i in members]
        path = ridge_path(matrix, cross[neurons], order, member_sizes, [float(l2)])[0]
        for i, head in zip(members, path, strict=True):
            heads[: head.shape[0], i] = head
    x = test_rows.sample[rows][:, neurons]
    truth = test_rows.labels[test_rows.sample_rows][rows]
    accuracy = np.empty(sizes.size)
    n_at_once = max(1, _BLOCK_RESPONSES // (truth.size * n_classes))
    for start in range(0, sizes.size, n_at_once):
        part = slice(start, min(start + n_at_once, sizes.size))
        largest = int(sizes[part.stop - 1])
        wide = np.ascontiguousarray(heads[:largest, part]).reshape(largest, -1)
        responses = (x[:, :largest] @ wide).reshape(truth.size, -1, n_classes)
        responses += basis.share.astype(np.float32)
        accuracy[part] = (responses.argmax(axis=2) == truth[:, None]).mean(axis=0)
    return accuracy
