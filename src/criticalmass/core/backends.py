"""Backends: a backend maps a function over tasks and yields the results as they complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

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
