"""Work in this process, one task after the other: every task uses all cores by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Local:
    """Runs tasks in this process, in their order."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for every task; the next one starts when it is asked for."""
        for task in tasks:
            yield function(task)
