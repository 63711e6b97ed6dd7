"""Free memory of this process: of the machine, its control groups and its address-space limit."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# glibc's constant for the number of arenas; each reserves 64 MiB of address space.
_M_ARENA_MAX = -8
_ARENAS = 2
_ARROW_RESERVE = 1 << 30


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that one limit leaves free.

    Attributes
    ----------
    name: of the limit, in words.
    free: bytes left.
    is_address_space: whether it counts mapped and reserved memory, not only touched memory.
    cure: how to raise it.
    """

    name: str
    free: int
    is_address_space: bool
    cure: str


def memory_limits(
    proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> tuple[MemoryLimit, ...]:
    """List the limits that apply to this process; empty where the system reports none.

    Parameters
    ----------
    proc, groups: where Linux mounts the process and control group file systems.
    """
    limits = []
    address_limit = _address_limit()
    status = _read_kilobytes(proc / "self" / "status")
    if address_limit is not None and "VmSize" in status:
        free = address_limit - status["VmSize"]
        cure = "raise it (ulimit -v)"
        limits.append(MemoryLimit("the address-space limit", max(0, free), True, cure))
    machine = _read_kilobytes(proc / "meminfo").get("MemAvailable")
    if machine is not None:
        limits.append(
            MemoryLimit("the machine's memory", machine, False, "use a machine with more")
        )
    group = _group_free(proc, groups)
    if group is not None:
        limits.append(MemoryLimit("the control group's memory limit", group, False, "raise it"))
    return tuple(limits)


def limit_allocator_reserves() -> None:
    """Stop allocators from reserving unused address space, if address space is limited.

    Arrow's allocator reserves 1 GiB at its first allocation, glibc's 64 MiB for every thread.
    Arrow chooses its allocator when it is imported, so call this before importing it.
    """
    if _address_limit() is None or not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def pending_arrow_reserve() -> int:
    """Return the bytes that Arrow's allocator will reserve at its first allocation.

    0 if Arrow is not imported, has allocated already, or uses the system's allocator.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is None:
        return 0
    pool = arrow.default_memory_pool()
    return _ARROW_RESERVE if pool.backend_name == "mimalloc" and not pool.max_memory() else 0


def _address_limit() -> int | None:
    """Return RLIMIT_AS in bytes; None without a limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _group_free(proc: Path, groups: Path) -> int | None:
    """Return the free bytes of the tightest version 2 control group that holds this process."""
    lines = _read_lines(proc / "self" / "cgroup")
    own = next((line for line in lines if line.startswith("0::")), None)
    if own is None:
        return None
    folder = groups / own[3:].lstrip("/")
    free = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(groups):
            break
        limit, used = _read_integer(group / "memory.max"), _read_integer(group / "memory.current")
        if limit is not None and used is not None:
            # The kernel drops inactive file pages when memory is needed.
            stat = dict(line.split() for line in _read_lines(group / "memory.stat"))
            free.append(limit - used + int(stat.get("inactive_file", 0)))
    return max(0, min(free)) if free else None


def _read_kilobytes(path: Path) -> dict[str, int]:
    """Read lines of the form ``Name:  123 kB``; return name -> bytes."""
    fields = [line.split() for line in _read_lines(path)]
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if len(f) == 3 and f[2] == "kB"}


def _read_integer(path: Path) -> int | None:
    lines = _read_lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
