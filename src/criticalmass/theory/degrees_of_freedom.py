"""Degrees of freedom, and the penalty at which the whole layer's probe equals that of k neurons.

With A the second moment of the standardised layer, a ridge probe with penalty l2 on k random
neurons is on average the whole layer's ridge probe with penalty mu, where

    tr[(A + l2)(A + mu)^-1] = k.

For l2 -> 0 that is df(mu) = k: k random neurons are the whole layer with k degrees of freedom.
This is the law of free sketches (Patil and LeJeune 2023, arXiv:2310.04357, theorem 3.1), given
there as ``mu (k - df(mu)) = l2 (d - df(mu))``; the trace above is that equation divided by mu.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError

FloatArray = NDArray[np.float64]
# Halvings of an interval of logarithms; after 60 it is below the resolution of float64.
_HALVINGS = 60


@overload
def degrees_of_freedom(eigenvalues: npt.ArrayLike, mu: float) -> float: ...
@overload
def degrees_of_freedom(
    eigenvalues: npt.ArrayLike, mu: Sequence[float] | FloatArray
) -> FloatArray: ...
def degrees_of_freedom(
    eigenvalues: npt.ArrayLike, mu: float | Sequence[float] | FloatArray
) -> float | FloatArray:
    """Return the degrees of freedom df(mu) = tr A(A + mu)^-1 at a ridge penalty.

    Parameters
    ----------
    eigenvalues: (n_neurons,) of A, none negative.
    mu: penalty or array of penalties, above 0.

    Returns
    -------
    The degrees of freedom, in neurons, of the shape of ``mu``.

    Raises
    ------
    CriticalMassError: for a penalty that is not positive.
    """
    spectrum = np.asarray(eigenvalues, dtype=np.float64)
    penalty = np.asarray(mu, dtype=np.float64)
    if not (penalty > 0).all():
        raise CriticalMassError(f"mu={mu} but degrees of freedom need a penalty above 0")
    df = (spectrum / (spectrum + penalty[..., None])).sum(axis=-1)
    return float(df) if penalty.ndim == 0 else np.asarray(df)


def full_penalty(eigenvalues: npt.ArrayLike, sizes: Sequence[int], l2: float) -> FloatArray:
    """Return the whole-layer penalty mu that is equivalent to k random neurons with penalty l2.

    Solves ``sum_i (e_i + l2)/(e_i + mu) = k``, whose left side falls strictly from d at
    ``mu = l2``; the root is unique and at most ``(sum_i e_i + d l2)/k``.

    Parameters
    ----------
    eigenvalues: (n_neurons,) of the standardised second moment, none negative.
    sizes: numbers of neurons k, each in 1..n_neurons.
    l2: the subset's penalty, above 0; 1e-6 is practically no penalty.

    Returns
    -------
    (n_sizes,) penalties, at least l2.

    Raises
    ------
    CriticalMassError: for a size outside the layer or a penalty that is not positive.
    """
    spectrum = np.asarray(eigenvalues, dtype=np.float64)
    k = check_sizes(sizes, spectrum.size).astype(np.float64)
    check_penalty(l2)
    shifted = spectrum + l2
    low = np.full(k.size, np.log(l2))
    high = np.log(shifted.sum() / k)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        trace = (shifted / (spectrum + np.exp(middle)[:, None])).sum(axis=1)
        low = np.where(trace > k, middle, low)
        high = np.where(trace > k, high, middle)
    return np.where(k == spectrum.size, l2, np.exp(0.5 * (low + high)))


def check_sizes(sizes: Sequence[int] | npt.ArrayLike, n_neurons: int) -> NDArray[np.int64]:
    """Return sizes of subsets of a layer as an integer array.

    Raises
    ------
    CriticalMassError: if there are no sizes, or one is outside 1..n_neurons.
    """
    ks = np.asarray(sizes)
    if ks.ndim != 1 or ks.size == 0 or ks.dtype.kind not in "iu":
        raise CriticalMassError(
            f"sizes {np.array2string(ks, threshold=8)} must be a vector of integers, at least one"
        )
    if ks.min() < 1 or ks.max() > n_neurons:
        worst = int(ks.min() if ks.min() < 1 else ks.max())
        raise CriticalMassError(
            f"n_kept={worst} but the layer has {n_neurons} neurons; ask for 1 to {n_neurons}"
        )
    return ks.astype(np.int64)


def check_penalty(l2: float) -> None:
    """Check that a penalty is a positive number.

    Raises
    ------
    CriticalMassError: if it is not.
    """
    if not (np.isfinite(l2) and l2 > 0):
        raise CriticalMassError(
            f"l2={l2} but the law needs a penalty above 0; 1e-6 is practically no penalty"
        )
