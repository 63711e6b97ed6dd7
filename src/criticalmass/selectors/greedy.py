"""Greedy orders by CKA with the whole layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import IndexArray
from criticalmass.errors import CriticalMassError
from criticalmass.selectors.inputs import Evidence


def greedy_cka(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Take the neuron that brings the kept ones nearest to the whole layer."""
    return greedy_order(seen.moments.scatter)


def greedy_cka_worst(seen: Evidence, rng: np.random.Generator) -> IndexArray:
    """Take the neuron that leaves the kept ones farthest from the whole layer."""
    return greedy_order(seen.moments.scatter, worst=True)


def greedy_order(second_moment: npt.ArrayLike, *, worst: bool = False) -> IndexArray:
    """Order of neurons in which each prefix is its predecessor and the best neuron to add.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    worst: take the neuron that keeps linear CKA lowest instead of highest.

    Returns
    -------
    (n_neurons,) permutation; scores within 1e-12 of the best are ties, which go to the lowest
    position. A set of constant neurons has CKA 0.

    Raises
    ------
    CriticalMassError: if the matrix is not square or not finite.
    """
    from criticalmass.selectors.greedy_kernels import greedy

    c = np.ascontiguousarray(second_moment, dtype=np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or c.size == 0:
        raise CriticalMassError(
            f"a second moment is square, (n_neurons, n_neurons); got shape {c.shape}"
        )
    if not np.isfinite(c).all():
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    # The largest entry of a positive semi-definite matrix lies on its diagonal; fourth powers
    # of features could otherwise leave the range of float64.
    largest = float(np.max(np.diagonal(c)))
    return np.asarray(greedy(c, 1.0 / largest if largest > 0.0 else 1.0, worst), dtype=np.intp)
