"""Thread counts, ordered parallel maps and read-ahead."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from threadpoolctl import threadpool_limits

from criticalmass.errors import CriticalMassError

VARIABLE = "CRITICALMASS_THREADS"

# What libraries that are not loaded yet read when they are.
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def thread_count() -> int:
    """Return the number of threads to use: as told, or as many as cores that may be used.

    Raises
    ------
    CriticalMassError: if ``CRITICALMASS_THREADS`` is set to what is no number of threads.
    """
    told = os.environ.get(VARIABLE)
    if told:
        if not told.strip().isdecimal() or int(told) < 1:
            raise CriticalMassError(f"{VARIABLE}={told!r}; give a whole number of at least 1")
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Use so many threads, in our own loops and in BLAS, until the end of the block.

    Parameters
    ----------
    threads: at least 1. It holds for the whole process, not for the calling thread alone.

    Raises
    ------
    CriticalMassError: for fewer.
    """
    if threads < 1:
        raise CriticalMassError(f"threads={threads}; give a whole number of at least 1")
    # Libraries are limited only once they are loaded: scipy brings a BLAS of its own.
    import scipy.linalg.blas  # noqa: F401
    from threadpoolctl import threadpool_limits

    names = (VARIABLE, *_LIBRARIES)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        with threadpool_limits(threads):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


Task = TypeVar("Task")

Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Yield ``function(task)`` for every task, in the tasks' order, computed ahead in threads.

    What is yielded does not depend on the timing: neither results nor the first error do. Closing
    the generator (or an exception in it) drops what was not begun and waits for what was.

    Parameters
    ----------
    function: run in several threads at once; worth it where it releases the interpreter's lock.
    tasks: drawn one by one, in the consumer's thread.
    workers: threads.
    ahead: most results that are ready or in the making while the consumer is busy with another.

    Raises
    ------
    Whatever ``function`` raises, at the place of its task.
    """
    remaining = iter(tasks)
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            waiting.extend(pool.submit(function, task) for task in islice(remaining, ahead))
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(pool.submit(function, task) for task in islice(remaining, 1))
                yield found
        finally:
            for future in waiting:
                future.cancel()


A = TypeVar("A")

B = TypeVar("B")

#: Threads at most: each holds a result until those before it are taken.
MOST_THREADS = 8


def map_side_by_side(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield ``work(item)`` for every item in turn, computed on several threads.

    What is added up in this order does not depend on how many cores there are. At most one result
    more than threads is held.

    Parameters
    ----------
    work: must leave the interpreter's lock alone for most of its time, as numpy's products do.
    items: its arguments.
    """
    threads = min(MOST_THREADS, thread_count())
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
