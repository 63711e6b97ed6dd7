"""The distribution of the heads of ridge probes on k random neurons: mean and deviation.

A head on a subset is a head on the whole layer with zeros at the other neurons. Its mean over
subsets is the whole layer's head at another penalty. The deviation of one subset's head from the
mean affects the responses to all test samples together. Both follow from
`criticalmass.theory.degrees_of_freedom` (exchangeable neurons) or
`criticalmass.theory.neuron_penalties` (a penalty per neuron). Derivation: docs/theory.md, law 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.theory.eigenbasis import Eigenbasis
from criticalmass.theory.neuron_penalties import NeuronPenalties, neuron_penalties

FloatArray = NDArray[np.float64]
_NEUMANN_TOLERANCE = 1e-3  # relative residual at which the sum of the Neumann series ends
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class ExchangeableHeads:
    """Heads of random subsets of exchangeable neurons.

    Attributes
    ----------
    mean: (n_neurons, n_classes) the whole layer's head at penalty mu.
    root: (n_classes, n_classes) a square root of B'B, the classes' covariance.
    vectors: (n_neurons, n_neurons) eigenvectors along which the deviation is drawn; None if rows
        and heads are in the eigenbasis already.
    spread: (n_neurons,) standard deviation of the deviation along every eigenvector.
    """

    mean: FloatArray
    root: FloatArray
    vectors: FloatArray | None
    spread: FloatArray

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Draw deviations of ``count`` heads from the mean, (count, n_neurons, n_classes)."""
        noise = _normals(rng, count, self.mean.shape) @ self.root.T.astype(np.float32)
        noise *= self.spread[:, None].astype(np.float32)
        return noise if self.vectors is None else _multiply_draws(self.vectors, noise)


@dataclass(frozen=True, eq=False)
class NeuronHeads:
    """Heads of random subsets where each neuron has its own penalty.

    The deviation from the mean is ``G noise``. The noise of a neuron has two parts: its own
    choice acts along its own mean head, ``own_j B_j``; the response to the choice of others has
    the standard deviation ``shared_j`` and a common covariance over classes. The number of kept
    neurons is fixed, so the component of the noise that changes it is removed; ``count_own`` and
    ``count_shared`` describe that component.

    Attributes
    ----------
    mean: (n_neurons, n_classes) B = G b.
    resolvent: (n_neurons, n_neurons) G.
    root: (n_classes, n_classes) square root of the covariance over classes of the shared noise.
    own, shared: (n_neurons,) standard deviations of the two parts of the noise.
    count_own: (n_neurons,) covariance of the number of kept neurons with the own noise.
    count_shared: (n_neurons, n_classes) its covariance with the shared noise.
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
        noise = shared @ self.root.T.astype(np.float32)
        noise *= self.shared[:, None].astype(np.float32)
        noise += own[:, :, None] * (self.own[:, None] * self.mean).astype(np.float32)
        return _multiply_draws(self.resolvent, noise)

    def _fix_count(self, own: NDArray[np.float32], shared: NDArray[np.float32]) -> None:
        """Remove the component that changes the number of kept neurons from draws, in place.

        The draws are standard normal: ``own`` (count, n_neurons), ``shared`` (count, n_neurons,
        n_classes).
        """
        a, b = self.count_own.astype(np.float32), self.count_shared.astype(np.float32)
        squared_norm = float(a @ a + (b * b).sum())
        if squared_norm == 0.0:
            return
        factor = np.sqrt(max(1.0 - squared_norm, 0.0))
        component = own @ a + np.einsum("rjc,jc->r", shared, b)
        component *= (1.0 - factor) / squared_norm
        own -= component[:, None] * a
        shared -= component[:, None, None] * b


RidgeHeads = ExchangeableHeads | NeuronHeads


def exchangeable_heads(
    basis: Eigenbasis, size: int, l2: float, *, in_eigenbasis: bool = False
) -> ExchangeableHeads:
    """Return the heads on ``size`` random neurons, as if neurons were exchangeable.

    The mean has the penalty mu of `Eigenbasis.full_penalty`. The covariance of the responses to
    x and x' is ``(mu - l2) x'(A + mu)^-2 x' / tr[(A + l2)(A + mu)^-2]`` times B'B.

    Parameters
    ----------
    basis: the training set.
    size: number of neurons k.
    l2: the subset's penalty.
    in_eigenbasis: whether the heads will be applied to rows in the eigenbasis.
    """
    mu = basis.full_penalty(size, l2)
    shrunk = 1.0 / (basis.eigenvalues + mu)
    mean = basis.targets * shrunk[:, None]
    trace = float(((basis.eigenvalues + l2) * shrunk**2).sum())
    spread = shrunk * np.sqrt(max(mu - l2, 0.0) / trace)
    root = _root(mean.T @ mean)
    if in_eigenbasis:
        return ExchangeableHeads(mean, root, None, spread)
    return ExchangeableHeads(basis.vectors @ mean, root, basis.vectors, spread)


def neuron_heads(
    basis: Eigenbasis, size: int, l2: float, start: FloatArray | None = None
) -> tuple[RidgeHeads, FloatArray | None]:
    """Return the heads on ``size`` random neurons, with a penalty for each neuron.

    Parameters
    ----------
    basis: the training set.
    size: number of neurons k.
    l2: the subset's penalty.
    start: (n_neurons,) start of the solver: penalties relative to that of exchangeable neurons,
        from a similar size.

    Returns
    -------
    The heads, and the relative penalties from which to start the next size.
    """
    if size == basis.n_neurons:
        return exchangeable_heads(basis, size, l2), start
    common = basis.full_penalty(size, l2) - l2
    first = np.full(basis.n_neurons, common) if start is None else common * start
    share = size / basis.n_neurons
    medium = neuron_penalties(basis.second_moment, share, l2, first)
    return heads_of_medium(medium, basis.cross_moment, share), medium.penalties / common


def heads_of_medium(medium: NeuronPenalties, cross: FloatArray, share: float) -> NeuronHeads:
    """Return mean and deviation of heads from the penalties of the neurons.

    The linear response of the penalties is the Neumann series ``V = (diag(g/m) - G o G)^-1``: a
    response to x has the covariance ``sum_ij V_ij B_i B_i' (Gx)_j^2`` over classes. The terms
    i = j are exact. The sum of the others has the exact total for every neuron j, and over
    classes the covariance of the first term of the series.

    Parameters
    ----------
    medium: penalties m and resolvent G.
    cross: (n_neurons, n_classes) X'Y/n.
    share: p = k/d.
    """
    mean = np.asarray(medium.resolvent @ cross.astype(medium.resolvent.dtype), dtype=np.float64)
    diagonal = medium.diagonal**2 * (share / (1.0 - share))  # g/m - g^2 without its cancellation
    energy, inverse = np.einsum("jc,jc->j", mean, mean), 1.0 / medium.penalties
    total, slope = _sum_neumann_series(medium, diagonal, np.stack([energy, inverse]))
    covariance = mean.T @ (mean * (medium.coupling / diagonal)[:, None])
    covariance /= max(float(np.trace(covariance)), _TINY)
    shared = np.maximum(total - energy / diagonal, 0.0)
    # d m / d p = -V (1/m) is the change of the penalties with the number of neurons.
    step = slope * np.sqrt(share * (1.0 - share) / diagonal.size)
    root = _root(covariance)
    white = mean @ np.linalg.pinv(root, rcond=1e-6).T
    own_weight, shared_weight = np.einsum("jc,jc->j", white, white), shared * diagonal
    weight = np.maximum(own_weight + shared_weight, _TINY)
    return NeuronHeads(
        mean=mean,
        resolvent=medium.resolvent,
        root=root,
        own=1.0 / np.sqrt(diagonal),
        shared=np.sqrt(shared),
        count_own=step * np.sqrt(diagonal) * own_weight / weight,
        count_shared=(step * np.sqrt(diagonal * shared_weight) / weight)[:, None] * white,
    )


def _sum_neumann_series(
    medium: NeuronPenalties, diagonal: FloatArray, sides: FloatArray
) -> FloatArray:
    """Return ``V side`` for every side (n_sides, n_neurons), by conjugate gradients.

    V has no negative entry: every term of the series adds, so the result is at least the first
    term, ``side / diagonal``, which is also the preconditioner and the start.
    """
    squares = medium.resolvent * medium.resolvent
    np.fill_diagonal(squares, 0.0)
    sums = [_conjugate_gradients(squares, diagonal, side) for side in sides]
    return np.asarray(np.maximum(np.stack(sums), sides / diagonal))


def _conjugate_gradients(
    squares: NDArray[Any], diagonal: FloatArray, side: FloatArray, most_rounds: int = 50
) -> FloatArray:
    """Solve ``(diag(diagonal) - squares) x = side`` (Hestenes and Stiefel 1952).

    It is `scipy.sparse.linalg.cg`, whose import takes as long as the solution of all sizes.
    """

    def multiply(v: FloatArray) -> FloatArray:
        return np.asarray(diagonal * v - squares @ v.astype(squares.dtype), dtype=np.float64)

    x = side / diagonal
    residual = side - multiply(x)
    direction, before = np.zeros_like(side), 1.0
    tolerance = _NEUMANN_TOLERANCE * float(np.linalg.norm(side))
    for _ in range(most_rounds):
        if np.linalg.norm(residual) < tolerance:
            break
        scaled = residual / diagonal
        now = float(residual @ scaled)
        direction = scaled + (now / before) * direction
        product = multiply(direction)
        step = now / float(direction @ product)
        x += step * direction
        residual -= step * product
        before = now
    return x


def _root(covariance: FloatArray) -> FloatArray:
    """Return R with R R' = covariance, for a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _normals(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal((count, *shape), dtype=np.float32)


def _multiply_draws(matrix: NDArray[Any], draws: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply each of (count, n_neurons, n_classes) draws by a matrix, in one product."""
    count, d, n_classes = draws.shape
    flat = np.ascontiguousarray(draws.transpose(1, 0, 2)).reshape(d, count * n_classes)
    products = matrix.astype(np.float32, copy=False) @ flat
    return np.ascontiguousarray(products.reshape(d, count, n_classes).transpose(1, 0, 2))
