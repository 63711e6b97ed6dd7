"""The preconditioner's factor for classes: the curvature of the loss between classes.

The Hessian of the softmax loss is the mean over samples of (diag p - p p') (x) x x'. Its best
product approximation is the mean of the first factor, A, times the second moment of x. As the fit
sharpens, confused classes keep their curvature and easy ones lose it, so the eigenvalues of A
spread. But the samples that still have curvature are not average samples. Moving the eigenvalues
half-way (in logarithms) to their mean and multiplying them by three took up to four times fewer
passes on real features than a scalar curvature (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner

_STRENGTH = 3.0
_MIN_SHARE = 0.02
# Beyond this many classes the C x C eigenproblem costs more than it saves.
_MAX_EIGEN_CLASSES = 160


@dataclass(frozen=True, eq=False)
class Curvature:
    """An approximate inverse Hessian for one problem.

    Parameters
    ----------
    rotation: (C, C) float32, eigenvectors in columns; None for a multiple of the identity.
    strengths: (C,) flattened eigenvalues.
    exponents: (C,) exponent of the ridge that goes with each eigenvector.
    intercept: (C, C) inverse curvature of the intercepts.
    """

    rotation: FloatArray | None
    strengths: NDArray[np.float64]
    exponents: NDArray[np.int64]
    intercept: NDArray[np.float64]

    def apply(self, preconditioner: Preconditioner, gradient: FloatArray) -> FloatArray:
        """Apply the inverse Hessian to a gradient of weights and intercepts, (C k + C,)."""
        c = len(self.intercept)
        weights = gradient[:-c].reshape(c, -1)
        rotated = weights if self.rotation is None else self.rotation.T @ weights
        out = np.empty_like(rotated)
        scale = (1.0 / self.strengths).astype(np.float32)[:, None]
        for exponent in np.unique(self.exponents):
            rows = np.flatnonzero(self.exponents == exponent)
            block = np.ascontiguousarray(rotated[rows])
            out[rows] = preconditioner.solve(block, int(exponent)) * scale[rows]
        if self.rotation is not None:
            out = self.rotation @ out
        step = (self.intercept @ gradient[-c:]).astype(np.float32)
        return np.concatenate([out.reshape(-1), step])


def estimate_curvature(
    mean: NDArray[np.float64],
    square: NDArray[np.float64],
    l2: float,
    preconditioner: Preconditioner,
) -> Curvature:
    """Build the approximate inverse Hessian from moments of the predicted probabilities.

    Parameters
    ----------
    mean: (C,) mean of p over samples.
    square: (C, C) mean of p p' over samples.
    l2: the penalty.
    preconditioner: of the problem's order.
    """
    between = np.diag(mean) - square
    n_classes = mean.size
    if n_classes > _MAX_EIGEN_CLASSES:
        level = max(_STRENGTH * float(np.trace(between)) / (n_classes - 1), 1e-12)
        strengths = np.full(n_classes, level)
        rotation = None
        # Only the diagonal: an off-diagonal entry is about 1/C of it.
        intercept = np.diag(1.0 / np.maximum(np.diag(between), 1e-3 * level))
    else:
        values, vectors = np.linalg.eigh(between)
        rotation = np.ascontiguousarray(vectors, dtype=np.float32)
        strengths = _flatten(values)
        floor = max(1e-3 * float(values[1:].mean()), 1e-12)
        floored = np.where(np.arange(n_classes) == 0, np.inf, np.maximum(values, floor))
        intercept = (vectors / floored) @ vectors.T
    exponents = np.array([preconditioner.exponent(l2 / s) for s in strengths])
    return Curvature(rotation, strengths, exponents, intercept)


def _flatten(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move ascending eigenvalues half-way to their mean; the first is the constant's."""
    strengths = _STRENGTH * np.maximum(values, 1e-12)
    level = float(strengths[1:].mean())
    strengths = np.sqrt(strengths * level)
    strengths[0] = level
    return np.maximum(strengths, _MIN_SHARE * level)
