"""Free memory of this process: of the machine, its control groups and its address-space limit."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# glibc's constant for the number of arenas; each reserves 64 MiB of address space.
_M_ARENA_MAX = -8
_ARENAS = 2
_ARROW_RESERVE = 1 << 30
# Where Linux mounts the process and control group file systems.
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


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


def memory_limits(proc: Path = PROC, groups: Path = GROUPS) -> tuple[MemoryLimit, ...]:
    """List the limits that apply to this process.

    Parameters
    ----------
    proc, groups: where Linux mounts the process and control group file systems.
    """
    import psutil

    machine = psutil.virtual_memory().available
    limits = [MemoryLimit("the machine's memory", machine, False, "use a machine with more")]
    address_limit = _address_limit()
    if address_limit is not None:
        free = max(0, address_limit - psutil.Process().memory_info().vms)
        cure = "raise it (ulimit -v)"
        limits.insert(0, MemoryLimit("the address-space limit", free, True, cure))
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


def group_files(
    names: Sequence[str], proc: Path = PROC, groups: Path = GROUPS
) -> Iterator[tuple[str, ...]]:
    """Yield the texts of some files of each version 2 control group that holds this process.

    Parameters
    ----------
    names: of the files, e.g. ``memory.max``; the text of a missing file is empty.
    proc, groups: as of `memory_limits`.
    """
    own = re.search(r"^0::/(.*)$", _read_text(proc / "self" / "cgroup"), re.MULTILINE)
    folder = groups / own[1] if own else Path()
    while folder.is_relative_to(groups):
        yield tuple(_read_text(folder / name) for name in names)
        folder = folder.parent


def _group_free(proc: Path, groups: Path) -> int | None:
    """Return the free bytes of the tightest control group."""
    free = []
    names = ("memory.max", "memory.current", "memory.stat")
    for limit, used, stat in group_files(names, proc, groups):
        if limit.isdecimal() and used.isdecimal():
            # The kernel drops inactive file pages when memory is needed.
            pages = re.search(r"inactive_file (\d+)", stat)
            free.append(int(limit) - int(used) + int(pages[1] if pages else 0))
    return max(0, min(free)) if free else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
