"""The passes on the threads of this machine.

Rows are split between threads, each with its own sums, which are added in a fixed order: the same
number of threads gives the same bytes. BLAS itself runs on one thread inside.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.core.rows import Rows
from criticalmass.core.threads import thread_count
from criticalmass.measures.logistic import cpu_kernels, softmax
from criticalmass.measures.logistic.blas import gemm_arguments
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Whitening
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.training_rows import OrderedRows, second_moment
from criticalmass.measures.scaling import Scaling, column_scaling


@dataclass
class Threads:
    """The crew of compiled passes: a pool of threads, each with its own scratch."""

    n_threads: int = field(default_factory=thread_count)
    # More stacked columns than this no longer speed the matrix products up, but leave the cache.
    most_columns: int = 640
    # With this many classes a single problem already fills the matrix product.
    single_classes: int = 64
    _pool: ThreadPoolExecutor | None = None
    _limits: Any = None

    def __enter__(self) -> Threads:
        """Start the threads and hold BLAS to one thread each."""
        self._limits = threadpool_limits(1)
        self._pool = ThreadPoolExecutor(self.n_threads)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads and free BLAS."""
        assert self._pool is not None
        self._pool.shutdown()
        self._limits.restore_original_limits()

    def run(self, work: Callable[[int, int, int], None], n: int) -> None:
        """Call ``work(thread, start, stop)`` on as many slices of ``range(n)`` as threads."""
        assert self._pool is not None
        share = -(-n // self.n_threads)
        share = -(-share // cpu_kernels.CHUNK) * cpu_kernels.CHUNK
        edges = [(i, i * share, min(n, (i + 1) * share)) for i in range(self.n_threads)]
        jobs = [self._pool.submit(work, *edge) for edge in edges if edge[1] < edge[2]]
        for job in jobs:
            job.result()

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i, spread over the threads."""
        assert self._pool is not None
        list(self._pool.map(work, range(n)))

    def whitening(self, moment: FloatArray) -> Whitening:
        """Return the preconditioner of a second moment, (k, k)."""
        return Whitening(moment)

    def scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        return column_scaling(rows)

    def moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns, (d, d)."""
        return second_moment(rows, scaling)

    def evaluate(
        self, rows: OrderedRows, stack: Stack, wanted: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass over the rows and return what it found for every head of the stack."""
        return _evaluate(rows, stack, wanted, self)

    def classify(self, rows: OrderedRows, stack: Stack) -> NDArray[np.int32]:
        """Return the class of every row under every head, (n_heads, n)."""
        return classes_of(rows, stack, self)

    def logits(self, rows: OrderedRows, stack: Stack) -> StoredLogits:
        """Make one pass that stores the logits of all heads."""
        return StoredLogits(rows, stack, self)


def _scratch(n_columns: int, n_classes: int) -> tuple[Any, ...]:
    rowwise = np.empty((3, cpu_kernels.CHUNK), np.float32)
    return (
        np.empty((n_columns, cpu_kernels.CHUNK), np.float32),
        rowwise,
        rowwise[2].view(np.int32),
        np.empty(cpu_kernels.CHUNK, np.float32),
        np.empty((n_classes, n_classes), np.float32),
        gemm_arguments(),
    )


def _evaluate(
    rows: OrderedRows, stack: Stack, wanted: NDArray[np.bool_], crew: Threads
) -> list[Evaluation]:
    return evaluations(sums_over(rows, stack, wanted, crew), stack, wanted, rows.n)


class Runner(Protocol):
    """Threads among which rows are split."""

    n_threads: int

    def run(self, work: Callable[[int, int, int], None], n: int) -> None:
        """Call ``work(thread, start, stop)`` on slices of ``range(n)``."""
        ...


def sums_over(
    rows: OrderedRows, stack: Stack, wanted: NDArray[np.bool_], crew: Runner
) -> tuple[NDArray[Any], ...]:
    """Make one pass; return the sums over rows of losses, gradient, excess and squares."""
    c, n_problems = stack.n_classes, len(stack.sizes)
    sums: list[tuple[NDArray[Any], ...]] = [
        (
            np.zeros(n_problems),
            np.zeros_like(stack.weights),
            np.zeros(n_problems * c),
            np.zeros((n_problems, c, c) if wanted.any() else (n_problems, 0, 0)),
        )
        for _ in range(crew.n_threads)
    ]
    scratch = [_scratch(n_problems * c, c) for _ in range(crew.n_threads)]
    for x, y in rows.blocks():

        def work(i: int, a: int, b: int, x: FloatArray = x, y: NDArray[np.int64] = y) -> None:
            data = (x[a:b], y[a:b])
            cpu_kernels.accumulate(data, stack.heads(wanted), stack.stairs, sums[i], scratch[i])

        crew.run(work, x.shape[0])
    for part in sums[1:]:
        for total, more in zip(sums[0], part, strict=True):
            np.add(total, more, out=total)
    return sums[0]


def evaluations(
    sums: tuple[NDArray[Any], ...], stack: Stack, wanted: NDArray[np.bool_], n: int
) -> list[Evaluation]:
    """Turn sums over ``n`` rows into what every head of the stack is told."""
    losses, gradient, excess, squares = sums
    c = stack.n_classes
    gradient *= np.float32(1.0 / n)
    return [
        Evaluation(
            loss=float(losses[p]) / n,
            weights=gradient[p * c : (p + 1) * c, :k],
            intercepts=excess[p * c : (p + 1) * c] / n,
            square=squares[p] / n if wanted[p] else None,
        )
        for p, k in enumerate(stack.sizes)
    ]


def classes_of(rows: OrderedRows, stack: Stack, crew: Runner) -> NDArray[np.int32]:
    """Return the class of every row under every head, (n_heads, n)."""
    out = np.empty((len(stack.sizes), rows.n), np.int32)
    nothing = np.zeros(len(stack.sizes), bool)
    done = 0
    for x, _ in rows.blocks():

        def work(_: int, a: int, b: int, x: FloatArray = x, done: int = done) -> None:
            own = out[:, done + a : done + b]
            scratch = _scratch(stack.weights.shape[0], stack.n_classes)
            cpu_kernels.classify(x[a:b], stack.heads(nothing), stack.stairs, own, scratch)

        crew.run(work, x.shape[0])
        done += x.shape[0]
    return out


class StoredLogits:
    """Logits of a stack's heads over all rows, in memory.

    Parameters
    ----------
    rows: in the order's columns.
    stack: the heads.
    crew: the threads.
    """

    def __init__(self, rows: OrderedRows, stack: Stack, crew: Runner) -> None:
        self._rows, self._stack, self._crew = rows, stack, crew
        self.n, c = rows.n, stack.n_classes
        self._flat = np.empty((stack.weights.shape[0], rows.n), np.float32)
        self._heads = self._flat.reshape(-1, c, rows.n)
        done = 0
        for x, _ in rows.blocks():

            def work(_: int, a: int, b: int, x: FloatArray = x, done: int = done) -> None:
                z = self._flat[:, done + a : done + b]
                cpu_kernels.logits(x[a:b], stack.weights, *stack.stairs, z, gemm_arguments())

            crew.run(work, x.shape[0])
            done += x.shape[0]

    def moments(self, i: int, b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Sum head i's cross-entropies and its probabilities, (C,)."""
        mean = np.zeros(b.size)
        loss = softmax.moments(self._heads[i], self._rows.y, b, mean, _room(b.size))
        return float(loss), mean

    def square(self, i: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum p p' of head i over rows, (C, C)."""
        logits = self._heads[i]
        total = np.zeros((b.size, b.size), np.float64)
        rowwise = np.empty((3, cpu_kernels.CHUNK), np.float32)
        square = np.empty((b.size, b.size), np.float32)
        bias = b.astype(np.float32)
        arguments = gemm_arguments()
        for start in range(0, logits.shape[1], cpu_kernels.CHUNK):
            z = logits[:, start : start + cpu_kernels.CHUNK].copy()
            cpu_kernels.softmax(z, bias, rowwise, rowwise[2].view(np.int32))
            cpu_kernels.add_square(z, square, arguments)
            total += square
        return total

    def to_residuals(self, i: int, b: NDArray[np.float64]) -> None:
        """Replace head i's logits by p - y."""
        softmax.residuals(self._heads[i], self._rows.y, b, _room(b.size))

    def gradient(self) -> FloatArray:
        """Return the mean of residual times row, (n_heads * C, k)."""
        mean: FloatArray = self.gradient_sum() / np.float32(self._rows.n)
        return mean

    def gradient_sum(self) -> FloatArray:
        """Return the sum of residual times row, (n_heads * C, k)."""
        crew, stairs = self._crew, self._stack.stairs
        sums = [np.zeros_like(self._stack.weights) for _ in range(crew.n_threads)]
        done = 0
        for x, _ in self._rows.blocks():

            def work(i: int, a: int, b: int, x: FloatArray = x, done: int = done) -> None:
                z = self._flat[:, done + a : done + b]
                cpu_kernels.add_gradient(x[a:b], z, *stairs, sums[i], gemm_arguments())

            crew.run(work, x.shape[0])
            done += x.shape[0]
        for part in sums[1:]:
            sums[0] += part
        return sums[0]


def _room(n_classes: int) -> tuple[NDArray[Any], ...]:
    bits = np.empty(cpu_kernels.CHUNK, np.int64)
    room = np.empty((n_classes + 2, cpu_kernels.CHUNK))
    return room[:n_classes], room[n_classes], room[n_classes + 1], bits, bits.view(np.float64)
