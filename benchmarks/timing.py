"""CPU and wall time, their medians, the load beside a row, and a description of the machine.

A busy machine slows a peer whose threads spin more than it slows us, so a row that was measured
beside other jobs is refused.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
Item = TypeVar("Item")
#: A row is refused where other jobs keep more than this share of each core busy.
LARGEST_LOAD = 0.3
_PATIENCE, _STEP = 240.0, 5.0
LIBRARIES = ("criticalmass", "numpy", "scipy", "numba", "scikit-learn", "torch")


@dataclass(frozen=True)
class Seconds:
    """CPU seconds of all threads of this process, and wall seconds."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        """Add two times."""
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def scaled(self, factor: float) -> Seconds:
        """Multiply both times by a factor."""
        return Seconds(self.cpu * factor, self.wall * factor)


def time_call(work: Callable[[], T]) -> tuple[T, Seconds]:
    """Call ``work``; return its result and the time it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def median(times: Sequence[Seconds]) -> Seconds:
    """Return the medians of CPU and of wall time over runs."""
    return Seconds(
        statistics.median(one.cpu for one in times),
        statistics.median(one.wall for one in times),
    )


def cpu_range(times: Sequence[Seconds]) -> str:
    """Return the range of CPU seconds over runs as text."""
    values = [one.cpu for one in times]
    return f"{min(values):.3g} to {max(values):.3g} s"


def add_load_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--even-if-busy``."""
    parser.add_argument(
        "--even-if-busy",
        action="store_true",
        help=f"print rows that were measured at a load above {LARGEST_LOAD} a core",
    )


def measure_row(
    work: Callable[[], T], *, even_if_busy: bool, patience: float = _PATIENCE
) -> tuple[T | None, str]:
    """Measure a row if nothing else runs.

    Waits until the load, a mean over a minute, has forgotten the row before. The load after a row
    has its own threads in it, at most one per core.

    Parameters
    ----------
    work: measures the row.
    even_if_busy: measure and keep it at any load, and do not wait.
    patience: seconds to wait for.

    Returns
    -------
    The row, or None if it is refused, and the loads, or the reason, as text.
    """
    limit = LARGEST_LOAD * core_count()
    end = time.monotonic() + (0.0 if even_if_busy else patience)
    before = os.getloadavg()[0]
    while before > limit and time.monotonic() < end:
        time.sleep(_STEP)
        before = os.getloadavg()[0]
    if before > limit and not even_if_busy:
        return None, _refuse(f"load {before:.1f} before the row")
    row = work()
    after = os.getloadavg()[0]
    text = f"load {before:.1f} before, {after:.1f} after"
    if after > limit + core_count() and not even_if_busy:
        return None, _refuse(text)
    return row, text


def _refuse(text: str) -> str:
    refusal = (
        f"refused: {text}, and other jobs may take {LARGEST_LOAD} of each of {core_count()} cores; "
        "stop them, or give --even-if-busy"
    )
    log(refusal)
    return refusal


def map_in_processes(
    function: Callable[[Item], T], items: Iterable[Item], workers: int, *, chunk: int
) -> list[T]:
    """Return ``function(item)`` for every item, computed in copies of this process.

    One worker is this process: a copy of a process with threads can wait for a lock for ever.

    Parameters
    ----------
    workers: number of processes.
    chunk: items that a process takes at once.
    """
    if workers == 1:
        return [function(item) for item in items]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(function, items, chunksize=chunk))


@contextmanager
def limit_to_one_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP and torch (if it is loaded) to one thread, so that no thread spins."""
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


def core_count() -> int:
    """Return the number of cores, which the solver uses by default."""
    return os.cpu_count() or 1


def describe_machine() -> str:
    """Describe the machine and the versions in one line."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    return (
        f"{_processor()}, {core_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def _processor() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if not cpu_info.is_file():
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in cpu_info.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    vectors = "AVX-512" if "avx512f" in fields.get("flags", "") else "no AVX-512"
    name = fields.get("model name", platform.machine())
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    return f"{name} (family {family}, model {model}, {vectors})"


def log(line: str) -> None:
    """Write a line with the time to stderr; stdout is for the table."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)
