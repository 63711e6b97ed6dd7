"""Functions that workers of Ray load; this module imports little, so that they start quickly."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError


def square(x: int) -> int:
    return x * x


def worker_settings(_: int) -> tuple[int, str, str]:
    return thread_count(), os.environ["OMP_NUM_THREADS"], str(Path.cwd())


def refuse(x: int) -> int:
    raise CriticalMassError(f"{x} is refused")


def divide_by_zero(x: int) -> int:
    return x // 0


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def die_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark.name


class Loaded:
    """A function that leaves the number of each process that loads it in a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.mark,)

    def __call__(self, x: int) -> int:
        return -x


def load(mark: Path) -> Loaded:
    if not mark.parent.exists():
        raise CriticalMassError(f"{mark.name} has no folder")
    with mark.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return Loaded(mark)
