"""The heads that ridge probes on k random neurons have: their mean and how they scatter.

A head on a subset is a head on the whole layer with zeros at the neurons left out. Its mean over
subsets is the whole layer's head at another penalty; around it the heads scatter, all test
samples of one subset together. Both follow from `freedom` (exchangeable neurons) or
`neuron_penalties` (each neuron at its own). docs/theory.md derives them, law 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.theory.degrees_of_freedom import full_penalty
from criticalmass.theory.eigenbasis import Eigenbasis
from criticalmass.theory.neuron_penalties import NeuronPenalties, neuron_penalties

FloatArray = NDArray[np.float64]
_LADDER = 1e-3  # relative residual at which summing up the ladder of shocks ends
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class ExchangeableHeads:
    """Heads of random subsets where any neuron could be any other.

    Attributes
    ----------
    mean: (n_neurons, n_classes) the whole layer's head at penalty mu.
    root: (n_classes, n_classes) a square root of B'B, the classes' covariance.
    vectors: (n_neurons, n_neurons) eigenvectors along which the scatter is drawn; None where
        rows, and so heads, are in the eigenbasis already.
    spread: (n_neurons,) standard deviation of the scatter along every eigenvector.
    """

    mean: FloatArray
    root: FloatArray
    vectors: FloatArray | None
    spread: FloatArray

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Draw deviations of ``count`` heads from the mean, (count, n_neurons, n_classes)."""
        shocks = _normals(rng, count, self.mean.shape) @ self.root.T.astype(np.float32)
        shocks *= self.spread[:, None].astype(np.float32)
        return shocks if self.vectors is None else _along(self.vectors, shocks)


@dataclass(frozen=True, eq=False)
class NeuronHeads:
    """Heads of random subsets where each neuron has its own penalty.

    The deviation is ``G eta``. A kept neuron shocks along its own mean head, ``own_j B_j``; what
    others shock in turn spreads as ``shared_j`` over all classes. ``count_own`` and
    ``count_shared`` are where the number of kept neurons shows: it is fixed, and taken out.

    Attributes
    ----------
    mean: (n_neurons, n_classes) B = G b.
    resolvent: (n_neurons, n_neurons) G.
    root: (n_classes, n_classes) square root of the classes' covariance of shared shocks.
    own, shared: (n_neurons,) standard deviations of the shocks.
    count_own: (n_neurons,) covariance of the count with the own shocks.
    count_shared: (n_neurons, n_classes) covariance of the count with the shared ones.
    """

    mean: FloatArray
    resolvent: NDArray[Any]
    root: FloatArray
    own: FloatArray
    shared: FloatArray
    count_own: FloatArray
    count_shared: FloatArray

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Draw deviations of ``count`` heads from the mean, (count, n_neurons, n_classes)."""
        own = _normals(rng, count, self.own.shape)
        shared = _normals(rng, count, self.mean.shape)
        self._fix_count(own, shared)
        shocks = shared @ self.root.T.astype(np.float32)
        shocks *= self.shared[:, None].astype(np.float32)
        shocks += own[:, :, None] * (self.own[:, None] * self.mean).astype(np.float32)
        return _along(self.resolvent, shocks)

    def _fix_count(self, own: NDArray[np.float32], shared: NDArray[np.float32]) -> None:
        """Take the direction of the count out of standard normal draws, in place."""
        a, b = self.count_own.astype(np.float32), self.count_shared.astype(np.float32)
        size = float(a @ a + (b * b).sum())
        if size == 0.0:
            return
        keep = np.sqrt(max(1.0 - size, 0.0))
        along = own @ a + np.einsum("rjc,jc->r", shared, b)
        along *= (1.0 - keep) / size
        own -= along[:, None] * a
        shared -= along[:, None, None] * b


Heads = ExchangeableHeads | NeuronHeads


def exchangeable_heads(
    basis: Eigenbasis, size: int, l2: float, *, turned: bool = False
) -> ExchangeableHeads:
    """Return the law of heads on ``size`` random neurons as if neurons were exchangeable.

    The mean has penalty mu of `full_penalty`; the scatter of the responses to x and x' is
    ``(mu - l2) x'(A + mu)^-2 x' / tr[(A + l2)(A + mu)^-2]`` times B'B.

    Parameters
    ----------
    basis: the training set.
    size: number of neurons k.
    l2: the subset's penalty.
    turned: whether the rows that heads will see are in the eigenbasis already.
    """
    mu = float(full_penalty(basis.eigenvalues, [size], l2)[0])
    shrunk = 1.0 / (basis.eigenvalues + mu)
    mean = basis.targets * shrunk[:, None]
    trace = float(((basis.eigenvalues + l2) * shrunk**2).sum())
    spread = shrunk * np.sqrt(max(mu - l2, 0.0) / trace)
    root = _root(mean.T @ mean)
    if turned:
        return ExchangeableHeads(mean, root, None, spread)
    return ExchangeableHeads(basis.vectors @ mean, root, basis.vectors, spread)


def neuron_heads(
    basis: Eigenbasis, size: int, l2: float, start: FloatArray | None = None
) -> tuple[Heads, FloatArray | None]:
    """Return the law of heads on ``size`` random neurons with a penalty for each neuron.

    Parameters
    ----------
    basis: the training set.
    size: number of neurons k.
    l2: the subset's penalty.
    start: (n_neurons,) penalties relative to those of exchangeable neurons, from a size nearby.

    Returns
    -------
    The heads, and the relative penalties to start the next size from.
    """
    if size == basis.n_neurons:
        return exchangeable_heads(basis, size, l2), start
    common = float(full_penalty(basis.eigenvalues, [size], l2)[0]) - l2
    first = np.full(basis.n_neurons, common) if start is None else common * start
    share = size / basis.n_neurons
    found = neuron_penalties(basis.second_moment, share, l2, first)
    return heads_of_medium(found, basis.cross_moment, share), found.penalties / common


def heads_of_medium(found: NeuronPenalties, cross: FloatArray, share: float) -> NeuronHeads:
    """Return mean and scatter of heads from the penalties of the neurons.

    The scatter sums the ladder of repeated shocks, ``V = (diag(g/m) - G o G)^-1``: a response to
    x has covariance ``sum_ij V_ij B_i B_i' (Gx)_j^2`` over classes. What i = j gives is kept as
    it is; the rest has the right total for every neuron j, and over classes the shape of its
    first round of shocks.

    Parameters
    ----------
    found: penalties m and resolvent G.
    cross: (n_neurons, n_classes) X'Y/n.
    share: p = k/d.
    """
    mean = np.asarray(found.resolvent @ cross.astype(found.resolvent.dtype), dtype=np.float64)
    own = found.diagonal**2 * (share / (1.0 - share))  # g/m - g^2 without its cancellation
    energy, inverse = np.einsum("jc,jc->j", mean, mean), 1.0 / found.penalties
    total, slope = _ladder(found, own, np.stack([energy, inverse]))
    shape = mean.T @ (mean * (found.coupling / own)[:, None])
    shape /= max(float(np.trace(shape)), _TINY)
    shared = np.maximum(total - energy / own, 0.0)
    # d m / d p = -V (1/m) is what one more neuron does to the penalties.
    step = slope * np.sqrt(share * (1.0 - share) / own.size)
    root = _root(shape)
    white = mean @ np.linalg.pinv(root, rcond=1e-6).T
    weight, room = np.einsum("jc,jc->j", white, white), shared * own
    both = np.maximum(weight + room, _TINY)
    return NeuronHeads(
        mean=mean,
        resolvent=found.resolvent,
        root=root,
        own=1.0 / np.sqrt(own),
        shared=np.sqrt(shared),
        count_own=step * np.sqrt(own) * weight / both,
        count_shared=(step * np.sqrt(own * room) / both)[:, None] * white,
    )


def _ladder(found: NeuronPenalties, own: FloatArray, sides: FloatArray) -> FloatArray:
    """Return ``V side`` of every side (n_sides, n_neurons), by preconditioned conjugate gradients.

    V has no negative entry: each of its rounds of shocks adds, so at least the first is kept.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    squares = found.resolvent * found.resolvent
    np.fill_diagonal(squares, 0.0)
    size = own.size
    ladder = LinearOperator(
        (size, size), matvec=lambda v: own * v - squares @ v.astype(squares.dtype), dtype=np.float64
    )
    first = LinearOperator((size, size), matvec=lambda v: v / own, dtype=np.float64)
    solved = [
        cg(ladder, side, x0=side / own, rtol=_LADDER, maxiter=50, M=first)[0] for side in sides
    ]
    return np.asarray(np.maximum(np.stack(solved), sides / own))


def _root(covariance: FloatArray) -> FloatArray:
    """Return R with R R' = covariance, of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _normals(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal((count, *shape), dtype=np.float32)


def _along(matrix: NDArray[Any], shocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply every draw by the same matrix, in one product."""
    pairs, d, classes = shocks.shape
    flat = np.ascontiguousarray(shocks.transpose(1, 0, 2)).reshape(d, pairs * classes)
    turned = matrix.astype(np.float32, copy=False) @ flat
    return np.ascontiguousarray(turned.reshape(d, pairs, classes).transpose(1, 0, 2))
