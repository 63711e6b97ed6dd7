"""What the second moment of a layer says about its size: effective dimensions, diagonal share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError

#: Rows handled at a time, so that no check needs a second matrix.
ROWS = 256
#: Largest difference between C and C', relative to the largest variance, that is rounding.
ASYMMETRY = 1e-8


@checked
def participation_ratio(second_moment: npt.ArrayLike) -> float:
    """Effective number of dimensions of a layer: (sum lambda)^2 / sum lambda^2.

    Needs no eigenvalues: the sums are the trace of C and its squared Frobenius norm.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.

    Returns
    -------
    A number from 1 (one direction) to n_neurons (a flat spectrum).

    Raises
    ------
    CriticalMassError: if the matrix is not square, symmetric, finite and non-zero.
    """
    c = as_second_moment(second_moment)
    return float(np.trace(c) ** 2 / np.vdot(c, c))


@checked
def diagonal_share(second_moment: npt.ArrayLike) -> float:
    """Share of the diagonal in ||C||_F^2: a = sum_i C_ii^2 / sum_ij C_ij^2.

    It decides the first order of the CKA of random subsets (docs/theory.md, law 1). For
    neurons of equal variance it is the participation ratio over the width.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.

    Returns
    -------
    A number from 1 / n_neurons (one direction, equal neurons) to 1 (uncorrelated neurons).

    Raises
    ------
    CriticalMassError: as `participation_ratio`.
    """
    c = as_second_moment(second_moment)
    diagonal = np.diagonal(c)
    return float(diagonal @ diagonal / np.vdot(c, c))


def correlation(second_moment: npt.ArrayLike) -> FloatArray:
    """Second moment of the standardised neurons.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.

    Returns
    -------
    (n_neurons, n_neurons) matrix with ones on the diagonal; rows of constant neurons are 0.

    Raises
    ------
    CriticalMassError: as `participation_ratio`.
    """
    c = as_second_moment(second_moment)
    deviation = np.sqrt(np.diagonal(c))
    # What is left of a constant neuron after rounding must not be blown up to a full one.
    live = deviation > 1e-10
    factor = np.zeros(c.shape[0])
    np.divide(1.0, deviation, out=factor, where=live)
    c *= factor[:, None]
    c *= factor
    c[live, live] = 1.0
    return c


def as_second_moment(second_moment: npt.ArrayLike) -> FloatArray:
    """Check a second moment and return a copy scaled to a largest variance of 1.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale.

    Raises
    ------
    CriticalMassError: if the matrix is not square, symmetric, finite and non-zero, or has a
        negative variance or a covariance that its variances do not allow.
    """
    c = np.asarray(second_moment, dtype=np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or c.size == 0:
        raise CriticalMassError(
            f"a second moment is square, (n_neurons, n_neurons); got shape {c.shape}"
        )
    if not np.isfinite(c).all():
        raise CriticalMassError("the second moment holds NaN or infinity; drop those samples")
    diagonal = np.diagonal(c)
    largest = float(diagonal.max())
    if diagonal.min() < 0.0:
        neuron = int(diagonal.argmin())
        raise CriticalMassError(
            f"neuron {neuron} has the negative variance {diagonal[neuron]:.3g}; "
            "give X'X of the centred features"
        )
    if largest == 0.0:
        raise CriticalMassError(
            "the second moment is zero: every neuron is constant, so there is nothing to share"
        )
    scaled = np.ascontiguousarray(c / largest)
    for start in range(0, c.shape[0], ROWS):
        rows = scaled[start : start + ROWS]
        if np.abs(rows - scaled[:, start : start + ROWS].T).max() > ASYMMETRY:
            raise CriticalMassError(
                "the second moment is not symmetric; give X'X, not a product of two layers"
            )
        if np.abs(rows).max() > 1.0 + ASYMMETRY:
            raise CriticalMassError(
                "a covariance exceeds the largest variance, which no features can have; "
                "give X'X of the centred features"
            )
    return scaled
