"""The diffuseness test: whether a layer's neurons are exchangeable.

Neurons can differ by their position in the order (Matryoshka layers) and by their properties
(sparse, duplicated or dominant neurons). Each has its own null hypothesis, sampled by Monte
Carlo. Interpretation and error rates: docs/theory.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.errors import CriticalMassError
from criticalmass.theory.cka_moments import pair_sums
from criticalmass.theory.spectrum import as_second_moment, correlation

#: Neurons whose pairs are compared, and neurons whose order is: enough for power, few enough for
#: a run time of seconds. A random sample of exchangeable neurons is exchangeable, so both nulls
#: stay exact.
MOST_NEURONS, MOST_IN_ORDER = 256, 1024
FEWEST_NEURONS = 8
#: Steps of the fixed-point iteration that reverses the standardising, and layers sampled in each.
CORRECTIONS, LAYERS_PER_CORRECTION = 8, 8
#: Number of prefix lengths compared, spaced geometrically.
N_SIZES = 8


@dataclass(frozen=True)
class NeuronProperty:
    """One property of the layer, compared with exchangeable neurons.

    Attributes
    ----------
    name: name of the property.
    observed: its value in the layer.
    expected: its mean under the null.
    deviation: observed minus expected value in standard deviations of the null.
    """

    name: str
    observed: float
    expected: float
    deviation: float


@dataclass(frozen=True)
class Exchangeability:
    """Result of the diffuseness test.

    Attributes
    ----------
    order_p: share of random orders that deviate at least as much as the layer's own order.
    structure_p: share of layers of random mixtures of the principal components whose neurons are
        at least as unequal as the layer's.
    p_value: of both together (Holm: twice the smaller one).
    features: the compared properties, each with its deviation.
    n_draws: number of random orders, and of random layers, behind each p-value.
    n_compared: number of neurons whose pairs were compared.
    """

    order_p: float
    structure_p: float
    p_value: float
    features: tuple[NeuronProperty, ...]
    n_draws: int
    n_compared: int

    def is_diffuse(self, *, level: float = 0.05) -> bool:
        """Whether exchangeable neurons are not rejected at this level."""
        return self.p_value > level


@validate_arguments
def exchangeability_test(
    second_moment: npt.ArrayLike, *, standardise: bool = True, n_draws: int = 199, seed: int = 0
) -> Exchangeability:
    """Test whether a layer's neurons are exchangeable, in order and in structure.

    Order: the CKA of the layer's prefixes is compared with that of random orders (an exact
    permutation test). Structure: neurons are compared with random rotations of the layer's
    principal components.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale; constant neurons
        are left out.
    standardise: compare standardised neurons. If False, unequal variances count as structure,
        and the null (C is orthogonally invariant given its eigenvalues) is exact as well.
    n_draws: number of random orders and of random layers; the smallest p-value is
        2 / (n_draws + 1).
    seed: of all draws.

    Returns
    -------
    The p-values and the compared properties. A small p-value means that the layer is not diffuse.

    Raises
    ------
    CriticalMassError: if the matrix is not a second moment or has fewer than 8 neurons that vary,
        or for fewer than 19 draws.
    """
    if n_draws < 19:
        raise CriticalMassError(f"n_draws={n_draws} cannot reach p = 0.1; give at least 19")
    c = correlation(second_moment) if standardise else as_second_moment(second_moment)
    varying = np.flatnonzero(np.diagonal(c) > 0.0)
    if varying.size < FEWEST_NEURONS:
        raise CriticalMassError(
            f"{varying.size} neurons vary; the test needs at least {FEWEST_NEURONS}"
        )
    if varying.size < c.shape[0]:
        c = np.ascontiguousarray(c[np.ix_(varying, varying)])
    order_rng, structure_rng = np.random.default_rng(seed).spawn(2)
    index = np.sort(order_rng.permutation(varying.size)[:MOST_IN_ORDER])
    block = np.ascontiguousarray(c[np.ix_(index, index)])
    order_p, order_feature = _order_test(block, n_draws, order_rng)
    index = np.sort(structure_rng.permutation(varying.size)[:MOST_NEURONS])
    block = np.ascontiguousarray(c[np.ix_(index, index)])
    structure_p, features = _structure_test(block, standardise, n_draws, structure_rng)
    return Exchangeability(
        order_p=order_p,
        structure_p=structure_p,
        p_value=min(1.0, 2.0 * min(order_p, structure_p)),
        features=(order_feature, *features),
        n_draws=n_draws,
        n_compared=int(index.size),
    )


def _order_test(
    c: FloatArray, n_draws: int, rng: np.random.Generator
) -> tuple[float, NeuronProperty]:
    """Permutation test of the order of the neurons."""
    d = c.shape[0]
    last = np.unique(np.geomspace(max(2, d // 100), 0.75 * d, N_SIZES).astype(np.intp)) - 1
    orders = np.stack([np.arange(d), *(rng.permutation(d) for _ in range(n_draws))])
    values = _prefix_cka(c, orders, last)
    # Centre and scale are computed over all orders, including the layer's own. Under the null the
    # rows are exchangeable, and so are the statistics; this makes the p-value exact.
    spread = values.std(axis=0)
    z = (values - values.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    middle = last.size // 2
    feature = NeuronProperty(
        name=f"CKA of the prefix of {last[middle] + 1} neurons",
        observed=float(values[0, middle]),
        expected=float(values[1:, middle].mean()),
        deviation=float(z[0].mean() / max(float(z.mean(axis=1).std()), 1e-300)),
    )
    return _rank_p((z**2).sum(axis=1)), feature


def _structure_test(
    block: FloatArray, standardise: bool, n_draws: int, rng: np.random.Generator
) -> tuple[float, tuple[NeuronProperty, ...]]:
    """Monte Carlo test of the neurons against random rotations with the same spectrum."""
    eigenvalues = np.maximum(np.linalg.eigvalsh(block), 0.0)
    if standardise:
        eigenvalues = _unstandardised_spectrum(eigenvalues, rng)
    layers = [_log_properties(block, standardise)]
    for _ in range(n_draws):
        mixture = _random_mixture(eigenvalues, standardise, rng)
        layers.append(_log_properties(mixture, standardise))
    names = tuple(layers[0])
    values = np.array([[properties[name] for name in names] for properties in layers])
    # As for the order, centre and scale are computed over all layers, including the observed one.
    # One-sided: structure makes neurons more unequal than random mixtures.
    z = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
    null = values[1:]
    features = tuple(
        NeuronProperty(
            name,
            float(np.exp(values[0, i])),
            float(np.exp(null[:, i].mean())),
            float((values[0, i] - null[:, i].mean()) / max(float(null[:, i].std()), 1e-12)),
        )
        for i, name in enumerate(names)
    )
    return _rank_p(z.max(axis=1)), features


def _random_mixture(
    eigenvalues: FloatArray, standardise: bool, rng: np.random.Generator
) -> FloatArray:
    """Return the second moment Q diag(eigenvalues) Q' of random mixtures, Q uniform."""
    m = eigenvalues.size
    q, _ = np.linalg.qr(rng.standard_normal((m, m)))
    block = q @ (q * eigenvalues).T
    block = np.asarray((block + block.T) / 2, dtype=np.float64)
    return correlation(block) if standardise else block


def _unstandardised_spectrum(eigenvalues: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the spectrum whose random mixtures have ``eigenvalues`` after standardising.

    Standardising flattens a spectrum, so using the layer's own would flatten it twice. The fixed
    point is found by multiplication: each step divides by the spectrum after rotating and
    standardising.
    """
    before = eigenvalues.copy()
    for _ in range(CORRECTIONS):
        after = np.mean(
            [
                np.linalg.eigvalsh(_random_mixture(before, True, rng))
                for _ in range(LAYERS_PER_CORRECTION)
            ],
            axis=0,
        )
        before = np.sort(before * eigenvalues / np.maximum(after, 1e-12))
        before *= eigenvalues.sum() / before.sum()
    return before


def _log_properties(block: FloatArray, standardise: bool) -> dict[str, float]:
    """Return logarithms of the inequality of neurons: the terms of the variance in law 1."""
    sums = pair_sums(block * block)
    m = sums.n_neurons
    off = sums.rows - sums.diagonal
    # Shared variance below this is rounding; uncorrelated neurons are not unequal.
    level = max(float(off.sum()) / (m * (m - 1)), 1e-12 * sums.diagonal_total / m)
    strongest = float(np.max(block * block - np.diag(sums.diagonal)))
    properties = {
        "variation between neurons' shared variance": np.log(
            max(float(np.var(off)) / (level * (m - 1)) ** 2, 1e-30)
        ),
        "variation between pairs of neurons": np.log(
            max(sums.pairs / (m * (m - 1)) / level**2, 1e-30)
        ),
        "strongest pair over the mean pair": np.log(max(strongest / level, 1e-30)),
    }
    if not standardise:
        variances = np.sqrt(sums.diagonal)
        properties["variation between variances"] = np.log(
            max(float(np.var(variances) / np.mean(variances) ** 2), 1e-30)
        )
    return {name: float(value) for name, value in properties.items()}


def _prefix_cka(c: FloatArray, orders: IndexArray, last: IndexArray) -> FloatArray:
    """Return CKA of prefixes of orders, (n_orders, n_sizes), with 64 orders per pass over C.

    ``last``: (n_sizes,) prefix lengths minus 1.
    """
    from criticalmass.measures.similarity.cka_kernels import prefix_terms

    values = np.empty((len(orders), last.size))
    for start in range(0, len(orders), 64):
        batch = orders[start : start + 64]
        # The inverse of a permutation is the position of every neuron in the order.
        ranks = np.argsort(batch, axis=1).astype(np.float64)
        row_sums, increments = prefix_terms(c, ranks, 1.0)
        for i, order in enumerate(batch):
            within = np.cumsum(increments[i][order])[last]
            outer = np.cumsum(row_sums[order])[last]
            values[start + i] = outer / np.sqrt(within * row_sums.sum())
    return values


def _rank_p(statistics: FloatArray) -> float:
    """Return the share of draws at least as extreme as the first, which is included."""
    return float(np.mean(statistics >= statistics[0] * (1.0 - 1e-12)))
