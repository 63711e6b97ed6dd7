"""Files of a Run that are never half-written, and the lock that lets one process write."""

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
_TEMPORARY = ".tmp"


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock file of a folder; that of a process which has died is taken over.

    Raises
    ------
    RunError: if another writer is alive, or runs on another host where nobody can tell.
    """
    path = folder / LOCK_NAME
    with _one_at_a_time(folder):
        _refuse_if_held(path)
        write_json(path, _myself(), indent=2, durable=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _refuse_if_held(path: Path) -> None:
    """Raise if the lock belongs to a living process."""
    try:
        owner = json.loads(path.read_text())
        pid, host, started = int(owner["pid"]), str(owner["host"]), owner.get("started")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is no lock of this package; if nothing writes here, delete it"
        ) from error
    if host != socket.gethostname():
        raise RunError(
            f"{path.parent} is being written by process {pid} on {host}; wait for it, "
            f"or delete {path} if it has died"
        )
    if is_alive(pid) and started in (None, _started(pid)):
        raise RunError(
            f"{path.parent} is being written by process {pid}; wait for it or write elsewhere"
        )


def _myself() -> dict[str, object]:
    """Return what a lock says of its owner."""
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": _started(pid)}


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where the system does not say.

    Process numbers come again, soon so in containers: the number alone does not tell
    whether the writer lives.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces; the start time is the 20th field after it.
    return stat.rpartition(")")[2].split()[19]


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time look at the lock and take it, where the system can do so."""
    try:
        import fcntl
    except ImportError:  # Windows: a folder cannot be locked, the moment without guard is short
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def order_file(selector: str, layer: str, seed: int) -> str:
    """Place of an order inside the folder; layers whose names are no file names get a digest."""
    if not re.fullmatch(r"[a-z0-9-]+", selector):
        raise RunError(f"selector {selector!r} cannot name a file; use a-z, 0-9 and -")
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", layer)
    if plain != layer:
        plain = f"{plain}-{hashlib.sha256(layer.encode()).hexdigest()[:8]}"
    return f"orders/{plain}--{selector}--{seed}.npy"
