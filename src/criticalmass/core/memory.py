"""How much memory this process may still take: the machine's, its control group's, its limits."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# glibc's name for the number of arenas, each of which reserves 64 MiB of address space.
_M_ARENA_MAX = -8
_ARENAS = 2
_ARROW_RESERVE = 1 << 30


@dataclass(frozen=True)
class Room:
    """What one limit leaves.

    Attributes
    ----------
    name: of the limit, in words.
    free: bytes left.
    is_address_space: whether it counts what is mapped or reserved, not only what is touched.
    cure: how to have more of it.
    """

    name: str
    free: int
    is_address_space: bool
    cure: str


def rooms(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> tuple[Room, ...]:
    """List what each limit that there is leaves; empty where the system does not tell.

    Parameters
    ----------
    proc, groups: where Linux tells of processes and of control groups.
    """
    found = []
    limit = _address_limit()
    status = _kilobytes(proc / "self" / "status")
    if limit is not None and "VmSize" in status:
        free = limit - status["VmSize"]
        cure = "raise it (ulimit -v)"
        found.append(Room("the address-space limit", max(0, free), True, cure))
    machine = _kilobytes(proc / "meminfo").get("MemAvailable")
    if machine is not None:
        found.append(Room("the machine's memory", machine, False, "use a machine with more"))
    group = _group_free(proc, groups)
    if group is not None:
        found.append(Room("the control group's memory limit", group, False, "raise it"))
    return tuple(found)


def spare_address_space() -> None:
    """Where address space is limited, keep allocators from reserving what they do not use.

    Arrow's reserves a gibibyte at its first allocation, glibc's 64 MiB for every thread. Arrow
    chooses its allocator when it is imported, so this comes first.
    """
    if _address_limit() is None or not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def reserve_to_come() -> int:
    """Return the bytes that Arrow's allocator will reserve, if it was imported before us."""
    arrow = sys.modules.get("pyarrow")
    if arrow is None:
        return 0
    pool = arrow.default_memory_pool()
    return _ARROW_RESERVE if pool.backend_name == "mimalloc" and not pool.max_memory() else 0


def _address_limit() -> int | None:
    """Return RLIMIT_AS in bytes; None if there is none."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _group_free(proc: Path, groups: Path) -> int | None:
    """Return what the tightest control group of version 2 above this process leaves."""
    own = next((line for line in _lines(proc / "self" / "cgroup") if line.startswith("0::")), None)
    if own is None:
        return None
    folder = groups / own[3:].lstrip("/")
    free = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(groups):
            break
        most, used = _number(group / "memory.max"), _number(group / "memory.current")
        if most is not None and used is not None:
            # Pages of files are dropped when others need the room.
            told = dict(line.split() for line in _lines(group / "memory.stat"))
            free.append(most - used + int(told.get("inactive_file", 0)))
    return max(0, min(free)) if free else None


def _kilobytes(path: Path) -> dict[str, int]:
    """Read ``Name:  123 kB`` lines as bytes."""
    parts = [line.split() for line in _lines(path)]
    return {p[0].rstrip(":"): int(p[1]) * 1024 for p in parts if len(p) == 3 and p[2] == "kB"}


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
