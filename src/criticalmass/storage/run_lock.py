"""The lock that lets one process write a run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from criticalmass.errors import RunError
from criticalmass.storage.files import name_file_in_errors, write_json

LOCK_NAME = "run.lock"
"""Empty, and never removed: processes that lock two files of one name do not exclude each other."""
WRITER_NAME = "writer.json"
"""Process and host of the writer, for the message of another one; it decides nothing."""


@contextlib.contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The system frees the lock of a process that has died.

    Raises
    ------
    RunError: if another process holds it.
    """
    # Here, because only a writer needs it and the command line starts sooner without it.
    from filelock import FileLock, Timeout

    # The lock of the object, not of the thread: a generator may be closed by another thread.
    lock = FileLock(folder / LOCK_NAME, timeout=0, thread_local=False)
    try:
        with name_file_in_errors(folder / LOCK_NAME):
            lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{folder} is being written by {_describe_writer(folder)}; wait for it or write "
            "elsewhere"
        ) from error
    try:
        write_json(folder / WRITER_NAME, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        (folder / WRITER_NAME).unlink(missing_ok=True)
        lock.release()


def _describe_writer(folder: Path) -> str:
    """Return the process and the host that hold the lock."""
    try:
        writer = json.loads((folder / WRITER_NAME).read_text(encoding="utf-8"))
        return f"process {int(writer['pid'])} on {writer['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        # It has locked the folder, and has not yet written its name.
        return "another process"


def visible_entries(path: Path) -> list[Path]:
    """Return the entries of a folder except those of its lock and of killed writers."""
    return [
        one
        for one in path.iterdir()
        if not one.name.startswith(".") and one.name not in (LOCK_NAME, WRITER_NAME)
    ]
