"""The class half of the preconditioner: how strongly the loss curves between classes.

The Hessian of the softmax loss is the mean over samples of (diag p - p p') (x) x x'. Its best
product approximation keeps the mean of the first factor, A, and the second moment of x. Confused
classes keep curvature while easy ones lose it, so A's eigenvalues spread as the fit sharpens;
but the samples that still carry curvature are not average ones. Flattening the spectrum half-way
(in logarithms) to its mean and tripling it took up to four times fewer passes on real features
than a scalar curvature (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening

_STRENGTH = 3.0
_LEAST_SHARE = 0.02
# Beyond this many classes the C x C eigenproblem costs more than it saves.
_MOST_CLASSES = 160


@dataclass(frozen=True, eq=False)
class Curvature:
    """An approximate inverse Hessian for one problem.

    Parameters
    ----------
    rotation: (C, C) float32, eigenvectors in columns; None for a multiple of the identity.
    strengths: (C,) flattened eigenvalues.
    exponents: (C,) ridge exponents of the factor that serves each eigenvector.
    intercept: (C, C) inverse curvature of the intercepts.
    """

    rotation: FloatArray | None
    strengths: NDArray[np.float64]
    exponents: NDArray[np.int64]
    intercept: NDArray[np.float64]

    def apply(self, whitening: Whitening, weights: FloatArray) -> FloatArray:
        """Apply the inverse to a gradient of weights, (C, k)."""
        turned = weights if self.rotation is None else self.rotation.T @ weights
        out = np.empty_like(turned)
        scale = (1.0 / self.strengths).astype(np.float32)[:, None]
        for exponent in np.unique(self.exponents):
            rows = np.flatnonzero(self.exponents == exponent)
            block = np.ascontiguousarray(turned[rows])
            out[rows] = whitening.solve(block, int(exponent)) * scale[rows]
        return out if self.rotation is None else self.rotation @ out


def curvature(
    mean: NDArray[np.float64], square: NDArray[np.float64], l2: float, whitening: Whitening
) -> Curvature:
    """Build the approximate inverse Hessian from moments of the predicted probabilities.

    Parameters
    ----------
    mean: (C,) mean of p over samples.
    square: (C, C) mean of p p' over samples.
    l2: the penalty.
    whitening: of the problem's order.
    """
    between = np.diag(mean) - square
    n_classes = mean.size
    if n_classes > _MOST_CLASSES:
        level = max(_STRENGTH * float(np.trace(between)) / (n_classes - 1), 1e-12)
        strengths = np.full(n_classes, level)
        rotation = None
        # Diagonal only: the off-diagonal of the intercepts' curvature is one part in C of it.
        intercept = np.diag(1.0 / np.maximum(np.diag(between), 1e-3 * level))
    else:
        values, vectors = np.linalg.eigh(between)
        rotation = np.ascontiguousarray(vectors, dtype=np.float32)
        strengths = _flattened(values)
        floor = max(1e-3 * float(values[1:].mean()), 1e-12)
        kept = np.where(np.arange(n_classes) == 0, np.inf, np.maximum(values, floor))
        intercept = (vectors / kept) @ vectors.T
    exponents = np.array([whitening.exponent(l2 / s) for s in strengths])
    return Curvature(rotation, strengths, exponents, intercept)


def _flattened(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pull ascending eigenvalues half-way to their mean; the first belongs to the constant."""
    strengths = _STRENGTH * np.maximum(values, 1e-12)
    level = float(strengths[1:].mean())
    strengths = np.sqrt(strengths * level)
    strengths[0] = level
    return np.maximum(strengths, _LEAST_SHARE * level)
