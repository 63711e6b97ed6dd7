"""Demo data from Debian packages, without root: fetched into the user's cache and unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from criticalmass.core.progress import say
from criticalmass.errors import DataUnavailableError

FETCH_SECONDS = 240
_APT_OPTIONS = ("-o", "Acquire::http::Timeout=15", "-o", "Acquire::Retries=1")


def cache_folder() -> Path:
    """Return the folder for downloaded data; ``CRITICALMASS_CACHE`` overrides the system's."""
    chosen = os.environ.get("CRITICALMASS_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("criticalmass"))


def find_or_fetch(package: str, folder: str, needed: tuple[str, ...]) -> Path:
    """Find the files of a Debian package, fetching it into the cache if need be.

    Parameters
    ----------
    package: the Debian package.
    folder: where it keeps the files, relative to the root, e.g. ``usr/share/wordnet``.
    needed: the files that must be there.

    Returns
    -------
    The folder that holds them: the system's own, or the cache's.

    Raises
    ------
    DataUnavailableError: neither installed nor cached, and the package cannot be fetched.
    """
    cached = cache_folder() / "debian" / package
    for root in (Path("/"), cached):
        if all((root / folder / name).is_file() for name in needed):
            return root / folder
    _fetch(package, cached)
    absent = [name for name in needed if not (cached / folder / name).is_file()]
    if absent:
        raise DataUnavailableError(f"Debian package {package!r} lacks {absent[0]!r}")
    return cached / folder


def _fetch(package: str, target: Path) -> None:
    """Download a Debian package and unpack it to ``target``, which appears whole or not at all."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataUnavailableError(f"{package!r} cannot be fetched: there is no {tool} here")
    say(f"fetching Debian package {package}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{package}.") as scratch:
        work = Path(scratch)
        _download(package, work)
        archives = sorted(work.glob("*.deb"))
        if not archives:
            raise DataUnavailableError(f"apt-get download left no file for {package!r}")
        tree = work / "tree"
        _run(["dpkg-deb", "-x", str(archives[0]), str(tree)], work)
        if target.exists():
            # Left by a package that lacked the needed files; the new tree takes its place.
            os.replace(target, work / "old")
        os.replace(tree, target)


def _download(package: str, work: Path) -> None:
    command = ["apt-get", *_APT_OPTIONS, "download", package]
    try:
        _run(command, work)
    except DataUnavailableError:
        # Fresh machines have no package lists yet; only root may fetch them.
        if os.name != "posix" or os.geteuid() != 0:
            raise
        _run(["apt-get", *_APT_OPTIONS, "update"], work)
        _run(command, work)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise DataUnavailableError(
            f"{' '.join(command)!r} did not end within {FETCH_SECONDS} s"
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        reason = (lines or done.stderr.splitlines() or ["no message"])[0]
        raise DataUnavailableError(f"{' '.join(command)!r} failed: {reason}")
