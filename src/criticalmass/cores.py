"""How many of the machine's cores this process uses, and how to say so.

With the same number of threads the same inputs give the same bytes: sums are split between
threads. So the number can be fixed, for a whole process by the variable ``CRITICALMASS_THREADS``,
and for a while by `limited`, as workers of a cluster do for each task.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from criticalmass.errors import CriticalMassError

VARIABLE = "CRITICALMASS_THREADS"
# What libraries that are not loaded yet read when they are.
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def cores() -> int:
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
def limited(threads: int) -> Iterator[None]:
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
