"""Law 1: the expected CKA of a random subset of neurons with its layer.

Linear CKA of a subset S with its own layer is N / sqrt(D T), N = ||C[S,:]||^2, D = ||C[S,S]||^2
and T = ||C||^2. The expansion of the ratio to second order around the exact means needs only
moments that `subset_moments` computes in closed form. Derivation and limits: docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.estimators import check_delta
from criticalmass.analysis.predicted_curves import mean_interval
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.core.notebook import Card, Shown
from criticalmass.errors import CriticalMassError
from criticalmass.theory.cka_moments import PairSums, SubsetMoments, pair_sums, subset_moments
from criticalmass.theory.degrees_of_freedom import check_sizes
from criticalmass.theory.spectrum import as_second_moment

#: Relative variance of D above which the second order alone is not used. On layers constructed to
#: break it (a few neurons with most of the variance) its error was up to .018 at a limit of .1,
#: and .005 at this limit.
TRUSTED_VARIANCE = 0.02
#: Fewest and most orders over which the remainder beyond second order is averaged, and the number
#: of comparisons to spend on it: an order costs d^2, so narrow layers get more orders.
FEWEST_ORDERS, MOST_ORDERS, COMPARISONS = 256, 2000, 4e8
SEED = 0
#: A CKA this far below delta still reaches it: rounding, for layers where CKA is 1 at all sizes.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class ExpectedSimilarity(Shown):
    """Similarity of random subsets with their layer.

    Attributes
    ----------
    sizes: (n_sizes,) subset sizes.
    mean: (n_sizes,) mean over all subsets of that size.
    std: (n_sizes,) standard deviation over all subsets of that size.
    closed_form: (n_sizes,) whether the value is the second order alone. Otherwise the layer's
        neurons are so unequal that the remainder was averaged over seeded subsets.
    """

    sizes: IndexArray
    mean: FloatArray
    std: FloatArray
    closed_form: npt.NDArray[np.bool_]

    def _card(self) -> Card:
        import pandas as pd

        frame = pd.DataFrame({"size": self.sizes, "mean": self.mean, "std": self.std})
        facts = {"sizes": _range_text(self.sizes), "mean": _range_text(self.mean)}
        return Card("Expected similarity", facts, tables={"by size": frame})

    def interval(self, n_seeds: int, *, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return the interval of the mean over ``n_seeds`` independent subsets.

        Normal approximation.

        Returns
        -------
        low, high: (n_sizes,) within [0, 1].

        Raises
        ------
        CriticalMassError: for fewer than 1 seed, or a level outside (0, 1).
        """
        return mean_interval(self.mean, self.std, n_seeds, level)

    def first_reaching(self, delta: float) -> int | None:
        """Return the smallest size whose mean reaches ``delta``, or None."""
        check_delta(delta)
        return _first_reaching(self.sizes, self.mean, delta)


def _range_text(values: npt.NDArray[Any]) -> str:
    return f"{values[0]:.4g} to {values[-1]:.4g}" if len(values) else "none"


@validate_arguments
def expected_cka(
    second_moment: npt.ArrayLike,
    sizes: Sequence[int] | npt.ArrayLike,
    *,
    remainder: bool = True,
) -> ExpectedSimilarity:
    """Predict the linear CKA of uniform random subsets of neurons with the whole layer.

    The result is exact at 1 neuron and at the whole layer. Between them it is the mean of the
    ratio to second order, with moments in closed form. Where the relative variance of
    ||C[S,S]||^2 exceeds ``TRUSTED_VARIANCE``, the remainder is averaged over 256 to 2,000 seeded
    orders, with the exact moments as control variates.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    sizes: (n_sizes,) subset sizes, each from 1 to n_neurons.
    remainder: whether to add the remainder where it is needed; if False, all sizes have the
        second order alone, however wrong it is.

    Returns
    -------
    Means and standard deviations, each (n_sizes,).

    Raises
    ------
    CriticalMassError: if the matrix is not square, symmetric, finite and non-zero, or a size
        does not fit the layer.
    """
    c = as_second_moment(second_moment)
    ks = check_sizes(sizes, c.shape[0])
    sums = pair_sums(c * c)
    curve = _second_order(sums, ks, trust=not remainder)
    rough = np.flatnonzero(~curve.closed_form)
    if not rough.size:
        return curve
    from criticalmass.theory.cka_remainder import average_subsets

    n_orders = int(np.clip(COMPARISONS / c.size, FEWEST_ORDERS, MOST_ORDERS))
    mean, std = curve.mean.copy(), curve.std.copy()
    mean[rough], std[rough] = average_subsets(c, subset_moments(sums, ks[rough]), n_orders, SEED)
    return replace(curve, mean=mean, std=std)


@validate_arguments
def cka_critical_mass(second_moment: npt.ArrayLike, delta: float) -> int:
    """Predict the fewest neurons whose expected CKA with the whole layer reaches ``delta``.

    The CKA of the whole layer is 1, so the threshold is ``delta`` itself. To first order and for
    large d, k*/d = a delta^2 / (1 - delta^2 (1 - a)) with a the diagonal share.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    delta: the threshold, in (0, 1].

    Returns
    -------
    The smallest k with ``expected_cka(second_moment, [k]).mean >= delta``.

    Raises
    ------
    CriticalMassError: as `expected_cka`, or for a delta outside (0, 1].
    """
    check_delta(delta)
    curve = _full_curve(second_moment)
    return curve.first_reaching(delta) or int(curve.sizes[-1])


def cka_critical_mass_interval(
    second_moment: npt.ArrayLike, delta: float, *, n_seeds: int = 5, level: float = 0.95
) -> tuple[int, int]:
    """Predict the interval of the critical mass in a sweep over ``n_seeds`` random subsets.

    Its ends are the sizes at which the upper and the lower edge of the predicted band of the mean
    over seeds reach ``delta``. The interval does not include the noise of the test samples.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    delta: the threshold, in (0, 1].
    n_seeds: subsets averaged at every size.
    level: coverage at every size.

    Raises
    ------
    CriticalMassError: as `cka_critical_mass` and `ExpectedSimilarity.interval`.
    """
    check_delta(delta)
    curve = _full_curve(second_moment)
    low, high = curve.interval(n_seeds, level=level)
    d = int(curve.sizes[-1])
    first = _first_reaching(curve.sizes, high, delta)
    last = _first_reaching(curve.sizes, low, delta)
    return first or d, last or d


def expected_debiased_cka(rows: Any, sizes: Sequence[int] | npt.ArrayLike) -> ExpectedSimilarity:
    """Predict the debiased linear CKA of uniform random subsets with the whole layer.

    The unbiased HSIC is also a sum over pairs of neurons, so the same law holds with its pair
    terms in place of C*C. Second order only.

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples.
    sizes: (n_sizes,) subset sizes, each from 1 to n_neurons.

    Raises
    ------
    CriticalMassError: for fewer than 4 samples, sizes that do not fit, or so few samples that
        the expected unbiased HSIC of a subset is not positive.
    """
    terms = debiased_terms(rows)
    sums = pair_sums(terms)
    ks = check_sizes(sizes, terms.shape[0])
    expected = subset_moments(sums, ks)
    if sums.total <= 0.0 or expected.mean_d.min() <= 0.0:
        raise CriticalMassError(
            f"{rows.shape[0]} samples are too few for a debiased CKA of {terms.shape[0]} neurons, "
            "because the unbiased HSIC is not positive; give more samples"
        )
    return _second_order(sums, ks, trust=True, debiased=True)


def debiased_terms(rows: Any) -> FloatArray:
    """Return the pair terms of the unbiased HSIC (Song et al. 2012, eq. 5), up to a factor.

    With X centred, C = X'X, G = (X*X)'(X*X) and t the diagonal of C:
    W = C*C - n/(n-2) G + t t' / ((n-1)(n-2)).

    Parameters
    ----------
    rows: (n_samples, n_neurons) array or ``Features``, at least 4 samples.

    Returns
    -------
    (n_neurons, n_neurons) W, with the layer scaled to a largest diagonal entry of C of 1.

    Raises
    ------
    CriticalMassError: for fewer than 4 samples, or if every neuron is constant.
    """
    from criticalmass.core.moments import moments

    n = int(rows.shape[0])
    if n < 4:
        raise CriticalMassError(f"debiased CKA needs at least 4 samples, got {n}")
    layer_moments = moments(rows)
    largest = float(np.diagonal(layer_moments.scatter).max())
    c = as_second_moment(layer_moments.scatter)
    g = np.zeros_like(c)
    for start in range(0, n, 2048):
        block = np.asarray(rows[start : min(start + 2048, n)], dtype=np.float64)
        block = block - layer_moments.mean
        block *= block / largest
        g += block.T @ block
    t = np.diagonal(c).copy()
    c *= c
    c -= g * (n / (n - 2))
    c += np.outer(t, t / ((n - 1) * (n - 2)))
    return c


def _full_curve(second_moment: npt.ArrayLike) -> ExpectedSimilarity:
    """Predict CKA at every size; `expected_cka` refuses a matrix that is not square."""
    d = int(np.asarray(second_moment).shape[0]) if np.ndim(second_moment) == 2 else 0
    return expected_cka(second_moment, np.arange(1, max(d, 1) + 1))


def _second_order(
    sums: PairSums, sizes: IndexArray, *, trust: bool, debiased: bool = False
) -> ExpectedSimilarity:
    """Return mean and spread of N / sqrt(D T) to second order; exact at 1 and d neurons.

    ``trust`` marks all sizes as closed form, whatever the relative variance of D.
    """
    m = subset_moments(sums, sizes)
    mean, variance = _expand(m, sums.total)
    std = np.sqrt(np.maximum(variance, 0.0))
    is_trusted = (m.var_d <= TRUSTED_VARIANCE) | (sizes == 1) | trust
    if not debiased and (sizes == 1).any():
        values = np.zeros(sums.n_neurons)
        is_varying = sums.diagonal > 0.0
        scale = np.sqrt(sums.diagonal[is_varying] * sums.total)
        values[is_varying] = sums.rows[is_varying] / scale
        mean[sizes == 1], std[sizes == 1] = values.mean(), values.std()
    mean[sizes == sums.n_neurons], std[sizes == sums.n_neurons] = 1.0, 0.0
    return ExpectedSimilarity(sizes, np.clip(mean, 0.0, 1.0), std, is_trusted)


def _expand(m: SubsetMoments, total: float) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of N / sqrt(D T) to second order in the relative deviations."""
    first = m.mean_n / np.sqrt(m.mean_d * total)
    mean = first * (1.0 - m.cov / 2 + 3.0 * m.var_d / 8)
    return mean, first**2 * (m.var_n + m.var_d / 4 - m.cov)


def _first_reaching(sizes: IndexArray, values: FloatArray, delta: float) -> int | None:
    """Return the smallest size whose value reaches delta, or None."""
    reaching = sizes[values >= delta - ROUNDING]
    return int(reaching.min()) if reaching.size else None
