"""The heads of logistic probes on k random neurons, from fits of the whole layer.

A probe with penalty l2 on k random neurons has the head of a whole-layer fit with a larger
penalty that is pulled, not towards zero, but towards a random vector, the shock. Penalty and
shock depend on the fit itself, through the curvature of its loss and through its gradient; a few
rounds make them consistent. docs/theory.md derives it, law 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from criticalmass.theory.degrees_of_freedom import full_penalty
from criticalmass.theory.shifted_logistic import Layer, PulledFits, Pulls, Single, fit_pulled

FloatArray = NDArray[np.float64]
# Curvature below this share of the largest is that of the direction that shifts all scores.
_FLAT = 1e-6
_SETTLING = 3


@dataclass(frozen=True)
class Cell:
    """A probe: ``size`` random neurons, fitted with the strength ``l2``."""

    size: int
    l2: float


@dataclass(frozen=True, eq=False)
class LogisticHeads:
    """How the heads of one cell are distributed over subsets.

    Attributes
    ----------
    fits: (T, d + 1, C) float32, fits of single rounds: heads as subsets have them.
    echoes: (T, d, C) what their shocks left in them, to first order.
    response: (d, C) how much of a shock is left in the head, along ``turn``.
    turn: (C, C) directions of the classes.
    roots: (T, C, C) roots of the shocks' covariance over classes, as every round implies it;
        over the layer's directions shocks are independent.
    share: k/d.
    penalty: (C,) the whole layer's penalty along ``turn``.
    """

    fits: Single
    echoes: Single
    response: Single
    turn: Single
    roots: Single
    share: float
    penalty: FloatArray

    def mean(self, without: int | None = None) -> Single:
        """Return the head (d + 1, C) without shock, from all rounds or all but a pair of them."""
        pair = -1 if without is None else without // 2
        kept = [t for t in range(len(self.fits)) if t // 2 != pair] or [0]
        out = self.fits[kept].mean(axis=0)
        out[:-1] -= self.echoes[kept].mean(axis=0)
        return np.asarray(out)

    def echo(self, centre: Single) -> Single:
        """Return what a shock (d, C) leaves in a head, to first order."""
        along = np.matmul(centre, self.turn) * self.response
        return np.asarray(np.matmul(along, self.turn.T), dtype=np.float32)

    def draw(self, normals: Sequence[Single]) -> tuple[Single, Single]:
        """Return heads of subsets, and pairs that tell what first order leaves out.

        Parameters
        ----------
        normals: M arrays (d, C) of independent standard normals, one per subset.

        Returns
        -------
        (M, d + 1, C) heads to first order in their shocks, around the mean of all rounds but
        two opposite ones, each round in turn; and (2, T, d + 1, C), the rounds' own heads and
        what the same first order makes of them.
        """
        rounds = len(self.fits)
        if self.share == 1.0:  # nothing is drawn: the rounds are one fit, the last its best
            last = self.fits[-1:]
            return np.repeat(last, len(normals), axis=0), np.stack([last, last])
        around = np.array([self.mean(without=t) for t in range(rounds)])
        heads = around[np.arange(len(normals)) % rounds]
        for m, normal in enumerate(normals):
            heads[m, :-1] += self.echo(normal @ self.roots[m % rounds])
        linear = around.copy()
        linear[:, :-1] += self.echoes
        return heads, np.stack([self.fits, linear])


@dataclass(frozen=True, eq=False)
class Consistent:
    """Fits whose penalties and shocks are those that the fits themselves imply.

    Attributes
    ----------
    heads: one per cell.
    curvature: (J, C, C) of the mean cross-entropy over class scores.
    passes: over the training rows.
    """

    heads: tuple[LogisticHeads, ...]
    curvature: FloatArray
    passes: int

    def of(self, index: int) -> Consistent:
        """Return one of the cells."""
        return Consistent((self.heads[index],), self.curvature[[index]], 0)


def consistent_heads(
    layer: Layer,
    cells: Sequence[Cell],
    normals: Sequence[Single],
    *,
    start: Consistent | None = None,
    tol: float = 1e-4,
) -> Consistent:
    """Fit the whole layer until penalties and shocks agree with the fits.

    Two rounds per array of normals count, with opposite shocks: their mean has none to first
    order. Rounds before them settle the penalties: one after a ``start``, else three.

    Parameters
    ----------
    layer: the training rows.
    cells: J sizes and strengths.
    normals: (d, C) independent standard normals.
    start: cells of the same sizes, another strength or other rows.
    tol: of every fit.
    """
    now, passes = start or _without_shocks(layer, cells), 0
    settling = [normals[0]] * (1 if start else _SETTLING)
    rounds = [*settling, *(sign * normal for normal in normals for sign in (1, -1))]
    for turn, normal in enumerate(rounds):
        pulls = _pulls(layer, cells, now, normal)
        begin = np.array([head.mean() for head in now.heads])
        begin[:, :-1] += [
            head.echo(centre) for head, centre in zip(now.heads, pulls.centre, strict=True)
        ]
        fits = fit_pulled(layer, pulls, begin, tol=tol)
        passes += fits.passes
        before = now.heads if turn > len(settling) else None
        now = Consistent(_heads(layer, cells, (pulls, fits), before), fits.curvature, 0)
    return replace(now, passes=passes)


def _without_shocks(layer: Layer, cells: Sequence[Cell]) -> Consistent:
    """Return where to begin: shares of the classes, their curvature, no shock."""
    prior = np.bincount(layer.y) / layer.y.size
    d, c = layer.eigenvalues.size, prior.size
    theta, nothing = np.zeros((1, d + 1, c), np.float32), np.zeros((d, c), np.float32)
    theta[:, -1] = np.log(np.maximum(prior, 1e-12))
    curvature = np.repeat((np.diag(prior) - np.outer(prior, prior))[None], len(cells), axis=0)
    turn = np.eye(c, dtype=np.float32)
    none = LogisticHeads(theta, nothing[None], nothing, turn, 0 * turn[None], 0.0, np.zeros(c))
    return Consistent((none,) * len(cells), curvature, 0)


def _pulls(layer: Layer, cells: Sequence[Cell], now: Consistent, normal: Single) -> Pulls:
    """Return penalties and shocks of the next round from the fits of this one."""
    values, turns = np.linalg.eigh(now.curvature)
    curvature = np.where(values > _FLAT * values[:, -1:], values, 0.0)
    penalty = np.array(
        [_penalties(layer.eigenvalues, cell, w) for cell, w in zip(cells, curvature, strict=True)]
    )
    centre = np.array([normal @ head.roots[-1] for head in now.heads])
    return Pulls(turns, penalty, curvature, centre)


def _penalties(eigenvalues: FloatArray, cell: Cell, curvature: FloatArray) -> FloatArray:
    """Return mu along every direction of the classes: ridge's map at that curvature."""
    out = np.full(curvature.size, cell.l2 * eigenvalues.size / cell.size)
    for c in np.flatnonzero(curvature > 0):
        w = curvature[c]
        out[c] = w * full_penalty(eigenvalues, [cell.size], cell.l2 / w)[0]
    return out


def _heads(
    layer: Layer,
    cells: Sequence[Cell],
    found: tuple[Pulls, PulledFits],
    before: Sequence[LogisticHeads] | None,
) -> tuple[LogisticHeads, ...]:
    """Return what a round's fits say of the heads, added to the rounds before it."""
    (pulls, fits), d = found, layer.eigenvalues.size
    heads = []
    for j, cell in enumerate(cells):
        turn, mu, w = pulls.basis[j].astype(np.float32), pulls.penalty[j], pulls.curvature[j]
        stiff = w * layer.eigenvalues[:, None]
        response = np.where(w > 0, mu / (stiff + mu), 0.0).astype(np.float32)
        root = _root(cell, (stiff / (stiff + mu)).sum(axis=0), mu, fits.of(j, turn))
        echo = np.matmul(np.matmul(pulls.centre[j], turn) * response, turn.T)
        own = fits.theta[j][None], echo[None], (turn @ root @ turn.T)[None]
        if before is not None:
            old = before[j].fits, before[j].echoes, before[j].roots
            kept, echoes, roots = (np.concatenate(pair) for pair in zip(old, own, strict=True))
        else:
            kept, echoes, roots = own
        heads.append(LogisticHeads(kept, echoes, response, turn, roots, cell.size / d, mu))
    return tuple(heads)


def _root(cell: Cell, freedom: FloatArray, mu: FloatArray, fit: tuple[Single, Single]) -> Single:
    """Return the symmetric root of the shocks' covariance along the classes' directions."""
    theta, slope = fit
    d = theta.shape[0]
    live = (freedom > 0) & (freedom < d)
    left = np.where(live, 1.0 - freedom / d, 1.0)
    # gamma: what the other neurons' evidence weighs; the head that it alone would make, times
    # what it is scaled by where it meets a choice of neurons.
    gamma = np.where(live, mu * (1.0 - left) / left, 1.0)
    scale = np.where(live, freedom / cell.size / left, 0.0)
    outer = (theta - slope / gamma) * scale
    share = cell.size / d
    values, vectors = np.linalg.eigh(outer.T @ outer * (share * (1.0 - share) / d))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return np.asarray(root, dtype=np.float32)
