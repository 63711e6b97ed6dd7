"""The diffuseness test: whether a layer's neurons are exchangeable.

Two things can set neurons apart: the order in which they stand (Matryoshka layers), and what
each of them is (sparse, duplicated or dominant neurons). Each has its own null, drawn here by
Monte Carlo. What they mean and how often they err: docs/theory.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.errors import CriticalMassError
from criticalmass.theory.cka_moments import pair_sums
from criticalmass.theory.spectrum import as_second_moment, correlation

#: Neurons whose pairs are looked at, and whose order is: enough to see, few enough for seconds.
#: Neurons drawn at random from exchangeable ones are exchangeable, so both nulls stay exact.
MOST_NEURONS, MOST_IN_ORDER = 256, 1024
FEWEST_NEURONS = 8
#: Steps of the fixed point that undoes the standardising, and layers drawn in each.
CORRECTIONS, LAYERS_PER_CORRECTION = 8, 8
#: Prefix lengths compared, at equal ratios.
N_SIZES = 8


@dataclass(frozen=True)
class Feature:
    """One property of the layer beside what exchangeable neurons would have.

    Attributes
    ----------
    name: what is compared.
    observed: its value in the layer.
    expected: its mean under the null.
    deviation: how many standard deviations of the null lie between the two.
    """

    name: str
    observed: float
    expected: float
    deviation: float


@dataclass(frozen=True)
class Exchangeability:
    """Outcome of the diffuseness test.

    Attributes
    ----------
    order_p: how often an order drawn at random strays as far as the layer's own order.
    structure_p: how often neurons that are random mixtures of the layer's principal
        components are as unequal as these.
    p_value: of both together (Holm: twice the smaller one).
    features: the properties compared, each with its deviation.
    n_draws: random orders, and random layers, behind each p-value.
    n_compared: neurons whose pairs were looked at.
    """

    order_p: float
    structure_p: float
    p_value: float
    features: tuple[Feature, ...]
    n_draws: int
    n_compared: int

    def is_diffuse(self, *, level: float = 0.05) -> bool:
        """Whether nothing contradicts exchangeable neurons at this level."""
        return self.p_value > level


@checked
def exchangeability_test(
    second_moment: npt.ArrayLike, *, standardise: bool = True, n_draws: int = 199, seed: int = 0
) -> Exchangeability:
    """Test whether a layer's neurons are exchangeable, in order and in kind.

    Order: the CKA of the layer's prefixes against those of random orders (a permutation test,
    exact). Structure: neurons against random rotations of the layer's principal components.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale, constant neurons
        allowed; they are left out.
    standardise: compare standardised neurons. If False, unequal variances count as structure,
        and the null (C is orthogonally invariant given its eigenvalues) is exact too.
    n_draws: random orders and random layers; the smallest p-value is 2 / (n_draws + 1).
    seed: of all draws.

    Returns
    -------
    The p-values and what they rest on. The smaller, the less diffuse.

    Raises
    ------
    CriticalMassError: if the matrix is not a second moment, has fewer than 8 neurons that vary,
        or for fewer than 19 draws.
    """
    if n_draws < 19:
        raise CriticalMassError(f"n_draws={n_draws} cannot reach p = 0.1; draw at least 19")
    c = correlation(second_moment) if standardise else as_second_moment(second_moment)
    live = np.flatnonzero(np.diagonal(c) > 0.0)
    if live.size < FEWEST_NEURONS:
        raise CriticalMassError(
            f"{live.size} neurons vary; the test compares at least {FEWEST_NEURONS}"
        )
    if live.size < c.shape[0]:
        c = np.ascontiguousarray(c[np.ix_(live, live)])
    order_rng, structure_rng = np.random.default_rng(seed).spawn(2)
    placed = np.sort(order_rng.permutation(live.size)[:MOST_IN_ORDER])
    placed_block = np.ascontiguousarray(c[np.ix_(placed, placed)])
    order_p, order_feature = _order_test(placed_block, n_draws, order_rng)
    kept = np.sort(structure_rng.permutation(live.size)[:MOST_NEURONS])
    block = np.ascontiguousarray(c[np.ix_(kept, kept)])
    structure_p, features = _structure_test(block, standardise, n_draws, structure_rng)
    return Exchangeability(
        order_p=order_p,
        structure_p=structure_p,
        p_value=min(1.0, 2.0 * min(order_p, structure_p)),
        features=(order_feature, *features),
        n_draws=n_draws,
        n_compared=int(kept.size),
    )


def _order_test(c: FloatArray, n_draws: int, rng: np.random.Generator) -> tuple[float, Feature]:
    """Permutation test of the order in which the neurons stand."""
    d = c.shape[0]
    at = np.unique(np.geomspace(max(2, d // 100), 0.75 * d, N_SIZES).astype(np.intp)) - 1
    orders = np.stack([np.arange(d), *(rng.permutation(d) for _ in range(n_draws))])
    values = _prefix_values(c, orders, at)
    # Centre and scale come from all orders, the layer's own among them: under the null the rows
    # are exchangeable, and so are the statistics. That is what makes the p-value exact.
    spread = values.std(axis=0)
    z = (values - values.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    middle = at.size // 2
    feature = Feature(
        name=f"CKA of the prefix of {at[middle] + 1} neurons",
        observed=float(values[0, middle]),
        expected=float(values[1:, middle].mean()),
        deviation=float(z[0].mean() / max(float(z.mean(axis=1).std()), 1e-300)),
    )
    return _rank_p((z**2).sum(axis=1)), feature


def _structure_test(
    block: FloatArray, standardise: bool, n_draws: int, rng: np.random.Generator
) -> tuple[float, tuple[Feature, ...]]:
    """Monte Carlo test of the neurons against random rotations of their own spectrum."""
    eigenvalues = np.maximum(np.linalg.eigvalsh(block), 0.0)
    if standardise:
        eigenvalues = _before_standardising(eigenvalues, rng)
    found = [_traits(block, standardise)]
    found += [_traits(_rotated(eigenvalues, standardise, rng), standardise) for _ in range(n_draws)]
    names = tuple(found[0])
    values = np.array([[traits[name] for name in names] for traits in found])
    # As for the order: centred and scaled by all layers alike, the observed one among them.
    # One-sided: structure makes neurons more unequal than random mixtures are.
    z = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
    null = values[1:]
    features = tuple(
        Feature(
            name,
            float(np.exp(values[0, i])),
            float(np.exp(null[:, i].mean())),
            float((values[0, i] - null[:, i].mean()) / max(float(null[:, i].std()), 1e-12)),
        )
        for i, name in enumerate(names)
    )
    return _rank_p(z.max(axis=1)), features


def _rotated(eigenvalues: FloatArray, standardise: bool, rng: np.random.Generator) -> FloatArray:
    """Second moment Q diag(eigenvalues) Q' of neurons that are random mixtures, Q uniform."""
    m = eigenvalues.size
    q, _ = np.linalg.qr(rng.standard_normal((m, m)))
    block = q @ (q * eigenvalues).T
    block = np.asarray((block + block.T) / 2, dtype=np.float64)
    return correlation(block) if standardise else block


def _before_standardising(eigenvalues: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Spectrum whose random mixtures have ``eigenvalues`` once they are standardised.

    Standardising flattens a spectrum, so the layer's own would be flattened twice. Fixed point
    by multiplication: each step divides by what rotating and standardising made of it.
    """
    before = eigenvalues.copy()
    for _ in range(CORRECTIONS):
        after = np.mean(
            [np.linalg.eigvalsh(_rotated(before, True, rng)) for _ in range(LAYERS_PER_CORRECTION)],
            axis=0,
        )
        before = np.sort(before * eigenvalues / np.maximum(after, 1e-12))
        before *= eigenvalues.sum() / before.sum()
    return before


def _traits(block: FloatArray, standardise: bool) -> dict[str, float]:
    """Logarithms of what makes neurons unequal: the parts of the scatter over subsets in law 1."""
    sums = pair_sums(block * block)
    m = sums.n_neurons
    off = sums.rows - sums.diagonal
    # Below this, what neurons share is rounding; uncorrelated neurons are not unequal.
    level = max(float(off.sum()) / (m * (m - 1)), 1e-12 * sums.diagonal_total / m)
    strongest = float(np.max(block * block - np.diag(sums.diagonal)))
    traits = {
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
        traits["variation between variances"] = np.log(
            max(float(np.var(variances) / np.mean(variances) ** 2), 1e-30)
        )
    return {name: float(value) for name, value in traits.items()}


def _prefix_values(c: FloatArray, orders: IndexArray, at: IndexArray) -> FloatArray:
    """(n_orders, n_sizes) CKA of the prefixes of orders, many orders in a pass over C."""
    from criticalmass.measures.similarity.cka_kernels import prefix_terms

    values = np.empty((len(orders), at.size))
    for start in range(0, len(orders), 64):
        batch = orders[start : start + 64]
        # The inverse of a permutation: the position of every neuron in the order.
        rows, added = prefix_terms(c, np.argsort(batch, axis=1).astype(np.float64), 1.0)
        for i, order in enumerate(batch):
            within = np.cumsum(added[i][order])[at]
            values[start + i] = np.cumsum(rows[order])[at] / np.sqrt(within * rows.sum())
    return values


def _rank_p(statistics: FloatArray) -> float:
    """Share of draws at least as extreme as the first, itself among them."""
    return float(np.mean(statistics >= statistics[0] * (1.0 - 1e-12)))
