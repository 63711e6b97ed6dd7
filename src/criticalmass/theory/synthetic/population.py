"""Populations of two Gaussian classes whose redundancy is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray
from criticalmass.errors import CriticalMassError


@dataclass(frozen=True, eq=False)
class Population:
    """Two Gaussian classes with the same covariance, from which representations are drawn.

    Attributes
    ----------
    name: of the construction.
    means: (2, n_neurons) class means.
    loadings: (n_neurons, n_factors) x = means[y] + loadings @ z, z standard normal.
    exact: selector -> (n_neurons,) best accuracy at every size, averaged over its subsets, for
        selectors with a closed form.
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
        """(n_neurons, n_neurons) covariance of both classes together, which determines CKA."""
        half = 0.5 * (self.means[1] - self.means[0])
        return np.asarray(self.loadings @ self.loadings.T + np.outer(half, half))


def best_accuracy(distance: npt.ArrayLike) -> FloatArray:
    """Return the accuracy of the best rule for two classes at a Mahalanobis distance, Phi(D/2)."""
    from scipy.special import ndtr

    return np.asarray(ndtr(0.5 * np.asarray(distance, dtype=np.float64)))


def diffuse(
    n_neurons: int = 64,
    n_factors: int = 8,
    *,
    noise: float = 0.0,
    separation: float = 3.0,
    seed: int = 0,
) -> Population:
    """Latent factors spread over all neurons by a random rotation.

    Without noise any ``n_factors`` neurons carry all information of the layer: the critical mass
    of accuracy is at most ``n_factors``, and equal to it at delta = 1.

    Parameters
    ----------
    n_neurons: width of the layer.
    n_factors: latent dimensions, at most ``n_neurons``; each carries the same share of the
        difference between the classes.
    noise: standard deviation of each neuron's independent noise; that of its combination of the
        factors is about 1.
    separation: Mahalanobis distance of the classes in the factors.
    seed: of the rotation.

    Raises
    ------
    CriticalMassError: for an invalid count, noise or separation.
    """
    _check(n_neurons, separation, n_factors=n_factors)
    if not noise >= 0.0:
        raise CriticalMassError(f"noise={noise} but a standard deviation must be 0 or more")
    if n_factors > n_neurons:
        raise CriticalMassError(
            f"n_factors={n_factors} but {n_neurons} neurons; ask for at most {n_neurons} factors"
        )
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((n_neurons, n_factors)))
    spread = np.asarray(axes) * np.sqrt(n_neurons / n_factors)
    shift = spread @ np.full(n_factors, separation / np.sqrt(n_factors))
    noise_loadings = noise * np.eye(n_neurons) if noise > 0.0 else np.empty((n_neurons, 0))
    return Population("diffuse", _class_means(shift), np.hstack([spread, noise_loadings]))


def duplicated(n_sources: int = 8, n_copies: int = 8, *, separation: float = 3.0) -> Population:
    """Independent sources, each copied into a block of neurons.

    A subset contains as many sources as different blocks; each source carries the same share of
    the difference between the classes. The number of blocks in a random subset follows the
    classical occupancy distribution, so the expected accuracy is known exactly.

    Parameters
    ----------
    n_sources: number of blocks.
    n_copies: neurons per block, exact copies of each other.
    separation: Mahalanobis distance of the classes.

    Raises
    ------
    CriticalMassError: for an invalid count or separation.
    """
    n_neurons = n_sources * n_copies
    _check(n_neurons, separation, n_sources=n_sources, n_copies=n_copies)
    loadings = np.repeat(np.eye(n_sources), n_copies, axis=0)
    shift = np.full(n_neurons, separation / np.sqrt(n_sources))
    blocks = np.arange(1, n_sources + 1)
    accuracy = best_accuracy(separation * np.sqrt(blocks / n_sources))
    exact = np.array(
        [_block_distribution(n_sources, n_copies, k) @ accuracy for k in _sizes(n_neurons)]
    )
    return Population("duplicated", _class_means(shift), loadings, {"random": exact})


def needle(n_neurons: int = 64, *, at: int = 0, separation: float = 3.0) -> Population:
    """One informative neuron among neurons of independent noise with the same variance.

    A random subset of k neurons contains it with probability k / n_neurons, so the expected
    accuracy rises linearly with k: there is no redundancy.

    Parameters
    ----------
    n_neurons: width of the layer.
    at: index of the informative neuron.
    separation: Mahalanobis distance of the classes.

    Raises
    ------
    CriticalMassError: for an invalid width, index or separation.
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
    return Population("needle", _class_means(shift), np.eye(n_neurons), exact)


def nested(n_neurons: int = 64, *, decay: float = 0.9, separation: float = 3.0) -> Population:
    """Information concentrated in the first neurons, as after Matryoshka training.

    Neuron j carries the share decay^j (normalised) of the squared distance of the classes and of
    the variance; neurons are independent. The selector ``first`` needs few neurons, ``random``
    needs more.

    Parameters
    ----------
    n_neurons: width of the layer.
    decay: factor of the information from a neuron to the next, in (0, 1].
    separation: Mahalanobis distance of the classes.

    Raises
    ------
    CriticalMassError: for an invalid width, decay or separation.
    """
    _check(n_neurons, separation)
    if not 0.0 < decay <= 1.0:
        raise CriticalMassError(f"decay={decay} is outside (0, 1]")
    weight = decay ** np.arange(n_neurons)
    share = weight / weight.sum()
    scale = np.sqrt(weight)
    exact = best_accuracy(separation * np.sqrt(np.cumsum(share)))
    shift = scale * separation * np.sqrt(share)
    return Population("nested", _class_means(shift), np.diag(scale), {"first": exact})


def _class_means(shift: FloatArray) -> FloatArray:
    """Return (2, n_neurons) class means that differ by ``shift`` and are centred on 0."""
    return np.stack([-0.5 * shift, 0.5 * shift])


def _sizes(n_neurons: int) -> IndexArray:
    return np.arange(1, n_neurons + 1)


def _block_distribution(n_blocks: int, n_copies: int, n_kept: int) -> FloatArray:
    """Return the probabilities that n_kept neurons are of 1, 2, ... blocks, (n_blocks,).

    By inclusion and exclusion over the absent blocks, in integers.
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
    """Check the parameters that all populations have."""
    for name, value in {"n_neurons": n_neurons, **counts}.items():
        if value < 1:
            raise CriticalMassError(f"{name}={value} but it must be at least 1")
    if not (np.isfinite(separation) and separation > 0.0):
        raise CriticalMassError(
            f"separation={separation} but it must be finite and above 0; 3 gives an accuracy of "
            "0.93"
        )
