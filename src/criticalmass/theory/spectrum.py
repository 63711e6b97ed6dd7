"""Numbers from the second moment of a layer: participation ratio, diagonal share, correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import FloatArray
from criticalmass.errors import CriticalMassError
from criticalmass.measures.similarity.checks import check_square

# Rows checked at a time, so that no check needs a second matrix.
_BLOCK_ROWS = 256
#: Largest difference between C and C', relative to the largest variance, that counts as rounding
#: in float64.
ASYMMETRY = 1e-8
# The same for other types, in units of their rounding: that of a sum of a million products, whose
# errors add like a random walk. A product of two layers differs from its transpose by far more.
_ROUNDINGS, _MOST_ASYMMETRY = 1000.0, 0.01


@validate_arguments
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


@validate_arguments
def diagonal_share(second_moment: npt.ArrayLike) -> float:
    """Share of the diagonal in ||C||_F^2: a = sum_i C_ii^2 / sum_ij C_ij^2.

    It determines the CKA of random subsets to first order (docs/theory.md, law 1). For neurons of
    equal variance it is the participation ratio divided by the width.

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
    """Return the second moment of the standardised neurons.

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
    # The rounding error of a constant neuron must not be scaled to unit variance.
    is_varying = deviation > 1e-10
    factor = np.zeros(c.shape[0])
    np.divide(1.0, deviation, out=factor, where=is_varying)
    c *= factor[:, None]
    c *= factor
    c[is_varying, is_varying] = 1.0
    return c


def as_second_moment(second_moment: npt.ArrayLike) -> FloatArray:
    """Check a second moment and return a symmetric copy scaled to a largest variance of 1.

    Parameters
    ----------
    second_moment: (n_neurons, n_neurons) X'X of the centred X, at any scale; asymmetry up to
        1e-8 of the largest variance, in float32 1.2e-4, is rounding and is averaged.

    Raises
    ------
    CriticalMassError: if the matrix is not square, symmetric, finite and non-zero, or has a
        negative variance or a covariance that its variances do not allow.
    """
    tolerance = _asymmetry(np.asarray(second_moment).dtype)
    c = check_square(second_moment)
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
            "the second moment is zero: every neuron is constant; give a layer that varies"
        )
    scaled = np.ascontiguousarray(c / largest)
    for start in range(0, c.shape[0], _BLOCK_ROWS):
        rows, columns = scaled[start : start + _BLOCK_ROWS], scaled[:, start : start + _BLOCK_ROWS]
        difference = float(np.abs(rows - columns.T).max())
        if difference > tolerance:
            raise CriticalMassError(
                "the second moment is not symmetric; give X'X of one layer, not a product of two"
            )
        if difference > 0.0:
            rows[:] = 0.5 * (rows + columns.T)
            columns[:] = rows.T
        if np.abs(rows).max() > 1.0 + tolerance:
            raise CriticalMassError(
                "a covariance exceeds the largest variance, which is impossible; "
                "give X'X of the centred features"
            )
    return scaled


def _asymmetry(dtype: np.dtype[Any]) -> float:
    """Return the difference between C and C' that rounding in a type explains."""
    if dtype.kind != "f":
        return ASYMMETRY
    return max(ASYMMETRY, min(_MOST_ASYMMETRY, _ROUNDINGS * float(np.finfo(dtype).eps)))
