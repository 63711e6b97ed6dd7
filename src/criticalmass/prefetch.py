"""Work that is done ahead of whoever takes its results, in threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
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
