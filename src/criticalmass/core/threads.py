"""Thread counts, and parallel maps in threads that keep the order of the tasks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from math import ceil
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from criticalmass.core.memory import group_files
from criticalmass.errors import CriticalMassError

THREADS_VARIABLE = "CRITICALMASS_THREADS"

# Libraries read these variables when they are loaded.
_LIBRARY_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

#: Upper limit of the threads of `map_in_threads`: each may hold one result.
MAX_THREADS = 8

Task = TypeVar("Task")

Result = TypeVar("Result")


def thread_count() -> int:
    """Return the number of threads to use: ``CRITICALMASS_THREADS``, or the available cores.

    The available cores are those of this process, and at most the CPU quota of its container.

    Raises
    ------
    CriticalMassError: ``CRITICALMASS_THREADS`` is not a whole number of at least 1.
    """
    setting = os.environ.get(THREADS_VARIABLE)
    if setting:
        if not setting.strip().isdecimal() or int(setting) < 1:
            raise CriticalMassError(
                f"{THREADS_VARIABLE}={setting!r}; give a whole number of at least 1"
            )
        return int(setting)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = (text.split() for (text,) in group_files(["cpu.max"]))
    # Microseconds of CPU time in each period, and the period; "max" without a quota.
    limits = [ceil(int(q[0]) / int(q[1])) for q in quotas if q and q[0].isdecimal()]
    return min([cores, *limits])


def limit_libraries(threads: int, *, api: str | None = "blas") -> Any:
    """Limit the threads of BLAS, from this call until the end of a ``with`` block around it.

    The same as ``threadpoolctl.threadpool_limits``, but the process's list of libraries, which
    takes 1 to 10 ms to read, is read again only after a module was imported.

    Parameters
    ----------
    threads: at least 1. A BLAS with threads of its own is limited in the whole process, one that
        uses OpenMP in the calling thread.
    api: ``"blas"``, or None for OpenMP's other users too.

    Returns
    -------
    A context manager; its ``restore_original_limits`` ends the limit without a block.
    """
    return _libraries(len(sys.modules)).limit(limits=threads, user_api=api)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """Return the libraries with thread pools that are loaded with this number of modules."""
    return ThreadpoolController()


@contextlib.contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Use ``threads`` threads, in our own loops and in BLAS, until the end of the block.

    Parameters
    ----------
    threads: at least 1. The limit applies to the whole process, not only to the calling thread.

    Raises
    ------
    CriticalMassError: ``threads`` is below 1.
    """
    if threads < 1:
        raise CriticalMassError(f"threads={threads}; give a whole number of at least 1")
    # threadpoolctl limits loaded libraries only, and scipy has its own BLAS.
    import scipy.linalg.blas  # noqa: F401

    names = (THREADS_VARIABLE, *_LIBRARY_VARIABLES)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        with limit_libraries(threads, api=None):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def map_ahead(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    ahead: int,
    initializer: Callable[[], None] | None = None,
) -> Generator[Result, None, None]:
    """Yield ``function(task)`` for every task, in the tasks' order, computed ahead in threads.

    Results and the first error do not depend on timing. Closing the generator, or an exception
    in it, cancels the tasks that have not started and waits for those that have.

    Parameters
    ----------
    function: runs in several threads at once; useful if it releases the interpreter's lock.
    tasks: read one by one, in the consumer's thread.
    workers: number of threads.
    ahead: maximum number of results that are ready or in progress while the consumer holds one.
    initializer: runs once in each thread when it starts.

    Raises
    ------
    Whatever ``function`` raises, in the position of its task.
    """
    remaining = iter(tasks)
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead", initializer=initializer) as pool:
        futures: deque[Future[Result]] = deque()
        try:
            futures.extend(pool.submit(function, task) for task in islice(remaining, ahead))
            while futures:
                result = futures.popleft().result()
                futures.extend(pool.submit(function, task) for task in islice(remaining, 1))
                yield result
        finally:
            for future in futures:
                future.cancel()


def map_in_threads(
    function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Generator[Result, None, None]:
    """Yield ``function(task)`` for every task in order, on up to `MAX_THREADS` threads.

    BLAS runs on one thread in each of them. A sum over the results is the same for any number of
    cores, because their order is. At most one result more than there are threads is held.

    Parameters
    ----------
    function: releases the interpreter's lock for most of its time, as numpy's products do.
    tasks: its arguments.
    """
    threads = min(MAX_THREADS, thread_count())
    with limit_libraries(1):
        yield from map_ahead(
            function, tasks, workers=threads, ahead=threads, initializer=_limit_blas
        )


def _limit_blas() -> None:
    """Limit BLAS to one thread in this thread: a BLAS that uses OpenMP counts per thread."""
    limit_libraries(1)
