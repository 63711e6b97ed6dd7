"""Where work runs: a backend maps a function over tasks and hands the results back as they come."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from criticalmass.errors import CriticalMassError, unknown_name

__all__ = ["BACKENDS", "Backend", "get_backend", "in_order"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class Backend(Protocol):
    """A place where tasks run."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in any order, each as soon as it is there.

        An exception of the function ends the iteration and reaches the caller. A backend of other
        processes pickles the function once and every task; both must be small.
        """
        ...


# Name -> module of this package and the class in it that makes the backend.
BACKENDS: dict[str, str] = {
    "local": "local:Local",
    "ray": "ray:Ray",
    "ray-rows": "ray_rows:RayRows",
}


def get_backend(backend: str | Backend) -> Backend:
    """Look a backend up; an object that is one already comes back as it is.

    Parameters
    ----------
    backend: ``"local"``; ``"ray"``, or with the address of a cluster ``"ray:10.0.0.1:6379"``;
        ``"ray-rows"``, the same with rows spread over the workers; or an object.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean, or an address of the local one.
    """
    if not isinstance(backend, str):
        return backend
    kind, _, address = backend.partition(":")
    make = maker(kind)
    if address and kind == "local":
        raise CriticalMassError(
            f"backend {backend!r}: local work has no address; use 'ray:ADDRESS'"
        )
    return make(address) if address else make()


def maker(name: str) -> Callable[..., Backend]:
    """Look up what makes a backend.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    module, _, made = BACKENDS[name].partition(":")
    found: Callable[..., Backend] = getattr(importlib.import_module(f"{__name__}.{module}"), made)
    return found


def in_order(
    backend: Backend, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[Result]:
    """Yield ``function(task)`` in the order of the tasks, whatever order they are done in.

    Parameters
    ----------
    backend: where they run. Results that come before their turn are held in memory.
    function, tasks: as `Backend.map` takes them.
    """
    early: dict[int, Result] = {}
    turn = 0
    for place, result in backend.map(_Numbered(function), enumerate(tasks)):
        early[place] = result
        while turn in early:
            yield early.pop(turn)
            turn += 1


@dataclass(frozen=True)
class _Numbered(Generic[Task, Result]):
    """A function whose tasks and results carry a number; a class, so that it can be pickled."""

    function: Callable[[Task], Result]

    def __call__(self, task: tuple[int, Task]) -> tuple[int, Result]:
        """Do one task."""
        return task[0], self.function(task[1])
