"""Greedy orders by CKA with the whole layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import IndexArray
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.checks import check_square
from criticalmass.selectors.inputs import SelectorInput


def greedy_cka(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """At each step take the neuron that makes CKA with the whole layer highest."""
    return greedy_order(layer.moments.scatter)


def greedy_cka_worst(layer: SelectorInput, rng: np.random.Generator) -> IndexArray:
    """At each step take the neuron that keeps CKA with the whole layer lowest."""
    return greedy_order(layer.moments.scatter, worst=True)


def greedy_order(second_moment: npt.ArrayLike, *, worst: bool = False) -> IndexArray:
    """Return the greedy order: each prefix is the one before it and the best neuron to add.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.
    worst: take the neuron that keeps linear CKA lowest instead of highest.

    Returns
    -------
    (n_neurons,) permutation. Scores within a relative 1e-12 of the best are ties, which go to
    the lowest position. A set of constant neurons has CKA 0.

    Raises
    ------
    CriticalMassError: if the matrix is not square or not finite.
    """
    from criticalmass.selectors.greedy_kernels import greedy

    c = check_square(second_moment)
    if not np.isfinite(c).all():
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    # Scaled to a largest entry of 1, which lies on the diagonal of a positive semi-definite
    # matrix; fourth powers of features could otherwise overflow float64.
    largest = float(np.max(np.diagonal(c)))
    return np.asarray(greedy(c, 1.0 / largest if largest > 0.0 else 1.0, worst), dtype=np.intp)
