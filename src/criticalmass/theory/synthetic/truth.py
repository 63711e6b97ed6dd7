"""Expected curves and critical mass of a population, as measured with infinite data."""

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
# A neuron is a copy if others explain its noise up to this relative error.
_COPY = 1e-9
_ORDERS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Expected:
    """Mean over the subsets of every size and its standard error, each (n_neurons,).

    The error is 0 where the mean is known in closed form, or if there is one subset per size.
    """

    mean: FloatArray
    error: FloatArray


def prefix_accuracy(population: Population, orders: npt.ArrayLike) -> FloatArray:
    """Return the best accuracy on every prefix of orders.

    The squared distance of the classes on a prefix is a sum over its neurons. The term of a neuron
    is its mean difference minus the part predicted from the neurons before it, divided by its
    unexplained noise (the diagonal of a Cholesky factor, which is 0 for a copy).

    Parameters
    ----------
    population: of n_neurons.
    orders: (n_orders, n_neurons) permutations, or a single one.

    Returns
    -------
    (n_orders, n_neurons), or (n_neurons,) for one order.
    """
    index = np.asarray(orders, dtype=np.intp)
    batch = np.atleast_2d(index)
    starts = range(0, len(batch), _ORDERS_AT_ONCE)
    parts = [_squared_distance(population, batch[a : a + _ORDERS_AT_ONCE]) for a in starts]
    accuracy = best_accuracy(np.sqrt(np.concatenate(parts)))
    return accuracy if index.ndim == 2 else accuracy[0]


def expected(
    population: Population,
    *,
    measure: str = "accuracy",
    selector: str = "random",
    n_orders: int = 1000,
    seed: int = 0,
) -> Expected:
    """Return the mean over the subsets of every size, for infinite training and test sets.

    Parameters
    ----------
    population: the population.
    measure: "accuracy" (of the best probe) or "cka" (linear, with the whole layer).
    selector: "random" or "first".
    n_orders: number of orders over which "random" is averaged if there is no closed form.
    seed: of these orders.

    Raises
    ------
    CriticalMassError: for another measure or selector.
    """
    if measure not in MEASURES:
        raise unknown_name("measure with a known truth", measure, MEASURES)
    if selector not in SELECTORS:
        raise unknown_name("selector with a known truth", selector, SELECTORS)
    if measure == "accuracy" and selector in population.exact:
        mean = population.exact[selector]
        return Expected(mean, np.zeros_like(mean))
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
    """Return the fewest neurons at which the expected value reaches ``delta`` of the full value.

    Every size is considered, not only those of a grid. Parameters are those of `expected`.

    Raises
    ------
    CriticalMassError: for a delta outside (0, 1], or as `expected`.
    """
    check_delta(delta)
    curve = expected(
        population, measure=measure, selector=selector, n_orders=n_orders, seed=seed
    ).mean
    # The tolerance covers the rounding of a curve that has reached its final value.
    return int(np.argmax(reaches(curve + 1e-9, curve[-1:], delta)) + 1)


def _values(population: Population, measure: str, orders: IndexArray) -> FloatArray:
    """Return the values of a measure on every prefix, (n_orders, n_neurons)."""
    if measure == "accuracy":
        return prefix_accuracy(population, orders)
    covariance = population.covariance
    return np.stack([prefix_cka(covariance, order) for order in orders])


def _orders(n_neurons: int, selector: str, n_orders: int, seed: int) -> IndexArray:
    """Return orders of a selector, (n_orders, n_neurons); ``first`` has only one."""
    if selector == "first":
        return np.arange(n_neurons, dtype=np.intp)[None]
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_neurons) for _ in range(n_orders)]).astype(np.intp)


def _squared_distance(population: Population, orders: IndexArray) -> FloatArray:
    """Return squared Mahalanobis distances of the classes on every prefix, (n_orders, n_neurons).

    Gram-Schmidt over the loadings of the neurons, for all orders at once.
    """
    rows = population.loadings[orders]
    shift = (population.means[1] - population.means[0])[orders]
    n, d, n_factors = rows.shape
    basis = np.zeros((n, d, n_factors))
    coordinates = np.zeros((n, d))
    for k in range(d):
        residual, predicted = rows[:, k].copy(), np.zeros(n)
        # Twice is enough (Kahan, in Parlett 1980): the second pass removes the rounding errors.
        for _ in range(2):
            weights = np.einsum("nkf,nf->nk", basis[:, :k], residual)
            residual -= np.einsum("nk,nkf->nf", weights, basis[:, :k])
            predicted += np.einsum("nk,nk->n", weights, coordinates[:, :k])
        scale = np.linalg.norm(rows[:, k], axis=1)
        norm = np.linalg.norm(residual, axis=1)
        is_new = norm > _COPY * scale
        unexplained = shift[:, k] - predicted
        # A difference without noise separates the classes perfectly.
        is_perfect = np.abs(unexplained) > _COPY * np.abs(shift).max()
        divisor = np.where(is_new, norm, 1.0)
        coordinates[:, k] = np.where(
            is_new, unexplained / divisor, np.where(is_perfect, np.inf, 0.0)
        )
        basis[:, k] = np.where(is_new[:, None], residual / divisor[:, None], 0.0)
    return np.cumsum(coordinates**2, axis=1)
