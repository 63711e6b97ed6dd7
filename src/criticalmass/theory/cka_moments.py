"""Exact first two moments of the two sums whose ratio is the CKA of a random subset.

With M a symmetric matrix of pair terms (C*C for linear CKA), r its row sums and S a uniform
random subset of k of d neurons, N = sum_{i in S} r_i and D = sum_{i,j in S} M_ij. Both are split
into parts that are uncorrelated under sampling without replacement (a constant, a sum over
neurons, a sum over pairs). Variances are then sums of squares: nothing cancels, and they are
exactly 0 at k = d. Derivation: docs/theory.md, law 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from criticalmass.core.moments import FloatArray, IndexArray

# Rows of the matrix handled at a time.
_BLOCK_ROWS = 256


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over pair terms, in O(d^2), from which the moments of every subset size follow.

    With o_i = r_i - M_ii, A = sum M_ii, B = sum o_i and T = A + B, the parts are
    alpha_i = M_ii - A/d, rho_i = r_i - T/d, beta_i = (o_i - B/d)/(d - 2), and
    h_ij = M_ij - B/(d(d-1)) - beta_i - beta_j for i != j.

    Attributes
    ----------
    n_neurons: d.
    rows: (d,) row sums r.
    diagonal: (d,) M_ii.
    alpha, rho, beta: (d,) parts over neurons, each with sum 0.
    pairs: sum of h_ij^2 over ordered pairs.
    """

    n_neurons: int
    rows: FloatArray
    diagonal: FloatArray
    alpha: FloatArray
    rho: FloatArray
    beta: FloatArray
    pairs: float

    @property
    def total(self) -> float:
        """Sum of all pair terms, T; ||C||_F^2 for linear CKA."""
        return float(self.rows.sum())

    @property
    def diagonal_total(self) -> float:
        """Sum of the diagonal, A."""
        return float(self.diagonal.sum())


@dataclass(frozen=True, eq=False)
class SubsetMoments:
    """Means of N and D, and their variances and covariance relative to the means.

    Attributes
    ----------
    sizes: (n_sizes,) k.
    mean_n, mean_d: (n_sizes,) E N and E D.
    var_n, var_d: (n_sizes,) var N / (E N)^2 and var D / (E D)^2.
    cov: (n_sizes,) cov(N, D) / (E N E D).
    """

    sizes: IndexArray
    mean_n: FloatArray
    mean_d: FloatArray
    var_n: FloatArray
    var_d: FloatArray
    cov: FloatArray


def pair_sums(terms: FloatArray) -> PairSums:
    """Sum a symmetric (d, d) matrix of pair terms; needs O(d) memory besides the matrix."""
    d = terms.shape[0]
    diagonal = np.diagonal(terms).copy()
    rows = terms.sum(axis=1)
    off = rows - diagonal
    level = off.sum() / (d * max(d - 1, 1))
    # For d = 2 both neurons have the same off-diagonal sum, so beta is 0.
    beta = (off - off.mean()) / (d - 2) if d > 2 else np.zeros(d)
    pairs = 0.0
    for start in range(0, d, _BLOCK_ROWS):
        block = terms[start : start + _BLOCK_ROWS] - beta - beta[start : start + _BLOCK_ROWS, None]
        block -= level
        index = np.arange(block.shape[0])
        block[index, index + start] = 0.0
        pairs += float(np.vdot(block, block))
    alpha, rho = diagonal - diagonal.mean(), rows - rows.mean()
    # The part over pairs is 0 unless there are two pairs without a common neuron.
    return PairSums(d, rows, diagonal, alpha, rho, beta, pairs if d > 3 else 0.0)


def subset_moments(sums: PairSums, sizes: IndexArray) -> SubsetMoments:
    """Return the exact moments of N and D over uniform random subsets without replacement.

    Parameters
    ----------
    sums: of the pair terms, as `pair_sums` returns them.
    sizes: (n_sizes,) k, each from 1 to d.
    """
    d, k = sums.n_neurons, sizes.astype(np.float64)
    off_total = sums.total - sums.diagonal_total
    mean_n = k / d * sums.total
    mean_d = k / d * sums.diagonal_total + k * (k - 1) / (d * max(d - 1, 1)) * off_total
    single = k * (d - k) / (d * max(d - 1, 1))
    double = single * (k - 1) * (d - k - 1) / (max(d - 2, 1) * max(d - 3, 1))
    slope = 2.0 * (k - 1)
    alpha, beta, rho = sums.alpha, sums.beta, sums.rho
    over_neurons = alpha @ alpha + slope * (2.0 * (alpha @ beta) + slope * (beta @ beta))
    var_d = single * over_neurons + 2.0 * np.maximum(double, 0.0) * sums.pairs
    cov = single * (rho @ alpha + slope * (rho @ beta))
    return SubsetMoments(
        sizes=sizes,
        mean_n=mean_n,
        mean_d=mean_d,
        var_n=single * (rho @ rho) / mean_n**2,
        var_d=var_d / mean_d**2,
        cov=cov / (mean_n * mean_d),
    )
