"""Where work runs: a backend maps a function over tasks and hands the results back as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from criticalmass.errors import CriticalMassError, unknown_name

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


def _ray(*address: Any, **options: Any) -> Backend:
    """Import Ray only when it is asked for."""
    from criticalmass.core.ray_backend import Ray

    return Ray(*address, **options)


def get_backend(
    backend: str | Backend, known: Mapping[str, Callable[..., Backend]] | None = None
) -> Backend:
    """Look up a backend; an object that is one already comes back as it is.

    Parameters
    ----------
    backend: ``"local"``; ``"ray"``, or with the address of a cluster ``"ray:10.0.0.1:6379"``; or
        an object.
    known: name -> what makes the backend; `BACKENDS` by default.

    Raises
    ------
    CriticalMassError: for an unknown name, with a did-you-mean, or an address of ``"local"``.
    """
    if not isinstance(backend, str):
        return backend
    makers = BACKENDS if known is None else known
    kind, _, address = backend.partition(":")
    if kind not in makers:
        raise unknown_name("backend", kind, makers)
    if address and kind == "local":
        raise CriticalMassError(
            f"backend {backend!r}: local work has no address; use 'ray:ADDRESS'"
        )
    return makers[kind](address) if address else makers[kind]()


def map_in_order(
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


@dataclass(frozen=True)
class Local:
    """Runs tasks in this process, in their order."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task; the next one starts when it is asked for."""
        for task in tasks:
            yield function(task)


#: Name -> what makes the backend.
BACKENDS: Mapping[str, Callable[..., Backend]] = {"local": Local, "ray": _ray}
