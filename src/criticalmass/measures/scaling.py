"""Column means and scales that several probes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.rows import CHUNK_ROWS, Rows, check_finite

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and scale of every column; ``apply`` standardises raw features.

    Attributes
    ----------
    mean: (n_neurons,) float64.
    scale: (n_neurons,) float64, the population standard deviation; 1 for a constant neuron.
    """

    mean: FloatArray
    scale: FloatArray

    def apply(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Standardise (rows, n_neurons) raw features to float32.

        The mean is subtracted before scaling, so a column far from zero keeps its digits.
        """
        out = np.empty(block.shape, dtype=np.float32)
        np.subtract(block, self.mean.astype(np.float32), out=out, casting="same_kind")
        out *= self.float32_factors()
        return out

    def float32_factors(self) -> NDArray[np.float32]:
        """Return what each column is multiplied by in float32, (n_neurons,).

        It is 1 where the inverse of the standard deviation is beyond float32: such a column is
        constant at this precision.
        """
        tiny = self.scale < float(np.finfo(np.float32).tiny)
        return (1.0 / np.where(tiny, 1.0, self.scale)).astype(np.float32)


def column_scales(mean: FloatArray, variance: FloatArray, n: int) -> FloatArray:
    """Return standard deviations; 1 where a column varies by no more than its rounding error.

    Parameters
    ----------
    mean: (n_neurons,) column means.
    variance: (n_neurons,) population variances as summed in float64 over ``n`` rows.
    n: number of rows.
    """
    rounding = (n * np.finfo(np.float64).eps * np.abs(mean)) ** 2
    is_constant = ~(variance > rounding)
    return np.where(is_constant, 1.0, np.sqrt(np.where(is_constant, 1.0, variance)))


def column_scaling(rows: Rows) -> Scaling:
    """Compute the column means and scales of rows in one pass, in float64.

    Parameters
    ----------
    rows: (n_samples, n_neurons) raw features.

    Raises
    ------
    CriticalMassError
        If a feature is NaN or infinite; the message names the first such row and neuron.
    """
    n = int(rows.shape[0])
    shift = np.asarray(rows[0:1], dtype=np.float64)[0]
    total, square = np.zeros_like(shift), np.zeros_like(shift)
    for start in range(0, n, CHUNK_ROWS):
        # Not converted to float32: the spread of a float64 column may be small against its mean.
        block = np.asarray(rows[start : start + CHUNK_ROWS])
        check_finite(block, start)
        centred = block - shift
        total += centred.sum(axis=0)
        square += np.einsum("ij,ij->j", centred, centred)
    offset = total / n
    variance = np.maximum(square / n - offset**2, 0.0)
    return Scaling(shift + offset, column_scales(shift + offset, variance, n))
