"""Law 1: the CKA of a random subset of neurons, before any subset is drawn.

Linear CKA of a subset S with its own layer is N / sqrt(D T), N = ||C[S,:]||^2, D = ||C[S,S]||^2
and T = ||C||^2. Expanding the ratio to second order around the exact means leaves only moments
that `subset_moments` has in closed form. Derivation and limits: docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.errors import CriticalMassError
from criticalmass.theory.cka_moments import PairSums, SubsetMoments, pair_sums, subset_moments
from criticalmass.theory.spectrum import as_second_moment

#: Relative variance of D above which the second order alone is not trusted. On layers made to
#: break it (a few giant neurons) it was up to .018 off at .1, and .005 with this bar.
TRUSTED_VARIANCE = 0.02
#: Fewest and most orders that the remainder beyond second order is averaged over (narrow layers
#: can afford more: an order costs d^2 comparisons), comparisons to spend, and the orders' seed.
FEWEST_ORDERS, MOST_ORDERS, COMPARISONS = 256, 2000, 4e8
SEED = 0
#: CKA this far below the bar still reaches it: rounding, for layers where CKA is 1 throughout.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class ExpectedSimilarity:
    """Similarity of random subsets with their layer.

    Attributes
    ----------
    sizes: (n_sizes,) neurons kept.
    mean: (n_sizes,) mean over all subsets of that size.
    std: (n_sizes,) standard deviation over all subsets of that size.
    closed_form: (n_sizes,) whether the value is the second order alone. Where it is not, the
        layer's neurons are so unequal that the remainder was averaged over seeded subsets.
    """

    sizes: IndexArray
    mean: FloatArray
    std: FloatArray
    closed_form: npt.NDArray[np.bool_]

    def interval(self, n_seeds: int, *, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Where the mean over ``n_seeds`` independent subsets falls, normal approximation.

        Returns
        -------
        low, high: (n_sizes,) within [0, 1].

        Raises
        ------
        CriticalMassError: for fewer than 1 seed or a level outside (0, 1).
        """
        if n_seeds < 1 or not 0.0 < level < 1.0:
            raise CriticalMassError(
                f"n_seeds={n_seeds}, level={level}: give at least 1 seed and a level in (0, 1)"
            )
        half = NormalDist().inv_cdf(0.5 + level / 2) * self.std / np.sqrt(n_seeds)
        return np.maximum(self.mean - half, 0.0), np.minimum(self.mean + half, 1.0)

    def first_reaching(self, delta: float) -> int | None:
        """Return the smallest of the sizes whose mean reaches ``delta``, None if none does."""
        return _first(self.sizes, self.mean, _check_delta(delta))


@checked
def expected_cka(
    second_moment: npt.ArrayLike,
    sizes: Sequence[int] | npt.ArrayLike,
    *,
    remainder: bool = True,
) -> ExpectedSimilarity:
    """Predict linear CKA with the whole layer, over uniform random subsets of its neurons.

    Exact at 1 neuron and at the whole layer; between them the mean of the ratio to second
    order, moments in closed form. Where the relative variance of ||C[S,S]||^2 exceeds
    ``TRUSTED_VARIANCE``, the remainder is averaged over 256 to 2,000 seeded orders, with the
    exact moments as control variates.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    sizes: (n_sizes,) neurons kept, each from 1 to n_neurons.
    remainder: False for the second order alone, at every size, whatever it is worth there.

    Returns
    -------
    Means and standard deviations, each (n_sizes,).

    Raises
    ------
    CriticalMassError: if the matrix is not square, symmetric, finite and non-zero, or a size
        does not fit the layer.
    """
    c = as_second_moment(second_moment)
    at = _check_sizes(sizes, c.shape[0])
    sums = pair_sums(c * c)
    found = _second_order(sums, at, trust=not remainder)
    rough = np.flatnonzero(~found.closed_form)
    if rough.size:
        from criticalmass.theory.cka_remainder import average_subsets

        n_orders = int(np.clip(COMPARISONS / c.size, FEWEST_ORDERS, MOST_ORDERS))
        mean, std = average_subsets(c, subset_moments(sums, at[rough]), n_orders, SEED)
        found.mean[rough], found.std[rough] = mean, std
    return found


@checked
def cka_critical_mass(second_moment: npt.ArrayLike, delta: float) -> int:
    """Predict the fewest neurons whose expected CKA with the whole layer reaches ``delta``.

    The CKA of the whole layer is 1, so the bar is ``delta`` itself. First order, for large d:
    k*/d = a delta^2 / (1 - delta^2 (1 - a)), a the diagonal share.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    delta: the bar, in (0, 1].

    Returns
    -------
    The smallest k with ``expected_cka(second_moment, [k]).mean >= delta``.

    Raises
    ------
    CriticalMassError: as `expected_cka`, or for a delta outside (0, 1].
    """
    _check_delta(delta)
    d = int(np.asarray(second_moment).shape[0]) if np.ndim(second_moment) == 2 else 0
    found = expected_cka(second_moment, np.arange(1, max(d, 1) + 1))
    return found.first_reaching(delta) or d


def cka_critical_mass_interval(
    second_moment: npt.ArrayLike, delta: float, *, n_seeds: int = 5, level: float = 0.95
) -> tuple[int, int]:
    """Between which sizes a sweep over ``n_seeds`` random subsets finds its critical mass.

    The sizes at which the upper and the lower edge of the predicted band of the mean over
    seeds reach ``delta``. The noise of the test samples is not part of it.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    delta: the bar, in (0, 1].
    n_seeds: subsets averaged at every size.
    level: coverage at every size.

    Raises
    ------
    CriticalMassError: as `cka_critical_mass` and `ExpectedSimilarity.interval`.
    """
    _check_delta(delta)
    d = int(np.asarray(second_moment).shape[0]) if np.ndim(second_moment) == 2 else 0
    found = expected_cka(second_moment, np.arange(1, max(d, 1) + 1))
    low, high = found.interval(n_seeds, level=level)
    first, last = _first(found.sizes, high, delta), _first(found.sizes, low, delta)
    return first or d, last or d


def expected_debiased_cka(rows: Any, sizes: Sequence[int] | npt.ArrayLike) -> ExpectedSimilarity:
    """Predict debiased linear CKA with the whole layer, over uniform random subsets.

    The unbiased HSIC is a sum over pairs of neurons too, so the same law holds with its pair
    terms in the place of C*C. Second order only.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples.
    sizes: (n_sizes,) neurons kept, each from 1 to n_neurons.

    Raises
    ------
    CriticalMassError: for fewer than 4 samples, sizes that do not fit, or so few samples that
        the expected unbiased HSIC of a subset is not positive.
    """
    terms = debiased_terms(rows)
    sums = pair_sums(terms)
    at = _check_sizes(sizes, terms.shape[0])
    expected = subset_moments(sums, at)
    if sums.total <= 0.0 or expected.mean_d.min() <= 0.0:
        raise CriticalMassError(
            f"{rows.shape[0]} samples are too few for a debiased CKA of {terms.shape[0]} neurons: "
            "the unbiased HSIC is not positive; give more samples"
        )
    return _second_order(sums, at, trust=True, debiased=True)


def debiased_terms(rows: Any) -> FloatArray:
    """Pair terms of the unbiased HSIC (Song et al. 2012, eq. 5), up to a common factor.

    With X centred, C = X'X, G = (X*X)'(X*X) and t the diagonal of C:
    W = C*C - n/(n-2) G + t t' / ((n-1)(n-2)).

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples.

    Returns
    -------
    (n_neurons, n_neurons) W, with the layer scaled to a largest variance sum of 1.

    Raises
    ------
    CriticalMassError: for fewer than 4 samples, or if every neuron is constant.
    """
    from criticalmass.core.moments import moments

    n = int(rows.shape[0])
    if n < 4:
        raise CriticalMassError(f"debiased CKA needs at least 4 samples, got {n}")
    whole = moments(rows)
    largest = float(np.diagonal(whole.scatter).max())
    c = as_second_moment(whole.scatter)
    fourth = np.zeros_like(c)
    for start in range(0, n, 2048):
        block = np.asarray(rows[start : min(start + 2048, n)], dtype=np.float64) - whole.mean
        block *= block / largest
        fourth += block.T @ block
    t = np.diagonal(c).copy()
    c *= c
    c -= fourth * (n / (n - 2))
    c += np.outer(t, t / ((n - 1) * (n - 2)))
    return c


def _second_order(
    sums: PairSums, at: IndexArray, *, trust: bool, debiased: bool = False
) -> ExpectedSimilarity:
    """Mean and spread of N / sqrt(D T) to second order; exact at 1 neuron and at the whole."""
    m = subset_moments(sums, at)
    mean, variance = _expand(m, sums.total)
    std = np.sqrt(np.maximum(variance, 0.0))
    trusted = (m.var_d <= TRUSTED_VARIANCE) | (at == 1) | trust
    if not debiased and (at == 1).any():
        values = np.zeros(sums.n_neurons)
        live = sums.diagonal > 0.0
        values[live] = sums.rows[live] / np.sqrt(sums.diagonal[live] * sums.total)
        mean[at == 1], std[at == 1] = values.mean(), values.std()
    mean[at == sums.n_neurons], std[at == sums.n_neurons] = 1.0, 0.0
    return ExpectedSimilarity(at, np.clip(mean, 0.0, 1.0), std, trusted)


def _expand(m: SubsetMoments, total: float) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of N / sqrt(D T) to second order in the relative deviations."""
    first = m.mean_n / np.sqrt(m.mean_d * total)
    mean = first * (1.0 - m.cov / 2 + 3.0 * m.var_d / 8)
    return mean, first**2 * (m.var_n + m.var_d / 4 - m.cov)


def _first(sizes: IndexArray, values: FloatArray, delta: float) -> int | None:
    """Smallest size whose value reaches the bar."""
    reaching = sizes[values >= delta - ROUNDING]
    return int(reaching.min()) if reaching.size else None


def _check_delta(delta: float) -> float:
    """Return a bar that a share of the whole layer's value can be."""
    if not 0.0 < delta <= 1.0:
        raise CriticalMassError(f"delta={delta} but it is a share of the layer's value, in (0, 1]")
    return delta


def _check_sizes(sizes: Sequence[int] | npt.ArrayLike, n_neurons: int) -> IndexArray:
    """Return sizes of subsets of the layer as a vector of integers."""
    at = np.asarray(sizes)
    if at.ndim != 1 or at.size == 0 or not np.issubdtype(at.dtype, np.integer):
        raise CriticalMassError(
            f"sizes {np.array2string(at, threshold=8)} must be a vector of integers, at least one"
        )
    if at.min() < 1 or at.max() > n_neurons:
        worst = int(at.min() if at.min() < 1 else at.max())
        raise CriticalMassError(
            f"n_kept={worst} but the layer has {n_neurons} neurons; ask for 1 to {n_neurons}"
        )
    return at.astype(np.intp)
