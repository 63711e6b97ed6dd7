"""Where work runs: a backend maps a function over tasks and hands the results back as they come."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from criticalmass.errors import unknown_name

__all__ = ["BACKENDS", "Backend", "get_backend"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class Backend(Protocol):
    """A place where tasks run."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task, in any order, each as soon as it is there.

        An exception of the function ends the iteration and reaches the caller.
        """
        ...


# Name -> module of this package and the class in it that makes the backend.
BACKENDS: dict[str, str] = {"local": "local:Local"}


def get_backend(backend: str | Backend) -> Backend:
    """Look a backend up; an object that is one already comes back as it is.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean.
    """
    if not isinstance(backend, str):
        return backend
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    module, _, name = BACKENDS[backend].partition(":")
    made: Backend = getattr(importlib.import_module(f"{__name__}.{module}"), name)()
    return made
