"""The remainder of law 1 beyond second order, averaged over seeded subsets.

In a layer where a few neurons carry most of the variance, the relative deviations are not small:
the CKA of a subset depends on whether it contains one of these neurons. The mean is then taken
over random orders, with n = N/EN - 1, x = D/ED - 1, n x and x^2, whose means are known exactly,
as control variates (regression estimator). Where the second order is nearly right, almost no
variance is left.
"""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.theory.cka_moments import SubsetMoments

#: Orders in one pass over the matrix; bounds memory to a few vectors per order.
BATCH = 64
#: Relative variance of D from which its rare large values would dominate the regression; from
#: there on N is the only control variate.
WILD_VARIANCE = 5.0


def average_subsets(
    c: FloatArray, expected: SubsetMoments, n_orders: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of CKA over subsets; control variates correct the mean.

    Parameters
    ----------
    c: (d, d) second moment.
    expected: exact moments of N and D, at the sizes to average at.
    n_orders: number of random orders; the subsets of one order are nested.
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
        n_controls = 4 if expected.var_d[i] < WILD_VARIANCE else 1
        mean[i] = _regress(values[:, i], controls[:, :n_controls])
    return np.clip(mean, values.min(axis=0), values.max(axis=0)), values.std(axis=0, ddof=1)


def _regress(values: FloatArray, controls: FloatArray) -> float:
    """Return the mean of ``values`` at controls of 0, their true mean, by least squares."""
    centre = controls.mean(axis=0)
    weights = np.linalg.lstsq(controls - centre, values - values.mean(), rcond=1e-10)[0]
    return float(values.mean() - centre @ weights)


def _subset_sums(
    c: FloatArray, last: IndexArray, n_orders: int, seed: int
) -> tuple[FloatArray, FloatArray, float]:
    """Return N and D of prefixes of random orders, (n_orders, n_sizes) each, and ||C||^2.

    ``last``: (n_sizes,) prefix lengths minus 1.
    """
    from criticalmass.measures.similarity.checks import ranks_of
    from criticalmass.measures.similarity.cka_kernels import prefix_terms

    d, rng = c.shape[0], np.random.default_rng(seed)
    outer, inner = np.empty((n_orders, last.size)), np.empty((n_orders, last.size))
    total = 0.0
    for start in range(0, n_orders, BATCH):
        orders = [rng.permutation(d) for _ in range(min(BATCH, n_orders - start))]
        ranks = ranks_of(orders, d)
        row_sums, increments = prefix_terms(c, ranks, 1.0)
        total = float(row_sums.sum())
        for i, order in enumerate(orders):
            outer[start + i] = np.cumsum(row_sums[order])[last]
            inner[start + i] = np.cumsum(increments[i][order])[last]
    return outer, inner, total
