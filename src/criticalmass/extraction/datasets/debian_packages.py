"""Demo data from Debian packages: downloaded to the user's cache and unpacked without root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from criticalmass.core.progress import write_line
from criticalmass.errors import DataUnavailableError
from criticalmass.extraction.cache import cache_folder, make_cache_folder, run_fetch

FETCH_TIMEOUT = 240
"""Seconds after which a download is given up."""

_APT_OPTIONS = ("-o", "Acquire::http::Timeout=15", "-o", "Acquire::Retries=1")


def find_or_fetch(package: str, folder: str, required: tuple[str, ...]) -> Path:
    """Find the files of a Debian package; download it to the cache if they are missing.

    Parameters
    ----------
    package: the Debian package.
    folder: folder of its files, relative to the root, e.g. ``usr/share/wordnet``.
    required: files that must exist in that folder.

    Returns
    -------
    The folder that holds the files, on the system or in the cache.

    Raises
    ------
    DataUnavailableError: neither installed nor cached, and the package cannot be downloaded.
    """
    cached = cache_folder() / "debian" / package
    for root in (Path("/"), cached):
        if all((root / folder / name).is_file() for name in required):
            return root / folder
    _fetch(package, cached)
    missing = [name for name in required if not (cached / folder / name).is_file()]
    if missing:
        raise DataUnavailableError(f"Debian package {package!r} has no {missing[0]!r}")
    return cached / folder


def _fetch(package: str, target: Path) -> None:
    """Download a Debian package and unpack it to ``target``, which is replaced as a whole."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataUnavailableError(f"{package!r} cannot be fetched: there is no {tool} here")
    make_cache_folder(target.parent)
    write_line(f"fetching Debian package {package}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{package}.") as scratch:
        work = Path(scratch)
        _download(package, work)
        archives = sorted(work.glob("*.deb"))
        if not archives:
            raise DataUnavailableError(f"apt-get download left no file for {package!r}")
        tree = work / "tree"
        _run(["dpkg-deb", "-x", str(archives[0]), str(tree)], work)
        if target.exists():
            # An earlier version of the package without the required files; replace it.
            os.replace(target, work / "old")
        os.replace(tree, target)


def _download(package: str, folder: Path) -> None:
    command = ["apt-get", *_APT_OPTIONS, "download", package]
    try:
        _run(command, folder)
    except DataUnavailableError:
        # A fresh machine has no package lists yet, and only root may fetch them.
        if os.name != "posix" or os.geteuid() != 0:
            raise
        _run(["apt-get", *_APT_OPTIONS, "update"], folder)
        _run(command, folder)


def _run(command: list[str], folder: Path) -> None:
    shown = repr(" ".join(command))
    run_fetch(command, folder, shown=shown, timeout=FETCH_TIMEOUT, find_reason=_reason)


def _reason(lines: Sequence[str]) -> str:
    """Return the first error of apt, or the first line."""
    return next((line for line in lines if line.startswith("E:")), lines[0])
