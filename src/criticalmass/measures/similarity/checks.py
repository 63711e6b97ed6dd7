"""Checks of second moments, orders, projections and sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from criticalmass.core.moments import FloatArray, IndexArray, as_index
from criticalmass.errors import CriticalMassError


def check_square(second_moment: npt.ArrayLike) -> FloatArray:
    """Return a second moment as C-contiguous float64 after checking that it is square."""
    c = np.ascontiguousarray(second_moment, dtype=np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or c.size == 0:
        raise CriticalMassError(
            f"a second moment is square, (n_neurons, n_neurons); got shape {c.shape}"
        )
    return c


def check_second_moment(second_moment: npt.ArrayLike) -> tuple[FloatArray, float]:
    """Return the matrix as C-contiguous float64, and the scale that makes its diagonal <= 1."""
    c = check_square(second_moment)
    # The largest entry of a positive semi-definite matrix lies on its diagonal.
    largest = float(np.max(np.diagonal(c)))
    if not np.isfinite(largest):
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    if largest <= 0.0:
        raise CriticalMassError(
            "every neuron is constant, so CKA is not defined; take a layer that varies"
        )
    return c, 1.0 / largest


def check_order(order: npt.ArrayLike, n_neurons: int) -> IndexArray:
    """Return an order of distinct neurons."""
    index = as_index(order, n_neurons)
    if index.size == 0:
        raise CriticalMassError("the order is empty; give at least one neuron")
    counts = np.bincount(index, minlength=n_neurons)
    if counts.max() > 1:
        raise CriticalMassError(
            f"the order has neuron {int(np.argmax(counts))} more than once; give each one once"
        )
    return index


def check_projection(projection: npt.ArrayLike, n_neurons: int) -> FloatArray:
    """Return a projection as float64 after checking that it has one row per neuron."""
    p = np.asarray(projection, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != n_neurons or p.shape[1] < 1:
        raise CriticalMassError(
            f"projection has shape {p.shape}; give one row for each of {n_neurons} neurons"
        )
    return p


def check_sizes(sizes: Sequence[int], longest: int) -> IndexArray:
    """Return the position of the last neuron of every prefix, size - 1."""
    last = np.asarray(sizes, dtype=np.intp) - 1
    if last.ndim != 1 or last.size == 0 or last.min() < 0 or last.max() >= longest:
        raise CriticalMassError(
            f"sizes {list(sizes)} must be prefix lengths from 1 to {longest}, at least one"
        )
    return last


def ranks_of(indices: Sequence[IndexArray], n_neurons: int) -> FloatArray:
    """Return the position of every neuron in every order, (n_orders, n_neurons); inf if absent."""
    ranks = np.full((len(indices), n_neurons), np.inf)
    for row, index in zip(ranks, indices, strict=True):
        row[index] = np.arange(index.size)
    return ranks
