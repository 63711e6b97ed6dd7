"""R^2 of the dropped neurons given the kept ones, by linear regression, for prefixes of orders.

All neurons are regressed on the kept ones over the training rows, and the errors are those of the
test rows: R^2 = 1 - sum of squared errors / sum of squares about the training mean, both over the
dropped neurons and the test rows. It is the mean over the dropped neurons of their own R^2,
weighted by their sums of squares (scikit-learn: ``variance_weighted``), as in Doimo et al. 2022
(arXiv:2106.03485), who score all neurons, the kept ones too, on the rows they regress on. A kept
neuron has no error, so theirs is 1 - (1 - R^2) v, where v is the share of the sum of squares that
the dropped neurons have. The weights are raw variances, those of CKA and of every product with
the layer; the regression itself is of standardised neurons, so no unit of a neuron changes it.

With L the Cholesky factor of the permuted correlation matrix, the best prediction of the neurons
after k is L[k:, :k] z[:k], where z solves L z = x: one factor serves every prefix of an order, and
the error of a longer prefix is that of the shorter one less one more product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, Moments
from criticalmass.core.rows import CHUNK_ROWS
from criticalmass.measures.prefix_heads import block_ranges
from criticalmass.measures.scaling import Scaling, column_scales
from criticalmass.measures.similarity.checks import check_order, check_sizes
from criticalmass.measures.similarity.cka_jackknife import N_BLOCKS, sample_blocks

#: Samples of independent neurons that are added to the training rows, per neuron of the layer.
#: They make every matrix regular. Without them the error has a peak where as many neurons are kept
#: as there are training rows (R^2 of -10.9 in place of .64 for EfficientNet-Lite0 on 1,000 pictures
#: of Fashion-MNIST); with ten times as many rows as neurons they change R^2 by less than .002.
RIDGE = 0.1


def prefix_reconstruction(
    rows: Any,
    training: Moments,
    orders: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    n_blocks: int = N_BLOCKS,
) -> tuple[FloatArray, FloatArray]:
    """R^2 of the neurons that prefixes leave out, on all test rows and without each block.

    The regression minimises ``||X_S B - X||^2 + RIDGE n_neurons ||B||^2`` over standardised
    training rows X, with X_S the kept columns.

    Parameters
    ----------
    rows: (n_samples, n_neurons) test rows, array or ``Features``.
    training: moments of the training rows.
    orders: (n_orders, n_neurons) permutations of the neurons.
    sizes: (n_sizes,) prefix lengths, ascending.
    n_blocks: blocks of test rows; at most half as many as there are rows.

    Returns
    -------
    values: (n_orders, n_sizes); 1 for the whole layer. Below 0 where the mean predicts better. For
        dropped neurons that are their training mean in every test row, 1 if the prediction is
        exact and 0 otherwise, as in scikit-learn's ``r2_score``.
    replicates: (n_orders, n_sizes, n_blocks) without block b.
    """
    d = training.n_neurons
    indices = [check_order(order, d) for order in np.atleast_2d(np.asarray(orders))]
    check_sizes(sizes, d)
    block_of = np.empty(int(rows.shape[0]), dtype=np.intp)
    blocks = sample_blocks(block_of.size, n_blocks)
    for b, members in enumerate(blocks):
        block_of[members] = b
    variance = np.diagonal(training.scatter) / training.n
    scaling = Scaling(training.mean, column_scales(training.mean, variance, training.n))
    values = np.ones((len(indices), len(sizes)))
    replicates = np.ones((*values.shape, len(blocks)))
    parts = [k for k in sizes if k < d]
    for order, own, own_replicates in zip(indices, values, replicates, strict=True):
        factor = _factor_rows(training, scaling, order, max(parts, default=0))
        errors, totals = _sums_of_squares(rows, scaling, order, parts, factor, block_of)
        own[: len(parts)] = _explained(errors.sum(axis=-1), totals.sum(axis=-1))
        own_replicates[: len(parts)] = _explained(_without_each(errors), _without_each(totals))
    return values, replicates


def _factor_rows(training: Moments, scaling: Scaling, order: IndexArray, size: int) -> FloatArray:
    """Return the first ``size`` rows of the Cholesky factor U'U of an order's correlations."""
    from scipy.linalg import cholesky, solve_triangular

    first = order[:size]
    matrix = training.scatter[np.ix_(first, order)] / training.n
    matrix /= scaling.scale[first, None]
    matrix /= scaling.scale[order]
    matrix[np.arange(size), np.arange(size)] += RIDGE * order.size / training.n
    corner = cholesky(matrix[:, :size], check_finite=False)
    rest = solve_triangular(corner, matrix[:, size:], trans="T", check_finite=False)
    return np.concatenate([corner, rest], axis=1)


def _sums_of_squares(
    rows: Any,
    scaling: Scaling,
    order: IndexArray,
    sizes: Sequence[int],
    factor: FloatArray,
    block_of: IndexArray,
) -> tuple[FloatArray, FloatArray]:
    """Return squared errors and squares of the dropped neurons, (n_sizes, n_blocks) sums."""
    from scipy.linalg import solve_triangular

    size, n_blocks = len(factor), int(block_of.max()) + 1
    errors, totals = np.zeros((2, len(sizes), n_blocks))
    weights = scaling.scale[order] ** 2
    for start in range(0, block_of.size, CHUNK_ROWS):
        raw = np.asarray(rows[start : start + CHUNK_ROWS], dtype=np.float64)
        left = ((raw - scaling.mean) / scaling.scale)[:, order]
        squares = left**2 * weights
        z = solve_triangular(factor[:, :size], left[:, :size].T, trans="T", check_finite=False).T
        blocks = block_of[start : start + CHUNK_ROWS]
        for j, (a, b) in enumerate(block_ranges(sizes)):
            left[:, b:] -= z[:, a:b] @ factor[a:b, b:]
            for sums, by_row in (
                (errors, left[:, b:] ** 2 @ weights[b:]),
                (totals, squares[:, b:].sum(axis=1)),
            ):
                sums[j] += np.bincount(blocks, by_row, minlength=n_blocks)
    return errors, totals


def _without_each(sums: FloatArray) -> FloatArray:
    """Return the sum of the other blocks, (..., n_blocks); nothing is subtracted."""
    others = np.zeros_like(sums)
    others[..., 1:] = np.cumsum(sums[..., :-1], axis=-1)
    others[..., :-1] += np.cumsum(sums[..., :0:-1], axis=-1)[..., ::-1]
    return others


def _explained(errors: FloatArray, totals: FloatArray) -> FloatArray:
    """Return 1 - errors / totals; where nothing varies, 1 without an error and otherwise 0."""
    ratios = np.divide(errors, totals, out=(errors > 0.0).astype(np.float64), where=totals > 0.0)
    return np.asarray(1.0 - ratios)
