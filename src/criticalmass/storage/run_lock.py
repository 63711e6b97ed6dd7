"""The lock that lets one process write a run, and the file names of orders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from criticalmass.errors import RunError
from criticalmass.storage.files import is_alive, write_json

LOCK_NAME = "lock"


@contextlib.contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Hold the lock file of a folder; the lock of a process that has died is replaced.

    Raises
    ------
    RunError: if another writer is alive, or was started on another host.
    """
    path = folder / LOCK_NAME
    with _lock_folder(folder):
        _check_free(path)
        write_json(path, _lock_owner(), indent=2, durable=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _check_free(path: Path) -> None:
    """Raise RunError if the lock belongs to a process that may be alive."""
    try:
        owner = json.loads(path.read_text())
        pid, host, started = int(owner["pid"]), str(owner["host"]), owner.get("started")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is not a lock of this package; if nothing writes here, delete it"
        ) from error
    if host != socket.gethostname():
        raise RunError(
            f"{path.parent} is being written by process {pid} on {host}; wait for it, "
            f"or delete {path} if it has died"
        )
    if is_alive(pid) and started in (None, _start_time(pid)):
        raise RunError(
            f"{path.parent} is being written by process {pid}; wait for it or write elsewhere"
        )


def _lock_owner() -> dict[str, object]:
    """Return the content of a lock of this process."""
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": _start_time(pid)}


def _start_time(pid: int) -> str | None:
    """Return when a process started, in ticks of the kernel; None if the system does not tell.

    Process numbers are reused, in containers soon, so the number alone does not show whether the
    writer is alive.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may contain spaces; the start time is the 20th field after it.
    return stat.rpartition(")")[2].split()[19]


@contextlib.contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Let one process at a time read and write the lock file, if the system can lock folders."""
    try:
        import fcntl
    except ImportError:  # Windows cannot lock a folder; the moment without a lock is short.
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def order_path(selector: str, layer: str, seed: int) -> str:
    """Return the path of an order inside the folder.

    A layer whose name is not a file name gets a digest in it.
    """
    if not re.fullmatch(r"[a-z0-9-]+", selector):
        raise RunError(f"selector {selector!r} cannot name a file; use a-z, 0-9 and -")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", layer)
    if name != layer:
        name = f"{name}-{hashlib.sha256(layer.encode()).hexdigest()[:8]}"
    return f"orders/{name}--{selector}--{seed}.npy"
