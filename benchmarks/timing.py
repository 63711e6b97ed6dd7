"""CPU and wall seconds, their medians, and what machine they were measured on."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
LIBRARIES = ("criticalmass", "numpy", "scipy", "numba", "scikit-learn", "torch")


@dataclass(frozen=True)
class Seconds:
    """Time spent: CPU seconds of all threads of this process, and seconds on the clock."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        """Add two spans."""
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def times(self, factor: float) -> Seconds:
        """Scale both."""
        return Seconds(self.cpu * factor, self.wall * factor)


def timed(work: Callable[[], T]) -> tuple[T, Seconds]:
    """Return what ``work`` returns and the time it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return found, Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def median(spans: Sequence[Seconds]) -> Seconds:
    """Return the medians over runs, of CPU and of wall time."""
    return Seconds(
        statistics.median(span.cpu for span in spans),
        statistics.median(span.wall for span in spans),
    )


def spread(spans: Sequence[Seconds]) -> str:
    """Word the range of CPU seconds over runs."""
    values = [span.cpu for span in spans]
    return f"{min(values):.3g} to {max(values):.3g} s"


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS, OpenMP and torch (if it is loaded) to one thread: no thread waits in a spin."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    if torch is not None:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def cores() -> int:
    """Return the number of cores that the solver uses by default."""
    return os.cpu_count() or 1


def machine() -> str:
    """Describe the machine and the versions in one line."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return (
        f"{_processor()}, {cores()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {', '.join(found)}"
    )


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in listing.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    wide = "AVX-512" if "avx512f" in fields.get("flags", "") else "no AVX-512"
    name = fields.get("model name", platform.machine())
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    return f"{name} (family {family}, model {model}, {wide})"


def tell(line: str) -> None:
    """Say on stderr what is going on; stdout is for the table."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)
