"""A population of two Gaussian classes, and the constructions whose redundancy is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.errors import CriticalMassError


@dataclass(frozen=True, eq=False)
class Population:
    """Two Gaussian classes of one covariance, from which representations are drawn.

    Attributes
    ----------
    name: of the construction.
    means: (2, n_neurons) class means.
    loadings: (n_neurons, n_factors) x = means[y] + loadings @ z, z standard normal.
    exact: selector -> (n_neurons,) best accuracy at every size, the mean over its subsets,
        where it is known in closed form.
    """

    name: str
    means: FloatArray
    loadings: FloatArray
    exact: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return int(self.means.shape[1])

    @property
    def covariance(self) -> FloatArray:
        """(n_neurons, n_neurons) of both classes together, as CKA sees it."""
        half = 0.5 * (self.means[1] - self.means[0])
        return np.asarray(self.loadings @ self.loadings.T + np.outer(half, half))


def best_accuracy(distance: npt.ArrayLike) -> FloatArray:
    """Accuracy of the best rule between two classes at a Mahalanobis distance: Phi(D / 2)."""
    from scipy.stats import norm

    return np.asarray(norm.cdf(0.5 * np.asarray(distance, dtype=np.float64)))


def diffuse(
    n_neurons: int = 64,
    n_factors: int = 8,
    *,
    noise: float = 0.0,
    separation: float = 3.0,
    seed: int = 0,
) -> Population:
    """Latent factors spread over all neurons by a random rotation.

    Without noise any ``n_factors`` neurons carry all that the layer carries: the critical
    mass of accuracy is at most ``n_factors``, and equal to it at delta = 1.

    Parameters
    ----------
    n_neurons: width of the layer.
    n_factors: latent dimensions, at most ``n_neurons``; each carries the same share of the
        difference between the classes.
    noise: standard deviation of each neuron's own noise, where a neuron's share of the
        factors has about 1.
    separation: Mahalanobis distance of the classes in the factors.
    seed: of the rotation.

    Raises
    ------
    CriticalMassError: for counts, noise or a separation that cannot be.
    """
    _check(n_neurons, separation, n_factors=n_factors)
    if not noise >= 0.0:
        raise CriticalMassError(f"noise={noise} but a standard deviation is 0 or more")
    if n_factors > n_neurons:
        raise CriticalMassError(
            f"n_factors={n_factors} but {n_neurons} neurons; ask for at most {n_neurons} factors"
        )
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((n_neurons, n_factors)))
    spread = np.asarray(axes) * np.sqrt(n_neurons / n_factors)
    shift = spread @ np.full(n_factors, separation / np.sqrt(n_factors))
    own = noise * np.eye(n_neurons) if noise > 0.0 else np.empty((n_neurons, 0))
    return Population("diffuse", _around_zero(shift), np.hstack([spread, own]))


def duplicated(n_sources: int = 8, n_copies: int = 8, *, separation: float = 3.0) -> Population:
    """Independent sources, each copied into a block of neurons.

    A subset carries as many sources as it has blocks; each carries the same share of the
    difference between the classes. How many blocks a random subset meets is a
    classical occupancy count, so its expected accuracy is known exactly.

    Parameters
    ----------
    n_sources: number of blocks.
    n_copies: neurons a block, exact copies.
    separation: Mahalanobis distance of the classes.

    Raises
    ------
    CriticalMassError: for counts or a separation that cannot be.
    """
    n_neurons = n_sources * n_copies
    _check(n_neurons, separation, n_sources=n_sources, n_copies=n_copies)
    loadings = np.repeat(np.eye(n_sources), n_copies, axis=0)
    shift = np.full(n_neurons, separation / np.sqrt(n_sources))
    blocks = np.arange(1, n_sources + 1)
    accuracy = best_accuracy(separation * np.sqrt(blocks / n_sources))
    exact = np.array([_blocks_met(n_sources, n_copies, k) @ accuracy for k in _sizes(n_neurons)])
    return Population("duplicated", _around_zero(shift), loadings, {"random": exact})


def needle(n_neurons: int = 64, *, at: int = 0, separation: float = 3.0) -> Population:
    """One informative neuron among independent noise of the same spread.

    A random subset of k neurons holds it with probability k / n_neurons, so the expected
    accuracy rises along a straight line: no redundancy.

    Parameters
    ----------
    n_neurons: width of the layer.
    at: which neuron is informative.
    separation: Mahalanobis distance of the classes.

    Raises
    ------
    CriticalMassError: for a width, place or separation that cannot be.
    """
    _check(n_neurons, separation)
    if not 0 <= at < n_neurons:
        raise CriticalMassError(f"at={at} but neurons are numbered 0..{n_neurons - 1}")
    shift = np.zeros(n_neurons)
    shift[at] = separation
    sizes, best = _sizes(n_neurons), float(best_accuracy(separation))
    exact = {
        "random": 0.5 + (best - 0.5) * sizes / n_neurons,
        "first": np.where(sizes > at, best, 0.5),
    }
    return Population("needle", _around_zero(shift), np.eye(n_neurons), exact)


def nested(n_neurons: int = 64, *, decay: float = 0.9, separation: float = 3.0) -> Population:
    """Information in the prefix, as Matryoshka training orders it.

    Neuron j carries the share decay^j (normalised) of the squared distance of the classes
    and of the variance; neurons are independent. With the selector ``first`` few neurons
    do; random ones need more.

    Parameters
    ----------
    n_neurons: width of the layer.
    decay: of the information from a neuron to the next, in (0, 1].
    separation: Mahalanobis distance of the classes.

    Raises
    ------
    CriticalMassError: for a width, decay or separation that cannot be.
    """
    _check(n_neurons, separation)
    if not 0.0 < decay <= 1.0:
        raise CriticalMassError(f"decay={decay} is outside (0, 1]")
    weight = decay ** np.arange(n_neurons)
    share = weight / weight.sum()
    scale = np.sqrt(weight)
    exact = best_accuracy(separation * np.sqrt(np.cumsum(share)))
    shift = scale * separation * np.sqrt(share)
    return Population("nested", _around_zero(shift), np.diag(scale), {"first": exact})


def _around_zero(shift: FloatArray) -> FloatArray:
    """(2, n_neurons) class means that differ by ``shift``."""
    return np.stack([-0.5 * shift, 0.5 * shift])


def _sizes(n_neurons: int) -> IndexArray:
    return np.arange(1, n_neurons + 1)


def _blocks_met(n_blocks: int, n_copies: int, n_kept: int) -> FloatArray:
    """(n_blocks,) probability that n_kept of the neurons meet exactly 1, 2, ... blocks.

    Inclusion and exclusion over the blocks that are missed, in whole numbers.
    """
    from math import comb

    total = comb(n_blocks * n_copies, n_kept)
    ways = [
        comb(n_blocks, j)
        * sum((-1) ** (j - i) * comb(j, i) * comb(i * n_copies, n_kept) for i in range(j + 1))
        for j in range(1, n_blocks + 1)
    ]
    return np.array([way / total for way in ways])


def _check(n_neurons: int, separation: float, **counts: int) -> None:
    """Refuse what no population has."""
    for name, value in {"n_neurons": n_neurons, **counts}.items():
        if value < 1:
            raise CriticalMassError(f"{name}={value} but there is at least 1")
    if not (np.isfinite(separation) and separation > 0.0):
        raise CriticalMassError(
            f"separation={separation} but classes differ by a distance above 0; 3 gives an "
            "accuracy of 0.93"
        )
