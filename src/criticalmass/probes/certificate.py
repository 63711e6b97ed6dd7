"""Proof of a fit: a rigorous bound on objective minus optimum, at the cost of one pass.

For mean cross-entropy plus l2/2 ||W||^2 with a free intercept, the softmax probabilities p are a
dual point, feasible where the intercept's gradient, mean(p - y), is zero. There the duality gap
is exactly ||grad_W||^2 / (2 l2). So the intercepts are first brought to their optimum for the
given weights (Newton's method on stored logits, in float64, without touching the data again),
and the gap is read off the gradient there. What is left of mean(p - y) is repaired by mixing a
share tau of a constant distribution into p, and the price of that is added to the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from criticalmass.probes import passes
from criticalmass.probes.blas import gemm_arguments
from criticalmass.probes.engine import Crew, Stack
from criticalmass.probes.lbfgs import Problem
from criticalmass.probes.rows import OrderedRows

_SETTLED = 1e-11
_MOST_NEWTON = 30
_LOGIT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was proved of one fit.

    Parameters
    ----------
    objective: mean cross-entropy + l2/2 ||W||^2 at ``weights`` and ``intercepts``.
    gap: upper bound on objective - optimum, same unit.
    intercepts: (C,) float64, optimal for the weights.
    """

    objective: float
    gap: float
    intercepts: NDArray[np.float64]

    @property
    def relative(self) -> float:
        """Return the gap over the objective."""
        return self.gap / max(self.objective, 1e-300)


def certify(rows: OrderedRows, problems: Sequence[Problem], crew: Crew) -> list[Certificate]:
    """Certify problems in place: their intercepts move to the optimum for their weights.

    Parameters
    ----------
    rows: the training rows in the problems' order, columns of unit variance or zero.
    problems: fits on prefixes of that order.
    crew: the threads.
    """
    done: dict[int, Certificate] = {}
    by_size = sorted(problems, key=lambda p: -p.k)
    n_classes = problems[0].n_classes
    at_once = max(1, _LOGIT_BYTES // (4 * rows.n * n_classes))
    for first in range(0, len(by_size), at_once):
        group = by_size[first : first + at_once]
        for problem, certificate in zip(group, _certify_group(rows, group, crew), strict=True):
            problem.intercepts = certificate.intercepts
            problem.passes += 1
            done[id(problem)] = certificate
    return [done[id(p)] for p in problems]


def _certify_group(rows: OrderedRows, group: Sequence[Problem], crew: Crew) -> list[Certificate]:
    c = group[0].n_classes
    stack = Stack.of([(p.weights, p.intercepts) for p in group])
    logits = np.empty((len(group), c, rows.n), np.float32)
    _fill_logits(rows, stack, logits, crew)
    y = np.concatenate([part.copy() for _, part in rows.blocks()])
    settled: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]] = [
        (0.0, np.empty(0), np.empty(0))
    ] * len(group)

    def settle(i: int) -> None:
        settled[i] = _settle(logits[i], y, group[i].intercepts)

    crew.each(settle, len(group))
    gradients = _residual_gradient(rows, stack, logits, crew)
    return [
        _conclude(p, settled[i], gradients[i * c : (i + 1) * c, : p.k]) for i, p in enumerate(group)
    ]


def _fill_logits(rows: OrderedRows, stack: Stack, logits: NDArray[np.float32], crew: Crew) -> None:
    flat = logits.reshape(-1, rows.n)
    done = 0
    for x, _ in rows.blocks():

        def work(_: int, a: int, b: int, x: Any = x, done: int = done) -> None:
            passes.logits(
                x[a:b], stack.weights, *stack.stairs, flat[:, done + a : done + b], gemm_arguments()
            )

        crew.run(work, x.shape[0])
        done += x.shape[0]


def _residual_gradient(
    rows: OrderedRows, stack: Stack, residuals: NDArray[np.float32], crew: Crew
) -> NDArray[np.float32]:
    flat = residuals.reshape(-1, rows.n)
    sums = [np.zeros_like(stack.weights) for _ in range(crew.n_threads)]
    done = 0
    for x, _ in rows.blocks():

        def work(i: int, a: int, b: int, x: Any = x, done: int = done) -> None:
            passes.add_gradient(
                x[a:b], flat[:, done + a : done + b], *stack.stairs, sums[i], gemm_arguments()
            )

        crew.run(work, x.shape[0])
        done += x.shape[0]
    for part in sums[1:]:
        sums[0] += part
    return sums[0] / np.float32(rows.n)


def _settle(
    logits: NDArray[np.float32], y: NDArray[np.int64], intercepts: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Minimise over the intercepts; turns the logits into residuals p - y.

    The Hessian is formed once: from a nearly optimal start the same one serves every step.
    Returns the mean cross-entropy, the intercepts, and what is left of mean(p - y).
    """
    n_classes, n = logits.shape
    prior = np.bincount(y, minlength=n_classes) / n
    bits = np.empty(passes.CHUNK, np.int64)
    room = np.empty((n_classes + 2, passes.CHUNK))
    scratch = (room[:n_classes], room[n_classes], room[n_classes + 1], bits, bits.view(np.float64))
    mean = np.zeros(n_classes)
    b = intercepts.copy()
    loss = _moments(logits, y, b, mean, scratch) / n
    excess = mean / n - prior
    solve = None
    for _ in range(_MOST_NEWTON):
        if float(np.abs(excess).max()) < _SETTLED:
            break
        if solve is None:
            solve = _hessian_factor(logits, b, mean / n)
        trial = b - cho_solve(solve, excess)
        value = _moments(logits, y, trial, mean, scratch) / n
        if not value <= loss + 1e-14 * abs(loss):
            break
        b, loss, excess = trial, value, mean / n - prior
    _moments(logits, y, b, mean, scratch)
    _residuals(logits, y, b, scratch)
    return loss, b, mean / n - prior


def _hessian_factor(
    logits: NDArray[np.float32], b: NDArray[np.float64], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], bool]:
    """Factor the intercepts' Hessian, with the direction that shifts all of them made definite."""
    n_classes, n = logits.shape
    total = np.zeros((n_classes, n_classes), np.float64)
    rowwise = np.empty((3, passes.CHUNK), np.float32)
    square = np.empty((n_classes, n_classes), np.float32)
    bias = b.astype(np.float32)
    arguments = gemm_arguments()
    for start in range(0, n, passes.CHUNK):
        z = logits[:, start : start + passes.CHUNK].copy()
        passes.softmax(z, bias, rowwise, rowwise[2].view(np.int32))
        passes.add_square(z, square, arguments)
        total += square
    hessian = np.diag(mean) - total / n
    level = float(np.trace(hessian)) / n_classes
    hessian += level / n_classes
    # float32 probabilities leave errors of about 1e-7; a ridge of that size keeps it definite.
    hessian.flat[:: n_classes + 1] += 1e-6 * level + 1e-12
    factor: tuple[NDArray[np.float64], bool] = cho_factor(hessian, lower=True)
    return factor


def _conclude(
    problem: Problem,
    settled: tuple[float, NDArray[np.float64], NDArray[np.float64]],
    residual: NDArray[np.float32],
) -> Certificate:
    loss, b, excess = settled
    k, l2 = problem.k, problem.l2
    weights = problem.weights.astype(np.float64)
    gradient = residual.astype(np.float64) + l2 * weights
    square = float((gradient**2).sum())
    above = np.maximum(excess, 0.0)
    tau = float(np.max(above / (problem.prior + above)))
    # ||X'(q - y)/n|| <= sqrt(2 k): unit columns, residuals within the simplex.
    largest = np.sqrt(2.0 * k)
    norm = float(np.sqrt((weights**2).sum())) + np.sqrt(square) / l2
    mixing = tau * (np.log(b.size) + norm * largest) + (tau * largest) ** 2 / (2 * l2)
    gap = max(square / (2 * l2) + float(excess @ b), 0.0) + mixing
    objective = loss + 0.5 * l2 * float((weights**2).sum())
    problem.value = objective
    return Certificate(objective, float(gap), b)


_LOG2E = 1.4426950408889634
# Taylor coefficients of 2**f, f in [-1/2, 1/2]; the remainder is under 1e-15 relative.
_POWERS = (
    0.6931471805599453,
    0.24022650695910072,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.00015403530393381608,
    1.5252733804059841e-05,
    1.3215486790144307e-06,
    1.0178086009239699e-07,
    7.054911620801121e-09,
    4.4455382718708116e-10,
    2.5678435993488206e-11,
)


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "nnan", "ninf"})
def _exponentials(z: Any, shift: Any, power: Any, bits: Any) -> None:
    """Replace z by exp(z - shift), elementwise, in float64."""
    n = z.shape[0]
    for i in range(n):
        t = max((z[i] - shift[i]) * _LOG2E, -1020.0)
        whole = np.floor(t + 0.5)
        bits[i] = (np.int64(whole) + np.int64(1023)) << np.int64(52)
        f = t - whole
        value = _POWERS[11]
        for j in range(10, -1, -1):
            value = _POWERS[j] + f * value
        z[i] = 1.0 + f * value
    for i in range(n):
        z[i] *= power[i]


@njit(nogil=True, cache=True, fastmath={"contract", "nsz", "nnan", "ninf"})
def _probabilities(logits: Any, b: Any, scratch: Any) -> None:
    """Leave the float64 softmax of some samples, with its maxima and sums, in the scratch."""
    p, top, total, bits, power = scratch
    n_classes, n = logits.shape
    for c in range(n_classes):
        for i in range(n):
            p[c, i] = np.float64(logits[c, i]) + b[c]
    for i in range(n):
        top[i] = p[0, i]
        total[i] = 0.0
    for c in range(1, n_classes):
        for i in range(n):
            top[i] = max(top[i], p[c, i])
    for c in range(n_classes):
        _exponentials(p[c, :n], top, power, bits)
        for i in range(n):
            total[i] += p[c, i]
    for c in range(n_classes):
        for i in range(n):
            p[c, i] /= total[i]


@njit(nogil=True, cache=True)
def _moments(logits: Any, y: Any, b: Any, mean: Any, scratch: Any) -> float:
    """Sum cross-entropies (returned) and probabilities (in ``mean``) over samples."""
    p, top, total, _, _ = scratch
    n_classes, n = logits.shape
    width = p.shape[1]
    mean[:] = 0.0
    loss = 0.0
    for start in range(0, n, width):
        stop = min(start + width, n)
        _probabilities(logits[:, start:stop], b, scratch)
        for i in range(stop - start):
            picked = np.float64(logits[y[start + i], start + i]) + b[y[start + i]]
            loss += top[i] + np.log(total[i]) - picked
        for c in range(n_classes):
            part = 0.0
            for i in range(stop - start):
                part += p[c, i]
            mean[c] += part
    return loss


@njit(nogil=True, cache=True)
def _residuals(logits: Any, y: Any, b: Any, scratch: Any) -> None:
    """Replace logits by p - y, rounded to float32 once."""
    p = scratch[0]
    n_classes, n = logits.shape
    width = p.shape[1]
    for start in range(0, n, width):
        stop = min(start + width, n)
        _probabilities(logits[:, start:stop], b, scratch)
        for i in range(stop - start):
            p[y[start + i], i] -= 1.0
        for c in range(n_classes):
            for i in range(stop - start):
                logits[c, start + i] = p[c, i]
