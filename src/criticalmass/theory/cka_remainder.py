"""What the second order of law 1 leaves out, averaged over seeded subsets.

A layer in which a few neurons carry most of the variance has no small deviations to expand in:
whether a subset holds one of them decides its CKA. The mean is then taken over random orders,
with n = N/EN - 1, x = D/ED - 1, n x and x^2, whose means are known exactly, as control variates
(regression estimator); where the second order is nearly right, almost nothing is left to sample.
"""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray
from criticalmass.theory.cka_moments import SubsetMoments

#: Orders in one pass over the matrix: bounds memory to a few vectors per order.
BATCH = 64
#: Relative variance of D from which its rare large values would rule the regression: N alone
#: is used then.
WILD_VARIANCE = 5.0


def average_subsets(
    c: FloatArray, expected: SubsetMoments, n_orders: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of CKA over subsets, the mean corrected by control variates.

    Parameters
    ----------
    c: (d, d) second moment.
    expected: exact moments of N and D at the sizes wanted.
    n_orders: random orders; the subsets of one order are nested.
    seed: of the orders.

    Returns
    -------
    mean, std: (n_sizes,) each.
    """
    outer, inner, total = _subset_sums(c, expected.sizes - 1, n_orders, seed)
    values = np.zeros_like(outer)
    # A subset of constant neurons has no variance; its CKA is 0.
    np.divide(outer, np.sqrt(inner * total), out=values, where=inner > 0.0)
    n = outer / expected.mean_n - 1.0
    x = inner / expected.mean_d - 1.0
    mean = np.empty(expected.sizes.size)
    for i in range(mean.size):
        controls = np.stack([n[:, i], x[:, i], n[:, i] * x[:, i], x[:, i] ** 2], axis=1)
        controls -= np.array([0.0, 0.0, expected.cov[i], expected.var_d[i]])
        kept = 4 if expected.var_d[i] < WILD_VARIANCE else 1
        mean[i] = _regressed(values[:, i], controls[:, :kept])
    return np.clip(mean, values.min(axis=0), values.max(axis=0)), values.std(axis=0, ddof=1)


def _regressed(values: FloatArray, controls: FloatArray) -> float:
    """Mean of ``values`` where the controls, whose true mean is 0, are 0 (least squares)."""
    centre = controls.mean(axis=0)
    weights = np.linalg.lstsq(controls - centre, values - values.mean(), rcond=1e-10)[0]
    return float(values.mean() - centre @ weights)


def _subset_sums(
    c: FloatArray, at: np.ndarray[tuple[int], np.dtype[np.intp]], n_orders: int, seed: int
) -> tuple[FloatArray, FloatArray, float]:
    """N and D of the prefixes of random orders, (n_orders, n_sizes) each, and ||C||^2."""
    from criticalmass.measures.similarity.cka_kernels import prefix_terms

    d, rng = c.shape[0], np.random.default_rng(seed)
    outer, inner = np.empty((n_orders, at.size)), np.empty((n_orders, at.size))
    total = 0.0
    for start in range(0, n_orders, BATCH):
        orders = [rng.permutation(d) for _ in range(min(BATCH, n_orders - start))]
        ranks = np.empty((len(orders), d))
        for row, order in zip(ranks, orders, strict=True):
            row[order] = np.arange(d)
        rows, added = prefix_terms(c, ranks, 1.0)
        total = float(rows.sum())
        for i, order in enumerate(orders):
            outer[start + i] = np.cumsum(rows[order])[at]
            inner[start + i] = np.cumsum(added[i][order])[at]
    return outer, inner, total
