"""Passes over the rows with compiled kernels, on the threads of this machine.

Rows are split between threads. Each thread has its own sums, which are added in a fixed order: the
same number of threads gives the same bytes. BLAS itself runs on one thread inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.blas import gemm_arguments
from criticalmass.core.rows import Rows
from criticalmass.core.threads import limit_libraries, thread_count
from criticalmass.measures.logistic import cpu_kernels, softmax
from criticalmass.measures.logistic.lbfgs import Evaluation
from criticalmass.measures.logistic.preconditioner import FloatArray, Preconditioner
from criticalmass.measures.logistic.stacked_heads import StackedHeads
from criticalmass.measures.logistic.training_rows import OrderedRows, second_moment
from criticalmass.measures.scaling import Scaling, column_scaling

Sums = tuple[NDArray[Any], ...]


class RowSplitter(Protocol):
    """Splits rows between threads.

    Attributes
    ----------
    n_threads: number of threads.
    """

    n_threads: int

    def run(self, work: Callable[[int, int, int], None], n: int) -> None:
        """Call ``work(thread, start, stop)`` on slices of ``range(n)``."""
        ...


class CpuExecutor:
    """Executor of compiled passes: a pool of threads, each with its own buffers.

    Parameters
    ----------
    threads: number of threads; all cores by default.
    """

    # More stacked columns do not speed the matrix products up, and they leave the cache.
    max_columns = 640
    # With this many classes a single problem already fills the matrix product.
    single_classes = 64

    def __init__(self, threads: int | None = None) -> None:
        self.n_threads = threads or thread_count()
        self._pool: ThreadPoolExecutor | None = None
        self._limits: Any = None

    def __enter__(self) -> CpuExecutor:
        self._limits = limit_libraries(1, api=None)
        self._pool = ThreadPoolExecutor(self.n_threads)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._pool is not None
        self._pool.shutdown()
        self._limits.restore_original_limits()

    def run(self, work: Callable[[int, int, int], None], n: int) -> None:
        """Call ``work(thread, start, stop)`` on as many slices of ``range(n)`` as threads."""
        assert self._pool is not None
        size = -(-n // self.n_threads)
        size = -(-size // cpu_kernels.CHUNK) * cpu_kernels.CHUNK
        slices = [(i, i * size, min(n, (i + 1) * size)) for i in range(self.n_threads)]
        futures = [self._pool.submit(work, *part) for part in slices if part[1] < part[2]]
        for future in futures:
            future.result()

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i in ``range(n)`` in the pool."""
        assert self._pool is not None
        list(self._pool.map(work, range(n)))

    def make_preconditioner(self, moment: FloatArray) -> Preconditioner:
        """Return the preconditioner of a second moment."""
        return Preconditioner(moment)

    def column_scaling(self, rows: Rows) -> Scaling:
        """Return means and scales of raw columns."""
        return column_scaling(rows)

    def second_moment(self, rows: Rows, scaling: Scaling) -> FloatArray:
        """Return the second moment of standardised columns."""
        return second_moment(rows, scaling)

    def evaluate(
        self, rows: OrderedRows, heads: StackedHeads, with_square: NDArray[np.bool_]
    ) -> list[Evaluation]:
        """Make one pass and return loss and gradient of every head."""
        sums = pass_sums(rows, heads, with_square, self)
        return evaluations_by_head(sums, heads, with_square, rows.n)

    def classify(self, rows: OrderedRows, heads: StackedHeads) -> NDArray[np.int32]:
        """Return the class of every row under every head."""
        return classify_rows(rows, heads, self)

    def logits(self, rows: OrderedRows, heads: StackedHeads) -> CpuLogits:
        """Make one pass that stores the logits of all heads."""
        return CpuLogits(rows, heads, self)


def pass_sums(
    rows: OrderedRows, heads: StackedHeads, with_square: NDArray[np.bool_], splitter: RowSplitter
) -> Sums:
    """Make one pass; return the sums over rows of losses, gradient, p - y and p p'."""
    c, n_heads = heads.n_classes, heads.n_heads
    sums: list[Sums] = [
        (
            np.zeros(n_heads),
            np.zeros_like(heads.weights),
            np.zeros(n_heads * c),
            np.zeros((n_heads, c, c) if with_square.any() else (n_heads, 0, 0)),
        )
        for _ in range(splitter.n_threads)
    ]
    buffers = [_pass_buffers(n_heads * c, c) for _ in range(splitter.n_threads)]
    arguments = heads.kernel_arguments(with_square)
    for x, y in rows.blocks():

        def work(i: int, a: int, b: int, x: FloatArray = x, y: NDArray[np.int64] = y) -> None:
            data = (x[a:b], y[a:b])
            cpu_kernels.accumulate(data, arguments, heads.blocks, sums[i], buffers[i])

        splitter.run(work, x.shape[0])
    return reduce(add_sums, sums)


def add_sums(total: Sums, more: Sums) -> Sums:
    """Add sums to the first ones in place, or to copies of those that are read-only."""
    # Arrays that came from another process are read-only.
    out = tuple(np.require(array, requirements="W") for array in total)
    for array, addend in zip(out, more, strict=True):
        np.add(array, addend, out=array)
    return out


def evaluations_by_head(
    sums: Sums, heads: StackedHeads, with_square: NDArray[np.bool_], n: int
) -> list[Evaluation]:
    """Turn the sums of `pass_sums` over ``n`` rows into means for every head."""
    losses, gradient, excess, squares = sums
    c = heads.n_classes
    gradient *= np.float32(1.0 / n)
    return [
        Evaluation(
            loss=float(losses[p]) / n,
            weight_gradient=gradient[p * c : (p + 1) * c, :k],
            intercept_gradient=excess[p * c : (p + 1) * c] / n,
            square=squares[p] / n if with_square[p] else None,
        )
        for p, k in enumerate(heads.sizes)
    ]


def classify_rows(
    rows: OrderedRows, heads: StackedHeads, splitter: RowSplitter
) -> NDArray[np.int32]:
    """Return the class of every row under every head, (n_heads, n)."""
    out = np.empty((heads.n_heads, rows.n), np.int32)
    arguments = heads.kernel_arguments(np.zeros(heads.n_heads, bool))
    for start, x in _numbered_blocks(rows):

        def work(_: int, a: int, b: int, x: FloatArray = x, start: int = start) -> None:
            part = out[:, start + a : start + b]
            buffers = _pass_buffers(heads.weights.shape[0], heads.n_classes)
            cpu_kernels.classify(x[a:b], arguments, heads.blocks, part, buffers)

        splitter.run(work, x.shape[0])
    return out


class CpuLogits:
    """Logits of stacked heads over all rows, in memory.

    Parameters
    ----------
    rows: in the order's columns.
    heads: the heads.
    splitter: the threads.
    """

    def __init__(self, rows: OrderedRows, heads: StackedHeads, splitter: RowSplitter) -> None:
        self._rows, self._heads, self._splitter = rows, heads, splitter
        self.n, c = rows.n, heads.n_classes
        self._stacked = np.empty((heads.weights.shape[0], rows.n), np.float32)
        self._by_head = self._stacked.reshape(-1, c, rows.n)
        for start, x in _numbered_blocks(rows):

            def work(_: int, a: int, b: int, x: FloatArray = x, start: int = start) -> None:
                z = self._stacked[:, start + a : start + b]
                cpu_kernels.fill_logits(x[a:b], heads.weights, *heads.blocks, z, gemm_arguments())

            splitter.run(work, x.shape[0])

    def moments(self, i: int, b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Sum head i's cross-entropies and its probabilities."""
        mean = np.zeros(b.size)
        buffers = _softmax_buffers(b.size)
        loss = softmax.sum_moments(self._by_head[i], self._rows.y, b, mean, buffers)
        return float(loss), mean

    def square(self, i: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum p p' of head i over rows."""
        logits = self._by_head[i]
        total = np.zeros((b.size, b.size), np.float64)
        rowwise = np.empty((3, cpu_kernels.CHUNK), np.float32)
        square = np.empty((b.size, b.size), np.float32)
        bias = b.astype(np.float32)
        arguments = gemm_arguments()
        for start in range(0, logits.shape[1], cpu_kernels.CHUNK):
            z = logits[:, start : start + cpu_kernels.CHUNK].copy()
            cpu_kernels.softmax(z, bias, rowwise, rowwise[2].view(np.int32))
            cpu_kernels.fill_square(z, square, arguments)
            total += square
        return total

    def to_residuals(self, i: int, b: NDArray[np.float64]) -> None:
        """Replace head i's logits by p - y."""
        softmax.write_residuals(self._by_head[i], self._rows.y, b, _softmax_buffers(b.size))

    def gradient(self) -> FloatArray:
        """Return the mean of residual times row."""
        mean: FloatArray = self.gradient_sum() / np.float32(self._rows.n)
        return mean

    def gradient_sum(self) -> FloatArray:
        """Return the sum of residual times row, (n_heads * C, k)."""
        heads, splitter = self._heads, self._splitter
        sums = [np.zeros_like(heads.weights) for _ in range(splitter.n_threads)]
        for start, x in _numbered_blocks(self._rows):

            def work(i: int, a: int, b: int, x: FloatArray = x, start: int = start) -> None:
                z = self._stacked[:, start + a : start + b]
                cpu_kernels.add_gradient(x[a:b], z, *heads.blocks, sums[i], gemm_arguments())

            splitter.run(work, x.shape[0])
        for part in sums[1:]:
            sums[0] += part
        return sums[0]


def _numbered_blocks(rows: OrderedRows) -> Iterator[tuple[int, FloatArray]]:
    """Yield (number of the first row, rows) of every block."""
    start = 0
    for x, _ in rows.blocks():
        yield start, x
        start += x.shape[0]


def _pass_buffers(n_columns: int, n_classes: int) -> tuple[Any, ...]:
    """Return one thread's buffers for a pass, as `cpu_kernels.accumulate` takes them."""
    rowwise = np.empty((3, cpu_kernels.CHUNK), np.float32)
    return (
        np.empty((n_columns, cpu_kernels.CHUNK), np.float32),
        rowwise,
        rowwise[2].view(np.int32),
        np.empty(cpu_kernels.CHUNK, np.float32),
        np.empty((n_classes, n_classes), np.float32),
        gemm_arguments(),
    )


def _softmax_buffers(n_classes: int) -> tuple[NDArray[Any], ...]:
    """Return probabilities, maxima, sums, and powers of two as int64 and as float64."""
    bits = np.empty(cpu_kernels.CHUNK, np.int64)
    table = np.empty((n_classes + 2, cpu_kernels.CHUNK))
    return table[:n_classes], table[n_classes], table[n_classes + 1], bits, bits.view(np.float64)
