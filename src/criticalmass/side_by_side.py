"""Steps that do not wait for each other share the cores; BLAS keeps to one thread in each.

Its own threads wait in a spin: on a machine that others use too, two of them took three times as
long as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

from criticalmass.cores import cores

A = TypeVar("A")
B = TypeVar("B")
#: Threads at most: each holds a result until those before it are taken.
MOST_THREADS = 8


def in_order(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield ``work(item)`` for every item in turn, computed on several threads.

    What is added up in this order does not depend on how many cores there are. At most one result
    more than threads is held.

    Parameters
    ----------
    work: must leave the interpreter's lock alone for most of its time, as numpy's products do.
    items: its arguments.
    """
    threads = min(MOST_THREADS, cores())
    waiting: deque[Future[B]] = deque()
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(threads, initializer=_one_blas_thread) as pool,
    ):
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _one_blas_thread() -> None:
    """Hold BLAS to one thread here too: one that uses OpenMP counts its threads per thread."""
    threadpool_limits(1, user_api="blas")
