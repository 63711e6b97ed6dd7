"""The whole Hessian of a small problem, from a sample of rows.

The preconditioner of `class_curvature` is the product of a curvature between classes and a second
moment. Under a weak penalty the true Hessian is far from every such product, and a fit takes
hundreds of passes. A problem with few weights has a small Hessian: it is computed on a sample of
rows and factored, which takes as long as a few passes. With it a fit takes 5 to 50 passes
(docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.stacked_heads import Head
from criticalmass.measures.logistic.training_rows import OrderedRows, sampled_rows

# Above it, fits take few passes with the product.
_STRONGEST_L2 = 2e-3
# A sample of m rows costs m (k C)^2, a pass n k C.
_ROWS_PER_WEIGHT = 16
_SQUARES_PER_ROW = 10
#: Most weights of a problem whose Hessian is computed.
MAX_WEIGHTS = 1536
_CHUNK = 1024
# Shares of the mean curvature that are added to the diagonal, against rounding: the first that
# makes the matrix positive definite. Products in single precision err by about 1e-7 of it.
_RIDGES = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)


@dataclass(frozen=True, eq=False)
class FullCurvature:
    """The inverse Hessian of one problem, estimated on a sample of rows.

    Parameters
    ----------
    factor: Cholesky factor of the Hessian of weights (C, k), row by row, and intercepts (C,).
    intercept: (C, C) inverse curvature of the intercepts alone.
    """

    factor: tuple[NDArray[np.float64], bool]
    intercept: NDArray[np.float64]

    def apply(self, preconditioner: Preconditioner, gradient: FloatArray) -> FloatArray:
        """Apply the inverse Hessian to a gradient of weights and intercepts, (C k + C,)."""
        del preconditioner
        return np.asarray(cho_solve(self.factor, gradient, check_finite=False), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class RowSample:
    """Rows on which Hessians are computed.

    Parameters
    ----------
    x: (m, k) standardised rows in the order's first columns, in random sequence.
    n: number of rows they were taken from.
    n_classes: number of classes, C.
    """

    x: FloatArray
    n: int
    n_classes: int

    @classmethod
    def of(cls, rows: OrderedRows, sizes: tuple[int, ...], n_classes: int) -> RowSample:
        """Read as many rows and columns as the Hessians of problems of these sizes need."""
        small = [k for k in sizes if is_small(k * n_classes, rows.n)]
        k = max(small, default=0)
        return cls(sampled_rows(rows, _n_rows(k * n_classes, rows.n), k), rows.n, n_classes)

    def is_small(self, k: int) -> bool:
        """Whether the Hessian of a problem of a size costs no more than a few passes."""
        return is_small(k * self.n_classes, self.n)

    def serves(self, k: int, l2: float) -> bool:
        """Whether the Hessian of a problem pays."""
        return l2 <= _STRONGEST_L2 and self.is_small(k)

    def curvature(self, head: Head, l2: float) -> FullCurvature:
        """Return the inverse Hessian at a head, (C, k) weights and (C,) intercepts."""
        c, k = head[0].shape
        x = self.x[: _n_rows(k * c, self.n), :k]
        hessian = _hessian(x, head)
        weights, intercepts = np.arange(c * k), np.arange(c * k, c * k + c)
        hessian[weights, weights] += l2
        # Adding one number to all intercepts changes no probability: that direction is flat.
        level = float(hessian[intercepts, intercepts].mean())
        hessian[np.ix_(intercepts, intercepts)] += max(level, 1e-12) / c
        own = hessian[c * k :, c * k :] + 1e-9 * max(level, 1e-12) * np.eye(c)
        intercept = np.asarray(np.linalg.inv(own), dtype=np.float64)
        return FullCurvature(_factor(hessian), intercept)


def _factor(hessian: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Return the Cholesky factor of a Hessian that rounding may have made indefinite."""
    mean = float(np.trace(hessian)) / len(hessian)
    diagonal = hessian.diagonal().copy()
    for ridge in _RIDGES:
        hessian[np.diag_indices_from(hessian)] = diagonal + ridge * mean
        try:
            factor, is_lower = cho_factor(hessian, lower=True)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(factor, dtype=np.float64), bool(is_lower)
    # A multiple of the identity is a preconditioner too.
    return np.sqrt(max(mean, 1e-12)) * np.eye(len(hessian)), True


def is_small(n_weights: int, n: int) -> bool:
    """Whether the Hessian of so many weights costs no more than a few passes over n rows."""
    return n_weights <= MAX_WEIGHTS and n_weights**2 <= _SQUARES_PER_ROW * n


def _n_rows(n_weights: int, n: int) -> int:
    return min(n, _ROWS_PER_WEIGHT * n_weights)


def _hessian(x: FloatArray, head: Head) -> NDArray[np.float64]:
    """Return the mean of (diag p - p p') (x) x x' with a column of ones, (C k + C, C k + C).

    Weights come first, class by class, then the intercepts.
    """
    weights, intercepts = head
    c, k = weights.shape
    hessian = np.zeros((c * k + c, c * k + c))
    for start in range(0, len(x), _CHUNK):
        block: Any = x[start : start + _CHUNK]
        p = block @ weights.T + intercepts.astype(np.float32)
        np.exp(p - p.max(axis=1, keepdims=True), out=p)
        p /= p.sum(axis=1, keepdims=True)
        scaled = (p[:, :, None] * block[:, None, :]).reshape(len(block), c * k)
        scaled = np.concatenate([scaled, p], axis=1)
        hessian -= scaled.T @ scaled
        for j in range(c):
            own = slice(j * k, (j + 1) * k)
            hessian[own, own] += scaled[:, own].T @ block
            between = scaled[:, own].sum(axis=0)
            hessian[own, c * k + j] += between
            hessian[c * k + j, own] += between
            hessian[c * k + j, c * k + j] += p[:, j].sum()
    hessian /= len(x)
    return hessian
