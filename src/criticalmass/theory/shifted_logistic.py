"""Logistic fits of the whole layer that are pulled towards a given head instead of towards zero.

The law of logistic probes on random neurons (``logistic.py``) is such a fit. Several are made at
once, by L-BFGS (Liu and Nocedal 1989) in the layer's own eigenbasis, where the curvature at the
start is nearly diagonal: features in one direction, classes in the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Single = NDArray[np.float32]
_PAIRS = 8
_CELLS = 1 << 22
_HALVINGS = 12
# Loss and gradient are float32 products: a step that loses less than this is not a loss.
_SLACK = 2e-7


@dataclass(frozen=True, eq=False)
class Layer:
    """Training rows in the layer's eigenbasis.

    Attributes
    ----------
    x: (n, d + 1) float32, standardised and rotated, a column of ones at the end.
    y: (n,) class ids, all of 0..C-1 present.
    eigenvalues: (d,) of X'X/n.
    """

    x: Single
    y: NDArray[np.int64]
    eigenvalues: FloatArray


@dataclass(frozen=True, eq=False)
class Pulls:
    """Penalties of J fits: 1/2 sum_c penalty_c ||((theta - centre) basis)_c||^2.

    Attributes
    ----------
    basis: (J, C, C) orthonormal directions of the classes, one per column.
    penalty: (J, C) of every direction.
    curvature: (J, C) of the mean cross-entropy along it, for the first step.
    centre: (J, d, C) float32, towards which weights are pulled.
    """

    basis: FloatArray
    penalty: FloatArray
    curvature: FloatArray
    centre: Single


@dataclass(frozen=True, eq=False)
class PulledFits:
    """J fits.

    Attributes
    ----------
    theta: (J, d + 1, C) float32, weights in the eigenbasis, then intercepts.
    gradient: (J, d + 1, C) of the mean cross-entropy there, without the pull.
    curvature: (J, C, C) mean of diag(p) - p p' over the training rows.
    passes: over the training rows, of the fit that took most.
    """

    theta: Single
    gradient: Single
    curvature: FloatArray
    passes: int

    def of(self, index: int, turn: Single) -> tuple[Single, Single]:
        """Return one fit's weights and their gradient, (d, C) each, along directions ``turn``."""
        return self.theta[index, :-1] @ turn, self.gradient[index, :-1] @ turn


@dataclass(eq=False)
class _Memory:
    """The last steps of L-BFGS and what they did to the gradient, per fit."""

    steps: list[tuple[Single, Single, FloatArray]] = field(default_factory=list)

    def direction(self, gradient: Single, inverse: Single) -> Single:
        q, shares = gradient.copy(), []
        for step, change, rho in reversed(self.steps):
            share = rho * _dot(step, q)
            shares.append(share)
            q -= _each(share) * change
        scale = np.ones(len(q))
        if self.steps:
            _, change, rho = self.steps[-1]
            size = rho * _dot(change, inverse * change)
            scale = np.where(size > 0, 1.0 / np.where(size > 0, size, 1.0), 1.0)
        q *= inverse * _each(scale)
        for (step, change, rho), share in zip(self.steps, reversed(shares), strict=True):
            q += _each(share - rho * _dot(change, q)) * step
        return q

    def add(self, step: Single, change: Single) -> None:
        product = _dot(step, change)
        # A fit that stands still adds nothing: rho = 0 leaves it out.
        rho = np.where(product > 1e-14, 1.0 / np.where(product > 1e-14, product, 1.0), 0.0)
        self.steps = [*self.steps[1 - _PAIRS :], (step, change, rho)]


def fit_pulled(
    layer: Layer, pulls: Pulls, start: Single, *, tol: float = 1e-4, max_passes: int = 300
) -> PulledFits:
    """Minimise mean cross-entropy plus the pull, for all fits at once.

    Parameters
    ----------
    layer: the training rows.
    pulls: the penalties of the J fits.
    start: (J, d + 1, C) where to start.
    tol: ends when half the squared Newton decrement of every fit, as L-BFGS estimates it, is
        below this share of its objective.
    max_passes: over the training rows, after which the fits end as they are.
    """
    problem = _Problem.of(layer, pulls)
    theta = np.matmul(start, problem.turn)
    value, gradient = problem.objective(theta, np.ones(len(theta), bool))
    memory, passes = _Memory(), 1
    while passes < max_passes:
        q = memory.direction(gradient, problem.inverse)
        decrement = _dot(gradient, q)
        live = decrement > 2 * tol * np.abs(value)
        if not live.any():
            break
        length = np.where(live, 1.0, 0.0)
        for _ in range(_HALVINGS):
            trial = theta - _each(length) * q
            found, slope = value.copy(), gradient.copy()
            found[live], slope[live] = problem.objective(trial[live], live)
            passes += 1
            worse = live & (found > value - 1e-4 * length * decrement + _SLACK * np.abs(value))
            if not worse.any():
                break
            length = np.where(worse, 0.4 * length, length)
        else:
            break
        memory.add(trial - theta, slope - gradient)
        theta, value, gradient = trial, found, slope
    final = np.matmul(theta, problem.turn.transpose(0, 2, 1))
    _, slope, curvature = _pass(layer, final, curvature=True)
    return PulledFits(final, slope, curvature, passes + 1)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What the fits minimise, their classes turned into the directions of the pull."""

    layer: Layer
    turn: Single
    penalty: Single
    centre: Single
    inverse: Single

    @classmethod
    def of(cls, layer: Layer, pulls: Pulls) -> _Problem:
        turn = pulls.basis.astype(np.float32)
        count, d, c = pulls.centre.shape
        penalty = np.zeros((count, d + 1, c), np.float32)
        penalty[:, :-1] = pulls.penalty[:, None, :]
        centre = np.zeros((count, d + 1, c), np.float32)
        np.matmul(pulls.centre, turn, out=centre[:, :-1])
        values = np.append(layer.eigenvalues, 1.0)[None, :, None]
        # A direction without curvature is the one that shifts all scores: it stays where it is.
        hessian = np.maximum(pulls.curvature, 1e-9)[:, None, :] * values + penalty
        return cls(layer, turn, penalty, centre, (1.0 / hessian).astype(np.float32))

    def objective(self, theta: Single, which: NDArray[np.bool_]) -> tuple[FloatArray, Single]:
        """Return objectives and gradients (., d + 1, C) of the fits ``which``, at their theta."""
        turn = self.turn[which]
        loss, slope, _ = _pass(self.layer, np.matmul(theta, turn.transpose(0, 2, 1)))
        away = theta - self.centre[which]
        pull = self.penalty[which] * away
        return loss + 0.5 * _dot(pull, away), np.matmul(slope, turn) + pull


def _pass(
    layer: Layer, theta: Single, *, curvature: bool = False
) -> tuple[FloatArray, Single, FloatArray]:
    """Return mean cross-entropies (J,), gradients (J, d + 1, C) and, if asked, curvatures."""
    count, width, c = theta.shape
    heads = np.ascontiguousarray(theta.transpose(1, 0, 2)).reshape(width, count * c)
    loss, gradient = np.zeros(count), np.zeros((width, count * c))
    inner = np.zeros((count, c, c))
    n = layer.y.size
    rows = max(64, _CELLS // (count * c))
    for start in range(0, n, rows):
        x, y = layer.x[start : start + rows], layer.y[start : start + rows]
        scores = (x @ heads).reshape(len(y), count, c)
        share = _softmax(scores, y, loss)
        if curvature:
            inner -= _products(share)
            inner[:, np.arange(c), np.arange(c)] += share.sum(axis=0, dtype=np.float64)
        share[np.arange(len(y)), :, y] -= 1.0
        gradient += x.T @ share.reshape(len(y), count * c)
    slope = gradient.reshape(width, count, c).transpose(1, 0, 2) / n
    return loss / n, slope.astype(np.float32), inner / n


def _softmax(scores: Single, y: NDArray[np.int64], loss: FloatArray) -> Single:
    """Turn scores (rows, J, C) into class shares in place; add cross-entropies to ``loss``."""
    scores -= scores.max(axis=-1, keepdims=True)
    loss -= scores[np.arange(y.size), :, y].sum(axis=0, dtype=np.float64)
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    loss += np.log(total[..., 0]).sum(axis=0, dtype=np.float64)
    scores /= total
    return scores


def _products(share: Single) -> FloatArray:
    """Return sums over rows of p p', (J, C, C)."""
    per_fit = np.ascontiguousarray(share.transpose(1, 0, 2))
    return np.asarray(np.matmul(per_fit.transpose(0, 2, 1), per_fit), dtype=np.float64)


def _dot(a: NDArray[Any], b: NDArray[Any]) -> FloatArray:
    return np.asarray(np.einsum("jdc,jdc->j", a, b, dtype=np.float64))


def _each(values: FloatArray) -> Single:
    """Spread one number per fit over its weights."""
    return values.astype(np.float32)[:, None, None]
