"""Backends: a backend maps a function over tasks and yields the results as they complete."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from criticalmass.core.compute import Compute
from criticalmass.errors import CriticalMassError, unknown_name

Task = TypeVar("Task")

Result = TypeVar("Result")


class Backend(Protocol):
    """Runs tasks."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in any order, each as soon as it completes.

        An exception of the function ends the iteration and reaches the caller. A backend that
        uses other processes pickles the function once and every task; both must be small.
        """
        ...


@runtime_checkable
class WorkerBackend(Protocol):
    """A backend whose workers keep a function, and what it has read, for several maps."""

    def workers(
        self, function: Callable[[Task], Result]
    ) -> contextlib.AbstractContextManager[Callable[[Iterable[Task]], Iterator[Result]]]:
        """Start workers; see `start_workers`."""
        ...


@runtime_checkable
class RowBackend(Protocol):
    """A backend that runs tasks in this process and has workers that hold their rows."""

    def hold_rows(self, compute: Compute) -> contextlib.AbstractContextManager[Compute]:
        """Start workers; see `hold_rows`."""
        ...


@contextlib.contextmanager
def start_workers(
    backend: Backend, function: Callable[[Task], Result]
) -> Iterator[Callable[[Iterable[Task]], Iterator[Result]]]:
    """Give a function to the workers of a backend, which keep it until the end of the block.

    What a worker has read for one task it has for the next, also for tasks of another call.

    Yields
    ------
    The function of tasks that yields their results, as `Backend.map` does.
    """
    if isinstance(backend, WorkerBackend):
        with backend.workers(function) as run_tasks:
            yield run_tasks
    else:
        yield partial(backend.map, function)


@contextlib.contextmanager
def hold_rows(backend: Backend, compute: Compute) -> Iterator[Compute]:
    """Let the workers of a backend hold the rows until the end of the block, if it has such.

    Yields
    ------
    The means of a computation: ``compute``, or the same with the workers as executor.
    """
    if isinstance(backend, RowBackend):
        with backend.hold_rows(compute) as with_workers:
            yield with_workers
    else:
        yield compute


def _make_ray(*address: Any, **options: Any) -> Backend:
    """Make a Ray backend; Ray is imported here, not with this module."""
    from criticalmass.core.ray_backend import Ray

    return Ray(*address, **options)


def get_backend(
    backend: str | Backend, registry: Mapping[str, Callable[..., Backend]] | None = None
) -> Backend:
    """Return the backend of a name; return a backend object unchanged.

    Parameters
    ----------
    backend: ``"local"``; ``"ray"``, or with the address of a cluster ``"ray:10.0.0.1:6379"``; or
        a backend object.
    registry: name -> function that makes the backend; `BACKENDS` by default.

    Raises
    ------
    CriticalMassError: an unknown name (the message suggests a similar one), or ``"local"`` with
        an address.
    """
    if not isinstance(backend, str):
        return backend
    factories = BACKENDS if registry is None else registry
    name, _, address = backend.partition(":")
    if name not in factories:
        raise unknown_name("backend", name, factories)
    if address and name == "local":
        raise CriticalMassError(
            f"backend {backend!r}: local work has no address; use 'ray:ADDRESS'"
        )
    return factories[name](address) if address else factories[name]()


def map_in_order(
    backend: Backend, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[Result]:
    """Yield ``function(task)`` in the order of the tasks, whatever order they complete in.

    Parameters
    ----------
    backend: runs the tasks. Results that complete early are held in memory.
    function, tasks: see `Backend.map`.
    """
    early: dict[int, Result] = {}
    next_index = 0
    for index, result in backend.map(_Indexed(function), enumerate(tasks)):
        early[index] = result
        while next_index in early:
            yield early.pop(next_index)
            next_index += 1


@dataclass(frozen=True)
class _Indexed(Generic[Task, Result]):
    """A function of (index, task) that returns (index, result); a class so that it pickles."""

    function: Callable[[Task], Result]

    def __call__(self, task: tuple[int, Task]) -> tuple[int, Result]:
        return task[0], self.function(task[1])


@dataclass(frozen=True)
class Local:
    """Runs tasks one after the other in this process."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in order; each runs when it is requested."""
        for task in tasks:
            yield function(task)


#: Name -> function that makes the backend.
BACKENDS: Mapping[str, Callable[..., Backend]] = {"local": Local, "ray": _make_ray}
