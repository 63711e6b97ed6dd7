"""Downloaded data: their folder, and the commands that fetch them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from criticalmass.errors import DataUnavailableError


def cache_folder() -> Path:
    """Return the folder for downloaded data: ``CRITICALMASS_CACHE``, or the user's cache."""
    setting = os.environ.get("CRITICALMASS_CACHE")
    if setting:
        return Path(setting)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("criticalmass"))


def make_cache_folder(folder: Path) -> None:
    """Create a folder of the cache.

    Raises
    ------
    DataUnavailableError: it cannot be written; the user's home may be missing or read-only.
    """
    try:
        if not folder.is_absolute() and "~" in folder.parts:
            raise FileNotFoundError(0, "there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataUnavailableError(
            f"downloads cannot be stored in {str(folder)!r} ({error.strerror}); set "
            "CRITICALMASS_CACHE to a folder that can be written"
        ) from error


def run_fetch(
    command: Sequence[str],
    folder: Path,
    *,
    shown: str,
    timeout: int,
    find_reason: Callable[[Sequence[str]], str],
) -> None:
    """Run a command that fetches data.

    Parameters
    ----------
    command: program and arguments.
    folder: where it runs.
    shown: the command in messages, as a user would write it, after what it is for.
    timeout: seconds after which it is given up.
    find_reason: returns the reason of a failure from the lines of stderr, at least one.

    Raises
    ------
    DataUnavailableError: it fails, or takes too long.
    """
    try:
        process = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise DataUnavailableError(f"{shown} did not end within {timeout} s") from error
    if process.returncode != 0:
        lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
        raise DataUnavailableError(f"{shown} failed: {find_reason(lines or ['no message'])}")
