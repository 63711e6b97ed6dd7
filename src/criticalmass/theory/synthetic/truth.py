"""What a measurement with infinite data would find: expected curves and the critical mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.estimators import check_delta, reaches
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.errors import unknown_name
from criticalmass.measures.similarity.cka import prefix_cka
from criticalmass.theory.synthetic.population import Population, best_accuracy

MEASURES = ("accuracy", "cka")
SELECTORS = ("random", "first")
# Neurons whose noise is explained by others to this relative error are taken to be copies.
_COPY = 1e-9
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Expected:
    """Mean over subsets of every size: ``mean`` and its standard ``error``, (n_neurons,).

    The error is 0 where the mean is known in closed form or there is but one subset a size.
    """

    mean: FloatArray
    error: FloatArray


def prefix_accuracy(population: Population, orders: npt.ArrayLike) -> FloatArray:
    """Best accuracy on every prefix of some orders.

    The distance of the classes on a prefix adds up neuron by neuron: what a neuron's mean
    difference says beyond the neurons before it, over the noise that they do not explain
    (the diagonal of a Cholesky factor, which copies leave at 0).

    Parameters
    ----------
    population: of n_neurons.
    orders: (n_orders, n_neurons) permutations, or one.

    Returns
    -------
    (n_orders, n_neurons), or (n_neurons,) for one order.
    """
    index = np.asarray(orders, dtype=np.intp)
    batch = np.atleast_2d(index)
    parts = [
        _squared_distance(population, batch[a : a + _BATCH]) for a in range(0, len(batch), _BATCH)
    ]
    found = best_accuracy(np.sqrt(np.concatenate(parts)))
    return found if index.ndim == 2 else found[0]


def expected(
    population: Population,
    *,
    measure: str = "accuracy",
    selector: str = "random",
    n_orders: int = 1000,
    seed: int = 0,
) -> Expected:
    """Mean over the subsets of every size, with infinite training and test sets.

    Parameters
    ----------
    population: the truth.
    measure: "accuracy" (of the best probe) or "cka" (linear, with the whole layer).
    selector: "random" or "first".
    n_orders: orders over which "random" is averaged where there is no closed form.
    seed: of these orders.

    Raises
    ------
    CriticalMassError: for a measure or selector that has no known truth.
    """
    if measure not in MEASURES:
        raise unknown_name("measure with a known truth", measure, MEASURES)
    if selector not in SELECTORS:
        raise unknown_name("selector with a known truth", selector, SELECTORS)
    if measure == "accuracy" and selector in population.exact:
        known = population.exact[selector]
        return Expected(known, np.zeros_like(known))
    values = _values(population, measure, _orders(population.n_neurons, selector, n_orders, seed))
    n = len(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(values.shape[1])
    return Expected(values.mean(axis=0), error)


def critical_mass(
    population: Population,
    delta: float,
    *,
    measure: str = "accuracy",
    selector: str = "random",
    n_orders: int = 1000,
    seed: int = 0,
) -> int:
    """Fewest neurons at which the expected value reaches ``delta`` of the whole layer's.

    Parameters are those of `expected`; every size counts, not only those of a grid.

    Raises
    ------
    CriticalMassError: for a delta outside (0, 1], or as `expected`.
    """
    check_delta(delta)
    curve = expected(
        population, measure=measure, selector=selector, n_orders=n_orders, seed=seed
    ).mean
    # The sums behind a curve that has reached its end differ by rounding alone.
    return int(np.argmax(reaches(curve + 1e-9, curve[-1:], delta)) + 1)


def _values(population: Population, measure: str, orders: IndexArray) -> FloatArray:
    """(n_orders, n_neurons) of a measure on every prefix."""
    if measure == "accuracy":
        return prefix_accuracy(population, orders)
    covariance = population.covariance
    return np.stack([prefix_cka(covariance, order) for order in orders])


def _orders(n_neurons: int, selector: str, n_orders: int, seed: int) -> IndexArray:
    """(n, n_neurons) orders of a selector; ``first`` has but one."""
    if selector == "first":
        return np.arange(n_neurons, dtype=np.intp)[None]
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_neurons) for _ in range(n_orders)]).astype(np.intp)


def _squared_distance(population: Population, orders: IndexArray) -> FloatArray:
    """(n_orders, n_neurons) squared Mahalanobis distance of the classes on every prefix."""
    rows = population.loadings[orders]
    shift = (population.means[1] - population.means[0])[orders]
    n, d, n_factors = rows.shape
    basis = np.zeros((n, d, n_factors))
    along = np.zeros((n, d))
    for k in range(d):
        left, said = rows[:, k].copy(), np.zeros(n)
        # Twice is enough (Kahan, in Parlett 1980): the second pass removes what rounding left.
        for _ in range(2):
            share = np.einsum("nkf,nf->nk", basis[:, :k], left)
            left -= np.einsum("nk,nkf->nf", share, basis[:, :k])
            said += np.einsum("nk,nk->n", share, along[:, :k])
        scale = np.linalg.norm(rows[:, k], axis=1)
        own = np.linalg.norm(left, axis=1)
        fresh = own > _COPY * scale
        beyond = shift[:, k] - said
        # A difference without noise separates the classes for certain.
        certain = np.where(np.abs(beyond) > _COPY * np.abs(shift).max(), np.inf, 0.0)
        unit = np.where(fresh, own, 1.0)
        along[:, k] = np.where(fresh, beyond / unit, certain)
        basis[:, k] = np.where(fresh[:, None], left / unit[:, None], 0.0)
    return np.cumsum(along**2, axis=1)
