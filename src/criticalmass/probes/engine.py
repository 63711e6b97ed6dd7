"""Drives many softmax problems of one order through shared passes, on several cores.

Rows are split between threads, each with its own sums, which are added in a fixed order: the same
number of threads gives the same bytes. BLAS itself runs on one thread inside.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.probes import passes
from criticalmass.probes.blas import gemm_arguments
from criticalmass.probes.lbfgs import Evaluation, Problem
from criticalmass.probes.rows import OrderedRows
from criticalmass.probes.whitening import FloatArray, Whitening

# More stacked columns than this no longer speed the matrix products up, but leave the cache.
_MOST_COLUMNS = 640
# With this many classes a single problem already fills the matrix product.
_SINGLE_CLASSES = 64


@dataclass(frozen=True)
class Effort:
    """When a fit is good enough, and when it has taken too long.

    Parameters
    ----------
    tol: estimated gap over objective at which a problem retires.
    max_passes: passes over the rows after which it retires unfinished.
    """

    tol: float
    max_passes: int = 1000


@dataclass
class Crew:
    """A pool of threads, each with its own scratch."""

    n_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    _pool: ThreadPoolExecutor | None = None
    _limits: Any = None

    def __enter__(self) -> Crew:
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
        share = -(-share // passes.CHUNK) * passes.CHUNK
        edges = [(i, i * share, min(n, (i + 1) * share)) for i in range(self.n_threads)]
        jobs = [self._pool.submit(work, *edge) for edge in edges if edge[1] < edge[2]]
        for job in jobs:
            job.result()

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Call ``work(i)`` for every i, spread over the threads."""
        assert self._pool is not None
        list(self._pool.map(work, range(n)))


def _scratch(n_columns: int, n_classes: int) -> tuple[Any, ...]:
    rowwise = np.empty((3, passes.CHUNK), np.float32)
    return (
        np.empty((n_columns, passes.CHUNK), np.float32),
        rowwise,
        rowwise[2].view(np.int32),
        np.empty(passes.CHUNK, np.float32),
        np.empty((n_classes, n_classes), np.float32),
        gemm_arguments(),
    )


def _steps(sizes: Sequence[int]) -> list[int]:
    """Return the edges of the staircase, the smallest steps merged.

    A matrix product of a few columns costs its overhead; multiplying some zeros, up to a
    fiftieth of all the work, is cheaper.
    """
    steps = sorted(set(sizes))
    allowed = sum(sizes) / 50
    while len(steps) > 1:
        added = sum(steps[1] - k for k in sizes if k < steps[1])
        if added > allowed:
            break
        steps.pop(0)
    return steps


@dataclass(frozen=True, eq=False)
class Stack:
    """Heads of several problems, stacked by descending size for the staircase."""

    sizes: tuple[int, ...]
    weights: FloatArray
    intercepts: FloatArray
    n_classes: int
    stairs: tuple[NDArray[np.intp], NDArray[np.intp]]

    @classmethod
    def of(cls, heads: Sequence[tuple[FloatArray, NDArray[np.float64]]]) -> Stack:
        """Stack (weights (C, k), intercepts (C,)) pairs, given by descending k."""
        sizes = tuple(w.shape[1] for w, _ in heads)
        c = heads[0][0].shape[0]
        stacked = np.zeros((len(heads) * c, sizes[0]), np.float32)
        for i, (w, _) in enumerate(heads):
            stacked[i * c : (i + 1) * c, : w.shape[1]] = w
        steps = _steps(sizes)
        widths = [c * sum(k > below for k in sizes) for below in (0, *steps[:-1])]
        stairs = (np.array([0, *steps], np.intp), np.array(widths, np.intp))
        intercepts = np.concatenate([b for _, b in heads]).astype(np.float32)
        return cls(sizes, stacked, intercepts, c, stairs)

    def heads(self, wanted: NDArray[np.bool_]) -> tuple[Any, ...]:
        """Return the tuple that the compiled passes take."""
        return self.weights, self.intercepts, self.n_classes, wanted


def evaluate(
    rows: OrderedRows, stack: Stack, wanted: NDArray[np.bool_], crew: Crew
) -> list[Evaluation]:
    """Make one pass over the rows and return what it found for every head of the stack."""
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
            passes.accumulate(data, stack.heads(wanted), stack.stairs, sums[i], scratch[i])

        crew.run(work, x.shape[0])
    for part in sums[1:]:
        for total, more in zip(sums[0], part, strict=True):
            np.add(total, more, out=total)
    losses, gradient, excess, squares = sums[0]
    gradient *= np.float32(1.0 / rows.n)
    return [
        Evaluation(
            loss=float(losses[p]) / rows.n,
            weights=gradient[p * c : (p + 1) * c, :k],
            intercepts=excess[p * c : (p + 1) * c] / rows.n,
            square=squares[p] / rows.n if wanted[p] else None,
        )
        for p, k in enumerate(stack.sizes)
    ]


def fit(
    rows: OrderedRows,
    problems: Sequence[Problem],
    whitening: Whitening,
    effort: Effort,
    crew: Crew,
    *,
    tick: Callable[[int], None] | None = None,
) -> None:
    """Fit all problems in place; each ends within its tolerance, stalled, or out of passes.

    Parameters
    ----------
    rows: the training rows in the order's columns.
    problems: fits on prefixes of that order; their states are continued where they stand.
    whitening: of that order.
    effort: when to stop.
    crew: the threads.
    tick: called with the number of problems that retired.
    """
    waiting = deque(sorted(problems, key=lambda p: -p.k))
    live: list[Problem] = []
    started = {id(p): p.passes for p in problems}
    _start_together(rows, problems, whitening, crew)
    while waiting or live:
        while waiting and _fits(live, waiting[0].n_classes):
            live.append(waiting.popleft())
        live.sort(key=lambda p: -p.k)
        before = len(live)
        live = [p for p in live if not _finished(p, effort, started[id(p)])]
        if tick is not None and before > len(live):
            tick(before - len(live))
        if live and (len(live) == before or not waiting):
            _step(rows, live, whitening, crew)


def _step(rows: OrderedRows, live: Sequence[Problem], whitening: Whitening, crew: Crew) -> None:
    wanted = np.array([p.wants_square for p in live])
    found = evaluate(rows, Stack.of([p.trial() for p in live]), wanted, crew)
    crew.each(lambda i: live[i].take(found[i], whitening), len(live))


def _start_together(
    rows: OrderedRows, problems: Sequence[Problem], whitening: Whitening, crew: Crew
) -> None:
    """Give all problems that start from zero their first gradient from one narrow pass.

    At W = 0 every subset sees the same probabilities, so the gradient of the widest one holds
    those of all others as prefixes.
    """
    new = sorted((p for p in problems if p.starts_from_zero), key=lambda p: -p.k)
    if len(new) < 2:
        return
    first = evaluate(rows, Stack.of([new[0].trial()]), np.array([True]), crew)[0]

    def take(i: int) -> None:
        p = new[i]
        part = np.ascontiguousarray(first.weights[:, : p.k])
        p.take(Evaluation(first.loss, part, first.intercepts, first.square), whitening)

    crew.each(take, len(new))


def _fits(live: Sequence[Problem], n_classes: int) -> bool:
    if not live:
        return True
    return n_classes < _SINGLE_CLASSES and (len(live) + 1) * n_classes <= _MOST_COLUMNS


def _finished(problem: Problem, effort: Effort, passes_before: int) -> bool:
    if problem.stalled or problem.passes - passes_before >= effort.max_passes:
        return True
    return problem.passes > 0 and problem.relative_estimate() <= effort.tol


def classify(
    rows: OrderedRows, heads: Sequence[tuple[FloatArray, NDArray[np.float64]]], crew: Crew
) -> NDArray[np.int32]:
    """Predict the class of every row under every head, (n_heads, n) int32, heads in any order."""
    by_size = sorted(range(len(heads)), key=lambda i: -heads[i][0].shape[1])
    n_classes = heads[0][0].shape[0]
    out = np.empty((len(heads), rows.n), np.int32)
    at_once = max(1, _MOST_COLUMNS // n_classes)
    for first in range(0, len(by_size), at_once):
        group = by_size[first : first + at_once]
        stack = Stack.of([heads[i] for i in group])
        rank = np.array(group)
        done = 0
        for x, _ in rows.blocks():

            def work(_: int, a: int, b: int, at: Any = (x, stack, rank, done)) -> None:
                x, stack, rank, done = at
                own = np.empty((len(stack.sizes), b - a), np.int32)
                scratch = _scratch(stack.weights.shape[0], n_classes)
                nothing = np.zeros(len(stack.sizes), bool)
                passes.classify(x[a:b], stack.heads(nothing), stack.stairs, own, scratch)
                out[rank, done + a : done + b] = own

            crew.run(work, x.shape[0])
            done += x.shape[0]
    return out
